"""conv2d's dx as a matrix product, whose rows are then added up where their taps lie (im2col's transpose).

    columns[(c, r, s), (p, q)] = sum over k of w[k, c, r, s] dy[k, p, q]
    dx[c, sh p + dh r - ph, sw q + dw s - pw] += columns[(c, r, s), (p, q)]

Both operands are read as they lie, whatever the stride is. The sums of shifted rows (``direct``) need the
filters in another order for dx, and that takes longer than the product where pixels are few.

A task is a block of channels: it copies their columns of w side by side, where they stay in the L2 cache
while one image after the other is multiplied. Every result is computed by one task alone, so nothing depends
on the number of threads. Bound: 2 N K C R S P Q FLOPs.
"""

from typing import NamedTuple

import numpy as np

from nnkernels.machine.jit import flag, jit_elementwise, jit_parallel, jit_tuned, prange, scalars, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, U, lanes_of, load, store
from nnkernels.ops.conv2d.shapes import SLOTS, Pair, no_bias
from nnkernels.ops.matmul.gemm import SERIAL_BELOW, row_offsets
from nnkernels.ops.matmul.micro import MR, block_product

CHANNELS = 16  # of a task: of 3 x 3 taps 144 columns, with 512 filters 288 KiB of float32


class Sizes(NamedTuple):
    """Sizes of one dx."""

    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int


SIZES = len(Sizes._fields)


@jit_elementwise
def add_columns(columns: Array, g: Sizes, image: int, first: int, channels: int, dx: Array) -> None:
    """Add the rows (c, r, s) of the columns to the planes of dx from channel ``first`` on."""
    L = lanes_of(dx)
    for row in range(channels * g.R * g.S):
        c, r, s = row // (g.R * g.S), row // g.S % g.R * g.dh - g.ph, row % g.S * g.dw - g.pw
        # Columns q with 0 <= q sw + s < W.
        low, high = max(0, (g.sw - 1 - s) // g.sw), min(g.Q, (g.W - 1 - s) // g.sw + 1)
        for p in range(g.P):
            h = p * g.sh + r
            if h < 0 or h >= g.H or high <= low:
                continue
            at = U((row * g.P + p) * g.Q + low)
            to = U(((image * g.C + first + c) * g.H + h) * g.W + low * g.sw + s)
            if g.sw == 1:
                for q in range(0, high - low, L):
                    n = high - low - q
                    store(load(dx, to + U(q), n) + load(columns, at + U(q), n), dx, to + U(q), n)
            else:
                for q in range(U(high - low)):
                    dx[to + q * U(g.sw)] += columns[at + q]


@jit_tuned
def block_of_channels(
    task: int, dy: Array, w: Array, b: Array, at: Array, g: Sizes, packed: Array, columns: Array, dx: Array
) -> None:
    first, taps, plane = task * CHANNELS, g.R * g.S, g.H * g.W
    channels = min(CHANNELS, g.C - first)
    width = channels * taps
    for k in range(g.K):
        i, o = U((k * g.C + first) * taps), U(k * width)
        for e in range(U(width)):
            packed[o + e] = w[i + e]
    for n in range(g.N):
        for c in range(first, first + channels):
            to = U((n * g.C + c) * plane)
            for e in range(U(plane)):
                dx[to + e] = b[c]
        block_product(
            packed, U(0), MR, U(1), U(width), width, dy, U(n * g.K * g.P * g.Q), VECTORS * lanes_of(dx), at,
            g.P * g.Q, g.K, signed(1), U(0), U(0), columns, U(0), U(g.P * g.Q), flag(False),
        )  # fmt: skip
        add_columns(columns, g, n, first, channels, dx)


@jit_tuned
def channels_slot(
    slot: int, slots: int, dy: Array, w: Array, b: Array, at: Array, sizes: Array, packed: Array,
    columns: Array, dx: Array,
) -> None:  # fmt: skip
    """Compute every ``slots``-th block of channels."""
    g = Sizes(*scalars(sizes, SIZES))
    for task in range(slot, (g.C + CHANNELS - 1) // CHANNELS, slots):
        block_of_channels(task, dy, w, b, at, g, packed, columns, dx)


@jit_parallel
def channels_parallel(
    dy: Array, w: Array, b: Array, at: Array, sizes: Array, packed: Array, columns: Array, dx: Array
) -> None:
    for slot in prange(len(packed)):
        channels_slot(signed(slot), len(packed), dy, w, b, at, sizes, packed[slot], columns[slot], dx)


def input_gradient(
    dy: Array, shape: tuple[int, ...], w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair
) -> Array:
    """Return dx of the given shape (N, C, H, W), plus b (C) if there is one; there is one group."""
    (N, C, H, W), (K, _, R, S), (P, Q) = shape, w.shape, dy.shape[2:]
    sizes = Sizes(N, C, H, W, K, R, S, P, Q, *stride, *padding, *dilation)
    slots = 1 if w.size * N * P * Q < SERIAL_BELOW else min(SLOTS, -(-C // CHANNELS))
    width = min(C, CHANNELS) * R * S
    packed, columns = empty((slots, K * width), dy.dtype), empty((slots, width * P * Q), dy.dtype)
    dx = empty(shape, dy.dtype)
    bias = no_bias(C, dy.dtype.char) if b is None else b
    arrays = dy.reshape(-1), w.reshape(-1), bias, row_offsets(K, P * Q), np.array(sizes, np.int64)
    if slots == 1:
        channels_slot(signed(0), signed(1), *arrays, packed[0], columns[0], dx.reshape(-1))
    else:
        channels_parallel(*arrays, packed, columns, dx.reshape(-1))
    return dx
