"""max_pool2d and avg_pool2d on a GPU.

Forward: a thread for each window. Loads that would lie outside the image are moved to its edge and not
counted, so that no load waits for a test, and with 2x2 and 3x3 windows, of which there are kernels of their
own, all loads of a thread are under way at once. Large windows that tile the image have 32 threads each
(cuda_adaptive.py).

Backward: a thread for each pixel, of PLANES images: which windows hold the pixel is computed once for all.
It sums over those windows, for max over those whose maximum it is; as in ``loops``, row by row.

Bound: memory traffic. Forward reads x once (windows that overlap find it in the caches) and writes y and
argmax; backward reads dy and argmax and writes dx.
"""

import math
from typing import Any

from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like
from nnkernels.machine.gpu_index import Divisor, divisor, grid_of, quotient, thread_number
from nnkernels.machine.gpu_kernel import WARP, Kernel, at, blocks_for, ceil_div, cuda, device_function, kernel
from nnkernels.machine.memory import Array
from nnkernels.ops.pooling.cuda_adaptive import (
    PLANES,
    avg_windows,
    clear,
    max_windows,
    pixel_of_thread,
    store,
)
from nnkernels.ops.pooling.shapes import Geometry, Size, geometry, out_shape
from nnkernels.ops.pooling.tuned import beats

ANY = (0, 0)


def inside(i: int, size: int) -> Any:
    """The element nearest to i that an axis of this size has."""
    return min(max(i, int32(0)), int32(size - 1))


def extent(start: int, kernel: int, size: int, outside: int) -> Any:
    """Places that a window counts along an axis, which has some more outside the image at either end."""
    return int32(min(int32(start + kernel), int32(size + outside)) - max(start, int32(-outside)))


@device_function
def corner_of(i: int, by_p: Divisor, by_q: Divisor, g: Geometry) -> Any:
    """Return the plane of window i, and where the window begins there, maybe outside."""
    line = quotient(i, by_q)
    plane = quotient(line, by_p)
    return plane, int32((line - plane * by_p[0]) * g[2] - g[4]), int32((i - line * by_q[0]) * g[3] - g[5])


def make_max_forward(rows: int, columns: int) -> Kernel:
    """Return the kernel for windows of rows x columns; 0 x 0: of any size."""

    @kernel
    def max_forward_kernel(
        x: Array, H: int, W: int, by_p: Divisor, by_q: Divisor, g: Geometry, y: Array, argmax: Array
    ) -> None:
        i = thread_number()
        if i < y.size:
            R = rows if rows > 0 else g[0]
            S = columns if rows > 0 else g[1]
            plane, top, left = corner_of(i, by_p, by_q, g)
            best, place = x.dtype.type(-math.inf), int32(-1)
            for r in range(R):
                h = int32(top + r * g[6])
                row = int32((plane * H + inside(h, H)) * W)
                for s in range(S):
                    w = int32(left + s * g[7])
                    v = x[at(row + inside(w, W))]
                    counts = (h >= 0) & (h < H) & (w >= 0) & (w < W)
                    wins = counts & (beats(v, best) | (place < 0))
                    best = v if wins else best
                    place = int32(h * W + w) if wins else place
            y[at(i)] = best
            argmax[at(i)] = place

    return max_forward_kernel


def make_avg_forward(rows: int, columns: int) -> Kernel:
    """Return the kernel for windows of rows x columns; 0 x 0: of any size."""

    @kernel
    def avg_forward_kernel(
        x: Array, H: int, W: int, by_p: Divisor, by_q: Divisor, g: Geometry, outside: tuple[int, int],
        override: int, y: Array,
    ) -> None:  # fmt: skip
        i = thread_number()
        if i < y.size:
            R = rows if rows > 0 else g[0]
            S = columns if rows > 0 else g[1]
            plane, top, left = corner_of(i, by_p, by_q, g)
            total = x.dtype.type(0)
            for r in range(R):
                h = int32(top + r)
                row = int32((plane * H + inside(h, H)) * W)
                for s in range(S):
                    w = int32(left + s)
                    v = x[at(row + inside(w, W))]
                    counts = (h >= 0) & (h < H) & (w >= 0) & (w < W)
                    total += v if counts else x.dtype.type(0)
            counted = extent(top, R, H, outside[0]) * extent(left, S, W, outside[1])
            y[at(i)] = total / x.dtype.type(override if override != 0 else counted)

    return avg_forward_kernel


