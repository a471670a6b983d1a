"""upsample_nearest2d and upsample_bilinear2d on a GPU.

A thread has one pixel of PLANES images: where it comes from, and with which weights, is computed once for
all of them. Backward gathers: the rows of y that a row of x has a part in are neighbours, and the first of
them is guessed and then looked for, with the function that forward uses.

Bound: memory traffic, each pixel of x and y read or written once; for bilinear's backward the weights of the
16 pixels or more that it sums count as much. Backward of nearest to twice the size is avg_pool2d's forward,
without the division.
"""

from collections.abc import Callable
from typing import Any

from numba import float32, int32

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like
from nnkernels.machine.gpu_index import Divisor, divisor, grid_of
from nnkernels.machine.gpu_kernel import at, blocks_for, cuda, device_function, kernel
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array
from nnkernels.ops.pooling.cuda import avg_pool2d_forward_cuda
from nnkernels.ops.pooling.cuda_adaptive import PLANES, clear, pixel_of_thread, store
from nnkernels.ops.upsample.shapes import Axis, Scale, Size, axes, nearest_step, step

How = tuple[Any, ...]  # how places in x grow with those in y: (step,) or (step, its rounding error, offset)


def nearest_row(p: int, how: How, H: int) -> Any:
    """The row of x that row p of y copies: p H / P rounded down, in float32."""
    return min(int32(float32(p) * how[0]), H - 1)


@device_function
def upper_row(p: int, how: How, H: int) -> Any:
    """The upper one of the two rows of x that make row p of y."""
    step, _, offset = how
    place = cuda.fma(typed(p, step) + offset, step, -offset)
    return min(int32(max(place, typed(0, step))), H - 1)


@device_function
def lower_weight(p: int, h: int, how: How) -> Any:
    """The weight of the row below h = upper_row(p).

    One rounding error of the difference, not of p step, which may be a thousand times as large.
    """
    step, rest, offset = how
    moved = typed(p, step) + offset
    a = cuda.fma(moved, step, -(typed(h, step) + offset)) + moved * rest
    return min(max(a, typed(0, step)), typed(1, step))


@device_function
def weight(p: int, h: int, how: How, H: int) -> Any:
    """The weight of row h of x in row p of y."""
    upper = upper_row(p, how, H)
    a = lower_weight(p, upper, how)
    of_upper = typed(1, a) - a if upper == h else typed(0, a)
    return of_upper + (a if min(upper + 1, H - 1) == h else typed(0, a))


