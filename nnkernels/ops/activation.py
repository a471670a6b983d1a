"""The activation that linear and conv2d can apply themselves: relu, while the sums are still in the cache.

Backward needs y alone: max(x, 0) lets a gradient through where y > 0.
"""

from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, kernel
from nnkernels.machine.jit import jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW_IF_CHEAP
from nnkernels.ops.gradients import multilinear
from nnkernels.ops.op import Op
from nnkernels.ops.validate import choice

PER_THREAD = 4  # elements of a GPU thread, a block's width apart


def check_activation(op: str, activation: str | None) -> None:
    """Check that an op's own activation is one it has."""
    if activation is not None:
        choice(op, "activation", activation, ("relu",))


@jit_elementwise
def masked_chunk(dy: Array, y: Array, dx: Array) -> None:
    for i in range(y.size):
        dx[i] = dy[i] if y[i] > 0 else dy.dtype.type(0)


@jit_parallel
def masked_parallel(dy: Array, y: Array, dx: Array) -> None:
    for c in prange((y.size + CHUNK - 1) // CHUNK):
        i, j = c * CHUNK, (c + 1) * CHUNK
        masked_chunk(dy[i:j], y[i:j], dx[i:j])


def through_relu(dy: Array, y: Array) -> Array:
    """Return dy where y > 0, else 0."""
    dx = empty(y.shape, y.dtype)
    kernel = masked_chunk if y.size < SERIAL_BELOW_IF_CHEAP else masked_parallel
    kernel(dy.reshape(-1), y.reshape(-1), dx.reshape(-1))
    return dx


@kernel
def through_relu_kernel(dy: Array, y: Array, dx: Array) -> None:
    passed = cuda.local.array(PER_THREAD, dx.dtype)
    start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
    for k in range(PER_THREAD):  # all loads before the first store; behind the end, of the last element
        i = min(at(start + k * THREADS), at(dx.size - 1))
        passed[k] = dy[i] if y[i] > y.dtype.type(0) else dy.dtype.type(0)
    for k in range(PER_THREAD):
        i = at(start + k * THREADS)
        if i < dx.size:
            dx[i] = passed[k]


def through_relu_cuda(dy: GpuArray, y: GpuArray) -> GpuArray:
    """Return dy where y > 0, else 0, on a GPU. Bound: reading two arrays and writing one."""
    dx = empty_like(y)
    through_relu_kernel[blocks_for(dx.size, THREADS * PER_THREAD), THREADS](dy, y, dx)
    return dx


product_of_x_and_w = multilinear(0, 1)


def before_relu(
    op: Op, dy: Any, outputs: tuple[Array], inputs: tuple[Any, ...], needs: tuple[bool, ...],
    activation: str | None = None, **attributes: Any,
) -> tuple[Any, ...]:  # fmt: skip
    """Return the gradients, in ops, of what is a product of x and w before its activation."""
    if activation == "relu":
        dy = dy * (outputs[0] > 0).astype(dy.dtype)
    return product_of_x_and_w(op, dy, outputs, inputs, needs, **attributes)
