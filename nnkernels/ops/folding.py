"""Positions in arrays that broadcast: which element of an input a flat position of the result reads."""

from functools import lru_cache

import numpy as np

from nnkernels.machine.jit import inline
from nnkernels.machine.memory import Array


@inline
def source_index(i: int, shape: Array, steps: Array) -> int:
    """Return where the flat position i of the broadcast shape lies in an input with these steps."""
    j = 0
    for axis in range(len(shape) - 1, -1, -1):
        j += (i % shape[axis]) * steps[axis]
        i //= shape[axis]
    return j


def strides_in(shape: tuple[int, ...], x_shape: tuple[int, ...]) -> Array:
    """Return, for each axis of the broadcast ``shape``, the step in an input's flat array: 0 if stretched."""
    steps = np.zeros(len(shape), np.int64)
    step = 1
    for axis in range(-1, -len(x_shape) - 1, -1):
        steps[axis] = step if x_shape[axis] > 1 else 0
        step *= x_shape[axis]
    return steps


@lru_cache(maxsize=1024)
def fold(shape1: tuple[int, ...], shape2: tuple[int, ...]) -> tuple[tuple[int, ...], Array, Array, Array]:
    """Return (result's shape, sizes, steps1, steps2), neighbouring axes merged where both inputs allow it.

    Two arrays of one shape become one axis; an image batch plus a bias per channel becomes three. There are
    at least two axes, the first of size 1 if need be; the innermost steps are 0 or 1. Raises ValueError for
    shapes that do not broadcast.
    """
    shape = np.broadcast_shapes(shape1, shape2)
    sizes: list[int] = []
    s1: list[int] = []
    s2: list[int] = []
    lengths = zip(shape[::-1], strides_in(shape, shape1)[::-1], strides_in(shape, shape2)[::-1])
    for n, a, b in lengths:
        if n == 1:
            continue
        if sizes and a == s1[-1] * sizes[-1] and b == s2[-1] * sizes[-1]:
            sizes[-1] *= n
        else:
            sizes.append(n)
            s1.append(a)
            s2.append(b)
    while len(sizes) < 2:
        sizes.append(1)
        s1.append(0)
        s2.append(0)
    folded = [np.array(v[::-1], np.int64) for v in (sizes, s1, s2)]
    return shape, folded[0], folded[1], folded[2]
