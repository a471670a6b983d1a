"""Ops that set arrays into a larger one: pad and concatenate.

    pad(x, padding=, value=0.0)   y = value everywhere, then y_s(i) = x_i             dx_i = dy_s(i)
    concatenate(*xs, dim=0)       y_s(i) = x_i for each x, with a map s of its own    dx_i = dy_s(i)

The map is s(i) = offset + sum over x's axes of i_axis step_axis, a place in the flat y. ``padding`` holds
pairs (before, after), the last axis first, as PyTorch's does: (1, 2, 3, 4) puts 1 column before and 2 after,
3 rows before and 4 after. The arrays of concatenate agree on all axes but ``dim`` and have at least one; pad
takes any shape. float32 or float64, all of one dtype.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_array import empty as empty_on
from nnkernels.machine.jit import inline, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.assemble_cuda import padded
from nnkernels.ops.op import Body, Mutant
from nnkernels.ops.shape import Shape, gather, integers, make_op, row_steps, scatter
from nnkernels.ops.shape_cuda import Map, gathered
from nnkernels.ops.shape_cuda import scatter as scatter_cuda
from nnkernels.ops.validate import axis_index, fail_type, floats

# --- pad ---


def margins(x: Array | GpuArray, padding: Shape) -> tuple[tuple[int, int], ...]:
    """Return (before, after) for each axis of x, the first axis first."""
    pairs = [(padding[i], padding[i + 1]) for i in range(0, len(padding), 2)]
    return ((0, 0),) * (x.ndim - len(pairs)) + tuple(reversed(pairs))


def pad_place(x: Array | GpuArray, padding: Shape) -> tuple[Map, Shape]:
    """Return where x stands in y, and y's shape."""
    sides = margins(x, padding)
    shape = tuple(before + n + after for n, (before, after) in zip(x.shape, sides))
    steps = row_steps(shape)
    offset = 0
    for (before, _), step in zip(sides, steps):
        offset += before * step
    return (offset, x.shape, steps), shape


def pad_forward_loops(x: Array, padding: Shape, value: float = 0.0) -> tuple[Array]:
    where, shape = pad_place(x, padding)
    y = np.full(shape, value, x.dtype)
    scatter(x, where, y)
    return (y,)


def pad_backward_loops(
    dy: Array,
    outputs: tuple[Array],
    inputs: tuple[Array],
    needs: tuple[bool],
    padding: Shape,
    value: float = 0.0,
) -> tuple[Array | None]:
    return (gather(dy, pad_place(inputs[0], padding)[0]) if needs[0] else None,)


def pad_forward_vectorized(x: Array, padding: Shape, value: float = 0.0) -> tuple[Array]:
    return (np.pad(x, margins(x, padding), constant_values=value),) if x.ndim > 0 else (x.copy(),)


def pad_backward_vectorized(
    dy: Array,
    outputs: tuple[Array],
    inputs: tuple[Array],
    needs: tuple[bool],
    padding: Shape,
    value: float = 0.0,
) -> tuple[Array | None]:
    (x,) = inputs
    inside = tuple(slice(before, before + n) for n, (before, _) in zip(x.shape, margins(x, padding)))
    return (dy[inside] if needs[0] else None,)


# --- concatenate ---


def concatenate_places(xs: tuple[Array, ...] | tuple[GpuArray, ...], dim: int) -> tuple[list[Map], Shape]:
    """Return where each x stands in y, and y's shape."""
    axis = dim % xs[0].ndim
    shape = list(xs[0].shape)
    shape[axis] = sum(x.shape[axis] for x in xs)
    steps = row_steps(tuple(shape))
    places: list[Map] = []
    start = 0
    for x in xs:
        places.append((start * steps[axis], x.shape, steps))
        start += x.shape[axis]
    return places, tuple(shape)


def concatenate_forward_loops(*xs: Array, dim: int = 0) -> tuple[Array]:
    places, shape = concatenate_places(xs, dim)
    y = np.empty(shape, xs[0].dtype)
    for x, where in zip(xs, places):
        scatter(x, where, y)
    return (y,)


def concatenate_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, ...], needs: tuple[bool, ...], dim: int = 0
) -> tuple[Array | None, ...]:
    places, _ = concatenate_places(inputs, dim)
    return tuple(gather(dy, where) if need else None for where, need in zip(places, needs))


def concatenate_forward_vectorized(*xs: Array, dim: int = 0) -> tuple[Array]:
    return (np.concatenate(xs, axis=dim),)


