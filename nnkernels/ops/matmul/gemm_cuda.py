"""General matrix product on a GPU, batched: y[n] = sum over r of a[n, r] b[n, r], either operand transposed.

Blocks of threads compute tiles of y (see tiles.py): a step's operands go to shared memory by way of
registers, and are loaded while the step before is multiplied. So each number from memory serves a whole
tile's width, and arithmetic is the bound: 2 M N K FLOPs at the multiply-add rate. Where y has too few tiles
to give every multiprocessor work, as in the gradient of a layer's weights, several blocks share the K of a
tile: each writes its partial sums, and a second kernel adds these, always in the same order. Matrices much
smaller than a tile have a thread for each element of y.
"""

import math
from functools import lru_cache
from typing import Any, NamedTuple

from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty, is_aligned
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import (
    MULTIPROCESSORS,
    Expected,
    at,
    blocks_for,
    ceil_div,
    cuda,
    device_function,
    kernel,
)
from nnkernels.machine.gpu_reduce import sum_of_parts
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array
from nnkernels.ops.matmul.form import (
    BIAS,
    ONE,
    RELU,
    TRANSPOSED_A,
    TRANSPOSED_B,
    VECTOR_A,
    VECTOR_B,
    VECTOR_Y,
    Axes,
    finished,
    offsets,
    work_of_block,
)
from nnkernels.ops.matmul.gemm_tf32 import TF32_THREADS, tf32_kernel
from nnkernels.ops.matmul.precision import get_matmul_precision
from nnkernels.ops.matmul.tiles import (
    ALIGNMENT,
    BIG,
    SMALL,
    Tile,
    held_by_thread,
    operand_functions,
    tile_functions,
)

TINY, TINY_DEPTH = 4096, 64  # multiply-adds of a matrix, and of an element, that need no tiles
TINY_THREADS = 64


