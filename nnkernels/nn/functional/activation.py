"""Activations, element by element or along an axis."""

from typing import Any

from nnkernels.ops import OPS


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
