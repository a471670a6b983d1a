"""What layers share: checked sizes and PyTorch's initial weights."""

import math
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.nn import init
from nnkernels.nn.module import Parameter

Size = int | tuple[int, int]


def positive(layer: str, name: str, value: Any) -> int:
    """Return ``value``, which must be an int of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{layer}: {name} must be an int, got {type(value).__name__} {value!r}")
    if value < 1:
        raise ValueError(f"{layer}: {name} must be at least 1, got {value}")
    return int(value)


def make_weights(
    shape: tuple[int, ...], bias: bool, rng: init.Rng, dtype: DTypeLike, outputs: int | None = None
) -> tuple[Parameter, Parameter | None]:
    """Return weight and bias drawn from [-1/sqrt(fan_in), 1/sqrt(fan_in)], PyTorch's default.

    fan_in is the product of all axes of ``shape`` but the first, which counts the ``outputs`` unless they are
    given.
    """
    rng = np.random.default_rng(rng)
    weight = Parameter(np.empty(shape, dtype))
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    init.uniform_(weight, -bound, bound, rng)
    if not bias:
        return weight, None
    b = Parameter(np.empty(shape[0] if outputs is None else outputs, dtype))
    init.uniform_(b, -bound, bound, rng)
    return weight, b


def activated(layer: Any) -> str:
    """Return the part of a layer's description that names its activation."""
    return "" if layer.activation is None else f", activation={layer.activation!r}"
