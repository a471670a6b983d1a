"""sum, mean and max on a GPU, in the passes of ``tuned``: the innermost group of reduced axes first.

Bound: memory; every element is read once (forward) or written once (backward). Where there are few results, a
second pass adds up what the blocks of each have found: fixed shares, fixed order, no atomics.
"""

from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like, zeros
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import MOST_THREADS, THREADS, WARP, at, cuda, device_function, kernel
from nnkernels.machine.gpu_reduce import ALL_LANES
from nnkernels.machine.memory import Array
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.loops import Dim
from nnkernels.ops.reduce.tiling import WARP_BITS, Tiling, sum_over_lanes, thread_place, tiling
from nnkernels.ops.reduce.tuned import planned

PER_THREAD = 16  # elements of a thread, about
AT_ONCE = 4  # loads of a thread that do not wait for each other
Pass = tuple[int, int, int]  # outer, n, inner

# --- sum and mean ---


@kernel
def sum_kernel(
    x: Array, outer: int, n: int, inner: int, share: int, width_bits: int, lane_bits: int, tiles: int,
    divisor: Any, y: Array,
) -> None:  # fmt: skip
    """Write the sums of each part of x (outer, n, inner) over ``divisor`` to y (outer, parts, inner)."""
    scratch = cuda.shared.array(MOST_THREADS, x.dtype)
    o, lane, column = thread_place(width_bits, lane_bits, tiles)
    part, parts = cuda.blockIdx.y, cuda.gridDim.y
    s = x.dtype.type(0)
    if o < outer and column < inner:
        last = min((part + 1) * share, n)
        start, k = o * n * inner + column, part * share + lane
        while k < last:  # range with a step would divide to count its rounds
            for _ in range(AT_ONCE):
                value = x[at(start + min(k, last - 1) * inner)]
                s += value if k < last else x.dtype.type(0)
                k += 1 << lane_bits
    s = sum_over_lanes(s, scratch, width_bits, lane_bits)
    if lane == 0 and o < outer and column < inner:
        y[at((o * parts + part) * inner + column)] = s / divisor


@kernel
def spread_kernel(
    dy: Array, outer: int, n: int, inner: int, share: int, width_bits: int, lane_bits: int, tiles: int,
    divisor: Any, dx: Array,
) -> None:  # fmt: skip
    """Write dy (outer, inner) over ``divisor`` to all n places of each element in dx (outer, n, inner)."""
    o, lane, column = thread_place(width_bits, lane_bits, tiles)
    part = cuda.blockIdx.y
    if o < outer and column < inner:
        value = dy[at(o * inner + column)] / divisor
        last, k = min((part + 1) * share, n), part * share + lane
        while k < last:
            dx[at((o * n + k) * inner + column)] = value
            k += 1 << lane_bits


def grids(way: Pass) -> tuple[Tiling, Tiling]:
    """Return the grid of a pass, and the grid that puts the results of its parts together."""
    outer, n, inner = way
    # Short rows get more lanes, so that neighbours read neighbouring elements.
    short = inner < WARP and n < WARP * PER_THREAD
    first = tiling(outer, n, inner, AT_ONCE if short else PER_THREAD, THREADS, split=True)
    return first, tiling(outer, first.parts, inner, PER_THREAD, MOST_THREADS)


def sum_pass(x: GpuArray, way: Pass, divisor: Any, y: GpuArray) -> None:
    """Write the sums over the middle axis over ``divisor`` to y."""
    outer, n, inner = way
    one = x.dtype.type(1)
    for grid in grids(way):
        alone = grid.parts == 1
        sums = y if alone else empty((outer * grid.parts * inner,), x.dtype, x.device)
        sum_kernel[(grid.blocks, grid.parts), grid.threads](
            x, outer, n, inner, grid.share, grid.width_bits, grid.lane_bits, grid.tiles,
            divisor if alone else one, sums,
        )  # fmt: skip
        if alone:
            return
        x, n = sums, grid.parts


def spread_pass(dy: GpuArray, way: Pass, divisor: Any, dx: GpuArray) -> None:
    """Write dy over ``divisor`` along the middle axis of dx."""
    grid = grids(way)[0]
    spread_kernel[(grid.blocks, grid.parts), grid.threads](
        dy, *way, grid.share, grid.width_bits, grid.lane_bits, grid.tiles, divisor, dx
    )


def make_cuda_sum(mean: bool) -> Body:
    """Return the body of sum, or of mean, which divides by n."""

    def forward(x: GpuArray, dim: Dim = None, keepdim: bool = False) -> tuple[GpuArray]:
        shape, n, passes = planned(x, dim, keepdim)  # type: ignore[arg-type]  # only its shape is read
        if x.size == 0:
            return (zeros(shape, x.dtype, x.device),)
        y = empty(shape, x.dtype, x.device)
        one = x.dtype.type(1)
        for way in passes[:-1]:
            partial = empty((way.outer * way.inner,), x.dtype, x.device)
            sum_pass(x, way[:3], one, partial)
            x = partial
        sum_pass(x, passes[-1][:3], x.dtype.type(n) if mean else one, y)
        return (y,)

    def backward(
        dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray], needs: tuple[bool],
        dim: Dim = None, keepdim: bool = False,
    ) -> tuple[GpuArray | None]:  # fmt: skip
        if not needs[0]:
            return (None,)
        (x,) = inputs
        dx = empty_like(x)
        if x.size == 0:
            return (dx,)
        _, n, passes = planned(x, dim, keepdim)  # type: ignore[arg-type]
        one = x.dtype.type(1)
        for way in passes[:0:-1]:  # the passes backwards, the large one last
            wide = empty((way.outer * way.n * way.inner,), x.dtype, x.device)
            spread_pass(dy, way[:3], one, wide)
            dy = wide
        spread_pass(dy, passes[0][:3], x.dtype.type(n) if mean else one, dx)
        return (dx,)

    return Body(forward, backward)


