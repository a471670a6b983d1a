"""A network as a list of calls: what its forward pass did with one input, to be changed and run again.

Recorded by running the network once. So a program is for inputs of one shape, and Python's loops and
conditionals are gone: a network whose way depends on the values of its input has no program.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor, tree
from nnkernels.autograd.tape import Node, no_grad, nodes_to, recording
from nnkernels.autograd.tensor import array_of, as_operand
from nnkernels.machine.arrays import move, side
from nnkernels.machine.memory import Array, as_kernel_array
from nnkernels.nn.module import Module
from nnkernels.ops.op import Op
from nnkernels.ops.validate import is_array

ALIKE = 1e-3  # relative to the largest number: far above rounding, far below another way taken


@dataclass(frozen=True)
class Value:
    """An input of the program (0; further ones are -1, -2 ...), or the result of a call (from 1)."""

    number: int

    def __repr__(self) -> str:
        return f"v{self.number}" if self.number > 0 else f"x{-self.number or ''}"


@dataclass(frozen=True)
class Call:
    """One op with its inputs, which are Values, constant arrays or None; ``shape`` is its result's.

    ``prepared`` is the tuned forward pass as a function of the first input, what constants allow done before.
    """

    op: Op
    inputs: tuple[Any, ...]
    attributes: dict[str, Any]
    shape: tuple[int, ...]
    prepared: Callable[[Array], Array] | None = None

    def __call__(self, *inputs: Any) -> Any:
        """Run the op on arrays."""
        if self.prepared is None or self.op.body_for(inputs) is not self.op.tuned:
            return self.op(*inputs, **self.attributes)
        return self.prepared(as_kernel_array(inputs[0]))

    @property
    def activation(self) -> str | None:
        """What the op applies to its result itself."""
        return self.attributes.get("activation")

    def values(self) -> list[Value]:
        """Return the Values among the inputs."""
        return [t for t in self.inputs if isinstance(t, Value)]


@dataclass(frozen=True)
class Program:
    """Calls in the order in which they run, for an input of a ``shape``, and ``others`` where there are more.

    ``outputs`` is a Value, or tuples, lists and dicts of Values.
    """

    shape: tuple[int, ...]
    calls: tuple[Call, ...]
    outputs: Any
    others: tuple[tuple[int, ...], ...] = ()

    def inputs(self) -> dict[Value, tuple[int, ...]]:
        """Return the inputs and their shapes."""
        return {Value(-i): shape for i, shape in enumerate((self.shape, *self.others))}

    def shape_of(self, v: Value) -> tuple[int, ...]:
        """Return the shape of a Value."""
        return self.calls[v.number - 1].shape if v.number > 0 else self.inputs()[v]

    @cached_property
    def dead_after(self) -> list[list[Value]]:
        """For each call, the Values that nothing reads any more."""
        last = dict.fromkeys(self.inputs(), 0)
        for number, call in enumerate(self.calls):
            last.update(dict.fromkeys((*call.values(), Value(number + 1)), number))
        for v in set(self.results()):
            del last[v]
        return [[v for v, at in last.items() if at == number] for number in range(len(self.calls))]

    def results(self) -> list[Value]:
        """Return the Values among the outputs."""
        return [v for _, v in tree.leaves(self.outputs, "")]

    def uses(self) -> Counter[Value]:
        """Return how often each Value is read; being returned counts."""
        return Counter([*(v for call in self.calls for v in call.values()), *self.results()])

    def moved(self, calls: Sequence[Call], place: Mapping[Value, Value]) -> "Program":
        """Return a program of other calls, where the Values returned are at the places given."""
        return replace(self, calls=tuple(calls), outputs=tree.mapped(place.__getitem__, self.outputs))

    def __call__(self, *arrays: Array) -> Any:
        """Return what the network returns for its inputs. Memory is given back once nothing will read it."""
        values = dict(zip(self.inputs(), arrays))
        for number, (call, dead) in enumerate(zip(self.calls, self.dead_after), 1):
            inputs = [values[t] if isinstance(t, Value) else t for t in call.inputs]
            values[Value(number)] = call(*inputs)
            del inputs
            for v in dead:
                del values[v]
        return tree.mapped(lambda v: Tensor(values[v]), self.outputs)


def program_of(model: Module, *arguments: Any) -> Program:
    """Return what ``model`` does, in evaluation, with inputs of the shapes and dtypes of the ``arguments``.

    The arrays among these are inputs; the others, such as a sparse matrix, are part of the program. Tried on
    second inputs, the same numbers in reverse order. The model's modes are left as they were. Raises
    ValueError where the model returns anything but Tensors computed from its inputs, and where the second
    inputs show that its way depends on values.
    """
    name = type(model).__name__
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        program = recorded(name, model, *arguments)
        others = [backwards(a) if is_array(a) else a for a in arguments]
        with no_grad():
            wanted = tree.leaves(model(*map(as_operand, others)), name)
    finally:
        for module, mode in modes:
            module.training = mode
    for (_, got), (_, right) in zip(tree.leaves(program(*filter(is_array, others)), name), wanted):
        if not alike(move(array_of(got), "cpu"), move(array_of(right), "cpu")):
            raise ValueError(
                f"{name}: what forward does depends on the numbers it is given (it reads them, or keeps "
                "places of maxima), and a list of calls cannot stand for that"
            )
    return program


def backwards(x: Array) -> Array:
    """Return the numbers of x in reverse order, in x's shape."""
    y: Array = move(np.ascontiguousarray(move(x, "cpu").ravel()[::-1].reshape(x.shape)), side(x))
    return y


def alike(a: Array, b: Array) -> bool:
    """Return whether two results differ by no more than rounding."""
    if a.shape != b.shape:
        return False
    largest = float(np.abs(b).max(initial=0))
    return bool(np.allclose(a, b, rtol=0, atol=ALIKE * largest, equal_nan=True))


def recorded(name: str, model: Module, *arguments: Any) -> Program:
    """Return the calls of one forward pass."""
    given = [Tensor(a, requires_grad=True) if is_array(a) and a.dtype.kind == "f" else a for a in arguments]
    inputs = [t for t, a in zip(given, arguments) if is_array(a)]
    with recording(True):
        y = model(*given)
    nodes: set[Node] = set()
    for _, result in tree.leaves(y, name):
        if not isinstance(result, Tensor) or result.node is None:
            raise ValueError(
                f"{name}: forward must return Tensors computed from its input, got {type(result).__name__}"
            )
        nodes.update(nodes_to(result))
    numbers = {node: i for i, node in enumerate(sorted(nodes, key=lambda node: node.number), 1)}

    def place(t: Any) -> Any:
        for i, one in enumerate(inputs):
            if t is one:
                return Value(-i)
        if isinstance(t, Tensor):
            return t.data if t.node is None else Value(numbers[t.node])
        return t

    calls = [
        Call(node.op, tuple(map(place, node.inputs)), dict(node.attributes), node.outputs[0].shape)
        for node in numbers
    ]
    outputs = tree.mapped(lambda t: Value(numbers[t.node]), y)
    first, *others = (t.shape for t in inputs)
    return Program(first, tuple(calls), outputs, tuple(others))
