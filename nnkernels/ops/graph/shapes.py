"""Shapes and types of the bodies of index_select, segment and spmm."""

import math

import numpy as np

from nnkernels.machine.memory import Array

Grad1 = tuple[Array | None, None]
Grad3 = tuple[None, None, Array | None, Array | None]
Spmm = tuple[Array, Array, Array, Array]  # indptr, indices, values, x


def as_int64(index: Array) -> Array:
    """Return the index in the one integer type kernels are compiled for."""
    return index.astype(np.int64, copy=False)


def as_matrix(x: Array) -> Array:
    """Return x (E, ...) as (E, F)."""
    return x.reshape(len(x), math.prod(x.shape[1:]))


def as_blocks(x: Array, axis: int) -> Array:
    """Return x as (A, M, B), M the length of ``axis``."""
    return x.reshape(math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))
