"""Transposed one-dimensional convolution along the last axis, conv_transpose2d of one row:

    y[n, k, sw v + dw s - pw] += x[n, c, v] w[c, k, s]     and b[k] to every place

    x (N, C, L)   w (C, K / groups, S)   b (K) or None   y (N, K, Q)
    Q = (L - 1) sw - 2 pw + dw (S - 1) + opw + 1

with the ints stride sw, padding pw, output_padding opw and dilation dw, and groups, as there. Every product
x w hands dy w to dx and dy x to dw. Dumoulin and Visin, A guide to convolution arithmetic for deep learning,
arXiv:1603.07285, 2016.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.conv1d import as_image
from nnkernels.ops.conv2d.cuda import make_transposed_cuda
from nnkernels.ops.conv_transpose2d import check_channels, check_sizes, sample, tuned, vectorized
from nnkernels.ops.conv_transpose2d import explain as explain_images
from nnkernels.ops.conv_transpose2d import flops as flops_of_images
from nnkernels.ops.gradients import multilinear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import check_int, floats, given, rank

Grads = tuple[Array | None, Array | None, Array | None]
Inputs = tuple[Array, Array, Array | None]
Needs = tuple[bool, ...]


def out_length(L: int, S: int, stride: int, padding: int, output_padding: int, dilation: int) -> int:
    """Return Q."""
    return (L - 1) * stride - 2 * padding + dilation * (S - 1) + output_padding + 1


def out_shape(
    x: tuple[int, ...], w: tuple[int, ...], *, stride: int = 1, padding: int = 0, output_padding: int = 0,
    dilation: int = 1, groups: int = 1,
) -> tuple[int, int, int]:  # fmt: skip
    """Return (N, K, Q) for shapes x (N, C, L) and w (C, K / groups, S)."""
    return x[0], w[1] * groups, out_length(x[2], w[2], stride, padding, output_padding, dilation)


# --- loops ---


@jit
def conv_transpose1d_forward_kernel(
    x: Array, w: Array, b: Array, stride: int, padding: int, dilation: int, groups: int, y: Array
) -> None:
    """y[n, k, sw v + dw s - pw] += x[n, c, v] w[c, k, s]."""
    N, C, L = x.shape
    _, K, S = w.shape
    _, _, Q = y.shape
    for n in range(N):
        for k in range(groups * K):
            y[n, k, :] = b[k]
        for c in range(C):
            first = c // (C // groups) * K  # the first channel of y that channel c of x goes to
            for v in range(L):
                for k in range(K):
                    for s in range(S):
                        q = stride * v + dilation * s - padding
                        if 0 <= q < Q:  # the rest is cut off
                            y[n, first + k, q] += x[n, c, v] * w[c, k, s]


@jit
def conv_transpose1d_backward_kernel(
    dy: Array, x: Array, w: Array, stride: int, padding: int, dilation: int, groups: int,
    dx: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    """Every product x w of the forward pass hands dy w to its dx and dy x to its dw."""
    N, C, L = x.shape
    _, K, S = w.shape
    _, _, Q = dy.shape
    for n in range(N):
        for k in range(groups * K):
            for q in range(Q):
                db[k] += dy[n, k, q]
        for c in range(C):
            first = c // (C // groups) * K
            for v in range(L):
                for k in range(K):
                    for s in range(S):
                        q = stride * v + dilation * s - padding
                        if 0 <= q < Q:
                            dx[n, c, v] += dy[n, first + k, q] * w[c, k, s]
                            dw[c, k, s] += dy[n, first + k, q] * x[n, c, v]


def conv_transpose1d_forward_loops(
    x: Array, w: Array, b: Array | None = None, *, stride: int = 1, padding: int = 0, output_padding: int = 0,
    dilation: int = 1, groups: int = 1,
) -> tuple[Array]:  # fmt: skip
    Q = out_length(x.shape[2], w.shape[2], stride, padding, output_padding, dilation)
    y = np.empty((len(x), w.shape[1] * groups, Q), x.dtype)
    bias = np.zeros(y.shape[1], x.dtype) if b is None else b
    conv_transpose1d_forward_kernel(x, w, bias, stride, padding, dilation, groups, y)
    return (y,)


def conv_transpose1d_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, stride: int = 1, padding: int = 0,
    output_padding: int = 0, dilation: int = 1, groups: int = 1,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(dy.shape[1], x.dtype)
    conv_transpose1d_backward_kernel(dy, x, w, stride, padding, dilation, groups, dx, dw, db)
    return (dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None)


# --- conv_transpose2d's bodies, on one row ---


def horizontal(
    stride: int = 1, padding: int = 0, output_padding: int = 0, dilation: int = 1, groups: int = 1
) -> dict[str, Any]:
    """Return conv_transpose2d's attributes for one row: p, h and r are 0 alone in its formula."""
    return {
        "stride": (1, stride), "padding": (0, padding), "output_padding": (0, output_padding),
        "dilation": (1, dilation), "groups": groups,
    }  # fmt: skip


def on_one_row(body: Body) -> Body:
    """Return what conv_transpose2d's ``body`` does with images of one row, which are views."""

    def forward(x: Array, w: Array, b: Array | None = None, **attributes: Any) -> tuple[Array]:
        y = body.forward(as_image(x), as_image(w), b, **horizontal(**attributes))[0]
        return (y[:, :, 0],)

    def backward(dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, **attributes: Any) -> Grads:
        assert body.backward is not None
        x, w, b = inputs
        images = (as_image(x), as_image(w), b)
        kept = (as_image(outputs[0]),)
        dx, dw, db = body.backward(as_image(dy), kept, images, needs, **horizontal(**attributes))
        return None if dx is None else dx[:, :, 0], None if dw is None else dw[:, :, 0], db

    return Body(forward, backward)


