"""conv2d with a group per channel: every filter reads one plane, and nothing is summed over channels.

    y[n, c m + k] = b[c m + k] + sum over r, s of w[c m + k, r, s] x[n, c], shifted by (r, s)        k < m

A matrix product's tile would have m rows of MR, so sums of shifted rows are written out here. A plane is an
image of its own, with one channel and filters of its own: the layout, the strides' phases and the way back
are those of ``planes``, for N C images.

    forward  four vectors of pixels at a time, a multiply-add per tap
    dx       the same over taps (k, r, s) of dy read backwards
    dw       five taps at a time: dy, in rows as wide as the plane's, times the plane from each tap on

A task is a plane, for dw a channel. Every result is computed by one task alone, so nothing depends on the
number of threads. Bound: a load for each multiply-add, 2 N K R S P Q FLOPs at half the machine's rate; with
few taps the bytes of x and y. Rows of 7 or 14 pixels leave vectors of 16 partly empty: PyTorch, with its
channels side by side, is two to three times faster there, and where a stride keeps dx's columns apart.
"""

from functools import lru_cache

import numpy as np

from nnkernels.machine.jit import inline, inline_always, jit_parallel, jit_tuned, prange, scalars, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import U, broadcast, fma, lanes, lanes_of, load, store
from nnkernels.ops.conv2d.direct import result_of
from nnkernels.ops.conv2d.planes import (
    CORRELATION,
    Correlation,
    Plan,
    forward_plan,
    gradient_plan,
    planes_size,
    unpack_rows,
)  # fmt: skip
from nnkernels.ops.conv2d.shapes import Pair, no_bias

TAPS = 5  # of dw, summed in one pass over dy: 9 and 25 nearly are multiples, and 5 sums hide a delay of 4


@lru_cache(maxsize=64)
def all_taps(count: int) -> Array:
    """Return 0, 1, ..., the filter elements of y's taps."""
    return np.arange(count, dtype=np.uint64)


