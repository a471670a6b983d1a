"""Convolutions with few channels on a GPU: a thread computes one pixel of the result for several filters.

A block holds a part of its filters' weights in shared memory, with the rows of the table (see
``cuda_geometry``) that say where each weight's pixel lies. Neighbouring threads take neighbouring pixels.

Bound: 2 FLOPs per weight and pixel; with a filter and a channel to each group, the bytes of x and y.
"""

from typing import Any

from numba import int32

from nnkernels.machine.gpu_array import GpuArray, or_empty
from nnkernels.machine.gpu_index import divide
from nnkernels.machine.gpu_kernel import Expected, Kernel, at, ceil_div, cuda, kernel, threads_for
from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.cuda_geometry import Pass, phase_of, pixel_of, row_of_table

ROWS = 64  # of the table, in shared memory
MOST_THREADS = 128


def make_direct(filters_each: int) -> Kernel:
    """Return the kernel whose threads compute a pixel of ``filters_each`` filters."""
    share = ROWS * filters_each

    @kernel(expected=Expected(registers=96), launch_bounds=(MOST_THREADS, 5))
    def direct_kernel(source: Array, w: Array, b: Array, relu: int, g: Any, result: Array) -> None:
        """result[n, m, i] = b[m] + sum over the table's rows of source[n, row, i] w[m, row], or max(., 0).

        Blocks count filters first, then groups, phases, and pixels.
        """
        weights = cuda.shared.array(share, result.dtype)
        offsets = cuda.shared.array(ROWS, int32)
        needed = cuda.shared.array(ROWS, int32)
        _, groups, filters, channels, w_filter, _, _, out, _, taps, up, _, _, _, _, _ = g
        threads, thread, zero = cuda.blockDim.x, cuda.threadIdx.x, result.dtype.type(0)
        parts = divide(filters + filters_each - 1, filters_each)
        number = divide(cuda.blockIdx.x, parts)
        first = (cuda.blockIdx.x - number * parts) * filters_each
        of_group = divide(number, groups)
        group = number - of_group * groups
        phases = up[0] * up[1] * up[2]
        block = divide(of_group, phases)
        phase = phase_of(of_group - block * phases, g)
        depth = channels * phase[1][1] * phase[2][1] * phase[3][1]
        filters_before = group * filters * channels * taps[0] * taps[1] * taps[2]

        base, bits, n, place = pixel_of(block * threads + thread, group, phase, g)
        sums = cuda.local.array(filters_each, result.dtype)
        for m in range(filters_each):
            sums[m] = zero
        for start in range(0, depth, ROWS):
            rows = min(ROWS, depth - start)
            cuda.syncthreads()
            for row in range(thread, rows, threads):
                offsets[at(row)], needed[at(row)], tap = row_of_table(start + row, phase, g)
                for m in range(filters_each):
                    address = filters_before + (first + m) * w_filter + tap
                    weights[at(row * filters_each + m)] = w[at(address)] if first + m < filters else zero
            cuda.syncthreads()
            for row in range(rows):
                need = needed[at(row)]
                x = source[at(base + offsets[at(row)])] if bits & need == need else zero
                for m in range(filters_each):
                    sums[m] += x * weights[at(row * filters_each + m)]

        plane = out[0] * out[1] * out[2]
        for m in range(filters_each):
            k = group * filters + first + m
            if bits != 0 and first + m < filters:
                y = sums[m]
                if b.size > 0:
                    y += b[at(k)]
                if relu and y < zero:
                    y = zero
                result[at((n * groups * filters + k) * plane + place)] = y

    return direct_kernel


MANY = 8
for_many, for_one = make_direct(MANY), make_direct(1)


def direct(source: GpuArray, w: GpuArray, b: GpuArray | None, relu: bool, g: Pass, result: GpuArray) -> None:
    """Compute a pass, one thread per pixel."""
    kernel, filters_each = (for_one, 1) if g.filters == 1 else (for_many, MANY)
    threads = threads_for(g.pixels, MOST_THREADS)
    blocks = ceil_div(g.pixels, threads) * g.phases * g.groups * ceil_div(g.filters, filters_each)
    kernel[blocks, threads](source, w, or_empty(b, result), int(relu), tuple(g), result)
