"""Activations as layers."""

from typing import Any

from nnkernels.nn import functional as F
from nnkernels.nn.module import Module


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


class Sigmoid(Module):
    """1 / (1 + e^-x)."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.sigmoid(x)


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
