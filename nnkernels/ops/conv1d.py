"""One-dimensional convolution (a cross-correlation) along the last axis, for signals and sequences:

    y[n, k, q] = b[k] + sum over c, s of x[n, c, sw q + dw s - pw] w[k, c, s]

    x (N, C, L)   w (K, C / groups, S)   b (K) or None   y (N, K, Q)
    Q = floor((L + 2 pw - dw (S - 1) - 1) / sw) + 1

with the ints stride sw, padding pw and dilation dw, zeros outside. Groups and activation="relu" as in conv2d.
Every product x w of the sum gives dy w to dx and dy x to dw. Waibel et al., Phoneme Recognition Using
Time-Delay Neural Networks, IEEE Trans. ASSP 37(3), 1989.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.activation import before_relu, check_activation
from nnkernels.ops.conv2d import check_arrays, sample
from nnkernels.ops.conv2d.cuda import convolution_cuda
from nnkernels.ops.conv2d.methods import describe
from nnkernels.ops.conv2d.shapes import Pair, out_length
from nnkernels.ops.conv2d.tuned import conv2d_backward_tuned, conv2d_forward_tuned
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import check_int, output_size

Grads = tuple[Array | None, Array | None, Array | None]
Inputs = tuple[Array, Array, Array | None]
Needs = tuple[bool, ...]


def out_shape(x: Array, w: Array, stride: int, padding: int, dilation: int) -> tuple[int, int, int]:
    """Return (N, K, Q)."""
    return len(x), len(w), out_length(x.shape[2], w.shape[2], stride, padding, dilation)


# --- loops ---


@jit
def conv1d_forward_kernel(
    x: Array, w: Array, b: Array, stride: int, padding: int, dilation: int, groups: int, relu: bool, y: Array
) -> None:
    """y[n, k, q] = b[k] + sum over c, s of x[n, c, sw q + dw s - pw] w[k, c, s]."""
    N, _, L = x.shape
    K, C, S = w.shape
    _, _, Q = y.shape
    for n in range(N):
        for k in range(K):
            first = k // (K // groups) * C  # the first channel that filter k reads
            for q in range(Q):
                total = b[k]
                for c in range(C):
                    for s in range(S):
                        t = stride * q + dilation * s - padding
                        if 0 <= t < L:  # outside lie zeros
                            total += x[n, first + c, t] * w[k, c, s]
                y[n, k, q] = max(total, 0) if relu else total


@jit
def conv1d_backward_kernel(
    dy: Array, y: Array, x: Array, w: Array, stride: int, padding: int, dilation: int, groups: int,
    relu: bool, dx: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    """Every product x w of the forward pass hands dy w to its dx and dy x to its dw."""
    N, _, L = x.shape
    K, C, S = w.shape
    _, _, Q = dy.shape
    for n in range(N):
        for k in range(K):
            first = k // (K // groups) * C
            for q in range(Q):
                if relu and y[n, k, q] <= 0:
                    continue  # max(total, 0) is flat there
                db[k] += dy[n, k, q]
                for c in range(C):
                    for s in range(S):
                        t = stride * q + dilation * s - padding
                        if 0 <= t < L:
                            dx[n, first + c, t] += dy[n, k, q] * w[k, c, s]
                            dw[k, c, s] += dy[n, k, q] * x[n, first + c, t]


def conv1d_forward_loops(
    x: Array, w: Array, b: Array | None = None, *, stride: int = 1, padding: int = 0, dilation: int = 1,
    groups: int = 1, activation: str | None = None,
) -> tuple[Array]:  # fmt: skip
    y = np.empty(out_shape(x, w, stride, padding, dilation), x.dtype)
    bias = np.zeros(len(w), x.dtype) if b is None else b
    conv1d_forward_kernel(x, w, bias, stride, padding, dilation, groups, activation == "relu", y)
    return (y,)


def conv1d_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: int = 1, padding: int = 0,
    dilation: int = 1, groups: int = 1, activation: str | None = None,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(len(w), x.dtype)
    relu = activation == "relu"
    conv1d_backward_kernel(dy, outputs[0], x, w, stride, padding, dilation, groups, relu, dx, dw, db)
    return (dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None)


# --- vectorized: a window per output (a view), then one contraction per group ---


def padded_input(x: Array, padding: int) -> Array:
    return np.pad(x, ((0, 0), (0, 0), (padding, padding)))


def windows(padded: Array, S: int, stride: int, dilation: int) -> Array:
    """Return a view (N, C, Q, S) of a padded input."""
    every = np.lib.stride_tricks.sliding_window_view(padded, dilation * (S - 1) + 1, axis=2)
    return every[:, :, ::stride, ::dilation]


def conv1d_forward_vectorized(
    x: Array, w: Array, b: Array | None = None, *, stride: int = 1, padding: int = 0, dilation: int = 1,
    groups: int = 1, activation: str | None = None,
) -> tuple[Array]:  # fmt: skip
    x_windows = windows(padded_input(x, padding), w.shape[2], stride, dilation)
    parts = [
        np.tensordot(part, filters, axes=((1, 3), (1, 2)))
        for part, filters in zip(np.split(x_windows, groups, axis=1), np.split(w, groups))
    ]
    y = np.ascontiguousarray(np.concatenate(parts, axis=-1).transpose(0, 2, 1))
    y = y if b is None else y + b[:, None]
    return (np.maximum(y, 0) if activation == "relu" else y,)


def conv1d_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: int = 1, padding: int = 0,
    dilation: int = 1, groups: int = 1, activation: str | None = None,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    if activation == "relu":
        dy = dy * (outputs[0] > 0)
    (L, S, Q), padded = (x.shape[2], w.shape[2], dy.shape[2]), padded_input(x, padding)
    dys = np.split(dy, groups, axis=1)
    dx = dw = db = None
    if needs[0]:
        # One filter position at a time: its products all land on different places, so += is safe.
        d = np.zeros_like(padded)
        for s in range(S):
            parts = [
                np.tensordot(part, filters[:, :, s], axes=((1,), (0,))).transpose(0, 2, 1)
                for part, filters in zip(dys, np.split(w, groups))
            ]
            at = dilation * s
            d[:, :, at : at + stride * Q : stride] += np.concatenate(parts, axis=1)
        dx = np.ascontiguousarray(d[:, :, padding : padding + L])
    if needs[1]:
        pairs = zip(dys, np.split(windows(padded, S, stride, dilation), groups, axis=1))
        dw = np.concatenate([np.tensordot(part, v, axes=((0, 2), (0, 2))) for part, v in pairs])
    if needs[2]:
        db = dy.sum(axis=(0, 2))
    return dx, dw, db


# --- tuned: conv2d's, on one row ---
#
# With H = R = 1, vertical stride and dilation 1 and no padding above or below, p and r are 0 alone in
# conv2d's formula, and what is left of it is the one above. An axis of length 1 moves no element: the arrays
# of four axes are views, as C-contiguous as what they view.


def as_image(x: Array) -> Array:
    """Return x (N, C, L) as images (N, C, 1, L) of one row."""
    return x[:, :, None, :]


def horizontal(stride: int, padding: int, dilation: int) -> dict[str, Pair]:
    """Return conv2d's attributes for one row."""
    return {"stride": (1, stride), "padding": (0, padding), "dilation": (1, dilation)}


