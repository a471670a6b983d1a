"""Register tiles: the inner loops of matmul, linear and conv2d.

A tile reads 4 + 4 rows and does 16 multiply-adds for every 8 loads, so that arithmetic, not memory, is the
limit. Three things make LLVM turn these plain loops into vector instructions at the speed of the machine:

- Sums live in named scalars. LLVM keeps those in registers; a small local array would live in memory.
- Rows are given as unsigned offsets into one flat array. Signed indices get wraparound tests from Numba,
  which keep the loop scalar; slices are views, and each view costs two atomic reference counts.
- The innermost index runs over contiguous elements.
"""

from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, jit_tuned
from nnkernels.machine.memory import Array

TILE = 4  # rows of either operand
U = np.uint64


@jit_tuned
def dot_tile(
    a: Array, i0: U, i1: U, i2: U, i3: U,
    b: Array, j0: U, j1: U, j2: U, j3: U, n: int,
    y: Array, p0: U, p1: U, p2: U, p3: U,
) -> None:  # fmt: skip
    """Add to 4 elements of each of the rows y[p:] the dot products of n elements of a[i:] with b[j:]."""
    zero = y.dtype.type(0)
    s00 = s01 = s02 = s03 = zero
    s10 = s11 = s12 = s13 = zero
    s20 = s21 = s22 = s23 = zero
    s30 = s31 = s32 = s33 = zero
    for k in range(U(n)):
        a0, a1, a2, a3 = a[i0 + k], a[i1 + k], a[i2 + k], a[i3 + k]
        b0, b1, b2, b3 = b[j0 + k], b[j1 + k], b[j2 + k], b[j3 + k]
        s00 += a0 * b0
        s01 += a0 * b1
        s02 += a0 * b2
        s03 += a0 * b3
        s10 += a1 * b0
        s11 += a1 * b1
        s12 += a1 * b2
        s13 += a1 * b3
        s20 += a2 * b0
        s21 += a2 * b1
        s22 += a2 * b2
        s23 += a2 * b3
        s30 += a3 * b0
        s31 += a3 * b1
        s32 += a3 * b2
        s33 += a3 * b3
    add_row(y, p0, s00, s01, s02, s03)
    add_row(y, p1, s10, s11, s12, s13)
    add_row(y, p2, s20, s21, s22, s23)
    add_row(y, p3, s30, s31, s32, s33)


@jit_tuned
def dot_row_tile(a: Array, i: U, b: Array, j0: U, j1: U, j2: U, j3: U, n: int, y: Array, p: U) -> None:
    """Add to 4 elements of the row y[p:] the dot products of n elements of a[i:] with the rows b[j:]."""
    s0 = s1 = s2 = s3 = y.dtype.type(0)
    for k in range(U(n)):
        v = a[i + k]
        s0 += v * b[j0 + k]
        s1 += v * b[j1 + k]
        s2 += v * b[j2 + k]
        s3 += v * b[j3 + k]
    add_row(y, p, s0, s1, s2, s3)


@inline
def add_row(y: Array, p: U, s0: Any, s1: Any, s2: Any, s3: Any) -> None:
    y[p] += s0
    y[p + U(1)] += s1
    y[p + U(2)] += s2
    y[p + U(3)] += s3


@jit_tuned
def dot(a: Array, i: U, b: Array, j: U, n: int) -> Any:
    """Return the dot product of n elements of the rows a[i:] and b[j:]."""
    s = a.dtype.type(0)
    for k in range(U(n)):
        s += a[i + k] * b[j + k]
    return s


@jit_tuned
def axpy_tile(
    w: Array, i0: U, i1: U, i2: U, i3: U,
    x: Array, j0: U, j1: U, j2: U, j3: U,
    y: Array, p0: U, p1: U, p2: U, p3: U, n: int,
) -> None:  # fmt: skip
    """Add to n elements of each of the rows y[p:] the four rows x[j:], weighted by w[i], w[i + 1] ..."""
    w00, w01, w02, w03 = w[i0], w[i0 + U(1)], w[i0 + U(2)], w[i0 + U(3)]
    w10, w11, w12, w13 = w[i1], w[i1 + U(1)], w[i1 + U(2)], w[i1 + U(3)]
    w20, w21, w22, w23 = w[i2], w[i2 + U(1)], w[i2 + U(2)], w[i2 + U(3)]
    w30, w31, w32, w33 = w[i3], w[i3 + U(1)], w[i3 + U(2)], w[i3 + U(3)]
    for q in range(U(n)):
        x0, x1, x2, x3 = x[j0 + q], x[j1 + q], x[j2 + q], x[j3 + q]
        y[p0 + q] += w00 * x0 + w01 * x1 + w02 * x2 + w03 * x3
        y[p1 + q] += w10 * x0 + w11 * x1 + w12 * x2 + w13 * x3
        y[p2 + q] += w20 * x0 + w21 * x1 + w22 * x2 + w23 * x3
        y[p3 + q] += w30 * x0 + w31 * x1 + w32 * x2 + w33 * x3