def make_product_kernel(tile: Tile, expected: Expected) -> Any:
    """Return the kernel for a Tile."""
    _, column, clear, multiply, store_tile = tile_functions(tile)
    fetch_a, put_a = operand_functions(tile, tile.rows)
    fetch_b, put_b = operand_functions(tile, tile.columns)
    rows, columns, depth, tm, tn = tile
    a_held_size, b_held_size = held_by_thread(tile, rows), held_by_thread(tile, columns)
    a_part, b_part = depth * tile.a_row, depth * tile.b_row  # a step's operands in shared memory
    a_size, b_size, sums_size = 2 * a_part, 2 * b_part, tm * tn

    @device_function
    def finish(sums: Array, bias: Array, j0: int, N: int, flags: int) -> None:
        """Add the bias, take the activation."""
        for j in range(tn):
            c = int32(j0 + column(j))
            add = bias[at(c)] if flags & BIAS and c < N else sums.dtype.type(0)
            for i in range(tm):
                sums[i * tn + j] = finished(sums[i * tn + j], add, flags)

    @kernel(expected=expected)
    def product_kernel(
        a: Array, b: Array, bias: Array, form: Axes, outer: Axes, summed: Axes, y: Array
    ) -> None:
        M, N, K, flags, splits, share, steps = form
        turned_a, turned_b = flags & TRANSPOSED_A == 0, flags & TRANSPOSED_B != 0  # k along rows?
        vector_a, vector_b = flags & VECTOR_A != 0, flags & VECTOR_B != 0
        a_tile = cuda.shared.array(a_size, y.dtype, ALIGNMENT)
        b_tile = cuda.shared.array(b_size, y.dtype, ALIGNMENT)
        a_held, b_held = cuda.local.array(a_held_size, y.dtype), cuda.local.array(b_held_size, y.dtype)
        sums = cuda.local.array(sums_size, y.dtype)

        j0, i0, part, split, n = work_of_block(M, N, rows, columns, splits)
        a_start, b_start = offsets(n, outer)

        clear(sums)
        first, last = int32(split * share), int32(min(split * share + share, steps))
        each = ceil_div(K, depth)  # steps of one product
        r, k0, buffer = int32(first // each), int32(first % each * depth), int32(0)
        a_at, b_at = offsets(r, summed)
        for step in range(first, last + 1):  # fetch this step, multiply the one before
            if step < last:
                fetch_a(a, int32(a_start + a_at), i0, M, k0, K, turned_a, vector_a, a_held)
                fetch_b(b, int32(b_start + b_at), j0, N, k0, K, turned_b, vector_b, b_held)
                k0 = int32(k0 + depth)
                if k0 >= K:
                    r, k0 = int32(r + 1), int32(0)
                    a_at, b_at = offsets(r, summed)
            if step > first:
                multiply(a_tile, buffer * a_part, b_tile, buffer * b_part, sums)
                buffer = int32(1 - buffer)
            if step < last:  # others may still be multiplying: they read the other buffer
                put_a(a_held, turned_a, a_tile, buffer * a_part)
                put_b(b_held, turned_b, b_tile, buffer * b_part)
            cuda.syncthreads()

        finish(sums, bias, j0, N, flags)
        store_tile(sums, y, int32((part * M + i0) * N + j0), M - i0, N - j0, N, flags & VECTOR_Y != 0)

    return product_kernel


big_kernel = make_product_kernel(BIG, Expected(registers=128, opcodes=("LDG.E.128", "LDS.128", "STG.E.128")))
small_kernel = make_product_kernel(SMALL, Expected(registers=96, registers64=168, opcodes=("LDS.128",)))


@kernel
def tiny_kernel(a: Array, b: Array, bias: Array, form: Axes, outer: Axes, summed: Axes, y: Array) -> None:
    """Compute one element of y by each thread. Bound: loads, most of them from the L1 cache."""
    M, N, K, flags, repeats = form
    a_row, a_column = (int32(1), M) if flags & TRANSPOSED_A else (K, int32(1))
    b_row, b_column = (int32(1), K) if flags & TRANSPOSED_B else (N, int32(1))
    place = thread_number()
    if place < y.size:
        n, i, j = place // (M * N), place // N % M, place % N
        a_start, b_start = offsets(n, outer)
        s = y.dtype.type(0)
        for r in range(repeats):
            a_at, b_at = offsets(r, summed)
            a_first, b_first = a_start + a_at + i * a_row, b_start + b_at + j * b_column
            for k in range(K):
                s += a[at(a_first + k * a_column)] * b[at(b_first + k * b_row)]
        y[at(place)] = finished(s, bias[at(j)] if flags & BIAS else y.dtype.type(0), flags)


@kernel
def combine_kernel(parts: Array, splits: int, N: int, flags: int, bias: Array, y: Array) -> None:
    """Add the partial sums of each element. Bound: reading them."""
    i = thread_number()
    if i < y.size:
        s = sum_of_parts(parts, i, splits, y.size)
        y[at(i)] = finished(s, bias[at(i % N)] if flags & BIAS else typed(0, s), flags)


class Plan(NamedTuple):
    """How a product is shared among blocks."""

    tile: Tile
    splits: int  # blocks for each tile of y
    share: int  # steps of each
    steps: int  # of all


class Demand(NamedTuple):
    """What a Tile asks for: blocks to fill the GPU, and k's that are worth a block of their own."""

    blocks: int
    depth: int


DEMANDS = {BIG: Demand(2 * MULTIPROCESSORS, 256), SMALL: Demand(16 * MULTIPROCESSORS, 64)}


@lru_cache(maxsize=1024)
def plan(M: int, N: int, K: int, batch: int, repeats: int, itemsize: int) -> Plan:
    """Return the largest tile that gives all multiprocessors work, if need be with each tile's K shared."""
    tile, splits, steps = SMALL, 1, 0
    for tile in (BIG, SMALL) if itemsize == 4 and SMALL.rows < M and SMALL.columns < N else (SMALL,):
        blocks = ceil_div(M, tile.rows) * ceil_div(N, tile.columns) * batch
        steps = ceil_div(K, tile.depth) * repeats
        wanted, depth = DEMANDS[tile]
        splits = max(1, min(wanted // blocks, steps * tile.depth // depth))
        if blocks * splits >= MULTIPROCESSORS:
            break
    share = ceil_div(steps, splits)
    return Plan(tile, ceil_div(steps, share) if share else 1, share, steps)


def gemm_cuda(
    a: GpuArray, b: GpuArray, y: GpuArray, sizes: tuple[int, int, int], *, transpose_a: bool = False,
    transpose_b: bool = False, outer: Axes = ONE, summed: Axes = ONE, bias: GpuArray | None = None,
    relu: bool = False,
) -> None:  # fmt: skip
    """Write y[n] = sum over r of a[n, r] b[n, r], (M, K) by (K, N) = ``sizes`` each, where y is contiguous.

    ``transpose_a`` says that a's matrices lie as (K, M), ``transpose_b`` that b's lie as (N, K). ``outer``
    and ``summed`` are the axes of n and of r: for each its size and its steps in a and b, in elements.
    """
    if y.size == 0:
        return
    M, N, K = sizes
    batch, repeats = count(outer), count(summed)
    if repeats == 0:
        K, repeats, summed = 0, 1, ONE
    ending = (BIAS if bias is not None else 0) | (RELU if relu else 0)
    flags = (TRANSPOSED_A if transpose_a else 0) | (TRANSPOSED_B if transpose_b else 0) | ending
    bias = y if bias is None else bias
    if M * N * K <= TINY and K * repeats <= TINY_DEPTH:
        tiny_kernel[blocks_for(y.size, TINY_THREADS), TINY_THREADS](
            a, b, bias, (M, N, K, flags, repeats), outer, summed, y
        )
        return
    tile, splits, share, steps = plan(M, N, K, batch, repeats, y.itemsize)
    flags |= VECTOR_A if has_aligned_rows(a, M if transpose_a else K) else 0
    flags |= VECTOR_B if has_aligned_rows(b, K if transpose_b else N) else 0
    flags |= VECTOR_Y if has_aligned_rows(y, N) else 0
    blocks = ceil_div(M, tile.rows) * ceil_div(N, tile.columns) * batch * splits
    run, threads = big_kernel if tile is BIG else small_kernel, tile.threads
    if tile is BIG and flags & VECTOR_A and flags & VECTOR_B and get_matmul_precision() == "high":
        run, threads = tf32_kernel(not transpose_a, transpose_b), TF32_THREADS  # in the same tiles
    if splits == 1:
        form = (M, N, max(K, 1), flags, 1, share, steps)
        run[blocks, threads](a, b, bias, form, outer, summed, y)
        return
    parts = empty((splits, y.size), y.dtype, y.device)
    form = (M, N, K, flags & ~ending, splits, share, steps)
    run[blocks, threads](a, b, bias, form, outer, summed, parts)
    combine_kernel[grid_of(y.size)](parts, splits, N, ending, bias, y)


def count(axes: Axes) -> int:
    """Return the number of entries."""
    return math.prod(axes[::3])


def has_aligned_rows(x: GpuArray, row: int) -> bool:
    """Return whether x's rows of ``row`` elements are made of fours at multiples of 16 bytes."""
    return row % 4 == 0 and is_aligned(x)
