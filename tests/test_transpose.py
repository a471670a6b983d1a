"""Blocks transposed in registers, against NumPy: blocks of every size, short rows, nothing else written."""

import numpy as np
import pytest

from nnkernels.machine.jit import jit_elementwise
from nnkernels.machine.simd import lanes
from nnkernels.machine.transpose import transpose


@jit_elementwise
def compiled(x, i, at, limits, r, m, c, n, out, o, to):
    transpose(x, i, at, limits, r, m, c, n, out, o, to)


@pytest.mark.parametrize("run", [compiled, transpose], ids=("instructions", "plain loops"))
@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=("f32", "f64"))
def test_a_block_of_every_size_is_transposed(dtype, run):
    rng = np.random.default_rng(0)
    L = lanes(dtype)
    for m in range(1, L + 1):
        for n in range(1, L + 1):
            x = rng.standard_normal(40 * L).astype(dtype)
            at = rng.integers(0, 30 * L, m + 2).astype(np.uint64)
            limits = rng.integers(0, 3 * L, m + 2)
            c = int(rng.integers(0, 2 * L))
            to = (rng.permutation(c + n) * L).astype(np.uint64)
            out = np.full(3 + (c + n + 1) * L, 7, dtype)
            wanted = out.copy()
            run(x, 5, at, limits, 2, m, c, n, out, 3, to)
            for q in range(n):
                for p, (offset, limit) in enumerate(zip(at[2:], limits[2:])):
                    wanted[3 + int(to[c + q]) + p] = x[5 + int(offset) + c + q] if c + q < limit else 0
            np.testing.assert_array_equal(out, wanted, err_msg=f"{m} x {n}")


@pytest.mark.parametrize("run", [compiled, transpose], ids=("instructions", "plain loops"))
def test_rows_of_length_0_are_not_read(run):
    x, out = np.full(4, np.nan, np.float32), np.ones(64, np.float32)
    offsets = np.array([10**12, 0], np.uint64)  # far outside, and before the start
    run(
        x,
        -(10**6),
        offsets,
        np.zeros(2, np.int64),
        0,
        2,
        0,
        4,
        out,
        0,
        np.arange(4, dtype=np.uint64) * np.uint64(4),
    )
    np.testing.assert_array_equal(out[:16].reshape(4, 4)[:, :2], 0)
    np.testing.assert_array_equal(out[:16].reshape(4, 4)[:, 2:], 1)
