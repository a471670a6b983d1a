"""Group normalisation: the channels of one image, G groups of them, each by its own statistics.

    y_ncs = w_c x^_ncs + b_c      x^_ncs = (x_ncs - m_ng) r_ng      r_ng = 1 / sqrt(v_ng + eps)
    m_ng = 1/k sum of x_ncs       v_ng = 1/k sum of (x_ncs - m_ng)^2

    db_c = sum of dy_ncs          dw_c = sum of dy_ncs x^_ncs       over images and positions
    dx_ncs = r_ng (g_ncs - 1/k sum of g - x^_ncs / k sum of g x^)   over the group, g_ncs = dy_ncs w_c

x is (N, C, ...), its S positions on any number of axes; ``num_groups`` G divides C, and channel c belongs to
group g = c // (C / G), whose sums have k = C / G S terms. float32 or float64; w and b are (C,) or None for 1
and 0 (Wu and He, Group Normalization, ECCV 2018). G = C is instance normalisation.

Keeps mean m and rstd r, each (N, G), for the backward pass; v is the biased variance.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, jit_tuned, prange, signed, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, share_of
from nnkernels.ops.batch_norm.shapes import Grads, Inputs, Needs, Outputs, weights
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.layer_norm import U, row_moments
from nnkernels.ops.layer_norm_cuda import group_norm_backward_cuda, group_norm_forward_cuda
from nnkernels.ops.normalised import in_channels, normalised, scaled
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import check_int, floats, given, number


def as_groups(x: Array, num_groups: int) -> Array:
    """Return the (N, G, C / G, S) view of x (N, C, ...)."""
    N, C = x.shape[:2]
    return x.reshape(N, num_groups, C // num_groups, math.prod(x.shape[2:]))


# --- loops: sums in float64 for either dtype ---


@jit
def forward_kernel(x: Array, w: Array, b: Array, eps: float, y: Array, mean: Array, rstd: Array) -> None:
    N, G, K, S = x.shape
    for n in range(N):
        for g in range(G):
            total = 0.0
            for k in range(K):
                for s in range(S):
                    total += x[n, g, k, s]
            m = total / (K * S)
            squares = 0.0
            for k in range(K):
                for s in range(S):
                    squares += (x[n, g, k, s] - m) ** 2
            r = 1 / np.sqrt(squares / (K * S) + eps)
            for k in range(K):
                for s in range(S):
                    y[n, g, k, s] = w[g * K + k] * ((x[n, g, k, s] - m) * r) + b[g * K + k]
            mean[n, g], rstd[n, g] = m, r


@jit
def backward_kernel(
    dy: Array, x: Array, w: Array, mean: Array, rstd: Array, dx: Array, dw: Array, db: Array
) -> None:
    N, G, K, S = x.shape
    for n in range(N):
        for g in range(G):
            m, r = mean[n, g], rstd[n, g]
            total, dot = 0.0, 0.0
            for k in range(K):
                for s in range(S):
                    x_hat = (x[n, g, k, s] - m) * r
                    total += dy[n, g, k, s] * w[g * K + k]
                    dot += dy[n, g, k, s] * w[g * K + k] * x_hat
                    dw[g * K + k] += dy[n, g, k, s] * x_hat
                    db[g * K + k] += dy[n, g, k, s]
            for k in range(K):
                for s in range(S):
                    x_hat = (x[n, g, k, s] - m) * r
                    dx[n, g, k, s] = r * (
                        dy[n, g, k, s] * w[g * K + k] - total / (K * S) - x_hat * dot / (K * S)
                    )


def group_norm_forward_loops(
    x: Array, w: Array | None, b: Array | None, *, num_groups: int, eps: float = 1e-5
) -> Outputs:
    y, (N, G) = np.empty(x.shape, x.dtype), (len(x), num_groups)
    mean, rstd = np.empty((N, G), x.dtype), np.empty((N, G), x.dtype)
    forward_kernel(as_groups(x, G), *weights(x, w, b), float(eps), as_groups(y, G), mean, rstd)
    return y, mean, rstd


def group_norm_backward_loops(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, num_groups: int, eps: float = 1e-5
) -> Grads:
    (x, w, b), (_, mean, rstd), G = inputs, outputs, num_groups
    C = x.shape[1]
    dx, dw, db = np.empty(x.shape, x.dtype), np.zeros(C, np.float64), np.zeros(C, np.float64)
    groups = as_groups(dy, G), as_groups(x, G)
    backward_kernel(*groups, weights(x, w, b)[0], mean, rstd, as_groups(dx, G), dw, db)
    narrow = dw.astype(x.dtype), db.astype(x.dtype)
    return dx if needs[0] else None, narrow[0] if needs[1] else None, narrow[1] if needs[2] else None


# --- vectorized ---


def group_mean(x: Array) -> Array:
    """Return the mean of each group of x (N, G, C / G, S) as (N, G, 1, 1)."""
    mean: Array = x.mean(axis=(2, 3), dtype=np.float64, keepdims=True)
    return mean


def per_channel(a: Array, num_groups: int) -> Array:
    """Return a (C,) as (G, C / G, 1)."""
    return a.reshape(num_groups, -1, 1)


def group_norm_forward_vectorized(
    x: Array, w: Array | None, b: Array | None, *, num_groups: int, eps: float = 1e-5
) -> Outputs:
    w, b = weights(x, w, b)
    groups = as_groups(x, num_groups)
    mean = group_mean(groups).astype(x.dtype)
    moved = groups - mean
    rstd = (1 / np.sqrt(group_mean(moved * moved) + eps)).astype(x.dtype)
    y = moved * rstd * per_channel(w, num_groups) + per_channel(b, num_groups)
    return y.reshape(x.shape), mean[:, :, 0, 0], rstd[:, :, 0, 0]


def group_norm_backward_vectorized(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, num_groups: int, eps: float = 1e-5
) -> Grads:
    (x, w, b), (_, mean, rstd) = inputs, outputs
    mean, rstd = mean[:, :, None, None], rstd[:, :, None, None]
    groups = as_groups(dy, num_groups)
    x_hat = (as_groups(x, num_groups) - mean) * rstd
    dx = None
    if needs[0]:
        g = groups * per_channel(weights(x, w, b)[0], num_groups)
        along, across = group_mean(g).astype(x.dtype), group_mean(g * x_hat).astype(x.dtype)
        dx = (rstd * (g - along - x_hat * across)).reshape(x.shape)
    dw = (groups * x_hat).sum(axis=(0, 3)).reshape(-1) if needs[1] else None
    return dx, dw, groups.sum(axis=(0, 3)).reshape(-1) if needs[2] else None


# --- tuned: one group of one image at a time, which the cache holds from the first pass to the last.
# Bound: memory, x (and dy) are read and y or dx written once ---


@jit_elementwise
def forward_groups(
    x: Array, w: Array, b: Array, S: int, eps: float, first: int, last: int, y: Array, mean: Array,
    rstd: Array,
) -> None:  # fmt: skip
    """Do groups first to last - 1 of all N G."""
    G = mean.shape[1]
    K = w.size // G
    for i in range(first, last):
        n, g = i // G, i % G
        centre, off, var = row_moments(x, U(i * K * S), K * S)
        mean[n, g] = centre + off
        rstd[n, g] = 1 / np.sqrt((0.0 if var < 0 else var) + eps)
        m = mean[n, g]
        rest = typed((m - centre) - off, m)  # what rounding took from the mean
        for k in range(K):
            at, c = U((i * K + k) * S), g * K + k
            scale = w[c] * rstd[n, g]
            shift = b[c] + scale * rest
            for s in range(U(S)):
                y[at + s] = (x[at + s] - m) * scale + shift


@jit_parallel
def forward_parallel(
    x: Array, w: Array, b: Array, S: int, eps: float, share: int, y: Array, mean: Array, rstd: Array
) -> None:
    for t in prange((mean.size + share - 1) // share):
        first = signed(t * share)
        forward_groups(x, w, b, S, eps, first, min(first + share, mean.size), y, mean, rstd)


@jit_tuned
def channel_sums(dy: Array, x: Array, at: U, S: int, m: Any) -> tuple[Any, Any]:
    """Return the sums of dy and of dy (x - m) over the S positions of one channel."""
    total = dot = typed(0, m)
    for s in range(U(S)):
        total += dy[at + s]
        dot += dy[at + s] * (x[at + s] - m)
    return total, dot


@jit_elementwise
def backward_groups(
    dy: Array, x: Array, w: Array, S: int, mean: Array, rstd: Array, first: int, last: int,
    dx: Array, sums: Array,
) -> None:  # fmt: skip
    """Do groups first to last - 1; ``sums`` gets what each channel of each image adds to dw and db."""
    G = mean.shape[1]
    K = w.size // G
    for i in range(first, last):
        n, g = i // G, i % G
        m, r = mean[n, g], rstd[n, g]
        total, dot = 0.0, 0.0
        for k in range(K):
            along, across = channel_sums(dy, x, U((i * K + k) * S), S, m)
            sums[0, n, g * K + k], sums[1, n, g * K + k] = across * r, along
            total += w[g * K + k] * along
            dot += w[g * K + k] * across
        if dx.size > 0:
            back, spread = typed(r * (total / (K * S)), m), typed(r * r * r * (dot / (K * S)), m)
            for k in range(K):
                at, scale = U((i * K + k) * S), w[g * K + k] * r
                for s in range(U(S)):
                    dx[at + s] = (dy[at + s] * scale - back) - (x[at + s] - m) * spread


@jit_parallel
def backward_parallel(
    dy: Array, x: Array, w: Array, S: int, mean: Array, rstd: Array, share: int, dx: Array, sums: Array
) -> None:
    for t in prange((mean.size + share - 1) // share):
        first = signed(t * share)
        backward_groups(dy, x, w, S, mean, rstd, first, min(first + share, mean.size), dx, sums)


def group_norm_forward_tuned(
    x: Array, w: Array | None, b: Array | None, *, num_groups: int, eps: float = 1e-5
) -> Outputs:
    y, shape = empty(x.shape, x.dtype), (len(x), num_groups)
    mean, rstd = empty(shape, x.dtype), empty(shape, x.dtype)
    if x.size > 0:
        S = math.prod(x.shape[2:])
        read, written = (x.reshape(-1), *weights(x, w, b), S, float(eps)), (y.reshape(-1), mean, rstd)
        if x.size < SERIAL_BELOW:
            forward_groups(*read, 0, mean.size, *written)
        else:
            forward_parallel(*read, share_of(mean.size, x.size // mean.size), *written)
    return y, mean, rstd


def group_norm_backward_tuned(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, num_groups: int, eps: float = 1e-5
) -> Grads:
    (x, w, b), (_, mean, rstd) = inputs, outputs
    dx = empty(x.shape if needs[0] else (0,), x.dtype)
    sums = empty((2, *x.shape[:2]), x.dtype)
    if x.size > 0:
        S = math.prod(x.shape[2:])
        read = dy.reshape(-1), x.reshape(-1), weights(x, w, b)[0], S, mean, rstd
        if x.size < SERIAL_BELOW:
            backward_groups(*read, 0, mean.size, dx.reshape(-1), sums)
        else:
            share = share_of(mean.size, x.size // mean.size)
            backward_parallel(*read, share, dx.reshape(-1), sums)
    dw, db = (sums[i].sum(axis=0) if needs[1 + i] else None for i in range(2))
    return dx if needs[0] else None, dw, db


# --- in ops ---


def group_norm_formula(x: Any, w: Any = None, b: Any = None, *, num_groups: int, eps: float = 1e-5) -> Any:
    k = math.prod(x.shape[1:]) // num_groups
    groups = normalised(x.reshape(x.shape[0], num_groups, k), (2,), eps).reshape(x.shape)
    return scaled(groups, in_channels(w, x), in_channels(b, x))


# --- records ---


def check(x: Array, w: Array | None, b: Array | None, *, num_groups: Any, eps: Any = 1e-5) -> None:
    floats("group_norm", x=x, **given(w=w, b=b))
    if x.ndim < 2:
        raise ValueError(f"group_norm: x must have at least 2 axes (N, C, ...), got shape {x.shape}")
    check_int("group_norm", "num_groups", num_groups, 1)
    if x.shape[1] == 0 or x.shape[1] % num_groups:
        raise ValueError(
            f"group_norm: num_groups must divide the channels of x {x.shape}, {x.shape[1]}, got {num_groups}"
        )
    if 0 in x.shape[2:]:
        raise ValueError(f"group_norm: x must have at least one position per channel, got shape {x.shape}")
    for name, a in given(w=w, b=b).items():
        if a.shape != x.shape[1:2]:
            raise ValueError(
                f"group_norm: {name} must have shape {x.shape[1:2]}, one value per channel of x {x.shape}, "
                f"got {a.shape}"
            )
    number("group_norm", "eps", eps)
    if eps <= 0:
        raise ValueError(f"group_norm: eps must be positive, got {eps!r}")


def sample(
    rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], has: str = "wb", **attributes: Any
) -> Sample:
    """Return x around 2 with a spread of 1.5, and of w and b those that ``has`` names."""
    x = rng.normal(2, 1.5, shape).astype(dtype)
    w = rng.uniform(0.5, 2, shape[1]).astype(dtype) if "w" in has else None
    b = rng.standard_normal(shape[1]).astype(dtype) if "b" in has else None
    label = f"{'x'.join(map(str, shape))} in {attributes['num_groups']}"
    return Sample(f"{label} {has}".rstrip(), (x, w, b), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (2, 6, 2, 3), num_groups=3)
    yield sample(rng, dtype, (3, 4, 5), num_groups=4, eps=0.5)
    yield sample(rng, dtype, (3, 6), num_groups=2, has="w")
    yield sample(rng, dtype, (2, 3, 1, 5), num_groups=1, has="b")
    yield sample(rng, dtype, (2, 2, 2, 2, 2), num_groups=2, has="")
    yield sample(rng, dtype, (1, 1, 2), num_groups=1)


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((4, 6, 2)), np.ones(6)

    def bad(error: type[Exception], words: str, *arrays: Any, **attributes: Any) -> BadInput:
        return BadInput(error, words, arrays, {"num_groups": 2, **attributes})

    yield bad(TypeError, "x must be float32 or float64, got int64", x.astype(int), w, w)
    yield bad(TypeError, "x and b must have one dtype", x, None, w.astype(np.float32))
    yield bad(ValueError, "x must have at least 2 axes (N, C, ...), got shape (4,)", x[:, 0, 0], w, w)
    yield bad(ValueError, "w must have shape (6,), one value per channel", x, w[:2], w)
    yield bad(ValueError, "b must have shape (6,), one value per channel", x, w, w[:, None])
    yield bad(
        ValueError, "num_groups must divide the channels of x (4, 6, 2), 6, got 4", x, w, w, num_groups=4
    )
    yield bad(ValueError, "num_groups must be at least 1, got 0", x, w, w, num_groups=0)
    yield bad(TypeError, "num_groups must be an int, got float", x, w, w, num_groups=2.0)
    yield bad(ValueError, "x must have at least one position per channel", x[..., :0], w, w)
    yield bad(ValueError, "eps must be positive, got 0", x, w, w, eps=0)


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (16, 32, 16, 16), num_groups=8)
    yield sample(rng, dtype, (32, 64, 28, 28), num_groups=32)


def jvp(
    tangents: tuple[Array | None, ...], outputs: Outputs, inputs: Inputs, *, num_groups: int,
    eps: float = 1e-5,
) -> Array:  # fmt: skip
    (x, w, b), (y, mean, rstd), (dx, dw, db) = inputs, outputs, tangents
    rstd = rstd[:, :, None, None]
    x_hat = (as_groups(x, num_groups) - mean[:, :, None, None]) * rstd
    dy = np.zeros_like(x_hat)
    if dx is not None:
        moving = as_groups(dx, num_groups)
        moved = rstd * (moving - group_mean(moving) - x_hat * group_mean(moving * x_hat))
        dy += moved * per_channel(weights(x, w, b)[0], num_groups)
    if dw is not None:
        dy += per_channel(dw, num_groups) * x_hat
    if db is not None:
        dy += per_channel(db, num_groups)
    return dy.reshape(y.shape)


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "group_norm.py", old, new)


group_norm = Op(
    name="group_norm",
    loops=Body(group_norm_forward_loops, group_norm_backward_loops),
    vectorized=Body(group_norm_forward_vectorized, group_norm_backward_vectorized),
    tuned=Body(group_norm_forward_tuned, group_norm_backward_tuned),
    cuda=Body(group_norm_forward_cuda, group_norm_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, *_, **__: 7 * int(x.size),
    jvp=jvp,
    gradient=by_formula(group_norm_formula),
    tolerance=512,
    mutants=(
        mutant("unbiased variance", "np.sqrt(squares / (K * S) + eps)",
               "np.sqrt(squares / max(1, K * S - 1) + eps)"),
        mutant("mean's share of dx forgotten", "- total / (K * S) - x_hat", "- x_hat"),
        mutant("variance's share of dx forgotten", "- x_hat * dot / (K * S)\n", "\n"),
        mutant("missing +=", "dw[g * K + k] += dy", "dw[g * K + k] = dy"),
        mutant("weight of the first channels", "y[n, g, k, s] = w[g * K + k] *", "y[n, g, k, s] = w[k] *"),
        mutant("groups exchanged with channels", "per_channel(w, num_groups) + per",
               "w.reshape(-1, num_groups, 1).swapaxes(0, 1) + per", "vectorized"),
        mutant("group of one channel", "x, U(i * K * S), K * S)", "x, U(i * K * S), S)", "tuned"),
        mutant("channel of the first group", "at, c = U((i * K + k) * S), g * K + k",
               "at, c = U((i * K + k) * S), k", "tuned"),
        mutant("mean's share of dx forgotten", "* scale - back) -", "* scale) -", "tuned"),
        mutant("rstd squared, not cubed", "typed(r * r * r *", "typed(r * r *", "tuned"),
        mutant("weight forgotten in the sum", "total += w[g * K + k] * along", "total += along", "tuned"),
        mutant("first image alone", "sums[i].sum(axis=0)", "sums[i][0]", "tuned"),
        mutant("last share left out", "forward_groups(x, w, b, S, eps, first, min(first + share, mean.size),",
               "forward_groups(x, w, b, S, eps, first, min(first + share, mean.size - 1),", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (group_norm,)
