"""Softmax cross-entropy: the loss of a classifier with C classes.

    l_i = - sum over k of q_ik ln p_ik        dx_ik = g_i (p_ik sum(q_i) - q_ik)        p = softmax(x)

Logits x are (N, C), float32 or float64. Targets t are integer labels (N,), read as t_ik = 1 where k is the
label and 0 elsewhere, or float probabilities (N, C), one-hot rows among them. What counts is

    q_ik = w_k ((1 - e) t_ik + e / C)

with class weights w (C,), 1 if left out, and ``label_smoothing`` e, which moves a part of the targets to
all classes (Szegedy et al., Rethinking the Inception Architecture, 2016). Rows whose label is
``ignore_index`` have q_ik = 0. ``reduction`` makes of the l_i their "mean" (g = dy / n), their "sum"
(g = dy) or "none", shape (N,) (g_i = dy_i). For labels, n is the sum of the weights of the labels of all
rows that count (NaN is the mean of none); for probabilities, n = N.

ln p_ik is taken as x_ik - m_i - ln s_i, with m the row's maximum and s the
row's sum of e^(x - m): no power overflows, no p of 0 reaches a logarithm (Bishop, Pattern Recognition and
Machine Learning, 2006, 4.3.4). Only x has a gradient.

Keeps the probabilities p (N, C) for the backward pass.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.cross_entropy import cuda, loops, tuned, vectorized
from nnkernels.ops.cross_entropy.loops import Pair, effective_targets, with_weight
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.losses.labels import (
    IGNORE,
    check_labels,
    check_labels_shape,
    check_options,
    reduced_by_weight,
)
from nnkernels.ops.losses.reduction import REDUCTIONS
from nnkernels.ops.op import BadInput, Mutant, Op, Sample
from nnkernels.ops.softmax import log_softmax
from nnkernels.ops.validate import fail_type, floats, is_array, number, rank

# --- in ops ---


def cross_entropy_formula(
    logits: Any, targets: Any, weight: Any = None, reduction: str = "mean", ignore_index: int = IGNORE,
    label_smoothing: float = 0.0,
) -> Any:  # fmt: skip
    given: Any = [None if a is None else np.asarray(a) for a in (logits, targets, weight)]
    q, of_row = effective_targets(*with_weight(given), ignore_index, label_smoothing)
    terms = -(log_softmax(logits, dim=1) * q).sum(1)
    return reduced_by_weight(terms, reduction, of_row)


# --- records ---

NAME = "softmax_cross_entropy"


def wanted_targets(logits: Array) -> str:
    return f"integer labels (N,) or {logits.dtype} probabilities (N, C)"


def check(
    logits: Array, targets: Array, weight: Array | None = None, reduction: Any = "mean",
    ignore_index: Any = IGNORE, label_smoothing: Any = 0.0,
) -> None:  # fmt: skip
    floats(NAME, logits=logits)
    rank(NAME, "logits", logits, 2, "(N, C)")
    if not is_array(targets):
        fail_type(NAME, "targets", targets, "a NumPy array or a Tensor")
    if targets.dtype.kind in "iu":
        check_labels_shape(NAME, logits, targets, "logits")
    elif targets.dtype.kind != "f" or targets.ndim == 1:
        fail_type(NAME, "targets", targets, wanted_targets(logits))
    else:
        floats(NAME, logits=logits, targets=targets)
        if targets.shape != logits.shape:
            raise ValueError(f"{NAME}: targets must be {wanted_targets(logits)} to go with logits "
                             f"{logits.shape}, got shape {targets.shape}")  # fmt: skip
    check_options(NAME, "logits", logits, weight, reduction, ignore_index)
    number(NAME, "label_smoothing", label_smoothing)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{NAME}: label_smoothing must be from 0 to 1, got {label_smoothing!r}")
    if targets.ndim == 2 and ignore_index >= 0:
        raise ValueError(f"{NAME}: ignore_index names a label to ignore, there are none among probabilities; "
                         f"leave it out, got {ignore_index}")  # fmt: skip


def check_values(
    logits: Array, targets: Array, weight: Array | None = None, ignore_index: int = IGNORE, **_: Any
) -> None:
    if targets.ndim == 1:
        check_labels(NAME, targets, logits.shape[1], ignore_index)
    elif not math.isfinite(targets.sum()):
        bad = np.argwhere(~np.isfinite(targets))
        if len(bad):  # finite numbers may have an infinite sum
            where = tuple(bad[0].tolist())
            raise ValueError(f"{NAME}: targets must be finite, got {targets[where]} at position {where}")


def probabilities(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
    t = rng.uniform(0, 1, shape)
    t[:, :1] = 0  # a class that is ruled out
    return np.asarray(t / (t.sum(axis=1, keepdims=True) + 0.1), dtype)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for reduction in REDUCTIONS:
        x = np.asarray(rng.uniform(-3, 3, (5, 10)), dtype)
        attributes = {"reduction": reduction}
        yield Sample(f"labels, {reduction}", (x, rng.integers(0, 10, 5)), attributes)
        yield Sample(f"probabilities, {reduction}", (x, probabilities(rng, (5, 10), dtype)), attributes)
    x = np.asarray(rng.uniform(-3, 3, (4, 19)), dtype)
    yield Sample("labels uint8", (x, np.array([18, 0, 3, 3], np.uint8)))
    yield Sample("one example", (x[:1], np.array([7], np.int32)), {"reduction": "none"})
    yield Sample("one class", (x[:, :1].copy(), np.zeros(4, np.int64)))
    for reduction in ("sum", "none"):
        yield Sample(f"empty batch, {reduction}", (x[:0], np.zeros(0, np.int64)), {"reduction": reduction})
    x, w = np.asarray(rng.uniform(-3, 3, (4, 7)), dtype), np.asarray(rng.uniform(0.2, 2, 7), dtype)
    w[2] = 0
    labels, t = np.array([0, 3, -100, 6]), probabilities(rng, (4, 7), dtype)
    for reduction in REDUCTIONS:
        how: dict[str, Any] = {"reduction": reduction}
        yield Sample(f"weights, {reduction}", (x, labels, w), how)
        how["label_smoothing"] = 0.3
        given = x, np.array([0, 3, 2, 6]), w
        yield Sample(f"smoothed, {reduction}", given, {**how, "ignore_index": 3})
        yield Sample(f"smoothed probabilities, {reduction}", (x, t, w), how)
    yield Sample("smoothed, no weights", (x, labels), {"label_smoothing": 0.1})
    yield Sample("all ignored", (x, np.full(4, -100)), {"reduction": "sum"})


def bad_inputs() -> Iterator[BadInput]:
    x, labels, p = np.ones((3, 4)), np.array([0, 1, 3]), np.full((3, 4), 0.25)
    words = "from 0 to 3 (4 classes) or ignore_index -100, got 4 at position 1"
    yield BadInput(ValueError, words, (x, np.array([0, 4, 2])))
    yield BadInput(ValueError, "got -1 at position 2", (x, np.array([0, 1, -1])))
    yield BadInput(ValueError, "got -1 at position 0", (x, np.array([-1, 1, 1], np.int8)))
    yield BadInput(ValueError, "got -100 at position 1", (x, np.array([0, -100, 2])), {"ignore_index": 0})
    yield BadInput(TypeError, "integer labels (N,) or float64 probabilities (N, C)", (x, np.ones(3)))
    yield BadInput(TypeError, "got bool array of shape (3,)", (x, np.ones(3, bool)))
    yield BadInput(TypeError, "one dtype, got float64 and float32", (x, p.astype(np.float32)))
    yield BadInput(TypeError, "targets must be a NumPy array", (x, [0, 1, 3]))
    yield BadInput(TypeError, "logits must be float32 or float64", (np.ones((3, 4), int), labels))
    yield BadInput(ValueError, "must have shape (3,) to go with logits (3, 4), got (2,)", (x, labels[:2]))
    yield BadInput(ValueError, "must have shape (3,)", (x, np.ones((3, 4), int)))
    yield BadInput(ValueError, "with logits (3, 4), got shape (4, 3)", (x, np.full((4, 3), 0.25)))
    nan = p.copy()
    nan[2, 1] = np.nan
    yield BadInput(ValueError, "targets must be finite, got nan at position (2, 1)", (x, nan))
    yield BadInput(ValueError, "logits must have 2 axes (N, C), got shape (4,)", (x[0], labels))
    yield BadInput(ValueError, "empty batch", (x[:0], labels[:0]))
    yield BadInput(ValueError, "at least one class", (x[:, :0], labels))
    yield BadInput(ValueError, "reduction must be one of mean, sum, none", (x, labels), {"reduction": "avg"})
    yield BadInput(ValueError, "weight must have shape (4,), a number for each", (x, labels, np.ones(3)))
    yield BadInput(TypeError, "logits and weight must have one dtype", (x, labels, np.ones(4, np.float32)))
    yield BadInput(TypeError, "weight must be a NumPy array", (x, labels, "none"))
    yield BadInput(
        ValueError, "label_smoothing must be from 0 to 1, got 1.5", (x, p), {"label_smoothing": 1.5}
    )
    yield BadInput(TypeError, "label_smoothing must be a number", (x, p), {"label_smoothing": None})
    yield BadInput(TypeError, "ignore_index must be an int", (x, labels), {"ignore_index": 1.0})
    yield BadInput(ValueError, "none among probabilities", (x, p), {"ignore_index": 2})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for rows, classes, factor in ((500, 101, 3333), (64, 10, 1), (4096, 1000, 1)):
        x = np.asarray(rng.uniform(-3, 3, (rows, classes)) * factor, dtype)  # first: e^x alone overflows
        yield Sample(f"{rows}x{classes} labels", (x, rng.integers(0, classes, rows)))
    x = np.asarray(rng.uniform(-3, 3, (3, 10007)), dtype)
    yield Sample("3x10007 labels", (x, rng.integers(0, 10007, 3)))
    t = probabilities(rng, (500, 101), dtype)
    x = np.asarray(rng.uniform(-3, 3, t.shape), dtype)
    yield Sample("500x101 probabilities", (x, t))
    yield Sample("500x101 labels, smoothed", (x, rng.integers(0, 101, 500)), {"label_smoothing": 0.1})


def jvp(
    tangents: tuple[Array, ...], outputs: Pair, inputs: tuple[Array, ...], reduction: str = "mean",
    ignore_index: int = IGNORE, label_smoothing: float = 0.0,
) -> Array:  # fmt: skip
    q, of_row = effective_targets(*with_weight(inputs), ignore_index, label_smoothing)
    slope = outputs[1] * q.sum(axis=1, keepdims=True) - q
    moved = (slope * tangents[0]).sum(axis=1)
    if reduction == "none":
        return np.asarray(moved)
    return np.asarray(moved.sum() / (of_row.sum() if reduction == "mean" else 1))


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in a body's file."""
    return Mutant(name, body, f"cross_entropy/{body}.py", old, new)


