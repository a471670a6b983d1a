"""Losses as modules: loss(prediction, target) with ``reduction`` "mean", "sum" or "none"."""

from typing import Any

from nnkernels.nn import functional as F
from nnkernels.nn.module import Module
from nnkernels.ops.validate import choice


class Loss(Module):
    """What losses share: the reduction over the batch."""

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        choice(type(self).__name__, "reduction", reduction, ("mean", "sum", "none"))
        self.reduction = reduction

    def extra_repr(self) -> str:
        """Return the reduction."""
        return f"reduction={self.reduction!r}"


class CrossEntropyLoss(Loss):
    """Softmax cross-entropy of logits (N, C) with integer labels (N) or probabilities (N, C)."""

    def forward(self, logits: Any, targets: Any) -> Any:
        """Return the loss."""
        return F.cross_entropy(logits, targets, self.reduction)


class BCEWithLogitsLoss(Loss):
    """Bernoulli negative log-likelihood of targets in [0, 1] under logits, both of one shape."""

    def forward(self, logits: Any, targets: Any) -> Any:
        """Return the loss."""
        return F.binary_cross_entropy_with_logits(logits, targets, self.reduction)


class MSELoss(Loss):
    """Squared error; ``half=True`` gives the lecture's 1/2 squared error."""

    def __init__(self, reduction: str = "mean", half: bool = False) -> None:
        super().__init__(reduction)
        self.half = half

    def forward(self, x: Any, y: Any) -> Any:
        """Return the loss."""
        return F.mse_loss(x, y, self.reduction, self.half)
