"""Moving tensors between host and GPU, recorded: the gradient moves the other way."""

from typing import TYPE_CHECKING, Any

from nnkernels.machine.arrays import check_device, move, side
from nnkernels.ops.op import Body, Op

if TYPE_CHECKING:
    from nnkernels.autograd.tensor import Tensor


def forward(x: Any, *, device: str) -> tuple[Any]:
    """Move the array."""
    return (move(x, device),)


def backward(
    dy: Any, outputs: tuple[Any], inputs: tuple[Any], needs: tuple[bool], *, device: str
) -> tuple[Any | None]:
    """Move the gradient back."""
    return (move(dy, side(inputs[0])) if needs[0] else None,)


def gradient(
    op: Op, dy: Any, outputs: tuple[Any], inputs: tuple[Any], needs: tuple[bool, ...], *, device: str
) -> tuple[Any | None]:
    """Move the gradient back, recorded."""
    return (dy.to(side(inputs[0].data)) if needs[0] else None,)


# Not in OPS: it computes nothing. It goes from one device to another, so that all its bodies are one.
BODY = Body(forward, backward)
TO = Op(
    name="to", loops=BODY, vectorized=BODY, tuned=BODY, cuda=BODY, check=lambda x, device: None,
    samples=lambda rng, dtype: iter(()), bad_inputs=lambda: iter(()),
    bench_samples=lambda rng, dtype: iter(()), flops=lambda x, device: 0, gradient=gradient,
)  # fmt: skip


def to(t: "Tensor", device: Any) -> "Tensor":
    """Return the tensor on ``device``: itself where it is there already."""
    wanted = check_device("Tensor.to", device)
    if side(t.data) == wanted:
        return t
    if t.tangent is not None:
        raise RuntimeError("Tensor.to: a tensor with a tangent stays where it is; move it before jvp")
    if t.dtype.kind != "f":
        return type(t)(move(t.data, wanted))
    moved: Tensor = t.apply_op(TO, (t,), {"device": wanted})
    return moved
