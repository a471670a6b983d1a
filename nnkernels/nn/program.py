"""A network as a list of calls: what its forward pass did with one input, to be changed and run again.

Recorded by running the network once. So a program is for inputs of one shape, and Python's loops and
conditionals are gone: a network whose way depends on the values of its input has no program.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor, tree
from nnkernels.autograd.tape import Node, no_grad, nodes_to, recording
from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import move, side
from nnkernels.machine.memory import Array, as_kernel_array
from nnkernels.nn.module import Module
from nnkernels.ops.op import Op

ALIKE = 1e-3  # relative to the largest number: far above rounding, far below another way taken


@dataclass(frozen=True)
class Value:
    """What is computed: the program's input (0), or the result of call ``number`` (from 1)."""

    number: int

    def __repr__(self) -> str:
        return f"v{self.number}" if self.number else "x"


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
    """Calls in the order in which they run, for an input of a ``shape``.

    ``outputs`` is a Value, or tuples, lists and dicts of Values.
    """

    shape: tuple[int, ...]
    calls: tuple[Call, ...]
    outputs: Any

    def shape_of(self, v: Value) -> tuple[int, ...]:
        """Return the shape of a Value."""
        return self.calls[v.number - 1].shape if v.number else self.shape

    @cached_property
    def dead_after(self) -> list[list[Value]]:
        """For each call, the Values that nothing reads any more."""
        last = {Value(0): 0}
        for number, call in enumerate(self.calls):
            last.update(dict.fromkeys((*call.values(), Value(number + 1)), number))
        for v in self.results():
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
        return Program(self.shape, tuple(calls), tree.mapped(place.__getitem__, self.outputs))

    def __call__(self, x: Array) -> Any:
        """Return what the network returns for x. Memory is given back as soon as nothing will read it."""
        values = {Value(0): x}
        for number, (call, dead) in enumerate(zip(self.calls, self.dead_after), 1):
            inputs = [values[t] if isinstance(t, Value) else t for t in call.inputs]
            values[Value(number)] = call(*inputs)
            del inputs
            for v in dead:
                del values[v]
        return tree.mapped(lambda v: Tensor(values[v]), self.outputs)


def program_of(model: Module, x: Array) -> Program:
    """Return what ``model`` does, in evaluation, with inputs of x's shape and dtype.

    Tried on a second input, x's numbers in reverse order. The model's modes are left as they were. Raises
    ValueError where the model returns anything but Tensors computed from x, and where the second input shows
    that its way depends on values.
    """
    name = type(model).__name__
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        program = recorded(name, model, x)
        other = move(np.ascontiguousarray(move(x, "cpu").ravel()[::-1].reshape(x.shape)), side(x))
        with no_grad():
            wanted = tree.leaves(model(other), name)
    finally:
        for module, mode in modes:
            module.training = mode
    for (_, got), (_, right) in zip(tree.leaves(program(other), name), wanted):
        if not alike(move(array_of(got), "cpu"), move(array_of(right), "cpu")):
            raise ValueError(
                f"{name}: what forward does depends on the numbers it is given (it reads them, or keeps "
                "places of maxima), and a list of calls cannot stand for that"
            )
    return program


def alike(a: Array, b: Array) -> bool:
    """Return whether two results differ by no more than rounding."""
    if a.shape != b.shape:
        return False
    largest = float(np.abs(b).max(initial=0))
    return bool(np.allclose(a, b, rtol=0, atol=ALIKE * largest, equal_nan=True))


def recorded(name: str, model: Module, x: Array) -> Program:
    """Return the calls of one forward pass."""
    given: Any = Tensor(x, requires_grad=True) if x.dtype.kind == "f" else x
    with recording(True):
        y = model(given)
    nodes: set[Node] = set()
    for _, result in tree.leaves(y, name):
        if not isinstance(result, Tensor) or result.node is None:
            raise ValueError(
                f"{name}: forward must return Tensors computed from its input, got {type(result).__name__}"
            )
        nodes.update(nodes_to(result))
    numbers = {node: i for i, node in enumerate(sorted(nodes, key=lambda node: node.number), 1)}

    def place(t: Any) -> Any:
        if t is given:
            return Value(0)
        if isinstance(t, Tensor):
            return t.data if t.node is None else Value(numbers[t.node])
        return t

    calls = [
        Call(node.op, tuple(map(place, node.inputs)), dict(node.attributes), node.outputs[0].shape)
        for node in numbers
    ]
    return Program(x.shape, tuple(calls), tree.mapped(lambda t: Value(numbers[t.node]), y))
