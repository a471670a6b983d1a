"""Batch normalisation by given statistics, as after training: an affine function of each channel.

    y_ncs = w_c (x_ncs - m_c) r_c + b_c       r_c = 1 / sqrt(v_c + eps)

    dx_ncs = w_c r_c dy_ncs     db_c = sum of dy_ncs     dw_c = sum of dy_ncs (x_ncs - m_c) r_c

Sums run over images and positions. x is (N, C, ...), float32 or float64; m and v (the mean and the variance
of each channel, constants without gradient), w and b are (C,), the last two None for 1 and 0 (Ioffe and
Szegedy, Batch Normalization, ICML 2015, algorithm 2).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, prange, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.batch_norm.cuda import inference_backward_cuda, inference_forward_cuda
from nnkernels.ops.batch_norm.shapes import as_planes, weights
from nnkernels.ops.batch_norm.tuned import LONG, Plan, U, block_sums, normalise, plan_for
from nnkernels.ops.batch_norm.vectorized import along_channels
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.normalised import in_channels, scaled
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import floats, given, number

Inputs = tuple[Array, Array, Array, Array | None, Array | None]
Needs = tuple[bool, bool, bool, bool, bool]
Grads = tuple[Array | None, None, None, Array | None, Array | None]


def finished(grads: tuple[Array, Array, Array], needs: Needs) -> Grads:
    """Return dx, dw and db in the places of their inputs, None where not needed."""
    dx, dw, db = (grad if need else None for grad, need in zip(grads, (needs[0], *needs[3:])))
    return dx, None, None, dw, db


# --- loops ---


@jit
def forward_kernel(x: Array, mean: Array, var: Array, w: Array, b: Array, eps: float, y: Array) -> None:
    N, C, S = x.shape
    for n in range(N):
        for c in range(C):
            r = 1 / np.sqrt(var[c] + eps)
            for s in range(S):
                y[n, c, s] = w[c] * ((x[n, c, s] - mean[c]) * r) + b[c]


@jit
def backward_kernel(
    dy: Array, x: Array, mean: Array, var: Array, w: Array, eps: float, dx: Array, dw: Array, db: Array
) -> None:
    N, C, S = x.shape
    for c in range(C):
        r = 1 / np.sqrt(var[c] + eps)
        total, dot = 0.0, 0.0
        for n in range(N):
            for s in range(S):
                dx[n, c, s] = w[c] * r * dy[n, c, s]
                total += dy[n, c, s]
                dot += dy[n, c, s] * (x[n, c, s] - mean[c]) * r
        dw[c], db[c] = dot, total


def inference_forward_loops(
    x: Array, mean: Array, var: Array, w: Array | None, b: Array | None, *, eps: float = 1e-5
) -> tuple[Array]:
    y = np.empty(x.shape, x.dtype)
    forward_kernel(as_planes(x), mean, var, *weights(x, w, b), float(eps), as_planes(y))
    return (y,)


def inference_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, eps: float = 1e-5
) -> Grads:
    x, mean, var, w, b = inputs
    dx, dw, db = np.empty(x.shape, x.dtype), np.empty_like(mean), np.empty_like(mean)
    scale = weights(x, w, b)[0]
    backward_kernel(as_planes(dy), as_planes(x), mean, var, scale, float(eps), as_planes(dx), dw, db)
    return finished((dx, dw, db), needs)


# --- vectorized ---


def inference_forward_vectorized(
    x: Array, mean: Array, var: Array, w: Array | None, b: Array | None, *, eps: float = 1e-5
) -> tuple[Array]:
    w, b = weights(x, w, b)
    scale = w / np.sqrt(var + x.dtype.type(eps))
    return ((x - along_channels(x, mean)) * along_channels(x, scale) + along_channels(x, b),)


def inference_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, eps: float = 1e-5
) -> Grads:
    x, mean, var, w, b = inputs
    r = 1 / np.sqrt(var + x.dtype.type(eps))
    axes = (0, *range(2, x.ndim))
    dx = dy * along_channels(x, weights(x, w, b)[0] * r)
    dw = (dy * (x - along_channels(x, mean))).sum(axis=axes) * r
    return finished((dx, dw, dy.sum(axis=axes)), needs)


# --- tuned: the blocks of batch_norm. Bound: memory, x and dy are read and y or dx written once ---


@jit_elementwise
def affine(mean: Array, var: Array, w: Array, b: Array, eps: float, by: Array) -> None:
    """Write what y = (x - by[0]) by[1] + by[2] goes by."""
    for c in range(U(mean.size)):
        by[0, c], by[1, c], by[2, c] = mean[c], w[c] / np.sqrt(var[c] + eps), b[c]


@jit_elementwise
def forward_rows(x: Array, S: int, by: Array, first: int, last: int, y: Array) -> None:
    """Write rows first to last - 1 of y, one channel of one image each, as they lie in memory."""
    c = first % by.shape[1]
    for i in range(first, last):
        m, a, d, at = by[0, c], by[1, c], by[2, c], U(i * S)
        for s in range(U(S)):
            y[at + s] = (x[at + s] - m) * a + d
        c = c + 1 if c + 1 < by.shape[1] else 0


@jit_elementwise
def forward_task(x: Array, plan: Plan, first: int, last: int, by: Array, y: Array) -> None:
    """Do rows, or blocks where rows are short, first to last - 1."""
    if plan[2] >= LONG:
        forward_rows(x, plan[2], by, first, last, y)
    else:
        for i in range(first, last):
            normalise(x, plan, i, by, y)


@jit_parallel
def forward_parallel(x: Array, plan: Plan, count: int, share: int, by: Array, y: Array) -> None:
    for t in prange((count + share - 1) // share):
        first = signed(t * share)
        forward_task(x, plan, first, min(first + share, count), by, y)


@jit_elementwise
def backward_blocks(
    dy: Array, x: Array, plan: Plan, first: int, last: int, by: Array, sums: Array, dx: Array
) -> None:
    """Write blocks first to last - 1 of dx, y for dy with mean and bias 0; their parts of dw and db."""
    for i in range(first, last):
        if sums.size > 0:
            block_sums(dy, x, plan, i, by[3], sums)
        if dx.size > 0:
            normalise(dy, plan, i, by, dx)


@jit_parallel
def backward_parallel(
    dy: Array, x: Array, plan: Plan, blocks: int, by: Array, sums: Array, dx: Array
) -> None:
    for i in prange(blocks):
        backward_blocks(dy, x, plan, signed(i), signed(i) + 1, by, sums, dx)


def inference_forward_tuned(
    x: Array, mean: Array, var: Array, w: Array | None, b: Array | None, *, eps: float = 1e-5
) -> tuple[Array]:
    y = empty(x.shape, x.dtype)
    if x.size > 0:
        plan, spans = plan_for(x)
        by = empty((3, mean.size), x.dtype)
        affine(mean, var, *weights(x, w, b), float(eps), by)
        N, C, S = plan[:3]
        count = N * C if S >= LONG else spans * plan[7]
        if x.size < SERIAL_BELOW_IF_CHEAP:
            forward_task(x.reshape(-1), plan, 0, count, by, y.reshape(-1))
        else:
            forward_parallel(x.reshape(-1), plan, count, share_of(count, x.size // count), by, y.reshape(-1))
    return (y,)


def inference_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, eps: float = 1e-5
) -> Grads:
    x, mean, var, w, b = inputs
    plan, spans = plan_for(x) if x.size > 0 else ((0,) * 8, 0)
    summed = needs[3] or needs[4]
    dx = empty(x.shape if needs[0] else (0,), x.dtype)
    sums = empty((2, plan[7], x.shape[1] if summed else 0), np.float64)
    r = 1 / np.sqrt(var + x.dtype.type(eps))
    if x.size > 0:
        nothing = np.zeros_like(mean)
        by = np.stack((nothing, weights(x, w, b)[0] * r, nothing, mean))
        if x.size < SERIAL_BELOW:
            backward_blocks(dy.reshape(-1), x.reshape(-1), plan, 0, spans * plan[7], by, sums, dx.reshape(-1))
        else:
            backward_parallel(dy.reshape(-1), x.reshape(-1), plan, spans * plan[7], by, sums, dx.reshape(-1))
    db, dw = sums.sum(axis=1)
    narrow = (dw * r).astype(x.dtype, copy=False) if summed else dw, db.astype(x.dtype)
    return finished((dx, *narrow), needs)


# --- in ops ---


def inference_formula(x: Any, mean: Any, var: Any, w: Any = None, b: Any = None, *, eps: float = 1e-5) -> Any:
    x_hat = (x - in_channels(mean, x)) / in_channels((var + eps).sqrt(), x)
    return scaled(x_hat, in_channels(w, x), in_channels(b, x))


# --- records ---


def check(
    x: Array, mean: Array, var: Array, w: Array | None, b: Array | None, *, eps: Any = 1e-5
) -> None:  # fmt: skip
    floats("batch_norm_inference", x=x, mean=mean, var=var, **given(w=w, b=b))
    if x.ndim < 2:
        raise ValueError(
            f"batch_norm_inference: x must have at least 2 axes (N, C, ...), got shape {x.shape}"
        )
    for name, a in given(mean=mean, var=var, w=w, b=b).items():
        if a.shape != x.shape[1:2]:
            raise ValueError(
                f"batch_norm_inference: {name} must have shape {x.shape[1:2]}, one value per channel of x "
                f"{x.shape}, got {a.shape}"
            )
    number("batch_norm_inference", "eps", eps)
    if eps <= 0:
        raise ValueError(f"batch_norm_inference: eps must be positive, got {eps!r}")


def sample(
    rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], has: str = "wb", **attributes: Any
) -> Sample:
    """Return x around 2, a mean and a variance, and of w and b those that ``has`` names."""
    C = shape[1]
    x, mean = rng.normal(2, 1.5, shape).astype(dtype), rng.normal(2, 0.5, C).astype(dtype)
    var = rng.uniform(0.5, 3, C).astype(dtype)
    w = rng.uniform(0.5, 2, C).astype(dtype) if "w" in has else None
    b = rng.standard_normal(C).astype(dtype) if "b" in has else None
    return Sample(f"{'x'.join(map(str, shape))}{' ' if has else ''}{has}", (x, mean, var, w, b), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (5, 3, 2, 3))
    yield sample(rng, dtype, (7, 5), eps=0.5)
    yield sample(rng, dtype, (1, 1))
    yield sample(rng, dtype, (0, 3, 2))
    yield sample(rng, dtype, (6, 2, 5), has="w")
    yield sample(rng, dtype, (1, 2, 37), has="b")
    yield sample(rng, dtype, (3, 2, 2, 1, 3), has="")


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((4, 3, 2, 2)), np.ones(3)
    yield BadInput(ValueError, "x must have at least 2 axes", (x[:, 0, 0, 0], w, w, w, w))
    yield BadInput(ValueError, "mean must have shape (3,), one value per channel", (x, w[:2], w, w, w))
    yield BadInput(ValueError, "var must have shape (3,)", (x, w, w[:, None], w, w))
    yield BadInput(ValueError, "b must have shape (3,)", (x, w, w, None, w[:1]))
    yield BadInput(TypeError, "x must be float32 or float64, got int64", (x.astype(int), w, w, w, w))
    yield BadInput(TypeError, "x and mean must have one dtype", (x, w.astype(np.float32), w, w, w))
    yield BadInput(ValueError, "eps must be positive, got 0", (x, w, w, w, w), {"eps": 0})
    yield BadInput(TypeError, "mean must be a NumPy array", (x, None, w, w, w))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (64, 16, 16, 16))
    yield sample(rng, dtype, (64, 64, 28, 28))


def jvp(
    tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: Inputs, *, eps: float = 1e-5
) -> Array:
    x, mean, var, w, b = inputs
    dx, _, _, dw, db = tangents
    r = 1 / np.sqrt(var + eps)
    dy = np.zeros_like(x)
    if dx is not None:
        dy += along_channels(x, weights(x, w, b)[0] * r) * dx
    if dw is not None:
        dy += along_channels(x, dw * r) * (x - along_channels(x, mean))
    return dy if db is None else dy + along_channels(x, db)


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "batch_norm/inference.py", old, new)


batch_norm_inference = Op(
    name="batch_norm_inference",
    loops=Body(inference_forward_loops, inference_backward_loops),
    vectorized=Body(inference_forward_vectorized, inference_backward_vectorized),
    tuned=Body(inference_forward_tuned, inference_backward_tuned),
    cuda=Body(inference_forward_cuda, inference_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, *_, **__: 3 * x.shape[0] * x.shape[1] * math.prod(x.shape[2:]),
    jvp=jvp,
    gradient=by_formula(inference_formula),
    constants=frozenset({1, 2}),
    tolerance=512,
    mutants=(
        mutant("mean forgotten", "(x[n, c, s] - mean[c]) * r) + b[c]", "x[n, c, s] * r) + b[c]"),
        mutant("weight forgotten in dx", "w[c] * r * dy[n, c, s]", "r * dy[n, c, s]"),
        mutant("missing +=", "dot += dy", "dot = dy"),
        mutant("dw without rstd", "(x[n, c, s] - mean[c]) * r\n", "(x[n, c, s] - mean[c])\n"),
        mutant("last share left out", "min(first + share, count), by, y)",
               "min(first + share, count - 1), by, y)", "tuned"),
        mutant("channels not taken in turn", "c = c + 1 if c + 1 < by.shape[1] else 0", "c = c", "tuned"),
        mutant("bias in dx", "weights(x, w, b)[0] * r, nothing, mean", "weights(x, w, b)[0] * r, mean, mean",
               "tuned"),
        mutant("dw about 0", "plan, i, by[3], sums)", "plan, i, by[0], sums)", "tuned"),
        mutant("dw without rstd", "(dw * r).astype", "dw.astype", "tuned"),
        mutant("variance as deviation", "w[c] / np.sqrt(var[c] + eps), b[c]", "w[c] / (var[c] + eps), b[c]",
               "tuned"),
    ),
)  # fmt: skip