def concatenate_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, ...], needs: tuple[bool, ...], dim: int = 0
) -> tuple[Array | None, ...]:
    ends = np.cumsum([x.shape[dim] for x in inputs])[:-1]
    return tuple(part if need else None for part, need in zip(np.split(dy, ends, axis=dim), needs))


# --- tuned pad: planes of two axes, the border and then the rows inside ---


class PadPlan(NamedTuple):
    """y's shape, and x and y seen as many planes: an axis without padding is part of the one before it.

    ``rows`` and ``columns`` are (before, x's own, after) of a plane's two axes, ``outer`` one such triple for
    each axis before these, of which there is at least one, and ``planes`` the number of planes of y.
    """

    shape: Shape
    outer: Array
    rows: tuple[int, int, int]
    columns: tuple[int, int, int]
    planes: int


@lru_cache(maxsize=256)
def pad_plan(x_shape: Shape, padding: Shape) -> PadPlan:
    sides = margins(np.empty(x_shape, np.bool_), padding)
    merged: list[tuple[int, int, int]] = []
    for n, (before, after) in zip(x_shape, sides):
        if merged and before == after == 0:
            merged[-1] = (merged[-1][0] * n, merged[-1][1] * n, merged[-1][2] * n)
        else:
            merged.append((before, n, after))
    merged = [(0, 1, 0)] * (3 - len(merged)) + merged
    shape = tuple(before + n + after for n, (before, after) in zip(x_shape, sides))
    planes = math.prod(sum(axis) for axis in merged[:-2])
    return PadPlan(shape, np.array(merged[:-2], np.int64), merged[-2], merged[-1], planes)


Triple = tuple[int, int, int]


@inline
def fill(y: Array, first: Any, last: Any, value: Any) -> None:
    for e in range(first, last):
        y[e] = value


@jit_elementwise
def pad_planes(
    x: Array, outer: Array, rows: Triple, columns: Triple, value: Any, first: int, last: int, y: Array
) -> None:
    """Write planes first to last - 1 of y."""
    above, h, below = np.uint64(rows[0]), np.uint64(rows[1]), np.uint64(rows[2])
    left, w, right = np.uint64(columns[0]), np.uint64(columns[1]), np.uint64(columns[2])
    width = left + w + right
    size = (above + h + below) * width
    for plane in range(first, last):
        source, step, rest, inside = 0, 1, plane, True
        for axis in range(len(outer) - 1, -1, -1):
            before, n, after = outer[axis, 0], outer[axis, 1], outer[axis, 2]
            i = rest % (before + n + after) - before
            rest //= before + n + after
            inside &= (i >= 0) & (i < n)
            source, step = source + i * step, step * n
        start = np.uint64(plane) * size
        narrow = w < np.uint64(64)  # short gaps between short rows: sooner filled with everything else
        if narrow or not inside:
            fill(y, start, start + size, value)
        if inside:
            a, o = np.uint64(source) * (h * w), start + above * width
            if not narrow:
                fill(y, start, o, value)
                fill(y, o + h * width, start + size, value)
            for _ in range(h):
                if not narrow:
                    fill(y, o, o + left, value)
                    fill(y, o + left + w, o + width, value)
                for j in range(w):
                    y[o + left + j] = x[a + j]
                a, o = a + w, o + width


