"""Sums over the threads of a warp and of a block, always in the same order.

Every thread gets the result. Threads of a warp exchange values by shuffles: after steps of 16, 8, 4, 2, 1
lanes each holds the result of all 32. Warps meet in shared memory: ``scratch`` has one element per warp
(WARPS_MOST do for any block). A block's size must be a multiple of 32, and all its threads must call.
"""

from typing import Any

from nnkernels.machine.gpu_kernel import WARP, at, cuda, device_function
from nnkernels.machine.memory import Array

WARPS_MOST = 32
ALL_LANES = 0xFFFFFFFF


@device_function
def warp_sum(value: Any) -> Any:
    """Return the sum over the warp."""
    for distance in (16, 8, 4, 2, 1):
        value += cuda.shfl_xor_sync(ALL_LANES, value, distance)
    return value


@device_function
def sum_of_parts(parts: Array, i: int, count: int, size: int) -> Any:
    """Return the sum of element i of so many parts of ``size`` elements, in their order."""
    total = parts[at(i)]
    for part in range(1, count):
        total += parts[at(part * size + i)]
    return total


@device_function
def block_sum(value: Any, scratch: Array) -> Any:
    """Return the sum over the block, the warps' sums in their order."""
    value = warp_sum(value)
    if cuda.threadIdx.x % WARP == 0:
        scratch[at(cuda.threadIdx.x // WARP)] = value
    cuda.syncthreads()
    total = scratch[0]
    for w in range(1, cuda.blockDim.x // WARP):
        total += scratch[at(w)]
    cuda.syncthreads()  # before the next use of scratch
    return total
