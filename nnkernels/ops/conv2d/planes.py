"""The layout behind the direct convolution: in flat, padded planes every filter tap is one fixed offset.

Write an image with its zero border into rows of one width, ``pitch``, one row after the other. The input
pixel under filter position (r, s) of output pixel (p, q) then lies at (p pitch + q) + (r pitch + s): the same
distance from every output pixel. A convolution becomes a sum of shifted copies of long rows,

    y[k, :] = sum over taps t = (c, r, s) of w[k, t] x[offset[t] : offset[t] + L],

which is a matrix product whose second operand has its rows at ``offset`` instead of at regular distances. No
window is ever copied (no im2col). The few columns by which rows overhang are computed and thrown away.

- A stride (sh, sw) is undone by splitting the padded image into sh sw phase planes, each holding every sh-th
  row and sw-th column: inside a phase, neighbouring output pixels are again neighbours.
- The gradient dx is such a sum too: over taps (k, r, s) of dy, shifted the other way. With a stride, each
  phase of the input is one sum of its own, over the taps that reach it.
- An image without padding and stride is read where it lies.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.jit import inline, jit_elementwise
from nnkernels.machine.memory import Array
from nnkernels.machine.simd import U, broadcast, lanes_of, load, maximum, store
from nnkernels.ops.conv2d.shapes import SLOTS, Pair, out_length
from nnkernels.ops.matmul.gemm import SERIAL_BELOW
from nnkernels.ops.matmul.micro import MR

CHUNK = 1024  # pixels per chunk at most
SOURCE = 1 << 16  # elements of a chunk's planes: 256 KiB of float32, to stay in the L2 cache
SHARE = 64  # channels of the result that are worth a task
LIES = 1 << 15  # elements of an image that is small enough to be read where it lies


class Correlation(NamedTuple):
    """Sizes of the sums of shifted rows of one convolution or its gradient dx, as kernels need them."""

    N: int  # source: images, channels, pixels
    C: int
    H: int
    W: int
    sh: int  # its stride, and the rows and columns of zeros in front
    sw: int
    top: int
    left: int
    phases_h: int
    phases_w: int
    pitch: int
    packed: bool  # False: read where it lies
    plane: int  # elements of a plane
    plane_rows: int
    groups: int
    K: int  # result: channels
    P: int  # rows computed, at most, by a part
    rows: int  # rows of a chunk
    height: int  # pixels of the array it goes to, and the steps between the pixels of a part
    width: int
    row_step: int
    column_step: int
    relu: bool
    shares: int  # tasks that a chunk's channels of the result are cut into; if several, it is packed once


CORRELATION = len(Correlation._fields)


class Part(NamedTuple):
    """One sum of taps: all of y, or those pixels of dx that the same filter positions reach."""

    P: int  # rows and columns computed
    Q: int
    row: int  # the first pixel in the result
    column: int
    start: int  # where the first pixel lies in the planes
    first_tap: int  # its taps among all offsets
    taps: int
    first_weight: int  # its weights, (channels of the result) x taps, among all


class Plan(NamedTuple):
    """What one call needs; made once for each combination of sizes."""

    sizes: Correlation
    values: Array  # the same, for kernels
    slots: int  # workspaces that tasks are dealt to
    space: int  # elements of each: planes, then sums of MR rows
    parts: Array  # one row per Part
    offsets: Array  # of the taps of all parts
    taps: Array  # which filter elements (k C R S + c R S + ...) the weights are, for dx


def make_plan(g: Correlation, weights: int, parts: Array, offsets: Array, taps: Array) -> Plan:
    """Return the plan of sums with so many weights."""
    slots = 1
    if g.N * g.P * g.width * weights >= SERIAL_BELOW:
        chunks = g.N * -(-g.P // g.rows)
        shares = max(1, min(-(-SLOTS // chunks), g.K // g.groups // SHARE))
        g, slots = g._replace(shares=shares), min(SLOTS, chunks * shares)
    space = (planes_size(g) if g.shares == 1 else 0) + MR * g.rows * g.pitch
    return Plan(g, np.array(g, np.int64), slots, space, parts, offsets.astype(np.uint64), taps)


@inline
def planes_size(g: Correlation) -> int:
    """Return the elements of a chunk's planes."""
    return g.C * g.phases_h * g.phases_w * g.plane if g.packed else 0


