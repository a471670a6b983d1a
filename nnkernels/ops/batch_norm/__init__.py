"""Batch normalisation by the batch's own statistics.

    y_ncs = w_c x^_ncs + b_c      x^_ncs = (x_ncs - m_c) r_c      r_c = 1 / sqrt(v_c + eps)
    m_c = 1/n sum of x_ncs        v_c = 1/n sum of (x_ncs - m_c)^2

    db_c = sum of dy_ncs          dw_c = sum of dy_ncs x^_ncs
    dx_ncs = w_c r_c (dy_ncs - db_c / n - x^_ncs dw_c / n)

Sums run over all images and all positions: n = N S values for each channel, at least 2. x is (N, C, ...), its
S positions on any number of axes (none: S = 1), float32 or float64; w and b are (C,) or None for 1 and 0. The
last two terms of dx are what x changes through m and v (Ioffe and Szegedy, Batch Normalization, ICML 2015).

Keeps mean m and rstd r, each (C,), for the backward pass; v is the biased variance.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.batch_norm.cuda import batch_norm_backward_cuda, batch_norm_forward_cuda
from nnkernels.ops.batch_norm.loops import batch_norm_backward_loops, batch_norm_forward_loops
from nnkernels.ops.batch_norm.shapes import Inputs, Outputs, weights
from nnkernels.ops.batch_norm.tuned import batch_norm_backward_tuned, batch_norm_forward_tuned
from nnkernels.ops.batch_norm.vectorized import (
    along_channels,
    batch_norm_backward_vectorized,
    batch_norm_forward_vectorized,
    channel_mean,
)
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.normalised import in_channels, normalised, scaled
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import floats, given, number

# --- in ops ---


def batch_norm_formula(x: Any, w: Any = None, b: Any = None, *, eps: float = 1e-5) -> Any:
    axes = (0, *range(2, x.ndim))
    return scaled(normalised(x, axes, eps), in_channels(w, x), in_channels(b, x))


# --- records ---


def check(x: Array, w: Array | None, b: Array | None, *, eps: Any = 1e-5) -> None:
    floats("batch_norm", x=x, **given(w=w, b=b))
    if x.ndim < 2:
        raise ValueError(f"batch_norm: x must have at least 2 axes (N, C, ...), got shape {x.shape}")
    for name, a in given(w=w, b=b).items():
        if a.shape != x.shape[1:2]:
            raise ValueError(
                f"batch_norm: {name} must have shape {x.shape[1:2]}, one value per channel of x {x.shape}, "
                f"got {a.shape}"
            )
    number("batch_norm", "eps", eps)
    if eps <= 0:
        raise ValueError(f"batch_norm: eps must be positive, got {eps!r}")
    n = x.shape[0] * math.prod(x.shape[2:])
    if n < 2:
        raise ValueError(
            f"batch_norm: x must have at least 2 values per channel to normalise, got {n} (shape {x.shape})"
        )


def sample(
    rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], has: str = "wb", **attributes: Any
) -> Sample:
    """Return x around 2 with a spread of 1.5, and of w and b those that ``has`` names."""
    x = np.asarray(rng.normal(2, 1.5, shape), dtype)
    w = np.asarray(rng.uniform(0.5, 2, shape[1]), dtype) if "w" in has else None
    b = np.asarray(rng.standard_normal(shape[1]), dtype) if "b" in has else None
    return Sample(f"{'x'.join(map(str, shape))}{' ' if has else ''}{has}", (x, w, b), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (4, 3, 1, 1))
    yield sample(rng, dtype, (5, 3, 3, 7))
    yield sample(rng, dtype, (7, 5))
    yield sample(rng, dtype, (2, 1))
    yield sample(rng, dtype, (6, 2, 5), has="w", eps=0.5)
    yield sample(rng, dtype, (1, 3, 2, 5), has="b")
    yield sample(rng, dtype, (3, 4, 2, 2, 3), has="")


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((4, 3, 2, 2)), np.ones(3)
    yield BadInput(
        ValueError,
        "at least 2 values per channel to normalise, got 1 (shape (1, 3))",
        (x[:1, :, 0, 0], w, w),
    )
    yield BadInput(ValueError, "at least 2 values per channel to normalise, got 0", (x[:0], w, w))
    yield BadInput(
        ValueError, "x must have at least 2 axes (N, C, ...), got shape (4,)", (x[:, 0, 0, 0], w, w)
    )
    yield BadInput(ValueError, "w must have shape (3,), one value per channel", (x, w[:2], w))
    yield BadInput(ValueError, "b must have shape (3,), one value per channel", (x, None, np.ones((3, 1))))
    yield BadInput(TypeError, "x must be float32 or float64, got int64", (x.astype(int), w, w))
    yield BadInput(TypeError, "x and w must have one dtype", (x, w.astype(np.float32), None))
    yield BadInput(ValueError, "eps must be positive, got 0", (x, w, w), {"eps": 0})
    yield BadInput(TypeError, "eps must be a number, got str", (x, w, w), {"eps": "1e-5"})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (64, 16, 8, 8))
    yield sample(rng, dtype, (64, 64, 28, 28))
    yield sample(rng, dtype, (128, 256))


def jvp(tangents: tuple[Array | None, ...], outputs: Outputs, inputs: Inputs, *, eps: float = 1e-5) -> Array:
    (x, w, b), (y, mean, rstd), (dx, dw, db) = inputs, outputs, tangents
    x_hat = (x - along_channels(x, mean)) * along_channels(x, rstd)
    dy = np.zeros_like(y)
    if dx is not None:
        # x^ moves as dx, less what the mean and the spread of dx take along.
        along, across = channel_mean(dx), channel_mean(dx * x_hat)
        moved = dx - along_channels(x, along) - x_hat * along_channels(x, across)
        dy += along_channels(x, weights(x, w, b)[0] * rstd) * moved
    if dw is not None:
        dy += along_channels(x, dw) * x_hat
    return dy if db is None else dy + along_channels(x, db)


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, f"batch_norm/{body}.py", old, new)


batch_norm = Op(
    name="batch_norm",
    loops=Body(batch_norm_forward_loops, batch_norm_backward_loops),
    vectorized=Body(batch_norm_forward_vectorized, batch_norm_backward_vectorized),
    tuned=Body(batch_norm_forward_tuned, batch_norm_backward_tuned),
    cuda=Body(batch_norm_forward_cuda, batch_norm_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, *_, **__: 7 * int(x.size),
    jvp=jvp,
    gradient=by_formula(batch_norm_formula),
    tolerance=512,  # float64: one long sum in order against many short ones
    mutants=(
        mutant("mean's share of dx forgotten", "- total / (N * S) - x_hat", "- x_hat"),
        mutant("variance's share of dx forgotten", "- x_hat * dot / (N * S))", ")"),
        mutant("unbiased variance", "squares / (N * S) + eps", "squares / (N * S - 1) + eps"),
        mutant("eps outside the root", "1 / np.sqrt(squares / (N * S) + eps)",
               "1 / (np.sqrt(squares / (N * S)) + eps)"),
        mutant("missing +=", "dot += dy", "dot = dy"),
        mutant("each image on its own", "axis=(0, *range(2, x.ndim))", "axis=tuple(range(2, x.ndim))",
               "vectorized"),
        mutant("dw a mean", "dw * n if needs[1]", "dw if needs[1]", "vectorized"),
        mutant("unbiased variance", "else square) / (N * S)", "else square) / (N * S - 1)", "tuned"),
        mutant("variance between blocks forgotten", "* (sums[1, part, c] - mean) ** 2", "* 0", "tuned"),
        mutant("variance's share of dx forgotten", "* (dot / (N * S))", "* (0 / (N * S))", "tuned"),
        mutant("dw without rstd", "dw[c], db[c] = dot * r, total", "dw[c], db[c] = dot, total", "tuned"),
        mutant("a row of four left out", "total[j] += (g0 + g1) + (g2 + g3)", "total[j] += (g0 + g1) + g2",
               "tuned"),
        mutant("squares: missing +=", "square[j] += d * d", "square[j] = d * d", "tuned"),
        mutant("weights of the first channel", "= values[U(c) + k]", "= values[c]", "tuned"),
        mutant("last block left out", "prange(spans * plan[7]):\n        normalise",
               "prange(spans * plan[7] - 1):\n        normalise", "tuned"),
    ),
)  # fmt: skip
