"""Three-dimensional convolution, for volumes and for films:

    y[n, k, m, p, q] = b[k] + sum over c, t, r, s of
                       x[n, c, sd m + dd t - pd, sh p + dh r - ph, sw q + dw s - pw] w[k, c, t, r, s]

    x (N, C, D, H, W)   w (K, C / groups, T, R, S)   b (K) or None   y (N, K, M, P, Q)
    M = floor((D + 2 pd - dd (T - 1) - 1) / sd) + 1, P and Q alike

with stride, padding and dilation as ints or as triples (depth, height, width), zeros outside, and groups as
in conv2d. Every product x w of the sum gives dy w to dx and dy x to dw. Ji et al., 3D Convolutional Neural
Networks for Human Action Recognition, IEEE Trans. PAMI 35(1), 2013.
"""

from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.ops.activation import before_relu, check_activation, through_relu
from nnkernels.ops.conv2d import check_arrays, sample
from nnkernels.ops.conv2d.cuda import convolution_cuda
from nnkernels.ops.conv2d.methods import describe
from nnkernels.ops.conv2d.shapes import out_length
from nnkernels.ops.conv2d.tuned import How, correlate, input_gradient, weight_gradients
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import fail_type, output_size

Triple = tuple[int, int, int]
Size = int | Triple
Grads = tuple[Array | None, Array | None, Array | None]
Inputs = tuple[Array, Array, Array | None]
Needs = tuple[bool, ...]


def triple(value: Size) -> Triple:
    """Return an int three times, a triple as it is."""
    if isinstance(value, (tuple, list)):
        return int(value[0]), int(value[1]), int(value[2])
    return int(value), int(value), int(value)


def out_sizes(
    x: tuple[int, ...], w: tuple[int, ...], stride: Triple, padding: Triple, dilation: Triple
) -> Triple:
    """Return (M, P, Q) for shapes x (N, C, D, H, W) and w (K, C / groups, T, R, S)."""
    M, P, Q = (out_length(*sizes) for sizes in zip(x[2:], w[2:], stride, padding, dilation))
    return M, P, Q


# --- loops ---


@jit
def conv3d_forward_kernel(
    x: Array, w: Array, b: Array, stride: Triple, padding: Triple, dilation: Triple, groups: int,
    relu: bool, y: Array,
) -> None:  # fmt: skip
    """y[n, k, m, p, q] = b[k] + sum over c, t, r, s of x[n, c, i, h, v] w[k, c, t, r, s] with the places
    i = sd m + dd t - pd, h = sh p + dh r - ph and v = sw q + dw s - pw, or max(., 0) of it.
    """
    N, _, D, H, W = x.shape
    K, C, T, R, S = w.shape
    _, _, M, P, Q = y.shape
    for n, k, m, p, q in np.ndindex(N, K, M, P, Q):
        first = k // (K // groups) * C  # the first channel that filter k reads
        total = b[k]
        for c in range(C):
            for t in range(T):
                for r in range(R):
                    for s in range(S):
                        i = stride[0] * m + dilation[0] * t - padding[0]
                        h = stride[1] * p + dilation[1] * r - padding[1]
                        v = stride[2] * q + dilation[2] * s - padding[2]
                        if 0 <= i < D and 0 <= h < H and 0 <= v < W:  # outside lie zeros
                            total += x[n, first + c, i, h, v] * w[k, c, t, r, s]
        y[n, k, m, p, q] = max(total, 0) if relu else total


