"""Layer normalisation: every example by its own statistics.

    y_ij = w_j x^_ij + b_j        x^_ij = (x_ij - m_i) r_i        r_i = 1 / sqrt(v_i + eps)
    m_i = 1/n sum over j of x_ij  v_i = 1/n sum over j of (x_ij - m_i)^2

    dw_j = sum over i of dy_ij x^_ij     db_j = sum over i of dy_ij
    dx_ij = r_i (g_ij - 1/n sum over k of g_ik - x^_ij / n sum over k of g_ik x^_ik)     g_ij = dy_ij w_j

j runs over the n >= 1 elements of the trailing axes, whose lengths ``normalized_shape`` gives (an int: one
axis), i over the leading axes. x is float32 or float64; w and b have the shape ``normalized_shape``, or are
None for 1 and 0 (Ba, Kiros and Hinton, Layer Normalization, arXiv:1607.06450, 2016).

Keeps mean m and rstd r, in the shape of the leading axes, for the backward pass; v is the biased variance.
"""

import math
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, jit_tuned, prange, signed, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.layer_norm_cuda import layer_norm_backward_cuda, layer_norm_forward_cuda
from nnkernels.ops.normalised import normalised, scaled
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import fail_type, floats, given, number

Shape = tuple[int, ...]
Inputs = tuple[Array, Array | None, Array | None]
Outputs = tuple[Array, Array, Array]
Needs = tuple[bool, bool, bool]
Grads = tuple[Array | None, Array | None, Array | None]


def as_shape(normalized_shape: int | Shape) -> Shape:
    """Return ``normalized_shape`` as a tuple."""
    return tuple(normalized_shape) if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)


def as_rows(x: Array, shape: Shape) -> Array:
    """Return x as a matrix with a row for each example."""
    return x.reshape(math.prod(x.shape[: x.ndim - len(shape)]), math.prod(shape))


def weights(x: Array, w: Array | None, b: Array | None, n: int) -> tuple[Array, Array]:
    """Return w and b flat, ones and zeros in the place of None."""
    ones = np.ones(n, x.dtype) if w is None else w.reshape(-1)
    return ones, np.zeros(n, x.dtype) if b is None else b.reshape(-1)


# --- loops: sums in float64 for either dtype ---


@jit
def forward_kernel(x: Array, w: Array, b: Array, eps: float, y: Array, mean: Array, rstd: Array) -> None:
    rows, n = x.shape
    for i in range(rows):
        total = 0.0
        for j in range(n):
            total += x[i, j]
        m = total / n
        squares = 0.0
        for j in range(n):
            squares += (x[i, j] - m) ** 2
        r = 1 / np.sqrt(squares / n + eps)
        for j in range(n):
            y[i, j] = w[j] * ((x[i, j] - m) * r) + b[j]
        mean[i], rstd[i] = m, r


@jit
def backward_kernel(
    dy: Array, x: Array, w: Array, mean: Array, rstd: Array, dx: Array, dw: Array, db: Array
) -> None:
    rows, n = x.shape
    for i in range(rows):
        m, r = mean[i], rstd[i]
        total, dot = 0.0, 0.0
        for j in range(n):
            x_hat = (x[i, j] - m) * r
            total += dy[i, j] * w[j]
            dot += dy[i, j] * w[j] * x_hat
            dw[j] += dy[i, j] * x_hat
            db[j] += dy[i, j]
        for j in range(n):
            x_hat = (x[i, j] - m) * r
            dx[i, j] = r * (dy[i, j] * w[j] - total / n - x_hat * dot / n)


def layer_norm_forward_loops(
    x: Array, w: Array | None, b: Array | None, *, normalized_shape: int | Shape, eps: float = 1e-5
) -> Outputs:
    shape = as_shape(normalized_shape)
    leading = x.shape[: x.ndim - len(shape)]
    y, mean, rstd = np.empty(x.shape, x.dtype), np.empty(leading, x.dtype), np.empty(leading, x.dtype)
    rows = as_rows(x, shape)
    w, b = weights(x, w, b, rows.shape[1])
    forward_kernel(rows, w, b, float(eps), as_rows(y, shape), mean.reshape(-1), rstd.reshape(-1))
    return y, mean, rstd


