"""Convolutions over one to three axes on a GPU: conv1d's, conv2d's and conv3d's bodies, and the passes that
transposed convolutions take in each other's place.

Two methods for y and dx: a product of matrices (``cuda_implicit``), where filters and terms fill its tiles,
else a thread per pixel (``cuda_direct``). Two for dw (``cuda_weights``). Fewer axes are three, the others of
length 1: a view.
"""

from collections.abc import Callable
from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.ops.activation import through_relu_cuda
from nnkernels.ops.conv2d.cuda_direct import direct
from nnkernels.ops.conv2d.cuda_geometry import (
    How,
    Pass,
    Triple,
    forward_pass,
    gradient_pass,
    triple,
    with_zeros_around,
)
from nnkernels.ops.conv2d.cuda_implicit import implicit
from nnkernels.ops.conv2d.cuda_weights import weight_sums
from nnkernels.ops.conv2d.shapes import out_length
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.cuda import sum_cuda

Grads = tuple[GpuArray | None, GpuArray | None, GpuArray | None]
Inputs = tuple[GpuArray, GpuArray, GpuArray | None]

FILTERS, TERMS, PRODUCTS = 32, 16, 2**24  # from which a product of matrices pays


def by_product(g: Pass) -> bool:
    """Return whether the pass is a product of matrices, rather than a thread per pixel."""
    products = g.pixels * g.phases * g.groups * g.filters * g.depth
    return g.filters >= FILTERS and g.depth >= TERMS and products >= PRODUCTS


def compute(source: GpuArray, w: GpuArray, b: GpuArray | None, relu: bool, g: Pass, result: GpuArray) -> None:
    """Compute a pass by the method for its sizes."""
    if result.size:
        source, g = with_zeros_around(source, g)
        (implicit if by_product(g) else direct)(source, w, b, relu, g, result)


def correlate(x: GpuArray, w: GpuArray, b: GpuArray | None, how: How, relu: bool) -> GpuArray:
    """Return y (N, K, M, P, Q)."""
    out = triple([out_length(n, t, *each) for n, t, *each in zip(x.shape[2:], w.shape[2:], *how[:3])])
    return correlate_to(x, w, b, how, relu, out)


def correlate_to(x: GpuArray, w: GpuArray, b: GpuArray | None, how: How, relu: bool, out: Triple) -> GpuArray:
    """Return the part of y of the sizes ``out``."""
    y = empty((x.shape[0], w.shape[0], *out), x.dtype, x.device)
    compute(x, w, b, relu, forward_pass(x.shape, w.shape, out, how), y)
    return y


def input_gradient(dy: GpuArray, out: Triple, w: GpuArray, b: GpuArray | None, how: How) -> GpuArray:
    """Return dx (N, C, D, H, W) of the sizes ``out``, plus b (C) if there is one."""
    dx = empty((dy.shape[0], w.shape[1] * how[3], *out), dy.dtype, dy.device)
    compute(dy, w, b, False, gradient_pass(dy.shape, w.shape, out, how), dx)
    return dx


def weight_gradient(dy: GpuArray, x: GpuArray, shape: tuple[int, ...], how: How) -> GpuArray:
    """Return dw of w's shape (K, C / groups, T, R, S)."""
    x, g = with_zeros_around(x, forward_pass(x.shape, shape, triple(dy.shape[2:]), how))
    return weight_sums(dy, x, g, shape)


def bias_gradient(dy: GpuArray) -> GpuArray:
    """Return db (K), the sum of dy (N, K, ...) over all but the channels. Bound: dy is read once."""
    db: GpuArray = sum_cuda.forward(dy, dim=(0, *range(2, dy.ndim)))[0]
    return db


# --- bodies for any number of axes ---


def three_axes(a: GpuArray) -> GpuArray:
    """Return a (N, C, ...) as (N, C, D, H, W), with axes of length 1 before its own."""
    return a.reshape(*a.shape[:2], *(1,) * (5 - a.ndim), *a.shape[2:])


def three(value: Any, axes: int, other: int) -> Triple:
    """Return an int, or one per axis, for three axes; ``other`` for those that are not there."""
    values = value if isinstance(value, (tuple, list)) else (value,) * axes
    return triple((*(other,) * (3 - axes), *(int(v) for v in values)))


def how_of(axes: int, stride: Any = 1, padding: Any = 0, dilation: Any = 1, groups: int = 1) -> How:
    """Return an op's attributes for three axes."""
    return three(stride, axes, 1), three(padding, axes, 0), three(dilation, axes, 1), int(groups)


def make_convolution() -> Body:
    """Return the body of conv1d, conv2d and conv3d."""

    def forward(
        x: GpuArray, w: GpuArray, b: GpuArray | None = None, *, activation: str | None = None,
        winograd: Any = None, **attributes: Any,
    ) -> tuple[GpuArray]:  # fmt: skip
        axes = x.ndim - 2
        how = how_of(axes, **attributes)
        y = correlate(three_axes(x), three_axes(w), b, how, activation == "relu")
        return (y.reshape(*y.shape[:2], *y.shape[5 - axes :]),)

    def backward(
        dy: GpuArray, outputs: tuple[GpuArray], inputs: Inputs, needs: tuple[bool, ...], *,
        activation: str | None = None, winograd: Any = None, **attributes: Any,
    ) -> Grads:  # fmt: skip
        x, w, _ = inputs
        how = how_of(x.ndim - 2, **attributes)
        if activation == "relu":
            dy = through_relu_cuda(dy, outputs[0])
        dx = dw = None
        dy, wide_x, wide_w = three_axes(dy), three_axes(x), three_axes(w)
        if needs[0]:
            dx = input_gradient(dy, triple(wide_x.shape[2:]), wide_w, None, how).reshape(x.shape)
        if needs[1]:
            dw = weight_gradient(dy, wide_x, wide_w.shape, how).reshape(w.shape)
        return dx, dw, bias_gradient(dy) if needs[2] else None

    return Body(forward, backward)


def make_transposed_cuda(sizes_of: Callable[..., tuple[int, ...]]) -> Body:
    """Return the body of transposed convolutions, of which ``sizes_of(x, w, ...)`` gives y's shape: conv's
    passes in each other's place. Places of x that nothing fits to are no taps of conv's, and bits say so.
    """

    def forward(x: GpuArray, w: GpuArray, b: GpuArray | None = None, **attributes: Any) -> tuple[GpuArray]:
        shape = sizes_of(x.shape, w.shape, **attributes)
        attributes.pop("output_padding", None)
        out = triple(three((*shape[2:],), x.ndim - 2, 1))
        y = input_gradient(three_axes(x), out, three_axes(w), b, how_of(x.ndim - 2, **attributes))
        return (y.reshape(shape),)

    def backward(
        dy: GpuArray, outputs: tuple[GpuArray], inputs: Inputs, needs: tuple[bool, ...], *,
        output_padding: Any = 0, **attributes: Any,
    ) -> Grads:  # fmt: skip
        x, w, _ = inputs
        how = how_of(x.ndim - 2, **attributes)
        dx = dw = None
        dy, wide_x, wide_w = three_axes(dy), three_axes(x), three_axes(w)
        if needs[0]:
            dx = correlate_to(dy, wide_w, None, how, False, triple(wide_x.shape[2:])).reshape(x.shape)
        if needs[1]:
            dw = weight_gradient(wide_x, dy, wide_w.shape, how).reshape(w.shape)
        return dx, dw, bias_gradient(dy) if needs[2] else None

    return Body(forward, backward)


convolution_cuda = make_convolution()
