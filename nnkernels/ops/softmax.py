"""softmax and log_softmax along one axis ``dim``.

    softmax      y_i = e^(x_i - m) / s              dx_i = y_i (dy_i - sum over k of dy_k y_k)
    log_softmax  y_i = x_i - m - ln s               dx_i = dy_i - e^(y_i) sum over k of dy_k

with m = max of x_k and s = sum of e^(x_k - m) over the n elements along ``dim``. Subtracting m changes
nothing in exact arithmetic and keeps every power of e at or below 1 (Goodfellow et al., Deep Learning,
2016, section 4.1). x has any shape with at least one axis, float32 or float64; the loops see it as
(outer, n, inner).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.elementary import exp
from nnkernels.machine.elementary import log as ln
from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, jit_tuned, prange, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW, share_of
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.reduce.tiling import split_shape
from nnkernels.ops.reduce.tuned import row_sums
from nnkernels.ops.reduce.tuned_max import row_maxima
from nnkernels.ops.softmax_cuda import make_cuda
from nnkernels.ops.validate import axis_index, floats


def split(x: Array, dim: int) -> tuple[int, int, int]:
    """Return (outer, n, inner): the sizes before, of and after axis ``dim``."""
    return split_shape(x.shape, dim)


# --- loops ---


@jit
def forward_kernel(x: Array, log: bool, y: Array) -> None:
    outer, n, inner = x.shape
    for o in range(outer):
        for i in range(inner):
            m = x[o, 0, i]
            for k in range(n):
                m = max(m, x[o, k, i])
            s = 0.0
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
            t = 0.0
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


# --- tuned: rows (inner = 1) and columns (inner > 1) want different loops, each on an L1 cache at a time ---


@jit_elementwise
def softmax_rows(x: Array, n: int, log: bool, y: Array, top: Array, total: Array) -> None:
    """Write (log_)softmax of the rows of n elements.

    Keeps each row's maximum and its sum of powers (the logarithm of that for log_softmax).
    """
    size = np.uint64(n)
    row_maxima(x, n, top)
    if n >= 64:
        for r in range(np.uint64(top.size)):
            a, m = r * size, top[r]
            for k in range(a, a + size):
                y[k] = exp(x[k] - m)
    else:
        # Rows of 10 classes would leave most of a register unused: the powers of all rows in one loop.
        for r in range(np.uint64(top.size)):
            a, m = r * size, top[r]
            for k in range(a, a + size):
                y[k] = x[k] - m
        for i in range(y.size):
            y[i] = exp(y[i])
    row_sums(y, n, typed(1, x[0]), total)
    if log:
        for i in range(total.size):
            total[i] = ln(total[i])
    for r in range(np.uint64(top.size)):
        a, m, s = r * size, top[r], total[r]
        if log:
            for k in range(a, a + size):
                y[k] = (x[k] - m) - s  # in this order: m and ln s may differ by powers of ten
        else:
            scale = typed(1, s) / s
            for k in range(a, a + size):
                y[k] *= scale


@jit_elementwise
def forward_rows(x: Array, n: int, log: bool, y: Array) -> None:
    rows = x.size // n
    softmax_rows(x, n, log, y, np.empty(rows, x.dtype), np.empty(rows, x.dtype))


@jit_parallel
def forward_rows_parallel(x: Array, n: int, share: int, log: bool, y: Array) -> None:
    for c in prange((x.size + share * n - 1) // (share * n)):
        i, j = c * share * n, (c + 1) * share * n
        forward_rows(x[i:j], n, log, y[i:j])


@jit_elementwise
def forward_columns(
    x: Array, n: int, inner: int, width: int, first: int, last: int, log: bool, y: Array
) -> None:
    """Do parts first to last - 1: ``width`` columns each, of one outer index; rows lie ``inner`` apart."""
    parts = (inner + width - 1) // width
    top, total = np.empty(width, x.dtype), np.empty(width, x.dtype)
    for c in range(first, last):
        column = c % parts * width
        start = c // parts * n * inner + column
        m, s = top[: inner - column], total[: inner - column]
        for j in range(m.size):
            m[j], s[j] = x[start + j], 0
        for k in range(1, n):
            row = x[start + k * inner : start + k * inner + m.size]
            for j in range(m.size):
                m[j] = row[j] if row[j] > m[j] else m[j]
        for k in range(n):
            row = x[start + k * inner : start + k * inner + m.size]
            out = y[start + k * inner : start + k * inner + m.size]
            if log:
                for j in range(m.size):
                    s[j] += exp(row[j] - m[j])
            else:
                for j in range(m.size):
                    out[j] = exp(row[j] - m[j])
                    s[j] += out[j]
        for j in range(m.size):
            s[j] = ln(s[j]) if log else typed(1, s[j]) / s[j]
        for k in range(n):
            row = x[start + k * inner : start + k * inner + m.size]
            out = y[start + k * inner : start + k * inner + m.size]
            if log:
                for j in range(m.size):
                    out[j] = (row[j] - m[j]) - s[j]
            else:
                for j in range(m.size):
                    out[j] *= s[j]


@jit_parallel
def forward_columns_parallel(
    x: Array, n: int, inner: int, width: int, parts: int, log: bool, y: Array
) -> None:
    for c in prange(parts):
        forward_columns(x, n, inner, width, c, c + 1, log, y)


@jit_tuned
def row_dots(x: Array, y: Array, n: int, dots: Array) -> None:
    """Write the sum of x_k y_k over each row of n: four rows at a time, as in row_sums."""
    size, one = np.uint64(n), np.uint64(1)
    r = np.uint64(0)
    while r + np.uint64(4) <= np.uint64(dots.size):
        a = r * size
        b, c, d = a + size, a + size + size, a + size + size + size
        s, t, u, v = x[a] * y[a], x[b] * y[b], x[c] * y[c], x[d] * y[d]
        for k in range(one, size):
            s += x[a + k] * y[a + k]
            t += x[b + k] * y[b + k]
            u += x[c + k] * y[c + k]
            v += x[d + k] * y[d + k]
        dots[r], dots[r + one] = s, t
        dots[r + np.uint64(2)], dots[r + np.uint64(3)] = u, v
        r += np.uint64(4)
    for i in range(r, np.uint64(dots.size)):
        dots[i] = row_dot(x, y, i * size, size)


@jit_tuned
def row_dot(x: Array, y: Array, a: np.uint64, size: np.uint64) -> Any:
    """Return the sum of x_k y_k from a to a + size - 1."""
    s = x[a] * y[a]
    for k in range(a + np.uint64(1), a + size):
        s += x[k] * y[k]
    return s


@jit_elementwise
def backward_rows(dy: Array, y: Array, n: int, log: bool, dx: Array) -> None:
    size = np.uint64(n)
    if n >= 256 and not log:  # long rows one by one: what the sum has read is still in the L1 cache
        for r in range(np.uint64(y.size // n)):
            a = r * size
            t = row_dot(dy, y, a, size)
            for k in range(a, a + size):
                dx[k] = y[k] * (dy[k] - t)
        return
    sums = np.empty(y.size // n, y.dtype)
    if log:
        row_sums(dy, n, typed(1, dy[0]), sums)
        for i in range(y.size):
            dx[i] = exp(y[i])
    else:
        row_dots(dy, y, n, sums)
    for r in range(np.uint64(sums.size)):
        a, t = r * size, sums[r]
        if log:
            for k in range(a, a + size):
                dx[k] = dy[k] - dx[k] * t
        else:
            for k in range(a, a + size):
                dx[k] = y[k] * (dy[k] - t)


@jit_parallel
def backward_rows_parallel(dy: Array, y: Array, n: int, share: int, log: bool, dx: Array) -> None:
    for c in prange((y.size + share * n - 1) // (share * n)):
        i, j = c * share * n, (c + 1) * share * n
        backward_rows(dy[i:j], y[i:j], n, log, dx[i:j])


@jit_elementwise
def backward_columns(
    dy: Array, y: Array, n: int, inner: int, width: int, first: int, last: int, log: bool, dx: Array
) -> None:
    """Do the parts that forward_columns does."""
    parts = (inner + width - 1) // width
    sums = np.empty(width, y.dtype)
    for c in range(first, last):
        column = c % parts * width
        start = c // parts * n * inner + column
        t = sums[: inner - column]
        for j in range(t.size):
            t[j] = 0
        for k in range(n):
            low = start + k * inner
            g, p = dy[low : low + t.size], y[low : low + t.size]
            for j in range(t.size):
                t[j] += g[j] if log else g[j] * p[j]
        for k in range(n):
            low = start + k * inner
            g, p, out = dy[low : low + t.size], y[low : low + t.size], dx[low : low + t.size]
            for j in range(t.size):
                out[j] = g[j] - exp(p[j]) * t[j] if log else p[j] * (g[j] - t[j])


@jit_parallel
def backward_columns_parallel(
    dy: Array, y: Array, n: int, inner: int, width: int, parts: int, log: bool, dx: Array
) -> None:
    for c in prange(parts):
        backward_columns(dy, y, n, inner, width, c, c + 1, log, dx)


def columns_of(outer: int, n: int, inner: int) -> tuple[int, int]:
    """Return how many columns one part has, and the number of parts."""
    # At least 64 columns: four vector registers, and whole cache lines of x.
    width = min(inner, max(64, CHUNK // n))
    return width, outer * -(-inner // width)


def make_tuned(log: bool) -> Body:
    """Return the body. Bound: memory and, forward, one power of e for each element."""

    def forward(x: Array, dim: int = -1) -> tuple[Array]:
        y = empty(x.shape, x.dtype)
        if y.size == 0:
            return (y,)
        outer, n, inner = split(x, dim)
        if inner == 1:
            if x.size < SERIAL_BELOW:
                forward_rows(x.ravel(), n, log, y.ravel())
            else:
                forward_rows_parallel(x.ravel(), n, share_of(outer, n), log, y.ravel())
            return (y,)
        width, parts = columns_of(outer, n, inner)
        if x.size < SERIAL_BELOW:
            forward_columns(x.ravel(), n, inner, width, 0, parts, log, y.ravel())
        else:
            forward_columns_parallel(x.ravel(), n, inner, width, parts, log, y.ravel())
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
        flat = dy.ravel(), y.ravel()
        if inner == 1:
            if y.size < SERIAL_BELOW:
                backward_rows(*flat, n, log, dx.ravel())
            else:
                backward_rows_parallel(*flat, n, share_of(outer, n), log, dx.ravel())
            return (dx,)
        width, parts = columns_of(outer, n, inner)
        if y.size < SERIAL_BELOW:
            backward_columns(*flat, n, inner, width, 0, parts, log, dx.ravel())
        else:
            backward_columns_parallel(*flat, n, inner, width, parts, log, dx.ravel())
        return (dx,)

    return Body(forward, backward)


# --- in ops ---


def gradient(
    op: Op, dy: Any, outputs: tuple[Array], inputs: tuple[Any], needs: tuple[bool], dim: int = -1
) -> tuple[Any]:
    y = softmax(inputs[0], dim=dim)
    return (y * (dy - (dy * y).sum(dim, keepdim=True)),)


def log_gradient(
    op: Op, dy: Any, outputs: tuple[Array], inputs: tuple[Any], needs: tuple[bool], dim: int = -1
) -> tuple[Any]:
    return (dy - softmax(inputs[0], dim=dim) * dy.sum(dim, keepdim=True),)


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
            ((1,), 0), ((7,), -1), ((5, 10), -1), ((2, 19), 1), ((3, 70), 1), ((5, 3), 0),
            ((2, 70), 0), ((2, 3, 4), 1),
            ((2, 3, 4, 5), -3), ((2, 257), 1), ((2, 0), 1), ((0, 3), 1), ((3, 0, 2), 0),
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
        yield Sample("3x10007 rows", (values(rng, (3, 10007), dtype),))

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
        cuda=make_cuda(log),
        check=lambda x, dim=-1: check(name, x, dim),
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=lambda x, **_: 20 * int(x.size),
        jvp=jvp,
        gradient=log_gradient if log else gradient,
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
        ("row missing in every part", "(c + 1) * share * n\n        forward_rows",
         "(c + 1) * share * n - n\n        forward_rows", "tuned"),
        ("powers not summed", "row_sums(y, n, typed(1, x[0]), total)",
         "row_sums(x, n, typed(1, x[0]), total)", "tuned"),
        ("maximum not subtracted, tuned", "y[k] = exp(x[k] - m)", "y[k] = exp(x[k])", "tuned"),
        ("fourth row's dot product", "v += x[d + k] * y[d + k]", "v += x[d + k] * y[c + k]", "tuned"),
        ("column sum: missing +=", "s[j] += out[j]", "s[j] = out[j]", "tuned"),
        ("y forgotten in a column's sum", "t[j] += g[j] if log else g[j] * p[j]", "t[j] += g[j]", "tuned"),
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
        ("maximum not subtracted", "y[k] = (x[k] - m) - s", "y[k] = x[k] - s", "tuned"),
        ("power forgotten, tuned", "dx[i] = exp(y[i])", "dx[i] = y[i]", "tuned"),
        ("column's logarithm forgotten", "ln(s[j]) if log", "s[j] if log", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (softmax, log_softmax)
