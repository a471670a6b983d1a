"""Softmax cross-entropy as nested loops, over targets of one form."""

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.losses.labels import IGNORE, row_factors, row_weights
from nnkernels.ops.losses.reduction import add_up
from nnkernels.ops.op import Body

Pair = tuple[Array, Array]
Grads = tuple[Array | None, ...]


def with_weight(inputs: tuple[Array, ...]) -> tuple[Array, Array, Array | None]:
    """Return logits, targets and class weights, None where those were left out."""
    return inputs[0], inputs[1], inputs[2] if len(inputs) == 3 else None


def effective_targets(
    logits: Array, targets: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    """Return q (N, C) and the weight of each row, which the mean divides by the sum of."""
    rows, classes = logits.shape
    if targets.ndim == 2:
        t, of_row = targets, np.ones(rows, logits.dtype)
    else:
        of_row = row_weights(targets, weight, ignore_index, logits.dtype)
        counted = targets != ignore_index
        t = np.zeros(logits.shape, logits.dtype)
        t[np.flatnonzero(counted), targets[counted].astype(np.int64)] = 1
    q = t * (1 - label_smoothing) + label_smoothing / classes
    if targets.ndim == 1:
        q[targets == ignore_index] = 0
    return (q if weight is None else q * weight).astype(logits.dtype), of_row


@jit
def cross_entropy_kernel(x: Array, q: Array, loss: Array, p: Array) -> None:
    for i in range(x.shape[0]):
        m = x[i, 0]
        for k in range(x.shape[1]):
            m = max(m, x[i, k])
        s = 0.0
        for k in range(x.shape[1]):
            s += np.exp(x[i, k] - m)
        loss[i] = 0
        for k in range(x.shape[1]):
            p[i, k] = np.exp(x[i, k] - m) / s
            if q[i, k] != 0:  # a class ruled out by a logit of -inf costs nothing where q is 0
                loss[i] -= q[i, k] * (x[i, k] - m - np.log(s))


@jit
def cross_entropy_backward_kernel(g: Array, p: Array, q: Array, dx: Array) -> None:
    for i in range(p.shape[0]):
        weight_of_row = 0.0
        for k in range(p.shape[1]):
            weight_of_row += q[i, k]
        for k in range(p.shape[1]):
            dx[i, k] = g[i] * (p[i, k] * weight_of_row - q[i, k])


def forward(
    logits: Array, targets: Array, weight: Array | None = None, reduction: str = "mean",
    ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> Pair:  # fmt: skip
    loss, p = np.empty(len(logits), logits.dtype), np.empty(logits.shape, logits.dtype)
    q, of_row = effective_targets(logits, targets, weight, ignore_index, label_smoothing)
    cross_entropy_kernel(logits, q, loss, p)
    if reduction == "none":
        return loss, p
    with np.errstate(invalid="ignore"):
        n = np.float64(add_up(of_row)) if reduction == "mean" else 1.0
        return np.asarray(add_up(loss) / n, loss.dtype), p


def backward(
    dy: Array, outputs: Pair, inputs: tuple[Array, ...], needs: tuple[bool, ...], reduction: str = "mean",
    ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> Grads:  # fmt: skip
    if not needs[0]:
        return (None,) * len(inputs)
    p = outputs[1]
    q, of_row = effective_targets(*with_weight(inputs), ignore_index, label_smoothing)
    dx = np.empty(p.shape, p.dtype)
    cross_entropy_backward_kernel(
        row_factors(dy, reduction, inputs[1], ignore_index, add_up(of_row)), p, q, dx
    )
    return dx, *(None,) * (len(inputs) - 1)


BODY = Body(forward, backward)
