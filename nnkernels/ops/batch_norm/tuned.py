"""batch_norm in blocks of x, which is seen as N rows of C S columns; sums run down the columns.

Down the columns, neighbours fill a vector register whether a channel has 1 column or 784. A block takes two
passes, mean first, and blocks are put together in float64: the variance within them plus that between them.
So a mean far from 0 costs no digits, as E[x^2] - E[x]^2 would (Chan, Golub and LeVeque, Algorithms for
Computing the Sample Variance, The American Statistician 37(3), 1983).

Bound: memory. Forward reads x and writes y, backward reads dy and x and writes dx, where a few channels fit
into an L2 cache: then one thread takes all steps for them. Where they do not, x (and dy) come from memory
twice, and the blocks of one channel are shared among the threads.
"""

import math
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, jit_elementwise, jit_parallel, jit_tuned, prange, signed, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW
from nnkernels.ops.batch_norm.shapes import Grads, Inputs, Needs, Outputs, weights

WIDTH = 1024  # columns of a block at most: some float32 rows of that length stay in an L1 cache
BLOCK = 1 << 15  # elements of a block, about: 128 KiB of float32
LONG = 32  # positions of a channel from which loops over one channel at a time are worth it
L2 = 1 << 16  # elements: dy and x of that size, 512 KiB of float32, stay in an L2 cache
THREADED = 2 * SERIAL_BELOW  # elements: three passes take about half a nanosecond an element
U = np.uint64
Plan = tuple[int, int, int, int, int, int, int, int]


