"""sum and mean in tiles: the innermost group of reduced axes first, then the next group on what is left.

Bound: memory; every element is read once. Rows of x are cut into blocks of about an L1 cache, wide rows into
groups of columns; tiles are dealt to threads, and the results of a column's blocks combined in their order.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.jit import (
    inline,
    inline_tuned,
    jit_elementwise,
    jit_parallel,
    jit_tuned,
    prange,
    typed,
)
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, PARTS, SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.loops import Dim, Shape


class Pass(NamedTuple):
    """One pass: x seen as (outer, n, inner), its middle axis reduced, cut into tasks of one tile each.

    A tile is ``length`` rows by ``width`` columns of one outer index; ``blocks`` tiles lie below each other,
    and their results are reduced once more. A thread takes ``share`` tasks at a time.
    """

    outer: int
    n: int
    inner: int
    length: int
    width: int
    blocks: int
    tasks: int
    share: int


class Plan(NamedTuple):
    """How to reduce one shape: y's shape, the number of elements that fall on one y, and the passes."""

    shape: Shape
    n: int
    passes: tuple[Pass, ...]


def make_pass(outer: int, n: int, inner: int) -> Pass:
    """Return the pass with its tiles.

    Few enough columns that their sums stay in the L1 cache, and rows for about that cache, or more where
    the sums over all blocks would be long: float32 partial sums of short blocks keep the error small.
    """
    width = max(1, min(inner, CHUNK // 4))
    if inner == 1:
        length = max(4 * CHUNK, min(n // PARTS, 32 * CHUNK))
    else:
        length = max(CHUNK // width, math.isqrt(n), 32)
    length = max(1, min(n, length))
    blocks = -(-n // length)
    tasks = outer * blocks * -(-inner // width)
    return Pass(
        outer, n, inner, length, width, blocks, tasks, max(CHUNK // (length * width), tasks // PARTS, 1)
    )


@lru_cache(maxsize=1024)
def plan(shape: Shape, dim: int | Shape | None, keepdim: bool) -> Plan:
    """Return the plan. Neighbouring axes merge when both are reduced or both are kept.

    Images (N, C, H, W) over dim=(0, 2, 3) take the passes (N C, H W, 1) and (1, N, C).
    """
    if dim is None:
        axes = set(range(len(shape)))
    else:
        axes = {d % len(shape) for d in (dim if isinstance(dim, tuple) else (dim,))}
    kept = tuple(1 if i in axes else n for i, n in enumerate(shape) if keepdim or i not in axes)
    passes: list[Pass] = []
    inner, axis = 1, len(shape) - 1
    while axis >= 0:
        n = 1
        while axis >= 0 and axis in axes:
            n *= shape[axis]
            axis -= 1
            if axis < 0 or axis not in axes:
                passes.append(make_pass(math.prod(shape[: axis + 1]), n, inner))
        while axis >= 0 and axis not in axes:
            inner *= shape[axis]
            axis -= 1
    return Plan(kept, math.prod(shape[i] for i in axes), tuple(passes) or (make_pass(1, 1, 1),))


def planned(x: Array, dim: Dim, keepdim: bool) -> Plan:
    """Return the plan for x, from the cache if its shape has come before."""
    return plan(x.shape, tuple(dim) if isinstance(dim, list) else dim, bool(keepdim))


@inline_tuned
def row_sum(x: Array) -> Any:
    # `reassoc` splits each accumulator over the lanes of several registers, which also keeps the rounding
    # error of a long float32 row small. Two halves at a time are read from memory faster than one.
    half = x.size // 2
    if half == 0:
        return x[0]
    a, b = x[:half], x[half : 2 * half]
    first, second = a[0], b[0]
    for i in range(1, half):
        first += a[i]
        second += b[i]
    return first + second + (x[x.size - 1] if x.size > 2 * half else typed(0, x[0]))


@jit_tuned
def row_sums(x: Array, n: int, divisor: Any, y: Array) -> None:
    """Write the sum of each row of n elements over ``divisor``.

    Short rows go four at a time: one alone would leave most of the adders waiting.
    """
    step, one = np.uint64(n), np.uint64(1)
    r = np.uint64(0)
    while n < 128 and r + np.uint64(4) <= np.uint64(y.size):
        a = r * step
        b, c, d = a + step, a + step + step, a + step + step + step
        s, t, u, v = x[a], x[b], x[c], x[d]
        for i in range(one, step):
            s += x[a + i]
            t += x[b + i]
            u += x[c + i]
            v += x[d + i]
        y[r], y[r + one] = s / divisor, t / divisor
        y[r + np.uint64(2)], y[r + np.uint64(3)] = u / divisor, v / divisor
        r += np.uint64(4)
    for k in range(r, np.uint64(y.size)):
        a = k * step
        s = x[a]
        for i in range(one, step):
            s += x[a + i]
        y[k] = s / divisor


@jit_tuned
def column_sums(x: Array, rows: int, inner: int, total: Array) -> None:
    """Add up ``rows`` rows, ``inner`` elements apart, of as many columns as ``total`` has."""
    width = total.size
    for j in range(width):
        total[j] = x[j]
    k = 1
    while k + 4 <= rows:  # four rows to each load and store of the sums
        a, b, c, d = x[k * inner :], x[(k + 1) * inner :], x[(k + 2) * inner :], x[(k + 3) * inner :]
        for j in range(width):
            total[j] += (a[j] + b[j]) + (c[j] + d[j])
        k += 4
    while k < rows:
        row = x[k * inner :]
        for j in range(width):
            total[j] += row[j]
        k += 1


@jit_tuned
def narrow_column_sums(x: Array, rows: int, total: Array) -> None:
    """Add up rows too short for a register: as many at once as make one of up to 64 elements."""
    inner = total.size
    together = min(64 // inner, rows)
    wide = np.empty(together * inner, x.dtype)
    whole = rows // together
    column_sums(x, whole, wide.size, wide)
    rest = x[whole * wide.size : rows * inner]
    for j in range(rest.size):
        wide[j] += rest[j]
    column_sums(wide, together, inner, total)


@jit_elementwise
def sum_tiles(
    x: Array, n: int, inner: int, length: int, width: int, divisor: Any, first: int, last: int, y: Array
) -> None:
    """Do tasks first to last - 1; y has (outer, blocks of rows, inner) elements."""
    blocks, parts = (n + length - 1) // length, (inner + width - 1) // width
    if inner == 1 and blocks == 1:
        row_sums(x[first * n : last * n], n, divisor, y[first:last])
        return
    for t in range(first, last):
        b = t // parts
        block, column = b % blocks, t % parts * width
        start = b // blocks * n + block * length
        rows = min(length, n - block * length)
        if inner == 1:
            y[t] = row_sum(x[start : start + rows]) / divisor
            continue
        total = y[b * inner + column : b * inner + min(column + width, inner)]
        if inner <= 32:
            narrow_column_sums(x[start * inner :], rows, total)
        else:
            column_sums(x[start * inner + column :], rows, inner, total)
        if divisor != 1:
            for j in range(total.size):
                total[j] /= divisor


@jit_parallel
def sum_parallel(
    x: Array, n: int, inner: int, length: int, width: int, divisor: Any, tasks: int, share: int, y: Array
) -> None:
    for c in prange((tasks + share - 1) // share):
        last = min((c + 1) * share, tasks)
        sum_tiles(x, n, inner, length, width, divisor, c * share, last, y)


def sum_pass(x: Array, way: Pass, divisor: Any, y: Array) -> None:
    """Write the sums over the middle axis of flat x, over ``divisor``, to flat y."""
    outer, n, inner, length, width, blocks, tasks, share = way
    one = divisor if blocks == 1 else y.dtype.type(1)
    partial = y if blocks == 1 else empty((outer * blocks * inner,), x.dtype)
    if x.size < SERIAL_BELOW_IF_CHEAP:
        sum_tiles(x, n, inner, length, width, one, 0, tasks, partial)
    else:
        sum_parallel(x, n, inner, length, width, one, tasks, share, partial)
    if blocks > 1:
        tasks = outer * -(-inner // width)
        sum_tiles(partial, blocks, inner, blocks, width, divisor, 0, tasks, y)


@jit_elementwise
def spread_short_rows(dy: Array, n: int, divisor: Any, dx: Array) -> None:
    """Fill row o of n elements with dy[o] / divisor."""
    step = np.uint64(n)
    for o in range(np.uint64(dy.size)):
        share = dy[o] / divisor
        for i in range(o * step, o * step + step):
            dx[i] = share


@jit_elementwise
def spread_rows(dy: Array, n: int, inner: int, divisor: Any, first: int, last: int, dx: Array) -> None:
    """Write rows first to last - 1 of dx, (outer n) rows of inner elements: each is dy's row over divisor."""
    copies = min(max(512 // inner, 1), n)  # short rows are written several at a time
    wide = np.empty(copies * inner, dx.dtype)
    while first < last:
        o = first // n
        end = min((o + 1) * n, last)
        row, out = dy[o * inner : (o + 1) * inner], dx[first * inner : end * inner]
        first = end
        if inner == 1:
            share = row[0] / divisor
            for i in range(out.size):
                out[i] = share
            continue
        for k in range(copies):
            for j in range(inner):
                wide[k * inner + j] = row[j] / divisor
        for start in range(0, out.size, wide.size):
            target = out[start : start + wide.size]
            for i in range(target.size):
                target[i] = wide[i]


@jit_elementwise
def spread_units(dy: Array, n: int, inner: int, divisor: Any, first: int, last: int, dx: Array) -> None:
    """Write units first to last - 1 of dx: a unit is n elements if ``short``, else a row of inner."""
    if short(n, inner):
        spread_short_rows(dy[first:last], n, divisor, dx[first * n : last * n])
    else:
        spread_rows(dy, n, inner, divisor, first, last, dx)


@inline
def short(n: int, inner: int) -> bool:
    return inner == 1 and n < 256


@jit_parallel
def spread_parallel(dy: Array, n: int, inner: int, divisor: Any, units: int, share: int, dx: Array) -> None:
    for c in prange((units + share - 1) // share):
        spread_units(dy, n, inner, divisor, c * share, min((c + 1) * share, units), dx)


def spread_pass(dy: Array, way: Pass, divisor: Any, dx: Array) -> None:
    """Write flat dy / divisor to flat dx, n times side by side along the pass's middle axis."""
    _, n, inner = way[:3]
    unit = n if short(n, inner) else inner
    units = dx.size // unit
    if dx.size < SERIAL_BELOW_IF_CHEAP:
        spread_units(dy, n, inner, divisor, 0, units, dx)
    else:
        spread_parallel(dy, n, inner, divisor, units, share_of(units, unit), dx)


def make_tuned_sum(mean: bool) -> Body:
    """Return the body of sum, or of mean, which divides by n."""

    def forward(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array]:
        shape, n, passes = planned(x, dim, keepdim)
        y = empty(shape, x.dtype)
        if x.size == 0:
            y.fill(0)
            return (y,)
        flat, one = x.ravel(), x.dtype.type(1)
        for way in passes[:-1]:
            partial = empty((way.outer * way.inner,), x.dtype)
            sum_pass(flat, way, one, partial)
            flat = partial
        sum_pass(flat, passes[-1], x.dtype.type(n) if mean else one, y.ravel())
        return (y,)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
        dim: Dim = None, keepdim: bool = False,
    ) -> tuple[Array | None]:  # fmt: skip
        if not needs[0]:
            return (None,)
        (x,) = inputs
        dx = empty(x.shape, x.dtype)
        if x.size == 0:
            return (dx,)
        _, n, passes = planned(x, dim, keepdim)
        flat, one = dy.ravel(), x.dtype.type(1)
        for way in passes[:0:-1]:  # the passes backwards, the large one last
            wide = empty((way.outer * way.n * way.inner,), x.dtype)
            spread_pass(flat, way, one, wide)
            flat = wide
        spread_pass(flat, passes[0], x.dtype.type(n) if mean else one, dx.ravel())
        return (dx,)

    return Body(forward, backward)


sum_tuned, mean_tuned = make_tuned_sum(mean=False), make_tuned_sum(mean=True)
