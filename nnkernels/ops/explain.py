"""``explain``: which of its methods an op's tuned body takes for given shapes, and why.

A rule is a function of shapes and attributes, ``Op.explain``; bodies and explanations ask the same rule.
"""

import difflib
import inspect
import re
from numbers import Integral
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.ops.op import Op

Shape = tuple[int, ...] | None


def explain(op: str, *shapes: Shape, **attributes: Any) -> None:
    """Print the method of the tuned body for arrays of these ``shapes``: a line per pass, with the reason.

    Shapes come in the op's order of arrays, None for an array left out; attributes as in a call. An op
    without a choice says so. Raises ValueError for an unknown op and for shapes that the op refuses.

    >>> explain("matmul", (1, 400), (400, 120))
    forward  row: (1, 400) by (400, 120), each number of b is used once, so it is read as it lies
    da       dot: (1, 120) by (120, 400) transposed, 1 row does not repay rearranging b (from 129)
    db       outer: (400, 1) transposed by (1, 120), each number of y is one product, so only writing counts
    """
    record = named(op)
    check_shapes(record, shapes, attributes)
    print("\n".join(lines(record, shapes, attributes)))


def lines(op: Op, shapes: tuple[Shape, ...], attributes: dict[str, Any]) -> list[str]:
    """Return what ``explain`` prints, for shapes that the op takes."""
    if op.explain is None:
        return [f"{op.name} has a single tuned method, whatever the shapes"]
    return [f"{name:<8} {line}" for name, line in op.explain(*shapes, **attributes).items()]


def named(name: str) -> Op:
    """Return the op of that name."""
    if not isinstance(name, str):
        raise TypeError(f"explain: op must be the name of an op, got {type(name).__name__}")
    if name not in OPS:
        near = difflib.get_close_matches(name, OPS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it must be one of {', '.join(OPS)}"
        raise ValueError(f"explain: there is no op {name!r}; {hint}")
    return OPS[name]


def check_shapes(op: Op, shapes: tuple[Shape, ...], attributes: dict[str, Any]) -> None:
    """Let the op check arrays of these shapes that hold one zero each, repeated without memory."""
    check_count(op, len(shapes))
    for shape in shapes:
        if shape is None:
            continue
        if not isinstance(shape, (tuple, list)) or not all(isinstance(n, Integral) for n in shape):
            raise TypeError(f"explain: a shape must be a tuple of ints, got {type(shape).__name__}")
        if min(shape, default=0) < 0:
            raise ValueError(f"explain: a shape must not be negative, got {shape}")
    try:
        op.check(*zeros(op, shapes, np.float32), **attributes)
    except (TypeError, ValueError) as error:
        # What has no gradient may be labels, and integers.
        if op.constants and accepts(op, zeros(op, shapes, np.int64), attributes):
            return
        if isinstance(error, TypeError):
            raise TypeError(re.sub(r"^\S*\(\)", f"{op.name}()", str(error))) from None
        raise


def accepts(op: Op, arrays: list[Array | None], attributes: dict[str, Any]) -> bool:
    """Say whether the op's check lets the arrays pass."""
    try:
        op.check(*arrays, **attributes)
    except (TypeError, ValueError):
        return False
    return True


def zeros(op: Op, shapes: tuple[Shape, ...], constants: type) -> list[Array | None]:
    """Return float32 arrays of the shapes, of type ``constants`` where the op knows no gradient."""
    return [
        None
        if shape is None
        else np.broadcast_to((constants if i in op.constants else np.float32)(0), tuple(shape))
        for i, shape in enumerate(shapes)
    ]


def check_count(op: Op, count: int) -> None:
    """Demand as many shapes as the op takes arrays."""
    parameters = list(inspect.signature(op.check).parameters.values())
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        if not count:
            raise ValueError(f"explain: {op.name} takes one or more shapes, got none")
        return
    most = len(next(op.samples(np.random.default_rng(0), np.float32)).arrays)
    least = sum(p.default is p.empty for p in parameters[:most])
    names = ", ".join(p.name for p in parameters[:most])
    if not least <= count <= most:
        wanted = str(least) if least == most else f"{least} to {most}"
        noun = "shape" if most == 1 else "shapes"
        raise ValueError(f"explain: {op.name} takes {wanted} {noun} ({names}), got {count}")