def layer_norm_backward_loops(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, normalized_shape: int | Shape,
    eps: float = 1e-5,
) -> Grads:  # fmt: skip
    (x, w, b), (_, mean, rstd) = inputs, outputs
    shape = as_shape(normalized_shape)
    rows = as_rows(x, shape)
    w, _ = weights(x, w, b, rows.shape[1])
    dx, dw, db = np.empty(x.shape, x.dtype), np.zeros(shape, np.float64), np.zeros(shape, np.float64)
    backward_kernel(
        as_rows(dy, shape), rows, w, mean.reshape(-1), rstd.reshape(-1), as_rows(dx, shape),
        dw.reshape(-1), db.reshape(-1),
    )  # fmt: skip
    narrow = dw.astype(x.dtype), db.astype(x.dtype)
    return dx if needs[0] else None, narrow[0] if needs[1] else None, narrow[1] if needs[2] else None


# --- vectorized ---


def trailing(x: Array, normalized_shape: int | Shape) -> Shape:
    """Return the axes to normalise over."""
    return tuple(range(x.ndim - len(as_shape(normalized_shape)), x.ndim))


def example_mean(x: Array, axes: Shape) -> Array:
    """Return the mean over ``axes``, which stay with size 1."""
    mean: Array = x.mean(axis=axes, dtype=np.float64, keepdims=True)
    return mean


def layer_norm_forward_vectorized(
    x: Array, w: Array | None, b: Array | None, *, normalized_shape: int | Shape, eps: float = 1e-5
) -> Outputs:
    axes = trailing(x, normalized_shape)
    mean = example_mean(x, axes).astype(x.dtype)
    moved = x - mean
    rstd = (1 / np.sqrt(example_mean(moved * moved, axes) + eps)).astype(x.dtype)
    y = moved * rstd
    y = y if w is None else y * w
    return y if b is None else y + b, mean.squeeze(axes), rstd.squeeze(axes)


def layer_norm_backward_vectorized(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, normalized_shape: int | Shape,
    eps: float = 1e-5,
) -> Grads:  # fmt: skip
    (x, w, _), (_, mean, rstd) = inputs, outputs
    axes = trailing(x, normalized_shape)
    leading = tuple(range(axes[0]))
    mean, rstd = np.expand_dims(mean, axes), np.expand_dims(rstd, axes)
    x_hat = (x - mean) * rstd
    dx = None
    if needs[0]:
        g = dy if w is None else dy * w
        along, across = example_mean(g, axes).astype(x.dtype), example_mean(g * x_hat, axes).astype(x.dtype)
        dx = rstd * (g - along - x_hat * across)
    dw = (dy * x_hat).sum(axis=leading) if needs[1] else None
    return dx, dw, dy.sum(axis=leading) if needs[2] else None


# --- tuned: chunks of rows; bound by memory, since all passes but the first find a row in the L1 cache ---

PARTS = 32  # at most so many partial sums of dw and db
U = np.uint64


@jit_tuned
def row_moments(x: Array, at: U, n: int) -> tuple[Any, Any, Any]:
    """Return a number near the mean of n elements, the mean's distance from it, and the variance."""
    zero = typed(0, x[0])
    total = off = square = zero
    for j in range(U(n)):
        total += x[at + j]
    centre = total / typed(n, zero)
    # A mean far from 0 is rounded, as the sum was: the distances from it add up to how far it is off, and no
    # digit is lost (Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983).
    for j in range(U(n)):
        d = x[at + j] - centre
        off += d
        square += d * d
    return centre, off / n, square / n - (off / n) * (off / n)


@jit_elementwise
def forward_rows(
    x: Array, w: Array, b: Array, n: int, eps: float, first: int, last: int,
    y: Array, mean: Array, rstd: Array,
) -> None:  # fmt: skip
    """Do rows first to last - 1."""
    for i in range(first, last):
        at = U(i * n)
        centre, off, var = row_moments(x, at, n)
        mean[i] = centre + off
        rstd[i] = 1 / np.sqrt((0.0 if var < 0 else var) + eps)
        m, r = mean[i], rstd[i]
        shift = r * typed((m - centre) - off, m)  # what rounding took from the mean
        for j in range(U(n)):
            y[at + j] = ((x[at + j] - m) * r + shift) * w[j] + b[j]


