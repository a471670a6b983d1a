"""Transposed two-dimensional convolution, from the sizes of a convolution's y back to those of its x:

    y[n, k, sh h + dh r - ph, sw v + dw s - pw] += x[n, c, h, v] w[c, k, r, s]     and b[k] to every pixel

    x (N, C, H, W)   w (C, K / groups, R, S)   b (K) or None   y (N, K, P, Q)
    P = (H - 1) sh - 2 ph + dh (R - 1) + oph + 1, Q alike

with stride, padding, dilation and groups as in conv2d. With a stride, several sizes of y shrink to one of x:
output_padding (oph, opw), smaller than the stride or the dilation, says how many rows and columns more y has
at its end. Every product x w hands dy w to dx and dy x to dw. As a linear map the op is conv2d's transpose:
with the same w, its forward pass is conv2d's dx, its dx conv2d's forward pass, and its dw conv2d's with x and
dy in each other's place. Dumoulin and Visin, A guide to convolution arithmetic for deep learning,
arXiv:1603.07285, 2016.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.cuda import make_transposed_cuda
from nnkernels.ops.conv2d.methods import describe
from nnkernels.ops.conv2d.shapes import Pair
from nnkernels.ops.conv2d.tuned import How, correlate, input_gradient, weight_gradients
from nnkernels.ops.conv2d.vectorized import conv2d_backward_vectorized, conv2d_forward_vectorized
from nnkernels.ops.gradients import multilinear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.reduce.tuned import sum_tuned
from nnkernels.ops.validate import check_int, check_pair, floats, given, pair, rank

Grads = tuple[Array | None, Array | None, Array | None]
Inputs = tuple[Array, Array, Array | None]
Needs = tuple[bool, ...]


def out_shape(
    x: tuple[int, ...], w: tuple[int, ...], stride: int | Pair, padding: int | Pair,
    output_padding: int | Pair, dilation: int | Pair, groups: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Return (N, K, P, Q) for shapes x (N, C, H, W) and w (C, K / groups, R, S)."""
    sizes = (
        (n - 1) * s - 2 * p + d * (r - 1) + o + 1
        for n, r, s, p, o, d in zip(
            x[2:], w[2:], pair(stride), pair(padding), pair(output_padding), pair(dilation)
        )
    )
    P, Q = sizes
    return x[0], w[1] * groups, P, Q


# --- loops ---


@jit
def conv_transpose2d_forward_kernel(
    x: Array, w: Array, b: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, y: Array
) -> None:
    """y[n, k, sh h + dh r - ph, sw v + dw s - pw] += x[n, c, h, v] w[c, k, r, s]."""
    N, C, H, W = x.shape
    _, K, R, S = w.shape
    _, _, P, Q = y.shape
    for n in range(N):
        for k in range(groups * K):
            y[n, k, :, :] = b[k]
        for c in range(C):
            first = c // (C // groups) * K  # the first channel of y that channel c of x goes to
            for h in range(H):
                for v in range(W):
                    for k in range(K):
                        for r in range(R):
                            for s in range(S):
                                p = stride[0] * h + dilation[0] * r - padding[0]
                                q = stride[1] * v + dilation[1] * s - padding[1]
                                if 0 <= p < P and 0 <= q < Q:  # the rest is cut off
                                    y[n, first + k, p, q] += x[n, c, h, v] * w[c, k, r, s]


