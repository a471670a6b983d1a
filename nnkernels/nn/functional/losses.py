"""Losses: of a prediction and a target, reduced by "mean", "sum" or "none" (all losses as they are)."""

import math
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.autograd.tensor import array_of
from nnkernels.machine import arrays
from nnkernels.ops import OPS
from nnkernels.ops.validate import fail_type, is_array


def cross_entropy(
    logits: Any, target: Any, weight: Any = None, *,
    ignore_index: int = -100, reduction: str = "mean", label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    """Return the softmax cross-entropy of logits (N, C), (N, C, d1, ...) or (C).

    ``target`` holds class labels (N), (N, d1, ...) or (), or probabilities of the logits' shape; ``weight``
    (C) weights the classes, and for labels the mean divides by the weights of all labels. Labels
    ``ignore_index`` do not count. ``label_smoothing`` moves that part of the target to all classes evenly.
    """
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing}
    return by_class("softmax_cross_entropy", "logits", logits, target, weight, reduction, options)


def nll_loss(
    x: Any, target: Any, weight: Any = None, *, ignore_index: int = -100, reduction: str = "mean"
) -> Any:
    """Return minus the log-probabilities x, (N, C), (N, C, d1, ...) or (C), at the labels ``target``.

    Labels are (N), (N, d1, ...) or (); ``weight`` (C) weights the classes, and the mean divides by the
    weights of all labels. Labels ``ignore_index`` do not count.
    """
    return by_class("nll_loss", "x", x, target, weight, reduction, {"ignore_index": ignore_index})


def by_class(
    op: str, name: str, x: Any, target: Any, weight: Any, reduction: str, options: dict[str, Any]
) -> Any:
    """Call an op of x (N, C) with x whose axis of classes is the second, or the only one."""
    if getattr(x, "ndim", 2) == 2:
        return OPS[op](x, target, weight, reduction=reduction, **options)
    if not (is_array(target) or isinstance(target, Tensor)):
        fail_type(op, "target", target, "a NumPy array or a Tensor")
    labels = array_of(target)
    if x.ndim == 0:
        raise ValueError(f"{op}: {name} must have an axis of classes, got shape ()")
    kept = x.shape[:1] + x.shape[2:] if x.ndim > 1 else ()
    probabilities = op == "softmax_cross_entropy" and labels.dtype.kind == "f"
    if labels.shape != (x.shape if probabilities else kept):
        wanted = f"labels {kept}" + (f" or probabilities {x.shape}" if op != "nll_loss" else "")
        raise ValueError(
            f"{op}: target must be {wanted} to go with {name} {x.shape}, got shape {labels.shape}"
        )
    labels = rows_of_classes(labels) if probabilities else labels.reshape(-1)
    loss = OPS[op](rows_of_classes(x), labels, weight, reduction=reduction, **options)
    return OPS["reshape"](loss, shape=kept) if reduction == "none" else loss


def rows_of_classes(x: Any) -> Any:
    """Return x (C) as (1, C), x (N, C, d1, ...) as (N d1 ..., C)."""
    if x.ndim == 1:
        return OPS["reshape"](x, shape=(1, x.shape[0]))
    N, C, D = x.shape[0], x.shape[1], math.prod(x.shape[2:])
    last = OPS["transpose"](OPS["reshape"](x, shape=(N, C, D)), dim0=1, dim1=2)
    return OPS["reshape"](last, shape=(N * D, C))


def binary_cross_entropy_with_logits(
    logits: Any, target: Any, weight: Any = None, *, reduction: str = "mean", pos_weight: Any = None
) -> Any:
    """Return the Bernoulli negative log-likelihood of targets in [0, 1] under logits of the same shape.

    ``weight`` is a factor of the losses, ``pos_weight`` one of the part that the target has in them; both of
    any shape that broadcasts to the logits'. The mean divides by the number of losses.
    """
    if weight is None and pos_weight is None:
        return OPS["bce_with_logits"](logits, target, reduction=reduction)
    weights = stretched("bce_with_logits", weight=weight, pos_weight=pos_weight, to=logits)
    return OPS["bce_with_logits"](logits, target, *weights, reduction=reduction)


