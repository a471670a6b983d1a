"""conv2d over flat planes (see ``planes``): shifted rows times weights, in 4 x 4 register tiles.

Groups of images are dealt to a fixed number of slots, slot i taking groups i, i + slots, ...; threads share
the slots. Each slot has a workspace of its own, and dw is summed slot by slot in one order, so the result
does not depend on the number of threads.

    forward  y[k]  = sum over taps of w[k, t] x[t]         rows: K filters, taps (c, r, s)
    dx       dx[c] = sum over taps of w[t, c] dy[t]        rows: C channels, taps (k, r, s) read backwards
    dw       dw[k, t] = dy[k] . x[t]                       dot products of long rows

Bound: 2 N K C R S P Q FLOPs each, of which P Q / (Hq Wq) are useful.
"""

import numpy as np

from nnkernels.machine.jit import jit_parallel, jit_tuned, prange
from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.ops.conv2d.planes import (
    LANES,
    Geometry,
    flat,
    geometry,
    gradient_offsets,
    input_offsets,
    pack_gradient,
    pack_input,
    padded_matrix,
    round_up,
    slot_count,
    unpack_input_gradient,
    unpack_output,
)  # fmt: skip
from nnkernels.ops.conv2d.shapes import Pair
from nnkernels.ops.matmul.tiles import TILE, U, axpy_tile, dot_tile
from nnkernels.ops.validate import pair

BLOCK = 1024  # elements of a row per pass: 4 rows of sums and 4 of input are 32 KiB of float32


@jit_tuned
def correlate(
    w: Array, offsets: Array, src: Array, b: Array, rows: int, length: int, stride: int, out: Array
) -> None:
    """out[i, :] = b[i] + sum over t of w[i, t] src[offsets[t] :], for ``rows`` rows (a multiple of 4).

    A block of 4 rows of sums stays in the L1 cache while all taps are added to it, 4 at a time.
    """
    T = offsets.size
    for first in range(0, length, BLOCK):
        n = min(BLOCK, length - first)
        f = U(first)
        for i in range(0, rows, TILE):
            i0, i1, i2, i3 = U(i * T), U((i + 1) * T), U((i + 2) * T), U((i + 3) * T)
            p0, p1 = U(i * stride + first), U((i + 1) * stride + first)
            p2, p3 = U((i + 2) * stride + first), U((i + 3) * stride + first)
            for q in range(U(n)):
                out[p0 + q] = b[i]
                out[p1 + q] = b[i + 1]
                out[p2 + q] = b[i + 2]
                out[p3 + q] = b[i + 3]
            for t in range(0, T, TILE):
                d = U(t)
                axpy_tile(
                    w, i0 + d, i1 + d, i2 + d, i3 + d, src, offsets[t] + f, offsets[t + 1] + f,
                    offsets[t + 2] + f, offsets[t + 3] + f, out, p0, p1, p2, p3, n,
                )  # fmt: skip


@jit_tuned
def dots(dy: Array, src: Array, offsets: Array, rows: int, length: int, stride: int, dw: Array) -> None:
    """Add dy[k, :] . src[offsets[t] :] to dw[k, t], for ``rows`` rows (a multiple of 4)."""
    T = offsets.size
    for first in range(0, length, BLOCK):
        n = min(BLOCK, length - first)
        f = U(first)
        for k in range(0, rows, TILE):
            k0, k1 = U(k * stride + first), U((k + 1) * stride + first)
            k2, k3 = U((k + 2) * stride + first), U((k + 3) * stride + first)
            p0, p1, p2, p3 = U(k * T), U((k + 1) * T), U((k + 2) * T), U((k + 3) * T)
            for t in range(0, T, TILE):
                d = U(t)
                dot_tile(
                    dy, k0, k1, k2, k3, src, offsets[t] + f, offsets[t + 1] + f, offsets[t + 2] + f,
                    offsets[t + 3] + f, n, dw, p0 + d, p1 + d, p2 + d, p3 + d,
                )  # fmt: skip


