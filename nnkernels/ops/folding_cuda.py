"""Positions in arrays, as ``folding.py``, for kernels of a GPU.

Divisions are what costs here. Axes that can be seen as one are merged: arrays of one shape, or an array and a
number, are one axis, and nothing is divided. Otherwise a division is a multiplication,

    i // n = (i m) >> (31 + s)    m = ceil(2^(31 + s) / n), 2^(s - 1) < n <= 2^s

for all i below 2^31: i m is too large by i (m n - 2^(31 + s)) / n < 2^31 2^s / n, which is less than 1/n of
the unit 2^(31 + s) and never reaches the next integer. m has 32 bits, the first of them set.
"""

from functools import lru_cache
from typing import Any

import numba

from nnkernels.machine.gpu_kernel import at, device_function, next_power_of_two
from nnkernels.ops.folding import fold

Tuple = tuple[int, ...]
Axes = tuple[tuple[int, int, int], ...]  # of each axis the size n, m - 2^32 and s


def divisor(n: int) -> tuple[int, int, int]:
    """Return (n, m - 2^32, s): all that ``quotient`` needs of n, in signed 32 bits."""
    s = (n - 1).bit_length()
    return n, -((-1 << (31 + s)) // n) - (1 << 32), s


@device_function
def quotient(i: Any, m: int, s: int) -> Any:
    """Return i // n, 0 <= i < 2^31."""
    return at((numba.int64(at(i)) * numba.int64(at(m + (1 << 32)))) >> (31 + s))


@device_function
def source(i: Any, axes: Any, steps: Any) -> Any:
    """Return where the flat position i of an array with these axes lies in one with these steps.

    Every number is taken modulo 2^32, which is half the work of 64 bits, and right for what is a place.
    """
    i, j = at(i), at(0)
    for axis in range(len(axes) - 1, 0, -1):
        n, m, s = axes[axis]
        rest = quotient(i, m, s)
        j = at(j + at(i - rest * at(n)) * at(steps[axis]))
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
