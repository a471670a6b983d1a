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

from nnkernels.machine.gpu_kernel import at, device_function
from nnkernels.ops.folding import fold

Tuple = tuple[int, ...]
Axes = tuple[tuple[int, int, int], ...]  # of each axis the size n, m - 2^32 and s
AT_LEAST = 4  # axes, where there is more than one


def divisor(n: int) -> tuple[int, int, int]:
    """Return (n, m - 2^32, s): all that ``quotient`` needs of n, in signed 32 bits."""
    s = (n - 1).bit_length()
    return n, -((-1 << (31 + s)) // n) - (1 << 32), s


@device_function
def quotient(i: Any, m: int, s: int) -> Any:
    """Return i // n, 0 <= i < 2^31."""
    return numba.int32((numba.int64(at(i)) * numba.int64(at(m + (1 << 32)))) >> (31 + s))


@device_function
def source(i: Any, axes: Any, steps: Any) -> Any:
    """Return where the flat position i of an array with these axes lies in one with these steps."""
    i, j = numba.int32(i), numba.int32(0)
    for axis in range(len(axes) - 1, 0, -1):
        n, m, s = axes[axis]
        rest = quotient(i, m, s)
        j = numba.int32(j + numba.int32(i - rest * n) * steps[axis])  # a sum of int32 is int64 to Numba
        i = rest
    return numba.int32(j + i * steps[0])


@lru_cache(maxsize=1024)
def merged(sizes: Tuple, *steps: Tuple) -> tuple[Any, ...]:
    """Return axes and steps, neighbouring axes made one where all steps allow it.

    There are 1 axis, or 4, 8, ..., axes of size 1 in front: a kernel is compiled for each number. Sizes are
    at least 1.
    """
    found: list[tuple[int, ...]] = []  # (size, *steps), the last axis first
    for n, *outer in zip(*(reversed(values) for values in (sizes, *steps))):
        if n == 1:
            continue
        if found and all(step == found[-1][0] * inner for step, inner in zip(outer, found[-1][1:])):
            found[-1] = (n * found[-1][0], *found[-1][1:])
        else:
            found.append((n, *outer))
    more = 1 if not found else -len(found) % AT_LEAST if len(found) > 1 else 0
    sizes, *steps = zip(*reversed(found + [(1, *(0 for _ in steps))] * more))
    return tuple(map(divisor, sizes)), *steps


@lru_cache(maxsize=1024)
def folded(shape1: Tuple, shape2: Tuple) -> tuple[Tuple, tuple[Any, ...]]:
    """Return the common shape of two arrays that broadcast, and what ``merged`` makes of its places in both.

    Nothing for a shape without elements.
    """
    shape, *found = fold(shape1, shape2)
    return shape, () if 0 in shape else merged(*(tuple(values.tolist()) for values in found))
