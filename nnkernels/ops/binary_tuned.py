"""The `tuned` body of functions of two arrays: broadcasting as plain loops over rows.

Along the innermost axis, each input is read element by element or stands still. Bound: memory traffic; every
array is read once and written once, and what was stretched is summed up by the kernels of ``sum``.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline_elementwise, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import share_of
from nnkernels.ops.folding import fold, source_index
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.tuned import sum_tuned

Scalar = Callable[..., Any]
RUN = 2048  # elements of a row that stay in the L1 cache from one gradient to the other


def make_forward(f: Scalar) -> tuple[Scalar, Scalar]:
    """Return the kernel for a part of y, and the driver that shares y among threads."""

    @inline_elementwise
    def part(
        x1: Array, x2: Array, sizes: Array, steps1: Array, steps2: Array, i: int, last: int, y: Array
    ) -> None:
        # The sources of a plane, the two innermost axes, are looked up once; its rows are plain loops.
        middle, inner = sizes[-2], sizes[-1]
        while i < last:
            at = i % (middle * inner)
            k, j = at // inner, at % inner
            plane1, plane2 = source_index(i - at, sizes, steps1), source_index(i - at, sizes, steps2)
            while k < middle and i < last:
                end = np.uint64(min(inner - j, last - i))
                a = np.uint64(plane1 + k * steps1[-2] + j * steps1[-1])
                b = np.uint64(plane2 + k * steps2[-2] + j * steps2[-1])
                o = np.uint64(i)
                if steps1[-1] == 0:
                    left = x1[a]
                    for e in range(end):
                        y[o + e] = f(left, x2[b + e])
                elif steps2[-1] == 0:
                    right = x2[b]
                    for e in range(end):
                        y[o + e] = f(x1[a + e], right)
                else:
                    for e in range(end):
                        y[o + e] = f(x1[a + e], x2[b + e])
                i += int(end)
                k, j = k + 1, 0

    @jit_parallel
    def parallel(
        x1: Array, x2: Array, sizes: Array, steps1: Array, steps2: Array, share: int, y: Array
    ) -> None:
        for c in prange((y.size + share - 1) // share):
            part(x1, x2, sizes, steps1, steps2, c * share, min((c + 1) * share, y.size), y)

    return jit_elementwise(part), parallel


def make_backward(df1: Scalar, df2: Scalar) -> tuple[Scalar, Scalar]:
    """Return the kernel for a part of the unsummed gradients, and its driver; an empty g is left out."""

    @inline_elementwise
    def part(
        dy: Array, x1: Array, x2: Array, y: Array, sizes: Array, steps1: Array, steps2: Array,
        i: int, last: int, g1: Array, g2: Array,
    ) -> None:  # fmt: skip
        middle, inner = sizes[-2], sizes[-1]
        while i < last:
            at = i % (middle * inner)
            k, j = at // inner, at % inner
            plane1, plane2 = source_index(i - at, sizes, steps1), source_index(i - at, sizes, steps2)
            while k < middle and i < last:
                end = np.uint64(min(inner - j, last - i, RUN))
                a = np.uint64(plane1 + k * steps1[-2] + j * steps1[-1])
                b = np.uint64(plane2 + k * steps2[-2] + j * steps2[-1])
                o = np.uint64(i)
                if steps1[-1] == 0:
                    left = x1[a]
                    if g1.size > 0:
                        for e in range(end):
                            g1[o + e] = dy[o + e] * df1(left, x2[b + e], y[o + e])
                    if g2.size > 0:
                        for e in range(end):
                            g2[o + e] = dy[o + e] * df2(left, x2[b + e], y[o + e])
                elif steps2[-1] == 0:
                    right = x2[b]
                    if g1.size > 0:
                        for e in range(end):
                            g1[o + e] = dy[o + e] * df1(x1[a + e], right, y[o + e])
                    if g2.size > 0:
                        for e in range(end):
                            g2[o + e] = dy[o + e] * df2(x1[a + e], right, y[o + e])
                else:
                    if g1.size > 0:
                        for e in range(end):
                            g1[o + e] = dy[o + e] * df1(x1[a + e], x2[b + e], y[o + e])
                    if g2.size > 0:
                        for e in range(end):
                            g2[o + e] = dy[o + e] * df2(x1[a + e], x2[b + e], y[o + e])
                i, j = i + int(end), j + int(end)
                if j == inner:
                    k, j = k + 1, 0

    @jit_parallel
    def parallel(
        dy: Array, x1: Array, x2: Array, y: Array, sizes: Array, steps1: Array, steps2: Array, share: int,
        g1: Array, g2: Array,
    ) -> None:  # fmt: skip
        for c in prange((y.size + share - 1) // share):
            last = min((c + 1) * share, y.size)
            part(dy, x1, x2, y, sizes, steps1, steps2, c * share, last, g1, g2)

    return jit_elementwise(part), parallel


def summed(g: Array, shape: tuple[int, ...]) -> Array:
    """Return g summed over the axes along which ``shape`` was stretched, as ``reduced`` does."""
    if g.shape == shape:
        return g
    leading = g.ndim - len(shape)
    stretched = tuple([i for i in range(g.ndim) if i < leading or shape[i - leading] != g.shape[i]])
    return sum_tuned.forward(g, stretched)[0].reshape(shape) if stretched else g.reshape(shape)


def make_tuned(f: Scalar, df1: Scalar, df2: Scalar, serial_below: int, passed_on: tuple[bool, bool]) -> Body:
    """Return the body; elements below ``serial_below`` are left to one thread.

    ``passed_on`` says which gradients are dy itself before any sum: nothing is computed for them.
    """
    forward_part, forward_parallel = make_forward(f)
    backward_part, backward_parallel = make_backward(df1, df2)

    def forward(x1: Array, x2: Array) -> tuple[Array]:
        shape, *steps = fold(x1.shape, x2.shape)
        y = empty(shape, x1.dtype)
        if y.size < serial_below:
            forward_part(x1.ravel(), x2.ravel(), *steps, 0, y.size, y.ravel())
        else:
            forward_parallel(x1.ravel(), x2.ravel(), *steps, share_of(y.size), y.ravel())
        return (y,)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None]:
        (x1, x2), (y,) = inputs, outputs
        shape, *steps = fold(x1.shape, x2.shape)
        computed = [need and not passed for need, passed in zip(needs, passed_on)]
        g1, g2 = [empty(shape if need else (0,), y.dtype) for need in computed]
        if y.size > 0 and (computed[0] or computed[1]):
            given = dy.ravel(), x1.ravel(), x2.ravel(), y.ravel(), *steps
            if y.size < serial_below:
                backward_part(*given, 0, y.size, g1.ravel(), g2.ravel())
            else:
                backward_parallel(*given, share_of(y.size), g1.ravel(), g2.ravel())
        dx1 = summed(dy if passed_on[0] else g1, x1.shape) if needs[0] else None
        dx2 = summed(dy if passed_on[1] else g2, x2.shape) if needs[1] else None
        return dx1, dx2

    return Body(forward, backward)
