"""conv2d by the method that wins for its sizes (see ``methods``)."""

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.activation import through_relu
from nnkernels.ops.conv2d import columns, depthwise, direct, pixels, weights, winograd
from nnkernels.ops.conv2d.methods import methods
from nnkernels.ops.conv2d.shapes import Pair, Winograd
from nnkernels.ops.validate import pair

How = tuple[Pair, Pair, Pair, int]  # stride, padding, dilation, groups


def correlate(x: Array, w: Array, b: Array | None, how: How, relu: bool, patches: Winograd = None) -> Array:
    """Return y (N, K, P, Q)."""
    way = methods(x.shape, w.shape, *how, patches).forward
    if way == "direct" or x.size == 0:
        return direct.forward(x, w, b, *how, relu)
    if way == "depthwise":
        return depthwise.forward(x, w, b, *how[:3], relu)
    if way == "pixels":
        return pixels.forward(x, w, b, *how, relu)
    return winograd.forward(x, w, b, how[1], int(way[-1]), relu)


def input_gradient(
    dy: Array, shape: tuple[int, ...], w: Array, b: Array | None, how: How, patches: Winograd = None
) -> Array:
    """Return dx of the given shape (N, C, H, W), plus b (C) if there is one: what the convolution's transpose
    wants.
    """
    if dy.size == 0:
        return np.zeros(shape, dy.dtype) + (0 if b is None else b[:, None, None])
    way = methods(shape, w.shape, *how, patches).dx
    if way == "direct":
        return direct.input_gradient(dy, shape, w, b, *how)
    if way == "columns":
        return columns.input_gradient(dy, shape, w, b, *how[:3])
    if way == "depthwise":
        return depthwise.input_gradient(dy, shape, w, b, *how[:3])
    return winograd.input_gradient(dy, w, b, how[1], int(way[-1]))


def weight_gradients(dy: Array, x: Array, w: Array, how: How, bias: bool) -> tuple[Array, Array]:
    """Return dw (K, C / groups, R, S) and, if asked for, db (K)."""
    if dy.size and methods(x.shape, w.shape, *how).dw == "depthwise":
        return depthwise.weight_gradients(dy, x, w, *how[:3], bias)
    return weights.weight_gradients(dy, x, w, *how, bias)


def conv2d_forward_tuned(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1, activation: str | None = None, winograd: Winograd = None,
) -> tuple[Array]:  # fmt: skip
    how = (pair(stride), pair(padding), pair(dilation), groups)
    return (correlate(x, w, b, how, activation == "relu", winograd),)


def conv2d_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array, Array | None], needs: tuple[bool, ...],
    *, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
    activation: str | None = None, winograd: Winograd = None,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    x, w, _ = inputs
    how = (pair(stride), pair(padding), pair(dilation), groups)
    if activation == "relu":
        dy = through_relu(dy, outputs[0])
    dx = input_gradient(dy, x.shape, w, None, how, winograd) if needs[0] else None
    if not (needs[1] or needs[2]):
        return dx, None, None
    dw, db = weight_gradients(dy, x, w, how, needs[2])
    return dx, dw if needs[1] else None, db if needs[2] else None
