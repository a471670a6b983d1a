"""Ops of graphs in NumPy: sums over runs of rows that belong together, after a stable sort."""

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.graph.shapes import Grad1, Grad3, Spmm, as_blocks


def counts(index: Array, n: int) -> Array:
    """Return how often each of 0, ..., n - 1 occurs."""
    return np.bincount(index, minlength=n)


def add_runs(x: Array, count: Array, ufunc: np.ufunc = np.add) -> Array:
    """Return for each run of count[i] rows of x their sum (or what ``ufunc`` makes), 0 for an empty run."""
    y = np.zeros((len(count), *x.shape[1:]), x.dtype)
    full = count > 0
    if full.any():
        y[full] = ufunc.reduceat(x, (np.cumsum(count) - count)[full], axis=0)
    return y


def select_forward_vectorized(x: Array, index: Array, *, dim: int = 0) -> tuple[Array]:
    return (np.take(x, index, axis=dim),)


def select_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool], *, dim: int = 0
) -> Grad1:
    if not needs[0]:
        return None, None
    (x, index), axis = inputs, dim % dy.ndim
    rows = as_blocks(dy, axis).swapaxes(0, 1)
    dx = add_runs(rows[np.argsort(index, kind="stable")], counts(index, x.shape[axis]))
    return dx.swapaxes(0, 1).reshape(x.shape), None


def spread_over(y: Array, like: Array) -> Array:
    """Return y (n,) with axes of size 1 behind it, to go with an array (n, ...)."""
    return y.reshape(-1, *(1,) * (like.ndim - 1))


def segment_forward_vectorized(
    x: Array, index: Array, *, n: int, reduction: str = "sum"
) -> tuple[Array, ...]:
    count, order = counts(index, n), np.argsort(index, kind="stable")
    if reduction == "sum":
        return (add_runs(x[order], count),)
    if reduction == "mean":
        return (add_runs(x[order], count) / spread_over(np.maximum(count, 1), x).astype(x.dtype),)
    y = add_runs(x[order], count, np.maximum)
    hit = (x == y[index]) | (np.isnan(x) & np.isnan(y[index]))
    places = np.where(hit, spread_over(np.arange(len(x)), x), len(x))
    argmax = add_runs(places[order], count, np.minimum)
    argmax[count == 0] = -1
    return y, argmax


def segment_backward_vectorized(
    dy: Array, outputs: tuple[Array, ...], inputs: tuple[Array, Array], needs: tuple[bool, bool], *, n: int,
    reduction: str = "sum",
) -> Grad1:  # fmt: skip
    if not needs[0]:
        return None, None
    x, index = inputs
    if reduction == "sum":
        return dy[index], None
    if reduction == "mean":
        return (dy / spread_over(np.maximum(counts(index, n), 1), x).astype(x.dtype))[index], None
    return np.where(outputs[1][index] == spread_over(np.arange(len(x)), x), dy[index], x.dtype.type(0)), None


def rows_of(indptr: Array) -> Array:
    """Return the row of each stored value."""
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


def spmm_forward_vectorized(indptr: Array, indices: Array, values: Array, x: Array) -> tuple[Array]:
    return (add_runs(values[:, None] * x[indices], np.diff(indptr)),)


def spmm_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Spmm, needs: tuple[bool, bool, bool, bool]
) -> Grad3:
    indptr, indices, values, x = inputs
    arriving = dy[rows_of(indptr)]
    dvalues = (arriving * x[indices]).sum(axis=1) if needs[2] else None
    dx = None
    if needs[3]:
        order = np.argsort(indices, kind="stable")
        dx = add_runs((values[:, None] * arriving)[order], counts(indices, len(x)))
    return None, None, dvalues, dx
