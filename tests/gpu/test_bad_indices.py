"""Labels and indices are not checked on the host for a GPU: one out of range gives NaN, and is no address."""

import numpy as np
import pytest

from nnkernels.machine.gpu_array import to_device
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops import OPS

pytestmark = pytest.mark.sim

FAR = 2**40


@pytest.fixture
def device():
    with simulate_gpu() as simulator:
        yield simulator


def passes(device, name, arrays, needs, **attributes):
    """Return the result and the gradients for a cotangent of ones, on the host."""
    there = tuple(to_device(np.asarray(a), device) for a in arrays)
    outputs = OPS[name].cuda.forward(*there, **attributes)
    dy = to_device(np.ones(outputs[0].shape), device)
    grads = OPS[name].cuda.backward(dy, outputs, there, needs, **attributes)
    return outputs[0].numpy(), *(None if g is None else g.numpy() for g in grads)


@pytest.mark.parametrize("bad", [-1, 3, FAR])
@pytest.mark.parametrize("name", ["softmax_cross_entropy", "nll_loss"])
def test_label_that_is_no_class(device, name, bad):
    x, w = np.random.default_rng(0).standard_normal((3, 3)), np.ones(3)
    labels = np.array([1, bad, -100])
    loss, dx, *_ = passes(device, name, (x, labels, w), (True, False, False), reduction="none")
    assert list(np.isnan(loss)) == [False, True, False]
    assert list(np.isnan(dx).any(axis=1)) == [False, True, False]
    assert not dx[2].any()
    loss, dx, *_ = passes(device, name, (x, labels, w), (True, False, False), reduction="mean")
    assert np.isnan(loss)
    assert list(np.isnan(dx).any(axis=1)) == [True, True, False]


@pytest.mark.parametrize("bad", [-1, 4, FAR])
def test_rows_that_are_not_there(device, bad):
    w, index = np.arange(8.0).reshape(4, 2), np.array([3, bad, 3])
    y, _, dw = passes(device, "embedding", (index, w), (False, True))
    assert np.array_equal(y, [w[3], [np.nan] * 2, w[3]], equal_nan=True)
    assert np.array_equal(dw, [[0, 0], [0, 0], [0, 0], [2, 2]])
    y, dx, _ = passes(device, "index_select", (w, index), (True, False), dim=0)
    assert np.array_equal(y, [w[3], [np.nan] * 2, w[3]], equal_nan=True)
    assert np.array_equal(dx, dw)


@pytest.mark.parametrize("reduction", ["sum", "mean", "max"])
def test_segment_leaves_out_what_belongs_nowhere(device, reduction):
    x, index = np.arange(6.0).reshape(3, 2), np.array([1, -5, 1])
    y, dx, _ = passes(device, "segment", (x, index), (True, False), n=2, reduction=reduction)
    combined = {"sum": x[0] + x[2], "mean": (x[0] + x[2]) / 2, "max": x[2]}[reduction]
    assert np.array_equal(y, [[0, 0], combined])
    assert list(np.isnan(dx).any(axis=1)) == [False, True, False]


def test_matrix_with_a_column_and_a_row_out_of_range(device):
    values, x = np.ones(3), np.arange(4.0).reshape(2, 2)
    y, _, _, dvalues, dx = passes(
        device, "spmm", (np.array([0, 1, 2, 9]), np.array([1, FAR, 0]), values, x), (False, False, True, True)
    )
    assert np.array_equal(y, [x[1], [np.nan] * 2, [np.nan] * 2], equal_nan=True)
    assert np.array_equal(dvalues, [5, np.nan, 1], equal_nan=True)
    assert np.array_equal(dx, [[1, 1], [1, 1]])