@jit
def conv_transpose2d_backward_kernel(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    dx: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    """Every product x w of the forward pass hands dy w to its dx and dy x to its dw."""
    N, C, H, W = x.shape
    _, K, R, S = w.shape
    _, _, P, Q = dy.shape
    for n in range(N):
        for k in range(groups * K):
            for p in range(P):
                for q in range(Q):
                    db[k] += dy[n, k, p, q]
        for c in range(C):
            first = c // (C // groups) * K
            for h in range(H):
                for v in range(W):
                    for k in range(K):
                        for r in range(R):
                            for s in range(S):
                                p = stride[0] * h + dilation[0] * r - padding[0]
                                q = stride[1] * v + dilation[1] * s - padding[1]
                                if 0 <= p < P and 0 <= q < Q:
                                    dx[n, c, h, v] += dy[n, first + k, p, q] * w[c, k, r, s]
                                    dw[c, k, r, s] += dy[n, first + k, p, q] * x[n, c, h, v]


def conv_transpose2d_forward_loops(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    output_padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
) -> tuple[Array]:  # fmt: skip
    y = np.empty(out_shape(x.shape, w.shape, stride, padding, output_padding, dilation, groups), x.dtype)
    bias = np.zeros(y.shape[1], x.dtype) if b is None else b
    conv_transpose2d_forward_kernel(x, w, bias, pair(stride), pair(padding), pair(dilation), groups, y)
    return (y,)


def conv_transpose2d_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: int | Pair = 1,
    padding: int | Pair = 0, output_padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(dy.shape[1], x.dtype)
    how = pair(stride), pair(padding), pair(dilation), groups
    conv_transpose2d_backward_kernel(dy, x, w, *how, dx, dw, db)
    return (dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None)


# --- conv2d's bodies, each pass in another's place ---


def lengthened(x: Array, output_padding: Pair, stride: Pair) -> Array:
    """Return x with zeros behind it: a whole stride of output_padding is where another pixel would stand."""
    more = [(0, o // s) for o, s in zip(output_padding, stride)]
    return np.pad(x, [(0, 0), (0, 0), *more]) if any(map(max, more)) else x


def make_body(
    spread: Callable[[Array, tuple[int, ...], Array, Array | None, How], Array],
    gather: Callable[[Array, Array, How], Array],
    weights: Callable[[Array, Array, Array, How], Array],
    total: Callable[[Array], Array],
) -> Body:
    """Return the body made of conv2d's dx, y and dw, and of the sum over all but the channels."""

    def forward(
        x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
        output_padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
    ) -> tuple[Array]:  # fmt: skip
        how = (pair(stride), pair(padding), pair(dilation), groups)
        shape = out_shape(x.shape, w.shape, stride, padding, output_padding, dilation, groups)
        return (spread(lengthened(x, pair(output_padding), how[0]), shape, w, b, how),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: int | Pair = 1,
        padding: int | Pair = 0, output_padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
    ) -> Grads:  # fmt: skip
        x, w, _ = inputs
        how = (pair(stride), pair(padding), pair(dilation), groups)
        dx = dw = None
        if needs[0]:
            dx = np.ascontiguousarray(gather(dy, w, how)[:, :, : x.shape[2], : x.shape[3]])
        if needs[1]:
            dw = weights(lengthened(x, pair(output_padding), how[0]), dy, w, how)
        return dx, dw, total(dy) if needs[2] else None

    return Body(forward, backward)


def named(how: How) -> dict[str, Any]:
    return dict(zip(("stride", "padding", "dilation", "groups"), how))


def spread_vectorized(x: Array, shape: tuple[int, ...], w: Array, b: Array | None, how: How) -> Array:
    image = np.broadcast_to(x.dtype.type(0), shape)  # conv2d's dx asks for the shape of what it is for
    needs = (True, False, False)
    y, _, _ = conv2d_backward_vectorized(x, (image,), (image, w, None), needs, **named(how))
    assert y is not None
    return y if b is None else y + b[:, None, None]


def gather_vectorized(dy: Array, w: Array, how: How) -> Array:
    return conv2d_forward_vectorized(dy, w, **named(how))[0]


def weights_vectorized(x: Array, dy: Array, w: Array, how: How) -> Array:
    needs = (False, True, False)
    _, dw, _ = conv2d_backward_vectorized(x, (x,), (dy, w, None), needs, **named(how))
    assert dw is not None
    return dw


def total_vectorized(dy: Array) -> Array:
    total: Array = dy.sum(axis=(0, 2, 3))
    return total


def gather_tuned(dy: Array, w: Array, how: How) -> Array:
    return correlate(dy, w, None, how, relu=False)


def weights_tuned(x: Array, dy: Array, w: Array, how: How) -> Array:
    return weight_gradients(x, dy, w, how, bias=False)[0]


def total_tuned(dy: Array) -> Array:
    total: Array = sum_tuned.forward(dy, dim=(0, 2, 3))[0]
    return total


vectorized = make_body(spread_vectorized, gather_vectorized, weights_vectorized, total_vectorized)
tuned = make_body(input_gradient, gather_tuned, weights_tuned, total_tuned)


# --- records ---


def check(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    output_padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
) -> None:  # fmt: skip
    op = "conv_transpose2d"
    floats(op, x=x, w=w, **given(b=b))
    rank(op, "x", x, 4, "(N, C, H, W)")
    rank(op, "w", w, 4, "(in_channels, out_channels / groups, R, S)")
    check_channels(op, x, w, b, groups)
    check_sizes(
        op, x, w, ("H", "W"), check_pair(op, "stride", stride, 1), check_pair(op, "padding", padding, 0),
        check_pair(op, "output_padding", output_padding, 0), check_pair(op, "dilation", dilation, 1),
    )  # fmt: skip


def check_channels(op: str, x: Array, w: Array, b: Array | None, groups: int) -> None:
    """Check x (N, C, ...), w (C, K / groups, ...) and b (K)."""
    if w.size == 0:
        raise ValueError(f"{op}: w must not be empty, got shape {w.shape}")
    check_int(op, "groups", groups, 1)
    if x.shape[1] != len(w):
        raise ValueError(
            f"{op}: x has {x.shape[1]} channels, w takes {len(w)}: shapes {x.shape} and {w.shape}"
        )
    if len(w) % groups:
        raise ValueError(f"{op}: groups must divide the {len(w)} channels of x, got {groups}")
    K = w.shape[1] * groups
    if b is not None and b.shape != (K,):
        raise ValueError(f"{op}: b must have shape ({K},), one value per channel of y, got {b.shape}")


def check_sizes(op: str, x: Array, w: Array, names: tuple[str, ...], *how: tuple[int, ...]) -> None:
    """Check along each axis that x has pixels, that output_padding is small, and that y has pixels left."""
    for name, n, r, s, p, o, d in zip(names, x.shape[2:], w.shape[2:], *how):
        if n == 0:
            raise ValueError(f"{op}: x must not be empty along {name}, got shape {x.shape}")
        if o >= max(s, d):
            raise ValueError(
                f"{op}: output_padding must be smaller than the stride ({s}) or the dilation ({d}) along "
                f"{name}, got {o}"
            )
        size = (n - 1) * s + d * (r - 1) + o + 1
        if size <= 2 * p:
            raise ValueError(f"{op}: padding {p} on both sides leaves nothing of {size} pixels along {name}")


def sample(
    rng: np.random.Generator, dtype: Any, x: tuple[int, ...], w: tuple[int, ...], *,
    bias: bool = True, **attributes: Any,
) -> Sample:  # fmt: skip
    shapes = x, w, (w[1] * attributes.get("groups", 1),)
    arrays = tuple(np.asarray(rng.standard_normal(s), dtype) for s in shapes)
    label = f"{x} * {w}" + (f" {attributes}" if attributes else "")
    return Sample(label, arrays if bias else (*arrays[:2], None), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1, 1, 1), (1, 1, 1, 1))
    yield sample(rng, dtype, (2, 2, 2, 3), (2, 3, 3, 2))
    yield sample(rng, dtype, (1, 2, 3, 4), (2, 2, 3, 3), bias=False, stride=2, padding=1, output_padding=1)
    yield sample(rng, dtype, (2, 1, 2, 3), (1, 2, 2, 3), stride=(3, 2), padding=(0, 2), output_padding=(2, 0))
    yield sample(
        rng, dtype, (1, 2, 3, 2), (2, 1, 2, 3), dilation=(3, 2), padding=(1, 2), output_padding=(2, 1)
    )
    yield sample(rng, dtype, (1, 4, 2, 3), (4, 2, 3, 2), groups=2, padding=1)
    yield sample(rng, dtype, (2, 2, 3, 2), (2, 1, 3, 3), groups=2, stride=2, output_padding=(1, 0))
    yield sample(rng, dtype, (1, 1, 2, 2), (1, 2, 1, 1), stride=3)
    yield sample(rng, dtype, (0, 2, 2, 2), (2, 3, 2, 2))


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((2, 4, 3, 3)), np.ones((4, 3, 2, 2))
    yield BadInput(ValueError, "x must have 4 axes (N, C, H, W), got shape (4, 3, 3)", (x[0], w))
    yield BadInput(ValueError, "w must have 4 axes (in_channels, out_channels / groups, R, S)", (x, w[0]))
    yield BadInput(ValueError, "x has 4 channels, w takes 3", (x, w[:3]))
    yield BadInput(ValueError, "groups must divide the 4 channels of x, got 3", (x, w), {"groups": 3})
    yield BadInput(TypeError, "groups must be an int", (x, w), {"groups": 2.0})
    yield BadInput(ValueError, "b must have shape (6,)", (x, w, np.ones(3)), {"groups": 2})
    yield BadInput(ValueError, "w must not be empty", (x, w[:, :0]))
    yield BadInput(ValueError, "x must not be empty along W", (x[..., :0], w))
    yield BadInput(ValueError, "smaller than the stride (2) or the dilation (1) along H, got 2", (x, w),
                   {"stride": 2, "output_padding": (2, 0)})  # fmt: skip
    yield BadInput(ValueError, "padding 2 on both sides leaves nothing of 4 pixels", (x, w), {"padding": 2})
    yield BadInput(ValueError, "stride must be at least 1, got 0", (x, w), {"stride": 0})
    yield BadInput(ValueError, "padding must be at least 0", (x, w), {"padding": (0, -1)})
    yield BadInput(TypeError, "padding must be an int or a pair of ints", (x, w), {"padding": "same"})
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8), w))
    yield BadInput(TypeError, "one dtype, got float64 and float32", (x, w.astype(np.float32)))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (2, 8, 8, 8), (8, 4, 4, 4), stride=2, padding=1)
    yield sample(rng, dtype, (16, 64, 16, 16), (64, 32, 4, 4), stride=2, padding=1)
    yield sample(rng, dtype, (8, 64, 28, 28), (64, 64, 3, 3), padding=1)