@jit
def conv3d_backward_kernel(
    dy: Array, y: Array, x: Array, w: Array, stride: Triple, padding: Triple, dilation: Triple, groups: int,
    relu: bool, dx: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    """Every product x w of the forward pass hands dy w to its dx and dy x to its dw."""
    N, _, D, H, W = x.shape
    K, C, T, R, S = w.shape
    _, _, M, P, Q = dy.shape
    for n, k, m, p, q in np.ndindex(N, K, M, P, Q):
        if relu and y[n, k, m, p, q] <= 0:
            continue  # max(total, 0) is flat there
        first = k // (K // groups) * C
        db[k] += dy[n, k, m, p, q]
        for c in range(C):
            for t in range(T):
                for r in range(R):
                    for s in range(S):
                        i = stride[0] * m + dilation[0] * t - padding[0]
                        h = stride[1] * p + dilation[1] * r - padding[1]
                        v = stride[2] * q + dilation[2] * s - padding[2]
                        if 0 <= i < D and 0 <= h < H and 0 <= v < W:
                            dx[n, first + c, i, h, v] += dy[n, k, m, p, q] * w[k, c, t, r, s]
                            dw[k, c, t, r, s] += dy[n, k, m, p, q] * x[n, first + c, i, h, v]


def conv3d_forward_loops(
    x: Array, w: Array, b: Array | None = None, *, stride: Size = 1, padding: Size = 0, dilation: Size = 1,
    groups: int = 1, activation: str | None = None,
) -> tuple[Array]:  # fmt: skip
    how = triple(stride), triple(padding), triple(dilation)
    y = np.empty((len(x), len(w), *out_sizes(x.shape, w.shape, *how)), x.dtype)
    bias = np.zeros(len(w), x.dtype) if b is None else b
    conv3d_forward_kernel(x, w, bias, *how, groups, activation == "relu", y)
    return (y,)


def conv3d_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: Size = 1, padding: Size = 0,
    dilation: Size = 1, groups: int = 1, activation: str | None = None,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(len(w), x.dtype)
    how = triple(stride), triple(padding), triple(dilation)
    conv3d_backward_kernel(dy, outputs[0], x, w, *how, groups, activation == "relu", dx, dw, db)
    return (dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None)


# --- vectorized: a window per output (a view), then one contraction per group ---


def padded_input(x: Array, padding: Triple) -> Array:
    return np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))


def windows(padded: Array, w: Array, stride: Triple, dilation: Triple) -> Array:
    """Return a view (N, C, M, P, Q, T, R, S) of a padded input."""
    extent = tuple(d * (r - 1) + 1 for d, r in zip(dilation, w.shape[2:]))
    every = np.lib.stride_tricks.sliding_window_view(padded, extent, axis=(2, 3, 4))
    steps = tuple(slice(None, None, s) for s in (*stride, *dilation))
    return every[(slice(None), slice(None), *steps)]


def conv3d_forward_vectorized(
    x: Array, w: Array, b: Array | None = None, *, stride: Size = 1, padding: Size = 0, dilation: Size = 1,
    groups: int = 1, activation: str | None = None,
) -> tuple[Array]:  # fmt: skip
    x_windows = windows(padded_input(x, triple(padding)), w, triple(stride), triple(dilation))
    parts = [
        np.tensordot(part, filters, axes=((1, 5, 6, 7), (1, 2, 3, 4)))
        for part, filters in zip(np.split(x_windows, groups, axis=1), np.split(w, groups))
    ]
    y = np.ascontiguousarray(np.concatenate(parts, axis=-1).transpose(0, 4, 1, 2, 3))
    y = y if b is None else y + b[:, None, None, None]
    return (np.maximum(y, 0) if activation == "relu" else y,)


def conv3d_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: Size = 1, padding: Size = 0,
    dilation: Size = 1, groups: int = 1, activation: str | None = None,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    if activation == "relu":
        dy = dy * (outputs[0] > 0)
    steps, borders, gaps = triple(stride), triple(padding), triple(dilation)
    padded, dys = padded_input(x, borders), np.split(dy, groups, axis=1)
    dx = dw = db = None
    if needs[0]:
        # One filter position at a time: its products all land on different places, so += is safe.
        d = np.zeros_like(padded)
        for tap in np.ndindex(w.shape[2:]):
            parts = [
                np.tensordot(part, filters[(..., *tap)], axes=((1,), (0,))).transpose(0, 4, 1, 2, 3)
                for part, filters in zip(dys, np.split(w, groups))
            ]
            places = (slice(g * t, g * t + s * n, s) for g, t, s, n in zip(gaps, tap, steps, dy.shape[2:]))
            d[(slice(None), slice(None), *places)] += np.concatenate(parts, axis=1)
        inside = (slice(p, p + n) for p, n in zip(borders, x.shape[2:]))
        dx = np.ascontiguousarray(d[(slice(None), slice(None), *inside)])
    if needs[1]:
        pairs = zip(dys, np.split(windows(padded, w, steps, gaps), groups, axis=1))
        over = (0, 2, 3, 4)
        dw = np.concatenate([np.tensordot(part, v, axes=(over, over)) for part, v in pairs])
    if needs[2]:
        db = dy.sum(axis=(0, 2, 3, 4))
    return dx, dw, db


