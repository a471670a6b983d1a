"""Products of many matrices, which meet by NumPy's broadcasting of all axes but the last two.

Bound of the products: as in ``gemm``. Small ones are shared among threads as wholes.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nnkernels.machine.jit import flag, jit_parallel, jit_tuned, prange, scalars, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, lanes, lanes_of
from nnkernels.ops.matmul.dot import dot_block
from nnkernels.ops.matmul.gemm import KC, SERIAL_BELOW, gemm, method, row_offsets, small_product, strip_serial


class Batches(NamedTuple):
    """The result's shape; for each of its matrices, its own number and those of the two that make it."""

    shape: tuple[int, ...]
    each: Array
    a: Array
    b: Array


@lru_cache(maxsize=256)
def _batches(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> Batches:
    outer = np.broadcast_shapes(shape_a[:-2], shape_b[:-2])
    numbers = [
        np.broadcast_to(np.arange(int(np.prod(s[:-2], dtype=int))).reshape(s[:-2]), outer).reshape(-1)
        for s in (shape_a, shape_b)
    ]
    shape = (*outer, shape_a[-2], shape_b[-1])
    each = np.arange(numbers[0].size)
    return Batches(shape, each, *(np.ascontiguousarray(n, np.int64) for n in numbers))


def batches_of(a: Array, b: Array) -> Batches:
    """Return the pairing of a (..., M, K) with b (..., K, P)."""
    return _batches(a.shape, b.shape)


def as_rows(x: Array) -> Array:
    """Return x (..., K) as a matrix (N, K)."""
    return x if x.ndim == 2 else x.reshape(int(np.prod(x.shape[:-1], dtype=int)), x.shape[-1])


def as_matrices(x: Array) -> Array:
    """Return x (..., M, K) as a batch of matrices (B, M, K)."""
    return x if x.ndim == 3 else x.reshape(int(np.prod(x.shape[:-2], dtype=int)), *x.shape[-2:])


class Form(NamedTuple):
    """The shape of each product, whether a is given transposed, and which way b is: all ints."""

    M: int
    N: int
    K: int
    transposed_a: int
    strip: int
    dot: int


FORM = len(Form._fields)


@jit_tuned
def entry(
    n: int, a: Array, of_a: Array, b: Array, of_b: Array, form: Array, at: Array, panels: Array, y: Array
) -> None:
    """Write product n; arrays are flat, the panels of a strip N columns wide, and some, as ``at`` has it."""
    f = Form(*scalars(form, FORM))
    i, j, p = of_a[n] * f.M * f.K, of_b[n] * f.K * f.N, n * f.M * f.N
    a, b, y = a[i : i + f.M * f.K], b[j : j + f.K * f.N], y[p : p + f.M * f.N]
    if f.strip:
        NR = VECTORS * lanes_of(y)
        tasks = (f.N + NR - 1) // NR
        k = n * tasks * NR * f.K
        strip_serial(tasks, a, b, at, f.M, f.N, f.K, panels[k : k + tasks * NR * f.K], y, flag(False))
    elif f.dot:
        dot_block(a, b, f.K, signed(0), f.M, signed(0), f.N, y, f.N, flag(False))
    else:
        a_row, a_col = (signed(1), f.M) if f.transposed_a else (f.K, signed(1))
        small_product(a, a_row, a_col, b, at, f.M, f.N, f.K, y)


@jit_tuned
def entries(
    count: int, a: Array, of_a: Array, b: Array, of_b: Array, form: Array, at: Array, panels: Array, y: Array
) -> None:
    for n in range(count):
        entry(n, a, of_a, b, of_b, form, at, panels, y)


@jit_parallel
def entries_parallel(
    count: int, a: Array, of_a: Array, b: Array, of_b: Array, form: Array, at: Array, panels: Array, y: Array
) -> None:
    for n in prange(count):
        entry(signed(n), a, of_a, b, of_b, form, at, panels, y)


def multiply_all(
    a: Array, of_a: Array, b: Array, of_b: Array, y: Array, *, transpose_a: bool = False,
    transpose_b: bool = False,
) -> None:  # fmt: skip
    """Write y[n] = a[of_a[n]] b[of_b[n]]: contiguous batches of matrices, transposed as in ``gemm``."""
    (count, M, N), K = y.shape, a.shape[1 if transpose_a else 2]
    way = method(M, N, K, transpose_a, transpose_b)
    if M * N * K >= SERIAL_BELOW or M * N * K == 0 or way == "packed":
        for n in range(count):
            gemm(a[of_a[n]], b[of_b[n]], y[n], transpose_a=transpose_a, transpose_b=transpose_b)
        return
    NR = VECTORS * lanes(y.dtype)
    width = -(-N // NR) * NR if way == "strip" else 0
    at = row_offsets(K, NR) if way == "strip" else row_offsets(min(K, KC), N)
    run = entries if count * M * N * K < SERIAL_BELOW else entries_parallel
    run(
        count, a.reshape(-1), of_a, b.reshape(-1), of_b,
        np.array((M, N, K, transpose_a, way == "strip", way == "dot"), np.int64), at,
        empty((count * width * K,), y.dtype), y.reshape(-1),
    )  # fmt: skip
