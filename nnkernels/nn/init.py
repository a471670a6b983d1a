"""Initial weights: variances chosen so that signals neither fade nor blow up from layer to layer.

    Glorot  var = gain^2 * 2 / (fan_in + fan_out)     Glorot and Bengio, AISTATS 2010 (tanh, sigmoid)
    He      var = gain^2 / fan_in, gain sqrt(2)        He et al., ICCV 2015 (ReLU)
    LeCun   var = 1 / fan_in                           LeCun et al., Efficient BackProp, 1998

fan_in is the number of inputs of a unit: in_features, or in_channels * R * S for a filter; fan_out alike. A
uniform draw from [-a, a] has variance a^2 / 3. Functions fill the tensor in place and return it. PyTorch's
names for Glorot and He are xavier and kaiming; the same functions answer to both.
"""

import math
from collections.abc import Callable

import numpy as np

from nnkernels.autograd import Tensor

Rng = np.random.Generator | int | None


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight (out, in, ...).

    >>> fans(Tensor(np.zeros((16, 6, 5, 5))))
    (150, 400)
    """
    if tensor.ndim < 2:
        raise ValueError(f"tensor must have at least 2 axes (out, in, ...), got shape {tensor.shape}")
    field = math.prod(tensor.shape[2:])
    return tensor.shape[1] * field, tensor.shape[0] * field


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with draws from [a, b)."""
    tensor.data[...] = np.random.default_rng(rng).uniform(a, b, tensor.shape)
    return tensor


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with draws from a normal distribution."""
    tensor.data[...] = np.random.default_rng(rng).normal(mean, std, tensor.shape)
    return tensor


def constant_(tensor: Tensor, value: float) -> Tensor:
    """Fill with one value."""
    tensor.data[...] = value
    return tensor


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with zeros."""
    return constant_(tensor, 0.0)


def _spread(tensor: Tensor, std: float, draw: Callable[..., Tensor], rng: Rng) -> Tensor:
    if draw is uniform_:
        return uniform_(tensor, -math.sqrt(3) * std, math.sqrt(3) * std, rng)
    return normal_(tensor, 0.0, std, rng)


def glorot_uniform_(tensor: Tensor, gain: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with uniform draws of variance gain^2 * 2 / (fan_in + fan_out)."""
    return _spread(tensor, gain * math.sqrt(2 / sum(fans(tensor))), uniform_, rng)


def glorot_normal_(tensor: Tensor, gain: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with normal draws of variance gain^2 * 2 / (fan_in + fan_out)."""
    return _spread(tensor, gain * math.sqrt(2 / sum(fans(tensor))), normal_, rng)


def he_uniform_(tensor: Tensor, gain: float = math.sqrt(2), rng: Rng = None) -> Tensor:
    """Fill with uniform draws of variance gain^2 / fan_in."""
    return _spread(tensor, gain / math.sqrt(fans(tensor)[0]), uniform_, rng)


def he_normal_(tensor: Tensor, gain: float = math.sqrt(2), rng: Rng = None) -> Tensor:
    """Fill with normal draws of variance gain^2 / fan_in."""
    return _spread(tensor, gain / math.sqrt(fans(tensor)[0]), normal_, rng)


def lecun_uniform_(tensor: Tensor, rng: Rng = None) -> Tensor:
    """Fill with uniform draws of variance 1 / fan_in."""
    return _spread(tensor, 1 / math.sqrt(fans(tensor)[0]), uniform_, rng)


def lecun_normal_(tensor: Tensor, rng: Rng = None) -> Tensor:
    """Fill with normal draws of variance 1 / fan_in."""
    return _spread(tensor, 1 / math.sqrt(fans(tensor)[0]), normal_, rng)


xavier_uniform_, xavier_normal_ = glorot_uniform_, glorot_normal_
kaiming_uniform_, kaiming_normal_ = he_uniform_, he_normal_
