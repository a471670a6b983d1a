"""Negative log-likelihood of labels under given log-probabilities (as log_softmax makes them).

    l_i = - w_t x_it        dx_ik = - g_i w_t where k = t, 0 elsewhere        t the label of row i

x is (N, C), float32 or float64; labels are integers (N,), class weights w are (C,), 1 if left out. Rows whose
label is ``ignore_index`` cost nothing and have no gradient. ``reduction`` makes of the l_i their "sum",
"none" (all, shape (N,)) or "mean", the sum over the sum of the weights w_t of all rows that count (NaN if
none does). Only x has a gradient. Bishop, Pattern Recognition and Machine Learning, 2006, 4.3.4.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, or_empty, zeros
from nnkernels.machine.gpu_array import empty as device_empty
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import at, kernel
from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, prange, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.integers_cuda import as_int64 as device_int64
from nnkernels.ops.losses.labels import (
    IGNORE,
    as_int64,
    check_labels,
    check_labels_shape,
    check_options,
    ones,
    reduced_by_weight,
    row_factors,
    row_weights,
    sum_of_weights,
)
from nnkernels.ops.losses.labels_cuda import label_weight, weighted_mean
from nnkernels.ops.losses.labels_cuda import sum_of_weights as device_sum_of_weights
from nnkernels.ops.losses.reduction import REDUCTIONS, add_up, sum_into
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import fail_type, floats, is_array, rank

Inputs = tuple[Array, ...]
Grads = tuple[Array | None, ...]


def weight_of(inputs: Inputs) -> Array | None:
    return inputs[2] if len(inputs) == 3 else None


# --- loops ---


@jit
def forward_kernel(x: Array, labels: Array, of_row: Array, loss: Array) -> None:
    for i in range(x.shape[0]):
        loss[i] = 0
        for k in range(x.shape[1]):
            if k == labels[i] and of_row[i] != 0:
                loss[i] = -of_row[i] * x[i, k]


@jit
def backward_kernel(g: Array, labels: Array, of_row: Array, dx: Array) -> None:
    for i in range(dx.shape[0]):
        for k in range(dx.shape[1]):
            dx[i, k] = -g[i] * of_row[i] if k == labels[i] else 0


def forward_loops(
    x: Array, labels: Array, weight: Array | None = None, reduction: str = "mean", ignore_index: int = IGNORE
) -> tuple[Array]:
    loss, of_row = np.empty(len(x), x.dtype), row_weights(labels, weight, ignore_index, x.dtype)
    forward_kernel(x, as_int64(labels), of_row, loss)
    if reduction == "none":
        return (loss,)
    n = np.float64(add_up(of_row)) if reduction == "mean" else 1.0
    with np.errstate(invalid="ignore"):
        return (np.asarray(add_up(loss) / n, x.dtype),)


def backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: tuple[bool, ...], reduction: str = "mean",
    ignore_index: int = IGNORE,
) -> Grads:  # fmt: skip
    if not needs[0]:
        return (None,) * len(inputs)
    x, labels, dx = inputs[0], inputs[1], np.empty(inputs[0].shape, inputs[0].dtype)
    of_row = row_weights(labels, weight_of(inputs), ignore_index, x.dtype)
    backward_kernel(
        row_factors(dy, reduction, labels, ignore_index, add_up(of_row)), as_int64(labels), of_row, dx
    )
    return dx, *(None,) * (len(inputs) - 1)


# --- vectorized ---


def places(labels: Array, ignore_index: int) -> tuple[Array, Array]:
    """Return the rows that count, and their labels."""
    rows = np.flatnonzero(labels != ignore_index)
    return rows, labels[rows].astype(np.int64)


def forward_vectorized(
    x: Array, labels: Array, weight: Array | None = None, reduction: str = "mean", ignore_index: int = IGNORE
) -> tuple[Array]:
    of_row, at = row_weights(labels, weight, ignore_index, x.dtype), places(labels, ignore_index)
    loss = np.zeros(len(x), x.dtype)
    loss[at[0]] = -of_row[at[0]] * x[at]
    if reduction == "none":
        return (loss,)
    with np.errstate(invalid="ignore"):
        return (np.asarray(loss.sum() / (of_row.sum() if reduction == "mean" else 1)),)


def backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: tuple[bool, ...], reduction: str = "mean",
    ignore_index: int = IGNORE,
) -> Grads:  # fmt: skip
    if not needs[0]:
        return (None,) * len(inputs)
    x, labels, dx = inputs[0], inputs[1], np.zeros_like(inputs[0])
    of_row, at = row_weights(labels, weight_of(inputs), ignore_index, x.dtype), places(labels, ignore_index)
    dx[at] = (-row_factors(dy, reduction, labels, ignore_index, of_row.sum()) * of_row)[at[0]]
    return dx, *(None,) * (len(inputs) - 1)


# --- tuned: forward reads one number of each row, backward writes all; bound: memory ---


@jit_elementwise
def tuned_forward(
    x: Array, n: int, labels: Array, w: Array, ignore: int, mean: bool, loss: Array, y: Array
) -> None:  # fmt: skip
    for i in range(loss.size):
        k = labels[i]
        loss[i] = typed(0, x[0]) if k == ignore else -w[k] * x[i * n + k]
    n_rows = sum_of_weights(labels, w, ignore) if mean else np.float64(1)
    sum_into(loss, typed(np.float64(1) / n_rows, w[0]), y)


@jit_elementwise
def tuned_backward(
    dy: Array, n: int, labels: Array, w: Array, ignore: int, scale: Any, dx: Array
) -> None:  # fmt: skip
    dx[:] = 0
    for i in range(labels.size):
        k = labels[i]
        if k != ignore:
            dx[i * n + k] = -scale * (dy[i] if dy.size > 1 else dy[0]) * w[k]


@jit_parallel
def tuned_backward_parallel(
    dy: Array, n: int, share: int, labels: Array, w: Array, ignore: int, scale: Any, dx: Array
) -> None:
    for c in prange((labels.size + share - 1) // share):
        i, j = c * share, (c + 1) * share
        g = dy[i:j] if dy.size > 1 else dy
        tuned_backward(g, n, labels[i:j], w, ignore, scale, dx[i * n : j * n])


def forward_tuned(
    x: Array, labels: Array, weight: Array | None = None, reduction: str = "mean", ignore_index: int = IGNORE
) -> tuple[Array]:
    (rows, n), dtype = x.shape, x.dtype
    loss, y = empty((rows,), dtype), empty((), dtype)
    w = ones(n, dtype) if weight is None else weight
    tuned_forward(x.ravel(), n, as_int64(labels), w, ignore_index, reduction == "mean", loss, y.ravel())
    return (loss if reduction == "none" else y,)


def backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: tuple[bool, ...], reduction: str = "mean",
    ignore_index: int = IGNORE,
) -> Grads:  # fmt: skip
    if not needs[0]:
        return (None,) * len(inputs)
    (rows, n), dtype = inputs[0].shape, inputs[0].dtype
    labels, weight, dx = as_int64(inputs[1]), weight_of(inputs), empty(inputs[0].shape, dtype)
    w = ones(n, dtype) if weight is None else weight
    total = sum_of_weights(labels, w, ignore_index) if reduction == "mean" else 1.0
    rest = labels, w, ignore_index, dtype.type(1 / total if total else math.inf), dx.ravel()
    if dx.size < SERIAL_BELOW_IF_CHEAP:
        tuned_backward(dy.ravel(), n, *rest)
    else:
        tuned_backward_parallel(dy.ravel(), n, share_of(rows, n), *rest)
    return dx, *(None,) * (len(inputs) - 1)


# --- cuda: a thread for each row; bound: memory, dx is cleared and one number of each row written ---


@kernel
def rows_kernel(
    x: Array, n: int, labels: Array, w: Array, ignore: int, loss: Array, of_row: Array
) -> None:  # fmt: skip
    """Write the losses and, if ``of_row`` is given, the weights; NaN where a label is no class."""
    i = thread_number()
    if i < labels.size:
        label = labels[at(i)]
        lost = weight = label_weight(label, w, n, ignore)
        if weight == weight and weight != x.dtype.type(0):
            lost = -weight * x[at(i * n + label)]
        loss[at(i)] = lost
        if of_row.size > 0:
            of_row[at(i)] = weight


@kernel
def rows_backward_kernel(
    dy: Array, divisor: Array, n: int, labels: Array, w: Array, ignore: int, dx: Array
) -> None:  # fmt: skip
    """Write -g_i w_t to dx at each row's label; NaN to the row's first place where it is no class."""
    i = thread_number()
    if i < labels.size:
        label = labels[at(i)]
        g = -label_weight(label, w, n, ignore) * (dy[at(i)] if dy.size > 1 else dy[0])
        if divisor.size > 0:
            g /= divisor[0]
        if label != ignore:
            dx[at(i * n + (label if label >= 0 and label < n else 0))] = g


def forward_cuda(
    x: GpuArray, labels: GpuArray, weight: GpuArray | None = None, reduction: str = "mean",
    ignore_index: int = IGNORE,
) -> tuple[GpuArray]:  # fmt: skip
    rows, n = x.shape
    w = or_empty(weight, x)
    loss = device_empty((rows,), x.dtype, x.device)
    of_row = device_empty((rows if reduction == "mean" else 0,), x.dtype, x.device)
    rows_kernel[grid_of(rows)](x, n, device_int64(labels), w, ignore_index, loss, of_row)
    return (loss if reduction == "none" else weighted_mean(loss, of_row),)


def backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray, ...], needs: tuple[bool, ...],
    reduction: str = "mean", ignore_index: int = IGNORE,
) -> tuple[GpuArray | None, ...]:  # fmt: skip
    if not needs[0]:
        return (None,) * len(inputs)
    x, labels, (rows, n) = inputs[0], device_int64(inputs[1]), inputs[0].shape
    w, divisor = or_empty(inputs[2] if len(inputs) == 3 else None, x), or_empty(None, x)
    if reduction == "mean":
        divisor = device_sum_of_weights(labels, n, w, ignore_index)
    dx = zeros(x.shape, x.dtype, x.device)
    rows_backward_kernel[grid_of(rows)](dy, divisor, n, labels, w, ignore_index, dx)
    return dx, *(None,) * (len(inputs) - 1)


# --- in ops ---


def nll_formula(
    x: Any, labels: Array, weight: Any = None, reduction: str = "mean", ignore_index: int = IGNORE
) -> Any:
    of_row = row_weights(labels, None if weight is None else np.asarray(weight), ignore_index, x.dtype)
    q = np.zeros(x.shape, x.dtype)
    rows = np.flatnonzero(of_row)
    q[rows, labels[rows]] = of_row[rows]
    terms = -(x * q).sum(1)
    return reduced_by_weight(terms, reduction, of_row)


# --- records ---

NAME = "nll_loss"


def check(
    x: Array, labels: Array, weight: Array | None = None, reduction: Any = "mean", ignore_index: Any = IGNORE
) -> None:
    floats(NAME, x=x)
    rank(NAME, "x", x, 2, "(N, C)")
    if not is_array(labels) or labels.dtype.kind not in "iu":
        fail_type(NAME, "targets", labels, "an array of integer labels")
    check_labels_shape(NAME, x, labels, "x")
    check_options(NAME, "x", x, weight, reduction, ignore_index)


def check_values(
    x: Array, labels: Array, weight: Array | None = None, ignore_index: int = IGNORE, **_: Any
) -> None:
    check_labels(NAME, labels, x.shape[1], ignore_index)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    x, w = np.asarray(rng.uniform(-5, 0, (4, 7)), dtype), np.asarray(rng.uniform(0.2, 2, 7), dtype)
    labels = np.array([6, 0, -100, 3])
    for reduction in REDUCTIONS:
        how: dict[str, Any] = {"reduction": reduction}
        yield Sample(f"plain, {reduction}", (x, np.array([6, 0, 0, 3])), how)
        yield Sample(f"weights, {reduction}", (x, labels, w), how)
        yield Sample(
            f"ignored 0, {reduction}", (x, np.array([6, 0, 0, 3], np.uint8), w), {**how, "ignore_index": 0}
        )
    yield Sample("no weights, one ignored", (x, labels))
    yield Sample("one example", (x[:1], labels[:1].astype(np.int32)), {"reduction": "none"})
    yield Sample("one class", (x[:, :1].copy(), np.zeros(4, np.int64)))
    for reduction in ("sum", "none"):
        yield Sample(f"empty batch, {reduction}", (x[:0], labels[:0]), {"reduction": reduction})


def bad_inputs() -> Iterator[BadInput]:
    x, labels = np.ones((3, 4)), np.array([0, 1, 3])
    words = "from 0 to 3 (4 classes) or ignore_index -100, got 4 at position 1"
    yield BadInput(ValueError, words, (x, np.array([0, 4, 2])))
    yield BadInput(ValueError, "got -100 at position 2", (x, np.array([0, 1, -100])), {"ignore_index": 0})
    yield BadInput(TypeError, "targets must be an array of integer labels, got float64", (x, np.ones(3)))
    yield BadInput(TypeError, "targets must be an array of integer labels, got list", (x, [0, 1, 3]))
    yield BadInput(TypeError, "x must be float32 or float64", (np.ones((3, 4), int), labels))
    yield BadInput(ValueError, "must have shape (3,) to go with x (3, 4), got (2,)", (x, labels[:2]))
    yield BadInput(ValueError, "x must have 2 axes (N, C), got shape (4,)", (x[0], labels))
    yield BadInput(ValueError, "empty batch", (x[:0], labels[:0]))
    yield BadInput(ValueError, "at least one class", (x[:, :0], labels))
    yield BadInput(ValueError, "reduction must be one of mean, sum, none", (x, labels), {"reduction": "avg"})
    yield BadInput(ValueError, "weight must have shape (4,)", (x, labels, np.ones((4, 1))))
    yield BadInput(TypeError, "x and weight must have one dtype", (x, labels, np.ones(4, np.float32)))
    yield BadInput(TypeError, "ignore_index must be an int", (x, labels), {"ignore_index": None})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for rows, classes in ((3000, 101), (64, 10), (4096, 1000)):
        x = np.asarray(rng.uniform(-5, 0, (rows, classes)), dtype)
        yield Sample(f"{rows}x{classes}", (x, rng.integers(0, classes, rows)))


def jvp(
    tangents: tuple[Array, ...], outputs: tuple[Array], inputs: Inputs, reduction: str = "mean",
    ignore_index: int = IGNORE,
) -> Array:  # fmt: skip
    # Linear in x.
    labels, weight = inputs[1], weight_of(inputs)
    return forward_vectorized(tangents[0], labels, weight, reduction, ignore_index)[0]


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "nll_loss.py", old, new)


nll_loss = Op(
    name=NAME,
    loops=Body(forward_loops, backward_loops),
    vectorized=Body(forward_vectorized, backward_vectorized),
    tuned=Body(forward_tuned, backward_tuned),
    cuda=Body(forward_cuda, backward_cuda),
    check=check,
    check_values=check_values,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, *_, **__: 2 * len(x),
    jvp=jvp,
    gradient=by_formula(nll_formula),
    constants=frozenset({1, 2}),
    mutants=(
        mutant("likelihood, not negative", "loss[i] = -of_row[i] * x[i, k]", "loss[i] = of_row[i] * x[i, k]"),
        mutant("gradient without weights", "-g[i] * of_row[i] if", "-g[i] if"),
        mutant("mean over all rows", "np.float64(add_up(of_row)) if reduction", "len(x) if reduction"),
        mutant("rows as long as the batch", "-w[k] * x[i * n + k]", "-w[k] * x[i * loss.size + k]", "tuned"),
        mutant("ignored rows have a gradient", "if k != ignore:", "if True:", "tuned"),
        mutant("old gradients left", "dx[:] = 0", "pass", "tuned"),
        mutant("labels of the first part for all", "n, labels[i:j], w, ignore",
               "n, labels[: j - i], w, ignore",
               "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (nll_loss,)
