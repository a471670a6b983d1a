"""Ops that passing messages along the edges of a graph is made of.

    index_select(x, index, dim=0)             y_i = x_index(i)     dx_j = sum over i with index(i) = j of dy_i
    segment(x, index, n=, reduction="sum")    y_i = sum, mean or max of the x_e with index(e) = i, for i < n
    spmm(indptr, indices, values, x)          y = A x              dx = A^T dy     dA_ij = dy_i . x_j

index_select takes rows along the axis ``dim``. segment goes the other way: rows x_e (E, ...) are gathered
into n rows; one that gets nothing is 0. Its backward pass gives each x_e its row's dy ("sum"), over the
number of rows gathered ("mean"), or only where x_e is the first maximum ("max"; NaN is above all). A is a
sparse matrix of n rows in CSR form: row i holds values(e) in columns indices(e) for indptr(i) <= e <
indptr(i + 1), indptr (n + 1,), columns in any order and repeated ones added; x is (columns, F). Indices are
integers without gradient, numbers float32 or float64 (Gilmer et al., Neural Message Passing for Quantum
Chemistry, ICML 2017; Saad, Iterative Methods for Sparse Linear Systems, 2003, 3.4).

segment with "max" keeps where its maxima stand, -1 for none, in the shape of y.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import linear, multilinear, piecewise_linear
from nnkernels.ops.graph import cuda, loops, tuned, vectorized
from nnkernels.ops.graph.shapes import Spmm
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import axis_index, check_int, choice, fail_type, floats, is_array, rank

# --- records ---

REDUCTIONS = ("sum", "mean", "max")


def check_index(op: str, name: str, index: Any) -> None:
    """Demand a vector of integers."""
    if not is_array(index) or index.dtype.kind not in "iu":
        fail_type(op, name, index, "an array of integers")
    rank(op, name, index, 1, "(a vector)")


def check_range(op: str, name: str, index: Array, n: int, what: str) -> None:
    """Demand indices of 0, ..., n - 1."""
    if index.size > 0 and (index.min() < 0 or index.max() >= n):
        wrong = index[(index < 0) | (index >= n)][0]
        raise ValueError(f"{op}: {name} must be in [0, {n}), {what}, got {wrong}")


def check_select(x: Array, index: Array, *, dim: Any = 0) -> None:
    floats("index_select", x=x)
    if x.ndim == 0:
        raise ValueError("index_select: x must have at least one axis, got shape ()")
    axis_index("index_select", dim, x.ndim)
    check_index("index_select", "index", index)


def check_select_values(x: Array, index: Array, *, dim: int = 0) -> None:
    check_range("index_select", "index", index, x.shape[dim], f"x is {x.shape} and dim {dim}")


def check_segment(x: Array, index: Array, *, n: Any, reduction: Any = "sum") -> None:
    floats("segment", x=x)
    check_index("segment", "index", index)
    if x.ndim == 0 or len(x) != len(index):
        raise ValueError(f"segment: x and index must have one length, got shapes {x.shape} and {index.shape}")
    check_int("segment", "n", n, 1)
    choice("segment", "reduction", reduction, REDUCTIONS)


def check_segment_values(x: Array, index: Array, *, n: int, reduction: str = "sum") -> None:
    check_range("segment", "index", index, n, "the number of rows n")


def check_spmm(indptr: Array, indices: Array, values: Array, x: Array) -> None:
    check_index("spmm", "indptr", indptr)
    check_index("spmm", "indices", indices)
    floats("spmm", values=values, x=x)
    rank("spmm", "x", x, 2, "(columns, F)")
    if len(indptr) == 0:
        raise ValueError("spmm: indptr must have at least one element, got shape (0,)")
    if values.shape != indices.shape:
        raise ValueError(
            f"spmm: values and indices must have one shape, got {values.shape} and {indices.shape}"
        )


def check_spmm_values(indptr: Array, indices: Array, values: Array, x: Array) -> None:
    if indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
        raise ValueError(
            f"spmm: indptr must rise from 0 to the number of values, {len(indices)}, got {indptr[0]} to "
            f"{indptr[-1]}{'' if (indptr[1:] >= indptr[:-1]).all() else ', falling in between'}"
        )
    check_range("spmm", "indices", indices, len(x), f"x is {x.shape}")


def array(rng: np.random.Generator, dtype: Any, *shape: int) -> Array:
    return np.asarray(rng.standard_normal(shape), dtype)


def select_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape, length, dim in (
        ((4, 3), 7, 0), ((2, 5, 3), 6, 1), ((3, 4), 5, -1), ((6,), 4, 0), ((3, 2), 0, 0), ((2, 1, 3), 2, -2),
        ((0, 3, 2), 4, 1),
    ):  # fmt: skip
        index = rng.integers(0, shape[dim], length)
        yield Sample(f"{shape} dim {dim} x {length}", (array(rng, dtype, *shape), index), {"dim": dim})
    index = np.array([2, 2, 0], np.int32)
    yield Sample("int32", (array(rng, dtype, 3, 2), index), {})


def select_bench(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for n, F, length in ((2708, 64, 10556), (20000, 128, 60000)):
        index = rng.integers(0, n, length)
        yield Sample(f"{n}x{F} at {length}", (array(rng, dtype, n, F), index), {"dim": 0})


def segment_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for reduction in REDUCTIONS:
        for shape, n in (((9, 3), 3), ((11,), 4), ((3, 2, 2), 5), ((0, 2), 2)):
            how = {"n": n, "reduction": reduction}
            index = rng.integers(0, n, shape[0])
            yield Sample(f"{reduction} {shape} to {n}", (array(rng, dtype, *shape), index), how)
    index = np.array([1, 1, 0], np.int32)
    yield Sample("int32", (array(rng, dtype, 3, 2), index), {"n": 2})


def segment_bench(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for reduction in REDUCTIONS:
        index = rng.integers(0, 2708, 10556)
        how = {"n": 2708, "reduction": reduction}
        yield Sample(f"{reduction} 10556x64 to 2708", (array(rng, dtype, 10556, 64), index), how)


def random_rows(rng: np.random.Generator, dtype: Any, n: int, columns: int, count: int, F: int) -> Spmm:
    """Return a matrix (n, columns) of ``count`` values anywhere, and features."""
    indptr = np.concatenate(([0], np.sort(rng.integers(0, count + 1, n - 1)), [count])) if n > 0 else [0]
    indices = rng.integers(0, max(columns, 1), count)
    return np.asarray(indptr, np.int64), indices, array(rng, dtype, count), array(rng, dtype, columns, F)


def spmm_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for n, columns, count, F in ((4, 3, 11, 5), (2, 6, 13, 1), (5, 4, 3, 2), (3, 2, 0, 2), (1, 1, 1, 3)):
        arrays = random_rows(rng, dtype, n, columns, count, F)
        yield Sample(f"{n}x{columns} of {count} times {F}", arrays)
    indptr, indices, values, x = random_rows(rng, dtype, 3, 3, 5, 2)
    yield Sample("int32", (indptr.astype(np.int32), indices.astype(np.int32), values, x))
    yield Sample("no columns of x", (*random_rows(rng, dtype, 2, 3, 4, 0)[:3], array(rng, dtype, 3, 0)))


def spmm_bench(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for n, degree, F in ((2708, 5, 64), (20000, 10, 128)):
        indptr = np.concatenate(([0], np.cumsum(rng.integers(0, 2 * degree, n))))
        indices = rng.integers(0, n, indptr[-1])
        values, x = array(rng, dtype, len(indices)), array(rng, dtype, n, F)
        yield Sample(f"{n} rows of {degree}, {F}", (indptr, indices, values, x))


def select_bad() -> Iterator[BadInput]:
    x, index = np.ones((3, 2)), np.array([0, 2])
    yield BadInput(TypeError, "x must be float32 or float64, got int64", (x.astype(int), index))
    yield BadInput(ValueError, "x must have at least one axis", (np.ones(()), index))
    yield BadInput(TypeError, "index must be an array of integers, got float64", (x, x[0]))
    yield BadInput(ValueError, "index must have 1 axes (a vector)", (x, index[None]))
    yield BadInput(ValueError, "index must be in [0, 3), x is (3, 2) and dim 0, got 3", (x, index + 1))
    yield BadInput(ValueError, "got -1", (x, index - 1))
    yield BadInput(ValueError, "dim must be in [-2, 2)", (x, index), {"dim": 2})


def segment_bad() -> Iterator[BadInput]:
    x, index = np.ones((3, 2)), np.array([0, 1, 1])
    yield BadInput(TypeError, "x must be float32 or float64, got int64", (x.astype(int), index), {"n": 2})
    yield BadInput(ValueError, "one length, got shapes (3, 2) and (2,)", (x, index[:2]), {"n": 2})
    yield BadInput(TypeError, "index must be an array of integers", (x, index > 0), {"n": 2})
    yield BadInput(ValueError, "index must be in [0, 1), the number of rows n, got 1", (x, index), {"n": 1})
    yield BadInput(ValueError, "n must be at least 1, got 0", (x[:0], index[:0]), {"n": 0})
    yield BadInput(ValueError, "one of sum, mean, max, got 'min'", (x, index), {"n": 2, "reduction": "min"})


def spmm_bad() -> Iterator[BadInput]:
    indptr, indices, values, x = np.array([0, 1, 3]), np.array([1, 0, 1]), np.ones(3), np.ones((2, 4))
    yield BadInput(TypeError, "indptr must be an array of integers", (indptr / 1, indices, values, x))
    yield BadInput(ValueError, "indices must have 1 axes", (indptr, indices[None], values, x))
    yield BadInput(TypeError, "values and x must have one dtype", (indptr, indices, values.astype("f4"), x))
    yield BadInput(ValueError, "values and indices must have one shape", (indptr, indices, values[:2], x))
    yield BadInput(ValueError, "x must have 2 axes (columns, F)", (indptr, indices, values, x[0]))
    yield BadInput(
        ValueError,
        "from 0 to the number of values, 3, got 0 to 2",
        (indptr[[0, 1, 1]] * 2, indices, values, x),
    )
    yield BadInput(ValueError, "falling in between", (np.array([0, 3, 1, 3]), indices, values, x))
    yield BadInput(ValueError, "at least one element", (indptr[:0], indices, values, x))
    yield BadInput(
        ValueError, "indices must be in [0, 2), x is (2, 4), got 2", (indptr, indices + 1, values, x)
    )


def select_jvp(
    tangents: tuple[Array | None, None], outputs: tuple[Array], inputs: tuple[Array, Array], *, dim: int = 0
) -> Array:
    dx = tangents[0]
    return np.zeros_like(outputs[0]) if dx is None else np.take(dx, inputs[1], axis=dim)


def segment_jvp(
    tangents: tuple[Array | None, None], outputs: tuple[Array, ...], inputs: tuple[Array, Array], *, n: int,
    reduction: str = "sum",
) -> Array:  # fmt: skip
    dx = tangents[0]
    if dx is None:
        return np.zeros_like(outputs[0])
    if reduction != "max":
        return vectorized.segment_forward_vectorized(dx, inputs[1], n=n, reduction=reduction)[0]
    if len(dx) == 0:
        return np.zeros_like(outputs[0])
    moved = np.take_along_axis(dx, np.maximum(outputs[1], 0), axis=0)
    return np.where(outputs[1] < 0, 0, moved)


def spmm_jvp(
    tangents: tuple[None, None, Array | None, Array | None], outputs: tuple[Array], inputs: Spmm
) -> Array:
    indptr, indices, values, x = inputs
    multiply = vectorized.spmm_forward_vectorized
    dy = np.zeros_like(outputs[0])
    if tangents[2] is not None:
        dy += multiply(indptr, indices, tangents[2], x)[0]
    return dy if tangents[3] is None else dy + multiply(indptr, indices, values, tangents[3])[0]


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in the file of a body."""
    return Mutant(name, body, f"graph/{body}.py", old, new)


