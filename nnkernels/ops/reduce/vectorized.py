"""sum and max as NumPy expressions."""

import math

import numpy as np

from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.ops.reduce.loops import Dim, count, reduced_axes, shapes


def sum_forward_vectorized(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array]:
    return (np.asarray(x.sum(axis=reduced_axes(x, dim), keepdims=keepdim)),)


def sum_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    # Written out: a stretched view would surprise whoever adds to it.
    dx = empty(inputs[0].shape, dy.dtype)
    dx[...] = dy.reshape(shapes(dx, dim, keepdim)[0])
    return (dx,)


def max_forward_vectorized(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array, Array]:
    axes = reduced_axes(x, dim)
    shape = shapes(x, dim, keepdim)[1]
    # Kept axes first, reduced ones flattened behind them; beside each value the position it came from.
    order = tuple(i for i in range(x.ndim) if i not in axes) + tuple(sorted(axes))
    rows = (math.prod(shape), count(x, dim))
    values = x.transpose(order).reshape(rows)
    positions = np.arange(x.size).reshape(x.shape).transpose(order).reshape(rows)
    first = (np.arange(rows[0]), values.argmax(axis=1))
    return values[first].reshape(shape), positions[first].reshape(shape)


def max_backward_vectorized(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = zeros(inputs[0].shape, inputs[0].dtype)
    dx.reshape(-1)[outputs[1]] = dy  # no position comes twice, so = does what += would
    return (dx,)