@jit_parallel
def pad_parallel(
    x: Array, outer: Array, rows: Triple, columns: Triple, value: Any, planes: int, share: int, y: Array
) -> None:
    for c in prange((planes + share - 1) // share):
        pad_planes(x, outer, rows, columns, value, c * share, min((c + 1) * share, planes), y)


def pad_forward_tuned(x: Array, padding: Shape, value: float = 0.0) -> tuple[Array]:
    shape, outer, rows, columns, planes = pad_plan(x.shape, tuple(padding))
    y = empty(shape, x.dtype)
    given = x.ravel(), outer, rows, columns, x.dtype.type(value), planes
    if 2 * y.size < SERIAL_BELOW_IF_CHEAP:  # most elements are written twice
        pad_planes(*given[:-1], 0, planes, y.ravel())
    else:
        pad_parallel(*given, share_of(planes, y.size // planes), y.ravel())
    return (y,)


# --- tuned concatenate: whole rows of each x at a time. Backward copies nothing ---


@lru_cache(maxsize=256)
def concatenate_plan(shapes: tuple[Shape, ...], dim: int) -> tuple[Shape, int, list[int]]:
    """Return y's shape, the length of its rows and the length of each x's rows.

    A row holds the axes from ``dim`` on: y's are made of one row of each x.
    """
    axis = dim % len(shapes[0])
    along = sum(shape[axis] for shape in shapes)
    inner = math.prod(shapes[0][axis + 1 :])
    y_shape = (*shapes[0][:axis], along, *shapes[0][axis + 1 :])
    return y_shape, along * inner, [shape[axis] * inner for shape in shapes]


@jit_elementwise
def put_rows(x: Array, n: int, i: int, last: int, width: int, y: Array) -> None:
    """Copy elements i to last - 1 of x, rows of n, into y's rows, ``width`` elements apart."""
    while i < last:
        r, j = i // n, i % n
        end = np.uint64(min(n - j, last - i))
        a, o = np.uint64(i), np.uint64(r * width + j)
        for e in range(end):
            y[o + e] = x[a + e]
        i += int(end)


@jit_parallel
def put_parallel(x: Array, n: int, share: int, width: int, y: Array) -> None:
    for c in prange((x.size + share - 1) // share):
        put_rows(x, n, c * share, min((c + 1) * share, x.size), width, y)


def concatenate_forward_tuned(*xs: Array, dim: int = 0) -> tuple[Array]:
    shape, width, lengths = concatenate_plan(tuple([x.shape for x in xs]), dim)
    y = empty(shape, xs[0].dtype)
    target = y.ravel()
    for x, n in zip(xs, lengths):
        if x.size < SERIAL_BELOW_IF_CHEAP:
            put_rows(x.ravel(), n, 0, x.size, width, target)
        else:
            put_parallel(x.ravel(), n, share_of(x.size), width, target)
        target = target[n:]
    return (y,)


def concatenate_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, ...], needs: tuple[bool, ...], dim: int = 0
) -> tuple[Array | None, ...]:
    start, before = 0, (slice(None),) * (dim % dy.ndim)
    grads: list[Array | None] = []
    for x, need in zip(inputs, needs):
        end = start + x.shape[dim]
        grads.append(dy[(*before, slice(start, end))] if need else None)
        start = end
    return tuple(grads)


# --- cuda: the maps of ``loops``; where a part of dy is contiguous, it is the gradient ---


def pad_forward_cuda(x: GpuArray, padding: Shape, value: float = 0.0) -> tuple[GpuArray]:
    return (padded(x, margins(x, padding), value),)


def pad_backward_cuda(
    dy: GpuArray,
    outputs: tuple[GpuArray],
    inputs: tuple[GpuArray],
    needs: tuple[bool],
    padding: Shape,
    value: float = 0.0,
) -> tuple[GpuArray | None]:
    return (gathered(dy, pad_place(inputs[0], padding)[0]) if needs[0] else None,)


def concatenate_forward_cuda(*xs: GpuArray, dim: int = 0) -> tuple[GpuArray]:
    places, shape = concatenate_places(xs, dim)
    y = empty_on(shape, xs[0].dtype, xs[0].device)
    for x, where in zip(xs, places):
        scatter_cuda(x, where, y)
    return (y,)


def concatenate_backward_cuda(
    dy: GpuArray,
    outputs: tuple[GpuArray],
    inputs: tuple[GpuArray, ...],
    needs: tuple[bool, ...],
    dim: int = 0,
) -> tuple[GpuArray | None, ...]:
    places, _ = concatenate_places(inputs, dim)
    return tuple(gathered(dy, where) if need else None for where, need in zip(places, needs))


# --- records ---


def check_pad(x: Array, padding: Any, value: Any = 0.0) -> None:
    floats("pad", x=x)
    sides = integers("pad", "padding", padding, 0)
    if len(sides) % 2 or len(sides) > 2 * x.ndim:
        raise ValueError(
            "pad: padding must be pairs (before, after), at most one for each axis of x with shape "
            f"{x.shape}, got {padding!r}"
        )
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        fail_type("pad", "value", value, "a number")


def check_concatenate(*xs: Array, dim: Any = 0) -> None:
    if not xs:
        raise ValueError("concatenate: at least one array is needed, got none")
    first = xs[0]
    for x in xs:
        if type(x) is not np.ndarray or x.dtype != first.dtype or first.dtype.kind != "f":
            floats("concatenate", **{f"x{i}": x for i, x in enumerate(xs)})  # says which one is wrong
            break
    else:
        floats("concatenate", x0=first)
    if xs[0].ndim == 0:
        raise ValueError("concatenate: x0 must have at least one axis, got shape ()")
    along = axis_index("concatenate", dim, xs[0].ndim)
    before, after = first.shape[:along], first.shape[along + 1 :]
    for i, x in enumerate(xs):
        if x.ndim != first.ndim or x.shape[:along] != before or x.shape[along + 1 :] != after:
            shapes = f"{xs[0].shape} and {x.shape}"
            raise ValueError(f"concatenate: x0 and x{i} must agree on all axes but {along}, got {shapes}")


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "assemble.py", old, new)


pad = make_op(
    "pad",
    Body(pad_forward_loops, pad_backward_loops),
    Body(pad_forward_vectorized, pad_backward_vectorized),
    Body(pad_forward_tuned, pad_backward_vectorized),
    Body(pad_forward_cuda, pad_backward_cuda),
    check_pad,
    cases=(
        (((2, 3),), {"padding": (1, 2)}), (((2, 3),), {"padding": (1, 2, 3, 0), "value": -1.5}),
        (((2, 3, 4),), {"padding": ()}), (((2, 3, 4),), {"padding": (0, 0, 2, 1)}), (((),), {"padding": ()}),
        (((1, 1),), {"padding": (1, 0, 0, 1), "value": 2}), (((0, 2),), {"padding": (1, 1, 1, 1)}),
        (((2, 0),), {"padding": (2, 1)}), (((4,),), {"padding": (3, 2)}),
        (((2, 3, 2, 2),), {"padding": (1, 0, 0, 1, 2, 1)}), (((2, 70),), {"padding": (1, 2, 1, 0)}),
    ),
    large=(((64, 3, 36, 32),), {"padding": (2, 2, 2, 2)}),
    wrong=(
        (ValueError, "padding must be at least 0 each, got (1, -1)", ((2, 3),), {"padding": (1, -1)}),
        (ValueError, "padding must be pairs (before, after)", ((2, 3),), {"padding": (1, 1, 1)}),
        (ValueError, "at most one for each axis of x with shape (3,)", ((3,),), {"padding": (1, 1, 1, 1)}),
        (TypeError, "padding must be a tuple of ints", ((2, 3),), {"padding": 1}),
        (TypeError, "value must be a number", ((2, 3),), {"padding": (1, 1), "value": "0"}),
    ),
    mutants=(
        mutant("first axis first", "+ tuple(reversed(pairs))", "+ tuple(pairs)"),
        mutant("set into the corner", "offset += before * step", "offset += 0 * step"),
        mutant("value ignored", "y = np.full(shape, value, x.dtype)", "y = np.zeros(shape, x.dtype)"),
        mutant("border not written", "y[e] = value", "pass", "tuned"),
        mutant("axes merged too eagerly", "merged and before == after == 0", "merged and before == 0",
               "tuned"),
        mutant("outer border forgotten", "inside &= (i >= 0) & (i < n)", "inside &= i >= 0", "tuned"),
        mutant("left margin forgotten", "y[o + left + j]", "y[o + j]", "tuned"),
    ),
)  # fmt: skip
concatenate = make_op(
    "concatenate",
    Body(concatenate_forward_loops, concatenate_backward_loops),
    Body(concatenate_forward_vectorized, concatenate_backward_vectorized),
    Body(concatenate_forward_tuned, concatenate_backward_tuned),
    Body(concatenate_forward_cuda, concatenate_backward_cuda),
    check_concatenate,
    cases=(
        (((2, 3),), {}), (((2, 3), (1, 3)), {}), (((2, 3), (2, 1), (2, 4)), {"dim": 1}),
        (((2, 3, 4), (2, 2, 4)), {"dim": -2}), (((3,), (0,), (2,)), {}), (((0, 2), (0, 2)), {"dim": 1}),
    ),
    large=(((64, 16, 14, 14), (64, 32, 14, 14)), {"dim": 1}),
    wrong=(
        (ValueError, "at least one array", (), {}),
        (ValueError, "at least one axis, got shape ()", ((),), {}),
        (ValueError, "x0 and x1 must agree on all axes but 0, got (2, 3) and (2, 4)", ((2, 3), (2, 4)), {}),
        (ValueError, "got (2, 3) and (3,)", ((2, 3), (3,)), {}),
        (ValueError, "dim must be in [-2, 2)", ((2, 3), (2, 3)), {"dim": 2}),
    ),
    mutants=(
        mutant("all at the start", "start += x.shape[axis]", "start += 0"),
        # Faults in maps must stay inside y: they go to compiled kernels, which do not check bounds.
        mutant("gradient of the first", "tuple(gather(dy, where) if", "tuple(gather(dy, places[0]) if"),
        mutant("first element for all", "y[o + e] = x[a + e]", "y[o + e] = x[a]", "tuned"),
        mutant("last part short", "min((c + 1) * share, x.size), width",
               "min((c + 1) * share, x.size) - 1, width", "tuned"),
        mutant("all in one place", "target = target[n:]", "target = target[:]", "tuned"),
        mutant("gradient of the first, tuned", "        start = end\n", "        start = 0 * end\n", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (pad, concatenate)
