"""The sum of all elements on a GPU, in two stages: every block sums a fixed share, one block sums the sums.

No atomics, and shares that depend on the number of elements alone: the same numbers give the same bits.
"""

from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, kernel, threads_for
from nnkernels.machine.gpu_reduce import WARPS_MOST, block_sum
from nnkernels.machine.memory import Array

SHARE = 16 * THREADS  # elements of a block
AT_ONCE = 4  # loads of a thread that do not wait for each other


@kernel
def sum_shares_kernel(x: Array, share: int, factor: Any, total: Array) -> None:
    """Write factor times the sum of elements b share ... (b + 1) share - 1 of x to total[b]."""
    scratch = cuda.shared.array(WARPS_MOST, x.dtype)
    first = cuda.blockIdx.x * share
    s = x.dtype.type(0)
    i, last = first + cuda.threadIdx.x, min(first + share, x.size)
    while i < last:  # range with a step would divide to count its rounds
        for _ in range(AT_ONCE):
            value = x[at(min(i, last - 1))]
            s += value if i < last else x.dtype.type(0)
            i += cuda.blockDim.x
    s = block_sum(s, scratch)
    if cuda.threadIdx.x == 0:
        total[at(cuda.blockIdx.x)] = factor * s


def total(x: GpuArray, factor: float = 1.0) -> GpuArray:
    """Return factor times the sum of all elements of x, without axes."""
    one = x.dtype.type(1)
    while x.size > SHARE:
        blocks = blocks_for(x.size, SHARE)
        sums = empty((blocks,), x.dtype, x.device)
        sum_shares_kernel[blocks, THREADS](x, SHARE, one, sums)
        x = sums
    y = empty((), x.dtype, x.device)
    sum_shares_kernel[1, threads_for(x.size)](x, max(x.size, 1), x.dtype.type(factor), y)
    return y