# --- records ---


def check(
    x: Array, w: Array, b: Array | None = None, *, stride: int = 1, padding: int = 0, output_padding: int = 0,
    dilation: int = 1, groups: int = 1,
) -> None:  # fmt: skip
    op = "conv_transpose1d"
    floats(op, x=x, w=w, **given(b=b))
    rank(op, "x", x, 3, "(N, C, L)")
    rank(op, "w", w, 3, "(in_channels, out_channels / groups, S)")
    check_channels(op, x, w, b, groups)
    check_int(op, "stride", stride, 1)
    check_int(op, "padding", padding, 0)
    check_int(op, "output_padding", output_padding, 0)
    check_int(op, "dilation", dilation, 1)
    check_sizes(op, x, w, ("L",), (stride,), (padding,), (output_padding,), (dilation,))


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1, 1), (1, 1, 1))
    yield sample(rng, dtype, (2, 3, 4), (3, 2, 3))
    yield sample(rng, dtype, (2, 2, 4), (2, 3, 3), bias=False, stride=2, padding=1, output_padding=1)
    yield sample(rng, dtype, (1, 2, 5), (2, 2, 3), dilation=3, padding=2, output_padding=2)
    yield sample(rng, dtype, (1, 4, 3), (4, 1, 4), stride=3, groups=2, padding=2)
    yield sample(rng, dtype, (2, 3, 4), (3, 2, 2), groups=3)
    yield sample(rng, dtype, (0, 2, 3), (2, 2, 2))


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((2, 4, 3)), np.ones((4, 3, 2))
    yield BadInput(ValueError, "x must have 3 axes (N, C, L), got shape (4, 3)", (x[0], w))
    yield BadInput(ValueError, "w must have 3 axes (in_channels, out_channels / groups, S)", (x, w[0]))
    yield BadInput(ValueError, "x has 4 channels, w takes 3", (x, w[:3]))
    yield BadInput(ValueError, "groups must divide the 4 channels of x, got 3", (x, w), {"groups": 3})
    yield BadInput(ValueError, "groups must be at least 1, got 0", (x, w), {"groups": 0})
    yield BadInput(ValueError, "b must have shape (3,)", (x, w, np.ones(4)))
    yield BadInput(ValueError, "x must not be empty along L", (x[..., :0], w))
    yield BadInput(ValueError, "smaller than the stride (1) or the dilation (1) along L, got 1", (x, w),
                   {"output_padding": 1})  # fmt: skip
    yield BadInput(ValueError, "padding 2 on both sides leaves nothing of 4 pixels", (x, w), {"padding": 2})
    yield BadInput(TypeError, "stride must be an int, got tuple (1, 2)", (x, w), {"stride": (1, 2)})
    yield BadInput(TypeError, "output_padding must be an int", (x, w), {"output_padding": None})
    yield BadInput(ValueError, "dilation must be at least 1", (x, w), {"dilation": 0})
    yield BadInput(TypeError, "one dtype, got float64 and float32", (x, w.astype(np.float32)))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (2, 8, 32), (8, 4, 4), stride=2, padding=1)
    yield sample(rng, dtype, (16, 64, 256), (64, 32, 4), stride=2, padding=1)


def flops(x: Array, w: Array, b: Array | None = None, **attributes: Any) -> int:
    return flops_of_images(as_image(x), as_image(w), b, **horizontal(**attributes))


def explain(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None = None, **attributes: Any
) -> dict[str, str]:
    return explain_images((*x[:2], 1, x[2]), (*w[:2], 1, w[2]), b, **horizontal(**attributes))


tuned_on_one_row = on_one_row(tuned)


def jvp(
    tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: Inputs, **attributes: Any
) -> Array:
    (x, w, _), (dx, dw, db) = inputs, tangents
    dy = np.zeros_like(outputs[0])
    if dx is not None:
        dy += tuned_on_one_row.forward(dx, w, **attributes)[0]
    if dw is not None:
        dy += tuned_on_one_row.forward(x, dw, **attributes)[0]
    if db is not None:
        dy += db[:, None]
    return dy


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    return Mutant(name, body, "conv_transpose1d.py", old, new)


conv_transpose1d = Op(
    name="conv_transpose1d",
    loops=Body(conv_transpose1d_forward_loops, conv_transpose1d_backward_loops),
    vectorized=on_one_row(vectorized),
    tuned=tuned_on_one_row,
    cuda=make_transposed_cuda(out_shape),
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
        mutant("missing += in y", "loops", "y[n, first + k, q] += x", "y[n, first + k, q] = x"),
        mutant("stride and dilation swapped in dx", "loops",
               "q = stride * v + dilation * s - padding\n                        if 0 <= q < Q:\n",
               "q = dilation * v + stride * s - padding\n                        if 0 <= q < Q:\n"),
        mutant("one place too few", "loops", "+ output_padding + 1", "+ output_padding"),
        mutant("db over the first place", "loops", "for q in range(Q):\n                db",
               "for q in range(1):\n                db"),
        mutant("dilation forgotten", "vectorized", "(1, dilation)", "(1, 1)"),
        mutant("padding above and below", "tuned", "(0, padding)", "(padding, 0)"),
        mutant("output_padding forgotten", "tuned", "(0, output_padding)", "(0, 0)"),
        mutant("stride forgotten", "tuned", "(1, stride)", "(1, 1)"),
    ),
)  # fmt: skip
