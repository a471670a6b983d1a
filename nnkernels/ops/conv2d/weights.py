"""conv2d's weight gradient: dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] x[n, c, p + r, q + s].

A matrix product over pixels: rows are filters, and dy has them as they should be, one filter's pixels in a row.
Columns are taps, so each pixel needs its taps side by side:

- many channels: the padded image with its channels last. For filter position (r, s) the row of pixel (p, q) is
  that of the pixel below it; nothing is copied twice.
- few channels: all taps (c, r, s) of each output pixel, written out (im2col), for a chunk of rows at a time.

Partial sums: images are dealt to ``slots`` with a dw each, which are added up in order, and the filters are cut
into ``parts``; both numbers depend on sizes alone. Bound: 2 N K C R S P Q FLOPs.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nnkernels.machine.jit import jit_elementwise, jit_parallel, jit_tuned, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, U, lanes_of
from nnkernels.ops.conv2d.shapes import Pair, out_length
from nnkernels.ops.matmul.micro import MR, block_product

TASKS = 8
CHANNELS_LAST = 16  # channels from which a vector of channels is full enough
SLOT_ELEMENTS = 1 << 17  # of dw: larger ones are not worth keeping several times
PIXELS = 384  # output pixels of a chunk: the depth of a tile's sums


class Sizes(NamedTuple):
    """Sizes of one weight gradient."""

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
    groups: int
    channels_last: bool
    rows: int  # output rows of a chunk
    taps: int  # columns of a packed pixel: all channels, or the taps of one group
    pixels: int  # packed pixels of a chunk
    width: int  # packed pixels of a row
    slots: int
    parts: int


class Plan(NamedTuple):
    sizes: Sizes
    at: Array  # where the row of each output pixel of a chunk lies


@lru_cache(maxsize=256)
def weight_plan(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Plan:
    """Return the plan of dw for shapes x (N, C, H, W) and w (K, C / groups, R, S)."""
    (N, C, H, W), (K, per_group, R, S) = x, w
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    P, Q = out_length(H, R, sh, ph, dh), out_length(W, S, sw, pw, dw)
    chunks = max(1, min(P, -(-P * Q // PIXELS)))
    rows = max(1, -(-P // chunks))
    last = per_group >= CHANNELS_LAST
    slots = max(1, min(N, TASKS, TASKS * SLOT_ELEMENTS // (K * per_group * R * S)))
    parts = max(1, min(-(-TASKS // slots), -(-(K // groups) // MR)))
    p, q = np.ogrid[:rows, :Q]
    if last:
        width = W + 2 * pw
        pixels, taps, at = ((rows - 1) * sh + dh * (R - 1) + 1) * width, C, (p * sh * width + q * sw) * C
    else:
        width, pixels, taps = Q, rows * Q, per_group * R * S
        at = (p * Q + q) * taps
    sizes = Sizes(
        N, C, H, W, K, R, S, P, Q, sh, sw, ph, pw, dh, dw, groups, last, rows, taps, pixels, width,
        slots, parts,
    )  # fmt: skip
    return Plan(sizes, at.reshape(-1).astype(np.uint64))


@jit_elementwise
def pack_channels_last(x: Array, g: Sizes, n: int, first: int, out: Array) -> None:
    """Write the padded input rows under the output rows from ``first`` on, channels last."""
    for i in range(g.pixels // g.width):
        h = first * g.sh + i - g.ph
        for c in range(g.C):
            to = U(i * g.width * g.C + c)
            if h < 0 or h >= g.H:
                for j in range(U(g.width)):
                    out[to + j * U(g.C)] = 0
                continue
            for j in range(U(g.pw)):
                out[to + j * U(g.C)] = 0
                out[to + (U(g.pw + g.W) + j) * U(g.C)] = 0
            at = U(((n * g.C + c) * g.H + h) * g.W)
            to += U(g.pw * g.C)
            for j in range(U(g.W)):
                out[to + j * U(g.C)] = x[at + j]


@jit_elementwise
def pack_taps(x: Array, g: Sizes, n: int, group: int, first: int, rows: int, out: Array) -> None:
    """Write the taps (c, r, s) of every output pixel of ``rows`` rows side by side."""
    C = g.C // g.groups
    for c in range(C):
        for r in range(g.R):
            for s in range(g.S):
                # Columns q with 0 <= q sw + s dw - pw < W.
                low = min(g.Q, max(0, (g.pw - s * g.dw + g.sw - 1) // g.sw))
                high = max(low, min(g.Q, (g.W - 1 + g.pw - s * g.dw) // g.sw + 1))
                for p in range(rows):
                    to = U(p * g.Q * g.taps + (c * g.R + r) * g.S + s)
                    h = (first + p) * g.sh + r * g.dh - g.ph
                    if h < 0 or h >= g.H:
                        for q in range(U(g.Q)):
                            out[to + q * U(g.taps)] = 0
                        continue
                    at = U(((n * g.C + group * C + c) * g.H + h) * g.W + low * g.sw + s * g.dw - g.pw)
                    for q in range(U(low)):
                        out[to + q * U(g.taps)] = 0
                    for q in range(U(high - low)):
                        out[to + (q + U(low)) * U(g.taps)] = x[at + q * U(g.sw)]
                    for q in range(U(high), U(g.Q)):
                        out[to + q * U(g.taps)] = 0


@jit_tuned
def dw_chunk(
    dy: Array, x: Array, at: Array, g: Sizes, n: int, first: int, part: int, packed: Array, dw: Array
) -> None:
    """Add what the output rows from ``first`` on of image n give to the filters of a part."""
    rows = min(g.rows, g.P - first)
    C, filters, NR = g.C // g.groups, g.K // g.groups, VECTORS * lanes_of(dw)
    low = (filters + MR - 1) // MR * part // g.parts * MR
    high = min(filters, (filters + MR - 1) // MR * (part + 1) // g.parts * MR)
    if g.channels_last:
        pack_channels_last(x, g, n, first, packed)
    for group in range(g.groups):
        if not g.channels_last:
            pack_taps(x, g, n, group, first, rows, packed)
        k = group * filters + low
        i, pixels = U(((n * g.K + k) * g.P + first) * g.Q), rows * g.Q
        if g.channels_last:  # dw[r, s, k, c]
            for r in range(g.R):
                for s in range(g.S):
                    j = U((r * g.dh * g.width + s * g.dw) * g.C + group * C)
                    block_product(
                        dy, i, MR * g.P * g.Q, U(g.P * g.Q), U(1), high - low, packed, j, NR, at, C, pixels,
                        dw, U(((r * g.S + s) * g.K + k) * C), U(C), True,
                    )  # fmt: skip
        else:  # dw[k, c, r, s]
            block_product(
                dy, i, MR * g.P * g.Q, U(g.P * g.Q), U(1), high - low, packed, U(0), NR, at, g.taps, pixels,
                dw, U(k * g.taps), U(g.taps), True,
            )  # fmt: skip


@jit_tuned
def dw_task(
    task: int, dy: Array, x: Array, at: Array, g: Sizes, packed: Array, dw: Array
) -> None:
    """Sum a slot's images for a part of the filters."""
    slot, part = task // g.parts, task % g.parts
    for n in range(slot, g.N, g.slots):
        for first in range(0, g.P, g.rows):
            dw_chunk(dy, x, at, g, n, first, part, packed, dw)