sum_cuda, mean_cuda = make_cuda_sum(mean=False), make_cuda_sum(mean=True)

# --- max ---


@device_function
def comes_before(value: Any, place: int, best: Any, where: int) -> bool:
    """Return whether a value is larger than the best, NaN above all; of equals, the one that stands first."""
    if value > best or (value != value and best == best):
        return True
    return place < where and (value == best or (value != value and best != best))


@device_function
def larger_over_lanes(
    value: Any, place: int, values: Array, places: Array, width_bits: int, lane_bits: int
) -> tuple[Any, int]:
    """Return the largest value over the lanes of this thread's column and its place, to all of them."""
    bits, end = width_bits, width_bits + lane_bits
    while bits < end and bits < WARP_BITS:
        other = cuda.shfl_xor_sync(ALL_LANES, value, 1 << bits)
        where = cuda.shfl_xor_sync(ALL_LANES, place, 1 << bits)
        if comes_before(other, where, value, place):
            value, place = other, where
        bits += 1
    if bits < end:
        t = cuda.threadIdx.x
        values[at(t)], places[at(t)] = value, place
        cuda.syncthreads()
        first = ((t >> end) << end) + (t & ((1 << bits) - 1))
        for k in range(1 << (end - bits)):
            other, where = values[at(first + (k << bits))], places[at(first + (k << bits))]
            if comes_before(other, where, value, place):
                value, place = other, where
        cuda.syncthreads()
    return value, place


@kernel(launch_bounds=(MOST_THREADS, 1))
def max_kernel(
    x: Array, source: Array, outer: int, n: int, inner: int, share: int, width_bits: int, lane_bits: int,
    tiles: int, y: Array, argmax: Array,
) -> None:  # fmt: skip
    """Write the maxima of each part of x (outer, n, inner) to y (outer, parts, inner), and their places.

    ``source`` has the places of x's elements, where x holds maxima itself.
    """
    values = cuda.shared.array(MOST_THREADS, x.dtype)
    places = cuda.shared.array(MOST_THREADS, argmax.dtype)
    o, lane, column = thread_place(width_bits, lane_bits, tiles)
    part, parts = cuda.blockIdx.y, cuda.gridDim.y
    here, last = o < outer and column < inner, min((part + 1) * share, n)
    start = o * n * inner + column if here else 0
    # Lanes that come too late begin with the first element as well: it is counted once more, not missed.
    place = start + part * share * inner if here else 0
    best = x[at(place)]
    k = part * share + lane
    while here and k < last:
        for _ in range(AT_ONCE):
            i = start + min(k, last - 1) * inner
            value = x[at(i)]
            if comes_before(value, i, best, place):
                best, place = value, i
            k += 1 << lane_bits
    best, place = larger_over_lanes(best, place, values, places, width_bits, lane_bits)
    if lane == 0 and here:
        i = (o * parts + part) * inner + column
        y[at(i)] = best
        argmax[at(i)] = source[at(place)] if source.size > 0 else place


@kernel
def put_kernel(dy: Array, argmax: Array, dx: Array) -> None:
    """Write dy_j to dx at argmax_j: no place comes twice. Places outside of dx are left out."""
    j = thread_number()
    if j < dy.size:
        place = argmax[at(j)]
        if place >= 0 and place < dx.size:
            dx[at(place)] = dy[at(j)]


def max_pass(x: GpuArray, source: GpuArray, way: Pass, y: GpuArray, argmax: GpuArray) -> None:
    """Write the maxima over the middle axis to y, and where they came from to argmax."""
    outer, n, inner = way
    for grid in grids(way):
        best, where, size = y, argmax, outer * grid.parts * inner
        if grid.parts > 1:
            best, where = empty((size,), x.dtype, x.device), empty((size,), np.int64, x.device)
        max_kernel[(grid.blocks, grid.parts), grid.threads](
            x, source, outer, n, inner, grid.share, grid.width_bits, grid.lane_bits, grid.tiles, best, where
        )
        if grid.parts == 1:
            return
        x, source, n = best, where, grid.parts


def max_forward_cuda(x: GpuArray, dim: Dim = None, keepdim: bool = False) -> tuple[GpuArray, GpuArray]:
    shape, _, passes = planned(x, dim, keepdim)  # type: ignore[arg-type]
    y, argmax = empty(shape, x.dtype, x.device), empty(shape, np.int64, x.device)
    if x.size == 0:
        return y, argmax
    source = empty((0,), np.int64, x.device)
    for way in passes[:-1]:
        best = empty((way.outer * way.inner,), x.dtype, x.device)
        where = empty(best.shape, np.int64, x.device)
        max_pass(x, source, way[:3], best, where)
        x, source = best, where
    max_pass(x, source, passes[-1][:3], y, argmax)
    return y, argmax


def max_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray, GpuArray], inputs: tuple[GpuArray], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[GpuArray | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = zeros(inputs[0].shape, dy.dtype, dy.device)
    put_kernel[grid_of(dy.size)](dy, outputs[1], dx)
    return (dx,)


max_cuda = Body(max_forward_cuda, max_backward_cuda)