def conv1d_forward_tuned(
    x: Array, w: Array, b: Array | None = None, *, stride: int = 1, padding: int = 0, dilation: int = 1,
    groups: int = 1, activation: str | None = None,
) -> tuple[Array]:  # fmt: skip
    how: dict[str, Any] = horizontal(stride, padding, dilation)
    (y,) = conv2d_forward_tuned(as_image(x), as_image(w), b, **how, groups=groups, activation=activation)
    return (y[:, :, 0],)


def conv1d_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: int = 1, padding: int = 0,
    dilation: int = 1, groups: int = 1, activation: str | None = None,
) -> Grads:  # fmt: skip
    (x, w, b), how = inputs, horizontal(stride, padding, dilation)
    dx, dw, db = conv2d_backward_tuned(
        as_image(dy), (as_image(outputs[0]),), (as_image(x), as_image(w), b), needs,
        stride=how["stride"], padding=how["padding"], dilation=how["dilation"], groups=groups,
        activation=activation,
    )  # fmt: skip
    return None if dx is None else dx[:, :, 0], None if dw is None else dw[:, :, 0], db


# --- records ---


def check(
    x: Array, w: Array, b: Array | None = None, *, stride: int = 1, padding: int = 0, dilation: int = 1,
    groups: int = 1, activation: str | None = None,
) -> None:  # fmt: skip
    check_arrays("conv1d", x, w, b, "L", "S", groups)
    check_activation("conv1d", activation)
    check_int("conv1d", "stride", stride, 1)
    check_int("conv1d", "padding", padding, 0)
    check_int("conv1d", "dilation", dilation, 1)
    output_size("conv1d", x.shape[2], dilation * (w.shape[2] - 1) + 1, stride, padding, "L")


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1, 1), (1, 1, 1))
    yield sample(rng, dtype, (2, 3, 7), (5, 3, 3))
    yield sample(rng, dtype, (3, 2, 6), (4, 2, 3), bias=False, padding=1)
    yield sample(rng, dtype, (2, 2, 9), (3, 2, 4), stride=2)
    yield sample(rng, dtype, (2, 1, 8), (2, 1, 2), stride=3, padding=2)
    yield sample(rng, dtype, (1, 2, 13), (2, 2, 3), dilation=4, padding=3)
    yield sample(rng, dtype, (2, 2, 11), (3, 2, 3), stride=2, dilation=3, padding=1)
    yield sample(rng, dtype, (1, 2, 3), (2, 2, 6), padding=2)
    yield sample(rng, dtype, (2, 4, 6), (6, 2, 3), groups=2, padding=1, stride=2)
    yield sample(rng, dtype, (2, 3, 5), (6, 1, 2), groups=3)
    yield sample(rng, dtype, (2, 3, 6), (4, 3, 3), padding=1, activation="relu")
    yield sample(rng, dtype, (0, 2, 4), (3, 2, 3))


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((2, 3, 5)), np.ones((4, 3, 3))
    yield BadInput(ValueError, "x must have 3 axes (N, C, L), got shape (3, 5)", (x[0], w))
    yield BadInput(ValueError, "w must have 3 axes (out_channels, in_channels / groups, S)", (x, w[0]))
    yield BadInput(ValueError, "x has 3 channels, w takes 2", (x, w[:, :2]))
    yield BadInput(ValueError, "activation must be", (x, w), {"activation": "tanh"})
    yield BadInput(ValueError, "w takes 3 in each of 2 groups", (x, w), {"groups": 2})
    yield BadInput(ValueError, "divide the 4 filters", (x, w[:, :1]), {"groups": 3})
    yield BadInput(TypeError, "groups must be an int", (x, w), {"groups": True})
    yield BadInput(ValueError, "kernel (7) is larger than the padded input", (x, w), {"dilation": 3})
    yield BadInput(ValueError, "stride must be at least 1, got 0", (x, w), {"stride": 0})
    yield BadInput(ValueError, "padding must be at least 0, got -1", (x, w), {"padding": -1})
    yield BadInput(ValueError, "dilation must be at least 1", (x, w), {"dilation": 0})
    yield BadInput(TypeError, "stride must be an int, got tuple (1, 2)", (x, w), {"stride": (1, 2)})
    yield BadInput(TypeError, "padding must be an int, got str 'same'", (x, w), {"padding": "same"})
    yield BadInput(TypeError, "dilation must be an int, got float 1.0", (x, w), {"dilation": 1.0})
    yield BadInput(ValueError, "b must have shape (4,)", (x, w, np.ones(3)))
    yield BadInput(ValueError, "w must not be empty", (x, w[:0]))
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8), w))
    yield BadInput(TypeError, "one dtype, got float64 and float32", (x, w.astype(np.float32)))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (64, 16, 256), (32, 16, 5), padding=2)
    yield sample(rng, dtype, (16, 64, 1024), (64, 64, 3))