# --- tuned: conv2d's, with the slices under a filter as channels ---
#
# The sum over c and t is conv2d's sum over channels (c, t) of images (n, m) whose channel (c, t) is the slice
# sd m + dd t - pd of x[n, c]; the filters lie that way already. Slices are copied T times at most.
# Bound: 2 N K C T R S M P Q FLOPs, and the bytes of the copies, a number for K R S multiplications.


def slices_of(t: int, D: int, M: int, stride: int, padding: int, dilation: int) -> tuple[slice, slice]:
    """Return the outputs m whose slice t lies inside x, and the slices."""
    shift = dilation * t - padding
    low = min(M, max(0, -(shift // stride)))
    high = max(low, min(M, (D - 1 - shift) // stride + 1))
    first = low * stride + shift
    return slice(low, high), slice(first, first + (high - low) * stride, stride) if high > low else slice(
        0, 0
    )


def folded(x: Array, T: int, M: int, stride: int, padding: int, dilation: int) -> Array:
    """Return the images (N M, C T, H, W)."""
    N, C, D, H, W = x.shape
    images = empty((N, M, C, T, H, W), x.dtype)
    for t in range(T):
        some, at = slices_of(t, D, M, stride, padding, dilation)
        images[:, : some.start, :, t] = 0
        images[:, some, :, t] = x[:, :, at].swapaxes(1, 2)
        images[:, some.stop :, :, t] = 0
    return images.reshape(N * M, C * T, H, W)


def swapped(x: Array) -> Array:
    """Return (N, B, A, P, Q) from (N, A, B, P, Q); NumPy's copy would be in memory that is new to it."""
    N, A, B, P, Q = x.shape
    y = empty((N, B, A, P, Q), x.dtype)
    y[...] = x.swapaxes(1, 2)
    return y


def unfolded(images: Array, shape: tuple[int, ...], T: int, *how: int) -> Array:
    """Return dx of the given shape: what the images' slices add up to."""
    N, C, D, H, W = shape
    dx = zeros(shape, images.dtype)
    M = len(images) // N if N else 0
    parts = images.reshape(N, M, C, T, H, W)
    for t in range(T):
        some, at = slices_of(t, D, M, *how)
        dx[:, :, at] += parts[:, some, :, t].swapaxes(1, 2)
    return dx


def flat(stride: Size, padding: Size, dilation: Size, groups: int) -> tuple[Triple, How]:
    """Return the depth's stride, padding and dilation, and conv2d's attributes."""
    (sd, *s), (pd, *p), (dd, *d) = triple(stride), triple(padding), triple(dilation)
    return (sd, pd, dd), ((s[0], s[1]), (p[0], p[1]), (d[0], d[1]), groups)


def conv3d_forward_tuned(
    x: Array, w: Array, b: Array | None = None, *, stride: Size = 1, padding: Size = 0, dilation: Size = 1,
    groups: int = 1, activation: str | None = None,
) -> tuple[Array]:  # fmt: skip
    depth, how = flat(stride, padding, dilation, groups)
    K, C, T, R, S = w.shape
    M = out_length(x.shape[2], T, *depth)
    images = correlate(folded(x, T, M, *depth), w.reshape(K, C * T, R, S), b, how, activation == "relu")
    _, _, P, Q = images.shape
    return (swapped(images.reshape(len(x), M, K, P, Q)),)


def conv3d_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: Size = 1, padding: Size = 0,
    dilation: Size = 1, groups: int = 1, activation: str | None = None,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    if activation == "relu":
        dy = through_relu(dy, outputs[0])
    depth, how = flat(stride, padding, dilation, groups)
    (N, channels, _, H, W), (K, C, T, R, S), M = x.shape, w.shape, dy.shape[2]
    dimages = swapped(dy).reshape(N * M, K, *dy.shape[3:])
    filters, dx, dw, db = w.reshape(K, C * T, R, S), None, None, None
    if needs[0]:
        each = input_gradient(dimages, (N * M, channels * T, H, W), filters, None, how)
        dx = unfolded(each, x.shape, T, *depth)
    if needs[1] or needs[2]:
        dw, db = weight_gradients(dimages, folded(x, T, M, *depth), filters, how, needs[2])
    return dx, dw.reshape(w.shape) if needs[1] and dw is not None else None, db if needs[2] else None


# --- records ---


def check_triple(op: str, name: str, value: Any, least: int) -> Triple:
    """Return ``value``, an int or a triple of ints not below ``least``, as a triple."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value,) * 3
    if len(values) != 3 or not all(isinstance(v, Integral) and not isinstance(v, bool) for v in values):
        fail_type(op, name, value, "an int or a triple of ints")
    if min(values) < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value!r}")
    return int(values[0]), int(values[1]), int(values[2])


def check(
    x: Array, w: Array, b: Array | None = None, *, stride: Size = 1, padding: Size = 0, dilation: Size = 1,
    groups: int = 1, activation: str | None = None,
) -> None:  # fmt: skip
    check_arrays("conv3d", x, w, b, "D, H, W", "T, R, S", groups)
    check_activation("conv3d", activation)
    how = (
        check_triple("conv3d", "stride", stride, 1),
        check_triple("conv3d", "padding", padding, 0),
        check_triple("conv3d", "dilation", dilation, 1),
    )
    for axis, n, r, s, p, d in zip("DHW", x.shape[2:], w.shape[2:], *how):
        output_size("conv3d", n, d * (r - 1) + 1, s, p, axis)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1, 1, 1, 1), (1, 1, 1, 1, 1))
    yield sample(rng, dtype, (2, 2, 3, 2, 3), (2, 2, 2, 1, 2))
    yield sample(rng, dtype, (1, 2, 2, 3, 3), (2, 2, 3, 3, 2), bias=False, padding=1)
    yield sample(rng, dtype, (1, 2, 3, 2, 2), (3, 2, 2, 2, 2), padding=(1, 0, 1), activation="relu")
    yield sample(rng, dtype, (1, 1, 5, 4, 3), (2, 1, 2, 2, 2), stride=(2, 3, 1), padding=(1, 0, 1))
    yield sample(rng, dtype, (1, 1, 5, 3, 4), (1, 1, 3, 2, 2), dilation=(2, 1, 3), padding=(2, 1, 0))
    yield sample(rng, dtype, (1, 4, 3, 2, 2), (2, 2, 2, 2, 1), groups=2, stride=2, padding=1)
    yield sample(rng, dtype, (1, 1, 1, 2, 2), (1, 1, 2, 1, 1), padding=(3, 0, 0), stride=(2, 1, 1))
    yield sample(rng, dtype, (0, 2, 2, 2, 2), (2, 2, 2, 2, 2))


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((2, 3, 4, 4, 4)), np.ones((4, 3, 3, 3, 3))
    yield BadInput(ValueError, "x must have 5 axes (N, C, D, H, W), got shape (3, 4, 4, 4)", (x[0], w))
    yield BadInput(ValueError, "w must have 5 axes", (x, w[0]))
    yield BadInput(ValueError, "x has 3 channels, w takes 2", (x, w[:, :2]))
    yield BadInput(ValueError, "w takes 3 in each of 2 groups", (x, w), {"groups": 2})
    yield BadInput(TypeError, "groups must be an int", (x, w), {"groups": 1.0})
    yield BadInput(ValueError, "b must have shape (4,)", (x, w, np.ones(3)))
    yield BadInput(ValueError, "kernel (5) is larger than the padded input (4 + 2*0 = 4) along D", (x, w),
                   {"dilation": (2, 1, 1)})  # fmt: skip
    yield BadInput(ValueError, "stride must be at least 1", (x, w), {"stride": (1, 0, 1)})
    yield BadInput(TypeError, "padding must be an int or a triple of ints", (x, w), {"padding": (1, 1)})
    yield BadInput(TypeError, "dilation must be an int or a triple of ints", (x, w), {"dilation": 1.5})
    yield BadInput(ValueError, "activation must be", (x, w), {"activation": "tanh"})
    yield BadInput(ValueError, "w must not be empty", (x, w[:0]))
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8), w))
    yield BadInput(TypeError, "one dtype, got float64 and float32", (x, w.astype(np.float32)))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 2, 6, 8, 8), (4, 2, 3, 3, 3), padding=1)
    yield sample(rng, dtype, (2, 16, 16, 28, 28), (32, 16, 3, 3, 3), padding=1)
    yield sample(rng, dtype, (2, 3, 16, 56, 56), (32, 3, 3, 3, 3), stride=(1, 2, 2), padding=1)


def flops(
    x: Array, w: Array, b: Array | None = None, *, stride: Size = 1, padding: Size = 0, dilation: Size = 1,
    groups: int = 1, activation: str | None = None,
) -> int:  # fmt: skip
    M, P, Q = out_sizes(x.shape, w.shape, triple(stride), triple(padding), triple(dilation))
    return len(x) * len(w) * M * P * Q * int(2 * w[0].size + (b is not None) + (activation is not None))


def explain(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None = None, *, stride: Size = 1,
    padding: Size = 0, dilation: Size = 1, groups: int = 1, activation: str | None = None,
) -> dict[str, str]:  # fmt: skip
    """Return conv2d's methods for images (n, m) with channels (c, t)."""
    if 0 in x:
        return dict.fromkeys(("forward", "dx", "dw"), f"nothing to multiply: x is empty, {tuple(x)}")
    depth, how = flat(stride, padding, dilation, groups)
    (N, channels, D, H, W), (K, C, T, R, S) = x, w
    images = N * out_length(D, T, *depth), channels * T, H, W
    return describe(images, (K, C * T, R, S), *how)


def jvp(
    tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: Inputs, **attributes: Any
) -> Array:
    (x, w, _), (dx, dw, db) = inputs, tangents
    dy = np.zeros_like(outputs[0])
    relu = attributes.pop("activation", None) == "relu"  # of the sum, not of its terms
    if dx is not None:
        dy += conv3d_forward_tuned(dx, w, **attributes)[0]
    if dw is not None:
        dy += conv3d_forward_tuned(x, dw, **attributes)[0]
    if db is not None:
        dy += db[:, None, None, None]
    return dy * (outputs[0] > 0) if relu else dy


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    return Mutant(name, body, "conv3d.py", old, new)


conv3d = Op(
    name="conv3d",
    loops=Body(conv3d_forward_loops, conv3d_backward_loops),
    vectorized=Body(conv3d_forward_vectorized, conv3d_backward_vectorized),
    tuned=Body(conv3d_forward_tuned, conv3d_backward_tuned),
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
        mutant("bias forgotten", "loops", "total = b[k]", "total = 0 * b[k]"),
        mutant("missing += in dx", "loops", "h, v] += dy", "h, v] = dy"),
        mutant("kernel flipped in dx", "loops", "* w[k, c, t, r, s]\n                            dw",
               "* w[k, c, T - 1 - t, r, s]\n                            dw"),
        mutant("groups read the first channels", "loops",
               "first = k // (K // groups) * C  #", "first = 0  #"),
        mutant("dilation of the wrong axis", "vectorized", "zip(gaps, tap", "zip(gaps[::-1], tap"),
        mutant("strides and dilations swapped", "vectorized", "(*stride, *dilation)", "(*dilation, *stride)"),
        mutant("a slice too few", "tuned", "(D - 1 - shift) // stride + 1", "(D - 1 - shift) // stride"),
        mutant("padding in front forgotten", "tuned", "max(0, -(shift // stride))", "0"),
        mutant("slices behind not cleared", "tuned", "images[:, some.stop :, :, t] = 0", "pass"),
        mutant("slope of relu forgotten", "tuned", "dy = through_relu(dy, outputs[0])", "pass"),
        mutant("missing += in dx", "tuned", "dx[:, :, at] += parts", "dx[:, :, at] = parts"),
        mutant("depth and channels swapped in dy", "tuned", "swapped(dy).reshape", "dy.reshape"),
    ),
)  # fmt: skip
