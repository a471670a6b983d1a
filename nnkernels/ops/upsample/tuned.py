"""upsample_nearest2d and upsample_bilinear2d as sweeps over rows.

Bound: memory. Nearest: rows of y made of one row of x are alike, and copied; twice the size is avg_pool2d's
backward with 2x2 windows, without the division, and its backward avg_pool2d. Bilinear: a row of x is widened
once, into one of two lines that take turns, and each row of y is a weighted sum of the two. All places and
weights come from tables. Planes are dealt to threads, and each is summed up in one order.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, share_of
from nnkernels.ops.adaptive_pool import planes, sum_windows, sum_windows_parallel
from nnkernels.ops.pooling.tuned import (
    avg_backward_parallel_2x2,
    avg_parallel_2x2,
    avg_planes_2x2,
    avg_planes_2x2_transposed,
    clear,
    copy,
)
from nnkernels.ops.upsample.shapes import (
    Axis,
    Scale,
    Size,
    axes,
    bilinear_places,
    bilinear_windows,
    nearest_places,
    nearest_windows,
)

Needs = tuple[bool]


@jit_elementwise
def nearest_planes(x: Array, rows: Array, columns: Array, y: Array) -> None:
    for i in range(len(x)):
        for p in range(y.shape[1]):
            row = y[i, p]
            if p > 0 and rows[p] == rows[p - 1]:
                copy(y[i, p - 1], row)
            else:
                source = x[i, rows[p]]
                for q in range(row.size):
                    row[q] = source[np.uint64(columns[q])]


@jit_parallel
def nearest_parallel(x: Array, rows: Array, columns: Array, share: int, y: Array) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        nearest_planes(x[i:j], rows, columns, y[i:j])


@inline
def widen(row: Array, columns: Array, along: Array, line: Array) -> None:
    for q in range(line.size):
        left, right = row[np.uint64(columns[0, q])], row[np.uint64(columns[1, q])]
        line[q] = along[0, q] * left + along[1, q] * right


@inline
def widen_transposed(line: Array, windows: Array, weights: Array, row: Array) -> None:
    """Sums instead of a scatter, whose additions to one element would wait for each other."""
    k = np.uint64(0)
    for w in range(row.size):
        total = row.dtype.type(0)
        for q in range(np.uint64(windows[0, w]), np.uint64(windows[1, w])):
            total += weights[k] * line[q]
            k += np.uint64(1)
        row[w] = total


@jit_elementwise
def bilinear_planes(x: Array, rows: Array, columns: Array, down: Array, along: Array, y: Array) -> None:
    """Even rows of x take turns in one line, odd rows in the other; ``held`` says which row is there."""
    lines, held = np.empty((2, y.shape[2]), x.dtype), np.empty(2, np.int64)
    for i in range(len(x)):
        held[0], held[1] = -1, -1
        for p in range(y.shape[1]):
            for k in range(2):
                h = rows[k, p]
                if held[h & 1] != h:
                    widen(x[i, h], columns, along, lines[h & 1])
                    held[h & 1] = h
            upper, lower, a, b = rows[0, p] & 1, rows[1, p] & 1, down[0, p], down[1, p]
            for q in range(y.shape[2]):
                y[i, p, q] = a * lines[upper, q] + b * lines[lower, q]


@jit_elementwise
def bilinear_planes_transposed(
    dy: Array, rows: Array, down: Array, windows: Array, weights: Array, dx: Array
) -> None:
    """Backwards: dy's rows are summed up in the line of their row of x, which then goes to that row."""
    lines, held = np.empty((2, dy.shape[2]), dx.dtype), np.empty(2, np.int64)
    for i in range(len(dx)):
        held[0], held[1] = -1, -1
        for h in range(dx.shape[1]):
            clear(dx[i, h])
        for p in range(dy.shape[1]):
            for k in range(2):
                h, weight = rows[k, p], down[k, p]
                if held[h & 1] != h:
                    if held[h & 1] >= 0:
                        widen_transposed(lines[h & 1], windows, weights, dx[i, held[h & 1]])
                    clear(lines[h & 1])
                    held[h & 1] = h
                for q in range(dy.shape[2]):
                    lines[h & 1, q] += weight * dy[i, p, q]
        for k in range(2):
            if held[k] >= 0:
                widen_transposed(lines[k], windows, weights, dx[i, held[k]])


@jit_parallel
def bilinear_parallel(
    x: Array, rows: Array, columns: Array, down: Array, along: Array, share: int, y: Array
) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        bilinear_planes(x[i:j], rows, columns, down, along, y[i:j])


@jit_parallel
def bilinear_transposed_parallel(
    dy: Array, rows: Array, down: Array, windows: Array, weights: Array, share: int, dx: Array
) -> None:
    for c in prange((len(dx) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        bilinear_planes_transposed(dy[i:j], rows, down, windows, weights, dx[i:j])


def dealt(serial: Callable[..., None], parallel: Callable[..., None], size: int, *given: Any) -> None:
    """Run a kernel on the planes ``given``, the result last; ``size`` elements are its work."""
    count = len(given[-1])
    if size < SERIAL_BELOW:
        serial(*given)
    else:
        parallel(*given[:-1], share_of(count, size // count), given[-1])


def twice(down: Axis, along: Axis) -> bool:
    return down.out == 2 * down.size and along.out == 2 * along.size


def nearest_forward_tuned(x: Array, *, size: Size = None, scale_factor: Scale = None) -> tuple[Array]:
    down, along = axes(x.shape, size, scale_factor)
    y = empty((*x.shape[:2], down.out, along.out), x.dtype)
    if twice(down, along):
        one = x.dtype.type(1)
        dealt(avg_planes_2x2_transposed, avg_backward_parallel_2x2, y.size, planes(x), one, planes(y))
    else:
        places = nearest_places(down), nearest_places(along)
        dealt(nearest_planes, nearest_parallel, y.size, planes(x), *places, planes(y))
    return (y,)


def nearest_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs,
    *, size: Size = None, scale_factor: Scale = None,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = empty(inputs[0].shape, dy.dtype)
    down, along = axes(dx.shape, size, scale_factor)
    if twice(down, along):
        dealt(avg_planes_2x2, avg_parallel_2x2, dy.size, planes(dy), dy.dtype.type(1), planes(dx))
    else:
        ones = np.ones(down.size, dy.dtype), np.ones(along.size, dy.dtype)
        windows = nearest_windows(down), nearest_windows(along)
        dealt(sum_windows, sum_windows_parallel, dy.size, planes(dy), *windows, *ones, planes(dx))
    return (dx,)


def bilinear_forward_tuned(
    x: Array, *, size: Size = None, scale_factor: Scale = None, align_corners: bool = False
) -> tuple[Array]:
    down, along = axes(x.shape, size, scale_factor)
    y = empty((*x.shape[:2], down.out, along.out), x.dtype)
    rows, vertical = bilinear_places(down, align_corners, x.dtype)
    columns, horizontal = bilinear_places(along, align_corners, x.dtype)
    given = planes(x), rows, columns, vertical, horizontal
    dealt(bilinear_planes, bilinear_parallel, y.size, *given, planes(y))
    return (y,)


def bilinear_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs,
    *, size: Size = None, scale_factor: Scale = None, align_corners: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = empty(inputs[0].shape, dy.dtype)
    down, along = axes(dx.shape, size, scale_factor)
    given = *bilinear_places(down, align_corners, dy.dtype), *bilinear_windows(along, align_corners, dy.dtype)
    dealt(bilinear_planes_transposed, bilinear_transposed_parallel, dy.size, planes(dy), *given, planes(dx))
    return (dx,)
