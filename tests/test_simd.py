"""Vector registers: what compiled kernels get against the same functions run as plain Python."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nnkernels.machine import simd
from nnkernels.machine.jit import jit_elementwise, jit_tuned
from nnkernels.machine.simd import (
    ROWS,
    U,
    add_outer,
    broadcast,
    fma,
    lanes,
    lanes_of,
    load,
    load_tile,
    maximum,
    store,
    store_tile,
    zero_tile,
)

HERE = Path(__file__).parent
SENTINEL = -77.0
EVERY = 1 << 20  # more than any register holds

both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=("f32", "f64"))


def in_both_ways(kernel, y, *arguments):
    """Return what a compiled kernel writes into copies of y, and what the same lines write as Python."""
    results = y.copy(), y.copy()
    kernel(*arguments, results[0])
    kernel.py_func(*arguments, results[1])
    return results


# ---------------------------------------------------------------- one vector


@jit_elementwise
def run_load(x, i, n, y):
    store(load(x, i, n), y, U(0), EVERY)


@jit_elementwise
def run_store(x, i, n, y):
    store(load(x, U(0), EVERY), y, i, n)


@jit_elementwise
def run_broadcast(x, i, y):
    store(broadcast(x, i), y, U(0), EVERY)


@jit_elementwise
def run_fma(a, b, c, y):
    store(fma(load(a, U(0), EVERY), load(b, U(0), EVERY), load(c, U(0), EVERY)), y, U(0), EVERY)


@jit_elementwise
def run_maximum(a, s, y):
    store(maximum(load(a, U(0), EVERY), s), y, U(0), EVERY)


@jit_elementwise
def run_sum(a, b, y):
    store(load(a, U(0), EVERY) + load(b, U(0), EVERY), y, U(0), EVERY)


@jit_elementwise
def run_difference(a, b, y):
    store(load(a, U(0), EVERY) - load(b, U(0), EVERY), y, U(0), EVERY)


@jit_elementwise
def run_multiple(a, s, y):
    store(s * load(a, U(0), EVERY), y, U(0), EVERY)


def numbers(count, dtype, seed=0):
    """Return ``count`` small whole numbers, none 0: their sums and products are exact."""
    rng = np.random.default_rng(seed)
    return (rng.integers(1, 9, count) * rng.choice((-1, 1), count)).astype(dtype)


def draws(dtype, count=3):
    rng = np.random.default_rng(1)
    return [rng.standard_normal(lanes(dtype)).astype(dtype) for _ in range(count)]


@both_dtypes
def test_load_takes_the_first_n_and_zeros_behind_reading_nothing_beyond(dtype):
    width = lanes(dtype)
    for n in range(width + 3):
        count = min(n, width)
        x = numbers(5 + count, dtype)  # ends with the last element read
        got, plain = in_both_ways(run_load, np.full(width, SENTINEL, dtype), x, U(5), n)
        np.testing.assert_array_equal(got, plain)
        np.testing.assert_array_equal(got, [*x[5:], *[0] * (width - count)])


@both_dtypes
def test_store_writes_the_first_n_and_leaves_the_rest(dtype):
    width = lanes(dtype)
    x = numbers(width, dtype)
    for n in range(width + 3):
        count = min(n, width)
        for behind in (0, width):  # to the very end of an array, and amid others
            y = np.full(3 + count + behind, SENTINEL, dtype)
            got, plain = in_both_ways(run_store, y, x, U(3), n)
            np.testing.assert_array_equal(got, plain)
            np.testing.assert_array_equal(got, [*[SENTINEL] * 3, *x[:count], *[SENTINEL] * behind])


@both_dtypes
def test_broadcast_puts_one_element_in_every_lane(dtype):
    x = numbers(4, dtype)
    for i in range(4):
        got, plain = in_both_ways(run_broadcast, np.zeros(lanes(dtype), dtype), x, U(i))
        assert (got == x[i]).all()
        assert (plain == x[i]).all()


@both_dtypes
def test_fma_multiplies_and_adds(dtype):
    a, b, c = (numbers(lanes(dtype), dtype, seed) for seed in range(3))
    got, plain = in_both_ways(run_fma, np.zeros_like(a), a, b, c)
    np.testing.assert_array_equal(got, a * b + c)
    np.testing.assert_array_equal(plain, a * b + c)


@pytest.mark.skipif(not simd.ENABLED, reason="plain loops round the product, too")
@both_dtypes
def test_a_compiled_fma_rounds_once(dtype):
    eps = np.finfo(dtype).eps
    one = np.ones(lanes(dtype), dtype)
    y = np.zeros_like(one)
    run_fma(one + eps, one - eps, -one, y)
    np.testing.assert_array_equal(y, -one * eps * eps)


@both_dtypes
def test_sums_differences_and_multiples_are_those_of_numpy(dtype):
    a, b, _ = draws(dtype)
    for kernel, second, wanted in (
        (run_sum, b, a + b),
        (run_difference, b, a - b),
        (run_multiple, 3, dtype(3) * a),
        (run_multiple, 1 / 3, dtype(1 / 3) * a),
        (run_multiple, np.float32(1 / 3), dtype(np.float32(1 / 3)) * a),
    ):
        got, plain = in_both_ways(kernel, np.zeros_like(a), a, second)
        # The plain loops may compute in float64 where a constant of Python meets float32.
        np.testing.assert_allclose(got, wanted, rtol=np.finfo(dtype).eps if not simd.ENABLED else 0)
        np.testing.assert_allclose(plain, wanted, rtol=np.finfo(dtype).eps)


@both_dtypes
def test_maximum_keeps_nan_and_orders_infinities(dtype):
    values = np.resize(np.array([np.nan, np.inf, -np.inf, 1, -1, 0, np.finfo(dtype).tiny], dtype), 40)
    width = lanes(dtype)
    for first in range(0, 40 - width, 3):
        a = values[first : first + width].copy()
        for s in (0, 0.5, -np.inf, np.inf):
            got, plain = in_both_ways(run_maximum, np.full(width, SENTINEL, dtype), a, s)
            wanted = np.where(np.isnan(a), a, np.fmax(a, dtype(s)))
            np.testing.assert_array_equal(got, wanted)
            np.testing.assert_array_equal(plain, wanted)


@both_dtypes
def test_the_number_of_lanes_is_that_of_the_dtype(dtype):
    @jit_elementwise
    def count(x):
        return lanes_of(x)

    x = np.zeros(1, dtype)
    assert count(x) == lanes_of(x) == lanes(dtype) == simd.BITS // (8 * x.itemsize)


# ---------------------------------------------------------------- tiles


@cache
def tile_kernels(vectors):
    """Return the kernels for tiles of so many vectors, a constant of each program."""

    @jit_tuned
    def zero(m, n, row, y):
        store_tile(zero_tile(y, vectors), y, U(2), row, m, n, vectors)

    @jit_tuned
    def move(x, m, n, row, m_out, n_out, row_out, y):
        store_tile(load_tile(x, U(3), row, m, n, vectors), y, U(2), row_out, m_out, n_out, vectors)

    @jit_tuned
    def outer(x, a, a_row, b, m, n, row, m_out, n_out, row_out, y):
        t = load_tile(x, U(3), row, m, n, vectors)
        for k in range(U(3)):
            t = add_outer(t, a, U(1) + k, a_row, m, b, U(1) + k, n, vectors)
        store_tile(t, y, U(2), row_out, m_out, n_out, vectors)

    return zero, move, outer


def tiles(dtype, vectors):
    """Yield m, n, the columns that count and a distance between rows, for all tiles that overhang or not."""
    full = vectors * lanes(dtype)
    for m in range(1, ROWS + 1):
        for n in range(full + 3):
            yield m, n, min(n, full), full + 1


every_tile = pytest.mark.parametrize("vectors", [1, 2, 3])


@both_dtypes
@every_tile
def test_a_tile_is_stored_to_its_m_rows_of_n_columns_alone(dtype, vectors):
    zero, _, _ = tile_kernels(vectors)
    for m, n, columns, row in tiles(dtype, vectors):
        for behind in (0, 2 * row):
            y = np.full(2 + (m - 1) * row + columns + behind, SENTINEL, dtype)
            got, plain = in_both_ways(zero, y, m, n, U(row))
            for r in range(m):
                y[2 + r * row : 2 + r * row + columns] = 0
            np.testing.assert_array_equal(got, y)
            np.testing.assert_array_equal(plain, y)


@both_dtypes
@every_tile
def test_a_tile_is_loaded_with_zeros_behind_and_its_last_row_repeated(dtype, vectors):
    _, move, _ = tile_kernels(vectors)
    full = vectors * lanes(dtype)
    for m, n, columns, row in tiles(dtype, vectors):
        x = numbers(3 + (m - 1) * row + columns, dtype)  # ends with the last element read
        wanted = np.zeros((ROWS, full), dtype)
        for r in range(ROWS):
            wanted[r, :columns] = x[3 + min(r, m - 1) * row :][:columns]
        y = np.full(2 + ROWS * full + 1, SENTINEL, dtype)
        got, plain = in_both_ways(move, y, x, m, n, U(row), ROWS, full, U(full))
        np.testing.assert_array_equal(got, [SENTINEL, SENTINEL, *wanted.reshape(-1), SENTINEL])
        np.testing.assert_array_equal(plain, got)


@both_dtypes
@every_tile
def test_outer_products_are_added_reading_nothing_beyond(dtype, vectors):
    _, _, outer = tile_kernels(vectors)
    full, a_row = vectors * lanes(dtype), 5
    for m, n, columns, row in tiles(dtype, vectors):
        x = numbers(3 + (m - 1) * row + columns, dtype)
        a, b = numbers(1 + (m - 1) * a_row + 3, dtype, 1), numbers(1 + 2 + columns, dtype, 2)
        wanted = np.zeros((ROWS, full), dtype)
        for r in range(ROWS):
            wanted[r, :columns] = x[3 + min(r, m - 1) * row :][:columns]
            for k in range(3):
                wanted[r, :columns] += a[1 + k + min(r, m - 1) * a_row] * b[1 + k : 1 + k + columns]
        y = np.full(2 + ROWS * full + 1, SENTINEL, dtype)
        got, plain = in_both_ways(outer, y, x, a, U(a_row), b, m, n, U(row), ROWS, full, U(full))
        np.testing.assert_array_equal(got, [SENTINEL, SENTINEL, *wanted.reshape(-1), SENTINEL])
        np.testing.assert_array_equal(plain, got)


@both_dtypes
def test_nan_and_infinities_pass_through_a_tile(dtype):
    _, _, outer = tile_kernels(1)
    full = lanes(dtype)
    x, a = np.zeros(3 + full, dtype), np.ones(4, dtype)
    for bad in (np.nan, np.inf, -np.inf):
        b = np.ones(3 + full, dtype)
        b[1] = bad  # lane 0 of the first row only
        y = np.zeros(2 + full, dtype)
        got, plain = in_both_ways(outer, y, x, a, U(0), b, 1, full, U(full), 1, full, U(full))
        np.testing.assert_array_equal(got[2:], [bad, *[3] * (full - 1)])
        np.testing.assert_array_equal(plain, got)


# ---------------------------------------------------------------- the same kernels without registers


def test_kernels_compile_and_agree_without_vector_registers():
    """NNKERNELS_SIMD=0: kernels of plain loops, kept in a cache directory of their own."""
    environment = os.environ | {"NNKERNELS_SIMD": "0", "PYTHONPATH": str(Path(simd.__file__).parents[2])}
    command = [sys.executable, "-W", "error", str(HERE / "plain_loops.py")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "OK\n"
