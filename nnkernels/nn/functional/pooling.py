"""Pooling."""

from typing import Any

from nnkernels.ops import OPS


def max_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    """Return the largest pixel of each window; ``stride`` is ``kernel_size`` unless given."""
    return OPS["max_pool2d"](x, kernel_size=kernel_size, stride=stride, padding=padding)


def avg_pool2d(x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0) -> Any:
    """Return the mean of each window, zeros of the padding counted in."""
    return OPS["avg_pool2d"](x, kernel_size=kernel_size, stride=stride, padding=padding)
