"""Functions of graphs: gathering rows, adding them up where they belong, sparse matrices."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.ops.validate import check_int


class Sparse(NamedTuple):
    """A sparse matrix in CSR form: row i holds values[e] in columns indices[e], indptr[i] <= e < indptr[i+1].

    ``Sparse(a.indptr, a.indices, a.data)`` takes over SciPy's csr_array.
    """

    indptr: Array
    indices: Array
    values: Any


def index_select(x: Any, dim: int, index: Array) -> Any:
    """Return the rows of x that ``index``, a vector of integers, names along the axis ``dim``."""
    return OPS["index_select"](x, index, dim=dim)


def scatter_sum(x: Any, index: Array, n: int) -> Any:
    """Return (n, ...): in row i the sum of the rows x_e of x (E, ...) with index(e) = i, 0 for none."""
    return OPS["segment"](x, index, n=n, reduction="sum")


def scatter_mean(x: Any, index: Array, n: int) -> Any:
    """Return (n, ...): in row i the mean of the rows x_e of x (E, ...) with index(e) = i, 0 for none."""
    return OPS["segment"](x, index, n=n, reduction="mean")


def scatter_max(x: Any, index: Array, n: int) -> Any:
    """Return (n, ...): in row i the largest of the rows x_e of x (E, ...) with index(e) = i, 0 for none."""
    return OPS["segment"](x, index, n=n, reduction="max")


def spmm(matrix: Sparse, x: Any) -> Any:
    """Return the sparse matrix times x (columns, F); ``values`` may be a Tensor, which gets a gradient."""
    return OPS["spmm"](matrix.indptr, matrix.indices, matrix.values, x)


def check_edges(name: str, edges: ArrayLike, n: int) -> Array:
    """Return the edges as an int64 array (2, E) of nodes in [0, n): sources, then targets."""
    check_int(name, "n", n, 1)
    array = np.asarray(edges)
    if array.dtype.kind not in "iu" and array.size > 0:
        raise TypeError(f"{name}: edges must be integers, got {array.dtype}")
    if array.ndim != 2 or len(array) != 2:
        raise ValueError(f"{name}: edges must have shape (2, E), sources and targets, got {array.shape}")
    array = array.astype(np.int64)
    if array.size > 0 and (array.min() < 0 or array.max() >= n):
        raise ValueError(f"{name}: edges must name nodes in [0, {n}), got {array.min()} to {array.max()}")
    return array


def normalized_adjacency(edges: ArrayLike, n: int, dtype: DTypeLike = np.float32) -> Sparse:
    """Return D^-1/2 (A + I) D^-1/2 of an undirected graph, D the row sums of A + I.

    ``edges`` (2, E) names each edge at least once, in either direction; A holds 1 for all that are named, and
    every node is its own neighbour once. Columns rise within each row (Kipf and Welling, Semi-Supervised
    Classification with Graph Convolutional Networks, ICLR 2017).
    """
    source, target = check_edges("normalized_adjacency", edges, n)
    loops = np.arange(n)
    places = np.unique(np.concatenate((source * n + target, target * n + source, loops * n + loops)))
    rows, columns = places // n, places % n
    degree = np.bincount(rows, minlength=n)
    indptr = np.concatenate(([0], np.cumsum(degree)))
    values = 1 / np.sqrt(degree[rows] * degree[columns])
    return Sparse(indptr, columns, values.astype(dtype))
