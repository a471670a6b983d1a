"""Normalisation."""

import math
from typing import Any

import numpy as np

from nnkernels.autograd.tensor import apply_keeping, array_of
from nnkernels.machine.arrays import full
from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.ops.batch_norm.running import move_running
from nnkernels.ops.validate import is_array


def batch_norm(
    x: Any, running_mean: Array | None, running_var: Array | None, weight: Any = None, bias: Any = None,
    training: bool = False, momentum: float = 0.1, eps: float = 1e-5,
) -> Any:  # fmt: skip
    """Return x (N, C, ...) normalised per channel, times weight (C), plus bias (C).

    With ``training``, by the batch's own statistics; running_mean and running_var (C), where given, then move
    in place by ``momentum`` towards the batch's mean and unbiased variance. Without, by these two.
    """
    if not training:
        if running_mean is None or running_var is None:
            raise ValueError("batch_norm: running_mean and running_var must be given unless training=True")
        return OPS["batch_norm_inference"](x, running_mean, running_var, weight, bias, eps=eps)
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: running_mean and running_var must be given both, or neither")
    if running_mean is None or running_var is None:
        return OPS["batch_norm"](x, weight, bias, eps=eps)
    check_running(x, running_mean, running_var)
    y, (mean, rstd) = apply_keeping(OPS["batch_norm"], (x, weight, bias), {"eps": eps})
    n = x.shape[0] * math.prod(x.shape[2:])
    move_running(mean, rstd, running_mean, running_var, momentum, eps, n)
    return y


def check_running(x: Any, *statistics: Any) -> None:
    """Demand arrays that can be updated in place, one value per channel of x."""
    for name, a in zip(("running_mean", "running_var"), statistics):
        if not is_array(a) or a.dtype not in (np.float32, np.float64):
            raise TypeError(f"batch_norm: {name} must be a float32 or float64 array, got {type(a).__name__}")
        if a.shape != x.shape[1:2]:
            raise ValueError(
                f"batch_norm: {name} must have shape {x.shape[1:2]}, one value per channel of x {x.shape}, "
                f"got {a.shape}"
            )


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Return x normalised over its trailing axes ``normalized_shape``, times weight, plus bias."""
    return OPS["layer_norm"](x, weight, bias, normalized_shape=normalized_shape, eps=eps)


def group_norm(x: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Return x (N, C, ...) with the channels of each image normalised in groups, times weight, plus bias."""
    return OPS["group_norm"](x, weight, bias, num_groups=num_groups, eps=eps)


def rms_norm(x: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None) -> Any:
    """Return x over the root of its mean square along the trailing axes ``normalized_shape``, times weight.

    ``eps`` is added under the root; None stands for the rounding error of x's dtype. Made of five ops.
    """
    shape = tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    if not shape or x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(
            f"rms_norm: normalized_shape must be the trailing axes of x {x.shape}, got {normalized_shape!r}"
        )
    small, exponent = (
        full((), value, x.dtype, array_of(x))
        for value in (float(np.finfo(x.dtype).eps) if eps is None else eps, -0.5)
    )
    dims = tuple(range(-len(shape), 0))
    square = OPS["mean"](OPS["mul"](x, x), dim=dims, keepdim=True)
    y = OPS["mul"](x, OPS["pow"](OPS["add"](square, small), exponent))
    return y if weight is None else OPS["mul"](y, weight)


def local_response_norm(x: Any, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    """Return x (N, C, ...) over (k + alpha m)^beta, m the mean square of ``size`` neighbouring channels."""
    return OPS["local_response_norm"](x, size=size, alpha=alpha, beta=beta, k=k)
