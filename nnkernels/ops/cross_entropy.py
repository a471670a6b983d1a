"""Softmax cross-entropy: the loss of a classifier with C classes.

    l_i = - sum over k of t_ik ln p_ik        dx_ik = g_i (p_ik sum(t_i) - t_ik)        p = softmax(x)

Logits x are (N, C), float32 or float64. Targets t are integer labels (N,), read as t_ik = 1 where k is the
label and 0 elsewhere, or float probabilities (N, C), one-hot rows among them. ``reduction`` makes of the l_i
their "mean" (g = dy / N), their "sum" (g = dy) or "none", shape (N,) (g_i = dy_i). ln p_ik is taken as
x_ik - m_i - ln s_i, with m the row's maximum and s the row's sum of e^(x - m): no power overflows, no p of 0
reaches a logarithm (Bishop, Pattern Recognition and Machine Learning, 2006, 4.3.4).

Keeps the probabilities p (N, C) for the backward pass.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.elementary import log as ln
from nnkernels.machine.jit import flag, jit, jit_elementwise, jit_parallel, jit_tuned, prange, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, share_of
from nnkernels.ops.losses import REDUCTIONS, Pair, add_up, gathered, spread, sum_into, weight
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.reduce.tuned import row_sum
from nnkernels.ops.softmax import softmax_rows
from nnkernels.ops.validate import choice, fail_type, floats, rank

# --- loops ---


def as_probabilities(logits: Array, targets: Array) -> Array:
    """Return the targets as (N, C): labels become one-hot rows."""
    if targets.ndim == 2:
        return targets
    t = np.zeros(logits.shape, logits.dtype)
    t[np.arange(len(t)), targets.astype(np.int64)] = 1
    return t


@jit
def cross_entropy_kernel(x: Array, t: Array, loss: Array, p: Array) -> None:
    for i in range(x.shape[0]):
        m = x[i, 0]
        for k in range(x.shape[1]):
            m = max(m, x[i, k])
        s = 0.0
        for k in range(x.shape[1]):
            s += np.exp(x[i, k] - m)
        loss[i] = 0
        for k in range(x.shape[1]):
            p[i, k] = np.exp(x[i, k] - m) / s
            if t[i, k] != 0:  # a class ruled out by a logit of -inf costs nothing where t is 0
                loss[i] -= t[i, k] * (x[i, k] - m - np.log(s))


@jit
def cross_entropy_backward_kernel(g: Array, p: Array, t: Array, dx: Array) -> None:
    for i in range(p.shape[0]):
        weight_of_row = 0.0
        for k in range(p.shape[1]):
            weight_of_row += t[i, k]
        for k in range(p.shape[1]):
            dx[i, k] = g[i] * (p[i, k] * weight_of_row - t[i, k])


def cross_entropy_forward_loops(logits: Array, targets: Array, reduction: str = "mean") -> Pair:
    loss, p = np.empty(len(logits), logits.dtype), np.empty(logits.shape, logits.dtype)
    cross_entropy_kernel(logits, as_probabilities(logits, targets), loss, p)
    if reduction == "none":
        return loss, p
    return np.asarray(add_up(loss) * weight(reduction, loss.size), loss.dtype), p


def cross_entropy_backward_loops(
    dy: Array, outputs: Pair, inputs: Pair, needs: tuple[bool, bool], reduction: str = "mean"
) -> tuple[Array | None, None]:
    if not needs[0]:
        return None, None
    p, t = outputs[1], as_probabilities(*inputs)
    dx = np.empty(p.shape, p.dtype)
    cross_entropy_backward_kernel(spread(dy, reduction, p.shape[:1]), p, t, dx)
    return dx, None


# --- vectorized ---


def cross_entropy_forward_vectorized(logits: Array, targets: Array, reduction: str = "mean") -> Pair:
    with np.errstate(invalid="ignore"):
        moved = logits - logits.max(axis=1, keepdims=True)
        e = np.exp(moved)
        s = e.sum(axis=1, keepdims=True)
        t = as_probabilities(logits, targets)
        terms = np.where(t != 0, t * (np.log(s) - moved), 0).sum(axis=1, dtype=t.dtype)
        return gathered(terms, reduction), e / s


def cross_entropy_backward_vectorized(
    dy: Array, outputs: Pair, inputs: Pair, needs: tuple[bool, bool], reduction: str = "mean"
) -> tuple[Array | None, None]:
    if not needs[0]:
        return None, None
    p, t = outputs[1], as_probabilities(*inputs)
    return spread(dy, reduction, p.shape[:1])[:, None] * (p * t.sum(axis=1, keepdims=True) - t), None


# --- tuned: labels stay labels: of each row only one logarithm is ever read ---


@jit_elementwise
def forward_part(x: Array, n: int, labels: Array, t: Array, p: Array, loss: Array) -> None:
    """Write probabilities and losses of the rows of n logits; either ``labels`` or ``t`` is empty."""
    rows = loss.size
    if rows == 0:
        return
    top, total = np.empty(rows, x.dtype), np.empty(rows, x.dtype)
    softmax_rows(x, n, flag(False), p, top, total)
    for i in range(rows):
        total[i] = ln(total[i])
    if labels.size > 0:
        for i in range(rows):
            loss[i] = total[i] - (x[i * n + labels[i]] - top[i])
    else:
        probability_losses(x, n, t, top, total, loss)


@jit_tuned
def probability_losses(x: Array, n: int, t: Array, top: Array, log_total: Array, loss: Array) -> None:
    size = np.uint64(n)
    for i in range(np.uint64(loss.size)):
        a, shift, log_s, lost = i * size, top[i], log_total[i], typed(0, x[0])
        for k in range(a, a + size):
            lost += t[k] * (log_s - (x[k] - shift)) if t[k] != 0 else typed(0, x[0])
        loss[i] = lost


@jit_elementwise
def forward_serial(
    x: Array, n: int, labels: Array, t: Array, p: Array, loss: Array, scale: Any, y: Array
) -> None:
    forward_part(x, n, labels, t, p, loss)
    sum_into(loss, scale, y)


@jit_parallel
def forward_parallel(
    x: Array, n: int, share: int, labels: Array, t: Array, p: Array, loss: Array, scale: Any, y: Array
) -> None:
    for c in prange((loss.size + share - 1) // share):
        first, last = c * share, (c + 1) * share
        i, j = first * n, last * n
        forward_part(x[i:j], n, labels[first:last], t[i:j], p[i:j], loss[first:last])
    sum_into(loss, scale, y)


@jit_elementwise
def backward_part(dy: Array, scale: Any, p: Array, n: int, labels: Array, t: Array, dx: Array) -> None:
    """Write dx of the rows; dy holds one number for all rows, or one for each."""
    size = np.uint64(n)
    for i in range(np.uint64(p.size // n)):
        a, g = i * size, scale * (dy[i] if dy.size > 1 else dy[0])
        if labels.size > 0:
            for k in range(a, a + size):
                dx[k] = g * p[k]
            dx[a + np.uint64(labels[i])] -= g
        else:
            full = row_sum(t[a : a + size])
            for k in range(a, a + size):
                dx[k] = g * (p[k] * full - t[k])


@jit_parallel
def backward_parallel(
    dy: Array, scale: Any, p: Array, n: int, share: int, labels: Array, t: Array, dx: Array
) -> None:
    for c in prange((p.size + share * n - 1) // (share * n)):
        first, last = c * share, (c + 1) * share
        i, j = first * n, last * n
        g = dy[first:last] if dy.size > 1 else dy
        backward_part(g, scale, p[i:j], n, labels[first:last], t[i:j], dx[i:j])


def kernel_targets(targets: Array, dtype: Any) -> Pair:
    """Return (labels as int64, probabilities flat), one of them empty."""
    if targets.ndim == 1:
        return targets if targets.dtype == np.int64 else targets.astype(np.int64), NO_PROBABILITIES[dtype]
    return NO_LABELS, targets.ravel()


NO_LABELS = np.empty(0, np.int64)
NO_PROBABILITIES = {np.dtype(t): np.empty(0, t) for t in (np.float32, np.float64)}


def cross_entropy_forward_tuned(logits: Array, targets: Array, reduction: str = "mean") -> Pair:
    rows, n = logits.shape
    dtype = logits.dtype
    p, loss, y = empty(logits.shape, dtype), empty((rows,), dtype), empty((), dtype)
    scale = dtype.type(weight(reduction, rows))
    given = *kernel_targets(targets, dtype), p.ravel(), loss, scale, y.ravel()
    if logits.size < SERIAL_BELOW:
        forward_serial(logits.ravel(), n, *given)
    else:
        forward_parallel(logits.ravel(), n, share_of(rows, n), *given)
    return loss if reduction == "none" else y, p


def cross_entropy_backward_tuned(
    dy: Array, outputs: Pair, inputs: Pair, needs: tuple[bool, bool], reduction: str = "mean"
) -> tuple[Array | None, None]:
    if not needs[0]:
        return None, None
    p = outputs[1]
    rows, n = p.shape
    dx = empty(p.shape, p.dtype)
    scale = p.dtype.type(weight(reduction, rows))
    given = *kernel_targets(inputs[1], p.dtype), dx.ravel()
    if p.size < SERIAL_BELOW:
        backward_part(dy.ravel(), scale, p.ravel(), n, *given)
    else:
        backward_parallel(dy.ravel(), scale, p.ravel(), n, share_of(rows, n), *given)
    return dx, None


# --- records ---

NAME = "softmax_cross_entropy"


@jit_elementwise
def all_within(labels: Array, classes: int) -> bool:
    """Whether all labels are from 0 to classes - 1; a few microseconds less than NumPy's min and max."""
    within = True
    for i in range(labels.size):
        within &= (labels[i] >= 0) & (labels[i] < classes)
    return within


