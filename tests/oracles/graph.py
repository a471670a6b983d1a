"""Ops of graphs."""

import numpy as np
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, normal, shapes, wide


def index_select_plain(x, index, *, dim=0):
    return np.stack([np.moveaxis(x, dim, 0)[i] for i in index], axis=dim) if len(index) else x.take([], dim)


def segment_plain(x, index, *, n, reduction="sum"):
    of_row = {
        "sum": lambda rows: rows.sum(0),
        "mean": lambda rows: rows.mean(0),
        "max": lambda rows: rows.max(0),
    }
    y = np.zeros((n, *x.shape[1:]), np.longdouble)
    for i in set(index.tolist()):
        y[i] = of_row[reduction](wide(x)[index == i])
    return y


def spmm_plain(indptr, indices, values, x):
    import scipy.sparse

    shape = len(indptr) - 1, len(x)
    return wide(scipy.sparse.csr_array((values, indices, indptr), shape).toarray()) @ wide(x)


PLAIN: dict[str, Oracle] = {
    "index_select": index_select_plain,
    "segment": segment_plain,
    "spmm": spmm_plain,
}


def segment_torch(x, index, *, n, reduction="sum"):
    index = index.long()
    y = x.new_zeros((n, *x.shape[1:]))
    if reduction == "max":
        places = index.reshape(-1, *(1,) * (x.ndim - 1)).expand(x.shape)
        return y.scatter_reduce(0, places, x, "amax", include_self=False)
    y = y.index_add(0, index, x)
    count = index.bincount(minlength=n).clamp(min=1).reshape(-1, *(1,) * (x.ndim - 1))
    return y / count if reduction == "mean" else y


def spmm_torch(indptr, indices, values, x):
    rows = indptr.diff().long()
    rows = rows.new_tensor(range(len(rows))).repeat_interleave(rows)
    return x.new_zeros((len(indptr) - 1, x.shape[1])).index_add(0, rows, values[:, None] * x[indices.long()])


TORCH: dict[str, Oracle] = {
    "index_select": lambda x, index, *, dim=0: x.index_select(dim, index.long()),
    "segment": segment_torch,
    "spmm": spmm_torch,
}


def index_select_draw(draw, rng):
    shape = draw(shapes(1))
    dim = draw(st.integers(-len(shape), len(shape) - 1))
    length = draw(st.integers(0, 12)) if shape[dim] else 0
    index = rng.integers(0, max(shape[dim], 1), length)
    return (normal(rng, *shape), index.astype(draw(st.sampled_from([np.int32, np.int64])))), {"dim": dim}


def segment_draw(draw, rng):
    shape, n = (draw(st.integers(0, 30)), *draw(shapes(0, 2))), draw(st.integers(1, 9))
    how = {"n": n, "reduction": draw(st.sampled_from(["sum", "mean", "max"]))}
    return (normal(rng, *shape), rng.integers(0, n, shape[0])), how


def spmm_draw(draw, rng):
    n, columns, F = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(0, 20))
    count = draw(st.integers(0, 40))
    indptr = np.concatenate(([0], np.sort(rng.integers(0, count + 1, n - 1)), [count]))
    return (indptr, rng.integers(0, columns, count), normal(rng, count), normal(rng, columns, F)), {}


DRAWS: dict[str, Draw] = {"index_select": index_select_draw, "segment": segment_draw, "spmm": spmm_draw}
