"""Losses: of a prediction and a target, reduced by mean, sum or none."""

from typing import Any

from nnkernels.ops import OPS


def cross_entropy(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """Return the softmax cross-entropy of logits (N, C) with class labels (N) or probabilities (N, C)."""
    return OPS["softmax_cross_entropy"](logits, targets, reduction=reduction)


def binary_cross_entropy_with_logits(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """Return the Bernoulli negative log-likelihood of targets in [0, 1] under logits of the same shape."""
    return OPS["bce_with_logits"](logits, targets, reduction=reduction)


def mse_loss(x: Any, y: Any, reduction: str = "mean", half: bool = False) -> Any:
    """Return the squared error, times 1/2 if ``half``."""
    return OPS["mse"](x, y, reduction=reduction, half=half)
