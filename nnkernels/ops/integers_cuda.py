"""Labels and indices on a GPU, in the one integer type that kernels are compiled for."""

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import at, kernel
from nnkernels.machine.memory import Array


@kernel
def as_int64_kernel(index: Array, wide: Array) -> None:
    """Write integers of any type to ``wide``."""
    i = thread_number()
    if i < wide.size:
        wide[at(i)] = index[at(i)]


def as_int64(index: GpuArray) -> GpuArray:
    """Return the integers as int64: themselves, or a copy."""
    if index.dtype == np.int64:
        return index
    wide = empty(index.shape, np.int64, index.device)
    as_int64_kernel[grid_of(wide.size)](index, wide)
    return wide