def make_max_backward(most: int) -> Kernel:
    """Return the kernel for pixels in up to ``most`` windows along each axis; 0: in n[0] x n[1] of them."""

    @kernel
    def max_backward_kernel(
        dy: Array, argmax: Array, planes: int, P: int, Q: int, by_h: Divisor, by_w: Divisor, by_sh: Divisor,
        by_sw: Divisor, padding: tuple[int, int], n: tuple[int, int], dx: Array,
    ) -> None:  # fmt: skip
        first, h, w = pixel_of_thread(by_h, by_w)
        last = int32(planes - 1 - first)  # of the thread's images
        if last >= 0:
            down = most if most > 0 else n[0]
            along = most if most > 0 else n[1]
            pixel, size = int32(h * by_w[0] + w), int32(P * Q)
            # The last windows that begin at or before the pixel; -1 and below: none
            p_last, q_last = quotient(h + padding[0], by_sh), quotient(w + padding[1], by_sw)
            total = cuda.local.array(PLANES, dy.dtype)
            clear(total)
            for a in range(down):
                p = int32(p_last - down + 1 + a)
                for b in range(along):
                    q = int32(q_last - along + 1 + b)
                    exists = (p >= 0) & (p < P) & (q >= 0) & (q < Q)
                    window = int32((first * P + inside(p, P)) * Q + inside(q, Q))
                    for k in range(PLANES):
                        j = window + min(k, last) * size
                        v, place = dy[at(j)], argmax[at(j)]
                        total[k] += v if exists & (place == pixel) else dy.dtype.type(0)
            store(total, last, dx, first * by_h[0] * by_w[0] + pixel, by_h[0] * by_w[0])

    return max_backward_kernel


def make_avg_backward(most: int) -> Kernel:
    """Return the kernel for pixels in up to ``most`` windows along each axis; 0: in n[0] x n[1] of them."""

    @kernel
    def avg_backward_kernel(
        dy: Array, planes: int, P: int, Q: int, by_h: Divisor, by_w: Divisor, by_sh: Divisor, by_sw: Divisor,
        g: Geometry, outside: tuple[int, int], override: int, n: tuple[int, int], dx: Array,
    ) -> None:  # fmt: skip
        first, h, w = pixel_of_thread(by_h, by_w)
        last = int32(planes - 1 - first)
        if last >= 0:
            down = most if most > 0 else n[0]
            along = most if most > 0 else n[1]
            H, W, size = by_h[0], by_w[0], int32(P * Q)
            p_last, q_last = quotient(h + g[4], by_sh), quotient(w + g[5], by_sw)
            total = cuda.local.array(PLANES, dy.dtype)
            clear(total)
            for a in range(down):
                p = int32(p_last - down + 1 + a)
                top = int32(p * g[2] - g[4])
                rows = extent(top, g[0], H, outside[0])
                for b in range(along):
                    q = int32(q_last - along + 1 + b)
                    left = int32(q * g[3] - g[5])
                    exists = (p >= 0) & (p < P) & (q >= 0) & (q < Q)
                    holds = (int32(h - top) < g[0]) & (int32(w - left) < g[1])
                    counted = rows * extent(left, g[1], W, outside[1])
                    share = dy.dtype.type(1) / dy.dtype.type(override if override != 0 else counted)
                    window = int32((first * P + inside(p, P)) * Q + inside(q, Q))
                    for k in range(PLANES):
                        v = dy[at(window + min(k, last) * size)]
                        total[k] += v * share if exists & holds else dy.dtype.type(0)
            store(total, last, dx, (first * H + h) * W + w, H * W)

    return avg_backward_kernel