def make_first(row: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that finds the first p with row(p) >= h; P where there is none."""

    @device_function
    def first(h: int, P: int, how: How, H: int) -> Any:
        if h <= 0:
            return int32(0)
        step = how[0]
        p = int32(min(typed(h, step) / step, typed(P, step))) if step > typed(0, step) else int32(0)
        while p > 0 and row(p - 1, how, H) >= h:
            p = int32(p - 1)
        while p < P and row(p, how, H) < h:
            p = int32(p + 1)
        return p

    return first  # type: ignore[no-any-return]


first_nearest, first_upper = make_first(nearest_row), make_first(upper_row)


@kernel
def nearest_kernel(
    x: Array, planes: int, H: int, W: int, by_p: Divisor, by_q: Divisor, down: How, along: How, y: Array
) -> None:
    first, p, q = pixel_of_thread(by_p, by_q)
    last = int32(planes - 1 - first)  # of the thread's images
    if last >= 0:
        source = int32((first * H + nearest_row(p, down, H)) * W + nearest_row(q, along, W))
        size = int32(H * W)
        v = cuda.local.array(PLANES, x.dtype)
        for k in range(PLANES):
            v[k] = x[at(source + min(k, last) * size)]
        store(v, last, y, (first * by_p[0] + p) * by_q[0] + q, by_p[0] * by_q[0])


@kernel
def nearest_backward_kernel(
    dy: Array, planes: int, P: int, Q: int, by_h: Divisor, by_w: Divisor, down: How, along: How, dx: Array
) -> None:
    first, h, w = pixel_of_thread(by_h, by_w)
    last = int32(planes - 1 - first)  # of the thread's images
    if last >= 0:
        H, W, size = by_h[0], by_w[0], int32(P * Q)
        total = cuda.local.array(PLANES, dy.dtype)
        clear(total)
        q_start, q_stop = first_nearest(w, Q, along, W), first_nearest(w + 1, Q, along, W)
        for p in range(first_nearest(h, P, down, H), first_nearest(h + 1, P, down, H)):
            for q in range(q_start, q_stop):
                source = int32((first * P + p) * Q + q)
                for k in range(PLANES):
                    total[k] += dy[at(source + min(k, last) * size)]
        store(total, last, dx, (first * H + h) * W + w, H * W)


@kernel
def bilinear_kernel(
    x: Array, planes: int, H: int, W: int, by_p: Divisor, by_q: Divisor, down: How, along: How, y: Array
) -> None:
    first, p, q = pixel_of_thread(by_p, by_q)
    last = int32(planes - 1 - first)  # of the thread's images
    if last >= 0:
        h, w = upper_row(p, down, H), upper_row(q, along, W)
        below, right = min(h + 1, H - 1), min(w + 1, W - 1)
        a, b = lower_weight(p, h, down), lower_weight(q, w, along)
        one = x.dtype.type(1)
        v = cuda.local.array(PLANES, x.dtype)
        row, next_row = int32((first * H + h) * W), int32((first * H + below) * W)
        size = int32(H * W)
        for k in range(PLANES):
            start = min(k, last) * size
            upper = (one - b) * x[at(start + row + w)] + b * x[at(start + row + right)]
            lower = (one - b) * x[at(start + next_row + w)] + b * x[at(start + next_row + right)]
            v[k] = (one - a) * upper + a * lower
        store(v, last, y, (first * by_p[0] + p) * by_q[0] + q, by_p[0] * by_q[0])


@kernel
def bilinear_backward_kernel(
    dy: Array, planes: int, P: int, Q: int, by_h: Divisor, by_w: Divisor, down: How, along: How, dx: Array
) -> None:
    """Row p of y has a part of row h of x where its upper row is h - 1 or h."""
    first, h, w = pixel_of_thread(by_h, by_w)
    last = int32(planes - 1 - first)  # of the thread's images
    if last >= 0:
        H, W, size = by_h[0], by_w[0], int32(P * Q)
        total = cuda.local.array(PLANES, dy.dtype)
        clear(total)
        q_start, q_stop = first_upper(w - 1, Q, along, W), first_upper(w + 1, Q, along, W)
        for p in range(first_upper(h - 1, P, down, H), first_upper(h + 1, P, down, H)):
            of_row = weight(p, h, down, H)
            for q in range(q_start, q_stop):
                part = of_row * weight(q, w, along, W)
                source = int32((first * P + p) * Q + q)
                for k in range(PLANES):
                    total[k] += part * dy[at(source + min(k, last) * size)]
        store(total, last, dx, (first * H + h) * W + w, H * W)


def growth(axis: Axis, align_corners: bool, dtype: Any) -> How:
    """Return how the place in x grows along an axis: the step in two parts, and where pixels have centres."""
    exact = step(axis, align_corners)
    return dtype(exact), dtype(exact - float(dtype(exact))), dtype(0 if align_corners else 0.5)


def spread(run: Any, x: GpuArray, down: Axis, along: Axis, hows: tuple[How, How]) -> GpuArray:
    """Return y made of x by a kernel."""
    N, C, H, W = x.shape
    y = empty((N, C, down.out, along.out), x.dtype, x.device)
    grid = grid_of(blocks_for(N * C, PLANES) * down.out * along.out)
    run[grid](x, N * C, H, W, divisor(down.out), divisor(along.out), *hows, y)
    return y


def gather(run: Any, dy: GpuArray, x: GpuArray, hows: tuple[How, How]) -> GpuArray:
    """Return dx, of x's shape, made of dy by a kernel."""
    (N, C, H, W), dx = x.shape, empty_like(x)
    grid = grid_of(blocks_for(N * C, PLANES) * H * W)
    run[grid](dy, N * C, *dy.shape[2:], divisor(H), divisor(W), *hows, dx)
    return dx


def nearest_forward_cuda(x: GpuArray, *, size: Size = None, scale_factor: Scale = None) -> tuple[GpuArray]:
    down, along = axes(x.shape, size, scale_factor)
    return (spread(nearest_kernel, x, down, along, ((nearest_step(down),), (nearest_step(along),))),)


def nearest_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray], needs: tuple[bool],
    *, size: Size = None, scale_factor: Scale = None,
) -> tuple[GpuArray | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    down, along = axes(inputs[0].shape, size, scale_factor)
    if down.out == 2 * down.size and along.out == 2 * along.size:
        return avg_pool2d_forward_cuda(dy, kernel_size=2, divisor_override=1)
    hows = (nearest_step(down),), (nearest_step(along),)
    return (gather(nearest_backward_kernel, dy, inputs[0], hows),)


def bilinear_forward_cuda(
    x: GpuArray, *, size: Size = None, scale_factor: Scale = None, align_corners: bool = False
) -> tuple[GpuArray]:
    down, along = axes(x.shape, size, scale_factor)
    hows = growth(down, align_corners, x.dtype.type), growth(along, align_corners, x.dtype.type)
    return (spread(bilinear_kernel, x, down, along, hows),)


def bilinear_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray], needs: tuple[bool],
    *, size: Size = None, scale_factor: Scale = None, align_corners: bool = False,
) -> tuple[GpuArray | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    down, along = axes(inputs[0].shape, size, scale_factor)
    hows = growth(down, align_corners, dy.dtype.type), growth(along, align_corners, dy.dtype.type)
    return (gather(bilinear_backward_kernel, dy, inputs[0], hows),)
