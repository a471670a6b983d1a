"""How the threads of a GPU share an array (outer, n, inner) whose middle axis is reduced.

Threads of a block have three numbers: the fastest counts columns (along ``inner``), so that neighbours read
neighbouring elements; the next counts lanes along the reduced axis, which meet at the end; the slowest counts
outer indices, where rows are short. All three counts are powers of two, given to kernels as exponents.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import numba

from nnkernels.machine.gpu_kernel import THREADS, WARP, at, ceil_div, cuda, device_function, next_power_of_two
from nnkernels.machine.gpu_reduce import ALL_LANES
from nnkernels.machine.memory import Array

WARP_BITS = 5
BLOCKS_WANTED = 1024  # about what the 132 processors of an H100 hold at once, with THREADS threads each


class Tiling(NamedTuple):
    """A grid for one shape; see ``thread_place``."""

    blocks: int
    threads: int
    width_bits: int  # 2^width_bits columns of a block
    lane_bits: int  # 2^lane_bits lanes along the reduced axis
    tiles: int  # blocks beside each other along inner
    parts: int  # blocks along the reduced axis, blockIdx.y
    share: int  # elements along the reduced axis of each part


@lru_cache(maxsize=1024)
def tiling(outer: int, n: int, inner: int, per_thread: int, most: int, *, split: bool = False) -> Tiling:
    """Return the grid in which a thread has about ``per_thread`` elements, and a block ``most`` threads.

    At least a warp's width of columns where there are so many. With ``split``, a long axis is cut into parts
    until there are enough blocks for all processors; otherwise threads may get more elements than that.
    """
    width = min(next_power_of_two(inner), WARP)
    lanes = min(next_power_of_two(ceil_div(n, per_thread)), most // width)
    width = max(width, min(next_power_of_two(inner), THREADS // lanes))
    groups = max(min(next_power_of_two(outer), THREADS // (width * lanes)), WARP // (width * lanes), 1)
    tiles = ceil_div(inner, width)
    blocks = tiles * ceil_div(outer, groups)
    parts = 1
    if split:
        parts = max(1, min(ceil_div(n, per_thread * lanes), ceil_div(BLOCKS_WANTED, max(blocks, 1))))
    share = max(1, ceil_div(n, parts))
    bits = width.bit_length() - 1, lanes.bit_length() - 1
    return Tiling(blocks, width * lanes * groups, *bits, tiles, max(1, ceil_div(n, share)), share)


@lru_cache(maxsize=1024)
def split_shape(shape: tuple[int, ...], dim: int) -> tuple[int, int, int]:
    """Return (outer, n, inner): the sizes before, of and after axis ``dim``."""
    axis = dim % len(shape)
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


@device_function
def thread_place(width_bits: int, lane_bits: int, tiles: int) -> tuple[int, int, int]:
    """Return this thread's outer index, its lane, and its column; first and last may be beyond the end."""
    t, b = cuda.threadIdx.x, cuda.blockIdx.x
    bits = width_bits + lane_bits
    block = numba.int32(at(b) // at(tiles))
    column = ((b - block * tiles) << width_bits) + (t & ((1 << width_bits) - 1))
    lane = (t >> width_bits) & ((1 << lane_bits) - 1)
    return block * (cuda.blockDim.x >> bits) + (t >> bits), lane, column


def make_over_lanes(join: Callable[[Any, Any], Any]) -> Any:
    """Return a function that joins the values of the lanes of a thread's column, and gives it to all of them.

    Always in the same order. All threads of the block must call; ``scratch`` is shared memory of MOST_THREADS
    elements.
    """

    @device_function
    def over_lanes(value: Any, scratch: Array, width_bits: int, lane_bits: int) -> Any:
        bits, end = width_bits, width_bits + lane_bits
        while bits < end and bits < WARP_BITS:
            value = join(value, cuda.shfl_xor_sync(ALL_LANES, value, 1 << bits))
            bits += 1
        if bits < end:
            t = cuda.threadIdx.x
            scratch[at(t)] = value
            cuda.syncthreads()
            first = ((t >> end) << end) + (t & ((1 << bits) - 1))
            value = scratch[at(first)]
            for k in range(1, 1 << (end - bits)):
                value = join(value, scratch[at(first + (k << bits))])
            cuda.syncthreads()  # before the next use of scratch
        return value

    return over_lanes


def plus(a: Any, b: Any) -> Any:
    """Return the sum."""
    return a + b


def larger(a: Any, b: Any) -> Any:
    """Return the larger; NaN is passed over."""
    return max(a, b)


sum_over_lanes, max_over_lanes = make_over_lanes(plus), make_over_lanes(larger)
