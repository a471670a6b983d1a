"""max in the tiles of ``tuned.py``: first a row's largest element, then its place.

Bound: memory in columns, where every element is read once; the look for the place in long rows.
"""

from typing import Any

import numpy as np

from nnkernels.machine.elementary import of_rank, rank
from nnkernels.machine.jit import inline, jit_elementwise, jit_parallel, jit_tuned, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.reduce.loops import Dim
from nnkernels.ops.reduce.tuned import Pass, planned

PLACE = np.dtype(np.int64)
AS_THEY_STAND = np.empty(0, PLACE)  # the `source` of x's own elements


@jit_tuned
def row_max(x: Array) -> Any:
    """Return the largest element of a row, NaN if there is one."""
    top = rank(x[0])
    for i in range(1, x.size):
        r = rank(x[i])
        top = r if r > top else top
    return of_rank(top)


@jit_tuned
def row_maxima(x: Array, n: int, y: Array) -> None:
    """Write the largest element of each row of n: four rows at a time, as in short_row_sums."""
    step, one = np.uint64(n), np.uint64(1)
    i = np.uint64(0)
    while i + np.uint64(4) <= np.uint64(y.size):
        a = i * step
        b, c, d = a + step, a + step + step, a + step + step + step
        s, t, u, v = rank(x[a]), rank(x[b]), rank(x[c]), rank(x[d])
        for k in range(one, step):
            r = rank(x[a + k])
            s = r if r > s else s
            r = rank(x[b + k])
            t = r if r > t else t
            r = rank(x[c + k])
            u = r if r > u else u
            r = rank(x[d + k])
            v = r if r > v else v
        y[i], y[i + one] = of_rank(s), of_rank(t)
        y[i + np.uint64(2)], y[i + np.uint64(3)] = of_rank(u), of_rank(v)
        i = i + np.uint64(4)
    for j in range(i, np.uint64(y.size)):
        y[j] = row_max(x[j * step : (j + one) * step])


@jit_tuned
def row_places(x: Array, n: int, y: Array, places: Array) -> None:
    """Write where in each row of n its largest element, given in y, or NaN comes first."""
    size: Any = np.uint64(n)
    for i in range(y.size):
        a, top, place = np.uint64(i) * size, y[i], size
        nan = top != top
        for k in range(np.uint64(0), size):
            v = x[a + k]
            here = k if (v == top) | (nan & (v != v)) else size
            place = here if here < place else place
        y[i] = x[a + place]  # which of 0.0 and -0.0 came first
        places[i] = place


@jit_elementwise
def max_tiles(
    x: Array, source: Array, n: int, inner: int, length: int, width: int, first: int, last: int,
    y: Array, argmax: Array,
) -> None:  # fmt: skip
    """As sum_tiles; ``source`` holds where x's elements came from (empty: from where they stand)."""
    blocks, parts = (n + length - 1) // length, (inner + width - 1) // width
    if inner == 1 and blocks == 1:
        rows_of_x, best, where = x[first * n : last * n], y[first:last], argmax[first:last]
        row_maxima(rows_of_x, n, best)
        row_places(rows_of_x, n, best, where)
        for i in range(where.size):
            where[i] += (first + i) * n
        translate(where, source)
        return
    for t in range(first, last):
        b = t // parts
        block, column = b % blocks, t % parts * width
        start = (b // blocks * n + block * length) * inner + column
        rows = min(length, n - block * length)
        low, high = b * inner + column, b * inner + min(column + width, inner)
        best, where = y[low:high], argmax[low:high]
        if inner == 1:
            row_maxima(x[start : start + rows], rows, best)
            row_places(x[start : start + rows], rows, best, where)
            where[0] += start
        else:
            column_maxima(x, start, rows, inner, best, where)
        translate(where, source)


@inline
def translate(where: Array, source: Array) -> None:
    if source.size > 0:
        for j in range(where.size):
            where[j] = source[where[j]]


@inline
def column_maxima(x: Array, start: int, rows: int, inner: int, best: Array, where: Array) -> None:
    for j in range(best.size):
        best[j], where[j] = x[start + j], start + j
    for k in range(1, rows):
        base = start + k * inner
        row = x[base : base + best.size]
        for j in range(best.size):
            larger = (row[j] > best[j]) | ((row[j] != row[j]) & (best[j] == best[j]))
            best[j] = row[j] if larger else best[j]
            where[j] = base + j if larger else where[j]


@jit_parallel
def max_parallel(
    x: Array, source: Array, n: int, inner: int, length: int, width: int, tasks: int, share: int,
    y: Array, argmax: Array,
) -> None:  # fmt: skip
    for c in prange((tasks + share - 1) // share):
        last = min((c + 1) * share, tasks)
        max_tiles(x, source, n, inner, length, width, c * share, last, y, argmax)


def max_pass(x: Array, source: Array, way: Pass, y: Array, argmax: Array) -> None:
    """Write the maxima over the middle axis of flat x to flat y, and where they came from to argmax."""
    outer, n, inner, length, width, blocks, tasks, share = way
    best, where = y, argmax
    if blocks > 1:
        best, where = empty((outer * blocks * inner,), x.dtype), empty((outer * blocks * inner,), PLACE)
    if x.size < SERIAL_BELOW:
        max_tiles(x, source, n, inner, length, width, 0, tasks, best, where)
    else:
        max_parallel(x, source, n, inner, length, width, tasks, share, best, where)
    if blocks > 1:
        tasks = outer * -(-inner // width)
        max_tiles(best, where, blocks, inner, blocks, width, 0, tasks, y, argmax)


def max_forward_tuned(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array, Array]:
    shape, _, passes = planned(x, dim, keepdim)
    y, argmax = empty(shape, x.dtype), empty(shape, PLACE)
    if x.size == 0:
        return y, argmax
    flat, source = x.ravel(), AS_THEY_STAND
    for way in passes[:-1]:
        best, where = empty((way.outer * way.inner,), x.dtype), empty((way.outer * way.inner,), PLACE)
        max_pass(flat, source, way, best, where)
        flat, source = best, where
    max_pass(flat, source, passes[-1], y.ravel(), argmax.ravel())
    return y, argmax


@jit_elementwise
def clear(x: Array) -> None:
    for i in range(x.size):
        x[i] = 0


@jit_elementwise
def put_at(dy: Array, places: Array, dx: Array) -> None:
    for j in range(dy.size):
        dx[places[j]] = dy[j]  # no place comes twice, so = does what += would


@jit_parallel
def max_backward_parallel(dy: Array, argmax: Array, share: int, dx: Array) -> None:
    for c in prange((dx.size + share - 1) // share):
        clear(dx[c * share : (c + 1) * share])
    for d in prange((dy.size + share - 1) // share):
        i, j = d * share, (d + 1) * share
        put_at(dy[i:j], argmax[i:j], dx)


def max_backward_tuned(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = empty(inputs[0].shape, dy.dtype)
    given, target = (dy.ravel(), outputs[1].ravel()), dx.ravel()
    if dx.size < SERIAL_BELOW_IF_CHEAP:
        clear(target)
        put_at(*given, target)
    else:
        max_backward_parallel(*given, share_of(dx.size), target)
    return (dx,)
