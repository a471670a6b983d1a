"""Ops that set arrays into a larger one: pad and concatenate.

    pad(x, padding=, value=0.0)   y = value everywhere, then y_s(i) = x_i             dx_i = dy_s(i)
    concatenate(*xs, dim=0)       y_s(i) = x_i for each x, with a map s of its own    dx_i = dy_s(i)

The map is s(i) = offset + sum over x's axes of i_axis step_axis, a place in the flat y. ``padding`` holds
pairs (before, after), the last axis first, as PyTorch's does: (1, 2, 3, 4) puts 1 column before and 2 after,
3 rows before and 4 after. The arrays of concatenate agree on all axes but ``dim`` and have at least one; pad
takes any shape. float32 or float64, all of one dtype.
"""

from typing import Any

import numpy as np

from nnkernels.machine.jit import jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW
from nnkernels.ops.folding import source_index
from nnkernels.ops.op import Body, Mutant
from nnkernels.ops.shape import Map, Shape, gather, integers, make_op, row_steps, scatter
from nnkernels.ops.validate import axis_index, fail_type, floats

# --- pad ---


def margins(x: Array, padding: Shape) -> tuple[tuple[int, int], ...]:
    """Return (before, after) for each axis of x, the first axis first."""
    pairs = [(padding[i], padding[i + 1]) for i in range(0, len(padding), 2)]
    return ((0, 0),) * (x.ndim - len(pairs)) + tuple(reversed(pairs))


def pad_place(x: Array, padding: Shape) -> tuple[Map, Shape]:
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


def concatenate_places(xs: tuple[Array, ...], dim: int) -> tuple[list[Map], Shape]:
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


# --- tuned pad and concatenate: whole rows at a time, rows shared among threads. Backward copies nothing ---


@jit_elementwise
def put_rows(x: Array, n: int, sizes: Array, steps: Array, first: int, last: int, y: Array) -> None:
    """Copy rows first to last - 1 of x, n elements each, to where the map puts them in y."""
    for r in range(first, last):
        source, target = x[r * n : (r + 1) * n], y[source_index(r, sizes, steps) :]
        for j in range(n):
            target[j] = source[j]


@jit_parallel
def put_rows_parallel(x: Array, n: int, sizes: Array, steps: Array, share: int, y: Array) -> None:
    rows = x.size // n
    for c in prange((rows + share - 1) // share):
        put_rows(x, n, sizes, steps, c * share, min((c + 1) * share, rows), y)


def put(x: Array, where: Map, y: Array) -> None:
    """Write x to its places in y."""
    offset, shape, steps = where
    if x.size == 0:
        return
    # Trailing axes that x fills from end to end are one long row.
    n, axis = 1, len(shape)
    while axis > 0 and steps[axis - 1] == n:
        axis -= 1
        n *= shape[axis]
    sizes, walk = np.array(shape[:axis], np.int64), np.array(steps[:axis], np.int64)
    flat, target = x.reshape(-1), y.reshape(-1)[offset:]
    if x.size < SERIAL_BELOW:
        put_rows(flat, n, sizes, walk, 0, x.size // n, target)
    else:
        put_rows_parallel(flat, n, sizes, walk, -(-CHUNK // n), target)


def pad_forward_tuned(x: Array, padding: Shape, value: float = 0.0) -> tuple[Array]:
    where, shape = pad_place(x, padding)
    y = empty(shape, x.dtype)
    if y.size > x.size:
        y.fill(value)
    put(x, where, y)
    return (y,)


def concatenate_forward_tuned(*xs: Array, dim: int = 0) -> tuple[Array]:
    places, shape = concatenate_places(xs, dim)
    y = empty(shape, xs[0].dtype)
    for x, where in zip(xs, places):
        put(x, where, y)
    return (y,)


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
    floats("concatenate", **{f"x{i}": x for i, x in enumerate(xs)})
    if xs[0].ndim == 0:
        raise ValueError("concatenate: x0 must have at least one axis, got shape ()")
    along = axis_index("concatenate", dim, xs[0].ndim)
    for i, x in enumerate(xs):
        if x.ndim != xs[0].ndim or any(
            n != m for k, (n, m) in enumerate(zip(x.shape, xs[0].shape)) if k != along
        ):
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
    check_pad,
    cases=(
        (((2, 3),), {"padding": (1, 2)}), (((2, 3),), {"padding": (1, 2, 3, 0), "value": -1.5}),
        (((2, 3, 4),), {"padding": ()}), (((2, 3, 4),), {"padding": (0, 0, 2, 1)}), (((),), {"padding": ()}),
        (((1, 1),), {"padding": (1, 0, 0, 1), "value": 2}), (((0, 2),), {"padding": (1, 1, 1, 1)}),
        (((2, 0),), {"padding": (2, 1)}), (((4,),), {"padding": (3, 2)}),
    ),
    large=(((64, 3, 32, 32),), {"padding": (2, 2, 2, 2)}),
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
        mutant("border not written", "y.fill(value)", "pass", "tuned"),
        mutant("rows merged too eagerly", "axis > 0 and steps[axis - 1] == n:", "axis > 0:", "tuned"),
    ),
)  # fmt: skip
concatenate = make_op(
    "concatenate",
    Body(concatenate_forward_loops, concatenate_backward_loops),
    Body(concatenate_forward_vectorized, concatenate_backward_vectorized),
    Body(concatenate_forward_tuned, concatenate_backward_vectorized),
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
        mutant("last row forgotten", "r in range(first, last):", "r in range(first, last - 1):", "tuned"),
        mutant("last part short", "min((c + 1) * share, rows), y)", "min((c + 1) * share, rows) - 1, y)",
               "tuned"),
        mutant("gradients shifted", "ends = np.cumsum([x.shape[dim] for x in inputs])[:-1]",
               "ends = np.cumsum([x.shape[dim] for x in inputs])[:-1] + 1", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (pad, concatenate)