@jit_parallel
def dw_parallel(dy: Array, x: Array, at: Array, g: Sizes, packed: Array, dw: Array) -> None:
    for slot in prange(g.slots):
        dw[slot, :] = 0
    for task in prange(g.slots * g.parts):
        dw_task(task, dy, x, at, g, packed[task], dw[task // g.parts])


@jit_parallel
def gather_dw(partial: Array, g: Sizes, dw: Array) -> None:
    """Add the slots' sums, slot by slot, and write them as dw[k, c, r, s]."""
    C, RS = g.C // g.groups, g.R * g.S
    for k in prange(g.K):
        if g.channels_last:
            for t in range(RS):
                at, to = U((t * g.K + k) * C), U(k * C * RS + t)
                for c in range(U(C)):
                    dw[to + c * U(RS)] = partial[0, at + c]
                for slot in range(1, g.slots):
                    for c in range(U(C)):
                        dw[to + c * U(RS)] += partial[slot, at + c]
        else:
            at = U(k * C * RS)
            for c in range(U(C * RS)):
                dw[at + c] = partial[0, at + c]
            for slot in range(1, g.slots):
                for c in range(U(C * RS)):
                    dw[at + c] += partial[slot, at + c]


@jit_tuned
def bias_gradient_kernel(dy: Array, N: int, K: int, pixels: int, db: Array) -> None:
    """db[k] = sum over n, p, q of dy[n, k, p, q]."""
    for k in range(K):
        total = dy.dtype.type(0)
        for n in range(N):
            at = U((n * K + k) * pixels)
            for q in range(U(pixels)):
                total += dy[at + q]
        db[k] = total


def weight_gradient(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Array:
    """Return dw (K, C / groups, R, S)."""
    if not dy.size:
        return np.zeros_like(w)
    g, at = weight_plan(x.shape, w.shape, stride, padding, dilation, groups)
    packed = empty((g.slots * g.parts, g.pixels * g.taps), x.dtype)
    partial = empty((g.slots, w.size), x.dtype)
    dw = empty(w.shape, x.dtype)
    dw_parallel(dy.reshape(-1), x.reshape(-1), at, g, packed, partial)
    gather_dw(partial, g, dw.reshape(-1))
    return dw


def bias_gradient(dy: Array) -> Array:
    """Return db (K)."""
    N, K, P, Q = dy.shape
    db = empty((K,), dy.dtype)
    bias_gradient_kernel(dy.reshape(-1), N, K, P * Q, db)
    return db
