"""conv2d's dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] x[n, c, p + r, q + s], and its db.

A matrix product over pixels: rows are filters, and dy has them as they should be, one filter's pixels in a
row. Columns are taps, so each pixel needs its taps side by side. In an image with its channels last, the taps
(s, c) of a filter row are: pixel (p, q) and the S - 1 pixels to its right. Nothing is copied twice. Where
channels are few, a filter row alone would leave vectors half empty; then the R image rows under a filter are
laid side by side as if they were channels, and all taps (s, c, r) are one run.

Partial sums: chunks of images are dealt to ``slots`` with a dw each, which are added up in order, and the
filters are cut into ``parts``; both numbers depend on sizes alone. Bound: 2 N K C R S P Q FLOPs.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.jit import jit_elementwise, jit_parallel, jit_tuned, prange, scalars
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, U, lanes_of
from nnkernels.ops.conv2d.shapes import Pair, out_length
from nnkernels.ops.matmul.micro import MR, block_product

TASKS = 8
SERIAL_BELOW = 1_200_000  # multiply-adds: about 10 us of work, what waking a second thread costs
FEW = 48  # taps (s, c) of a filter row: with fewer, rows are laid side by side
SLOT_ELEMENTS = 1 << 16  # of dw: larger ones are not worth keeping several times
SHARED_ELEMENTS = 1 << 24  # of all packed chunks: 64 MiB of float32
PIXELS = 384  # output pixels of a chunk: the depth of a tile's sums


class Sizes(NamedTuple):
    """Sizes of one weight gradient."""

    N: int
    C: int  # channels of one group
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
    together: int  # filter rows laid side by side: 1 or R
    run_s: int  # filter columns in a run: S, or 1 where a dilation keeps them apart
    depth: int  # numbers of a packed pixel: C * together
    rows: int  # output rows of a chunk
    packed_rows: int
    width: int  # packed pixels of a row
    row_step: int  # packed rows from one output row to the next
    slots: int
    parts: int
    shared: bool  # all chunks are packed first: several parts would each pack them again


SIZES = len(Sizes._fields)


class Plan(NamedTuple):
    """Sizes, and where the run of each output pixel of a chunk begins."""

    sizes: Sizes
    values: Array  # the same, for kernels
    at: Array
    packed: tuple[int, int]  # shapes of the workspaces: packed chunks, and a dw for each slot
    partial: tuple[int, int]


@lru_cache(maxsize=256)
def weight_plan(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Plan:
    """Return the plan of dw for shapes x (N, C, H, W) and w (K, C / groups, R, S)."""
    (N, _, H, W), (K, C, R, S) = x, w
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    P, Q = out_length(H, R, sh, ph, dh), out_length(W, S, sw, pw, dw)
    chunks = max(1, min(P, -(-P * Q // PIXELS)))
    rows = max(1, -(-P // chunks))
    if N * K * P * Q * C * R * S < SERIAL_BELOW:
        slots = parts = 1
    else:
        slots = max(1, min(N * -(-P // rows), TASKS, TASKS * SLOT_ELEMENTS // (K * C * R * S)))
        parts = max(1, min(-(-TASKS // slots), -(-(K // groups) // MR)))
    together = R if C * S < FEW else 1
    packed_rows = rows if together > 1 else (rows - 1) * sh + dh * (R - 1) + 1
    depth, width, row_step = C * together, W + 2 * pw, 1 if together > 1 else sh
    every = N * -(-P // rows) * packed_rows * width * depth
    shared = parts > 1 and groups == 1 and every <= SHARED_ELEMENTS
    p, q = np.ogrid[:rows, :Q]
    at = (p * row_step * width + q * sw) * depth
    sizes = Sizes(
        N, C, H, W, K, R, S, P, Q, sh, sw, ph, pw, dh, dw, groups, together, S if dw == 1 else 1, depth,
        rows, packed_rows, width, row_step, slots, parts, shared,
    )  # fmt: skip
    packed = (N * -(-P // rows) if shared else slots * parts, packed_rows * width * depth)
    partial = (slots, K * C * R * S)
    return Plan(sizes, np.array(sizes, np.int64), at.reshape(-1).astype(np.uint64), packed, partial)


@jit_elementwise
def pack_pixels(x: Array, g: Sizes, n: int, group: int, first: int, out: Array) -> None:
    """Write the input rows under the output rows from ``first`` on, all numbers of a pixel side by side.

    Columns of zeros left and right are there already.
    """
    step = U(g.depth)
    for i in range(g.packed_rows):
        for c in range(g.C):
            for r in range(g.together):
                to = U((i * g.width + g.pw) * g.depth + c * g.together + r)
                h = first * g.sh + i * (g.sh if g.together > 1 else 1) + r * g.dh - g.ph
                if h < 0 or h >= g.H:
                    for j in range(U(g.W)):
                        out[to + j * step] = 0
                else:
                    at = U((((n * g.groups + group) * g.C + c) * g.H + h) * g.W)
                    for j in range(U(g.W)):
                        out[to + j * step] = x[at + j]


@jit_tuned
def dw_chunk(
    dy: Array, x: Array, at: Array, g: Sizes, n: int, first: int, part: int, packed: Array, dw: Array
) -> None:
    """Add what the output rows from ``first`` on of image n give to the filters of a part."""
    filters, NR, run = g.K // g.groups, VECTORS * lanes_of(dw), g.run_s * g.depth
    panels, pixels = (filters + MR - 1) // MR, min(g.rows, g.P - first) * g.Q
    low, high = panels * part // g.parts * MR, min(filters, panels * (part + 1) // g.parts * MR)
    for group in range(g.groups):
        if not g.shared:
            pack_pixels(x, g, n, group, first, packed)
        k = group * filters + low
        i = U(((n * g.K + k) * g.P + first) * g.Q)
        for r in range(g.R // g.together):
            for s in range(g.S // g.run_s):
                block_product(
                    dy, i, MR * g.P * g.Q, U(g.P * g.Q), U(1), high - low,
                    packed, U((r * g.dh * g.width + s * g.dw) * g.depth), NR, at, run, pixels,
                    dw, U(((r * (g.S // g.run_s) + s) * g.K + k) * run), U(run), True,
                )  # fmt: skip


@jit_tuned
def dw_task(task: int, dy: Array, x: Array, at: Array, g: Sizes, packed: Array, dw: Array) -> None:
    """Sum a slot's chunks of images for a part of the filters."""
    slot, part = task // g.parts, task % g.parts
    if not g.shared:
        packed[task, :] = 0
    chunks = (g.P + g.rows - 1) // g.rows
    for chunk in range(slot, g.N * chunks, g.slots):
        pixels = packed[chunk] if g.shared else packed[task]
        dw_chunk(dy, x, at, g, chunk // chunks, chunk % chunks * g.rows, part, pixels, dw)


@jit_tuned
def dw_serial(
    dy: Array, x: Array, at: Array, sizes: Array, packed: Array, partial: Array, dw: Array, db: Array
) -> None:
    g = Sizes(*scalars(sizes, SIZES))
    partial[:] = 0
    dw_task(0, dy, x, at, g, packed, partial[0])
    for k in range(g.K):
        gather_filter(partial, g, k, dw)
        if db.size > 0:
            db[k] = bias_gradient(dy, g, k)


@jit_parallel
def dw_parallel(
    dy: Array, x: Array, at: Array, sizes: Array, packed: Array, partial: Array, dw: Array, db: Array
) -> None:
    g = Sizes(*scalars(sizes, SIZES))
    for slot in prange(g.slots):
        partial[slot, :] = 0
    chunks = (g.P + g.rows - 1) // g.rows
    if g.shared:
        for chunk in prange(g.N * chunks):
            packed[chunk, :] = 0
            pack_pixels(x, g, chunk // chunks, 0, chunk % chunks * g.rows, packed[chunk])
    for task in prange(g.slots * g.parts):
        dw_task(task, dy, x, at, g, packed, partial[task // g.parts])
    for k in prange(g.K):
        gather_filter(partial, g, k, dw)
        if db.size > 0:
            db[k] = bias_gradient(dy, g, k)


@jit_tuned
def gather_filter(partial: Array, g: Sizes, k: int, dw: Array) -> None:
    """Add up the slots' sums of filter k, slot by slot, and write them as dw[k, c, r, s]."""
    step = U(g.R * g.S)
    for r in range(g.R):
        for s in range(g.S):
            to = U(k * g.C * g.R * g.S + r * g.S + s)
            # partial[slot, r // together, s // run_s, k, s % run_s, c, r % together]
            row = (r // g.together * (g.S // g.run_s) + s // g.run_s) * g.K + k
            at = U((row * g.run_s + s % g.run_s) * g.depth + r % g.together)
            for c in range(U(g.C)):
                dw[to + c * step] = partial[0, at + c * U(g.together)]
            for slot in range(1, g.slots):
                for c in range(U(g.C)):
                    dw[to + c * step] += partial[slot, at + c * U(g.together)]


@jit_tuned
def bias_gradient(dy: Array, g: Sizes, k: int) -> Any:
    """Return db[k] = sum over n, p, q of dy[n, k, p, q]."""
    total, pixels = dy.dtype.type(0), U(g.P * g.Q)
    for n in range(g.N):
        at = U(n * g.K + k) * pixels
        for q in range(pixels):
            total += dy[at + q]
    return total


def weight_gradients(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, bias: bool
) -> tuple[Array, Array]:
    """Return dw (K, C / groups, R, S) and, if asked for, db (K)."""
    if not dy.size:
        return np.zeros_like(w), np.zeros(len(w), w.dtype)
    g, values, at, packed_shape, partial_shape = weight_plan(
        x.shape, w.shape, stride, padding, dilation, groups
    )
    dtype = w.dtype
    packed, partial = empty(packed_shape, dtype), empty(partial_shape, dtype)
    dw, db = empty(w.shape, dtype), empty((g.K if bias else 0,), dtype)
    run = dw_serial if g.slots * g.parts == 1 else dw_parallel
    run(dy.reshape(-1), x.reshape(-1), at, values, packed, partial, dw.reshape(-1), db)
    return dw, db
