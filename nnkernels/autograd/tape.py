"""Reverse-mode automatic differentiation on a tape that is written while the program runs.

A ``Tensor`` (tensor.py) is an array that remembers how it was made. Each op applied to tensors that need
gradients leaves a ``Node``: the op, its inputs, its outputs. Walking back, each node comes after all nodes
that use its output, and what arrives is added up (the chain rule over a graph). Ordinary Python decides what
runs: loops and conditionals of the model need no special form.

A node's share is computed by its op's kernels, or, where the gradients themselves are to be differentiated,
by the op's ``gradient``, which is written in ops and so leaves nodes of its own.

Baydin et al., Automatic Differentiation in Machine Learning: a Survey, JMLR 18, 2018.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import count
from typing import TYPE_CHECKING, Any

from nnkernels.autograd.operators import Operators
from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import linear
from nnkernels.ops.op import Body, Op
from nnkernels.ops.shape import VIEWS

if TYPE_CHECKING:
    from nnkernels.autograd.tensor import Tensor

_grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
_numbers = count(1)


@contextmanager
def recording(on: bool) -> Iterator[None]:
    """Record the ops of the ``with`` block, or none of them."""
    token = _grad_enabled.set(on)
    try:
        yield
    finally:
        _grad_enabled.reset(token)


def no_grad() -> AbstractContextManager[None]:
    """Record nothing inside the ``with`` block: for evaluation and for changing parameters by hand."""
    return recording(False)


def recording_is_on() -> bool:
    """Return whether ops are being recorded."""
    return _grad_enabled.get()


def now() -> int:
    """Return the next time on the clock that numbers the nodes."""
    return next(_numbers)


class Node:
    """One recorded call: what backward needs, until it has run."""

    __slots__ = ("arrays", "attributes", "body", "inputs", "needs", "number", "op", "outputs", "version")

    def __init__(
        self,
        op: Op,
        body: Body,
        inputs: tuple[Any, ...],
        arrays: tuple[Array | None, ...],
        attributes: Mapping[str, Any],
        outputs: tuple[Array, ...],
        needs: tuple[bool, ...],
    ) -> None:
        self.op = op
        self.body = body
        self.inputs = inputs  # as given: Tensors, arrays, None
        self.arrays: tuple[Array | None, ...] | None = arrays  # None once freed
        self.attributes = attributes
        self.outputs = outputs
        self.needs = needs
        self.number = next(_numbers)  # a node is younger than those that made its inputs
        self.version = inputs[0].version if op.name in VIEWS else [0]  # of the memory of its result

    def parents(self) -> list["Tensor"]:
        """Return the input tensors that need a gradient."""
        return [tensor for tensor, need in zip(self.inputs, self.needs) if need]

    def pull_back(self, dy: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        """Return one gradient per input for the gradient ``dy`` of the output, a kernel array."""
        assert self.body.backward is not None
        return self.body.backward(dy, self.outputs, self.arrays, needs, **self.attributes)

    def pull_back_in_ops(self, dy: "Tensor", needs: tuple[bool, ...]) -> tuple[Any, ...]:
        """Return the same as Tensors, computed by ops."""
        gradient = self.op.gradient
        assert gradient is not None
        return gradient(self.op, dy, self.outputs, self.inputs, needs, **self.attributes)

    def changed(self) -> bool:
        """Return whether an array that backward reads has been written into since."""
        if self.op.gradient is linear:
            return False  # it reads shapes only
        n = self.number
        if self.version[0] > n:
            return True
        return any(isinstance(t, Operators) and t.version[0] > n for t in self.inputs)

    def shapes(self) -> str:
        """Return the shapes of the inputs, for messages."""
        return ", ".join(str(t.shape) for t in self.inputs if t is not None)

    def free(self) -> None:
        """Let go of everything; the node stays as a mark that backward has passed."""
        self.inputs, self.arrays, self.outputs, self.needs = (), None, (), ()


def run(
    op: Op, inputs: tuple[Any, ...], attributes: Mapping[str, Any]
) -> tuple[tuple[Array, ...], Node | None]:
    """Run ``op`` on the arrays of ``inputs``; return its outputs, and the record where one is needed."""
    if op.inplace:
        raise TypeError(f"{op.name} overwrites its inputs: give it arrays (tensor.data), not Tensors")
    arrays = op.prepare([t._data if isinstance(t, Operators) else t for t in inputs], attributes)
    body = op.body_for(arrays)
    outputs = body.forward(*arrays, **attributes)
    if _grad_enabled.get():
        needs = [isinstance(t, Operators) and t.requires_grad for t in inputs]
        for i in op.constants:
            if i < len(needs):  # weights may be left out
                needs[i] = False
        if True in needs:
            return outputs, Node(op, body, inputs, arrays, attributes, outputs, tuple(needs))
    return outputs, None


# --- backward ---


def walk(
    root: "Tensor",
    dy: Any,
    arithmetic: Any,
    wanted: Sequence["Tensor"] | None,
    retain_graph: bool,
    apart: bool = False,
) -> list[Any]:
    """Carry the cotangent ``dy`` of ``root`` back through the graph.

    To all leaves, where it is added to ``grad``; or, given tensors ``wanted``, along the ways to them alone:
    then their gradients are returned, None for a tensor that root does not depend on. With ``apart`` these
    are independent variables: how one was made from another does not count. ``arithmetic`` says what
    gradients are and how a node passes them on (``Kernels`` and ``Ops`` in tensor.py).
    """
    goals = {id(t) for t in wanted or ()}
    order = topological_order(root, goals if apart else set())
    demand_whole(order)
    if wanted is not None:
        order = leading_to(order, goals)
    demand_unchanged(order)
    on_the_way = {id(t) for t in order}
    gradients: dict[int, Any] = {id(root): dy}
    found: dict[int, Any] = {}
    lent = {id(root)}  # tensors whose gradient lies in memory that others may use
    order.reverse()
    while order:
        tensor = order.pop()  # so that its array can be freed when backward has passed it
        key, node = id(tensor), tensor.node
        dy = gradients.pop(key, None)
        if dy is None:  # all that was made from it has gradient zero
            continue
        if key in goals or (wanted is None and node is None):
            found[key] = arithmetic.copy(dy) if key in lent else dy
            if wanted is None:
                arithmetic.accumulate(tensor, found.pop(key))
        if node is None or (apart and key in goals):
            continue
        needs = node.needs
        if wanted is not None:
            needs = tuple([need and id(t) in on_the_way for t, need in zip(node.inputs, needs)])
            if True not in needs:
                continue
        dy = arithmetic.ready(dy)
        for parent, dx in zip(node.inputs, arithmetic.pull_back(node, dy, needs)):
            if dx is None:
                continue
            key = id(parent)
            if key in gradients:
                # A fresh sum, never +=: what is there may be a view, or on its way to another node.
                gradients[key] = arithmetic.add(gradients[key], dx)
                lent.discard(key)
            else:
                gradients[key] = dx
                if (parent.node is None or key in goals) and arithmetic.share(dx, dy):
                    lent.add(key)
        if not retain_graph:
            node.free()
    return [found.get(id(t)) for t in wanted or ()]


def demand_whole(order: list["Tensor"]) -> None:
    """Raise RuntimeError where a part of the graph has been freed: nobody knows where it led."""
    for tensor in order:
        node = tensor.node
        if node is not None and node.arrays is None:
            raise RuntimeError(
                f"backward: the graph was freed by an earlier backward() (at op {node.op.name}); "
                "run the forward pass again, or call the first backward(retain_graph=True)"
            )


def demand_unchanged(order: list["Tensor"]) -> None:
    """Raise RuntimeError where an array that backward reads is no longer what it was."""
    for tensor in order:
        node = tensor.node
        if node is not None and node.changed():
            raise RuntimeError(
                f"backward: an array that {node.op.name} saved (its inputs {node.shapes()}) was changed in "
                "place after it was used, as by an optimizer's step or x[...] = value; run the forward pass "
                "again, or change a copy"
            )


def topological_order(root: "Tensor", ends: Set[int] = frozenset()) -> list["Tensor"]:
    """Return the tensors that lead to ``root``, each after all that were made from it; leaves come last.

    What leads to the tensors with the identities ``ends`` is left out.

    With any other order, a tensor used twice could pass its gradient on before all of it has arrived. Since
    every tensor is younger than those it was made from, from the youngest to the oldest is such an order.
    """
    found, seen = [root], {id(root)}
    for tensor in found:  # which grows meanwhile
        if tensor.node is not None and id(tensor) not in ends:
            for parent in tensor.node.parents():
                if id(parent) not in seen:
                    seen.add(id(parent))
                    found.append(parent)
    found.sort(key=number_of, reverse=True)
    return found


def number_of(tensor: "Tensor") -> int:
    """Return the number of the call that made the tensor, 0 for a leaf."""
    return 0 if tensor.node is None else tensor.node.number


def leading_to(order: list["Tensor"], goals: set[int]) -> list["Tensor"]:
    """Return those of ``order`` that are goals or were made from goals."""
    useful = set(goals)
    for tensor in reversed(order):
        if tensor.node is not None and any(id(parent) in useful for parent in tensor.node.parents()):
            useful.add(id(tensor))
    return [tensor for tensor in order if id(tensor) in useful]
