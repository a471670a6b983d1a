"""Losses that look up labels, on a GPU: what rows weigh, and the mean over these weights.

Labels are not checked on the host. One that is no class (and not ``ignore``) weighs NaN, which reaches the
loss and the gradient; it is never an address.
"""

import math
from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, device_function, kernel
from nnkernels.machine.gpu_reduce import WARP, WARPS_MOST, block_sum
from nnkernels.machine.memory import Array
from nnkernels.ops.reduce.total import SHARE, total

NAN = math.nan


@kernel
def as_int64_kernel(labels: Array, wide: Array) -> None:
    """Write labels of any integer type to ``wide``."""
    i = thread_number()
    if i < wide.size:
        wide[at(i)] = labels[at(i)]


def as_int64(labels: GpuArray) -> GpuArray:
    """Return the labels in the one type that kernels are compiled for."""
    if labels.dtype == np.int64:
        return labels
    wide = empty(labels.shape, np.int64, labels.device)
    as_int64_kernel[grid_of(wide.size)](labels, wide)
    return wide


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
    for i in range(first + cuda.threadIdx.x, min(first + share, labels.size), cuda.blockDim.x):
        s += label_weight(labels[at(i)], w, classes, ignore)
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
    s, d = loss.dtype.type(0), loss.dtype.type(0)
    for i in range(first + cuda.threadIdx.x, min(first + share, loss.size), cuda.blockDim.x):
        s += loss[at(i)]
        if of_row.size > 0:
            d += of_row[at(i)]
    s, d = block_sum(s, scratch), block_sum(d, scratch)
    if cuda.threadIdx.x == 0:
        y[at(cuda.blockIdx.x)] = s / d if last and of_row.size > 0 else s
        if not last:
            weight[at(cuda.blockIdx.x)] = d


def threads_for(n: int) -> int:
    """Return how many threads of a block add up n numbers: few where n is small."""
    return max(WARP, min(THREADS, WARP * blocks_for(n, WARP)))


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
