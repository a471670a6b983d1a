"""Reverse-mode automatic differentiation on a tape that is written while the program runs.

A ``Tensor`` (tensor.py) is an array that remembers how it was made. Each op applied to tensors that need
gradients leaves a ``Node``: the op, its inputs, its outputs. Walking back, each node comes after all nodes
that use its output, and what arrives is added up (the chain rule over a graph). Ordinary Python decides what
runs: loops and conditionals of the model need no special form.

A node's share is computed by its op's kernels, or, where the gradients themselves are to be differentiated,
by the op's ``gradient``, which is written in ops and so leaves nodes of its own.

Baydin et al., Automatic Differentiation in Machine Learning: a Survey, JMLR 18, 2018.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import count
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from nnkernels.autograd.operators import Operators
from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import linear
from nnkernels.ops.op import Body, Op
from nnkernels.ops.shape import VIEWS

if TYPE_CHECKING:
    from nnkernels.autograd.tensor import Tensor

_grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
_numbers = count(1)
_latest_change = [0]  # on the clock that numbers the nodes


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


def time_of_change() -> int:
    """Return the same, as the time at which an array was written into."""
    _latest_change[0] = now()
    return _latest_change[0]


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

    def pull_back(self, dy: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
        """Return one gradient per input for the gradient ``dy`` of the output, a kernel array."""
        return self.body.backward(dy, self.outputs, self.arrays, needs, **self.attributes)  # type: ignore[misc]

    def pull_back_in_ops(self, dy: "Tensor", needs: tuple[bool, ...]) -> tuple[Any, ...]:
        """Return the same as Tensors, computed by ops."""
        gradient = self.op.gradient
        assert gradient is not None
        return gradient(self.op, dy, self.outputs, self.inputs, needs, **self.attributes)

    def free(self) -> None:
        """Let go of everything; the node stays as a mark that backward has passed."""
        self.inputs, self.arrays, self.outputs, self.needs = (), None, (), ()


# --- backward ---


class Arithmetic(NamedTuple):
    """What gradients are, arrays or Tensors: how they are added, and passed on by a node.

    ``own(dx, dy)`` is dx in memory of its own: it may lie in that of dy, which others use. ``ready(dy)`` is
    dy in the form that ``pull_back`` wants.
    """

    add: Callable[[Any, Any], Any]
    own: Callable[[Any, Any], Any]
    ready: Callable[[Any], Any]
    pull_back: Callable[[Node, Any, tuple[bool, ...]], tuple[Any, ...]]
    accumulate: Callable[["Tensor", Any, Any], None]


def walk(
    root: "Tensor",
    dy: Any,
    arithmetic: "Arithmetic",
    wanted: Sequence["Tensor"] | None,
    retain_graph: bool,
    apart: bool = False,
) -> list[Any]:
    """Carry the cotangent ``dy`` of ``root`` back through the graph.

    To all leaves, where it is added to ``grad``; or, given tensors ``wanted``, along the ways to them alone:
    then their gradients are returned, None for a tensor that root does not depend on. With ``apart`` these
    are independent variables: how one was made from another does not count.
    """
    goals = {id(t) for t in wanted or ()}
    nodes = nodes_to(root, goals if apart else ())
    on_the_way = None if wanted is None else leading_to(nodes, goals)
    if nodes and _latest_change[0] > nodes[-1].number:
        demand_unchanged(nodes if on_the_way is None else on_the_way)
    add, own, ready, pull_back, accumulate = arithmetic
    gradients: dict[Node | None, Any] = {root.node: dy}  # of nodes' results, as far as they have arrived
    found: dict[int, Any] = {}
    if id(root) in goals:
        found[id(root)] = own(dy, dy)
    elif wanted is None and root.node is None:
        accumulate(root, dy, dy)
    nodes.reverse()
    while nodes:  # whose arrays can be freed as soon as backward has passed them
        node = nodes.pop()
        if node not in gradients:  # all that was made from it has gradient zero
            continue
        dy, needs = ready(gradients.pop(node)), node.needs
        if on_the_way is not None:
            if node not in on_the_way:
                continue
            pairs = zip(node.inputs, needs)
            needs = tuple([need and (id(t) in goals or t.node in on_the_way) for t, need in pairs])
        for t, dx in zip(node.inputs, pull_back(node, dy, needs)):
            if dx is None:
                continue
            below = t.node
            if goals and id(t) in goals:
                key = id(t)
                found[key] = add(found[key], dx) if key in found else own(dx, dy)
                if apart:
                    continue
            if below is None:
                if on_the_way is None:
                    accumulate(t, dx, dy)
            elif below in gradients:
                # A fresh sum, never +=: what is there may be a view, or on its way to another node.
                gradients[below] = add(gradients[below], dx)
            else:
                gradients[below] = dx
        if not retain_graph:
            node.free()
    return [found.get(id(t)) for t in wanted or ()]


def demand_unchanged(nodes: Iterable[Node]) -> None:
    """Raise RuntimeError where an array that backward reads has been written into since it was used."""
    for node in nodes:
        latest = node.version[0]
        for t in node.inputs:
            if isinstance(t, Operators) and t.version[0] > latest:
                latest = t.version[0]
        if latest > node.number and node.op.gradient is not linear:  # which reads shapes only
            shapes = ", ".join(str(t.shape) for t in node.inputs if t is not None)
            raise RuntimeError(
                f"backward: an array that {node.op.name} saved (its inputs {shapes}) was changed in place "
                "after it was used, as by an optimizer's step or x[...] = value; run the forward pass again, "
                "or change a copy"
            )


def nodes_to(root: "Tensor", ends: Collection[int] = ()) -> list[Node]:
    """Return the nodes that lead to ``root``, each after all nodes that use its result.

    With any other order, a tensor used twice could pass its gradient on before all of it has arrived. Since
    every node is younger than those that made its inputs, from the youngest to the oldest is such an order.
    What leads to tensors with the identities ``ends`` is left out. Raises RuntimeError where a part of the
    graph has been freed: nobody knows where it led.
    """
    if root.node is None or id(root) in ends:
        return []
    found, seen = [root.node], {root.node}
    for node in found:  # which grows meanwhile
        if node.arrays is None:
            raise RuntimeError(
                f"backward: the graph was freed by an earlier backward() (at op {node.op.name}); "
                "run the forward pass again, or call the first backward(retain_graph=True)"
            )
        for t, need in zip(node.inputs, node.needs):
            below = t.node if need else None
            if below is not None and below not in seen and (not ends or id(t) not in ends):
                seen.add(below)
                found.append(below)
    if len(found) > 1:
        found.sort(key=attrgetter("number"), reverse=True)
    return found


def leading_to(nodes: list[Node], goals: Set[int]) -> set[Node]:
    """Return those of ``nodes``, ordered as ``nodes_to`` does, whose results depend on goals."""
    useful: set[Node] = set()
    for node in reversed(nodes):
        for t, need in zip(node.inputs, node.needs):
            if need and (id(t) in goals or t.node in useful):
                useful.add(node)
                break
    return useful


def topological_order(root: "Tensor") -> list["Tensor"]:
    """Return the tensors that lead to ``root``, each after all that were made from it; leaves come last."""
    found = {id(root): root}
    for node in nodes_to(root):
        found.update((id(t), t) for t, need in zip(node.inputs, node.needs) if need)
    return sorted(found.values(), key=number_of, reverse=True)


def number_of(tensor: "Tensor") -> int:
    """Return the number of the call that made the tensor, 0 for a leaf."""
    return 0 if tensor.node is None else tensor.node.number
