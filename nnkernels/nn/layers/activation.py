"""Activations as layers."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.nn import functional as F
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module, Parameter
from nnkernels.ops.validate import choice, number


class Identity(Module):
    """x itself: a layer to put where another is left out. Takes and ignores any arguments."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        """Return x."""
        return x


class ReLU(Module):
    """max(x, 0), with slope 0 at 0."""

    is_relu = True

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.relu(x)


class LeakyReLU(Module):
    """x where positive, negative_slope * x elsewhere."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        """Return the slope."""
        return f"negative_slope={self.negative_slope}"


class PReLU(Module):
    """x where positive, weight * x elsewhere: a leaky relu that learns its slope, at first ``init``.

    weight has shape (num_parameters): 1, or the number of channels of x (N, C, ...). Weight decay drives it
    to 0, a relu; He et al. 2015 leave it out.
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, *, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        self.num_parameters = positive("PReLU", "num_parameters", num_parameters)
        number("PReLU", "init", init)
        self.init = init
        self.weight = Parameter(np.full(num_parameters, init, dtype))

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.prelu(x, self.weight)

    def extra_repr(self) -> str:
        """Return the number of slopes."""
        return f"num_parameters={self.num_parameters}"


class ELU(Module):
    """x where positive, alpha (e^x - 1) elsewhere."""

    def __init__(self, alpha: float = 1.0) -> None:
        super().__init__()
        number("ELU", "alpha", alpha)
        self.alpha = alpha

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.elu(x, self.alpha)

    def extra_repr(self) -> str:
        """Return alpha."""
        return f"alpha={self.alpha}"


class SELU(Module):
    """elu scaled so that deep networks keep mean 0 and variance 1 (with weights of variance 1 / fan_in)."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.selu(x)


class Hardtanh(Module):
    """x between min_val and max_val, else the nearer of them."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0) -> None:
        super().__init__()
        for name, value in (("min_val", min_val), ("max_val", max_val)):
            number("Hardtanh", name, value)
        if min_val >= max_val:
            raise ValueError(f"Hardtanh: min_val must be below max_val, got {min_val!r} and {max_val!r}")
        self.min_val, self.max_val = min_val, max_val

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.hardtanh(x, self.min_val, self.max_val)

    def extra_repr(self) -> str:
        """Return the ends."""
        return f"min_val={self.min_val}, max_val={self.max_val}"


class Maxout(Module):
    """Largest of each group of ``pieces`` adjacent channels: (N, C, ...) to (N, C / pieces, ...).

    Behind ``Linear(n, pieces * m)``, m units of which each is the largest of ``pieces`` linear functions
    (Goodfellow et al. 2013).
    """

    def __init__(self, pieces: int) -> None:
        super().__init__()
        self.pieces = positive("Maxout", "pieces", pieces)

    def forward(self, x: Any) -> Any:
        """Return (N, C / pieces, ...)."""
        return F.maxout(x, self.pieces)

    def extra_repr(self) -> str:
        """Return the number of pieces."""
        return f"pieces={self.pieces}"


class Softplus(Module):
    """ln(1 + e^(beta x)) / beta, and x itself where beta x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        super().__init__()
        for name, value in (("beta", beta), ("threshold", threshold)):
            number("Softplus", name, value)
        if beta == 0:
            raise ValueError("Softplus: beta must not be 0")
        self.beta, self.threshold = beta, threshold

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.softplus(x, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Return beta and the threshold."""
        return f"beta={self.beta}, threshold={self.threshold}"


class SiLU(Module):
    """x / (1 + e^-x)."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.silu(x)


class Mish(Module):
    """x tanh(ln(1 + e^x))."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.mish(x)


class GELU(Module):
    """x Phi(x), Phi the normal distribution; ``approximate="tanh"`` takes a tanh for it."""

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        choice("GELU", "approximate", approximate, ("none", "tanh"))
        self.approximate = approximate

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        """Return the formula's name."""
        return f"approximate={self.approximate!r}"


class Sigmoid(Module):
    """1 / (1 + e^-x)."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.sigmoid(x)


class LogSigmoid(Module):
    """ln(1 / (1 + e^-x))."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.logsigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.tanh(x)


class Softmax(Module):
    """e^x over its sum along ``dim``."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape that sums to 1 along ``dim``."""
        return F.softmax(x, self.dim)

    def extra_repr(self) -> str:
        """Return the axis."""
        return f"dim={self.dim}"


class LogSoftmax(Softmax):
    """Logarithm of softmax, stable for large inputs."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.log_softmax(x, self.dim)
