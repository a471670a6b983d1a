"""Where a NaN or an infinity came from: every op looked at as it runs, forward and backward.

While no block of ``detect_anomaly`` runs anywhere, nothing of this file is called. A block puts functions
that look in the place of a few that every op passes through (``SEAMS``), for all threads; they ask a
ContextVar whether their own thread is in a block. The last block to end puts the plain ones back.
"""

import inspect
import linecache
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from nnkernels.autograd import dual
from nnkernels.autograd.tape import Node
from nnkernels.autograd.tensor import KERNELS, OPS, Tensor
from nnkernels.machine.arrays import move
from nnkernels.machine.memory import Array
from nnkernels.ops.op import CPU_BODIES, Body, Op

PACKAGE = str(Path(__file__).parent.parent) + os.sep
LAYERS = PACKAGE + "nn" + os.sep

_infinities: ContextVar[bool | None] = ContextVar("infinities", default=None)  # None outside of blocks
_behind: ContextVar[tuple[str, ...]] = ContextVar("behind", default=())  # what ops run for, in words
_blocks, _lock = 0, Lock()


@contextmanager
def detect_anomaly(infinities: bool = True) -> Iterator[None]:
    """Raise FloatingPointError at the first NaN or infinity that an op makes inside the ``with`` block.

    The message names the op and its body, the output or the gradient, how many elements and which first,
    whether what the op was given was finite, and the line that called it; of a backward pass the line of the
    forward call, too. Every op is looked at, on arrays, Tensors, Duals (tangents, too) and GPU arrays (a copy
    to the host, and a wait, for each), in optimizers' steps and under ``create_graph=True``; what NumPy
    computes is not. Each result is read once more: for finding a fault, not for every day.

    A NaN is always reported. Where it was in an argument before, the message says in which: it came with the
    data, with the weights, or from NumPy. An infinity is reported where everything that the op was given is
    finite; one made from infinities, such as scores with a mask of -inf, is let through. With
    ``infinities=False`` only NaN is reported, for programs that compute log(0) on purpose.

    Blocks may be nested: the innermost decides. A thread that is started inside is not watched; it needs a
    block of its own. Of a call made before the block, backward is looked at, but the line of that call is not
    known. When backward raises, leaves that it had reached have their gradients, and the graph is partly
    freed: ``zero_grad()`` and a new forward pass start afresh. When an optimizer's step raises, it has
    overwritten the weights. Raises TypeError for infinities that is no bool.

    >>> from nnkernels import tensor
    >>> with detect_anomaly():
    ...     y = tensor([0.0, 4.0], requires_grad=True).sqrt().sum()
    ...     y.backward()
    Traceback (most recent call last):
    FloatingPointError: detect_anomaly: the backward pass of sqrt (tuned body) made an infinity: 1 of 2
    elements of the gradient of argument 0 (x), shape (2,), first at [0]; all that it was given is finite
      forward called at ...
    """
    if not isinstance(infinities, bool):
        raise TypeError(f"detect_anomaly: infinities must be a bool, got {type(infinities).__name__}")
    install(1)
    token = _infinities.set(infinities)
    try:
        yield
    finally:
        _infinities.reset(token)
        install(-1)


def install(blocks: int) -> None:
    """Count the blocks that run: the first puts the looking functions in place, the last takes them away."""
    global _blocks
    with _lock:
        _blocks += blocks
        for owner, name, plain, looking in SEAMS:
            setattr(owner, name, looking if _blocks else plain)


# --- what is not finite ---


class Fault(NamedTuple):
    """What is not finite in an array: "NaN" where there is any, else "infinity"."""

    kind: str
    elements: int
    size: int
    shape: tuple[int, ...]
    first: tuple[int, ...]

    @property
    def share(self) -> str:
        """How much of the array it is."""
        return f"{self.elements} of {self.size} element{'s' if self.size != 1 else ''}"

    @property
    def place(self) -> str:
        """Where it begins; nothing for a single number."""
        return f", first at [{', '.join(map(str, self.first))}]" if self.first else ""


class Made(NamedTuple):
    """Something that a call makes: what it is called, the array, whether it is only kept for backward."""

    name: str
    array: Any
    kept: bool = False


class Given(NamedTuple):
    """Something that a call reads: what it is called, and what is not finite in it."""

    name: str
    fault: Fault | None


def fault_in(a: Any) -> Fault | None:
    """Return what is not finite in an array, None for what is finite, whole numbers or missing."""
    if a is None or a.dtype.kind != "f":
        return None
    a = np.asarray(move(a, "cpu"))
    if np.isfinite(a).all():
        return None
    found = np.isnan(a)
    kind = "NaN" if found.any() else "infinity"
    if kind == "infinity":
        found = np.isinf(a)
    first = np.unravel_index(int(found.argmax()), found.shape)
    return Fault(kind, int(found.sum()), a.size, a.shape, tuple(map(int, first)))


