"""Shapes and types of the bodies of batch_norm."""

import math

import numpy as np

from nnkernels.machine.memory import Array

Inputs = tuple[Array, Array | None, Array | None]
Outputs = tuple[Array, Array, Array]
Needs = tuple[bool, bool, bool]
Grads = tuple[Array | None, Array | None, Array | None]


def as_planes(x: Array) -> Array:
    """Return the (N, C, S) view of x (N, C, ...)."""
    return x.reshape(*x.shape[:2], math.prod(x.shape[2:]))


def weights(x: Array, w: Array | None, b: Array | None) -> tuple[Array, Array]:
    """Return w and b, ones and zeros in the place of None."""
    C = x.shape[1]
    return np.ones(C, x.dtype) if w is None else w, np.zeros(C, x.dtype) if b is None else b
