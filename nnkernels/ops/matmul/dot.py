"""Products of rows against rows, y[i, j] (+)= a[i, :] . b[j, :], in plain loops that LLVM vectorises.

A tile reads 4 + 4 rows and does 16 multiply-adds for every 8 loads, so that arithmetic, not memory, is the
limit. Three things make LLVM turn these plain loops into vector instructions at the speed of the machine:

- Sums live in named scalars. LLVM keeps those in registers; a small local array would live in memory.
- Rows are given as unsigned offsets into one flat array. Signed indices get wraparound tests from Numba,
  which keep the loop scalar; slices are views, and each view costs two atomic reference counts.
- The innermost index runs over contiguous elements.
"""

from typing import Any

from nnkernels.machine.jit import inline, jit_tuned
from nnkernels.machine.memory import Array
from nnkernels.machine.simd import U

TILE = 4  # rows of either operand
DEEP = 512  # elements of a row per pass: 8 rows of float32 are 16 KiB, a third of an L1 cache


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
def dot_block(
    a: Array, b: Array, K: int, i_first: int, i_end: int, j_first: int, j_end: int,
    y: Array, P: int, add: bool,
) -> None:  # fmt: skip
    """Compute y[i, j] = a[i, :] . b[j, :] for one block, or ``add`` it.

    a (M, K), b (P, K) and y (M, P) are flat.
    """
    if not add:
        for i in range(i_first, i_end):
            for c in range(U(i * P + j_first), U(i * P + j_end)):
                y[c] = 0
    for k in range(0, K, DEEP):
        n = min(DEEP, K - k)
        i = i_first
        while i + TILE <= i_end:
            four_rows(a, b, K, k, n, i, j_first, j_end, y, P)
            i += TILE
        while i < i_end:  # fewer than 4 rows left
            single_row(a, b, K, k, n, i, j_first, j_end, y, P)
            i += 1


@jit_tuned
def four_rows(
    a: Array, b: Array, K: int, k: int, n: int, i: int, j_first: int, j_end: int, y: Array, P: int
) -> None:
    """Add the part k ... k + n of the products of rows i ... i + 3 to y[i : i + 4, j_first:j_end]."""
    row = U(K)
    i0, p0 = U(i * K + k), U(i * P)
    i1, i2, i3 = i0 + row, i0 + row + row, i0 + row + row + row
    p1, p2, p3 = p0 + U(P), p0 + U(2 * P), p0 + U(3 * P)
    j = j_first
    while j + TILE <= j_end:
        j0, c = U(j * K + k), U(j)
        dot_tile(
            a, i0, i1, i2, i3, b, j0, j0 + row, j0 + row + row, j0 + row + row + row, n,
            y, p0 + c, p1 + c, p2 + c, p3 + c,
        )  # fmt: skip
        j += TILE
    while j < j_end:  # fewer than 4 columns left
        j0, c = U(j * K + k), U(j)
        y[p0 + c] += dot(a, i0, b, j0, n)
        y[p1 + c] += dot(a, i1, b, j0, n)
        y[p2 + c] += dot(a, i2, b, j0, n)
        y[p3 + c] += dot(a, i3, b, j0, n)
        j += 1


@jit_tuned
def single_row(
    a: Array, b: Array, K: int, k: int, n: int, i: int, j_first: int, j_end: int, y: Array, P: int
) -> None:
    """Add the part k ... k + n of the products of row i to y[i, j_first:j_end]."""
    row = U(K)
    i0, p0 = U(i * K + k), U(i * P)
    j = j_first
    while j + TILE <= j_end:
        j0 = U(j * K + k)
        dot_row_tile(a, i0, b, j0, j0 + row, j0 + row + row, j0 + row + row + row, n, y, p0 + U(j))
        j += TILE
    while j < j_end:
        y[p0 + U(j)] += dot(a, i0, b, U(j * K + k), n)
        j += 1
