"""Initial weights: variances chosen so that signals neither fade nor blow up from layer to layer.

    Glorot  var = gain^2 * 2 / (fan_in + fan_out)     Glorot and Bengio, AISTATS 2010 (tanh, sigmoid)
    He      var = gain^2 / fan, gain sqrt(2)           He et al., ICCV 2015 (ReLU)
    LeCun   var = 1 / fan_in                           LeCun et al., Efficient BackProp, 1998

fan_in is the number of inputs of a unit: in_features, or in_channels * R * S for a filter; fan_out alike. A
uniform draw from [-a, a] has variance a^2 / 3. Functions fill the tensor in place and return it. PyTorch's
names for Glorot and He are xavier and kaiming; kaiming takes PyTorch's arguments in place of a gain.
"""

import math
from collections.abc import Callable

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.ops.validate import choice, number

Rng = np.random.Generator | int | None


def fans(tensor: Tensor) -> tuple[int, int]:
    """Return (fan_in, fan_out) of a weight (out, in, ...): Linear, and convolutions of any number of axes.

    As in PyTorch, the first axis counts as out also where a layer has them the other way round, as transposed
    convolutions do.

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


def ones_(tensor: Tensor) -> Tensor:
    """Fill with ones."""
    return constant_(tensor, 1.0)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with ones on the diagonal, zeros elsewhere."""
    _demand_matrix(tensor)
    tensor.data[...] = np.eye(tensor.shape[0], tensor.shape[1])
    return tensor


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a filter (out, in, ...) so that, padded, it hands on its first inputs, in each of the groups."""
    if tensor.ndim < 3:
        raise ValueError(f"tensor must have at least 3 axes (out, in, ...), got shape {tensor.shape}")
    if groups < 1 or tensor.shape[0] % groups:
        raise ValueError(f"groups must divide the first axis of {tensor.shape}, got {groups}")
    tensor.data[...] = 0
    own = tensor.shape[0] // groups
    middle = tuple(n // 2 for n in tensor.shape[2:])
    for g in range(groups):
        for i in range(min(own, tensor.shape[1])):
            tensor.data[(g * own + i, i, *middle)] = 1
    return tensor


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0, rng: Rng = None
) -> Tensor:
    """Fill with draws from a normal distribution, drawn again until they are in [a, b]."""
    low, high = (a - mean) / std, (b - mean) / std
    inside = 0.5 * (math.erf(high / math.sqrt(2)) - math.erf(low / math.sqrt(2)))
    if not inside > 1e-3:
        raise ValueError(f"[a, b] must hold a part of the normal distribution above 0.001, got [{a}, {b}]")
    rng = np.random.default_rng(rng)
    draws = rng.normal(mean, std, tensor.shape)
    while (wrong := (draws < a) | (draws > b)).any():
        draws[wrong] = rng.normal(mean, std, np.count_nonzero(wrong))
    tensor.data[...] = draws
    return tensor


def orthogonal_(tensor: Tensor, gain: float = 1.0, rng: Rng = None) -> Tensor:
    """Fill with a random matrix Q times gain: Q Q^T = I, or Q^T Q = I where it is tall.

    Axes from the second on count as one. Q comes from the QR decomposition of normal draws; with R's diagonal
    made positive, every such matrix is as likely as any other (Saxe, McClelland and Ganguli, Exact Solutions
    to the Nonlinear Dynamics of Learning in Deep Linear Neural Networks, ICLR 2014).
    """
    fans(tensor)  # demands two axes
    rows, columns = tensor.shape[0], math.prod(tensor.shape[1:])
    draws = np.random.default_rng(rng).standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(draws)
    q *= np.sign(np.diag(r))
    tensor.data[...] = gain * (q if rows >= columns else q.T).reshape(tensor.shape)
    return tensor


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01, rng: Rng = None) -> Tensor:
    """Fill a matrix with normal draws, and the part ``sparsity`` of each column, rounded up, with zeros."""
    _demand_matrix(tensor)
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], got {sparsity!r}")
    rng = np.random.default_rng(rng)
    normal_(tensor, 0.0, std, rng)
    rows, columns = tensor.shape
    for column in range(columns):
        tensor.data[rng.permutation(rows)[: math.ceil(sparsity * rows)], column] = 0
    return tensor


def _demand_matrix(tensor: Tensor) -> None:
    if tensor.ndim != 2:
        raise ValueError(f"tensor must have 2 axes, got shape {tensor.shape}")


GAINS = {"sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 3 / 4, "linear": 1.0}
GAINS |= {f"conv{kind}{axes}d": 1.0 for kind in ("", "_transpose") for axes in (1, 2, 3)}


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Return PyTorch's gain for a nonlinearity; ``param`` is the slope of "leaky_relu", 0.01 if None."""
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        number("calculate_gain", "param", slope)
        return math.sqrt(2 / (1 + slope**2))
    if nonlinearity not in GAINS:
        known = ", ".join(sorted((*GAINS, "leaky_relu")))
        raise ValueError(f"calculate_gain: nonlinearity must be one of {known}, got {nonlinearity!r}")
    return GAINS[nonlinearity]


def _fan(tensor: Tensor, mode: str) -> int:
    choice("init", "mode", mode, ("fan_in", "fan_out"))
    return fans(tensor)[mode == "fan_out"]


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


def he_uniform_(
    tensor: Tensor, gain: float = math.sqrt(2), rng: Rng = None, *, mode: str = "fan_in"
) -> Tensor:
    """Fill with uniform draws of variance gain^2 / fan_in, or gain^2 / fan_out in that mode."""
    return _spread(tensor, gain / math.sqrt(_fan(tensor, mode)), uniform_, rng)


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", rng: Rng = None
) -> Tensor:
    """Do as ``he_uniform_`` with the gain of ``nonlinearity``; ``a`` is the slope of "leaky_relu"."""
    return he_uniform_(tensor, calculate_gain(nonlinearity, a), rng, mode=mode)


def he_normal_(
    tensor: Tensor, gain: float = math.sqrt(2), rng: Rng = None, *, mode: str = "fan_in"
) -> Tensor:
    """Fill with normal draws of variance gain^2 / fan_in, or gain^2 / fan_out in that mode."""
    return _spread(tensor, gain / math.sqrt(_fan(tensor, mode)), normal_, rng)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu", rng: Rng = None
) -> Tensor:
    """Do as ``he_normal_`` with the gain of ``nonlinearity``; ``a`` is the slope of "leaky_relu"."""
    return he_normal_(tensor, calculate_gain(nonlinearity, a), rng, mode=mode)


def lecun_uniform_(tensor: Tensor, rng: Rng = None) -> Tensor:
    """Fill with uniform draws of variance 1 / fan_in."""
    return _spread(tensor, 1 / math.sqrt(fans(tensor)[0]), uniform_, rng)


def lecun_normal_(tensor: Tensor, rng: Rng = None) -> Tensor:
    """Fill with normal draws of variance 1 / fan_in."""
    return _spread(tensor, 1 / math.sqrt(fans(tensor)[0]), normal_, rng)


xavier_uniform_, xavier_normal_ = glorot_uniform_, glorot_normal_
