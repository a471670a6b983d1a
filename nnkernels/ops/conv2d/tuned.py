"""conv2d by the method that wins for its sizes (see ``methods``)."""

from nnkernels.machine.memory import Array
from nnkernels.ops.activation import through_relu
from nnkernels.ops.conv2d import direct, pixels
from nnkernels.ops.conv2d.methods import methods
from nnkernels.ops.conv2d.shapes import Pair, Winograd
from nnkernels.ops.conv2d.weights import weight_gradients
from nnkernels.ops.conv2d.winograd import forward as by_patches
from nnkernels.ops.conv2d.winograd import input_gradient as gradient_by_patches
from nnkernels.ops.validate import pair


def conv2d_forward_tuned(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1, activation: str | None = None, winograd: Winograd = None,
) -> tuple[Array]:  # fmt: skip
    how = (pair(stride), pair(padding), pair(dilation), groups)
    way = methods(x.shape, w.shape, *how, winograd).forward
    relu = activation == "relu"
    if way == "direct" or x.size == 0:
        return (direct.forward(x, w, b, *how, relu),)
    if way == "pixels":
        return (pixels.forward(x, w, b, *how, relu),)
    return (by_patches(x, w, b, pair(padding), int(way[-1]), relu),)


def conv2d_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array, Array | None], needs: tuple[bool, ...],
    *, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
    activation: str | None = None, winograd: Winograd = None,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    x, w, _ = inputs
    how = (pair(stride), pair(padding), pair(dilation), groups)
    if activation == "relu":
        dy = through_relu(dy, outputs[0])
    dx = None
    if needs[0]:
        way = methods(x.shape, w.shape, *how, winograd).dx
        if way == "direct" or x.size == 0:
            dx = direct.input_gradient(dy, x, w, *how)
        else:
            dx = gradient_by_patches(dy, w, pair(padding), int(way[-1]))
    if not (needs[1] or needs[2]):
        return dx, None, None
    dw, db = weight_gradients(dy, x, w, *how, needs[2])
    return dx, dw if needs[1] else None, db if needs[2] else None
