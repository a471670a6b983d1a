"""Convolutions as products of matrices on a GPU, the second of which is never stored:

    result[m, i] = sum over the table's rows d of w[m, d] source[d, i]

with filters m and pixels i of all images. A kernel before lays the weights out as the product's tiles want
them, d by d with filters side by side, and writes the table (see ``cuda_geometry``), so that a pixel of the
source is one address added to a pixel's and one test of its bits. Pixels of several images share a tile.

Bound: 2 FLOPs per weight and pixel.
"""

from typing import Any

import numpy as np
from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.machine.gpu_instructions import load4, store4
from nnkernels.machine.gpu_kernel import Expected, Kernel, at, ceil_div, cuda, kernel
from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.cuda_geometry import (
    NEVER,
    Pass,
    Triple,
    phase_of,
    pixel_of,
    quotient,
    row_of_table,
)
from nnkernels.ops.matmul.tiles import ALIGNMENT, BIG, SMALL, Tile, tile_functions

SIDE = 32  # of the squares in which weights are turned
SQUARE = SIDE * (SIDE + 1)  # a column more, so that columns lie in different banks
MIDDLE = Tile(rows=64, columns=128, depth=16, tm=8, tn=8)  # for 64 filters and fewer

# --- before: the weights and the table ---


@kernel
def arrange_kernel(w: Array, g: Any, depth: int, width: int, packed: Array, table: Array) -> None:
    """packed[group, phase, d, m] = w[m, d], zeros around up to depth x width; table[phase, d] = (offset, bits
    needed). Blocks of SIDE x 8 threads turn squares: w is read along d, packed written along m.
    """
    square = cuda.shared.array(SQUARE, w.dtype)
    _, groups, filters, channels, w_filter, _, _, _, _, taps, up, _, _, _, _, _ = g
    lane, line = cuda.threadIdx.x, cuda.threadIdx.y
    number = quotient(cuda.blockIdx.x, width // SIDE)
    m_block = cuda.blockIdx.x - number * (width // SIDE)
    both = quotient(number, depth // SIDE)
    d_block = number - both * (depth // SIDE)
    phases = up[0] * up[1] * up[2]
    group = quotient(both, phases)
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
    rows, columns, depth, threads = tile.rows, tile.columns, tile.depth, tile.threads
    a_row, b_row, tm, tn = tile.a_row, tile.b_row, tile.tm, tile.tn
    a_part, b_part, sums_each = depth * a_row, depth * b_row, tm * tn
    a_shape, b_shape = 2 * a_part, 2 * b_part
    a_loads, b_loads = depth * rows // 4 // threads, depth * columns // threads
    a_apart, b_apart, quads = 4 * threads // rows, threads // columns, rows // 4
    a_each = 4 * a_loads
    functions = tile_functions(tile)
    row, column, clear, multiply = functions.row, functions.column, functions.clear, functions.multiply

    @kernel(expected=expected, launch_bounds=(threads, 512 // threads))
    def implicit_kernel(
        source: Array, packed: Array, table: Array, b: Array, relu: int, g: Any, deep: int, width: int,
        result: Array,
    ) -> None:  # fmt: skip
        """result[n, m, i] = b[m] + sum over d < deep of packed[d, m] source[i + table[d]], or max(., 0).

        While a step's products are added, the next step's numbers are on their way to registers. Blocks count
        filters first, then groups, phases, and pixels, so that those that read the same pixels run together.
        """
        a_tile = cuda.shared.array(a_shape, result.dtype, alignment=ALIGNMENT)
        b_tile = cuda.shared.array(b_shape, result.dtype, alignment=ALIGNMENT)
        places = cuda.shared.array(columns, int32)
        _, groups, filters, channels, _, _, _, out, _, _, up, _, _, _, _, _ = g
        thread, zero = cuda.threadIdx.x, result.dtype.type(0)
        parts = quotient(width, rows)
        number = quotient(cuda.blockIdx.x, parts)
        first = (cuda.blockIdx.x - number * parts) * rows
        of_group = quotient(number, groups)
        group = number - of_group * groups
        phases = up[0] * up[1] * up[2]
        block = quotient(of_group, phases)
        phase_number = of_group - block * phases
        phase = phase_of(phase_number, g)
        steps = quotient(channels * phase[1][1] * phase[2][1] * phase[3][1] + depth - 1, depth)
        plane = out[0] * out[1] * out[2]
        base, bits, n, place = pixel_of(block * columns + thread % columns, group, phase, g)
        if thread < columns:  # read behind the barriers of the steps
            places[at(thread)] = (n * groups + group) * filters * plane + place if bits != 0 else -1
        at_row = int32(2 * (phase_number * deep + thread // columns))
        line, quad = int32(thread // quads), int32(thread % quads * 4)
        at_weight = int32(((group * phases + phase_number) * deep + line) * width + first + quad)
        a_place, b_place = line * a_row + quad, thread // columns * b_row + thread % columns

        a_next, b_next = cuda.local.array(a_each, result.dtype), cuda.local.array(b_loads, result.dtype)
        sums = cuda.local.array(sums_each, result.dtype)
        clear(sums)
        buffer = int32(0)
        for step in range(steps + 1):
            if step < steps:
                for i in range(a_loads):
                    a_next[4 * i], a_next[4 * i + 1], a_next[4 * i + 2], a_next[4 * i + 3] = load4(
                        packed, at(at_weight + i * a_apart * width)
                    )
                for i in range(b_loads):
                    offset, need = table[at(at_row + 2 * i * b_apart)], table[at(at_row + 2 * i * b_apart + 1)]
                    b_next[i] = source[at(base + offset)] if bits & need == need else zero
                at_weight = int32(at_weight + depth * width)
                at_row = int32(at_row + 2 * depth)
            if step > 0:
                multiply(a_tile, buffer * a_part, b_tile, buffer * b_part, sums)
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
            m = first + row(i)
            bias = b[at(group * filters + m)] if m < filters and b.size > 0 else zero
            for j in range(tn):
                y = sums[i * tn + j] + bias
                sums[i * tn + j] = zero if relu and y < zero else y
        to = cuda.local.array(tn, int32)
        for j in range(tn):
            to[j] = places[at(column(j))]
        for i in range(tm):
            m = first + row(i)
            for j in range(tn):
                if to[j] >= 0 and m < filters:
                    result[at(to[j] + m * plane)] = sums[i * tn + j]

    return implicit_kernel


# A block of 256 threads may use 128 registers each where two are to fit on a multiprocessor.
KERNELS = {
    BIG: make_implicit(BIG, Expected(registers=128, opcodes=("LDS.128",))),
    MIDDLE: make_implicit(MIDDLE, Expected(registers=128, opcodes=("LDS.128",))),
    SMALL: make_implicit(SMALL, Expected(registers=128, registers64=168, opcodes=("LDS.128",))),
}
MULTIPROCESSORS = 132  # tiles are chosen so that a GPU of this size has work


def tile_for(g: Pass, dtype: np.dtype[Any]) -> Tile:
    """Return the largest tile that fits the filters and leaves no multiprocessor idle; float64 has the small."""
    if dtype == np.float64:
        return SMALL
    for tile in (BIG, MIDDLE):
        blocks = ceil_div(g.pixels, tile.columns) * ceil_div(g.filters, tile.rows) * g.groups * g.phases
        if g.filters > tile.rows // 2 and blocks >= MULTIPROCESSORS * 256 // tile.threads:
            return tile
    return SMALL


def implicit(source: GpuArray, w: GpuArray, b: GpuArray | None, relu: bool, g: Pass, result: GpuArray) -> None:
    """Compute a pass by a product of matrices."""
    tile = tile_for(g, result.dtype)
    deep, width = SIDE * ceil_div(g.depth, SIDE), tile.rows * ceil_div(g.filters, tile.rows)
    device, both, numbers = result.device, g.groups * g.phases, tuple(g)
    packed = empty((both * deep * width,), w.dtype, device)
    table = empty((g.phases * deep * 2,), np.int32, device)
    arrange_kernel[both * (deep // SIDE) * (width // SIDE), (SIDE, 8)](w, numbers, deep, width, packed, table)
    blocks = ceil_div(g.pixels, tile.columns) * g.phases * g.groups * (width // tile.rows)
    bias = empty((0,), result.dtype, device) if b is None else b
    KERNELS[tile][blocks, tile.threads](
        source, packed, table, bias, int(relu), numbers, deep, width, result
    )
