"""Softmax cross-entropy in rows. Bound: memory and one power of e for each logit.

Labels stay labels: without smoothing, only one logarithm of each row is ever read.
"""

from typing import Any

import numpy as np

from nnkernels.machine.elementary import log as ln
from nnkernels.machine.jit import flag, jit_elementwise, jit_parallel, jit_tuned, prange, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, share_of
from nnkernels.ops.cross_entropy.loops import Grads, Pair, with_weight
from nnkernels.ops.losses.labels import IGNORE, as_int64, ones, sum_of_weights
from nnkernels.ops.losses.reduction import sum_into
from nnkernels.ops.op import Body
from nnkernels.ops.softmax import softmax_rows


@jit_elementwise
def forward_part(
    x: Array, n: int, labels: Array, t: Array, w: Array, ignore: int, part: Any, p: Array, loss: Array
) -> None:  # fmt: skip
    """Write probabilities and losses of the rows of n logits; either ``labels`` or ``t`` is empty.

    ``part`` is the share e / n of the targets that goes to each class.
    """
    rows = loss.size
    if rows == 0:
        return
    top, total = np.empty(rows, x.dtype), np.empty(rows, x.dtype)
    softmax_rows(x, n, flag(False), p, top, total)
    for i in range(rows):
        total[i] = ln(total[i])
    if labels.size == 0:
        probability_losses(x, n, t, w, part, top, total, loss)
        return
    keep = typed(1, part) - part * typed(n, part)
    for i in range(rows):
        k = labels[i]
        if k == ignore:
            loss[i] = 0
            continue
        loss[i] = keep * w[k] * (total[i] - (x[i * n + k] - top[i]))
        if part > 0:
            loss[i] += part * spread_loss(x[i * n : (i + 1) * n], w, top[i], total[i])


@jit_tuned
def spread_loss(x: Array, w: Array, shift: Any, log_s: Any) -> Any:
    """Return what a row would cost if each class had its weight as target."""
    lost = typed(0, log_s)
    for k in range(x.size):
        lost += w[k] * (log_s - (x[k] - shift)) if w[k] != 0 else typed(0, log_s)
    return lost


@jit_tuned
def probability_losses(
    x: Array, n: int, t: Array, w: Array, part: Any, top: Array, log_total: Array, loss: Array
) -> None:  # fmt: skip
    size, keep = np.uint64(n), typed(1, part) - part * typed(n, part)
    for i in range(np.uint64(loss.size)):
        a, shift, log_s, lost = i * size, top[i], log_total[i], typed(0, x[0])
        for k in range(np.uint64(0), size):
            q = w[k] * (keep * t[a + k] + part)
            lost += q * (log_s - (x[a + k] - shift)) if q != 0 else typed(0, x[0])
        loss[i] = lost


@jit_elementwise
def mean_factor(mean: bool, rows: int, labels: Array, w: Array, ignore: int) -> float:
    """Return 1 over what the mean divides by, 1 for a sum."""
    if not mean:
        return 1.0
    return np.float64(1) / (sum_of_weights(labels, w, ignore) if labels.size > 0 else np.float64(rows))


@jit_elementwise
def forward_serial(
    x: Array, n: int, labels: Array, t: Array, w: Array, ignore: int, part: Any, mean: bool,
    p: Array, loss: Array, y: Array,
) -> None:  # fmt: skip
    forward_part(x, n, labels, t, w, ignore, part, p, loss)
    sum_into(loss, typed(mean_factor(mean, loss.size, labels, w, ignore), part), y)


