"""Losses that look up labels, on a GPU: what rows weigh, and the mean over these weights.

Labels are not checked on the host. One that is no class (and not ``ignore``) weighs NaN, which reaches the
loss and the gradient; it is never an address.
"""

import math
from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.machine.gpu_kernel import at, blocks_for, cuda, device_function, kernel, threads_for
from nnkernels.machine.gpu_reduce import WARPS_MOST, block_sum
from nnkernels.machine.memory import Array
from nnkernels.ops.reduce.total import AT_ONCE, SHARE, total

NAN = math.nan


@device_function
def label_weight(label: int, w: Array, classes: int, ignore: int) -> Any:
    """Return the weight of a row: its label's, 1 if w is empty; 0 for ``ignore``, NaN if it is no class."""
    if label == ignore:
        return w.dtype.type(0)
    if label < 0 or label >= classes:
        return w.dtype.type(NAN)
    return w[at(label)] if w.size > 0 else w.dtype.type(1)


@kernel
def sum_of_weights_kernel(
    labels: Array, classes: int, w: Array, ignore: int, share: int, sums: Array
) -> None:  # fmt: skip
    """Write the sum of the weights of block b's share of the rows to sums[b]."""
    scratch = cuda.shared.array(WARPS_MOST, w.dtype)
    first = cuda.blockIdx.x * share
    s = w.dtype.type(0)
    i, last = first + cuda.threadIdx.x, min(first + share, labels.size)
    while i < last:
        for _ in range(AT_ONCE):
            weight = label_weight(labels[at(min(i, last - 1))], w, classes, ignore)
            s += weight if i < last else w.dtype.type(0)
            i += cuda.blockDim.x
    s = block_sum(s, scratch)
    if cuda.threadIdx.x == 0:
        sums[at(cuda.blockIdx.x)] = s


@kernel
def weighted_mean_kernel(loss: Array, of_row: Array, share: int, last: int, y: Array, weight: Array) -> None:
    """Write the sums of block b's share of the losses and weights to y[b] and weight[b].

    The ``last`` kernel divides the sum of the losses by that of the weights, by nothing where there are none.
    """
    scratch = cuda.shared.array(WARPS_MOST, loss.dtype)
    first = cuda.blockIdx.x * share
    zero = loss.dtype.type(0)
    s, d = zero, zero
    i, stop = first + cuda.threadIdx.x, min(first + share, loss.size)
    while i < stop:
        for _ in range(AT_ONCE):
            lost = loss[at(min(i, stop - 1))]
            counted = of_row[at(min(i, stop - 1))] if of_row.size > 0 else zero
            s += lost if i < stop else zero
            d += counted if i < stop else zero
            i += cuda.blockDim.x
    s, d = block_sum(s, scratch), block_sum(d, scratch)
    if cuda.threadIdx.x == 0:
        y[at(cuda.blockIdx.x)] = s / d if last and of_row.size > 0 else s
        if not last:
            weight[at(cuda.blockIdx.x)] = d


def sum_of_weights(labels: GpuArray, classes: int, w: GpuArray, ignore: int) -> GpuArray:
    """Return the sum of the weights of all rows, one number; w may be empty."""
    blocks = max(1, blocks_for(labels.size, SHARE))
    sums = empty((blocks,), w.dtype, w.device)
    sum_of_weights_kernel[blocks, threads_for(labels.size)](labels, classes, w, ignore, SHARE, sums)
    return sums if blocks == 1 else total(sums)


def weighted_mean(loss: GpuArray, of_row: GpuArray) -> GpuArray:
    """Return the sum of the losses over that of the weights, without axes."""
    while loss.size > SHARE:
        blocks = blocks_for(loss.size, SHARE)
        sums, weights = (empty((blocks,), loss.dtype, loss.device) for _ in range(2))
        weighted_mean_kernel[blocks, threads_for(loss.size)](loss, of_row, SHARE, False, sums, weights)
        loss, of_row = sums, weights
    y = empty((), loss.dtype, loss.device)
    weighted_mean_kernel[1, threads_for(loss.size)](loss, of_row, SHARE, True, y, y)
    return y
