"""The layout behind the direct convolution: in flat, padded planes every filter tap is one fixed offset.

Write an image with its zero border into rows of one width, ``pitch``, one row after the other. The input pixel
under filter position (r, s) of output pixel (p, q) then lies at (p pitch + q) + (r pitch + s): the same distance
from every output pixel. A convolution becomes a sum of shifted copies of long rows,

    y[k, :] = sum over taps t = (c, r, s) of w[k, t] x[offset[t] : offset[t] + L],

which is a matrix product whose second operand has its rows at ``offset`` instead of at regular distances. No
window is ever copied (no im2col). The few columns by which rows overhang are computed and thrown away.

- A stride (sh, sw) is undone by splitting the padded image into sh sw phase planes, each holding every sh-th
  row and sw-th column: inside a phase, neighbouring output pixels are again neighbours.
- The gradient dx is such a sum too: over taps (k, r, s) of dy, shifted the other way. With a stride, each phase
  of the input is one sum of its own, over the taps that reach it.
- An image without padding and stride is read where it lies.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nnkernels.machine.jit import jit_elementwise
from nnkernels.machine.memory import Array
from nnkernels.machine.simd import U
from nnkernels.ops.conv2d.shapes import Pair, out_length

CHUNK = 1024  # elements: so many output pixels of a row of tiles keep their input in the L2 cache


class Correlation(NamedTuple):
    """Sizes of one sum of shifted rows, as kernels need them."""

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
    K: int  # result: channels, rows and columns computed
    P: int
    Q: int
    rows: int  # its rows per chunk
    height: int  # pixels of the array it goes to, first row and column there and their steps
    width: int
    row: int
    column: int
    row_step: int
    column_step: int


class Plan(NamedTuple):
    """A correlation and the offsets of its taps; for dx, also the filter rows and columns that take part."""

    sizes: Correlation
    offsets: Array
    filter_rows: Array
    filter_columns: Array


def chunk_rows(P: int, pitch: int) -> int:
    """Return the rows per chunk: about CHUNK pixels, all chunks alike."""
    chunks = -(-P * pitch // CHUNK)
    return -(-P // max(1, min(chunks, P)))


@lru_cache(maxsize=256)
def forward_plan(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Plan:
    """Return the plan of y for shapes x (N, C, H, W) and w (K, C / groups, R, S)."""
    (N, C, H, W), (K, per_group, R, S) = x, w
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    P, Q = out_length(H, R, sh, ph, dh), out_length(W, S, sw, pw, dw)
    pitch = Q + dw * (S - 1) // sw
    packed = (sh, sw, ph, pw) != (1, 1, 0, 0)
    rows = chunk_rows(P, pitch)
    plane_rows = rows + dh * (R - 1) // sh
    plane = plane_rows * pitch if packed else H * W
    fh, fw = min(sh, dh * (R - 1) + 1), min(sw, dw * (S - 1) + 1)
    c, r, s = np.ogrid[:per_group, : dh * R : dh, : dw * S : dw]
    offsets = ((c * fh + r % sh) * fw + s % sw) * plane + r // sh * pitch + s // sw
    sizes = Correlation(
        N, C, H, W, sh, sw, ph, pw, fh, fw, pitch, packed, plane, plane_rows, groups,
        K, P, Q, rows, P, Q, 0, 0, 1, 1,
    )  # fmt: skip
    return Plan(sizes, offsets.reshape(-1).astype(np.uint64), np.arange(R), np.arange(S))


class Axis(NamedTuple):
    """One axis of one phase of dx: which filter positions reach it, how far they shift, what they write."""

    positions: Array
    shifts: Array  # offsets of the taps; 0 for the one that shifts most
    zeros: int  # in front of dy
    length: int  # of the phase
    first: int  # its first index in dx


def phase_axis(phase: int, length: int, filter_length: int, stride: int, padding: int, dilation: int) -> Axis:
    """Return which part of dx the padded positions i stride + phase are, and the taps that reach them."""
    positions = np.array([r for r in range(filter_length) if dilation * r % stride == phase])
    low = -((phase - padding) // stride)  # the first i with i stride + phase - padding >= 0
    high = (length - 1 + padding - phase) // stride + 1
    shifts = dilation * positions // stride
    most = int(shifts.max(initial=0))
    return Axis(positions, most - shifts, most - low, max(0, high - low), low * stride + phase - padding)


@lru_cache(maxsize=256)
def gradient_plans(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> tuple[Plan, ...]:
    """Return one plan per phase of dx that a filter tap reaches; the others stay 0."""
    (N, C, H, W), (K, _, R, S) = x, w
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    P, Q = out_length(H, R, sh, ph, dh), out_length(W, S, sw, pw, dw)
    plans = []
    for a in range(sh):
        for b in range(sw):
            down, across = phase_axis(a, H, R, sh, ph, dh), phase_axis(b, W, S, sw, pw, dw)
            if not (len(down.positions) and len(across.positions) and down.length and across.length):
                continue
            halo = int(down.shifts.max())
            pitch = across.length + int(across.shifts.max())
            packed = (down.zeros, across.zeros, pitch, down.length + halo) != (0, 0, Q, P)
            rows = chunk_rows(down.length, pitch)
            plane = (rows + halo) * pitch if packed else P * Q
            k = np.arange(K // groups)
            offsets = k[:, None, None] * plane + down.shifts[:, None] * pitch + across.shifts
            sizes = Correlation(
                N, K, P, Q, 1, 1, down.zeros, across.zeros, 1, 1, pitch, packed, plane, rows + halo, groups,
                C, down.length, across.length, rows, H, W, down.first, across.first, sh, sw,
            )  # fmt: skip
            plans.append(
                Plan(sizes, offsets.reshape(-1).astype(np.uint64), down.positions, across.positions)
            )
    return tuple(plans)


@jit_elementwise
def pack_planes(x: Array, g: Correlation, n: int, first: int, planes: Array) -> None:
    """Write the rows from ``first`` on of image n, with their zero border, into phase planes (all flat)."""
    to = U(0)
    for c in range(g.C):
        for a in range(g.phases_h):
            for b in range(g.phases_w):
                # Columns j with 0 <= j sw + b - left < W.
                low = min(g.pitch, max(0, (g.left - b + g.sw - 1) // g.sw))
                high = max(low, min(g.pitch, (g.W - 1 + g.left - b) // g.sw + 1))
                for i in range(first, first + g.plane_rows):
                    h = i * g.sh + a - g.top
                    if h < 0 or h >= g.H:
                        for j in range(U(g.pitch)):
                            planes[to + j] = 0
                    else:
                        for j in range(U(low)):
                            planes[to + j] = 0
                        copy_row(x, ((n * g.C + c) * g.H + h) * g.W + low * g.sw + b - g.left, g.sw,
                                 planes, to + U(low), high - low)  # fmt: skip
                        for j in range(U(high), U(g.pitch)):
                            planes[to + j] = 0
                    to += U(g.pitch)


@jit_elementwise
def copy_row(x: Array, at: int, step: int, out: Array, to: U, n: int) -> None:
    """Copy every ``step``-th of n elements; the common steps apart, so that LLVM makes vectors of them."""
    i = U(at)
    if step == 1:
        for j in range(U(n)):
            out[to + j] = x[i + j]
    elif step == 2:
        for j in range(U(n)):
            out[to + j] = x[i + U(2) * j]
    else:
        for j in range(U(n)):
            out[to + j] = x[i + U(step) * j]


@jit_elementwise
def unpack_rows(
    sums: Array, b: Array, g: Correlation, n: int, k: int, m: int, first: int, rows: int, y: Array
) -> None:
    """Add the bias to the sums of channels k ... k + m and write their valid pixels where they belong."""
    length = rows * g.pitch
    for r in range(m):
        bias = b[U(k + r)]
        for p in range(rows):
            at = U(r * length + p * g.pitch)
            to = U(((n * g.K + k + r) * g.height + g.row + (first + p) * g.row_step) * g.width + g.column)
            if g.column_step == 1:
                for q in range(U(g.Q)):
                    y[to + q] = sums[at + q] + bias
            else:
                step = U(g.column_step)
                for q in range(U(g.Q)):
                    y[to + q * step] = sums[at + q] + bias