def binary_cross_entropy(x: Any, target: Any, weight: Any = None, *, reduction: str = "mean") -> Any:
    """Return the Bernoulli negative log-likelihood of targets in [0, 1] under probabilities of one shape.

    ``weight``, of any shape that broadcasts to x's, is a factor of the losses; the mean divides by their
    number. Logarithms below -100 count as -100.
    """
    return OPS["bce"](x, target, *stretched("bce", weight=weight, to=x), reduction=reduction)


def stretched(op: str, *, to: Any, **weights: Any) -> list[Any]:
    """Return the weights in the shape of the array ``to``; they have no gradient."""
    found: list[Any] = []
    for name, weight in weights.items():
        w = array_of(weight)
        if is_array(w) and w.shape != to.shape:
            try:
                np.broadcast_shapes(w.shape, to.shape)
                if isinstance(w, np.ndarray):
                    w = np.broadcast_to(w, to.shape)
                else:
                    w = OPS["add"](w, arrays.full(to.shape, 0, w.dtype, w))
            except ValueError:
                raise ValueError(f"{op}: {name} must broadcast to shape {to.shape}, got {w.shape}") from None
        found.append(w)
    return found


def mse_loss(x: Any, target: Any, reduction: str = "mean", half: bool = False) -> Any:
    """Return the squared error, times 1/2 if ``half``."""
    return OPS["mse"](x, target, reduction=reduction, half=half)


def l1_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """Return the absolute error."""
    return OPS["l1"](x, target, reduction=reduction)


def smooth_l1_loss(x: Any, target: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    """Return the squared error over 2 beta where below beta, the absolute error less beta / 2 elsewhere."""
    return OPS["smooth_l1"](x, target, reduction=reduction, beta=beta)


def huber_loss(x: Any, target: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    """Return half the squared error up to delta, then delta times (the absolute error less delta / 2)."""
    return OPS["huber"](x, target, reduction=reduction, delta=delta)


def hinge_loss(x: Any, target: Any, reduction: str = "mean") -> Any:
    """Return max(0, 1 - target x) for scores x and targets -1 or 1 of the same shape."""
    return OPS["hinge"](x, target, reduction=reduction)


def kl_div(x: Any, target: Any, reduction: str = "mean", *, log_target: bool = False) -> Any:
    """Return target (ln target - x), x being log-probabilities, the target too if ``log_target``.

    ``reduction`` may also be "batchmean": the sum over the length of the first axis, the mean divergence.
    """
    return OPS["kl_div"](x, target, reduction=reduction, log_target=log_target)


def gaussian_nll_loss(
    x: Any, target: Any, var: Any, full: bool = False, eps: float = 1e-6, reduction: str = "mean"
) -> Any:
    """Return the negative log-likelihood of targets under normal distributions of means x, variances ``var``.

    ``var`` has x's shape, or that without the last axis or with 1 there (one variance for all elements of an
    example), or is one number. Variances below ``eps`` count as eps. ``full`` adds the constant ln(2 pi) / 2.
    """
    if isinstance(var, (int, float)) and not isinstance(var, bool):
        var = arrays.full(x.shape, var, x.dtype, array_of(x))
    elif (is_array(var) or isinstance(var, Tensor)) and var.shape != x.shape:
        if var.shape not in (x.shape[:-1], (*x.shape[:-1], 1)):
            raise ValueError(
                f"gaussian_nll: var must have x's shape {x.shape}, or 1 or nothing as its last axis, "
                f"got {var.shape}"
            )
        one_each = OPS["reshape"](var, shape=(*x.shape[:-1], 1))
        var = OPS["add"](one_each, arrays.full(x.shape, 0, x.dtype, array_of(x)))
    return OPS["gaussian_nll"](x, target, var, reduction=reduction, full=full, eps=eps)
