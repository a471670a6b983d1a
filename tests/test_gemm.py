"""The matrix product under all others: every way it can go, forced, against NumPy in float64."""

import itertools

import numba
import numpy as np
import pytest

from nnkernels.machine.memory import poisoned
from nnkernels.ops.matmul.gemm import (
    DIRECT_MOST_B,
    DOT_MOST_ROWS,
    KC,
    SERIAL_BELOW,
    STRIP_LEAST_ROWS,
    STRIP_MOST_K,
    gemm,
    method,
)
from nnkernels.ops.matmul.micro import MR

# Each way with the transpositions (of a, of b) that it allows.
FORMS = {
    "row": [(False, False), (True, False)],
    "outer": [(False, False), (True, False)],
    "dot": [(False, True)],
    "strip": [(False, True)],
    "direct": [(False, False), (True, False)],
    "packed": [(False, False), (True, False), (False, True), (True, True)],
}
CASES = [(way, *form) for way, forms in FORMS.items() for form in forms]
RAGGED = (1, 2, 7, 8, 9, 47, 48, 49, 64, 65, 97)
SHAPES = [
    *((M, N, 5) for M, N in itertools.product(RAGGED, RAGGED)),
    *((M, N, K) for M, N in ((1, 1), (2, 97), (9, 49), (65, 48)) for K in RAGGED),
    *((M, N, K) for M, N in ((1, 3), (9, 49)) for K in (KC - 1, KC, KC + 1, 2 * KC + 1)),
]
# Several blocks in every direction, so many multiply-adds that threads share them.
SHARED = [(130, 200, KC + 1), (2, 3001, 203), (257, 193, 40), (31, 900, 66), (700, 901, 2)]

every_case = pytest.mark.parametrize(("way", "transpose_a", "transpose_b"), CASES)
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=("f32", "f64"))


def amid_nan(x, dtype):
    """Return x as a contiguous array with NaN before and behind it: a read too far shows in the result."""
    buffer = np.full(x.size + 64, np.nan, dtype)
    inner = buffer[32 : 32 + x.size].reshape(x.shape)
    inner[...] = x
    return inner, buffer


def operands(M, N, K, dtype, transpose_a, transpose_b):
    rng = np.random.default_rng(M * N + K)
    a, b, y = (rng.standard_normal(s).astype(dtype) for s in ((M, K), (K, N), (M, N)))
    left, _ = amid_nan(a.T if transpose_a else a, dtype)
    right, _ = amid_nan(b.T if transpose_b else b, dtype)
    return a, b, y, left, right


def check(way, transpose_a, transpose_b, dtype, M, N, K):
    a, b, y, left, right = operands(M, N, K, dtype, transpose_a, transpose_b)
    wide_a, wide_b, wide_y = (x.astype(np.float64) for x in (a, b, y))
    for add in (False, True):
        out, buffer = amid_nan(y if add else np.full_like(y, np.nan), dtype)
        with poisoned():
            gemm(left, right, out, transpose_a=transpose_a, transpose_b=transpose_b, add=add, way=way)
        # In any order of summation; twice the bound, since NumPy's float64 has errors of its own.
        sizes = np.abs(wide_a) @ np.abs(wide_b) + (np.abs(wide_y) if add else 0)
        error = np.abs(out - (wide_a @ wide_b + (wide_y if add else 0)))
        what = f"{way}, {M} x {K} x {N}, transposed {transpose_a}, {transpose_b}, add={add}"
        assert (error <= (K + 2) * np.finfo(dtype).eps * sizes).all(), what
        assert np.isnan(buffer[:32]).all(), what
        assert np.isnan(buffer[-32:]).all(), what


@both_dtypes
@every_case
def test_every_way_multiplies_ragged_matrices(way, transpose_a, transpose_b, dtype):
    for M, N, K in SHAPES:
        check(way, transpose_a, transpose_b, dtype, M, N, K)


@both_dtypes
@every_case
def test_every_way_multiplies_on_several_threads_with_the_same_bits(way, transpose_a, transpose_b, dtype):
    before = numba.get_num_threads()
    for M, N, K in SHARED:
        assert M * N * K > SERIAL_BELOW
        check(way, transpose_a, transpose_b, dtype, M, N, K)
        _, _, y, left, right = operands(M, N, K, dtype, transpose_a, transpose_b)
        results = []
        try:
            for threads in range(1, numba.config.NUMBA_NUM_THREADS + 1):
                numba.set_num_threads(threads)
                out = y.copy()
                gemm(left, right, out, transpose_a=transpose_a, transpose_b=transpose_b, add=True, way=way)
                results.append(out.tobytes())
        finally:
            numba.set_num_threads(before)
        assert len(set(results)) == 1, f"{way}, {M} x {K} x {N}"


LARGE_K = DIRECT_MOST_B // 128 + 1


@pytest.mark.parametrize(
    ("M", "N", "K", "transpose_a", "transpose_b", "way"),
    [
        (1, 1000, 1000, False, False, "row"),
        (2, 10, 10, True, False, "row"),
        (3, 10, 10, False, False, "direct"),
        (3, 10, 2, True, False, "outer"),
        (64, 128, LARGE_K - 1, True, False, "direct"),
        (2 * MR, 128, LARGE_K, False, False, "direct"),
        (2 * MR + 1, 128, LARGE_K, False, False, "packed"),
        (1, 10, 10, False, True, "dot"),
        (DOT_MOST_ROWS, 1000, 1000, False, True, "dot"),
        (STRIP_LEAST_ROWS, 10, STRIP_MOST_K, False, True, "strip"),
        (STRIP_LEAST_ROWS - 1, 10, STRIP_MOST_K, False, True, "dot"),
        (DOT_MOST_ROWS, 10, STRIP_MOST_K + 1, False, True, "dot"),
        (DOT_MOST_ROWS + 1, 10, 10, False, True, "packed"),
        (1, 10, 10, True, True, "packed"),
    ],
)
def test_the_rule_picks(M, N, K, transpose_a, transpose_b, way):
    assert method(M, N, K, transpose_a, transpose_b) == way
    assert (transpose_a, transpose_b) in FORMS[way]


def test_the_rule_never_picks_a_way_for_a_form_that_it_cannot_do():
    picked = set()
    for M, N, K in itertools.product((1, 2, 3, 17, 128, 129, 1000), repeat=3):
        for form in itertools.product((False, True), repeat=2):
            way = method(M, N, K, *form)
            assert form in FORMS[way]
            picked.add(way)
    assert picked == set(FORMS)


@both_dtypes
@pytest.mark.parametrize("way", [None, *FORMS])
def test_empty_products(way, dtype):
    transpose_b = way in ("dot", "strip")

    def product(M, N, K, add):
        a, b = np.ones((M, K), dtype), np.ones((N, K) if transpose_b else (K, N), dtype)
        y = np.full((M, N), 3, dtype)
        gemm(a, b, y, transpose_b=transpose_b, add=add, way=way)
        return y

    assert (product(3, 5, 0, add=False) == 0).all()
    assert (product(3, 5, 0, add=True) == 3).all()
    for M, N in ((0, 5), (3, 0), (0, 0)):
        for K in (0, 4):
            for add in (False, True):
                assert product(M, N, K, add).shape == (M, N)