def flops(x: Array, w: Array, b: Array | None = None, **attributes: Any) -> int:
    bias = 0 if b is None else int(np.prod(shape_for(x.shape, w.shape, **attributes)))
    return 2 * x.size * int(w[0].size) + bias


def shape_for(
    x: tuple[int, ...], w: tuple[int, ...], *, stride: int | Pair = 1, padding: int | Pair = 0,
    output_padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Return y's shape."""
    return out_shape(x, w, stride, padding, output_padding, dilation, groups)


def explain(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None = None, *, stride: int | Pair = 1,
    padding: int | Pair = 0, output_padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
) -> dict[str, str]:  # fmt: skip
    """Return conv2d's methods for the convolution from y to x."""
    if 0 in x:
        return dict.fromkeys(("forward", "dx", "dw"), f"nothing to multiply: x is empty, {tuple(x)}")
    y = out_shape(x, w, stride, padding, output_padding, dilation, groups)
    of = describe(y, tuple(w), pair(stride), pair(padding), pair(dilation), groups)
    return {
        "forward": f"conv2d's dx, {of['dx']}",
        "dx": f"conv2d's forward, {of['forward']}",
        "dw": f"conv2d's dw, {of['dw']}",
    }


def jvp(
    tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: Inputs, **attributes: Any
) -> Array:
    (x, w, _), (dx, dw, db) = inputs, tangents
    dy = np.zeros_like(outputs[0])
    if dx is not None:
        dy += tuned.forward(dx, w, **attributes)[0]
    if dw is not None:
        dy += tuned.forward(x, dw, **attributes)[0]
    if db is not None:
        dy += db[:, None, None]
    return dy


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    return Mutant(name, body, "conv_transpose2d.py", old, new)


conv_transpose2d = Op(
    name="conv_transpose2d",
    loops=Body(conv_transpose2d_forward_loops, conv_transpose2d_backward_loops),
    vectorized=vectorized,
    tuned=tuned,
    cuda=make_transposed_cuda(shape_for),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=jvp,
    gradient=multilinear(0, 1),
    inputs=3,
    tolerance=512,
    explain=explain,
    mutants=(
        mutant("missing += in y", "loops", "y[n, first + k, p, q] += x", "y[n, first + k, p, q] = x"),
        mutant("bias forgotten", "loops", "y[n, k, :, :] = b[k]", "y[n, k, :, :] = 0"),
        mutant("kernel flipped in dx", "loops", "* w[c, k, r, s]\n                                    dw",
               "* w[c, k, R - 1 - r, s]\n                                    dw"),
        mutant("groups write to the first channels", "loops", "first = c // (C // groups) * K  #",
               "first = 0  #"),
        mutant("output_padding forgotten", "vectorized", "+ d * (r - 1) + o + 1", "+ d * (r - 1) + 1"),
        mutant("bias forgotten", "vectorized", "y if b is None else y + b[:, None, None]", "y"),
        mutant("x not lengthened", "tuned", "(0, o // s)", "(0, 0)"),
        mutant("lengthened on both sides", "tuned", "more = [(0, o // s)", "more = [(o // s, 0)"),
        mutant("dx not cut", "tuned", "[:, :, : x.shape[2], : x.shape[3]]", "[:, :, : x.shape[2]]"),
        mutant("db over one image", "tuned", "sum_tuned.forward(dy, dim", "sum_tuned.forward(dy[:1], dim"),
    ),
)  # fmt: skip
