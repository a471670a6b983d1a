"""Adaptive pooling on a GPU: windows that cover an image, of sizes that differ by one or two rows.

    window p of P holds rows h      from floor(p H / P) to ceil((p + 1) H / P) - 1
    row h of H lies in windows p    from floor(h P / H) to ceil((h + 1) P / H) - 1

The two are one formula with H and P in each other's place. Forward gives a window to one thread, or to a warp
where windows have more elements than that: neighbouring threads then read neighbouring elements, as one does
of neighbouring windows where these are small. Backward has a thread for each pixel of PLANES images.

Bound: memory traffic, where windows tile the image; where they do not, the divisions that say which windows
hold a pixel count as much.
"""

import math
from typing import Any

from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.machine.gpu_index import Divisor, divisor, grid_of, quotient, thread_number
from nnkernels.machine.gpu_kernel import WARP, Kernel, at, blocks_for, cuda, device_function, kernel
from nnkernels.machine.gpu_reduce import ALL_LANES, warp_sum
from nnkernels.machine.memory import Array
from nnkernels.ops.pooling.shapes import NOWHERE
from nnkernels.ops.pooling.tuned import beats, ties

PLANES = 4  # images of a thread of backward


@device_function
def pixel_of_thread(by_h: Divisor, by_w: Divisor) -> Any:
    """Return the first of a thread's PLANES images, and the row and column of its pixel there."""
    t = thread_number()
    line = quotient(t, by_w)
    group = quotient(line, by_h)
    return int32(group * PLANES), int32(line - group * by_h[0]), int32(t - line * by_w[0])


@device_function
def clear(total: Array) -> None:
    """Set a thread's PLANES sums to 0."""
    for k in range(PLANES):
        total[k] = total.dtype.type(0)


@device_function
def store(values: Array, last: int, y: Array, place: int, size: int) -> None:
    """Write a number for each of a thread's images, 0 ... ``last``: to y at ``place``, ``size`` apart."""
    for k in range(PLANES):
        if k <= last:
            y[at(place + k * size)] = values[k]


@device_function
def window_of(i: int, H: int, W: int, by_p: Divisor, by_q: Divisor) -> Any:
    """Return the plane of window i, the first row and column that it holds there, its height and width."""
    line = quotient(i, by_q)
    plane = quotient(line, by_p)
    p, q = line - plane * by_p[0], i - line * by_q[0]
    top, left = start(p, H, by_p), start(q, W, by_q)
    return plane, top, left, int32(stop(p, H, by_p) - top), int32(stop(q, W, by_q) - left)


