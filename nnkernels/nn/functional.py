"""Functions of tensors and arrays under PyTorch's names: the ops, and what is written with them.

Called with NumPy arrays they return arrays; with a Tensor among the inputs, a Tensor that backward goes
through.
"""

from typing import Any

from nnkernels.autograd.tape import matmul
from nnkernels.ops import OPS

__all__ = [
    "avg_pool2d", "batch_norm", "binary_cross_entropy_with_logits", "conv1d", "conv2d", "cross_entropy",
    "flatten", "layer_norm", "leaky_relu", "linear", "log_softmax", "matmul", "max_pool2d", "mse_loss",
    "pad", "relu", "sigmoid", "softmax", "tanh",
]  # fmt: skip


def linear(x: Any, weight: Any, bias: Any = None, *, activation: str | None = None) -> Any:
    """Return x (..., I) times weight (O, I) transposed, plus bias (O); max(., 0) of it for "relu"."""
    return OPS["linear"](x, weight, bias, activation=activation)


def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int = 0, dilation: int = 1,
    groups: int = 1, *, activation: str | None = None,
) -> Any:  # fmt: skip
    """Return x (N, C, L) correlated with weight (K, C / groups, S), plus bias (K).

    With activation="relu", max(., 0) of it.
    """
    return OPS["conv1d"](
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation,
    )  # fmt: skip


def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, activation: str | None = None, winograd: Any = None,
) -> Any:  # fmt: skip
    """Return x (N, C, H, W) correlated with weight (K, C / groups, R, S), plus bias (K).

    With activation="relu", max(., 0) of it in the same pass over memory. ``winograd`` False computes
    directly, 2 or 4 asks for that size of patch; None leaves it to the rule, which ``nnk.explain`` shows.
    """
    return OPS["conv2d"](
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation, winograd=winograd,
    )  # fmt: skip


def max_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    """Return the largest pixel of each window; ``stride`` is ``kernel_size`` unless given."""
    return OPS["max_pool2d"](x, kernel_size=kernel_size, stride=stride, padding=padding)


def avg_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    """Return the mean of each window, zeros of the padding counted in."""
    return OPS["avg_pool2d"](x, kernel_size=kernel_size, stride=stride, padding=padding)


def batch_norm(x: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Return x (N, C, ...) normalised per channel over the batch, times weight (C), plus bias (C)."""
    return OPS["batch_norm"](x, weight, bias, eps=eps)


def layer_norm(x: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Any:
    """Return x normalised over its trailing axes ``normalized_shape``, times weight, plus bias."""
    return OPS["layer_norm"](x, weight, bias, normalized_shape=normalized_shape, eps=eps)


def relu(x: Any) -> Any:
    """Return max(x, 0)."""
    return OPS["relu"](x)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """Return x where positive, negative_slope * x elsewhere."""
    return OPS["leaky_relu"](x, negative_slope=negative_slope)


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return OPS["sigmoid"](x)


def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent."""
    return OPS["tanh"](x)


def softmax(x: Any, dim: int = -1) -> Any:
    """Return e^x over its sum along ``dim``."""
    return OPS["softmax"](x, dim=dim)


def log_softmax(x: Any, dim: int = -1) -> Any:
    """Return the logarithm of softmax, stable for large inputs."""
    return OPS["log_softmax"](x, dim=dim)


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Return x with the axes from ``start_dim`` to ``end_dim`` merged."""
    return OPS["flatten"](x, start_dim=start_dim, end_dim=end_dim)


def pad(x: Any, padding: tuple[int, ...], value: float = 0.0) -> Any:
    """Return x with a border of ``value``; ``padding`` lists (before, after) pairs, last axis first."""
    return OPS["pad"](x, padding=padding, value=value)


def cross_entropy(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """Return the softmax cross-entropy of logits (N, C) with class labels (N) or probabilities (N, C)."""
    return OPS["softmax_cross_entropy"](logits, targets, reduction=reduction)


def binary_cross_entropy_with_logits(logits: Any, targets: Any, reduction: str = "mean") -> Any:
    """Return the Bernoulli negative log-likelihood of targets in [0, 1] under logits of the same shape."""
    return OPS["bce_with_logits"](logits, targets, reduction=reduction)


def mse_loss(x: Any, y: Any, reduction: str = "mean", half: bool = False) -> Any:
    """Return the squared error, times 1/2 if ``half``."""
    return OPS["mse"](x, y, reduction=reduction, half=half)
