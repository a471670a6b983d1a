"""Activations, element by element or along an axis."""

from typing import Any

from nnkernels.ops import OPS


def relu(x: Any) -> Any:
    """Return max(x, 0)."""
    return OPS["relu"](x)


def leaky_relu(x: Any, negative_slope: float = 0.01) -> Any:
    """Return x where positive, negative_slope * x elsewhere."""
    return OPS["leaky_relu"](x, negative_slope=negative_slope)


def prelu(x: Any, weight: Any) -> Any:
    """Return x where positive, weight * x elsewhere: weight (1), or (C) for x (N, C, ...)."""
    return OPS["prelu"](x, weight)


def elu(x: Any, alpha: float = 1.0) -> Any:
    """Return x where positive, alpha (e^x - 1) elsewhere."""
    return OPS["elu"](x, alpha=alpha)


def selu(x: Any) -> Any:
    """Return elu scaled so that deep networks keep mean 0 and variance 1."""
    return OPS["selu"](x)


def hardtanh(x: Any, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    """Return x between min_val and max_val, else the nearer of them."""
    return OPS["hardtanh"](x, min_val=min_val, max_val=max_val)


def maxout(x: Any, pieces: int) -> Any:
    """Return the largest of each ``pieces`` adjacent channels: (N, C, ...) to (N, C / pieces, ...)."""
    return OPS["maxout"](x, pieces=pieces)


def softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Return ln(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""
    return OPS["softplus"](x, beta=beta, threshold=threshold)


def silu(x: Any) -> Any:
    """Return x / (1 + e^-x)."""
    return OPS["silu"](x)


def mish(x: Any) -> Any:
    """Return x tanh(ln(1 + e^x))."""
    return OPS["mish"](x)


def gelu(x: Any, approximate: str = "none") -> Any:
    """Return x Phi(x), Phi the normal distribution; ``approximate="tanh"`` takes a tanh for it."""
    return OPS["gelu"](x, approximate=approximate)


def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return OPS["sigmoid"](x)


def logsigmoid(x: Any) -> Any:
    """Return ln(1 / (1 + e^-x)), stable for large negative x."""
    return OPS["log_sigmoid"](x)


def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent."""
    return OPS["tanh"](x)


def softmax(x: Any, dim: int = -1) -> Any:
    """Return e^x over its sum along ``dim``."""
    return OPS["softmax"](x, dim=dim)


def log_softmax(x: Any, dim: int = -1) -> Any:
    """Return the logarithm of softmax, stable for large inputs."""
    return OPS["log_softmax"](x, dim=dim)
