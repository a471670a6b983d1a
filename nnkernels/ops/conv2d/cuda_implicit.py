"""Convolutions as products of matrices on a GPU, the second of which is never stored:

    result[m, i] = sum over the table's rows d of w[m, d] source[d, i]

with filters m and pixels i of all images. A kernel before lays the weights out as the product's tiles want
them, d by d with filters side by side, and writes the table (see ``cuda_geometry``), so that a pixel of the
source is one address added to a pixel's and one test of its bits. Pixels of several images share a tile.

Bound: 2 FLOPs per weight and pixel.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty, or_empty
from nnkernels.machine.gpu_index import divide, grid_of, thread_number
from nnkernels.machine.gpu_instructions import load4, store4
from nnkernels.machine.gpu_kernel import (
    MOST_ELEMENTS,
    MULTIPROCESSORS,
    Expected,
    Kernel,
    at,
    ceil_div,
    cuda,
    kernel,
)
from nnkernels.machine.gpu_reduce import sum_of_parts
from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.cuda_geometry import (
    NEVER,
    Pass,
    phase_of,
    pixel_of,
    row_of_table,
)
from nnkernels.ops.matmul.tiles import ALIGNMENT, SMALL, Tile, tile_functions

SIDE = 32  # of the squares in which weights are turned
SQUARE = SIDE * (SIDE + 1)  # a column more, so that columns lie in different banks
# Half of the largest tile of matmul: besides the sums, addresses and bits want registers.
TALL = Tile(rows=128, columns=64, depth=16, tm=8, tn=8)
MIDDLE = Tile(rows=64, columns=128, depth=16, tm=8, tn=8)  # for 64 filters and fewer
BLOCKS = {TALL: 3, MIDDLE: 3, SMALL: 8}  # that share a multiprocessor's registers

# --- before: the weights and the table ---


@kernel
def arrange_kernel(w: Array, g: Any, depth: int, width: int, packed: Array, table: Array) -> None:
    """packed[group, phase, d, m] = w[m, d], zeros around up to depth x width; table[phase, d] = (offset, bits
    needed). Blocks of SIDE x 8 threads turn squares: w is read along d, packed written along m.
    """
    square = cuda.shared.array(SQUARE, w.dtype)
    _, _, filters, channels, w_filter, _, _, _, _, taps, up, _, _, _, _, _ = g
    lane, line = cuda.threadIdx.x, cuda.threadIdx.y
    number = divide(cuda.blockIdx.x, width // SIDE)
    m_block = cuda.blockIdx.x - number * (width // SIDE)
    both = divide(number, depth // SIDE)
    d_block = number - both * (depth // SIDE)
    phases = up[0] * up[1] * up[2]
    group = divide(both, phases)
    phase_number = both - group * phases
    d = d_block * SIDE + lane
    offset, needed, place = row_of_table(d, phase_of(phase_number, g), g)
    if group == 0 and m_block == 0 and line == 0:
        table[at(2 * (phase_number * depth + d))] = offset
        table[at(2 * (phase_number * depth + d) + 1)] = needed
    filters_before = group * filters * channels * taps[0] * taps[1] * taps[2]
    for i in range(line, SIDE, 8):
        m = m_block * SIDE + i
        inside = m < filters and needed != NEVER
        address = filters_before + m * w_filter + place
        square[at(i * (SIDE + 1) + lane)] = w[at(address)] if inside else w.dtype.type(0)
    cuda.syncthreads()
    for i in range(line, SIDE, 8):
        row = (both * depth + d_block * SIDE + i) * width
        packed[at(row + m_block * SIDE + lane)] = square[at(lane * (SIDE + 1) + i)]


# --- the product ---


def make_implicit(tile: Tile, expected: Expected) -> Kernel:
    """Return the kernel for one size of tiles."""
    bounds = (tile.threads, BLOCKS[tile])
    rows, columns, depth, threads = tile.rows, tile.columns, tile.depth, tile.threads
    a_row, b_row, tm, tn = tile.a_row, tile.b_row, tile.tm, tile.tn
    a_part, b_part, sums_each = depth * a_row, depth * b_row, tm * tn
    a_shape, b_shape = 2 * a_part, 2 * b_part
    a_loads, b_loads = depth * rows // 4 // threads, depth * columns // threads
    a_apart, b_apart, quads = 4 * threads // rows, threads // columns, rows // 4
    a_each = 4 * a_loads
    functions = tile_functions(tile)
    row, column, clear, multiply = functions.row, functions.column, functions.clear, functions.multiply

    @kernel(expected=expected, launch_bounds=bounds)
    def implicit_kernel(
        source: Array, packed: Array, table: Array, b: Array, relu: int, g: Any, sizes: Any, result: Array
    ) -> None:
        """result[n, m, i] = b[m] + sum over d of packed[d, m] source[i + table[d]], or max(., 0); where terms
        are split, result[split, n, m, i] is the sum of ``share`` steps.

        While a step's products are added, the next step's numbers are on their way to registers. Blocks count
        filters first, then groups, splits, phases, and pixels, so that those that read the same pixels run
        together.
        """
        deep, width, splits, share = sizes
        a_tile = cuda.shared.array(a_shape, result.dtype, alignment=ALIGNMENT)
        b_tile = cuda.shared.array(b_shape, result.dtype, alignment=ALIGNMENT)
        places = cuda.shared.array(columns, int32)
        images, groups, filters, channels, _, _, _, out, _, _, up, _, _, _, _, _ = g
        thread, zero = cuda.threadIdx.x, result.dtype.type(0)
        parts = divide(width, rows)
        number = divide(cuda.blockIdx.x, parts)
        first = int32((cuda.blockIdx.x - number * parts) * rows)
        of_group = divide(number, groups)
        group = int32(number - of_group * groups)
        of_split = divide(of_group, splits)
        split = of_group - of_split * splits
        phases = up[0] * up[1] * up[2]
        block = divide(of_split, phases)
        phase_number = of_split - block * phases
        phase = phase_of(phase_number, g)
        steps = divide(channels * phase[1][1] * phase[2][1] * phase[3][1] + depth - 1, depth)
        start = split * share
        steps = int32(max(0, min(steps - start, share)))
        plane = int32(out[0] * out[1] * out[2])
        base, bits, n, place = pixel_of(block * columns + thread % columns, group, phase, g)
        if thread < columns:  # read behind the barriers of the steps
            n += split * images
            places[at(thread)] = (n * groups + group) * filters * plane + place if bits != 0 else -1
        at_row = int32(2 * (phase_number * deep + start * depth + thread // columns))
        line, quad = int32(thread // quads), int32(thread % quads * 4)
        line_of_weights = (group * phases + phase_number) * deep + start * depth + line
        at_weight = int32(line_of_weights * width + first + quad)
        a_place = int32(line * a_row + quad)
        b_place = int32(thread // columns * b_row + thread % columns)

        a_next, b_next = cuda.local.array(a_each, result.dtype), cuda.local.array(b_loads, result.dtype)
        sums = cuda.local.array(sums_each, result.dtype)
        clear(sums)
        buffer = int32(0)
        for step in range(int32(steps + 1)):
            if step < steps:
                for i in range(a_loads):
                    a_next[4 * i], a_next[4 * i + 1], a_next[4 * i + 2], a_next[4 * i + 3] = load4(
                        packed, at(at_weight + i * a_apart * width)
                    )
                for i in range(b_loads):
                    offset, need = (
                        table[at(at_row + 2 * i * b_apart)],
                        table[at(at_row + 2 * i * b_apart + 1)],
                    )
                    b_next[i] = source[at(base + offset)] if bits & need == need else zero
                at_weight = int32(at_weight + depth * width)
                at_row = int32(at_row + 2 * depth)
            if step > 0:
                multiply(a_tile, int32(buffer * a_part), b_tile, int32(buffer * b_part), sums)
                buffer = int32(1 - buffer)
            if step < steps:
                for i in range(a_loads):
                    store4(
                        a_tile, at(buffer * a_part + a_place + i * a_apart * a_row),
                        a_next[4 * i], a_next[4 * i + 1], a_next[4 * i + 2], a_next[4 * i + 3],
                    )  # fmt: skip
                for i in range(b_loads):
                    b_tile[at(buffer * b_part + b_place + i * b_apart * b_row)] = b_next[i]
            cuda.syncthreads()

        for i in range(tm):
            m = int32(first + row(i))
            bias = b[at(group * filters + m)] if m < filters and b.size > 0 else zero
            for j in range(tn):
                y = sums[i * tn + j] + bias
                sums[i * tn + j] = zero if relu and y < zero else y
        to = cuda.local.array(tn, int32)
        for j in range(tn):
            to[j] = places[at(column(j))]
        for i in range(tm):
            m = int32(first + row(i))
            for j in range(tn):
                if to[j] >= 0 and m < filters:
                    result[at(to[j] + m * plane)] = sums[i * tn + j]

    return implicit_kernel


# The sums alone take 64 registers; BLOCKS of a tile leave each thread 128, or 168.
KERNELS = {
    TALL: make_implicit(TALL, Expected(registers=168, opcodes=("LDS.128",))),
    MIDDLE: make_implicit(MIDDLE, Expected(registers=168, opcodes=("LDS.128",))),
    SMALL: make_implicit(SMALL, Expected(registers=128, opcodes=("LDS.128",))),
}


@kernel
def combine_kernel(parts: Array, splits: int, b: Array, relu: int, plane: int, result: Array) -> None:
    """result[n, m, i] = b[m] + sum over splits of parts[split, n, m, i], in their order, or max(., 0)."""
    i = thread_number()
    if i < result.size:
        s = sum_of_parts(parts, i, splits, result.size)
        if b.size > 0:
            s += b[at(divide(i, plane) % b.size)]
        zero = result.dtype.type(0)
        result[at(i)] = zero if relu and s < zero else s


SPEEDS = {TALL: 1.0, MIDDLE: 0.95, SMALL: 0.55}  # a multiply-add of a tile, relative to the largest's
ALONE = 1.3  # how much longer a block takes that has a multiprocessor for itself, and waits for memory
BEFORE = 24  # terms' time that a block takes before its first
PART = 0.7  # multiply-adds of a multiprocessor in the time that writing and adding a partial sum takes
LEAST_SHARE = 256  # terms of a split


class Plan(NamedTuple):
    """How a pass is shared among blocks."""

    tile: Tile
    splits: int  # of the terms
    share: int  # steps of each


@lru_cache(maxsize=1024)
def plan(g: Pass, itemsize: int) -> Plan:
    """Return the tile, and the number of shares of its terms, that leave multiprocessors idle the least."""
    found: list[tuple[float, Plan]] = []
    size = g.images * g.groups * g.filters * math.prod(g.out)
    for tile in (TALL, MIDDLE, SMALL) if itemsize == 4 else (SMALL,):
        blocks = ceil_div(g.pixels, tile.columns) * ceil_div(g.filters, tile.rows) * g.groups * g.phases
        steps = ceil_div(g.depth, tile.depth)
        for splits in range(1, 9):
            share = ceil_div(steps, splits)
            if splits > 1 and (share * tile.depth < LEAST_SHARE or splits * size > MOST_ELEMENTS):
                break
            rounds = ceil_div(blocks * splits, MULTIPROCESSORS)
            each = (share * tile.depth + BEFORE) * tile.rows * tile.columns / SPEEDS[tile]
            cost = rounds * each * (ALONE if rounds == 1 else 1) + (splits * size * PART if splits > 1 else 0)
            found.append((cost, Plan(tile, splits, share)))
    return min(found, key=lambda pair: pair[0])[1]


def implicit(
    source: GpuArray, w: GpuArray, b: GpuArray | None, relu: bool, g: Pass, result: GpuArray
) -> None:
    """Compute a pass by a product of matrices."""
    tile, splits, share = plan(g, result.itemsize)
    deep, width = SIDE * ceil_div(g.depth, SIDE), tile.rows * ceil_div(g.filters, tile.rows)
    device, both, numbers = result.device, g.groups * g.phases, tuple(g)
    packed = empty((both * deep * width,), w.dtype, device)
    table = empty((g.phases * deep * 2,), np.int32, device)
    arrange_kernel[both * (deep // SIDE) * (width // SIDE), (SIDE, 8)](w, numbers, deep, width, packed, table)
    blocks = ceil_div(g.pixels, tile.columns) * both * splits * (width // tile.rows)
    none = or_empty(None, result)
    bias, sizes, run = or_empty(b, result), (deep, width, splits, share), KERNELS[tile]
    if splits == 1:
        run[blocks, tile.threads](source, packed, table, bias, int(relu), numbers, sizes, result)
        return
    parts = empty((splits, *result.shape), result.dtype, device)
    run[blocks, tile.threads](source, packed, table, none, 0, numbers, sizes, parts)
    plane = math.prod(g.out)
    combine_kernel[grid_of(result.size)](parts, splits, bias, int(relu), plane, result)
