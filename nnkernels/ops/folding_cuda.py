"""Positions in arrays, as ``folding.py``, for kernels of a GPU.

Divisions are what costs here. Axes that can be seen as one are merged: arrays of one shape, or an array and a
number, are one axis, and nothing is divided. Otherwise a division is a multiplication (gpu_index.py).
"""

from functools import lru_cache
from typing import Any

from nnkernels.machine.gpu_index import Divisor, divisor, quotient
from nnkernels.machine.gpu_kernel import at, device_function, next_power_of_two
from nnkernels.ops.folding import fold

Tuple = tuple[int, ...]
Axes = tuple[Divisor, ...]  # how to divide by the size of each axis


@device_function
def source(i: Any, axes: Any, steps: Any) -> Any:
    """Return where the flat position i of an array with these axes lies in one with these steps.

    Every number is taken modulo 2^32, which is half the work of 64 bits, and right for what is a place.
    """
    i, j = at(i), at(0)
    for axis in range(len(axes) - 1, 0, -1):
        rest = at(quotient(i, axes[axis]))
        j = at(j + at(i - rest * at(axes[axis][0])) * at(steps[axis]))
        i = rest
    return at(j + i * at(steps[0]))


def joined(sizes: Tuple, *steps: Tuple) -> list[Tuple]:
    """Return (size, *steps) of each axis, neighbouring axes made one where all steps allow it.

    Axes of size 1 are left out; no size is 0.
    """
    axes: list[Tuple] = []  # the last one first
    for n, *outer in zip(*(reversed(values) for values in (sizes, *steps))):
        if n == 1:
            continue
        if axes and all(step == axes[-1][0] * inner for step, inner in zip(outer, axes[-1][1:])):
            axes[-1] = (n * axes[-1][0], *axes[-1][1:])
        else:
            axes.append((n, *outer))
    return axes[::-1]


@lru_cache(maxsize=1024)
def merged(sizes: Tuple, *steps: Tuple, least: int = 1) -> tuple[Any, ...]:
    """Return axes and steps for ``source``, neighbouring axes made one where all steps allow it.

    There are 1, 2, 4, 8, ..., but ``least`` axes, with size 1 in front where these are too many: a kernel is
    compiled once more for each number.
    """
    found = joined(sizes, *steps)
    missing = max(next_power_of_two(len(found)), least) - len(found)
    sizes, *after = zip(*[(1, *(0 for _ in steps))] * missing, *found)
    return tuple(map(divisor, sizes)), *after


@lru_cache(maxsize=1024)
def folded(shape1: Tuple, shape2: Tuple, least: int = 1) -> tuple[Tuple, tuple[Any, ...]]:
    """Return the common shape of two arrays that broadcast, and what ``merged`` makes of its places in both.

    Nothing for a shape without elements.
    """
    shape, *found = fold(shape1, shape2)
    places = () if 0 in shape else merged(*(tuple(values.tolist()) for values in found), least=least)
    return shape, places
