"""The cuda body of pad's forward pass: every element of y asks whether it lies inside, and where in x.

Bound: memory traffic; y is written once, x is read once. An axis without padding is part of the one before
it. What else ``assemble.py`` needs are the copies of ``shape_cuda.py``.
"""

from functools import lru_cache
from typing import Any

import numba

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.machine.gpu_index import divisor, quotient
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, kernel, next_power_of_two
from nnkernels.machine.memory import Array
from nnkernels.ops.folding_cuda import Axes, Tuple

PER_THREAD = 4  # elements that a thread loads before it stores the first


@kernel
def pad_kernel(
    x: Array, axes: Axes, befores: Tuple, sizes: Tuple, steps: Tuple, value: Any, y: Array
) -> None:
    """``axes`` are y's; x has ``sizes``, and begins at ``befores`` in y."""
    values = cuda.local.array(PER_THREAD, x.dtype)
    start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
    for k in range(PER_THREAD):  # behind the end, the last element once more
        i, j, inside = min(at(start + k * THREADS), at(y.size - 1)), at(0), True
        for axis in range(len(axes) - 1, -1, -1):
            rest = at(quotient(i, axes[axis]))
            place = numba.int32(i - rest * at(axes[axis][0])) - befores[axis]
            inside = inside and place >= 0 and place < sizes[axis]
            j = at(j + place * steps[axis])
            i = rest
        values[k] = value
        if inside:
            values[k] = x[j]
    for k in range(PER_THREAD):
        i = at(start + k * THREADS)
        if i < at(y.size):
            y[i] = values[k]


@lru_cache(maxsize=256)
def pad_places(shape: Tuple, sides: tuple[tuple[int, int], ...]) -> tuple[Tuple, tuple[Any, ...]]:
    """Return y's shape, and the axes, befores, sizes and steps of ``pad_kernel``: 1, 2, 4, 8, ... of each.

    Nothing for a y without elements.
    """
    y_shape = tuple(before + n + after for n, (before, after) in zip(shape, sides))
    if 0 in y_shape:
        return y_shape, ()
    found: list[tuple[int, int, int]] = []  # size in y, before, size in x
    for n, (before, after) in zip(shape, sides):
        if found and before == after == 0:
            found[-1] = tuple(n * value for value in found[-1])  # type: ignore[assignment]
        else:
            found.append((before + n + after, before, n))
    found = [(1, 0, 1)] * (next_power_of_two(len(found)) - len(found)) + found
    steps, step = [], 1
    for _, _, n in reversed(found):
        steps.append(step)
        step *= n
    wholes, befores, sizes = zip(*found)
    return y_shape, (tuple(map(divisor, wholes)), befores, sizes, tuple(reversed(steps)))


def padded(x: GpuArray, sides: tuple[tuple[int, int], ...], value: float) -> GpuArray:
    """Return x with ``sides``, (before, after) for each axis, filled with ``value``."""
    shape, places = pad_places(x.shape, sides)
    y = empty(shape, x.dtype, x.device)
    pad_kernel[blocks_for(y.size, THREADS * PER_THREAD), THREADS](x, *places, x.dtype.type(value), y)
    return y