@inline
def phase_columns(g: Correlation) -> Array:
    """Return for each phase b the first column j with 0 <= j sw + b - left < W, their number, and where in
    the image they begin.
    """
    columns = np.empty((g.phases_w, 3), np.int64)
    for b in range(g.phases_w):
        low = min(g.pitch, max(0, (g.left - b + g.sw - 1) // g.sw))
        columns[b, 0] = low
        columns[b, 1] = max(0, min(g.pitch, (g.W - 1 + g.left - b) // g.sw + 1) - low)
        columns[b, 2] = low * g.sw + b - g.left
    return columns


@inline
def split_size(g: Correlation) -> int:
    """Return the elements of a chunk's input rows, and a few more where a stride keeps columns apart."""
    rows = min(g.H, (g.plane_rows - 1) * g.sh + g.phases_h)
    return (rows * g.W // g.sw + 1) * g.sw if g.packed and g.sw > 1 else 0


@inline_always
def split_columns(x: Array, at: U, count: int, step: int, apart: int, split: Array) -> None:
    """split[b apart + j] = x[at + b + step j]: long runs, since a single row is too short for vectors."""
    if step == 2:
        for j in range(U(count // 2)):
            split[j] = x[at + U(2) * j]
            split[U(apart) + j] = x[at + U(2) * j + U(1)]
        if count % 2:
            split[U(count // 2)] = x[at + U(count - 1)]
    else:
        for b in range(step):
            for j in range(U((count - b + step - 1) // step)):
                split[U(b * apart) + j] = x[at + U(b) + U(step) * j]


@inline_always
def pack(
    x: Array, zero: Array, g: Correlation, columns: Array, n: int, first: int, split: Array, planes: Array
) -> None:
    """Do what ``pack_planes`` does, for few channels and many images.

    Whole vectors are stored, since what lies behind is zero or is written next; L elements overhang the end.
    """
    top, W, apart = max(0, first * g.sh - g.top), g.W, split_size(g) // g.sw
    L, nothing = lanes_of(x), broadcast(zero, U(0))
    end = min(g.H, (first + g.plane_rows - 1) * g.sh + g.phases_h - g.top)
    for c in range(g.C):
        start = ((n * g.C + c) * g.H + top) * W
        if g.sw > 1 and end > top:
            split_columns(x, U(start), (end - top) * W, g.sw, apart, split)
        for a in range(g.phases_h):
            for b in range(g.phases_w):
                low, length, column = columns[b, 0], columns[b, 1], columns[b, 2]
                to = U(((c * g.phases_h + a) * g.phases_w + b) * g.plane + low)
                for i in range(first, first + g.plane_rows):
                    h = i * g.sh + a - g.top
                    e = (h - top) * W + column
                    # No function for a row: counting who holds its arrays would take longer than 7 pixels.
                    if h < 0 or h >= g.H:
                        for j in range(0, length, L):
                            store(nothing, planes, to + U(j), L)
                    elif g.sw == 1:
                        for j in range(0, length, L):
                            store(load(x, U(start + e + j), length - j), planes, to + U(j), L)
                    else:
                        place = e % g.sw * apart + e // g.sw
                        for j in range(0, length, L):
                            store(load(split, U(place + j), length - j), planes, to + U(j), L)
                    to += U(g.pitch)


@jit_tuned
def tap_sums(
    w: Array, filter_at: U, taps: Array, b: Array, bias: U, x: Array, j: U, at: Array, first: int, T: int,
    length: int, sums: Array,
) -> None:  # fmt: skip
    """sums[i] = b[bias] + sum over T taps t from ``first`` on of w[filter_at + taps[t]] x[j + at[t] + i]."""
    L = lanes_of(x)
    for i in range(0, length, 4 * L):
        n = length - i
        n1, n2, n3 = max(0, n - L), max(0, n - 2 * L), max(0, n - 3 * L)
        s0 = s1 = s2 = s3 = broadcast(b, bias)
        for t in range(U(first), U(first + T)):
            a, source = broadcast(w, filter_at + taps[t]), j + at[t] + U(i)
            s0 = fma(a, load(x, source, n), s0)
            s1 = fma(a, load(x, source + U(L), n1), s1)
            s2 = fma(a, load(x, source + U(2 * L), n2), s2)
            s3 = fma(a, load(x, source + U(3 * L), n3), s3)
        store(s0, sums, U(i), n)
        store(s1, sums, U(i + L), n1)
        store(s2, sums, U(i + 2 * L), n2)
        store(s3, sums, U(i + 3 * L), n3)


@inline_always
def sum_chunk(
    src: Array, base: int, w: Array, filter_at: int, b: Array, bias: int, none: Array, parts: Array,
    offsets: Array, taps: Array, g: Correlation, n: int, first: int, sums: Array, y: Array,
) -> None:  # fmt: skip
    """Compute the rows from ``first`` on of all parts of image n."""
    for part in range(len(parts)):
        P, Q, row, column = parts[part, 0], parts[part, 1], parts[part, 2], parts[part, 3]
        start, first_tap, T = parts[part, 4], parts[part, 5], parts[part, 6]
        rows = min(g.rows, P - first)
        length, row = (rows - 1) * g.pitch + Q, row + first * g.row_step
        for k in range(g.K if rows > 0 else 0):
            tap_sums(
                w, U(filter_at + k * T), taps, b, U(bias + k), src, U(base + start), offsets, first_tap, T,
                length, sums,
            )  # fmt: skip
            unpack_rows(sums, length, none, g, Q, n, k, 1, rows, row, column, y)


@jit_tuned
def sum_slot(
    slot: int, slots: int, channels: int, x: Array, w: Array, b: Array, none: Array, parts: Array,
    offsets: Array, taps: Array, sizes: Array, work: Array, y: Array,
) -> None:  # fmt: skip
    """Compute every ``slots``-th image of y, or of dx from dy."""
    g = Correlation(*scalars(sizes, CORRELATION))
    columns, end, filters = phase_columns(g), planes_size(g) + lanes_of(x), w.size // channels
    planes, split, sums = work[:end], work[end : end + split_size(g)], work[end + split_size(g) :]
    planes[:] = 0
    for n in range(slot, g.N, slots):
        c = n % channels
        for first in range(0, g.P, g.rows):
            # The source is not put into a variable: counting who holds it takes as long as a small plane.
            if g.packed:
                pack(x, none, g, columns, n, first, split, planes)
                sum_chunk(
                    planes, signed(0), w, c * filters, b, c * g.K, none, parts, offsets, taps, g, n, first,
                    sums, y,
                )  # fmt: skip
            else:
                base = n * g.C * g.H * g.W + first * g.W
                sum_chunk(
                    x, base, w, c * filters, b, c * g.K, none, parts, offsets, taps, g, n, first, sums, y
                )


@jit_parallel
def sum_parallel(
    channels: int, x: Array, w: Array, b: Array, none: Array, parts: Array, offsets: Array, taps: Array,
    sizes: Array, work: Array, y: Array,
) -> None:  # fmt: skip
    for slot in prange(len(work)):
        sum_slot(signed(slot), len(work), channels, x, w, b, none, parts, offsets, taps, sizes, work[slot], y)


def run(plan: Plan, channels: int, taps: Array, x: Array, w: Array, b: Array | None, y: Array) -> None:
    """Write the plan's sums, and b for each filter or channel, to the pixels of y that the plan names."""
    g, values, slots, space, parts, offsets, _ = plan
    dtype = x.dtype
    bias = no_bias(channels * g.K, dtype.char) if b is None else b
    arrays = x.reshape(-1), w.reshape(-1), bias, no_bias(g.K, dtype.char), parts, offsets, taps, values
    slots = min(slots, g.N)
    work = empty((slots, space + split_size(g) + lanes(dtype)), dtype)
    if slots == 1:
        sum_slot(0, 1, channels, *arrays, work[0], y.reshape(-1))
    else:
        sum_parallel(channels, *arrays, work, y.reshape(-1))


def alone(x: tuple[int, ...], w: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes of N C images of one channel, and of the filters of one."""
    N, C, H, W = x
    return (N * C, 1, H, W), (w[0] // C, 1, *w[2:])


def forward(
    x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, relu: bool
) -> Array:
    """Return y (N, K, P, Q)."""
    N, C, _, _ = x.shape
    plan = forward_plan(*alone(x.shape, w.shape), stride, padding, dilation, 1, relu)
    g = plan.sizes
    y = empty((N, len(w), g.height, g.width), x.dtype)
    run(plan, C, all_taps(w.size // C), x, w, b, y)
    return y


def input_gradient(
    dy: Array, shape: tuple[int, ...], w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return dx of the given shape (N, C, H, W), plus b (C) if there is one."""
    plan = gradient_plan(*alone(shape, w.shape), stride, padding, dilation, 1)
    dx = result_of(plan, stride, shape, b, dy.dtype)
    if len(plan.parts):
        run(plan, shape[1], plan.taps.view(np.uint64), dy, w, b, dx)
    return dx


# --- dw ---


@jit_tuned
def add_taps(dy: Array, x: Array, j: U, at: Array, length: int, sums: Array, to: int) -> None:
    """sums[to + t] += dy x[j + at[t]], lane by lane, for all taps; at least TAPS of them are written."""
    L, last = lanes_of(x), at.size - 1
    for t in range(0, at.size, TAPS):
        j0, j1, j2 = j + at[t], j + at[min(t + 1, last)], j + at[min(t + 2, last)]
        j3, j4 = j + at[min(t + 3, last)], j + at[min(t + 4, last)]
        o = U((to + t) * L)
        s0, s1, s2 = load(sums, o, L), load(sums, o + U(L), L), load(sums, o + U(2 * L), L)
        s3, s4 = load(sums, o + U(3 * L), L), load(sums, o + U(4 * L), L)
        for i in range(0, length, L):
            n, e = length - i, U(i)
            v = load(dy, e, n)
            s0 = fma(v, load(x, j0 + e, n), s0)
            s1 = fma(v, load(x, j1 + e, n), s1)
            s2 = fma(v, load(x, j2 + e, n), s2)
            s3 = fma(v, load(x, j3 + e, n), s3)
            s4 = fma(v, load(x, j4 + e, n), s4)
        store(s0, sums, o, L)
        store(s1, sums, o + U(L), L)
        store(s2, sums, o + U(2 * L), L)
        store(s3, sums, o + U(3 * L), L)
        store(s4, sums, o + U(4 * L), L)


@inline_always
def dw_plane(
    dy: Array, x: Array, zero: Array, at: Array, g: Correlation, columns: Array, Q: int, n: int,
    padded: int, planes: Array, split: Array, row: Array, sums: Array, db: Array,
) -> None:  # fmt: skip
    """Add to the sums of a channel's filters, and to db, what one plane gives."""
    L = lanes_of(dy)
    for first in range(0, g.P, g.rows):
        rows = min(g.rows, g.P - first)
        length = (rows - 1) * g.pitch + Q
        if g.packed:
            pack(x, zero, g, columns, n, first, split, planes)
        for k in range(g.K):
            for p in range(rows):  # the zeros between the rows stay
                at_row = ((n * g.K + k) * g.P + first + p) * Q
                for q in range(0, Q, L):
                    store(load(dy, U(at_row + q), Q - q), row, U(p * g.pitch + q), L)
            if g.packed:
                add_taps(row, planes, U(0), at, length, sums, k * padded)
            else:
                add_taps(row, x, U((n * g.H + first) * g.W), at, length, sums, k * padded)
            total = row.dtype.type(0)
            for i in range(U(length if db.size > 0 else 0)):
                total += row[i]
            if db.size > 0:
                db[n * g.K % db.size + k] += total


@jit_tuned
def dw_slot(
    slot: int, slots: int, channels: int, Q: int, dy: Array, x: Array, zero: Array, offsets: Array,
    sizes: Array, work: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    """Compute the filters of every ``slots``-th channel."""
    g, L, T = Correlation(*scalars(sizes, CORRELATION)), lanes_of(x), offsets.size
    columns, padded, pixels = phase_columns(g), (T + TAPS - 1) // TAPS * TAPS, g.rows * g.pitch + L
    planes, rest = work[: planes_size(g) + L], work[planes_size(g) + L :]
    split, row, sums = rest[pixels:], rest[:pixels], rest[pixels + split_size(g) :]
    planes[:] = 0
    row[:] = 0
    for channel in range(slot, channels, slots):
        sums[:] = 0
        for k in range(channel * g.K, (channel + 1) * g.K if db.size > 0 else 0):
            db[k] = 0
        for n in range(channel, g.N, channels):
            dw_plane(dy, x, zero, offsets, g, columns, Q, n, padded, planes, split, row, sums, db)
        for k in range(g.K):
            for t in range(T):
                total, first = dw.dtype.type(0), U((k * padded + t) * L)
                for lane in range(U(L)):
                    total += sums[first + lane]
                dw[(channel * g.K + k) * T + t] = total


@jit_parallel
def dw_parallel(
    channels: int, Q: int, dy: Array, x: Array, zero: Array, offsets: Array, sizes: Array, work: Array,
    dw: Array, db: Array,
) -> None:  # fmt: skip
    for slot in prange(len(work)):
        dw_slot(signed(slot), len(work), channels, Q, dy, x, zero, offsets, sizes, work[slot], dw, db)


def weight_gradients(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, bias: bool
) -> tuple[Array, Array]:
    """Return dw (K, 1, R, S) and, if asked for, db (K)."""
    C, Q = x.shape[1], dy.shape[3]
    plan = forward_plan(*alone(x.shape, w.shape), stride, padding, dilation, 1, False)
    slots = min(plan.slots, C)
    g = plan.sizes
    taps = -(-plan.offsets.size // TAPS) * TAPS
    space = planes_size(g) + split_size(g) + g.rows * g.pitch + (g.K * taps + 2) * lanes(w.dtype)
    work = empty((slots, space), w.dtype)
    dw, db = empty(w.shape, w.dtype), empty((len(w) if bias else 0,), w.dtype)
    arrays = dy.reshape(-1), x.reshape(-1), no_bias(1, w.dtype.char), plan.offsets, plan.values
    if slots == 1:
        dw_slot(0, 1, C, Q, *arrays, work[0], dw.reshape(-1), db)
    else:
        dw_parallel(C, Q, *arrays, work, dw.reshape(-1), db)
    return dw, db
