"""Softmax cross-entropy as NumPy expressions."""

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.cross_entropy.loops import Grads, Pair, effective_targets, with_weight
from nnkernels.ops.losses.labels import IGNORE, row_factors
from nnkernels.ops.op import Body


def forward(
    logits: Array, targets: Array, weight: Array | None = None, reduction: str = "mean",
    ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> Pair:  # fmt: skip
    with np.errstate(invalid="ignore"):
        moved = logits - logits.max(axis=1, keepdims=True)
        e = np.exp(moved)
        s = e.sum(axis=1, keepdims=True)
        q, of_row = effective_targets(logits, targets, weight, ignore_index, label_smoothing)
        terms = np.where(q != 0, q * (np.log(s) - moved), 0).sum(axis=1, dtype=q.dtype)
        if reduction != "none":
            terms = np.asarray(terms.sum() / (of_row.sum() if reduction == "mean" else 1))
        return terms, e / s


def backward(
    dy: Array, outputs: Pair, inputs: tuple[Array, ...], needs: tuple[bool, ...], reduction: str = "mean",
    ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> Grads:  # fmt: skip
    if not needs[0]:
        return (None,) * len(inputs)
    q, of_row = effective_targets(*with_weight(inputs), ignore_index, label_smoothing)
    g = row_factors(dy, reduction, inputs[1], ignore_index, of_row.sum())
    return g[:, None] * (outputs[1] * q.sum(axis=1, keepdims=True) - q), *(None,) * (len(inputs) - 1)


BODY = Body(forward, backward)