def floor_of(i: int, by: Divisor) -> Any:
    """i / n, rounded down; i may be larger than ``quotient`` takes."""
    return quotient(i, by) if i <= NOWHERE else int32(i // by[0])


def start(p: int, H: int, by: Divisor) -> Any:
    """floor(p H / P), by = divisor(P)."""
    return floor_of(p * H, by)


def stop(p: int, H: int, by: Divisor) -> Any:
    """ceil((p + 1) H / P)."""
    return floor_of((p + 1) * H + by[0] - 1, by)


def comes_first(v: Any, place: int, best: Any, best_place: int) -> Any:
    """v is the larger maximum, or an equal one at an earlier place."""
    return beats(v, best) | (ties(v, best) & (place < best_place))


@device_function
def next_element(r: int, s: int, width: int, lanes: int) -> Any:
    """The place ``lanes`` elements after row r and column s of a window."""
    s += lanes
    down = s // width if lanes > 1 else int32(s == width)
    return int32(r + down), int32(s - down * width)


def make_max_windows(lanes: int) -> Kernel:
    """Return the kernel that has ``lanes`` threads for each window, 1 or those of a warp."""

    @kernel
    def max_windows_kernel(
        x: Array, H: int, W: int, by_p: Divisor, by_q: Divisor, y: Array, argmax: Array
    ) -> None:
        t = thread_number()
        lane = t % lanes
        i = min(t // lanes, y.size - 1)  # threads beyond the last window stay, for the shuffles
        plane, top, left, height, width = window_of(i, H, W, by_p, by_q)
        best, place = x.dtype.type(-math.inf), int32(NOWHERE)
        r, s = next_element(0, lane - lanes, width, lanes)
        while r < height:
            here = int32((top + r) * W + left + s)
            v = x[at(plane * H * W + here)]
            wins = comes_first(v, here, best, place)
            best = v if wins else best
            place = here if wins else place
            r, s = next_element(r, s, width, lanes)
        if lanes > 1:
            for distance in (16, 8, 4, 2, 1):
                v = cuda.shfl_xor_sync(ALL_LANES, best, distance)
                here = cuda.shfl_xor_sync(ALL_LANES, place, distance)
                wins = comes_first(v, here, best, place)
                best = v if wins else best
                place = here if wins else place
        if lane == 0 and t < y.size * lanes:
            y[at(i)] = best
            argmax[at(i)] = place

    return max_windows_kernel


def make_avg_windows(lanes: int) -> Kernel:
    """Return the kernel that has ``lanes`` threads for each window, 1 or those of a warp."""

    @kernel
    def avg_windows_kernel(x: Array, H: int, W: int, by_p: Divisor, by_q: Divisor, y: Array) -> None:
        t = thread_number()
        lane = t % lanes
        i = min(t // lanes, y.size - 1)
        plane, top, left, height, width = window_of(i, H, W, by_p, by_q)
        total = x.dtype.type(0)
        r, s = next_element(0, lane - lanes, width, lanes)
        while r < height:
            total += x[at((plane * H + top + r) * W + left + s)]
            r, s = next_element(r, s, width, lanes)
        if lanes > 1:
            total = warp_sum(total)
        if lane == 0 and t < y.size * lanes:
            y[at(i)] = total / x.dtype.type(height * width)

    return avg_windows_kernel


@kernel
def max_windows_backward_kernel(
    dy: Array, argmax: Array, planes: int, by_p: Divisor, by_q: Divisor, by_h: Divisor, by_w: Divisor,
    dx: Array,
) -> None:  # fmt: skip
    first, h, w = pixel_of_thread(by_h, by_w)
    last = int32(planes - 1 - first)  # of the thread's images; it stands for those that are not there
    if last >= 0:
        P, Q, H, W = by_p[0], by_q[0], by_h[0], by_w[0]
        pixel = int32(h * W + w)
        total = cuda.local.array(PLANES, dy.dtype)
        clear(total)
        size = int32(P * Q)
        q_start, q_stop = start(w, Q, by_w), stop(w, Q, by_w)
        for p in range(start(h, P, by_h), stop(h, P, by_h)):
            for q in range(q_start, q_stop):
                window = int32((first * P + p) * Q + q)
                for k in range(PLANES):
                    j = window + min(k, last) * size
                    v, place = dy[at(j)], argmax[at(j)]
                    total[k] += v if place == pixel else dy.dtype.type(0)
        store(total, last, dx, (first * H + h) * W + w, H * W)


@kernel
def avg_windows_backward_kernel(
    dy: Array, planes: int, by_p: Divisor, by_q: Divisor, by_h: Divisor, by_w: Divisor, dx: Array
) -> None:
    first, h, w = pixel_of_thread(by_h, by_w)
    last = int32(planes - 1 - first)  # of the thread's images; it stands for those that are not there
    if last >= 0:
        P, Q, H, W = by_p[0], by_q[0], by_h[0], by_w[0]
        total = cuda.local.array(PLANES, dy.dtype)
        clear(total)
        size = int32(P * Q)
        q_start, q_stop = start(w, Q, by_w), stop(w, Q, by_w)
        for p in range(start(h, P, by_h), stop(h, P, by_h)):
            rows = stop(p, H, by_p) - start(p, H, by_p)
            for q in range(q_start, q_stop):
                columns = stop(q, W, by_q) - start(q, W, by_q)
                share = dy.dtype.type(1) / dy.dtype.type(rows * columns)
                window = int32((first * P + p) * Q + q)
                for k in range(PLANES):
                    total[k] += dy[at(window + min(k, last) * size)] * share
        store(total, last, dx, (first * H + h) * W + w, H * W)


MAX_WINDOWS = {lanes: make_max_windows(lanes) for lanes in (1, WARP)}
AVG_WINDOWS = {lanes: make_avg_windows(lanes) for lanes in (1, WARP)}


def lanes_for(x: tuple[int, ...], P: int, Q: int) -> int:
    """Return how many threads a window gets."""
    return WARP if x[2] * x[3] >= WARP * P * Q else 1


def max_windows(x: GpuArray, P: int, Q: int) -> tuple[GpuArray, GpuArray]:
    """Return the maxima of P x Q windows and their places."""
    (N, C, H, W), lanes = x.shape, lanes_for(x.shape, P, Q)
    y, argmax = empty((N, C, P, Q), x.dtype, x.device), empty((N, C, P, Q), "int32", x.device)
    MAX_WINDOWS[lanes][grid_of(y.size * lanes)](x, H, W, divisor(P), divisor(Q), y, argmax)
    return y, argmax


def avg_windows(x: GpuArray, P: int, Q: int) -> GpuArray:
    """Return the means of P x Q windows."""
    (N, C, H, W), lanes = x.shape, lanes_for(x.shape, P, Q)
    y = empty((N, C, P, Q), x.dtype, x.device)
    AVG_WINDOWS[lanes][grid_of(y.size * lanes)](x, H, W, divisor(P), divisor(Q), y)
    return y


def max_windows_backward(dy: GpuArray, argmax: GpuArray, x: tuple[int, ...]) -> GpuArray:
    """Return dx for images of shape x."""
    (N, C, H, W), dx = x, empty(x, dy.dtype, dy.device)
    grid, by = backward_grid(x), tuple(divisor(n) for n in (*dy.shape[2:], H, W))
    max_windows_backward_kernel[grid](dy, argmax, N * C, *by, dx)
    return dx


def avg_windows_backward(dy: GpuArray, x: tuple[int, ...]) -> GpuArray:
    """Return dx for images of shape x."""
    (N, C, H, W), dx = x, empty(x, dy.dtype, dy.device)
    grid, by = backward_grid(x), tuple(divisor(n) for n in (*dy.shape[2:], H, W))
    avg_windows_backward_kernel[grid](dy, N * C, *by, dx)
    return dx


def backward_grid(x: tuple[int, ...]) -> tuple[int, int]:
    """Return a grid with a thread for each pixel of PLANES images."""
    N, C, H, W = x
    return grid_of(blocks_for(N * C, PLANES) * H * W)