def among(attributes: Mapping[str, Any]) -> Iterator[Given]:
    """Yield the attributes that are infinite, or hold what is."""
    for name, value in attributes.items():
        numbers = value if isinstance(value, (tuple, list)) else (value,)
        if any(isinstance(v, (float, np.floating)) and math.isinf(v) for v in numbers):
            yield Given(f"the attribute {name}", Fault("infinity", 1, 1, (), ()))


def look(call: str, made: Iterable[Made], given: Iterable[Given], places: Sequence[object]) -> None:
    """Raise FloatingPointError for the first of what was ``made`` that should not be so.

    ``given`` is gone through only where something is not finite. What an op keeps may be infinite: attention
    keeps the logarithm of a sum over no keys where a mask hides all of them.
    """
    faults = [(m, fault) for m in made if (fault := fault_in(m.array)) is not None]
    if not faults:
        return
    bad = [g for g in given if g.fault is not None]
    for m, fault in faults:
        if fault.kind == "NaN" or (_infinities.get() and not bad and not m.kept):
            lines = [in_words(call, m.name, fault, bad), *map(str, places)]
            raise FloatingPointError("\n".join([*lines, *_behind.get()]))


# --- in words ---


def in_words(call: str, name: str, fault: Fault, bad: Sequence[Given]) -> str:
    """Return what happened, in one line."""
    kind = "a NaN" if fault.kind == "NaN" else "an infinity"
    shape = f", shape {fault.shape}" if fault.shape else ""
    came = [(g.name, g.fault) for g in bad if g.fault is not None]
    told = "; ".join(f"{given} came with {f.kind}: {f.share}{f.place}" for given, f in came)
    verb = "made"
    if any(f.kind == fault.kind for _, f in came):
        verb = "passed on"
        told += " (no op in the block made it: look at the data, the weights, and what NumPy computed)"
    what = f"{fault.share} of {name}{shape}{fault.place}"
    return f"detect_anomaly: {call} {verb} {kind}: {what}; {told or 'all that it was given is finite'}"


class Place(NamedTuple):
    """The user's line that made a call, and the functions and layers it was made in, outermost first."""

    what: str
    file: str
    line: int
    inside: tuple[str, ...]

    def __str__(self) -> str:
        inside = f", in {' > '.join(self.inside)}" if self.inside else ""
        text = linecache.getline(self.file, self.line).strip()
        return f"  {self.what} {self.file}:{self.line}{inside}" + (f"\n    {text}" if text else "")


def place_of_call(what: str) -> Place:
    """Return the innermost line outside of nnkernels, with the layers of nnkernels that it went through."""
    frame, layers = sys._getframe(1), list[str]()
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        code = frame.f_code
        if code.co_name == "forward" and "self" in code.co_varnames and code.co_filename.startswith(LAYERS):
            layers.append(f"{type(frame.f_locals['self']).__name__}.forward")
        frame = frame.f_back
    name = frame.f_code.co_qualname
    outer = [] if name == "<module>" else [name]
    return Place(what, frame.f_code.co_filename, frame.f_lineno, (*outer, *reversed(layers)))


def argument(op: Op, i: int) -> str:
    """Return what an argument is called."""
    parameters = list(inspect.signature(op.check).parameters.values())
    named = i < len(parameters) and parameters[i].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    return f"argument {i} ({parameters[i].name})" if named else f"argument {i}"


def output(op: Op, i: int) -> str:
    """Return what an output is called: steps overwrite arguments, others keep some for backward."""
    if op.inplace:
        return f"{argument(op, op.inplace[i])}, which it changes"
    return "its result" if i == 0 else f"output {i}, which it keeps for backward"


def given_to(op: Op, arrays: Sequence[Any]) -> Iterator[Given]:
    """Yield a call's arguments."""
    for i, a in enumerate(arrays):
        yield Given(argument(op, i), fault_in(a))


def called(op: Op, body: Body) -> str:
    """Return an op with its body."""
    name = body.name if isinstance(body, Watched) else body_name(op, body)
    return f"{op.name} ({name} body)" if name else op.name


def body_name(op: Op, body: Body) -> str:
    """Return which of the op's bodies this is; "" for one made for a single call, as checkpoint's."""
    return next((name for name in (*CPU_BODIES, "cuda") if getattr(op, name) is body), "")


def forward_of(node: Node) -> str:
    """Return where a node's forward call was made."""
    if not isinstance(node.body, Watched):
        return "  forward called before the block, or on another thread: its line is not known"
    return str(node.body.place._replace(what="forward called at"))


@contextmanager
def running_for(*lines: str) -> Iterator[None]:
    """Add lines to what is reported inside the ``with`` block: what ops are running for."""
    token = _behind.set((*lines, *_behind.get()))
    try:
        yield
    finally:
        _behind.reset(token)


# --- the functions that look ---


class Watched(Body):
    """A body whose forward pass looks at what it makes: which one, and where the call was made."""

    name: str
    place: Place


