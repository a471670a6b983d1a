"""Normalisation."""

from typing import Any

from nnkernels.ops import OPS


def batch_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Return x (N, C, ...) normalised per channel over the batch, times weight (C), plus bias (C)."""
    return OPS["batch_norm"](x, weight, bias, eps=eps)


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Return x normalised over its trailing axes ``normalized_shape``, times weight, plus bias."""
    return OPS["layer_norm"](x, weight, bias, normalized_shape=normalized_shape, eps=eps)
