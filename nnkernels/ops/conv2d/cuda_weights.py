"""dw on a GPU.

    dw[m, d] = sum over pixels i of dy[m, i] x[i + table[d]]

is a product of matrices over the pixels of all images, or, for few filters, a sum that a block takes for
several rows d of the table (see ``cuda_geometry``) at once. There are more pixels than weights: the pixels
are dealt out in shares, whose sums lie side by side in memory and are added in order by a second kernel, so
that the same numbers give the same bits.

Bound: 2 FLOPs per weight and pixel; with a filter and a channel to each group, the bytes of x and dy.
"""

from typing import Any

import numpy as np
from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty, zeros
from nnkernels.machine.gpu_index import divide, grid_of, thread_number
from nnkernels.machine.gpu_kernel import (
    MULTIPROCESSORS,
    THREADS,
    Expected,
    Kernel,
    at,
    ceil_div,
    cuda,
    kernel,
)
from nnkernels.machine.gpu_reduce import sum_of_parts
from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.cuda_geometry import Pass, phase_of, pixel_of, row_of_table
from nnkernels.ops.conv2d.cuda_implicit import BLOCKS, MIDDLE, TALL
from nnkernels.ops.matmul.tiles import ALIGNMENT, SMALL, Tile, tile_functions

ROWS = 9  # of the table, for a block of the kernel that sums
ROWS_OF_THREADS, ROWS_OF_EIGHTHS = ROWS * THREADS, ROWS * 8
# Short steps have fewer numbers on their way: addresses need the registers.
LARGE, HALF = TALL._replace(depth=8), MIDDLE._replace(depth=8)
BLOCKS_OF = {LARGE: BLOCKS[TALL], HALF: BLOCKS[MIDDLE], SMALL: BLOCKS[SMALL]}
FEWEST = 1024  # pixels that are worth a share of their own

# --- before: the pixels of an image ---


@kernel
def pixels_kernel(g: Any, pixels: Array) -> None:
    """pixels[i] = (address in x of pixel i, in the first image and group; bits of its taps inside)."""
    i = thread_number()
    if 2 * i < pixels.size:
        base, bits, _, _ = pixel_of(i, 0, phase_of(0, g), g)
        pixels[at(2 * i)] = base
        pixels[at(2 * i + 1)] = bits


# --- few filters: one after the other ---