def flops(
    x: Array, w: Array, b: Array | None = None, *, stride: int = 1, padding: int = 0, dilation: int = 1,
    groups: int = 1, activation: str | None = None,
) -> int:  # fmt: skip
    N, K, Q = out_shape(x, w, stride, padding, dilation)
    return N * K * Q * int(2 * w[0].size + (b is not None) + (activation is not None))


def explain(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None = None, *, stride: int = 1,
    padding: int = 0, dilation: int = 1, groups: int = 1, activation: str | None = None,
) -> dict[str, str]:  # fmt: skip
    (N, C, L), (K, per_group, S), how = x, w, horizontal(stride, padding, dilation)
    return describe(
        (N, C, 1, L), (K, per_group, 1, S), how["stride"], how["padding"], how["dilation"], groups
    )


def jvp(
    tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: Inputs, **attributes: Any
) -> Array:
    (x, w, _), (dx, dw, db) = inputs, tangents
    dy = np.zeros_like(outputs[0])
    relu = attributes.pop("activation", None) == "relu"  # of the sum, not of its terms
    if dx is not None:
        dy += conv1d_forward_tuned(dx, w, **attributes)[0]
    if dw is not None:
        dy += conv1d_forward_tuned(x, dw, **attributes)[0]
    if db is not None:
        dy += db[:, None]
    return dy * (outputs[0] > 0) if relu else dy