@jit_tuned
def forward_slot(
    x: Array, w: Array, b: Array, offsets: Array, g: Geometry, slot: int, slots: int,
    src: Array, out: Array, y: Array,
) -> None:  # fmt: skip
    length = g.plane - LANES  # a plane without its last vector of zeros
    groups = (g.N + g.images - 1) // g.images
    for group in range(slot, groups, slots):
        pack_input(x, g, group * g.images, src)
        # The last taps read `margin` elements further than the first, so rows end that much earlier.
        correlate(w, offsets, src, b, b.size, length - g.margin // LANES * LANES, g.plane, out)
        unpack_output(out, g, group * g.images, y)


@jit_parallel
def forward_parallel(
    x: Array, w: Array, b: Array, offsets: Array, g: Geometry, src: Array, out: Array, y: Array
) -> None:
    for slot in prange(len(src)):
        forward_slot(x, w, b, offsets, g, slot, len(src), src[slot], out[slot], y)


def conv2d_forward_tuned(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0
) -> tuple[Array]:
    g = geometry(x, w, pair(stride), pair(padding))
    y = empty((g.N, g.K, g.P, g.Q), x.dtype)
    if y.size == 0:
        return (y,)
    rows = round_up(g.K, TILE)
    bias = np.zeros(rows, x.dtype)
    if b is not None:
        bias[: g.K] = b
    slots = slot_count(g)
    src = empty((slots, g.C * g.phases_h * g.phases_w * g.plane), x.dtype)
    out = empty((slots, rows * g.plane), x.dtype)
    weights = padded_matrix(w.reshape(g.K, -1))
    forward_parallel(flat(x), weights, bias, input_offsets(g), g, src, out, flat(y))
    return (y,)


@jit_tuned
def dx_slot(
    dy: Array, w: Array, no_bias: Array, offsets: Array, a: int, b: int, g: Geometry, slot: int, slots: int,
    src: Array, out: Array, dx: Array,
) -> None:  # fmt: skip
    groups = (g.N + g.images - 1) // g.images
    for group in range(slot, groups, slots):
        pack_gradient(dy, g, group * g.images, g.margin, src)
        correlate(w, offsets, src, no_bias, no_bias.size, g.plane - LANES, g.plane, out)
        unpack_input_gradient(out, a, b, g, group * g.images, dx)


@jit_parallel
def dx_parallel(
    dy: Array, w: Array, no_bias: Array, offsets: Array, a: int, b: int, g: Geometry,
    src: Array, out: Array, dx: Array,
) -> None:  # fmt: skip
    for slot in prange(len(src)):
        dx_slot(dy, w, no_bias, offsets, a, b, g, slot, len(src), src[slot], out[slot], dx)


def input_gradient(dy: Array, w: Array, g: Geometry, dx: Array) -> None:
    """Write dx, one phase of the input after the other."""
    slots = slot_count(g)
    rows = round_up(g.C, TILE)
    src = empty((slots, g.K * (g.plane + g.margin) + LANES), dy.dtype)
    out = empty((slots, rows * g.plane), dy.dtype)
    no_bias = np.zeros(rows, dy.dtype)
    for a in range(g.phases_h):
        for b in range(g.phases_w):
            taps = w[:, :, a :: g.sh, b :: g.sw].transpose(1, 0, 2, 3).reshape(g.C, -1)
            offsets = gradient_offsets(g, a, b)
            dx_parallel(flat(dy), padded_matrix(taps), no_bias, offsets, a, b, g, src, out, flat(dx))


@jit_tuned
def dw_slot(
    dy: Array, x: Array, offsets: Array, rows: int, g: Geometry, slot: int, slots: int,
    src: Array, planes: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    dw[:] = 0
    db[:] = 0
    groups = (g.N + g.images - 1) // g.images
    for group in range(slot, groups, slots):
        pack_input(x, g, group * g.images, src)
        pack_gradient(dy, g, group * g.images, 0, planes)
        dots(planes, src, offsets, rows, g.plane - LANES - g.margin // LANES * LANES, g.plane, dw)
        for k in range(g.K):
            s = db.dtype.type(0)
            at = U(k * g.plane)
            for q in range(U(g.plane)):
                s += planes[at + q]
            db[k] += s


@jit_parallel
def dw_parallel(
    dy: Array, x: Array, offsets: Array, rows: int, g: Geometry,
    src: Array, planes: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    for slot in prange(len(src)):
        dw_slot(dy, x, offsets, rows, g, slot, len(src), src[slot], planes[slot], dw[slot], db[slot])


def weight_gradient(dy: Array, x: Array, g: Geometry) -> tuple[Array, Array]:
    """Return dw (K, C, R, S) and db (K)."""
    slots = slot_count(g)
    rows = round_up(g.K, TILE)
    offsets = input_offsets(g)
    src = empty((slots, g.C * g.phases_h * g.phases_w * g.plane), x.dtype)
    planes = empty((slots, rows * g.plane), x.dtype)
    dw = empty((slots, rows * len(offsets)), x.dtype)
    db = empty((slots, g.K), x.dtype)
    dw_parallel(flat(dy), flat(x), offsets, rows, g, src, planes, dw, db)
    total = dw.sum(axis=0).reshape(rows, -1)[: g.K, : g.C * g.R * g.S]
    return np.ascontiguousarray(total).reshape(g.K, g.C, g.R, g.S), db.sum(axis=0)


def conv2d_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array, Array | None], needs: tuple[bool, ...],
    *, stride: int | Pair = 1, padding: int | Pair = 0,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    x, w, _ = inputs
    g = geometry(x, w, pair(stride), pair(padding))
    dx = dw = db = None
    if needs[0]:
        dx = zeros(x.shape, x.dtype)  # pixels that no window reads keep 0
        if dy.size:
            input_gradient(dy, w, g, dx)
    if needs[1] or needs[2]:
        if dy.size:
            dw, db = weight_gradient(dy, x, g)
        else:
            dw, db = np.zeros_like(w), np.zeros(g.K, x.dtype)
    return dx, dw if needs[1] else None, db if needs[2] else None