@kernel
def sum_rows_kernel(dy: Array, x: Array, pixels: Array, share: int, g: Any, dw: Array) -> None:
    """dw[part, m, d] = sum over the part's pixels i of dy[m, i] x[i + table[d]], a block for each part, m and
    ROWS rows d.
    """
    of_threads = cuda.shared.array(ROWS_OF_THREADS, x.dtype)
    of_eighths = cuda.shared.array(ROWS_OF_EIGHTHS, x.dtype)
    offsets = cuda.shared.array(ROWS, int32)
    needed = cuda.shared.array(ROWS, int32)
    images, groups, filters, channels, _, _, _, out, source, taps, _, _, _, _, _, _ = g
    threads, thread, zero = cuda.blockDim.x, cuda.threadIdx.x, x.dtype.type(0)
    depth = channels * taps[0] * taps[1] * taps[2]
    parts = divide(depth + ROWS - 1, ROWS)
    number = divide(cuda.blockIdx.x, parts)
    first = (cuda.blockIdx.x - number * parts) * ROWS
    part = divide(number, groups * filters)
    k = number - part * groups * filters
    group = divide(k, filters)
    phase = phase_of(0, g)
    if thread < ROWS:
        offsets[at(thread)], needed[at(thread)], _ = row_of_table(first + thread, phase, g)
    cuda.syncthreads()
    plane, in_group = out[0] * out[1] * out[2], channels * source[0] * source[1] * source[2]
    sums = cuda.local.array(ROWS, x.dtype)
    for d in range(ROWS):
        sums[d] = zero
    for pixel in range(part * share + thread, min((part + 1) * share, images * plane), threads):
        n = divide(pixel, plane)
        i = pixel - n * plane
        bits = pixels[at(2 * i + 1)]
        base = int32(pixels[at(2 * i)] + (n * groups + group) * in_group)
        dy_i = dy[at((n * groups * filters + k) * plane + i)]
        for d in range(ROWS):
            need = needed[at(d)]
            sums[d] += dy_i * (x[at(base + offsets[at(d)])] if bits & need == need else zero)
    for d in range(ROWS):
        of_threads[at(d * threads + thread)] = sums[d]
    cuda.syncthreads()
    for i in range(thread, ROWS * 8, threads):
        s = zero
        for j in range(i % 8, threads, 8):
            s += of_threads[at(i // 8 * threads + j)]
        of_eighths[at(i)] = s
    cuda.syncthreads()
    if thread < ROWS and first + thread < depth:
        s = zero
        for j in range(8):
            s += of_eighths[at(thread * 8 + j)]
        dw[at((part * groups * filters + k) * depth + first + thread)] = s


# --- many: a product of matrices ---


def make_product(tile: Tile, expected: Expected) -> Kernel:
    """Return the kernel for one size of tiles."""
    bounds = (tile.threads, BLOCKS_OF[tile])
    rows, columns, depth, threads = tile.rows, tile.columns, tile.depth, tile.threads
    a_row, b_row, sums_each = tile.a_row, tile.b_row, tile.tm * tile.tn
    a_part, b_part = depth * a_row, depth * b_row
    a_shape, b_shape, two_steps = 2 * a_part, 2 * b_part, 2 * depth
    a_loads, b_loads, apart = depth * rows // threads, depth * columns // threads, threads // depth
    functions = tile_functions(tile)
    clear, multiply, store = functions.clear, functions.multiply, functions.store

    @kernel(expected=expected, launch_bounds=bounds)
    def product_kernel(dy: Array, x: Array, pixels: Array, share: int, g: Any, dw: Array) -> None:
        """dw[part, m, d] = sum over the part's pixels i of dy[m, i] x[i + table[d]].

        Where a step's pixels lie is worked out by a few threads, a step ahead. ``share`` is a multiple of it.
        """
        a_tile = cuda.shared.array(a_shape, dw.dtype, alignment=ALIGNMENT)
        b_tile = cuda.shared.array(b_shape, dw.dtype, alignment=ALIGNMENT)
        offsets = cuda.shared.array(columns, int32)
        needed = cuda.shared.array(columns, int32)
        bases = cuda.shared.array(two_steps, int32)
        bits = cuda.shared.array(two_steps, int32)
        places = cuda.shared.array(two_steps, int32)
        images, groups, filters, channels, _, _, _, out, source, taps, _, _, _, _, _, _ = g
        thread, zero = cuda.threadIdx.x, dw.dtype.type(0)
        weights, plane = int32(channels * taps[0] * taps[1] * taps[2]), int32(out[0] * out[1] * out[2])
        in_group = int32(channels * source[0] * source[1] * source[2])
        row_tiles, column_tiles = divide(filters + rows - 1, rows), divide(weights + columns - 1, columns)
        number = divide(cuda.blockIdx.x, column_tiles)
        first_d = int32((cuda.blockIdx.x - number * column_tiles) * columns)
        of_group = divide(number, row_tiles)
        first_m = int32((number - of_group * row_tiles) * rows)
        part = divide(of_group, groups)
        group = int32(of_group - part * groups)
        phase = phase_of(0, g)
        start = int32(part * share)
        stop = int32(min(start + share, images * plane))
        steps = divide(stop - start + depth - 1, depth)
        k, i0 = int32(thread % depth), int32(thread // depth)
        rows_left, from_i0 = int32(filters - first_m - i0), int32(i0 * plane)

        for d in range(thread, columns, threads):
            offsets[at(d)], needed[at(d)], _ = row_of_table(first_d + d, phase, g)
        a_next, b_next = cuda.local.array(a_loads, dw.dtype), cuda.local.array(b_loads, dw.dtype)
        sums = cuda.local.array(sums_each, dw.dtype)
        clear(sums)
        buffer = int32(0)
        for step in range(int32(-1), int32(steps + 1)):
            if 0 <= step < steps:
                slot = (step & 1) * depth + k
                base, inside, place = bases[at(slot)], bits[at(slot)], int32(places[at(slot)] + from_i0)
                rows_here = rows_left if inside != 0 else int32(0)
                for i in range(a_loads):
                    a_next[i] = dy[at(place + i * apart * plane)] if i * apart < rows_here else zero
                for i in range(b_loads):
                    need = needed[at(i0 + i * apart)]
                    b_next[i] = x[at(base + offsets[at(i0 + i * apart)])] if inside & need == need else zero
            if thread < depth and step + 1 < steps:
                pixel = start + (step + 1) * depth + thread
                n = divide(pixel, plane)
                i = pixel - n * plane
                slot = (step + 1 & 1) * depth + thread
                bases[at(slot)] = pixels[at(2 * i)] + (n * groups + group) * in_group if pixel < stop else 0
                bits[at(slot)] = pixels[at(2 * i + 1)] if pixel < stop else 0
                places[at(slot)] = ((n * groups + group) * filters + first_m) * plane + i
            if step > 0:
                multiply(a_tile, int32(buffer * a_part), b_tile, int32(buffer * b_part), sums)
                buffer = int32(1 - buffer)
            if 0 <= step < steps:
                for i in range(a_loads):
                    a_tile[at(buffer * a_part + k * a_row + i0 + i * apart)] = a_next[i]
                for i in range(b_loads):
                    b_tile[at(buffer * b_part + k * b_row + i0 + i * apart)] = b_next[i]
            cuda.syncthreads()

        to = int32(((part * groups + group) * filters + first_m) * weights + first_d)
        store(sums, dw, to, int32(filters - first_m), int32(weights - first_d), weights, False)

    return product_kernel


KERNELS = {
    LARGE: make_product(LARGE, Expected(registers=168, opcodes=("LDS.128",))),
    HALF: make_product(HALF, Expected(registers=168, opcodes=("LDS.128",))),
    SMALL: make_product(SMALL, Expected(registers=128, opcodes=("LDS.128",))),
}

# --- the second pass ---


@kernel
def add_parts_kernel(parts: int, sums: Array, total: Array) -> None:
    """total[i] = sum over parts of sums[part, i], in their order."""
    i = thread_number()
    if i < total.size:
        total[at(i)] = sum_of_parts(sums, i, parts, total.size)


def added(sums: GpuArray, shape: tuple[int, ...]) -> GpuArray:
    """Return the sum over the first axis."""
    if len(sums) == 1:
        return sums.reshape(shape)
    total = empty(shape, sums.dtype, sums.device)
    add_parts_kernel[grid_of(total.size)](len(sums), sums, total)
    return total


def shares(pixels: int, blocks: int, wanted: int, multiple: int) -> tuple[int, int]:
    """Return the pixels of a share, and the number of shares, such that all have ``wanted`` blocks at most,
    where one has ``blocks``.
    """
    parts = max(1, min(wanted // blocks, pixels // FEWEST))
    share = multiple * ceil_div(ceil_div(pixels, parts), multiple)
    return share, ceil_div(pixels, share)


def tile_for(filters: int, weights: int, dtype: np.dtype[Any]) -> Tile:
    """Return the tile for dw of a group: float64 has the small."""
    if dtype == np.float64 or weights < SMALL.columns * 2:
        return SMALL
    return LARGE if filters > HALF.rows else HALF if filters > SMALL.rows else SMALL


def few_filters(g: Pass) -> bool:
    """Return whether most of a tile would be empty."""
    return min(g.filters, g.depth) < 12


def weight_sums(dy: GpuArray, x: GpuArray, g: Pass, shape: tuple[int, ...]) -> GpuArray:
    """Return dw of the given shape; ``g`` is the pass from x to y."""
    if g.pixels == 0:
        return zeros(shape, dy.dtype, dy.device)
    size, weights = g.groups * g.filters * g.depth, g.depth
    plane, numbers = g.pixels // g.images, tuple(g)
    pixels = empty((2 * plane,), np.int32, dy.device)
    pixels_kernel[grid_of(plane)](numbers, pixels)
    if few_filters(g):
        blocks = g.groups * g.filters * ceil_div(weights, ROWS)
        threads = THREADS if g.pixels >= FEWEST else 32
        share, parts = shares(g.pixels, blocks, 8 * MULTIPROCESSORS, 1)
        sums = empty((parts, size), dy.dtype, dy.device)
        sum_rows_kernel[blocks * parts, threads](dy, x, pixels, share, numbers, sums)
    else:
        tile = tile_for(g.filters, weights, dy.dtype)
        blocks = g.groups * ceil_div(g.filters, tile.rows) * ceil_div(weights, tile.columns)
        share, parts = shares(g.pixels, blocks, BLOCKS_OF[tile] * MULTIPROCESSORS, tile.depth)
        sums = empty((parts, size), dy.dtype, dy.device)
        KERNELS[tile][blocks * parts, tile.threads](dy, x, pixels, share, numbers, sums)
    return added(sums, shape)