def check_labels(labels: Array, classes: int) -> None:
    """Demand labels from 0 to classes - 1."""
    if labels.dtype == np.int64 and type(labels) is np.ndarray and labels.flags.carray:
        if all_within(labels, classes):
            return
    elif labels.min(initial=0) >= 0 and labels.max(initial=0) < classes:
        return
    i = int(np.argmax((labels < 0) | (labels >= classes)))
    raise ValueError(
        f"{NAME}: targets must be labels from 0 to {classes - 1} ({classes} classes), "
        f"got {labels[i]} at position {i}"
    )


def wanted_targets(logits: Array) -> str:
    return f"integer labels (N,) or {logits.dtype} probabilities (N, C)"


def check(logits: Array, targets: Array, reduction: Any = "mean") -> None:
    floats(NAME, logits=logits)
    rank(NAME, "logits", logits, 2, "(N, C)")
    rows, classes = logits.shape
    if not isinstance(targets, np.ndarray):
        fail_type(NAME, "targets", targets, "a NumPy array or a Tensor")
    if targets.dtype.kind in "iu":
        if targets.shape != (rows,):
            integers = "integer targets are labels and must have"
            raise ValueError(f"{NAME}: {integers} shape ({rows},) to go with logits {logits.shape}, "
                             f"got {targets.shape}")  # fmt: skip
    elif targets.dtype.kind != "f" or (targets.ndim == 1 and logits.ndim == 2):
        fail_type(NAME, "targets", targets, wanted_targets(logits))
    else:
        floats(NAME, logits=logits, targets=targets)
        if targets.shape != logits.shape:
            raise ValueError(f"{NAME}: targets must be {wanted_targets(logits)} to go with logits "
                             f"{logits.shape}, got shape {targets.shape}")  # fmt: skip
    choice(NAME, "reduction", reduction, REDUCTIONS)
    if classes == 0:
        raise ValueError(f"{NAME}: logits must have at least one class, got shape {logits.shape}")
    if rows == 0 and reduction == "mean":
        raise ValueError(
            f"{NAME}: the mean over an empty batch is undefined, got logits of shape {logits.shape}"
        )


