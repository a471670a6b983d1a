"""Running statistics of batch normalisation: they move towards those of the batch.

running_mean += momentum (mean - running_mean)
running_var  += momentum (n / (n - 1) (1 / rstd^2 - eps) - running_var)       (the unbiased variance)
"""

from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import at, kernel
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array


@kernel
def move_running_kernel(
    mean: Array, rstd: Array, momentum: Any, eps: Any, unbiased: Any, running_mean: Array, running_var: Array
) -> None:
    """Move both statistics of one channel per thread."""
    c = thread_number()
    if c < mean.size:
        i = at(c)
        variance = max(typed(1, eps) / (rstd[i] * rstd[i]) - eps, typed(0, eps))
        running_mean[i] += momentum * (mean[i] - running_mean[i])
        running_var[i] += momentum * (unbiased * variance - running_var[i])


def move_running(
    mean: Any, rstd: Any, running_mean: Any, running_var: Any, momentum: float, eps: float, n: int
) -> None:
    """Update running_mean and running_var (C) in place: mean and rstd (C) are those of n numbers each."""
    if isinstance(mean, GpuArray):
        number = mean.dtype.type
        move_running_kernel[grid_of(mean.size)](
            mean, rstd, number(momentum), number(eps), number(n / (n - 1)), running_mean, running_var
        )
        return
    # In float64: rstd of a small variance is close to that of 0.
    variance = np.maximum(rstd.astype(np.float64) ** -2 - eps, 0)
    running_mean += momentum * (mean - running_mean)
    running_var += (momentum * (variance * (n / (n - 1)) - running_var)).astype(running_var.dtype)
