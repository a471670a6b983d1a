"""softmax and log_softmax along one axis ``dim``.

    softmax      y_i = e^(x_i - m) / s              dx_i = y_i (dy_i - sum over k of dy_k y_k)
    log_softmax  y_i = x_i - m - ln s               dx_i = dy_i - e^(y_i) sum over k of dy_k

with m = max of x_k and s = sum of e^(x_k - m) over the n elements along ``dim``. Subtracting m changes
nothing in exact arithmetic and keeps every power of e at or below 1 (Goodfellow et al., Deep Learning,
2016, section 4.1). x has any shape with at least one axis, float32 or float64; the loops see it as
(outer, n, inner).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.elementary import exp
from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, jit_tuned, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.reduce.tuned import row_sum
from nnkernels.ops.reduce.tuned_max import row_max
from nnkernels.ops.validate import axis_index, floats


def split(x: Array, dim: int) -> tuple[int, int, int]:
    """Return (outer, n, inner): the sizes before, of and after axis ``dim``."""
    axis = dim % x.ndim
    return math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :])


# --- loops ---


@jit
def forward_kernel(x: Array, log: bool, y: Array) -> None:
    outer, n, inner = x.shape
    for o in range(outer):
        for i in range(inner):
            m = x[o, 0, i]
            for k in range(n):
                m = max(m, x[o, k, i])
            s = x[o, 0, i] * 0
            for k in range(n):
                s += np.exp(x[o, k, i] - m)
            for k in range(n):
                if log:
                    y[o, k, i] = x[o, k, i] - m - np.log(s)
                else:
                    y[o, k, i] = np.exp(x[o, k, i] - m) / s


@jit
def backward_kernel(dy: Array, y: Array, log: bool, dx: Array) -> None:
    outer, n, inner = y.shape
    for o in range(outer):
        for i in range(inner):
            t = y[o, 0, i] * 0
            for k in range(n):
                t += dy[o, k, i] if log else dy[o, k, i] * y[o, k, i]
            for k in range(n):
                if log:
                    dx[o, k, i] = dy[o, k, i] - np.exp(y[o, k, i]) * t
                else:
                    dx[o, k, i] = y[o, k, i] * (dy[o, k, i] - t)


def make_loops(log: bool) -> Body:
    """Return the body of three nested loops."""

    def forward(x: Array, dim: int = -1) -> tuple[Array]:
        y = np.empty(x.shape, x.dtype)
        if y.size > 0:
            forward_kernel(x.reshape(split(x, dim)), log, y.reshape(split(x, dim)))
        return (y,)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], dim: int = -1
    ) -> tuple[Array | None]:
        if not needs[0]:
            return (None,)
        (y,), sizes = outputs, split(outputs[0], dim)
        dx = np.empty(y.shape, y.dtype)
        if y.size > 0:
            backward_kernel(dy.reshape(sizes), y.reshape(sizes), log, dx.reshape(sizes))
        return (dx,)

    return Body(forward, backward)


# --- vectorized ---


def softmax_forward_vectorized(x: Array, dim: int = -1) -> tuple[Array]:
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(axis=dim, keepdims=True, initial=-np.inf))
        return (e / e.sum(axis=dim, keepdims=True),)


def softmax_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], dim: int = -1
) -> tuple[Array | None]:
    (y,) = outputs
    return (y * (dy - (dy * y).sum(axis=dim, keepdims=True)) if needs[0] else None,)


def log_softmax_forward_vectorized(x: Array, dim: int = -1) -> tuple[Array]:
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = x - x.max(axis=dim, keepdims=True, initial=-np.inf)
        return (moved - np.log(np.exp(moved).sum(axis=dim, keepdims=True)),)


def log_softmax_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], dim: int = -1
) -> tuple[Array | None]:
    (y,) = outputs
    return (dy - np.exp(y) * dy.sum(axis=dim, keepdims=True) if needs[0] else None,)


# --- tuned: several rows at once, one pass over an L1 cache of elements for each step of the formula ---


@jit_tuned
def row_dot(x: Array, y: Array) -> Any:
    total = x[0] * y[0]
    for i in range(1, x.size):
        total += x[i] * y[i]
    return total


@jit_elementwise
def softmax_rows(x: Array, n: int, log: bool, y: Array, top: Array, total: Array) -> None:
    """Write (log_)softmax of the rows of n elements; keep each row's maximum and its sum of powers."""
    for r in range(top.size):
        row, out = x[r * n : (r + 1) * n], y[r * n : (r + 1) * n]
        m = row_max(row)
        top[r] = m
        for k in range(n):
            out[k] = row[k] - m
    # One loop over all rows: rows of 10 classes would leave most of a vector register unused.
    for i in range(y.size):
        y[i] = exp(y[i])
    for r in range(top.size):
        row, out = x[r * n : (r + 1) * n], y[r * n : (r + 1) * n]
        s = row_sum(out)
        total[r] = s
        if log:
            m, shift = top[r], np.log(s)
            for k in range(n):
                out[k] = (row[k] - m) - shift  # in this order: m and ln s may differ by powers of ten
        else:
            for k in range(n):
                out[k] /= s


