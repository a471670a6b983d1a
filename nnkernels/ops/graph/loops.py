"""Ops of graphs as loops, like the formulas."""

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.graph.shapes import Grad1, Grad3, Spmm, as_blocks, as_int64, as_matrix

# --- index_select ---


@jit
def select_kernel(x: Array, index: Array, y: Array) -> None:
    for a in range(x.shape[0]):
        for i in range(index.size):
            for b in range(x.shape[2]):
                y[a, i, b] = x[a, index[i], b]


@jit
def select_backward_kernel(dy: Array, index: Array, dx: Array) -> None:
    for a in range(dy.shape[0]):
        for i in range(index.size):
            for b in range(dy.shape[2]):
                dx[a, index[i], b] += dy[a, i, b]


def select_forward_loops(x: Array, index: Array, *, dim: int = 0) -> tuple[Array]:
    axis = dim % x.ndim
    y = np.empty((*x.shape[:axis], index.size, *x.shape[axis + 1 :]), x.dtype)
    select_kernel(as_blocks(x, axis), as_int64(index), as_blocks(y, axis))
    return (y,)


def select_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool], *, dim: int = 0
) -> Grad1:
    if not needs[0]:
        return None, None
    (x, index), axis = inputs, dim % dy.ndim
    dx = np.zeros(x.shape, x.dtype)
    select_backward_kernel(as_blocks(dy, axis), as_int64(index), as_blocks(dx, axis))
    return dx, None


# --- segment ---


@jit
def segment_sum_kernel(x: Array, index: Array, mean: bool, y: Array) -> None:
    count = np.zeros(y.shape[0])
    for e in range(x.shape[0]):
        count[index[e]] += 1
        for f in range(x.shape[1]):
            y[index[e], f] += x[e, f]
    for i in range(y.shape[0]):
        for f in range(x.shape[1]):
            if mean and count[i] > 0:
                y[i, f] /= count[i]


@jit
def segment_max_kernel(x: Array, index: Array, y: Array, argmax: Array) -> None:
    for e in range(x.shape[0]):
        for f in range(x.shape[1]):
            i = index[e]
            better = x[e, f] > y[i, f] or (np.isnan(x[e, f]) and not np.isnan(y[i, f]))
            if argmax[i, f] < 0 or better:
                y[i, f], argmax[i, f] = x[e, f], e


@jit
def segment_sum_backward_kernel(dy: Array, index: Array, mean: bool, dx: Array) -> None:
    count = np.zeros(dy.shape[0])
    for e in range(index.size):
        count[index[e]] += 1
    for e in range(index.size):
        for f in range(dy.shape[1]):
            dx[e, f] = dy[index[e], f] / count[index[e]] if mean else dy[index[e], f]


@jit
def segment_max_backward_kernel(dy: Array, argmax: Array, dx: Array) -> None:
    for i in range(dy.shape[0]):
        for f in range(dy.shape[1]):
            if argmax[i, f] >= 0:
                dx[argmax[i, f], f] = dy[i, f]


def segment_forward_loops(x: Array, index: Array, *, n: int, reduction: str = "sum") -> tuple[Array, ...]:
    y = np.zeros((n, *x.shape[1:]), x.dtype)
    if reduction == "max":
        argmax = np.full(y.shape, -1, np.int64)
        segment_max_kernel(as_matrix(x), as_int64(index), as_matrix(y), as_matrix(argmax))
        return y, argmax
    segment_sum_kernel(as_matrix(x), as_int64(index), reduction == "mean", as_matrix(y))
    return (y,)


def segment_backward_loops(
    dy: Array, outputs: tuple[Array, ...], inputs: tuple[Array, Array], needs: tuple[bool, bool], *, n: int,
    reduction: str = "sum",
) -> Grad1:  # fmt: skip
    if not needs[0]:
        return None, None
    x, index = inputs
    dx = np.zeros(x.shape, x.dtype)
    if reduction == "max":
        segment_max_backward_kernel(as_matrix(dy), as_matrix(outputs[1]), as_matrix(dx))
    else:
        segment_sum_backward_kernel(as_matrix(dy), as_int64(index), reduction == "mean", as_matrix(dx))
    return dx, None


# --- spmm ---


@jit
def spmm_kernel(indptr: Array, indices: Array, values: Array, x: Array, y: Array) -> None:
    for i in range(y.shape[0]):
        for e in range(indptr[i], indptr[i + 1]):
            for f in range(y.shape[1]):
                y[i, f] += values[e] * x[indices[e], f]


@jit
def spmm_backward_kernel(
    dy: Array, indptr: Array, indices: Array, values: Array, x: Array, dvalues: Array, dx: Array
) -> None:
    for i in range(dy.shape[0]):
        for e in range(indptr[i], indptr[i + 1]):
            for f in range(dy.shape[1]):
                dvalues[e] += dy[i, f] * x[indices[e], f]
                dx[indices[e], f] += values[e] * dy[i, f]


def spmm_forward_loops(indptr: Array, indices: Array, values: Array, x: Array) -> tuple[Array]:
    y = np.zeros((len(indptr) - 1, x.shape[1]), x.dtype)
    spmm_kernel(as_int64(indptr), as_int64(indices), values, x, y)
    return (y,)


def spmm_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Spmm, needs: tuple[bool, bool, bool, bool]
) -> Grad3:
    indptr, indices, values, x = inputs
    dvalues, dx = np.zeros(values.shape, x.dtype), np.zeros(x.shape, x.dtype)
    spmm_backward_kernel(dy, as_int64(indptr), as_int64(indices), values, x, dvalues, dx)
    return None, None, dvalues if needs[2] else None, dx if needs[3] else None
