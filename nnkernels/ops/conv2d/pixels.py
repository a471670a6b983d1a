"""conv2d forward with a stride: pixels x filters, as a matrix product over channels-last pixels.

    y[pixel, k] = sum over r of (pixels under filter row r) (S C) x (taps of row r) (S C, K)

Rows of the product are neighbouring output pixels, a stride apart in an image whose channels come last (see
``weights``); columns are filters. Nothing overhangs, however short the rows of y are, and a stride costs
nothing. Sums come out with filters last and are transposed into planes.

A task is a chunk of rows of one image, or a share of its filters where chunks are few. Every result is
computed by one task alone, so nothing depends on the number of threads. Bound: 2 N K C R S P Q FLOPs.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nnkernels.machine.jit import flag, jit_parallel, jit_tuned, prange, scalars, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, U, lanes, lanes_of
from nnkernels.machine.transpose import transpose
from nnkernels.ops.conv2d.shapes import SLOTS, Pair, no_bias
from nnkernels.ops.conv2d.weights import SIZES, Sizes, pack_pixels, weight_plan
from nnkernels.ops.matmul.gemm import row_offsets
from nnkernels.ops.matmul.micro import MR, block_product


class Tables(NamedTuple):
    """Offsets that transpositions and products go by."""

    filters: Array  # of the filters in w, and their lengths
    taps_each: Array
    places: Array  # of the taps (c, r, s) in a panel of filters, whose taps are in the order (r, s, c)
    panel_rows: Array
    sums: Array  # of a chunk's pixels in the sums, and their lengths
    filters_each: Array
    planes: Array  # of the filters' pixels in y


@lru_cache(maxsize=256)
def tables(C: int, R: int, S: int, K: int, pixels: int, plane: int, NR: int) -> Tables:
    """Return the tables for K filters (C, R, S), chunks of so many pixels, and planes of y."""
    taps = C * R * S
    c, r, s = np.ogrid[:C, :R, :S]
    places = (((r * S + s) * C + c) * NR).reshape(-1).astype(np.uint64)
    return Tables(
        row_offsets(K, taps), np.full(K, taps), places, row_offsets(S * C, NR),
        row_offsets(pixels, K), np.full(pixels, K), row_offsets(K, plane),
    )  # fmt: skip


@jit_tuned
def pack_filters(w: Array, t: Tables, block: int, u: Array) -> None:
    """Write a register's filters to panels of NR: u[panel][r, s, c][filter]."""
    taps, L = t.places.size, lanes_of(w)
    k = block * L
    to = k // (VECTORS * L) * VECTORS * L * taps + k % (VECTORS * L)
    for e in range(0, taps, L):
        transpose(
            w, 0, t.filters, t.taps_each, k, min(L, t.filters.size - k), e, min(L, taps - e), u, to, t.places
        )


@jit_tuned
def rows_of_image(
    task: int, shares: int, x: Array, u: Array, b: Array, numbers: Array, columns: Array, t: Tables,
    sizes: Array, relu: bool, packed: Array, sums: Array, y: Array,
) -> None:  # fmt: skip
    g = Sizes(*scalars(sizes, SIZES))
    chunks = (g.P + g.rows - 1) // g.rows
    chunk, share = task // shares, task % shares
    n, first = chunk // chunks, chunk % chunks * g.rows
    rows, L, pixel = min(g.rows, g.P - first), lanes_of(x), g.sw * g.depth
    pack_pixels(x, numbers, columns, g, n, 0, first, packed)
    NR, taps = VECTORS * L, g.R * g.S * g.C
    panels = (g.K + NR - 1) // NR
    low, high = panels * share // shares * NR, min(g.K, panels * (share + 1) // shares * NR)
    for k in range(low, high, NR):  # a panel of filters at a time: it stays in the L2 cache for all rows
        for p in range(rows):
            block_product(
                packed, U(p * g.sh * g.width * g.depth), MR * pixel, U(pixel), U(1), g.Q,
                u, U(k * taps), NR, t.panel_rows, min(NR, g.K - k), g.S * g.C,
                g.R, U(g.dh * g.width * g.depth), U(g.S * g.C * NR),
                sums, U(p * g.Q * g.K + k), U(g.K), flag(False),
            )  # fmt: skip
    pixels = rows * g.Q
    for i in range(U(pixels)):
        for k in range(U(low), U(high)):
            v = sums[i * U(g.K) + k] + b[k]
            sums[i * U(g.K) + k] = max(v, x.dtype.type(0)) if relu else v
    start = (n * g.K * g.P + first) * g.Q
    for k in range(low, high, L):
        for i in range(0, pixels, L):
            m, width = min(L, pixels - i), min(L, high - k)
            transpose(sums, 0, t.sums, t.filters_each, i, m, k, width, y, start + i, t.planes)


@jit_parallel
def forward_parallel(
    tasks: int, shares: int, x: Array, w: Array, b: Array, numbers: Array, columns: Array, t: Tables,
    sizes: Array, relu: bool, u: Array, packed: Array, sums: Array, y: Array,
) -> None:  # fmt: skip
    L = lanes_of(x)
    for block in prange((b.size + L - 1) // L):
        pack_filters(w, t, block, u)
    for slot in prange(len(sums)):
        for task in range(signed(slot), tasks, len(sums)):
            rows_of_image(
                task, shares, x, u, b, numbers, columns, t, sizes, relu, packed[slot], sums[slot], y
            )


def forward(
    x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int, relu: bool
) -> Array:
    """Return y (N, K, P, Q); the horizontal dilation must be 1, and there is one group."""
    plan = weight_plan(x.shape, w.shape, stride, padding, dilation, groups)
    g, dtype = plan.sizes, x.dtype
    NR, chunks = VECTORS * lanes(dtype), g.N * -(-g.P // g.rows)
    shares = max(1, min(-(-SLOTS // chunks), g.K // NR))
    tasks = chunks * shares
    slots = min(SLOTS, tasks)
    y = empty((g.N, g.K, g.P, g.Q), dtype)
    u = empty((-(-g.K // NR) * NR * g.C * g.R * g.S,), dtype)
    packed = empty((slots, g.packed_rows * g.width * g.depth), dtype)
    sums = empty((slots, g.rows * g.Q * g.K), dtype)
    t = tables(g.C, g.R, g.S, g.K, g.rows * g.Q, g.P * g.Q, NR)
    bias = no_bias(g.K, dtype.char) if b is None else b
    forward_parallel(
        tasks, shares, x.reshape(-1), w.reshape(-1), bias, plan.tables.numbers, plan.tables.pixels, t,
        plan.values, relu, u, packed, sums, y.reshape(-1),
    )  # fmt: skip
    return y
