"""softmax and log_softmax on a GPU, x seen as (outer, n, inner), the middle axis shared by lanes.

Bound: memory; one read and one write forward, two reads and one write backward. An axis of up to AT_ONCE
numbers for each lane stays in registers between the sum and the division. A longer one is read twice: the
maximum and the sum are found together, the sum being scaled anew whenever the maximum grows (Milakov and
Gimelshein, Online normalizer calculation for softmax, 2018).
"""

import math
from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_kernel import MOST_THREADS, Kernel, at, cuda, device_function, kernel
from nnkernels.machine.memory import Array
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.tiling import (
    Tiling,
    max_over_lanes,
    split_shape,
    sum_over_lanes,
    thread_place,
    tiling,
)

AT_ONCE = 8  # numbers of a thread in registers
AT_ONCE_IF_LONG = 4  # of an axis that does not fit
MOST_IF_LONG = 512  # threads of a block, which leaves them 128 registers each
MINUS_INFINITY = -math.inf


@device_function
def top_and_sum(
    x: Array, start: int, n: int, step: int, lane: int, scratch: Array, width_bits: int, lane_bits: int
) -> tuple[Any, Any]:
    """Return m, the largest of the n numbers from ``start`` on, ``step`` apart, and the sum of e^(x - m)."""
    values = cuda.local.array(AT_ONCE_IF_LONG, x.dtype)
    top, s = x.dtype.type(MINUS_INFINITY), x.dtype.type(0)
    k = lane
    while k < n:
        before = top
        for j in range(AT_ONCE_IF_LONG):
            value = x[at(start + min(k, n - 1) * step)]
            values[j] = value if k < n else x.dtype.type(MINUS_INFINITY)
            top = max(top, values[j])
            k += 1 << lane_bits
        if top > before:
            s *= math.exp(before - top)
        for j in range(AT_ONCE_IF_LONG):
            if values[j] != x.dtype.type(MINUS_INFINITY):  # where all are, -inf - -inf would be NaN
                s += math.exp(values[j] - top)
    m = max_over_lanes(top, scratch, width_bits, lane_bits)
    return m, sum_over_lanes(s * math.exp(top - m), scratch, width_bits, lane_bits)


@device_function
def shifted_and_sum(
    x: Array, start: int, n: int, step: int, lane: int, scratch: Array, width_bits: int, lane_bits: int,
    values: Array,
) -> Any:  # fmt: skip
    """Load the lane's AT_ONCE of the n numbers, less the largest of all; return the sum of all their powers.

    The powers are not kept: computing them once more costs less than registers that hold both.
    """
    m = x.dtype.type(MINUS_INFINITY)
    for j in range(AT_ONCE):
        k = lane + (j << lane_bits)
        value = x[at(start + min(k, n - 1) * step)]
        values[j] = value if k < n else x.dtype.type(MINUS_INFINITY)
        m = max(m, values[j])
    m = max_over_lanes(m, scratch, width_bits, lane_bits)
    s = x.dtype.type(0)
    for j in range(AT_ONCE):
        values[j] -= m
        s += math.exp(values[j])
    return sum_over_lanes(s, scratch, width_bits, lane_bits)


