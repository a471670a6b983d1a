"""sum, mean and max as their definitions: one loop over x, each element to the y it falls on."""

import math

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.folding import source_index
from nnkernels.ops.op import Body

Dim = int | tuple[int, ...] | None
Shape = tuple[int, ...]


def reduced_axes(x: Array, dim: Dim) -> Shape:
    """Return the axes to reduce, counted from the front."""
    if dim is None:
        return tuple(range(x.ndim))
    return tuple(d % x.ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))


def shapes(x: Array, dim: Dim, keepdim: bool) -> tuple[Shape, Shape]:
    """Return y's shape with every reduced axis as 1, and y's own shape."""
    axes = reduced_axes(x, dim)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return kept, kept if keepdim else tuple(n for i, n in enumerate(x.shape) if i not in axes)


def count(x: Array, dim: Dim) -> int:
    """Return n, the number of elements of x that fall on one element of y."""
    return math.prod(x.shape[i] for i in reduced_axes(x, dim))


def walk(x: Array, kept: Shape) -> tuple[Array, Array]:
    """Return x's shape and, for each of its axes, the step in the flat y: 0 along reduced axes."""
    steps = np.zeros(x.ndim, np.int64)
    step = 1
    for axis in range(x.ndim - 1, -1, -1):
        steps[axis] = step if kept[axis] == x.shape[axis] else 0
        step *= kept[axis]
    return np.array(x.shape, np.int64), steps


@jit
def sum_kernel(x: Array, shape: Array, steps: Array, total: Array) -> None:
    for i in range(x.size):
        total[source_index(i, shape, steps)] += x[i]


@jit
def spread_kernel(dy: Array, shape: Array, steps: Array, dx: Array) -> None:
    for i in range(dx.size):
        dx[i] = dy[source_index(i, shape, steps)]


@jit
def max_kernel(x: Array, shape: Array, steps: Array, y: Array, argmax: Array) -> None:
    for i in range(x.size):
        j = source_index(i, shape, steps)
        if argmax[j] < 0 or x[i] > y[j] or (x[i] != x[i] and y[j] == y[j]):
            y[j] = x[i]
            argmax[j] = i


@jit
def route_kernel(dy: Array, argmax: Array, dx: Array) -> None:
    for j in range(dy.size):
        dx[argmax[j]] += dy[j]


def sum_forward_loops(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array]:
    kept, shape = shapes(x, dim, keepdim)
    total = np.zeros(kept, np.float64)  # the yardstick for float32 sums in any order
    sum_kernel(x.reshape(-1), *walk(x, kept), total.reshape(-1))
    return (total.astype(x.dtype).reshape(shape),)


def sum_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    (x,) = inputs
    dx = np.empty(x.shape, x.dtype)
    kept, _ = shapes(x, dim, keepdim)
    spread_kernel(dy.reshape(-1), *walk(x, kept), dx.reshape(-1))
    return (dx,)


def max_forward_loops(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array, Array]:
    kept, shape = shapes(x, dim, keepdim)
    y, argmax = np.empty(shape, x.dtype), np.full(shape, -1, np.int64)
    max_kernel(x.reshape(-1), *walk(x, kept), y.reshape(-1), argmax.reshape(-1))
    return y, argmax


def max_backward_loops(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = np.zeros(inputs[0].shape, inputs[0].dtype)
    route_kernel(dy.reshape(-1), outputs[1].reshape(-1), dx.reshape(-1))
    return (dx,)


def make_mean(body: Body) -> Body:
    """Return the body that divides by n: the sum forward, its cotangent backward."""

    def forward(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array]:
        (y,) = body.forward(x, dim, keepdim)
        return (np.asarray(y / x.dtype.type(count(x, dim))),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
        dim: Dim = None, keepdim: bool = False,
    ) -> tuple[Array | None, ...]:  # fmt: skip
        assert body.backward is not None
        share = np.asarray(dy / dy.dtype.type(count(inputs[0], dim)))
        return body.backward(share, outputs, inputs, needs, dim, keepdim)

    return Body(forward, backward)
