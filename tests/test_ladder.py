"""Every rung of the ladder is the whole product, and differs from NumPy's by rounding alone."""

import numpy as np
import pytest

from nnkernels.ops.matmul.ladder import COLUMNS_OF_B, KC, MC, NC, ROWS_OF_B, RUNGS

SHAPES = (
    (1, 1, 1), (7, 13, 5), (65, 130, 49), (4, 3, 32), (6, 2, 17), (1, 9, 70), (70, 9, 1),
    (3, ROWS_OF_B + 1, COLUMNS_OF_B + 1), (MC + 3, KC + 5, NC + 7), (3, 0, 5), (0, 2, 3), (2, 3, 0),
)  # fmt: skip


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_every_rung_is_the_product(rung, dtype):
    rng = np.random.default_rng(0)
    for M, K, N in SHAPES:
        a, b = rng.standard_normal((M, K)).astype(dtype), rng.standard_normal((K, N)).astype(dtype)
        y = np.full((M, N), np.nan, dtype)  # an element left out is NaN
        rung.function(a, b, y)
        exact = a.astype(np.float64) @ b.astype(np.float64)
        # K products, each rounded and added with one rounding error of a sum of at most this size.
        bound = (K + 1) * np.finfo(dtype).eps * (np.abs(a).astype(np.float64) @ np.abs(b))
        assert y.dtype == dtype
        assert (np.abs(y - exact) <= bound).all(), (rung.name, M, K, N)


def test_the_ladder_is_in_order():
    assert [rung.function.__doc__.partition(".")[0] for rung in RUNGS] == [str(i) for i in range(1, 9)]
    assert len({rung.name for rung in RUNGS}) == len(RUNGS)
