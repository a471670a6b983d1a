"""Where each of 0, ..., n - 1 stands in an index, on a GPU: a counting sort, stable and without a race.

The index is cut into chunks, one for a block. table[v, c] counts how often chunk c holds v (whole numbers may
be added in any order); running sums over the table, v by v and chunk by chunk, say where the first v of each
chunk goes, and within a chunk every element counts its equals before it. A large table is avoided by sorting
digit by digit, the lowest first. Indices outside of 0, ..., n - 1 come last.

Bound: memory, each digit reading the index twice and the table four times.
"""

from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty, zeros
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import (
    WARP,
    at,
    blocks_for,
    ceil_div,
    cuda,
    device_function,
    kernel,
    threads_for,
)
from nnkernels.machine.gpu_reduce import ALL_LANES, WARPS_MOST
from nnkernels.machine.memory import Array

CHUNK = 1024  # elements, and threads, of a block
LARGEST_TABLE = 1 << 22  # elements
SHARE = 4096  # elements of the table that a block adds up


@device_function
def digit_of(i: int, index: Array, order: Array, n: int, shift: int, mask: int) -> int:
    """Return the digit by which element i of the order so far is sorted; an index outside counts as n."""
    e = order[at(i)] if order.size > 0 else i
    v = index[at(e)]
    v = v if v >= 0 and v < n else n
    return (v >> shift) & mask


@kernel
def count_kernel(
    index: Array, order: Array, n: int, shift: int, mask: int, chunks: int, table: Array
) -> None:  # fmt: skip
    """Count the digits of block c's chunk in table[., c]."""
    i = cuda.blockIdx.x * CHUNK + cuda.threadIdx.x
    if i < index.size:
        digit = digit_of(i, index, order, n, shift, mask)
        cuda.atomic.add(table, at(digit * chunks + cuda.blockIdx.x), 1)


@device_function
def sum_up_to(value: int, scratch: Array) -> tuple[int, int]:
    """Return the sum of the values of this thread and those before it, and the sum of all."""
    lane, warp = cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
    for distance in (1, 2, 4, 8, 16):
        other = cuda.shfl_up_sync(ALL_LANES, value, distance)
        if lane >= distance:
            value += other
    if lane == WARP - 1:
        scratch[at(warp)] = value
    cuda.syncthreads()
    total = 0
    for w in range(cuda.blockDim.x // WARP):
        if w < warp:
            value += scratch[at(w)]
        total += scratch[at(w)]
    cuda.syncthreads()
    return value, total


@kernel
def share_sums_kernel(table: Array, share: int, sums: Array) -> None:
    """Write the sum of block b's share of the table to sums[b]."""
    scratch = cuda.shared.array(WARPS_MOST, table.dtype)
    first, s = cuda.blockIdx.x * share, 0
    for i in range(first + cuda.threadIdx.x, min(first + share, table.size), cuda.blockDim.x):
        s += table[at(i)]
    _, total = sum_up_to(s, scratch)
    if cuda.threadIdx.x == 0:
        sums[at(cuda.blockIdx.x)] = total


@kernel
def running_sums_kernel(table: Array, share: int, sums: Array) -> None:
    """Replace the numbers of block b's share by the sums of all before them, those of sums[b] included."""
    scratch = cuda.shared.array(WARPS_MOST, table.dtype)
    first = cuda.blockIdx.x * share
    before = sums[at(cuda.blockIdx.x)] if sums.size > 0 else 0
    for start in range(first, min(first + share, table.size), cuda.blockDim.x):
        i = start + cuda.threadIdx.x
        count = table[at(i)] if i < min(first + share, table.size) else 0
        up_to, total = sum_up_to(count, scratch)
        if i < min(first + share, table.size):
            table[at(i)] = before + up_to - count
        before += total


@kernel
def place_kernel(
    index: Array, order: Array, n: int, shift: int, mask: int, chunks: int, table: Array, sorted_order: Array
) -> None:
    """Write each element of block c's chunk where table[digit, c] says, after its equals before it."""
    digits = cuda.shared.array(CHUNK, table.dtype)
    t = cuda.threadIdx.x
    i = cuda.blockIdx.x * CHUNK + t
    digit = digit_of(i, index, order, n, shift, mask) if i < index.size else 0
    digits[at(t)] = digit
    cuda.syncthreads()
    if i < index.size:
        rank = 0
        for j in range(t):
            rank += 1 if digits[at(j)] == digit else 0
        place = table[at(digit * chunks + cuda.blockIdx.x)] + rank
        sorted_order[at(place)] = order[at(i)] if order.size > 0 else i


@kernel
def bounds_kernel(index: Array, order: Array, n: int, indptr: Array) -> None:
    """Write how many elements are below v to indptr[v], by halving the range that holds the first v."""
    v = thread_number()
    if v < indptr.size:
        low, high = 0, index.size
        while low < high:
            middle = (low + high) >> 1
            if digit_of(middle, index, order, n, 0, -1) < v:
                low = middle + 1
            else:
                high = middle
        indptr[at(v)] = low


def replace_by_running_sums(table: GpuArray) -> None:
    """Replace each number of an int32 array by the sum of all before it."""
    blocks = blocks_for(table.size, SHARE)
    threads = threads_for(table.size)
    sums = empty((blocks if blocks > 1 else 0,), np.int32, table.device)
    if blocks > 1:
        share_sums_kernel[blocks, threads](table, SHARE, sums)
        replace_by_running_sums(sums)
    running_sums_kernel[blocks, threads](table, SHARE, sums)


def digits(n: int, chunks: int) -> tuple[int, int]:
    """Return the number of digits that 0, ..., n are sorted by, and their length in bits."""
    bits = n.bit_length()
    count = 1
    while chunks << ceil_div(bits, count) > LARGEST_TABLE and count < bits:
        count += 1
    return count, ceil_div(bits, count)


def sorted_by(index: GpuArray, n: int) -> tuple[GpuArray, GpuArray]:
    """Return (indptr, order): order[indptr[v] : indptr[v + 1]] is where the index is v, first to last.

    ``index`` is int64; both results are int32. Elements outside of 0, ..., n - 1 are in no range.
    """
    order: Any = empty((0,), np.int32, index.device)
    chunks = blocks_for(index.size, CHUNK)
    threads = threads_for(index.size, CHUNK)
    count, bits = digits(n, chunks)
    for digit in range(count if index.size else 0):
        size = min(n + 1, 1 << bits)
        table = zeros((size * chunks,), np.int32, index.device)
        given = index, order, n, digit * bits, (1 << bits) - 1, chunks, table
        count_kernel[chunks, threads](*given)
        replace_by_running_sums(table)
        placed = empty(index.shape, np.int32, index.device)
        place_kernel[chunks, threads](*given, placed)
        order = placed
    indptr = empty((n + 1,), np.int32, index.device)
    bounds_kernel[grid_of(n + 1)](index, order, n, indptr)
    return indptr, order