@jit_parallel
def softmax_rows_parallel(
    x: Array, n: int, share: int, log: bool, y: Array, top: Array, total: Array
) -> None:
    for c in prange((top.size + share - 1) // share):
        i, j = c * share, min((c + 1) * share, top.size)
        softmax_rows(x[i * n : j * n], n, log, y[i * n : j * n], top[i:j], total[i:j])


@jit_elementwise
def softmax_columns(
    x: Array, n: int, inner: int, share: int, first: int, last: int, log: bool,
    y: Array, top: Array, total: Array,
) -> None:  # fmt: skip
    """Do parts first to last - 1: ``share`` columns each, of one outer index; rows lie ``inner`` apart."""
    parts = (inner + share - 1) // share
    for c in range(first, last):
        column = c % parts * share
        width = min(share, inner - column)
        start, at = c // parts * n * inner + column, c // parts * inner + column
        m, s = top[at : at + width], total[at : at + width]
        for j in range(width):
            m[j], s[j] = x[start + j], 0
        for k in range(1, n):
            row = x[start + k * inner : start + k * inner + width]
            for j in range(width):
                m[j] = row[j] if row[j] > m[j] else m[j]
        for k in range(n):
            row = x[start + k * inner : start + k * inner + width]
            out = y[start + k * inner : start + k * inner + width]
            for j in range(width):
                out[j] = exp(row[j] - m[j])
                s[j] += out[j]
        for j in range(width):
            s[j] = np.log(s[j]) if log else s[j]
        for k in range(n):
            row = x[start + k * inner : start + k * inner + width]
            out = y[start + k * inner : start + k * inner + width]
            for j in range(width):
                out[j] = (row[j] - m[j]) - s[j] if log else out[j] / s[j]


@jit_parallel
def softmax_columns_parallel(
    x: Array, n: int, inner: int, share: int, parts: int, log: bool, y: Array, top: Array, total: Array
) -> None:
    for c in prange(parts):
        softmax_columns(x, n, inner, share, c, c + 1, log, y, top, total)


def softmax_into(x: Array, sizes: tuple[int, int, int], log: bool, y: Array) -> tuple[Array, Array]:
    """Write (log_)softmax of flat x to flat y; return maxima and, where inner is 1, sums of powers."""
    outer, n, inner = sizes
    top, total = empty((outer * inner,), x.dtype), empty((outer * inner,), x.dtype)
    if x.size == 0:
        return top, total
    if inner == 1:
        if x.size < SERIAL_BELOW:
            softmax_rows(x, n, log, y, top, total)
        else:
            softmax_rows_parallel(x, n, -(-CHUNK // n), log, y, top, total)
        return top, total
    # At least 64 columns: four vector registers, and whole cache lines of x.
    share = min(inner, max(64, CHUNK // n))
    parts = outer * -(-inner // share)
    if x.size < SERIAL_BELOW:
        softmax_columns(x, n, inner, share, 0, parts, log, y, top, total)
    else:
        softmax_columns_parallel(x, n, inner, share, parts, log, y, top, total)
    return top, total


@jit_elementwise
def backward_part(
    dy: Array, y: Array, n: int, inner: int, log: bool, first: int, work: Array, dx: Array
) -> None:
    """Write dx for the outer indices first, first + 1, ...: as many as ``work``, (.., inner), has rows."""
    size = n * inner
    for r in range(work.size // inner):
        at = (first + r) * size
        g, p, out = dy[at : at + size], y[at : at + size], dx[at : at + size]
        if inner == 1:
            t = row_sum(g) if log else row_dot(g, p)
            for k in range(n):
                out[k] = g[k] - exp(p[k]) * t if log else p[k] * (g[k] - t)
        else:
            sums = work[r * inner : (r + 1) * inner]
            for j in range(inner):
                sums[j] = 0
            for k in range(n):
                gk, pk = g[k * inner : (k + 1) * inner], p[k * inner : (k + 1) * inner]
                for j in range(inner):
                    sums[j] += gk[j] if log else gk[j] * pk[j]
            for k in range(n):
                gk, pk = g[k * inner : (k + 1) * inner], p[k * inner : (k + 1) * inner]
                row = out[k * inner : (k + 1) * inner]
                for j in range(inner):
                    row[j] = gk[j] - exp(pk[j]) * sums[j] if log else pk[j] * (gk[j] - sums[j])


@jit_parallel
def backward_parallel(
    dy: Array, y: Array, n: int, inner: int, share: int, log: bool, work: Array, dx: Array
) -> None:
    outer = work.size // inner
    for c in prange((outer + share - 1) // share):
        part = work[c * share * inner : (c + 1) * share * inner]
        backward_part(dy, y, n, inner, log, c * share, part, dx)


def make_tuned(log: bool) -> Body:
    """Return the body for rows (inner = 1) and columns (inner > 1), which want different loops."""

    def forward(x: Array, dim: int = -1) -> tuple[Array]:
        y = empty(x.shape, x.dtype)
        if y.size > 0:
            softmax_into(x.reshape(-1), split(x, dim), log, y.reshape(-1))
        return (y,)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], dim: int = -1
    ) -> tuple[Array | None]:
        if not needs[0]:
            return (None,)
        (y,) = outputs
        dx = empty(y.shape, y.dtype)
        if y.size == 0:
            return (dx,)
        outer, n, inner = split(y, dim)
        work = empty((outer * inner,), y.dtype)
        flat = dy.reshape(-1), y.reshape(-1)
        if y.size < SERIAL_BELOW:
            backward_part(*flat, n, inner, log, 0, work, dx.reshape(-1))
        else:
            share = -(-CHUNK // (n * inner))
            backward_parallel(*flat, n, inner, share, log, work, dx.reshape(-1))
        return (dx,)

    return Body(forward, backward)


# --- records ---


def check(op: str, x: Array, dim: Any = -1) -> None:
    floats(op, x=x)
    if x.ndim == 0:
        raise ValueError(f"{op}: x must have at least one axis, got shape ()")
    axis_index(op, dim, x.ndim)


def make_op(name: str, log: bool, vectorized: Body, mutants: tuple[tuple[str, str, str, Any], ...]) -> Op:
    """Return the record."""

    def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.asarray(rng.uniform(-3, 3, shape), dtype)

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        cases: tuple[tuple[tuple[int, ...], int], ...] = (
            ((1,), 0), ((7,), -1), ((3, 10), -1), ((2, 19), 1), ((5, 3), 0), ((2, 3, 4), 1),
            ((2, 3, 4, 5), -3), ((2, 0), 1), ((0, 3), 1), ((3, 0, 2), 0),
        )  # fmt: skip
        for shape, dim in cases:
            yield Sample(f"shape {shape}, dim {dim}", (values(rng, shape, dtype),), {"dim": dim})

    def bad_inputs() -> Iterator[BadInput]:
        yield BadInput(TypeError, f"{name}: x must be float32 or float64, got int64", (np.ones((2, 2), int),))
        yield BadInput(ValueError, f"{name}: x must have at least one axis", (np.ones(()),))
        yield BadInput(ValueError, "dim must be in [-2, 2) for 2 axes, got 2", (np.ones((2, 3)),), {"dim": 2})
        yield BadInput(TypeError, "dim must be an int, got tuple (0, 1)", (np.ones((2, 3)),), {"dim": (0, 1)})

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        # Far apart, where e^x alone overflows; differences in `samples` would drown in x's own rounding.
        yield Sample("500x101 rows", (values(rng, (500, 101), dtype) * 3333,))
        yield Sample("4x21x40x40 channels", (values(rng, (4, 21, 40, 40), dtype),), {"dim": 1})
        yield Sample("64x10", (values(rng, (64, 10), dtype),))
        yield Sample("4096x1000 rows", (values(rng, (4096, 1000), dtype),))

    def jvp(tangents: tuple[Array], outputs: tuple[Array], inputs: tuple[Array], dim: int = -1) -> Array:
        (y,), (v,) = outputs, tangents
        weights = np.exp(y) if log else y
        moved: Array = v - np.sum(weights * v, axis=dim, keepdims=True)
        return moved if log else y * moved

    return Op(
        name=name,
        loops=make_loops(log),
        vectorized=vectorized,
        tuned=make_tuned(log),
        check=lambda x, dim=-1: check(name, x, dim),
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=lambda x, **_: 20 * int(x.size),
        jvp=jvp,
        mutants=tuple(Mutant(title, body, "softmax.py", old, new) for title, old, new, body in mutants),
    )


softmax = make_op(
    "softmax",
    False,
    Body(softmax_forward_vectorized, softmax_backward_vectorized),
    (
        ("Jacobian's diagonal alone", "dx[o, k, i] = y[o, k, i] * (dy[o, k, i] - t)",
         "dx[o, k, i] = y[o, k, i] * dy[o, k, i]", "loops"),
        ("maximum not subtracted", "s += np.exp(x[o, k, i] - m)", "s += np.exp(x[o, k, i])", "loops"),
        ("row missing in the last part", "i, j = c * share, min((c + 1) * share, top.size)",
         "i, j = c * share, min((c + 1) * share, top.size) - 1", "tuned"),
        ("column sum: missing +=", "s[j] += out[j]", "s[j] = out[j]", "tuned"),
        ("sums not cleared", "sums[j] = 0\n", "pass\n", "tuned"),
    ),
)  # fmt: skip
log_softmax = make_op(
    "log_softmax",
    True,
    Body(log_softmax_forward_vectorized, log_softmax_backward_vectorized),
    (
        ("power forgotten backward", "dy[o, k, i] - np.exp(y[o, k, i]) * t", "dy[o, k, i] - y[o, k, i] * t",
         "loops"),
        ("logarithm forgotten", "x[o, k, i] - m - np.log(s)", "x[o, k, i] - m - s", "loops"),
        ("maximum not subtracted", "out[k] = (row[k] - m) - shift", "out[k] = row[k] - shift", "tuned"),
        ("column's logarithm forgotten", "np.log(s[j]) if log", "s[j] if log", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (softmax, log_softmax)
