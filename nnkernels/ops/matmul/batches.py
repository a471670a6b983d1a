"""Which matrices of two batches meet: NumPy's broadcasting of all axes but the last two."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nnkernels.machine.memory import Array


class Batches(NamedTuple):
    """The result's shape, and for each of its matrices the numbers of the two that it is made from."""

    shape: tuple[int, ...]
    a: Array
    b: Array


@lru_cache(maxsize=256)
def _batches(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> Batches:
    outer = np.broadcast_shapes(shape_a[:-2], shape_b[:-2])
    numbers = [
        np.broadcast_to(np.arange(int(np.prod(s[:-2], dtype=int))).reshape(s[:-2]), outer).reshape(-1)
        for s in (shape_a, shape_b)
    ]
    shape = (*outer, shape_a[-2], shape_b[-1])
    return Batches(shape, *(np.ascontiguousarray(n, np.int64) for n in numbers))


def batches_of(a: Array, b: Array) -> Batches:
    """Return the pairing of a (..., M, K) with b (..., K, P)."""
    return _batches(a.shape, b.shape)


def as_matrices(x: Array) -> Array:
    """Return x (..., M, K) as a batch of matrices (B, M, K)."""
    return x if x.ndim == 3 else x.reshape(int(np.prod(x.shape[:-2], dtype=int)), *x.shape[-2:])