def chunk_rows(N: int, P: int, pitch: int, channels: int) -> int:
    """Return the rows per chunk: CHUNK pixels and SOURCE elements at most, and chunks dealt out evenly.

    Few chunks stay whole, and their channels are shared (see ``make_plan``): each reads all weights.
    """
    pixels = max(96, min(CHUNK, SOURCE // channels))
    chunks = max(1, min(P, -(-P * pitch // pixels)))
    most = max(1, -(-P // chunks))

    def longest(rows: int) -> int:
        """Return the rows of the slot that has most of them, and what a chunk costs besides."""
        return -(-N * -(-P // rows) // SLOTS) * (rows + 1)

    return most if N * -(-P // most) <= SLOTS else min(range(most, most // 2, -1), key=longest)


@lru_cache(maxsize=256)
def forward_plan(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int,
    relu: bool,
) -> Plan:  # fmt: skip
    """Return the plan of y for shapes x (N, C, H, W) and w (K, C / groups, R, S)."""
    (N, C, H, W), (K, per_group, R, S) = x, w
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    P, Q = out_length(H, R, sh, ph, dh), out_length(W, S, sw, pw, dw)
    fh, fw = min(sh, dh * (R - 1) + 1), min(sw, dw * (S - 1) + 1)
    pitch = Q + dw * (S - 1) // sw
    packed = (sh, sw, ph, pw) != (1, 1, 0, 0) or C * H * W > LIES
    rows = chunk_rows(N, P, pitch, C * fh * fw)
    plane_rows = rows + dh * (R - 1) // sh
    plane = plane_rows * pitch if packed else H * W
    c, r, s = np.ogrid[:per_group, : dh * R : dh, : dw * S : dw]
    offsets = (((c * fh + r % sh) * fw + s % sw) * plane + r // sh * pitch + s // sw).reshape(-1)
    sizes = Correlation(
        N, C, H, W, sh, sw, ph, pw, fh, fw, pitch, packed, plane, plane_rows, groups,
        K, P, rows, P, Q, 1, 1, relu, 1,
    )  # fmt: skip
    parts = np.array([Part(P, Q, 0, 0, 0, 0, offsets.size, 0)])
    return make_plan(sizes, K * offsets.size, parts, offsets, np.empty(0, np.int64))


class Phase(NamedTuple):
    """Along one axis: positions i stride + phase of the padded input, and the filter taps that reach them."""

    taps: list[int]
    low: int  # the first i inside the input
    length: int
    first: int  # its index in dx


def phases(length: int, filter_length: int, stride: int, padding: int, dilation: int) -> list[Phase]:
    """Return the phases of one axis of dx that some tap reaches."""
    found = []
    for a in range(stride):
        taps = [r for r in range(filter_length) if dilation * r % stride == a]
        low = -((a - padding) // stride)
        high = (length - 1 + padding - a) // stride + 1
        if taps and high > low:
            found.append(Phase(taps, low, high - low, low * stride + a - padding))
    return found


@lru_cache(maxsize=256)
def gradient_plan(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Plan:
    """Return the plan of dx: a part per phase of the input that a tap reaches; the other pixels stay 0."""
    (N, C, H, W), (K, per_group, R, S) = x, w
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    P, Q = out_length(H, R, sh, ph, dh), out_length(W, S, sw, pw, dw)
    down, across = phases(H, R, sh, ph, dh), phases(W, S, sw, pw, dw)
    if not (down and across):
        nothing = np.empty(0, np.int64)
        none: Any = [0] * len(Correlation._fields)
        return Plan(Correlation(*none), nothing, 0, 0, nothing, nothing, nothing)
    # Tap r of row i reads row i - dh r // sh of dy; the planes begin with the lowest row that any reads.
    i0, j0 = (min(f.low for f in axis) for axis in (down, across))
    far_h, far_w = dh * (R - 1) // sh, dw * (S - 1) // sw
    top, left = far_h - i0, far_w - j0
    most_rows, most_columns = (
        max(f.low + f.length for f in axis) - first for axis, first in ((down, i0), (across, j0))
    )
    pitch = most_columns + far_w
    packed = (sh, sw, top, left, pitch) != (1, 1, 0, 0, Q) or K * P * Q > LIES
    rows = chunk_rows(N, most_rows, pitch, K)
    plane_rows = rows + far_h + max(f.low for f in down) - i0
    plane = plane_rows * pitch if packed else P * Q
    parts: list[Part] = []
    offsets: list[Array] = []
    taps: list[Array] = []
    k = np.arange(K // groups)[:, None, None]
    for a in down:
        for b in across:
            r, s = np.array(a.taps)[:, None], np.array(b.taps)
            shifts = (far_h - dh * r // sh) * pitch + far_w - dw * s // sw
            start = (a.low - i0) * pitch + b.low - j0
            parts.append(Part(a.length, b.length, a.first, b.first, start, sum(map(len, offsets)),
                              k.size * shifts.size, sum(map(len, taps))))  # fmt: skip
            offsets.append((k * plane + shifts).reshape(-1))
            group, c = np.ogrid[:groups, :per_group]
            filters = ((group * k.size)[..., None, None, None] + k) * per_group + c[..., None, None, None]
            taps.append(((filters * R + r) * S + s).reshape(-1))
    sizes = Correlation(
        N, K, P, Q, 1, 1, top, left, 1, 1, pitch, packed, plane, plane_rows, groups,
        C, max(f.length for f in down), rows, H, W, sh, sw, False, 1,
    )  # fmt: skip
    return make_plan(
        sizes, K * per_group * R * S, np.array(parts), np.concatenate(offsets), np.concatenate(taps)
    )


@jit_elementwise
def pack_planes(
    x: Array, g: Correlation, n: int, first: int, low_c: int, high_c: int, planes: Array, base: int
) -> None:
    """Write the rows from ``first`` on of some channels of image n; columns of zeros are there already."""
    for a in range(g.phases_h):
        for b in range(g.phases_w):
            # Columns j with 0 <= j sw + b - left < W.
            low = min(g.pitch, max(0, (g.left - b + g.sw - 1) // g.sw))
            length = max(0, min(g.pitch, (g.W - 1 + g.left - b) // g.sw + 1) - low)
            column = low * g.sw + b - g.left
            for c in range(low_c, high_c):
                to = U(base + ((c * g.phases_h + a) * g.phases_w + b) * g.plane + low)
                image = (n * g.C + c) * g.H
                if length == g.W == g.pitch and g.top == 0 and g.sh == 1 and first + g.plane_rows <= g.H:
                    at = U((image + first) * g.W)  # 1 x 1: the rows follow each other on both sides
                    copy_row(x, at, 1, planes, to, g.plane_rows * g.pitch)
                    continue
                for i in range(first, first + g.plane_rows):
                    h = i * g.sh + a - g.top
                    if h < 0 or h >= g.H:
                        for j in range(U(length)):
                            planes[to + j] = 0
                    else:
                        copy_row(x, U((image + h) * g.W + column), g.sw, planes, to, length)
                    to += U(g.pitch)


@jit_elementwise
def copy_row(x: Array, at: U, step: int, out: Array, to: U, n: int) -> None:
    """Copy every ``step``-th of n elements."""
    if step == 1:  # whole vectors, the last one in part: rows are often shorter than LLVM's own loop wants
        for j in range(0, n, lanes_of(x)):
            store(load(x, at + U(j), n - j), out, to + U(j), n - j)
    elif step == 2:
        for j in range(U(n)):
            out[to + j] = x[at + U(2) * j]
    else:
        for j in range(U(n)):
            out[to + j] = x[at + U(step) * j]


@jit_elementwise
def unpack_rows(
    sums: Array, length: int, b: Array, g: Correlation, Q: int, n: int, k: int, m: int, rows: int,
    row: int, column: int, y: Array,
) -> None:  # fmt: skip
    """Write the sums of channels k ... k + m, plus bias, and max(., 0) if asked to, where they belong."""
    for r in range(m):
        bias = broadcast(b, U(k + r))
        at = U(r * length)
        to = U(((n * g.K + k + r) * g.height + row) * g.width + column)
        for _ in range(rows):
            if g.column_step == 1:
                for q in range(0, Q, lanes_of(y)):
                    v = load(sums, at + U(q), Q - q) + bias
                    if g.relu:
                        v = maximum(v, 0)
                    store(v, y, to + U(q), Q - q)
            else:
                for q in range(U(Q)):
                    y[to + q * U(g.column_step)] = sums[at + q] + b[U(k + r)]
            at += U(g.pitch)
            to += U(g.row_step * g.width)
