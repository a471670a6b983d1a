"""Reductions that take several blocks, rows that do not fit in registers: larger than the table's samples."""

from dataclasses import replace

import numpy as np
import pytest

from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops import OPS, checks
from nnkernels.ops.op import Sample

pytestmark = pytest.mark.sim


def agree(name, *arrays, **attributes):
    with simulate_gpu(("forward", 1)):
        sample = Sample(f"{attributes}", arrays, attributes)
        op = replace(OPS[name], tolerance=1024.0)  # sums of thousands, in two orders
        checks.check_agreement(op, "cuda", sample, np.random.default_rng(0))


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
@pytest.mark.parametrize(
    ("shape", "dim"),
    [((2, 5000), 1), ((4500, 3), 0), ((9000,), None), ((300, 70), 0), ((2, 3, 70, 9), (0, 2, 3))],
)
def test_axes_in_parts(name, shape, dim):
    x = np.random.default_rng(0).standard_normal(shape)
    if name == "max":  # ties, and a NaN
        x = np.round(x, 1)
        x.reshape(-1)[x.size // 3] = np.nan
    agree(name, x, dim=dim)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_rows_longer_than_registers(name):
    x = 50 * np.random.default_rng(0).standard_normal((1, 8300))
    x[0, :8200] = -np.inf  # a lane may see nothing else
    agree(name, x)
    agree(name, x.reshape(4150, 2), dim=0)


def test_cross_entropy_of_long_rows_and_of_many():
    rng = np.random.default_rng(0)
    x, w = rng.standard_normal((2, 4200)), rng.uniform(0.2, 2, 4200)
    agree("softmax_cross_entropy", x, np.array([-100, 7]), w, label_smoothing=0.2)
    x, labels = rng.standard_normal((4200, 2)), rng.integers(0, 2, 4200)
    agree("softmax_cross_entropy", x, labels, rng.uniform(0.2, 2, 2))
    agree("nll_loss", x, labels, rng.uniform(0.2, 2, 2))


def test_loss_in_shares():
    rng = np.random.default_rng(0)
    agree("mse", rng.standard_normal(8300), rng.standard_normal(8300))