@jit_parallel
def forward_parallel(
    x: Array, n: int, share: int, labels: Array, t: Array, w: Array, ignore: int, part: Any, mean: bool,
    p: Array, loss: Array, y: Array,
) -> None:  # fmt: skip
    for c in prange((loss.size + share - 1) // share):
        first, last = c * share, (c + 1) * share
        i, j = first * n, last * n
        forward_part(x[i:j], n, labels[first:last], t[i:j], w, ignore, part, p[i:j], loss[first:last])
    sum_into(loss, typed(mean_factor(mean, loss.size, labels, w, ignore), part), y)


@jit_tuned
def weighted_sum(t: Array, w: Array, keep: Any, part: Any) -> Any:
    """Return the sum of q over a row."""
    total = typed(0, part)
    for k in range(w.size):
        total += w[k] * (keep * t[k] + part)
    return total


@jit_elementwise
def backward_part(
    dy: Array, scale: Any, p: Array, n: int, labels: Array, t: Array, w: Array, ignore: int, part: Any,
    dx: Array,
) -> None:  # fmt: skip
    """Write dx of the rows; dy holds one number for all rows, or one for each."""
    size, keep = np.uint64(n), typed(1, part) - part * typed(n, part)
    mass = weighted_sum(w, w, typed(0, part), part) if part > 0 else part  # part * sum of w
    for i in range(np.uint64(p.size // n)):
        a, g = i * size, scale * (dy[i] if dy.size > 1 else dy[0])
        if labels.size == 0:
            full = weighted_sum(t[a : a + size], w, keep, part)
            for k in range(np.uint64(0), size):
                dx[a + k] = g * (p[a + k] * full - w[k] * (keep * t[a + k] + part))
        elif labels[i] == ignore:
            for k in range(a, a + size):
                dx[k] = 0
        else:
            own = keep * w[labels[i]]
            full = g * (own + mass)
            for k in range(a, a + size):
                dx[k] = full * p[k]
            if part > 0:
                for k in range(np.uint64(0), size):
                    dx[a + k] -= g * part * w[k]
            dx[a + np.uint64(labels[i])] -= g * own


@jit_elementwise
def backward_serial(
    dy: Array, mean: bool, p: Array, n: int, labels: Array, t: Array, w: Array, ignore: int, part: Any,
    dx: Array,
) -> None:  # fmt: skip
    scale = typed(mean_factor(mean, p.size // n, labels, w, ignore), part)
    backward_part(dy, scale, p, n, labels, t, w, ignore, part, dx)


@jit_parallel
def backward_parallel(
    dy: Array, mean: bool, p: Array, n: int, share: int, labels: Array, t: Array, w: Array, ignore: int,
    part: Any, dx: Array,
) -> None:  # fmt: skip
    scale = typed(mean_factor(mean, p.size // n, labels, w, ignore), part)
    for c in prange((p.size + share * n - 1) // (share * n)):
        first, last = c * share, (c + 1) * share
        i, j = first * n, last * n
        g = dy[first:last] if dy.size > 1 else dy
        backward_part(g, scale, p[i:j], n, labels[first:last], t[i:j], w, ignore, part, dx[i:j])


def kernel_targets(
    targets: Array, weight: Array | None, classes: int, dtype: Any, ignore_index: int, label_smoothing: float
) -> tuple[Any, ...]:
    """Return labels and flat probabilities (one of them empty), weights, ignored label, part."""
    w = ones(classes, dtype) if weight is None else weight
    nothing, part = NOTHING[dtype.itemsize]
    if label_smoothing > 0:
        part = dtype.type(label_smoothing / classes)
    if targets.ndim == 1:
        return as_int64(targets), nothing, w, ignore_index, part
    return NO_LABELS, targets.ravel(), w, ignore_index, part


NO_LABELS = np.empty(0, np.int64)
NOTHING: dict[int, Any] = {4: (np.empty(0, np.float32), np.float32(0)), 8: (np.empty(0), np.float64(0))}


def forward(
    logits: Array, targets: Array, weight: Array | None = None, reduction: str = "mean",
    ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> Pair:  # fmt: skip
    rows, n = logits.shape
    dtype = logits.dtype
    p, loss, y = empty(logits.shape, dtype), empty((rows,), dtype), empty((), dtype)
    given = kernel_targets(targets, weight, n, dtype, ignore_index, label_smoothing)
    rest = *given, reduction == "mean", p.ravel(), loss, y.ravel()
    if logits.size < SERIAL_BELOW:
        forward_serial(logits.ravel(), n, *rest)
    else:
        forward_parallel(logits.ravel(), n, share_of(rows, n), *rest)
    return loss if reduction == "none" else y, p


def backward(
    dy: Array, outputs: Pair, inputs: tuple[Array, ...], needs: tuple[bool, ...], reduction: str = "mean",
    ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> Grads:  # fmt: skip
    if not needs[0]:
        return (None,) * len(inputs)
    p = outputs[1]
    rows, n = p.shape
    dx = empty(p.shape, p.dtype)
    given = kernel_targets(*with_weight(inputs)[1:], n, p.dtype, ignore_index, label_smoothing)
    rest = *given, dx.ravel()
    start = dy.ravel(), reduction == "mean", p.ravel(), n
    if p.size < SERIAL_BELOW:
        backward_serial(*start, *rest)
    else:
        backward_parallel(*start, share_of(rows, n), *rest)
    return dx, *(None,) * (len(inputs) - 1)


BODY = Body(forward, backward)