FORWARD_SIZES = ((2, 2), (3, 3), ANY)
MAX_FORWARD = {size: make_max_forward(*size) for size in FORWARD_SIZES}
AVG_FORWARD = {size: make_avg_forward(*size) for size in FORWARD_SIZES}
MAX_BACKWARD = {most: make_max_backward(most) for most in (1, 2, 0)}
AVG_BACKWARD = {most: make_avg_backward(most) for most in (1, 2, 0)}


def are_large_tiles(x: tuple[int, ...], y: tuple[int, ...], g: Geometry) -> bool:
    """Return whether windows tile the image, and have more elements than a warp has threads."""
    R, S = g[:2]
    return g[2:] == (R, S, 0, 0, 1, 1) and (y[2] * R, y[3] * S) == x[2:] and R * S >= WARP


def windows_of_pixel(g: Geometry) -> tuple[int, int]:
    """Return in how many windows a pixel can lie, along each axis."""
    R, S, sh, sw, _, _, dh, dw = g
    return ceil_div(dh * (R - 1) + 1, sh), ceil_div(dw * (S - 1) + 1, sw)


def max_pool2d_forward_cuda(
    x: GpuArray, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[GpuArray, GpuArray]:  # fmt: skip
    g = geometry(kernel_size, stride, padding, dilation)
    shape = out_shape(x.shape, g, ceil_mode)
    if are_large_tiles(x.shape, shape, g):
        return max_windows(x, shape[2], shape[3])
    y, argmax = empty(shape, x.dtype, x.device), empty(shape, "int32", x.device)
    run = MAX_FORWARD.get(g[:2], MAX_FORWARD[ANY])
    run[grid_of(y.size)](x, x.shape[2], x.shape[3], divisor(shape[2]), divisor(shape[3]), g, y, argmax)
    return y, argmax


def max_pool2d_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray, GpuArray], inputs: tuple[GpuArray], needs: tuple[bool],
    *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[GpuArray | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    g, (N, C, H, W) = geometry(kernel_size, stride, padding, dilation), inputs[0].shape
    dx, n = empty_like(inputs[0]), windows_of_pixel(g)
    run = MAX_BACKWARD.get(max(n), MAX_BACKWARD[0])
    run[grid_of(blocks_for(N * C, PLANES) * H * W)](
        dy, outputs[1], N * C, *dy.shape[2:], divisor(H), divisor(W), divisor(g[2]), divisor(g[3]),
        g[4:6], n, dx,
    )  # fmt: skip
    return (dx,)


def avg_pool2d_forward_cuda(
    x: GpuArray, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> tuple[GpuArray]:  # fmt: skip
    g = geometry(kernel_size, stride, padding)
    shape = out_shape(x.shape, g, ceil_mode)
    if are_large_tiles(x.shape, shape, g) and divisor_override is None:
        return (avg_windows(x, shape[2], shape[3]),)
    y = empty(shape, x.dtype, x.device)
    run = AVG_FORWARD.get(g[:2], AVG_FORWARD[ANY])
    run[grid_of(y.size)](
        x, x.shape[2], x.shape[3], divisor(shape[2]), divisor(shape[3]), g,
        g[4:6] if count_include_pad else (0, 0), divisor_override or 0, y,
    )  # fmt: skip
    return (y,)


def avg_pool2d_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray], needs: tuple[bool],
    *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> tuple[GpuArray | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    g, (N, C, H, W) = geometry(kernel_size, stride, padding), inputs[0].shape
    dx, n = empty_like(inputs[0]), windows_of_pixel(g)
    run = AVG_BACKWARD.get(max(n), AVG_BACKWARD[0])
    run[grid_of(blocks_for(N * C, PLANES) * H * W)](
        dy, N * C, *dy.shape[2:], divisor(H), divisor(W), divisor(g[2]), divisor(g[3]), g,
        g[4:6] if count_include_pad else (0, 0), divisor_override or 0, n, dx,
    )  # fmt: skip
    return (dx,)