conv1d = Op(
    name="conv1d",
    loops=Body(conv1d_forward_loops, conv1d_backward_loops),
    vectorized=Body(conv1d_forward_vectorized, conv1d_backward_vectorized),
    tuned=Body(conv1d_forward_tuned, conv1d_backward_tuned),
    cuda=convolution_cuda,
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=jvp,
    gradient=before_relu,
    inputs=3,
    tolerance=512,
    explain=explain,
    mutants=(
        Mutant("kernel flipped in dx", "loops", "conv1d.py", "w[k, c, s]\n                            dw",
               "w[k, c, S - 1 - s]\n                            dw"),
        Mutant("missing += in dw", "loops", "conv1d.py", "dw[k, c, s] += dy", "dw[k, c, s] = dy"),
        Mutant("bias forgotten", "loops", "conv1d.py", "total = b[k]", "total = 0 * b[k]"),
        Mutant("groups read the first channels", "loops", "conv1d.py",
               "first = k // (K // groups) * C  #", "first = 0  #"),
        Mutant("padding on one side", "vectorized", "conv1d.py", "(padding, padding)", "(2 * padding, 0)"),
        Mutant("dilation and stride swapped", "vectorized", "conv1d.py",
               "::stride, ::dilation", "::dilation, ::stride"),
        Mutant("slope of relu forgotten", "vectorized", "conv1d.py", "dy = dy * (outputs[0] > 0)", "pass"),
        Mutant("padding on the wrong axis", "tuned", "conv1d.py", "(0, padding)", "(padding, 0)"),
        Mutant("dilation forgotten", "tuned", "conv1d.py", "(1, dilation)", "(1, 1)"),
        Mutant("groups forgotten in backward", "tuned", "conv1d.py",
               "dilation=how[\"dilation\"], groups=groups", "dilation=how[\"dilation\"], groups=1"),
    ),
)  # fmt: skip
