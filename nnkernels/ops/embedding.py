"""Table lookup: y[n, d] = w[i[n], d].

    i (...) int64   w (V, D)   y (..., D)        dw[v, d] = sum over n with i[n] = v of dy[n, d]

The row ``padding_idx`` of w takes part in y, but its gradient is 0: what stands for "no word" is not learnt.
Mikolov et al., Efficient Estimation of Word Representations in Vector Space, 2013.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty_like, zeros
from nnkernels.machine.gpu_array import empty as device_empty
from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, prange, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import U
from nnkernels.machine.threads import SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.gradients import linear
from nnkernels.ops.graph.cuda import add_rows as add_sorted_rows
from nnkernels.ops.graph.cuda import gather
from nnkernels.ops.graph.sorting import sorted_by
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import fail_type, floats, is_array, rank

NAME = "embedding"
Inputs = tuple[Array, Array]
Needs = tuple[bool, bool]
NO_PADDING = -1
MOST_RANGES = 16  # of rows of dw, each a task that looks through all indices


def padding_row(w: Array, padding_idx: int | None) -> int:
    """Return the row without a gradient, counted from the front; NO_PADDING if there is none."""
    return NO_PADDING if padding_idx is None else int(padding_idx) % len(w)


# --- loops ---


@jit
def forward_kernel(index: Array, w: Array, y: Array) -> None:
    for n in range(index.size):
        for d in range(w.shape[1]):
            y[n, d] = w[index[n], d]


@jit
def backward_kernel(dy: Array, index: Array, padding: int, dw: Array) -> None:
    for n in range(index.size):
        if index[n] != padding:
            for d in range(dw.shape[1]):
                dw[index[n], d] += dy[n, d]


def embedding_forward_loops(index: Array, w: Array, *, padding_idx: int | None = None) -> tuple[Array]:
    y = np.empty((*index.shape, w.shape[1]), w.dtype)
    forward_kernel(index.reshape(-1), w, y.reshape(index.size, w.shape[1]))
    return (y,)


def embedding_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, padding_idx: int | None = None
) -> tuple[None, Array | None]:
    (index, w), rows = inputs, dy.reshape(inputs[0].size, dy.shape[-1])
    dw = np.zeros_like(w)
    backward_kernel(rows, index.reshape(-1), padding_row(w, padding_idx), dw)
    return None, dw if needs[1] else None


# --- vectorized ---


def embedding_forward_vectorized(index: Array, w: Array, *, padding_idx: int | None = None) -> tuple[Array]:
    return (w[index],)


def embedding_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, padding_idx: int | None = None
) -> tuple[None, Array | None]:
    if not needs[1]:
        return None, None
    index, w = inputs
    dw = np.zeros_like(w)
    np.add.at(dw, index.reshape(-1), dy.reshape(index.size, dy.shape[-1]))
    if padding_idx is not None:
        dw[padding_idx] = 0
    return None, dw


# --- tuned: bound by memory; forward reads and writes rows, backward writes all of dw ---


@jit_elementwise
def copy_rows(index: Array, w: Array, D: int, first: int, last: int, y: Array) -> None:
    for n in range(first, last):
        i, o = U(index[n] * D), U(n * D)
        for d in range(U(D)):
            y[o + d] = w[i + d]


@jit_parallel
def copy_parallel(index: Array, w: Array, D: int, share: int, y: Array) -> None:
    for c in prange((index.size + share - 1) // share):
        n = signed(c) * share
        copy_rows(index, w, D, n, min(n + share, index.size), y)


@jit_elementwise
def add_rows(dy: Array, index: Array, padding: int, D: int, first: int, last: int, dw: Array) -> None:
    """Write rows first to last - 1 of dw: each sum in the order in which its index occurs."""
    for d in range(U(first * D), U(last * D)):
        dw[d] = 0
    for n in range(index.size):
        v = index[n]
        if first <= v < last and v != padding:
            i, o = U(n * D), U(v * D)
            for d in range(U(D)):
                dw[o + d] += dy[i + d]


@jit_parallel
def add_parallel(dy: Array, index: Array, padding: int, D: int, share: int, dw: Array) -> None:
    V = dw.size // D
    for c in prange((V + share - 1) // share):
        v = signed(c) * share
        add_rows(dy, index, padding, D, v, min(v + share, V), dw)


def embedding_forward_tuned(index: Array, w: Array, *, padding_idx: int | None = None) -> tuple[Array]:
    D = w.shape[1]
    y = empty((*index.shape, D), w.dtype)
    flat = index.reshape(-1), w.reshape(-1), D
    if y.size < SERIAL_BELOW_IF_CHEAP:
        copy_rows(*flat, 0, index.size, y.reshape(-1))
    else:
        copy_parallel(*flat, share_of(index.size, D), y.reshape(-1))
    return (y,)


def embedding_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, padding_idx: int | None = None
) -> tuple[None, Array | None]:
    if not needs[1]:
        return None, None
    index, w = inputs
    V, D = w.shape
    dw = empty(w.shape, w.dtype)
    given = dy.reshape(-1), index.reshape(-1), padding_row(w, padding_idx), D
    if dy.size + w.size < SERIAL_BELOW_IF_CHEAP:
        add_rows(*given, 0, V, dw.reshape(-1))
    else:
        add_parallel(*given, -(-V // MOST_RANGES), dw.reshape(-1))
    return None, dw


# --- cuda: rows gathered, and added up in the order of their index; bound by memory ---


def embedding_forward_cuda(
    index: GpuArray, w: GpuArray, *, padding_idx: int | None = None
) -> tuple[GpuArray]:  # fmt: skip
    """Return the rows; NaN for an index that is none."""
    y = device_empty((*index.shape, w.shape[1]), w.dtype, w.device)
    return (gather(w, index, 1, len(w), w.shape[1], y),)


def embedding_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray, GpuArray], needs: Needs, *,
    padding_idx: int | None = None,
) -> tuple[None, GpuArray | None]:  # fmt: skip
    if not needs[1]:
        return None, None
    index, w = inputs
    if index.size == 0:
        return None, zeros(w.shape, w.dtype, w.device)
    padding = NO_PADDING if padding_idx is None else padding_idx % len(w)
    indptr, order = sorted_by(index, len(w))
    dw = empty_like(w)
    return None, add_sorted_rows(indptr, order, None, None, dy, 1, index.size, dw, skip=padding)


# --- records ---


def check(index: Array, w: Array, *, padding_idx: Any = None) -> None:
    if not is_array(index) or isinstance(index, np.ma.MaskedArray):
        fail_type(NAME, "indices", index, "an int64 array")
    if index.dtype.kind != "i" or index.itemsize != 8:
        fail_type(NAME, "indices", index, "an int64 array")
    floats(NAME, weight=w)
    rank(NAME, "weight", w, 2, "(num_embeddings, embedding_dim)")
    if min(w.shape) == 0:
        raise ValueError(f"{NAME}: weight must have rows and columns, got shape {w.shape}")
    if padding_idx is not None:
        if type(padding_idx) is not int:
            fail_type(NAME, "padding_idx", padding_idx, "an int or None")
        if not -len(w) <= padding_idx < len(w):
            raise ValueError(f"{NAME}: padding_idx must be in [{-len(w)}, {len(w)}), got {padding_idx}")


def check_values(index: Array, w: Array, *, padding_idx: Any = None) -> None:
    if index.size and not 0 <= int(index.min()) <= int(index.max()) < len(w):
        at = tuple(np.argwhere((index < 0) | (index >= len(w)))[0].tolist())
        raise ValueError(
            f"{NAME}: indices must be from 0 to {len(w) - 1} (weight has {len(w)} rows), got {index[at]} "
            f"at position {at}"
        )


def sample(
    rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], V: int, D: int, least: int = 0,
    **attributes: Any,
) -> Sample:  # fmt: skip
    w = np.asarray(rng.standard_normal((V, D)), dtype)
    label = f"{shape} of {V} x {D}" + (f" {attributes}" if attributes else "")
    return Sample(label, (rng.integers(least, V, shape), w), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1,), 1, 1)
    yield sample(rng, dtype, (9,), 4, 3)
    # The padding row stays out: the gradient it is given is not the derivative. It occurs in bench_samples.
    yield sample(rng, dtype, (2, 5), 3, 5, 1, padding_idx=0)
    yield sample(rng, dtype, (2, 2, 3), 5, 2, 1, padding_idx=-5)
    yield Sample("scalar index", (np.array(2), np.asarray(rng.standard_normal((3, 4)), dtype)))
    yield sample(rng, dtype, (0, 3), 3, 2)


def bad_inputs() -> Iterator[BadInput]:
    index, w = np.array([0, 2, 1]), np.ones((3, 4))
    yield BadInput(ValueError, "from 0 to 2 (weight has 3 rows), got 3 at position (1,)", (index * 3 // 2, w))
    yield BadInput(ValueError, "got -1 at position (0, 2)", (np.array([[0, 1, -1]]), w))
    yield BadInput(TypeError, "indices must be an int64 array, got float64", (np.ones(3), w))
    yield BadInput(TypeError, "indices must be an int64 array, got list", ([0, 1], w))
    yield BadInput(TypeError, "got int32 array", (index.astype(np.int32), w))
    yield BadInput(TypeError, "weight must be float32 or float64", (index, w.astype(int)))
    yield BadInput(ValueError, "weight must have 2 axes", (index, w[0]))
    yield BadInput(ValueError, "weight must have rows and columns", (index[:0], w[:0]))
    yield BadInput(ValueError, "padding_idx must be in [-3, 3), got 3", (index, w), {"padding_idx": 3})
    yield BadInput(TypeError, "padding_idx must be an int or None", (index, w), {"padding_idx": 1.0})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (64, 64), 4096, 64, padding_idx=0)
    yield sample(rng, dtype, (32, 128), 20000, 128)


def jvp(
    tangents: tuple[None, Array | None], outputs: tuple[Array], inputs: Inputs, *,
    padding_idx: int | None = None,
) -> Array:  # fmt: skip
    direction = tangents[1]
    return np.zeros_like(outputs[0]) if direction is None else np.asarray(direction[inputs[0]])


def mutant(name: str, old: str, new: str, body: Any = "tuned") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "embedding.py", old, new)


embedding = Op(
    name=NAME,
    loops=Body(embedding_forward_loops, embedding_backward_loops),
    vectorized=Body(embedding_forward_vectorized, embedding_backward_vectorized),
    tuned=Body(embedding_forward_tuned, embedding_backward_tuned),
    cuda=Body(embedding_forward_cuda, embedding_backward_cuda),
    check=check,
    check_values=check_values,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda index, w, **_: 0,
    jvp=jvp,
    gradient=linear,
    constants=frozenset({0}),
    mutants=(
        mutant("missing +=", "dw[index[n], d] += dy[n, d]", "dw[index[n], d] = dy[n, d]", "loops"),
        mutant("position taken for index", "y[n, d] = w[index[n], d]", "y[n, d] = w[n % len(w), d]", "loops"),
        mutant("last row of a share missing", "min(n + share, index.size)", "min(n + share - 1, index.size)"),
        mutant("padding's gradient kept", " and v != padding", ""),
        mutant("missing +=, tuned", "dw[o + d] += dy[i + d]", "dw[o + d] = dy[i + d]"),
        mutant("first row of a range missing", "if first <= v < last", "if first < v < last"),
    ),
)
