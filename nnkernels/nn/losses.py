"""Losses as modules: loss(prediction, target) with ``reduction`` "mean", "sum" or "none".

Weights of classes or examples are buffers: they stand in the state dict, and are not learnt.
"""

from typing import Any

from nnkernels.autograd.tensor import array_of
from nnkernels.machine.memory import Array
from nnkernels.nn import functional as F
from nnkernels.nn.module import Module
from nnkernels.ops.validate import choice, fail_type, is_array


class Loss(Module):
    """What losses share: the reduction over the batch."""

    reductions: tuple[str, ...] = ("mean", "sum", "none")

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        choice(type(self).__name__, "reduction", reduction, self.reductions)
        self.reduction = reduction

    def extra_repr(self) -> str:
        """Return the reduction."""
        return f"reduction={self.reduction!r}"

    def keep_weight(self, name: str, weight: Any) -> None:
        """Make an array or Tensor the buffer ``name``; None is no buffer."""
        if weight is None:
            setattr(self, name, None)
            return
        array = array_of(weight)
        if not is_array(array) or array.dtype.kind != "f":
            fail_type(type(self).__name__, name, weight, "a float array or a Tensor")
        self.register_buffer(name, array)


class CrossEntropyLoss(Loss):
    """Softmax cross-entropy of logits (N, C), (N, C, d1, ...) or (C) with labels or probabilities.

    Labels are integers (N), (N, d1, ...) or (); probabilities have the logits' shape. ``weight`` (C) weights
    the classes, labels ``ignore_index`` do not count, ``label_smoothing`` moves a part of the target to all
    classes evenly.
    """

    weight: Array | None

    def __init__(
        self, weight: Any = None, *,
        ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(reduction)
        self.keep_weight("weight", weight)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, logits: Any, target: Any) -> Any:
        """Return the loss."""
        return F.cross_entropy(
            logits, target, self.weight, ignore_index=self.ignore_index,
            reduction=self.reduction, label_smoothing=self.label_smoothing,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the options."""
        return (
            f"ignore_index={self.ignore_index}, {super().extra_repr()}, "
            f"label_smoothing={self.label_smoothing}"
        )


class NLLLoss(Loss):
    """Minus the log-probabilities (N, C), (N, C, d1, ...) or (C) at the labels (N), (N, d1, ...) or ().

    ``weight`` (C) weights the classes; labels ``ignore_index`` do not count.
    """

    weight: Array | None

    def __init__(self, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.keep_weight("weight", weight)
        self.ignore_index = ignore_index

    def forward(self, x: Any, target: Any) -> Any:
        """Return the loss."""
        return F.nll_loss(x, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"ignore_index={self.ignore_index}, {super().extra_repr()}"


class BCEWithLogitsLoss(Loss):
    """Bernoulli negative log-likelihood of targets in [0, 1] under logits, both of one shape.

    ``weight`` and ``pos_weight`` broadcast to that shape: factors of the losses, and of the target's part.
    """

    weight: Array | None
    pos_weight: Array | None

    def __init__(self, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None) -> None:
        super().__init__(reduction)
        self.keep_weight("weight", weight)
        self.keep_weight("pos_weight", pos_weight)

    def forward(self, logits: Any, target: Any) -> Any:
        """Return the loss."""
        return F.binary_cross_entropy_with_logits(
            logits, target, self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class BCELoss(Loss):
    """Bernoulli negative log-likelihood of targets in [0, 1] under probabilities, both of one shape.

    ``weight`` broadcasts to that shape and is a factor of the losses.
    """

    weight: Array | None

    def __init__(self, weight: Any = None, *, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.keep_weight("weight", weight)

    def forward(self, x: Any, target: Any) -> Any:
        """Return the loss."""
        return F.binary_cross_entropy(x, target, self.weight, reduction=self.reduction)


class MSELoss(Loss):
    """Squared error; ``half=True`` gives the lecture's 1/2 squared error."""

    def __init__(self, reduction: str = "mean", half: bool = False) -> None:
        super().__init__(reduction)
        self.half = half

    def forward(self, x: Any, target: Any) -> Any:
        """Return the loss."""
        return F.mse_loss(x, target, self.reduction, self.half)


class L1Loss(Loss):
    """Absolute error."""

    def forward(self, x: Any, target: Any) -> Any:
        """Return the loss."""
        return F.l1_loss(x, target, self.reduction)


class SmoothL1Loss(Loss):
    """Squared error over 2 beta where below ``beta``, absolute error less beta / 2 elsewhere."""

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        self.beta = beta

    def forward(self, x: Any, target: Any) -> Any:
        """Return the loss."""
        return F.smooth_l1_loss(x, target, self.reduction, self.beta)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"{super().extra_repr()}, beta={self.beta}"


class HuberLoss(Loss):
    """Half the squared error up to ``delta``, then delta times (the absolute error less delta / 2)."""

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        self.delta = delta

    def forward(self, x: Any, target: Any) -> Any:
        """Return the loss."""
        return F.huber_loss(x, target, self.reduction, self.delta)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"{super().extra_repr()}, delta={self.delta}"


class HingeLoss(Loss):
    """max(0, 1 - target x) of scores x and targets -1 or 1 of the same shape."""

    def forward(self, x: Any, target: Any) -> Any:
        """Return the loss."""
        return F.hinge_loss(x, target, self.reduction)


class KLDivLoss(Loss):
    """Divergence of the target, probabilities or (``log_target``) their logarithms, from log-probabilities x.

    The reduction "batchmean" is the sum over the length of the first axis, the mean of the divergences.
    """

    reductions = ("mean", "sum", "none", "batchmean")

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction)
        self.log_target = log_target

    def forward(self, x: Any, target: Any) -> Any:
        """Return the loss."""
        return F.kl_div(x, target, self.reduction, log_target=self.log_target)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"{super().extra_repr()}, log_target={self.log_target}"


class GaussianNLLLoss(Loss):
    """Negative log-likelihood of targets under normal distributions of means x and variances ``var``.

    Variances below ``eps`` count as eps; ``full`` adds the constant ln(2 pi) / 2.
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.full, self.eps = full, eps

    def forward(self, x: Any, target: Any, var: Any) -> Any:
        """Return the loss."""
        return F.gaussian_nll_loss(x, target, var, self.full, self.eps, self.reduction)

    def extra_repr(self) -> str:
        """Return the options."""
        return f"full={self.full}, eps={self.eps}, {super().extra_repr()}"
