"""Softmax cross-entropy on a GPU: probabilities and loss of a row by the lanes that share it, in one kernel.

Bound: memory; forward reads x and writes p, backward reads p and writes dx, both read targets that are
probabilities. Rows of up to AT_ONCE logits for each lane are read once, longer ones twice (softmax_cuda.py).
A label that is no class gives NaN in the row's loss and gradient.
"""

import math
from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like, or_empty
from nnkernels.machine.gpu_kernel import MOST_THREADS, at, cuda, device_function, kernel
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array
from nnkernels.ops.integers_cuda import as_int64
from nnkernels.ops.losses.labels import IGNORE
from nnkernels.ops.losses.labels_cuda import label_weight, sum_of_weights, weighted_mean
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.tiling import sum_over_lanes, thread_place, tiling
from nnkernels.ops.reduce.total import total
from nnkernels.ops.softmax_cuda import AT_ONCE, AT_ONCE_IF_LONG, fits, shifted_and_sum, top_and_sum

MOST = 512  # threads of a block, which leaves them 128 registers each: float64 needs more than 64
Grads = tuple[GpuArray | None, ...]


@device_function
def label_of(i: int, labels: Array) -> int:
    """Return the label of row i, -1 where there are none."""
    return labels[at(i)] if labels.size > 0 else -1


@device_function
def target(i: int, k: int, n: int, label: int, t: Array, w: Array, part: Any) -> Any:
    """Return q_ik = w_k ((1 - e) t_ik + e / n), with ``part`` = e / n."""
    zero, one = w.dtype.type(0), w.dtype.type(1)
    of_class = one if k == label else zero
    if t.size > 0:
        of_class = t[at(i * n + k)]
    q = (one - part * w.dtype.type(n)) * of_class + part
    return q * w[at(k)] if w.size > 0 else q


@device_function
def cost(q: Any, minus_log_p: Any) -> Any:
    """Return -q ln p: nothing where q is 0, even for a class that a logit of -inf rules out."""
    return q * minus_log_p if q != typed(0, q) else q


@device_function
def write_loss(
    i: int, n: int, lost: Any, labels: Array, w: Array, ignore: int, loss: Array, of_row: Array
) -> None:
    """Write a row's loss and weight: 0 for an ignored row, NaN for a label that is no class."""
    if labels.size > 0:
        label = labels[at(i)]
        weight = label_weight(label, w, n, ignore)
        if label == ignore or weight != weight:
            lost = weight
        if of_row.size > 0:
            of_row[at(i)] = weight
    loss[at(i)] = lost


@kernel(launch_bounds=MOST)
def forward_kernel(
    x: Array, labels: Array, t: Array, w: Array, rows: int, n: int, ignore: int, part: Any, lane_bits: int,
    p: Array, loss: Array, of_row: Array,
) -> None:  # fmt: skip
    """Write p, the losses and the weights of rows that fit in registers."""
    scratch = cuda.shared.array(MOST_THREADS, x.dtype)
    values = cuda.local.array(AT_ONCE, x.dtype)
    i, lane, _ = thread_place(0, lane_bits, 1)
    here = i < rows
    i = i if here else 0
    s = shifted_and_sum(x, i * n, n, 1, lane, scratch, 0, lane_bits, values)
    scale, log_s = x.dtype.type(1) / s, math.log(s)
    label = label_of(i, labels)
    lost = x.dtype.type(0)
    for j in range(AT_ONCE):
        k = lane + (j << lane_bits)
        if here and k < n:
            p[at(i * n + k)] = math.exp(values[j]) * scale
            lost += cost(target(i, k, n, label, t, w, part), log_s - values[j])
    lost = sum_over_lanes(lost, scratch, 0, lane_bits)
    if here and lane == 0:
        write_loss(i, n, lost, labels, w, ignore, loss, of_row)


@kernel(launch_bounds=MOST)
def long_forward_kernel(
    x: Array, labels: Array, t: Array, w: Array, rows: int, n: int, ignore: int, part: Any, lane_bits: int,
    p: Array, loss: Array, of_row: Array,
) -> None:  # fmt: skip
    """Write p, the losses and the weights of rows of any length."""
    scratch = cuda.shared.array(MOST_THREADS, x.dtype)
    i, lane, _ = thread_place(0, lane_bits, 1)
    here = i < rows
    i = i if here else 0
    m, s = top_and_sum(x, i * n, n, 1, lane, scratch, 0, lane_bits)
    scale, log_s = x.dtype.type(1) / s, math.log(s)
    label = label_of(i, labels)
    lost = x.dtype.type(0)
    values = cuda.local.array(AT_ONCE_IF_LONG, x.dtype)
    k = lane
    while here and k < n:
        for j in range(AT_ONCE_IF_LONG):
            values[j] = x[at(i * n + min(k + (j << lane_bits), n - 1))] - m
        for j in range(AT_ONCE_IF_LONG):
            if k < n:
                p[at(i * n + k)] = math.exp(values[j]) * scale
                lost += cost(target(i, k, n, label, t, w, part), log_s - values[j])
            k += 1 << lane_bits
    lost = sum_over_lanes(lost, scratch, 0, lane_bits)
    if here and lane == 0:
        write_loss(i, n, lost, labels, w, ignore, loss, of_row)


