"""Dropout."""

import math
from typing import Any

import numpy as np

from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import full
from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_random import random_mask
from nnkernels.nn.init import Rng
from nnkernels.ops import OPS
from nnkernels.ops.dropout import check_probability


def draw_mask(shape: tuple[int, ...], p: float, rng: Rng, beside: Any = None) -> Any:
    """Return an array of bools, each False with probability p; none is for p = 0, all are for p = 1.

    On the device of the array or Tensor ``beside``; a GPU draws other bits from the same rng.
    """
    array = array_of(beside)
    if p == 1:
        return full(shape, 0, np.bool_, array)
    if isinstance(array, GpuArray):
        return random_mask(shape, p, np.random.default_rng(rng), array.device)
    # Two elements of 32 random bits each from one draw: half the time of as many floats.
    count = math.prod(shape)
    bits = np.random.default_rng(rng).integers(0, 2**64, -(-count // 2), np.uint64).view(np.uint32)
    return (bits[:count] >= np.uint32(min(round(p * 2**32), 2**32 - 1))).reshape(shape)


def _dropped(name: str, x: Any, axes: int, p: float, training: bool, rng: Rng) -> Any:
    """Return x with a mask over its first ``axes`` axes drawn and applied."""
    check_probability(name, p)
    if not training:
        return x
    return OPS["dropout"](x, draw_mask(x.shape[:axes], p, rng, x), p=p)


def dropout(x: Any, p: float = 0.5, training: bool = True, rng: Rng = None) -> Any:
    """Return x with each element set to 0 with probability p, the others times 1 / (1 - p).

    Not ``training``: x itself. ``rng`` is a NumPy Generator, which moves on, or a seed.
    """
    return _dropped("dropout", x, x.ndim, p, training, rng)


def dropout1d(x: Any, p: float = 0.5, training: bool = True, rng: Rng = None) -> Any:
    """As ``dropout``, for whole channels of x (N, C, L), or of one example (C, L)."""
    if x.ndim not in (2, 3):
        raise ValueError(f"dropout1d: x must have 3 axes (N, C, L) or 2 axes (C, L), got shape {x.shape}")
    return _dropped("dropout1d", x, x.ndim - 1, p, training, rng)


def dropout2d(x: Any, p: float = 0.5, training: bool = True, rng: Rng = None) -> Any:
    """As ``dropout``, for whole channels of x (N, C, H, W)."""
    if x.ndim != 4:
        raise ValueError(f"dropout2d: x must have 4 axes (N, C, H, W), got shape {x.shape}")
    return _dropped("dropout2d", x, 2, p, training, rng)