def body_for(op: Op, arrays: tuple[Any, ...]) -> Body:
    """Return the body for prepared arrays, watched."""
    body = PLAIN_BODY_FOR(op, arrays)
    if _infinities.get() is None:
        return body
    place = place_of_call("called at")

    def forward(*arrays: Any, **attributes: Any) -> tuple[Any, ...]:
        # What a step overwrites is looked at before it is gone.
        before = {i: fault_in(arrays[i]) for i in op.inplace if i < len(arrays)}
        outputs = body.forward(*arrays, **attributes)

        def given() -> Iterator[Given]:
            for i, a in enumerate(arrays):
                yield Given(argument(op, i), before[i] if i in before else fault_in(a))
            yield from among(attributes)

        made = (Made(output(op, i), y, i > 0 and not op.inplace) for i, y in enumerate(outputs))
        look(called(op, body), made, given(), [place])
        return outputs

    watched = Watched(forward, body.backward)
    watched.name, watched.place = body_name(op, body), place
    return watched


def pull_back(node: Node, dy: Array, needs: tuple[bool, ...]) -> tuple[Array | None, ...]:
    """Return a node's gradients, looked at."""
    gradients = KERNELS.pull_back(node, dy, needs)
    if _infinities.get() is None:
        return gradients
    op, arrays = node.op, node.arrays or ()

    def given() -> Iterator[Given]:
        yield Given("the gradient that arrived", fault_in(dy))
        yield from given_to(op, arrays)
        yield Given("its result", fault_in(node.outputs[0]))
        yield from among(node.attributes)

    made = (Made(f"the gradient of {argument(op, i)}", dx) for i, dx in enumerate(gradients))
    places = [forward_of(node), place_of_call("backward called at")]
    look(f"the backward pass of {called(op, node.body)}", made, given(), places)
    return gradients


def pull_back_in_ops(node: Node, dy: Tensor, needs: tuple[bool, ...]) -> tuple[Any, ...]:
    """Return a node's gradients by ops, which are looked at one by one and know for whom they run."""
    if _infinities.get() is None:
        return OPS.pull_back(node, dy, needs)
    with running_for(f"  to compute the gradients of {called(node.op, node.body)}", forward_of(node)):
        return OPS.pull_back(node, dy, needs)


def add(a: Array, b: Array) -> Array:
    """Return the sum of two gradients of one value, looked at."""
    total: Array = KERNELS.add(a, b)
    look_at_sum(total, a, b)
    return total


def accumulate(leaf: Tensor, dx: Array, dy: Array) -> None:
    """Add dx to the leaf's gradient, looked at."""
    before = leaf.grad
    KERNELS.accumulate(leaf, dx, dy)
    if before is not None and leaf.grad is not None:
        look_at_sum(leaf.grad.data, before.data, dx)


def look_at_sum(total: Array, *terms: Array) -> None:
    """Look at a sum of gradients."""
    if _infinities.get() is not None:
        given = (Given(f"gradient {i}", fault_in(a)) for i, a in enumerate(terms))
        call = "adding up the gradients of a value that is used several times"
        look(call, [Made("the sum", total)], given, [place_of_call("backward called at")])


def push_arrays(op: Op, arrays: Any, tangents: Any, outputs: Any, attributes: Any) -> Tensor:
    """Return the tangent of an op's result, looked at."""
    if _infinities.get() is None:
        return PLAIN_PUSH(op, arrays, tangents, outputs, attributes)
    with running_for(f"  to compute the tangent of {op.name}"):
        tangent = PLAIN_PUSH(op, arrays, tangents, outputs, attributes)

    def given() -> Iterator[Given]:
        yield from given_to(op, arrays)
        for i, t in enumerate(tangents):
            yield Given(f"the tangent of {argument(op, i)}", None if t is None else fault_in(t.data))

    made = [Made("the tangent of its result", tangent.data)]
    look(f"the forward derivative of {op.name}", made, given(), [place_of_call("called at")])
    return tangent


def push_in_ops(op: Op, inputs: Any, tangents: Any, outputs: Any, attributes: Any) -> Tensor:
    """Return the tangent of an op's result by ops, which know for whom they run."""
    if _infinities.get() is None:
        return PLAIN_PUSH_IN_OPS(op, inputs, tangents, outputs, attributes)
    with running_for(f"  to compute the tangent of {op.name}"):
        return PLAIN_PUSH_IN_OPS(op, inputs, tangents, outputs, attributes)


PLAIN_BODY_FOR, PLAIN_PUSH, PLAIN_PUSH_IN_OPS = Op.body_for, dual.push_arrays, dual.push_in_ops
TENSOR = sys.modules[Tensor.__module__]  # by its name: the package has a function that is called so, too
LOOKING = KERNELS._replace(add=add, pull_back=pull_back, accumulate=accumulate)
SEAMS: tuple[tuple[Any, str, Any, Any], ...] = (
    (Op, "body_for", PLAIN_BODY_FOR, body_for),
    (TENSOR, "KERNELS", KERNELS, LOOKING),
    (TENSOR, "OPS", OPS, OPS._replace(pull_back=pull_back_in_ops)),
    (dual, "push_arrays", PLAIN_PUSH, push_arrays),
    (dual, "push_in_ops", PLAIN_PUSH_IN_OPS, push_in_ops),
)