@kernel(launch_bounds=MOST)
def backward_kernel(
    dy: Array, factor: Any, divisor: Array, p: Array, labels: Array, t: Array, w: Array, rows: int, n: int,
    ignore: int, part: Any, lane_bits: int, dx: Array,
) -> None:  # fmt: skip
    """Write dx_ik = g_i (p_ik sum(q_i) - q_ik), g_i being ``factor`` dy_i over ``divisor``, if given."""
    scratch = cuda.shared.array(MOST_THREADS, p.dtype)
    i, lane, _ = thread_place(0, lane_bits, 1)
    here = i < rows
    i = i if here else 0
    zero, label = p.dtype.type(0), label_of(i, labels)
    counts = labels.size == 0 or label != ignore
    full = label_weight(label, w, n, ignore) if labels.size > 0 else zero
    g = factor * (dy[at(i)] if dy.size > 1 else dy[0])
    if divisor.size > 0:
        g /= divisor[0]
    if full != full:  # the label is no class
        g = full
    if labels.size == 0 or (part != zero and w.size > 0):  # otherwise, the sum of q_i is the label's weight
        full = zero
        k = lane
        while k < n:
            for _ in range(AT_ONCE):
                q = target(i, min(k, n - 1), n, label, t, w, part)
                full += q if k < n else zero
                k += 1 << lane_bits
        full = sum_over_lanes(full, scratch, 0, lane_bits)
    values = cuda.local.array(AT_ONCE, p.dtype)
    k = lane
    while here and k < n:
        for j in range(AT_ONCE):
            column = min(k + (j << lane_bits), n - 1)
            values[j] = g * (p[at(i * n + column)] * full - target(i, column, n, label, t, w, part))
        for j in range(AT_ONCE):
            if k < n:
                dx[at(i * n + k)] = values[j] if counts else zero
            k += 1 << lane_bits


def kernel_targets(
    targets: GpuArray, weight: GpuArray | None, classes: int, label_smoothing: float, like: GpuArray
) -> tuple[GpuArray, GpuArray, GpuArray, Any]:
    """Return labels and probabilities (one of them empty), weights (empty if left out), e / classes."""
    part, w = like.dtype.type(label_smoothing / classes), or_empty(weight, like)
    if targets.ndim == 1:
        return as_int64(targets), or_empty(None, like), w, part
    return empty((0,), np.int64, like.device), targets, w, part


def forward(
    logits: GpuArray, targets: GpuArray, weight: GpuArray | None = None, reduction: str = "mean",
    ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> tuple[GpuArray, GpuArray]:  # fmt: skip
    rows, n = logits.shape
    p, loss = empty_like(logits), empty((rows,), logits.dtype, logits.device)
    labels, t, w, part = kernel_targets(targets, weight, n, label_smoothing, logits)
    by_weight = reduction == "mean" and targets.ndim == 1
    of_row = empty((rows if by_weight else 0,), logits.dtype, logits.device)
    grid = tiling(rows, n, 1, AT_ONCE, MOST)
    start = forward_kernel if fits(grid, n) else long_forward_kernel
    start[grid.blocks, grid.threads](
        logits, labels, t, w, rows, n, ignore_index, part, grid.lane_bits, p, loss, of_row
    )
    if reduction == "none":
        return loss, p
    if by_weight:
        return weighted_mean(loss, of_row), p
    return total(loss, 1 / rows if reduction == "mean" else 1.0), p


def backward(
    dy: GpuArray, outputs: tuple[GpuArray, GpuArray], inputs: tuple[GpuArray, ...], needs: tuple[bool, ...],
    reduction: str = "mean", ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> Grads:  # fmt: skip
    if not needs[0]:
        return (None,) * len(inputs)
    p, (rows, n) = outputs[1], outputs[1].shape
    dx = empty_like(p)
    labels, t, w, part = kernel_targets(
        inputs[1], inputs[2] if len(inputs) == 3 else None, n, label_smoothing, p
    )
    factor, divisor = 1.0, or_empty(None, p)
    if reduction == "mean" and labels.size > 0:
        divisor = sum_of_weights(labels, n, w, ignore_index)
    elif reduction == "mean":
        factor = 1 / rows
    grid = tiling(rows, n, 1, AT_ONCE, MOST)
    backward_kernel[grid.blocks, grid.threads](
        dy, p.dtype.type(factor), divisor, p, labels, t, w, rows, n, ignore_index, part, grid.lane_bits, dx
    )
    return dx, *(None,) * (len(inputs) - 1)


BODY = Body(forward, backward)