def check_values(logits: Array, targets: Array, reduction: Any = "mean") -> None:
    if targets.ndim == 1:
        check_labels(targets, logits.shape[1])
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


def bad_inputs() -> Iterator[BadInput]:
    x, labels, p = np.ones((3, 4)), np.array([0, 1, 3]), np.full((3, 4), 0.25)
    yield BadInput(ValueError, "from 0 to 3 (4 classes), got 4 at position 1", (x, np.array([0, 4, 2])))
    yield BadInput(ValueError, "got -1 at position 2", (x, np.array([0, 1, -1])))
    yield BadInput(ValueError, "got -1 at position 0", (x, np.array([-1, 1, 1], np.int8)))
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


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for rows, classes, factor in ((500, 101, 3333), (64, 10, 1), (4096, 1000, 1)):
        x = np.asarray(rng.uniform(-3, 3, (rows, classes)) * factor, dtype)  # first: e^x alone overflows
        yield Sample(f"{rows}x{classes} labels", (x, rng.integers(0, classes, rows)))
    t = probabilities(rng, (500, 101), dtype)
    yield Sample("500x101 probabilities", (np.asarray(rng.uniform(-3, 3, t.shape), dtype), t))


def jvp(tangents: tuple[Array, None], outputs: Pair, inputs: Pair, reduction: str = "mean") -> Array:
    p, t = outputs[1], as_probabilities(*inputs)
    slope = p * t.sum(axis=1, keepdims=True) - t
    return gathered((slope * tangents[0]).sum(axis=1), reduction)


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "cross_entropy.py", old, new)


softmax_cross_entropy = Op(
    name=NAME,
    loops=Body(cross_entropy_forward_loops, cross_entropy_backward_loops),
    vectorized=Body(cross_entropy_forward_vectorized, cross_entropy_backward_vectorized),
    tuned=Body(cross_entropy_forward_tuned, cross_entropy_backward_tuned),
    check=check,
    check_values=check_values,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda logits, targets, **_: 20 * int(logits.size),
    jvp=jvp,
    constants=frozenset({1}),
    mutants=(
        mutant("targets' sum forgotten", "(p[i, k] * weight_of_row - t[i, k])", "(p[i, k] - t[i, k])"),
        mutant("maximum not subtracted", "(x[i, k] - m - np.log(s))", "(x[i, k] - np.log(s))"),
        mutant("mean not divided by N", "add_up(loss) * weight(reduction, loss.size)", "add_up(loss)"),
        mutant("label not subtracted", "dx[a + np.uint64(labels[i])] -= g", "pass", "tuned"),
        mutant("label of the row before", "x[i * n + labels[i]]", "x[i * n + labels[i - 1]]", "tuned"),
        mutant("row's cotangent forgotten", "dy[i] if dy.size > 1 else dy[0]", "dy[0]", "tuned"),
        mutant("labels of the first part for all", "t[i:j], p[i:j], loss[first:last])",
               "t[i:j], p[i:j], loss[: last - first])", "tuned"),
        mutant("targets' sum forgotten, tuned", "g * (p[k] * full - t[k])", "g * (p[k] - t[k])", "tuned"),
        mutant("maximum forgotten", "(x[i * n + labels[i]] - top[i])", "x[i * n + labels[i]]", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (softmax_cross_entropy,)