softmax_cross_entropy = Op(
    name=NAME,
    loops=loops.BODY,
    vectorized=vectorized.BODY,
    tuned=tuned.BODY,
    cuda=cuda.BODY,
    check=check,
    check_values=check_values,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda logits, *_, **__: 20 * int(logits.size),
    jvp=jvp,
    gradient=by_formula(cross_entropy_formula),
    constants=frozenset({1, 2}),
    mutants=(
        mutant("targets' sum forgotten", "(p[i, k] * weight_of_row - q[i, k])", "(p[i, k] - q[i, k])"),
        mutant("maximum not subtracted", "(x[i, k] - m - np.log(s))", "(x[i, k] - np.log(s))"),
        mutant("mean not divided by n", "add_up(loss) / n,", "add_up(loss),"),
        mutant("label not subtracted", "dx[a + np.uint64(labels[i])] -= g * own", "pass", "tuned"),
        mutant("label of the row before", "k = labels[i]", "k = labels[i - 1]", "tuned"),
        mutant("row's cotangent forgotten", "dy[i] if dy.size > 1 else dy[0]", "dy[0]", "tuned"),
        mutant("rows of the first part for all", "part, p[i:j], loss[first:last])",
               "part, p[i:j], loss[: last - first])", "tuned"),
        mutant("targets' sum forgotten, tuned", "g * (p[a + k] * full - w", "g * (p[a + k] - w", "tuned"),
        mutant("maximum forgotten", "(x[i * n + k] - top[i])", "x[i * n + k]", "tuned"),
        mutant("smoothing without weights", "dx[a + k] -= g * part * w[k]", "dx[a + k] -= g * part", "tuned"),
        mutant("smoothing adds, takes nothing away", "loss[i] = keep * w[k]", "loss[i] = w[k]", "tuned"),
        mutant("mean over all rows", "(sum_of_weights(labels, w, ignore) if", "(np.float64(rows) if",
               "tuned"),
        mutant("ignored rows have a gradient", "elif labels[i] == ignore:", "elif False:", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (softmax_cross_entropy,)