def make_kernels(log: bool) -> tuple[Kernel, Kernel, Kernel, Kernel]:
    """Return the kernels forward and backward: for an axis that fits in registers, for any other."""

    @kernel(launch_bounds=MOST_THREADS)
    def forward_kernel(
        x: Array, outer: int, n: int, inner: int, width_bits: int, lane_bits: int, tiles: int, y: Array
    ) -> None:
        scratch = cuda.shared.array(MOST_THREADS, x.dtype)
        values = cuda.local.array(AT_ONCE, x.dtype)
        o, lane, column = thread_place(width_bits, lane_bits, tiles)
        here = o < outer and column < inner
        start = o * n * inner + column if here else 0
        s = shifted_and_sum(x, start, n, inner, lane, scratch, width_bits, lane_bits, values)
        scale, log_s = x.dtype.type(1) / s, math.log(s)
        for j in range(AT_ONCE):
            k = lane + (j << lane_bits)
            if here and k < n:
                y[at(start + k * inner)] = values[j] - log_s if log else math.exp(values[j]) * scale

    @kernel(launch_bounds=MOST_IF_LONG)
    def long_forward_kernel(
        x: Array, outer: int, n: int, inner: int, width_bits: int, lane_bits: int, tiles: int, y: Array
    ) -> None:
        scratch = cuda.shared.array(MOST_THREADS, x.dtype)
        o, lane, column = thread_place(width_bits, lane_bits, tiles)
        here = o < outer and column < inner
        start = o * n * inner + column if here else 0
        m, s = top_and_sum(x, start, n, inner, lane, scratch, width_bits, lane_bits)
        scale, log_s = x.dtype.type(1) / s, math.log(s)
        values = cuda.local.array(AT_ONCE_IF_LONG, x.dtype)
        k = lane
        while here and k < n:
            for j in range(AT_ONCE_IF_LONG):
                value = x[at(start + min(k + (j << lane_bits), n - 1) * inner)] - m
                values[j] = value - log_s if log else math.exp(value) * scale
            for j in range(AT_ONCE_IF_LONG):
                if k < n:
                    y[at(start + k * inner)] = values[j]
                k += 1 << lane_bits

    @kernel(launch_bounds=MOST_THREADS)
    def backward_kernel(
        dy: Array, y: Array, outer: int, n: int, inner: int, width_bits: int, lane_bits: int, tiles: int,
        dx: Array,
    ) -> None:  # fmt: skip
        scratch = cuda.shared.array(MOST_THREADS, y.dtype)
        g = cuda.local.array(AT_ONCE, y.dtype)
        p = cuda.local.array(AT_ONCE, y.dtype)
        o, lane, column = thread_place(width_bits, lane_bits, tiles)
        here = o < outer and column < inner
        start = o * n * inner + column if here else 0
        t = y.dtype.type(0)
        for j in range(AT_ONCE):
            k = lane + (j << lane_bits)
            i = start + min(k, n - 1) * inner
            g[j], p[j] = dy[at(i)], y[at(i)]
            term = g[j] if log else g[j] * p[j]
            t += term if k < n else y.dtype.type(0)
        t = sum_over_lanes(t, scratch, width_bits, lane_bits)
        for j in range(AT_ONCE):
            k = lane + (j << lane_bits)
            if here and k < n:
                dx[at(start + k * inner)] = g[j] - math.exp(p[j]) * t if log else p[j] * (g[j] - t)

    @kernel(launch_bounds=MOST_IF_LONG)
    def long_backward_kernel(
        dy: Array, y: Array, outer: int, n: int, inner: int, width_bits: int, lane_bits: int, tiles: int,
        dx: Array,
    ) -> None:  # fmt: skip
        scratch = cuda.shared.array(MOST_THREADS, y.dtype)
        o, lane, column = thread_place(width_bits, lane_bits, tiles)
        here = o < outer and column < inner
        start = o * n * inner + column if here else 0
        t = y.dtype.type(0)
        k = lane
        while k < n:
            for _ in range(AT_ONCE_IF_LONG):
                i = start + min(k, n - 1) * inner
                term = dy[at(i)] if log else dy[at(i)] * y[at(i)]
                t += term if k < n else y.dtype.type(0)
                k += 1 << lane_bits
        t = sum_over_lanes(t, scratch, width_bits, lane_bits)
        values = cuda.local.array(AT_ONCE_IF_LONG, y.dtype)
        k = lane
        while here and k < n:
            for j in range(AT_ONCE_IF_LONG):
                i = start + min(k + (j << lane_bits), n - 1) * inner
                g, p = dy[at(i)], y[at(i)]
                values[j] = g - math.exp(p) * t if log else p * (g - t)
            for j in range(AT_ONCE_IF_LONG):
                if k < n:
                    dx[at(start + k * inner)] = values[j]
                k += 1 << lane_bits

    return forward_kernel, long_forward_kernel, backward_kernel, long_backward_kernel


def fits(grid: Tiling, n: int) -> bool:
    """Return whether the n numbers fit into the registers of the lanes."""
    return n <= AT_ONCE << grid.lane_bits


def make_cuda(log: bool) -> Body:
    """Return the body."""
    forward_kernel, long_forward_kernel, backward_kernel, long_backward_kernel = make_kernels(log)

    def forward(x: GpuArray, dim: int = -1) -> tuple[GpuArray]:
        y = empty_like(x)
        if y.size > 0:
            sizes = split_shape(x.shape, dim)
            grid, start = tiling(*sizes, AT_ONCE, MOST_THREADS), forward_kernel
            if not fits(grid, sizes[1]):
                grid, start = tiling(*sizes, AT_ONCE_IF_LONG, MOST_IF_LONG), long_forward_kernel
            start[grid.blocks, grid.threads](x, *sizes, grid.width_bits, grid.lane_bits, grid.tiles, y)
        return (y,)

    def backward(
        dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray], needs: tuple[bool], dim: int = -1
    ) -> tuple[GpuArray | None]:
        if not needs[0]:
            return (None,)
        (y,) = outputs
        dx = empty_like(y)
        if y.size > 0:
            sizes = split_shape(y.shape, dim)
            grid, start = tiling(*sizes, AT_ONCE, MOST_THREADS), backward_kernel
            if not fits(grid, sizes[1]):
                grid, start = tiling(*sizes, AT_ONCE_IF_LONG, MOST_IF_LONG), long_backward_kernel
            start[grid.blocks, grid.threads](dy, y, *sizes, grid.width_bits, grid.lane_bits, grid.tiles, dx)
        return (dx,)

    return Body(forward, backward)