slow = partial(mutant, body="tuned")

index_select = Op(
    name="index_select",
    loops=Body(loops.select_forward_loops, loops.select_backward_loops),
    vectorized=Body(vectorized.select_forward_vectorized, vectorized.select_backward_vectorized),
    tuned=Body(tuned.select_forward_tuned, tuned.select_backward_tuned),
    cuda=Body(cuda.select_forward_cuda, cuda.select_backward_cuda),
    check=check_select,
    check_values=check_select_values,
    samples=select_samples,
    bad_inputs=select_bad,
    bench_samples=select_bench,
    flops=lambda *_, **__: 0,
    jvp=select_jvp,
    gradient=linear,
    constants=frozenset({1}),
    tolerance=512,
    mutants=(
        mutant("missing +=", "dx[a, index[i], b] += dy", "dx[a, index[i], b] = dy"),
        mutant("index ignored", "= x[a, index[i], b]", "= x[a, i % x.shape[1], b]"),
        slow("blocks forgotten", "U((block + index[i]) * F), U(r * F)", "U(index[i] * F), U(r * F)"),
        slow("first element for all", "y[o + f] = x[at + f]", "y[o + f] = x[at]"),
        slow("a row of four left out", "+ (v2 * x[x2 + f] + v3 * x[x3 + f])", "+ v2 * x[x2 + f]"),
        slow("last edge left out", "while e < end:", "while e < end - 1:"),
        slow("sorted unstably", "order[indptr[index[e]]] = e", "order[indptr[index[e]]] = 0"),
        slow("an axis too many", "blocks = np.ones(index.size, x.dtype), math.prod(x.shape[:axis])",
             "blocks = np.ones(index.size, x.dtype), math.prod(x.shape[: axis + 1])"),
    ),
)  # fmt: skip
segment = Op(
    name="segment",
    loops=Body(loops.segment_forward_loops, loops.segment_backward_loops),
    vectorized=Body(vectorized.segment_forward_vectorized, vectorized.segment_backward_vectorized),
    tuned=Body(tuned.segment_forward_tuned, tuned.segment_backward_tuned),
    cuda=Body(cuda.segment_forward_cuda, cuda.segment_backward_cuda),
    check=check_segment,
    check_values=check_segment_values,
    samples=segment_samples,
    bad_inputs=segment_bad,
    bench_samples=segment_bench,
    flops=lambda x, *_, **__: int(x.size),
    jvp=segment_jvp,
    gradient=piecewise_linear,
    constants=frozenset({1}),
    tolerance=512,
    mutants=(
        mutant("missing +=", "y[index[e], f] += x[e, f]", "y[index[e], f] = x[e, f]"),
        mutant("mean not divided", "y[i, f] /= count[i]", "y[i, f] /= 1"),
        mutant("maximum against 0", "if argmax[i, f] < 0 or better", "if better"),
        mutant("gradient of a mean not divided", "dy[index[e], f] / count[index[e]] if mean",
               "dy[index[e], f] if mean"),
        mutant("gradient at the first", "dx[argmax[i, f], f] = dy", "dx[argmax[i, f] * 0, f] = dy"),
        slow("mean not divided", "(1 / np.maximum(count, 1)).astype", "np.ones(n).astype"),
        slow("maximum against 0", "= x[at + f], row\n", "= typed(0, x[0]), row\n"),
        slow("last edge left out of a maximum", "e + 1, end):", "e + 1, end - 1):"),
        slow("second edge left out of a maximum", "later in range(e + 1", "later in range(e + 2"),
        slow("gradient for all", "dy[at + f] if argmax[at + f] == e else",
             "dy[at + f] if argmax[at + f] >= 0 else"),
        slow("factor of another row", "by[index[e]]\n", "by[0]\n"),
    ),
)  # fmt: skip
spmm = Op(
    name="spmm",
    loops=Body(loops.spmm_forward_loops, loops.spmm_backward_loops),
    vectorized=Body(vectorized.spmm_forward_vectorized, vectorized.spmm_backward_vectorized),
    tuned=Body(tuned.spmm_forward_tuned, tuned.spmm_backward_tuned),
    cuda=Body(cuda.spmm_forward_cuda, cuda.spmm_backward_cuda),
    check=check_spmm,
    check_values=check_spmm_values,
    samples=spmm_samples,
    bad_inputs=spmm_bad,
    bench_samples=spmm_bench,
    flops=lambda indptr, indices, values, x: 2 * int(values.size) * int(x.shape[1]),
    jvp=spmm_jvp,
    gradient=multilinear(2, 3),
    constants=frozenset({0, 1}),
    tolerance=512,
    mutants=(
        mutant("value forgotten", "y[i, f] += values[e] * x", "y[i, f] += x"),
        mutant("missing +=", "dvalues[e] += dy", "dvalues[e] = dy"),
        mutant("not transposed", "dx[indices[e], f] += values[e] * dy[i, f]",
               "dx[i % dx.shape[0], f] += values[e] * dy[i, f]"),
        mutant("last value left out", "range(indptr[i], indptr[i + 1]):\n            for f in range(y",
               "range(indptr[i], indptr[i + 1] - 1):\n            for f in range(y"),
        slow("a row of four with the value of another", "v3 * x[x3 + f]", "v2 * x[x3 + f]"),
        slow("sum not cleared", "y[o + f] = typed(0, values[0])", "pass"),
        slow("values not sorted along", "values[order], dy", "values, dy"),
        slow("rows not sorted along", "np.diff(indptr))[order]", "np.diff(indptr))"),
        slow("product with another row", "x, U(indices[e] * F), F)", "x, U(indices[0] * F), F)"),
        slow("last share short", "min(first + share, indptr.size - 1), dv",
             "min(first + share, indptr.size - 2), dv"),
    ),
)  # fmt: skip
OPS_HERE = (index_select, segment, spmm)
