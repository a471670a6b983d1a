"""conv2d by the method that wins for its sizes."""

from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d import direct
from nnkernels.ops.conv2d.shapes import Pair
from nnkernels.ops.conv2d.weights import bias_gradient, weight_gradient
from nnkernels.ops.validate import pair


def conv2d_forward_tuned(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1,
) -> tuple[Array]:  # fmt: skip
    return (direct.forward(x, w, b, pair(stride), pair(padding), pair(dilation), groups),)


def conv2d_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array, Array | None], needs: tuple[bool, ...],
    *, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    x, w, _ = inputs
    how = (pair(stride), pair(padding), pair(dilation), groups)
    dx = direct.input_gradient(dy, x, w, *how) if needs[0] else None
    dw = weight_gradient(dy, x, w, *how) if needs[1] else None
    db = bias_gradient(dy) if needs[2] else None
    return dx, dw, db