def plan_for(x: Array) -> tuple[Plan, int]:
    """Return (N, C, S, span, length, rows, pieces, parts) and the number of spans.

    A span of channels is cut into ``parts`` blocks: up to ``rows`` images by up to ``length`` positions of a
    channel, ``pieces`` side by side (more than one only where ``span`` is 1).
    """
    N, C = x.shape[:2]
    S = math.prod(x.shape[2:])
    span = min(C, max(1, WIDTH // S))
    pieces = -(-S // WIDTH)
    length = -(-S // pieces)
    rows = min(N, -(-BLOCK // (span * length)))
    parts = pieces * -(-N // rows)
    return (N, C, S, span, length, rows, pieces, parts), -(-C // span)


@inline
def block_of(plan: Plan, i: int) -> tuple[int, int, U, int, int]:
    """Return a block: first channel, number of channels, first element, images, positions per channel."""
    N, C, S, span, length, rows, pieces, parts = plan
    c, n, s = i // parts * span, i % parts // pieces * rows, i % pieces * length
    return c, min(span, C - c), U((n * C + c) * S + s), min(rows, N - n), min(length, S - s)


@inline
def columns(values: Array, c: int, channels: int, length: int) -> Array:
    """Return the values of the channels from c on, each once per position."""
    row = np.empty(channels * length, values.dtype)
    for k in range(U(channels)):
        for s in range(U(length)):
            row[k * U(length) + s] = values[U(c) + k]
    return row


@inline
def gather(row: Array, k: int, length: int) -> Any:
    """Return the sum of the k-th channel's columns."""
    total = typed(0, row[0])
    for s in range(U(length)):
        total += row[U(k * length) + s]
    return total


@jit_tuned
def moments(x: Array, plan: Plan, i: int, sums: Array) -> None:
    """Write block i's count, mean and sum of squared distances from it, for each channel."""
    c, channels, at, rows, length = block_of(plan, i)
    width, step, part, count = U(channels * length), U(plan[1] * plan[2]), i % plan[7], rows * length
    total, square, centre = np.zeros(width, x.dtype), np.zeros(width, x.dtype), np.empty(width, x.dtype)
    # Four rows at a time: one load and store of the sum for four elements, and four streams from memory.
    for n in range(U(rows // 4)):
        r0 = at + U(4) * n * step
        r1, r2, r3 = r0 + step, r0 + U(2) * step, r0 + U(3) * step
        for j in range(width):
            total[j] += (x[r0 + j] + x[r1 + j]) + (x[r2 + j] + x[r3 + j])
    for n in range(U(rows // 4 * 4), U(rows)):
        for j in range(width):
            total[j] += x[at + n * step + j]
    for k in range(channels):
        about = gather(total, k, length) / count
        for s in range(length):
            centre[k * length + s] = about
    total[:] = 0
    for n in range(U(rows // 4)):
        r0 = at + U(4) * n * step
        r1, r2, r3 = r0 + step, r0 + U(2) * step, r0 + U(3) * step
        for j in range(width):
            m = centre[j]
            d0, d1, d2, d3 = x[r0 + j] - m, x[r1 + j] - m, x[r2 + j] - m, x[r3 + j] - m
            total[j] += (d0 + d1) + (d2 + d3)
            square[j] += (d0 * d0 + d1 * d1) + (d2 * d2 + d3 * d3)
    for n in range(U(rows // 4 * 4), U(rows)):
        for j in range(width):
            d = x[at + n * step + j] - centre[j]
            total[j] += d
            square[j] += d * d
    for k in range(channels):
        # centre is the rounded mean of rounded sums; the distances from it add up to how far it is off.
        off = gather(total, k, length) / count
        sums[0, part, c + k], sums[1, part, c + k] = count, centre[k * length] + off
        sums[2, part, c + k] = gather(square, k, length) - count * off * off


@jit_elementwise
def finish_moments(
    plan: Plan, first: int, last: int, sums: Array, w: Array, b: Array, eps: float, rstd: Array, by: Array
) -> None:
    """Put blocks of spans first to last - 1 together: rstd, and what y = (x - mean) scale + shift goes by."""
    N, C, S, span, parts = plan[0], plan[1], plan[2], plan[3], plan[7]
    for c in range(first * span, min(last * span, C)):
        total, square = 0.0, 0.0
        for part in range(parts):
            total += sums[0, part, c] * sums[1, part, c]
        mean = total / (N * S)
        for part in range(parts):
            square += sums[2, part, c] + sums[0, part, c] * (sums[1, part, c] - mean) ** 2
        rstd[c] = 1 / np.sqrt((0.0 if square < 0 else square) / (N * S) + eps)
        by[0, c], by[1, c] = mean, w[c] * rstd[c]
        by[2, c] = b[c] + by[1, c] * (by[0, c] - mean)  # what rounding took from the mean


@jit_elementwise
def normalise(x: Array, plan: Plan, i: int, by: Array, y: Array) -> None:
    """Write block i of y."""
    c, channels, at, rows, length = block_of(plan, i)
    step = U(plan[1] * plan[2])
    if length >= LONG:
        for k in range(channels):
            m, a, d = by[0, c + k], by[1, c + k], by[2, c + k]
            for n in range(U(rows)):
                r = at + n * step + U(k * length)
                for s in range(U(length)):
                    y[r + s] = (x[r + s] - m) * a + d
    else:
        mean, scale = columns(by[0], c, channels, length), columns(by[1], c, channels, length)
        shift = columns(by[2], c, channels, length)
        for n in range(U(rows)):
            r = at + n * step
            for j in range(U(shift.size)):
                y[r + j] = (x[r + j] - mean[j]) * scale[j] + shift[j]


@jit_elementwise
def forward_spans(
    x: Array, plan: Plan, first: int, last: int, sums: Array, w: Array, b: Array, eps: float,
    rstd: Array, by: Array, y: Array,
) -> None:  # fmt: skip
    for i in range(first * plan[7], last * plan[7]):
        moments(x, plan, i, sums)
    finish_moments(plan, first, last, sums, w, b, eps, rstd, by)
    for i in range(first * plan[7], last * plan[7]):
        normalise(x, plan, i, by, y)


@jit_parallel
def forward_by_spans(
    x: Array, plan: Plan, spans: int, sums: Array, w: Array, b: Array, eps: float,
    rstd: Array, by: Array, y: Array,
) -> None:  # fmt: skip
    for k in prange(spans):
        forward_spans(x, plan, signed(k), signed(k) + 1, sums, w, b, eps, rstd, by, y)


@jit_parallel
def forward_by_blocks(
    x: Array, plan: Plan, spans: int, sums: Array, w: Array, b: Array, eps: float,
    rstd: Array, by: Array, y: Array,
) -> None:  # fmt: skip
    for i in prange(spans * plan[7]):
        moments(x, plan, signed(i), sums)
    finish_moments(plan, 0, spans, sums, w, b, eps, rstd, by)
    for i in prange(spans * plan[7]):
        normalise(x, plan, signed(i), by, y)


@jit_tuned
def block_sums(dy: Array, x: Array, plan: Plan, i: int, mean: Array, sums: Array) -> None:
    """Write block i's sums of dy and of dy (x - mean), for each channel."""
    c, channels, at, rows, length = block_of(plan, i)
    width, step, part = U(channels * length), U(plan[1] * plan[2]), i % plan[7]
    total, dot = np.zeros(width, x.dtype), np.zeros(width, x.dtype)
    centre = columns(mean, c, channels, length)
    for n in range(U(rows // 4)):
        r0 = at + U(4) * n * step
        r1, r2, r3 = r0 + step, r0 + U(2) * step, r0 + U(3) * step
        for j in range(width):
            m = centre[j]
            g0, g1, g2, g3 = dy[r0 + j], dy[r1 + j], dy[r2 + j], dy[r3 + j]
            total[j] += (g0 + g1) + (g2 + g3)
            dot[j] += (g0 * (x[r0 + j] - m) + g1 * (x[r1 + j] - m)) + (
                g2 * (x[r2 + j] - m) + g3 * (x[r3 + j] - m)
            )
    for n in range(U(rows // 4 * 4), U(rows)):
        for j in range(width):
            total[j] += dy[at + n * step + j]
            dot[j] += dy[at + n * step + j] * (x[at + n * step + j] - centre[j])
    for k in range(channels):
        sums[0, part, c + k] = gather(total, k, length)
        sums[1, part, c + k] = gather(dot, k, length)


@jit_elementwise
def finish_sums(
    plan: Plan, first: int, last: int, sums: Array, w: Array, mean: Array, rstd: Array,
    dw: Array, db: Array, by: Array,
) -> None:  # fmt: skip
    """Put blocks together: dw, db, and what dx = scale (dy - along - (x - mean) across) goes by."""
    N, C, S, span = plan[0], plan[1], plan[2], plan[3]
    for c in range(first * span, min(last * span, C)):
        total, dot = 0.0, 0.0
        for part in range(plan[7]):
            total += sums[0, part, c]
            dot += sums[1, part, c]
        r = rstd[c]
        dw[c], db[c] = dot * r, total
        by[0, c], by[1, c] = mean[c], w[c] * r
        by[2, c], by[3, c] = total / (N * S), r * r * (dot / (N * S))


@jit_elementwise
def block_gradient(dy: Array, x: Array, plan: Plan, i: int, by: Array, dx: Array) -> None:
    """Write block i of dx."""
    c, channels, at, rows, length = block_of(plan, i)
    step = U(plan[1] * plan[2])
    if length >= LONG:
        for k in range(channels):
            m, a, g, h = by[0, c + k], by[1, c + k], by[2, c + k], by[3, c + k]
            for n in range(U(rows)):
                r = at + n * step + U(k * length)
                for s in range(U(length)):
                    dx[r + s] = a * ((dy[r + s] - g) - (x[r + s] - m) * h)
    else:
        mean, scale = columns(by[0], c, channels, length), columns(by[1], c, channels, length)
        along, across = columns(by[2], c, channels, length), columns(by[3], c, channels, length)
        for n in range(U(rows)):
            r = at + n * step
            for j in range(U(scale.size)):
                dx[r + j] = scale[j] * ((dy[r + j] - along[j]) - (x[r + j] - mean[j]) * across[j])


@jit_elementwise
def backward_spans(
    dy: Array, x: Array, plan: Plan, first: int, last: int, sums: Array, w: Array, mean: Array,
    rstd: Array, dw: Array, db: Array, by: Array, dx: Array,
) -> None:  # fmt: skip
    for i in range(first * plan[7], last * plan[7]):
        block_sums(dy, x, plan, i, mean, sums)
    finish_sums(plan, first, last, sums, w, mean, rstd, dw, db, by)
    if dx.size > 0:
        for i in range(first * plan[7], last * plan[7]):
            block_gradient(dy, x, plan, i, by, dx)


@jit_parallel
def backward_by_spans(
    dy: Array, x: Array, plan: Plan, spans: int, sums: Array, w: Array, mean: Array,
    rstd: Array, dw: Array, db: Array, by: Array, dx: Array,
) -> None:  # fmt: skip
    for k in prange(spans):
        backward_spans(dy, x, plan, signed(k), signed(k) + 1, sums, w, mean, rstd, dw, db, by, dx)


@jit_parallel
def backward_by_blocks(
    dy: Array, x: Array, plan: Plan, spans: int, sums: Array, w: Array, mean: Array,
    rstd: Array, dw: Array, db: Array, by: Array, dx: Array,
) -> None:  # fmt: skip
    for i in prange(spans * plan[7]):
        block_sums(dy, x, plan, signed(i), mean, sums)
    finish_sums(plan, 0, spans, sums, w, mean, rstd, dw, db, by)
    if dx.size > 0:
        for i in prange(spans * plan[7]):
            block_gradient(dy, x, plan, signed(i), by, dx)


def in_cache(plan: Plan, spans: int) -> bool:
    """Whether one thread should do all steps for a span: it fits into L2, and there is work for others."""
    N, _, S, span = plan[:4]
    return N * span * S <= L2 and spans >= 4


def batch_norm_forward_tuned(x: Array, w: Array | None, b: Array | None, *, eps: float = 1e-5) -> Outputs:
    C = x.shape[1]
    y, rstd, by = empty(x.shape, x.dtype), empty((C,), x.dtype), empty((3, C), x.dtype)
    if x.size > 0:
        plan, spans = plan_for(x)
        sums = empty((3, plan[7], C), np.float64)
        given_on = sums, *weights(x, w, b), float(eps), rstd, by, y.reshape(-1)
        if x.size < THREADED:
            forward_spans(x.reshape(-1), plan, 0, spans, *given_on)
        elif in_cache(plan, spans):
            forward_by_spans(x.reshape(-1), plan, spans, *given_on)
        else:
            forward_by_blocks(x.reshape(-1), plan, spans, *given_on)
    return y, by[0], rstd


def batch_norm_backward_tuned(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, eps: float = 1e-5
) -> Grads:
    (x, w, b), (_, mean, rstd) = inputs, outputs
    C = x.shape[1]
    dx = empty(x.shape if needs[0] else (0,), x.dtype)
    dw, db = empty((C,), x.dtype), empty((C,), x.dtype)
    if x.size > 0:
        plan, spans = plan_for(x)
        sums, by = empty((2, plan[7], C), np.float64), empty((4, C), x.dtype)
        given_on = sums, weights(x, w, b)[0], mean, rstd, dw, db, by, dx.reshape(-1)
        if x.size < THREADED:
            backward_spans(dy.reshape(-1), x.reshape(-1), plan, 0, spans, *given_on)
        elif in_cache(plan, spans):
            backward_by_spans(dy.reshape(-1), x.reshape(-1), plan, spans, *given_on)
        else:
            backward_by_blocks(dy.reshape(-1), x.reshape(-1), plan, spans, *given_on)
    return dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None