@jit_parallel
def forward_parallel(
    x: Array, w: Array, b: Array, n: int, eps: float, share: int, y: Array, mean: Array, rstd: Array
) -> None:
    for c in prange((mean.size + share - 1) // share):
        first = signed(c * share)
        forward_rows(x, w, b, n, eps, first, min(first + share, mean.size), y, mean, rstd)


@jit_tuned
def gradient_rows(
    dy: Array, x: Array, w: Array, n: int, mean: Array, rstd: Array, first: int, last: int, dx: Array
) -> None:
    """Write rows first to last - 1 of dx."""
    zero = typed(0, x[0])
    for i in range(first, last):
        at, m, r = U(i * n), mean[i], rstd[i]
        total = dot = zero
        for j in range(U(n)):
            g = dy[at + j] * w[j]
            total += g
            dot += g * (x[at + j] - m)
        along, across = total / typed(n, zero), r * r * (dot / typed(n, zero))
        for j in range(U(n)):
            dx[at + j] = r * ((dy[at + j] * w[j] - along) - (x[at + j] - m) * across)


@jit_tuned
def add_rows(
    dy: Array, x: Array, n: int, mean: Array, rstd: Array, first: int, last: int, dw: Array, db: Array
) -> None:
    """Add to dw and db what rows first to last - 1 contribute."""
    four = first + (last - first) // 4 * 4
    for i in range(first, four, 4):  # one load and store of the sums for four rows
        i0, i1, i2, i3 = U(i * n), U((i + 1) * n), U((i + 2) * n), U((i + 3) * n)
        m0, m1, m2, m3 = mean[i], mean[i + 1], mean[i + 2], mean[i + 3]
        r0, r1, r2, r3 = rstd[i], rstd[i + 1], rstd[i + 2], rstd[i + 3]
        for j in range(U(n)):
            g0, g1, g2, g3 = dy[i0 + j], dy[i1 + j], dy[i2 + j], dy[i3 + j]
            db[j] += (g0 + g1) + (g2 + g3)
            dw[j] += (g0 * ((x[i0 + j] - m0) * r0) + g1 * ((x[i1 + j] - m1) * r1)) + (
                g2 * ((x[i2 + j] - m2) * r2) + g3 * ((x[i3 + j] - m3) * r3)
            )
    for i in range(four, last):
        at, m, r = U(i * n), mean[i], rstd[i]
        for j in range(U(n)):
            db[j] += dy[at + j]
            dw[j] += dy[at + j] * ((x[at + j] - m) * r)


@jit_elementwise
def backward_rows(
    dy: Array, x: Array, w: Array, n: int, mean: Array, rstd: Array, first: int, last: int,
    dx: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    """Do rows first to last - 1, as many at a time as a cache holds; what is not needed is empty."""
    dw[:] = 0
    db[:] = 0
    few = max(4, CHUNK // n // 4 * 4)
    for i in range(first, last, few):
        end = min(i + few, last)
        if dx.size > 0:
            gradient_rows(dy, x, w, n, mean, rstd, i, end, dx)
        if dw.size > 0:
            add_rows(dy, x, n, mean, rstd, i, end, dw, db)


@jit_parallel
def backward_parallel(
    dy: Array, x: Array, w: Array, n: int, mean: Array, rstd: Array, share: int, dx: Array, parts: Array
) -> None:
    for c in prange(parts.shape[1]):
        first = signed(c * share)
        last = min(first + share, mean.size)
        backward_rows(dy, x, w, n, mean, rstd, first, last, dx, parts[0, c], parts[1, c])


def layer_norm_forward_tuned(
    x: Array, w: Array | None, b: Array | None, *, normalized_shape: int | Shape, eps: float = 1e-5
) -> Outputs:
    shape = as_shape(normalized_shape)
    n = math.prod(shape)
    leading = x.shape[: x.ndim - len(shape)]
    y, mean, rstd = empty(x.shape, x.dtype), empty(leading, x.dtype), empty(leading, x.dtype)
    if x.size > 0:
        read = x.reshape(-1), *weights(x, w, b, n), n, float(eps)
        written = y.reshape(-1), mean.reshape(-1), rstd.reshape(-1)
        if x.size < SERIAL_BELOW:
            forward_rows(*read, 0, mean.size, *written)
        else:
            forward_parallel(*read, -(-CHUNK // n), *written)
    return y, mean, rstd


def layer_norm_backward_tuned(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, normalized_shape: int | Shape,
    eps: float = 1e-5,
) -> Grads:  # fmt: skip
    (x, w, b), (_, mean, rstd) = inputs, outputs
    shape = as_shape(normalized_shape)
    n, rows = math.prod(shape), mean.size
    serial = x.size < SERIAL_BELOW
    share = max(1, rows) if serial else max(4, -(-CHUNK // n), -(-rows // PARTS))
    dx = empty(x.shape if needs[0] else (0,), x.dtype)
    parts = empty((2, -(-rows // share), n if needs[1] or needs[2] else 0), x.dtype)
    if x.size > 0:
        read = dy.reshape(-1), x.reshape(-1), weights(x, w, b, n)[0], n, mean.reshape(-1), rstd.reshape(-1)
        if serial:
            backward_rows(*read, 0, rows, dx.reshape(-1), parts[0, 0], parts[1, 0])
        else:
            backward_parallel(*read, share, dx.reshape(-1), parts)
    dw, db = parts[:, 0] if parts.shape[1] == 1 else parts.sum(axis=1)
    return (
        dx if needs[0] else None,
        dw.reshape(shape) if needs[1] else None,
        db.reshape(shape) if needs[2] else None,
    )


# --- in ops ---


def layer_norm_formula(
    x: Any, w: Any = None, b: Any = None, *, normalized_shape: Any, eps: float = 1e-5
) -> Any:
    count = 1 if isinstance(normalized_shape, int) else len(normalized_shape)
    return scaled(normalised(x, tuple(range(x.ndim - count, x.ndim)), eps), w, b)


# --- records ---


def check(x: Array, w: Array | None, b: Array | None, *, normalized_shape: Any, eps: Any = 1e-5) -> None:
    floats("layer_norm", x=x, **given(w=w, b=b))
    shape = as_shape(normalized_shape)
    if not all(isinstance(n, Integral) and not isinstance(n, bool) for n in shape):
        fail_type("layer_norm", "normalized_shape", normalized_shape, "an int or a tuple of ints")
    if not shape or min(shape) < 1:
        wanted = "name at least one axis, each of length 1 or more"
        raise ValueError(f"layer_norm: normalized_shape must {wanted}, got {normalized_shape!r}")
    if x.ndim < len(shape) or x.shape[x.ndim - len(shape) :] != shape:
        raise ValueError(
            f"layer_norm: normalized_shape must be the trailing axes of x {x.shape}, got {normalized_shape!r}"
        )
    for name, a in given(w=w, b=b).items():
        if a.shape != shape:
            raise ValueError(f"layer_norm: {name} must have shape {shape} (normalized_shape), got {a.shape}")
    number("layer_norm", "eps", eps, least=0)


def sample(
    rng: np.random.Generator, dtype: Any, shape: Shape, axes: int = 1, has: str = "wb", **attributes: Any
) -> Sample:
    """Return x around 2 with a spread of 1.5, and, for its last ``axes`` axes, w and b if in ``has``."""
    inner = shape[len(shape) - axes :]
    x = np.asarray(rng.normal(2, 1.5, shape), dtype)
    w = np.asarray(rng.uniform(0.5, 2, inner), dtype) if "w" in has else None
    b = np.asarray(rng.standard_normal(inner), dtype) if "b" in has else None
    attributes["normalized_shape"] = inner if axes > 1 else inner[0]
    return Sample(f"{'x'.join(map(str, shape))} over {axes} {has}".rstrip(), (x, w, b), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (4, 6))
    yield sample(rng, dtype, (7,))
    yield sample(rng, dtype, (3, 5, 19), eps=0.5)
    yield sample(rng, dtype, (3, 2, 3, 4), axes=3)
    yield sample(rng, dtype, (9, 2, 3), axes=2, has="w")
    yield sample(rng, dtype, (2, 5, 1, 4), axes=2, has="b")
    yield sample(rng, dtype, (5, 3), has="")
    yield sample(rng, dtype, (2, 1))
    yield sample(rng, dtype, (0, 3))


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((4, 3, 2)), np.ones(2)

    def bad(error: type[Exception], words: str, *arrays: Any, **attributes: Any) -> BadInput:
        return BadInput(error, words, arrays, {"normalized_shape": 2, **attributes})

    yield bad(TypeError, "x must be float32 or float64, got int64", x.astype(int), w, w)
    yield bad(TypeError, "x and w must have one dtype", x, w.astype(np.float32), None)
    yield bad(ValueError, "w must have shape (2,) (normalized_shape), got (3,)", x, np.ones(3), w)
    yield bad(ValueError, "b must have shape (2,) (normalized_shape), got (1, 2)", x, None, np.ones((1, 2)))
    trailing_axes = "normalized_shape must be the trailing axes of x (4, 3, 2), got "
    yield bad(ValueError, trailing_axes + "3", x, None, None, normalized_shape=3)
    yield bad(ValueError, trailing_axes + "(4, 3)", x, None, None, normalized_shape=(4, 3))
    yield bad(ValueError, "got (1, 4, 3, 2)", x, None, None, normalized_shape=(1, 4, 3, 2))
    yield bad(ValueError, "must name at least one axis", x, None, None, normalized_shape=())
    yield bad(ValueError, "each of length 1 or more, got 0", x[..., :0], None, None, normalized_shape=0)
    yield bad(TypeError, "must be an int or a tuple of ints, got str", x, None, None, normalized_shape="2")
    yield bad(TypeError, "must be an int or a tuple of ints", x, None, None, normalized_shape=2.0)
    yield bad(ValueError, "eps must be at least 0, got -1", x, w, w, eps=-1)


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (500, 101))
    yield sample(rng, dtype, (1024, 768))
    yield sample(rng, dtype, (64, 128))


def jvp(
    tangents: tuple[Array | None, ...], outputs: Outputs, inputs: Inputs, *, normalized_shape: int | Shape,
    eps: float = 1e-5,
) -> Array:  # fmt: skip
    (x, w, _), (y, mean, rstd), (dx, dw, db) = inputs, outputs, tangents
    axes = trailing(x, normalized_shape)
    rstd = np.expand_dims(rstd, axes)
    x_hat = (x - np.expand_dims(mean, axes)) * rstd
    dy = np.zeros_like(y)
    if dx is not None:
        # x^ moves as dx, less what the mean and the spread of dx take along.
        moved = rstd * (dx - example_mean(dx, axes) - x_hat * example_mean(dx * x_hat, axes))
        dy += moved if w is None else moved * w
    if dw is not None:
        dy += dw * x_hat
    return dy if db is None else dy + db


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "layer_norm.py", old, new)


layer_norm = Op(
    name="layer_norm",
    loops=Body(layer_norm_forward_loops, layer_norm_backward_loops),
    vectorized=Body(layer_norm_forward_vectorized, layer_norm_backward_vectorized),
    tuned=Body(layer_norm_forward_tuned, layer_norm_backward_tuned),
    cuda=Body(layer_norm_forward_cuda, layer_norm_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, *_, **__: 8 * int(x.size),
    jvp=jvp,
    gradient=by_formula(layer_norm_formula),
    tolerance=512,
    mutants=(
        mutant("mean's share of dx forgotten", "w[j] - total / n - x_hat", "w[j] - x_hat"),
        mutant("variance's share of dx forgotten", "- total / n - x_hat * dot / n)", "- total / n)"),
        mutant("unbiased variance", "np.sqrt(squares / n + eps)", "np.sqrt(squares / max(1, n - 1) + eps)"),
        mutant("eps outside the root", "1 / np.sqrt(squares / n + eps)", "1 / (np.sqrt(squares / n) + eps)"),
        mutant("missing +=", "db[j] += dy[i, j]\n", "db[j] = dy[i, j]\n"),
        mutant("dw of the raw x", "dw[j] += dy[i, j] * x_hat", "dw[j] += dy[i, j] * x[i, j]"),
        mutant("first axis normalised", "tuple(range(x.ndim - len(as_shape(normalized_shape)), x.ndim))",
               "tuple(range(len(as_shape(normalized_shape))))", "vectorized"),
        mutant("weight forgotten in dx", "g = dy if w is None else dy * w", "g = dy", "vectorized"),
        mutant("unbiased variance", "square / n - (off / n)", "square / (n - 0.5) - (off / n)", "tuned"),
        mutant("mean's share of dx forgotten", "w[j] - along) -", "w[j]) -", "tuned"),
        mutant("a row of four left out", "(g0 + g1) + (g2 + g3)", "(g0 + g1) + g2", "tuned"),
        mutant("rows behind the fours left out", "range(four, last):", "range(four, last - 1):", "tuned"),
        mutant("sums not cleared", "dw[:] = 0\n", "pass\n", "tuned"),
        mutant("first part alone", "parts[:, 0] if parts.shape[1] == 1 else parts.sum(axis=1)", "parts[:, 0]",
               "tuned"),
        mutant("last chunk left out", "range((mean.size + share - 1) // share)", "range(mean.size // share)",
               "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (layer_norm,)
