"""max_pool2d and avg_pool2d as their definitions: six loops."""

from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, jit
from nnkernels.machine.memory import Array
from nnkernels.ops.pooling.shapes import Geometry, Size, geometry, out_shape


@jit
def max_pool2d_forward_kernel(x: Array, g: Geometry, y: Array, argmax: Array) -> None:
    N, C, H, W = x.shape
    R, S, sh, sw, ph, pw, dh, dw = g
    _, _, P, Q = y.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    best, at = -np.inf, -1
                    for r in range(R):
                        for s in range(S):
                            h = sh * p + dh * r - ph
                            w = sw * q + dw * s - pw
                            if 0 <= h < H and 0 <= w < W:
                                v = x[n, c, h, w]
                                if at < 0 or v > best or (v != v and best == best):  # NaN beats numbers
                                    best, at = v, h * W + w
                    y[n, c, p, q] = best
                    argmax[n, c, p, q] = at


@jit
def max_pool2d_backward_kernel(dy: Array, argmax: Array, dx: Array) -> None:
    N, C, P, Q = dy.shape
    W = dx.shape[3]
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    h, w = divmod(argmax[n, c, p, q], W)
                    dx[n, c, h, w] += dy[n, c, p, q]  # +=: windows may overlap


@inline
def extent(at: int, kernel: int, stride: int, padding: int, size: int, include_pad: bool) -> int:
    """Places that window ``at`` counts along an axis: of the padded image, or of the image alone."""
    start = stride * at - padding
    if include_pad:
        return min(start + kernel, size + padding) - start
    return min(start + kernel, size) - max(start, 0)


@jit
def avg_pool2d_forward_kernel(x: Array, g: Geometry, include_pad: bool, override: int, y: Array) -> None:
    N, C, H, W = x.shape
    R, S, sh, sw, ph, pw, _, _ = g
    _, _, P, Q = y.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    total = 0.0
                    for r in range(R):
                        for s in range(S):
                            h = sh * p + r - ph
                            w = sw * q + s - pw
                            if 0 <= h < H and 0 <= w < W:
                                total += x[n, c, h, w]
                    rows, columns = extent(p, R, sh, ph, H, include_pad), extent(q, S, sw, pw, W, include_pad)
                    y[n, c, p, q] = total / (override if override != 0 else rows * columns)


@jit
def avg_pool2d_backward_kernel(dy: Array, g: Geometry, include_pad: bool, override: int, dx: Array) -> None:
    N, C, P, Q = dy.shape
    R, S, sh, sw, ph, pw, _, _ = g
    _, _, H, W = dx.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    rows, columns = extent(p, R, sh, ph, H, include_pad), extent(q, S, sw, pw, W, include_pad)
                    divisor = override if override != 0 else rows * columns
                    for r in range(R):
                        for s in range(S):
                            h = sh * p + r - ph
                            w = sw * q + s - pw
                            if 0 <= h < H and 0 <= w < W:
                                dx[n, c, h, w] += dy[n, c, p, q] / divisor


def max_pool2d_forward_loops(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    g = geometry(kernel_size, stride, padding, dilation)
    shape = out_shape(x.shape, g, ceil_mode)
    y, argmax = np.empty(shape, x.dtype), np.empty(shape, np.int32)
    max_pool2d_forward_kernel(x, g, y, argmax)
    return y, argmax


def max_pool2d_backward_loops(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool], **attributes: Any
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    dx = np.zeros_like(inputs[0])
    max_pool2d_backward_kernel(dy, outputs[1], dx)
    return (dx,)


def avg_pool2d_forward_loops(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> tuple[Array]:  # fmt: skip
    g = geometry(kernel_size, stride, padding)
    y = np.empty(out_shape(x.shape, g, ceil_mode), x.dtype)
    avg_pool2d_forward_kernel(x, g, count_include_pad, divisor_override or 0, y)
    return (y,)


def avg_pool2d_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx, g = np.zeros_like(inputs[0]), geometry(kernel_size, stride, padding)
    avg_pool2d_backward_kernel(dy, g, count_include_pad, divisor_override or 0, dx)
    return (dx,)
