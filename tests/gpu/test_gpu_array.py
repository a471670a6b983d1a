"""Arrays on a device, simulated: shapes and views, what is refused, and copies, which are counted."""

import numpy as np
import pytest

from nnkernels.machine.gpu_array import (
    count_transfers,
    empty,
    empty_like,
    shares_memory,
    to_device,
    zeros,
    zeros_like,
)
from nnkernels.machine.gpu_kernel import MOST_ELEMENTS
from nnkernels.machine.gpu_simulator import Simulator, simulate_gpu
from nnkernels.ops import OPS

pytestmark = pytest.mark.sim


@pytest.fixture
def device():
    with simulate_gpu(("forward",)) as simulator:
        yield simulator


@pytest.fixture
def x(device):
    return to_device(np.arange(24, dtype=np.float32).reshape(2, 3, 4), device)


def test_facts(x):
    assert (x.shape, x.dtype, x.ndim, x.size, x.itemsize, x.nbytes, len(x)) == (
        (2, 3, 4),
        np.float32,
        3,
        24,
        4,
        96,
        2,
    )
    assert repr(x) == "<float32 array of shape (2, 3, 4) on cuda (simulated)>"
    assert empty_like(x).shape == x.shape
    assert not zeros_like(x).numpy().any()


@pytest.mark.parametrize("shape", [(24,), (6, 4), (-1, 8), (2, -1, 2), (1, 24, 1)])
def test_reshape_is_a_view(x, shape):
    there, here = x.reshape(shape), x.numpy().reshape(shape)
    assert there.shape == here.shape
    assert np.array_equal(there.numpy(), here)
    assert np.array_equal(x.reshape(*shape).numpy(), here)
    assert shares_memory(x, there)
    assert shares_memory(x, x.ravel())


@pytest.mark.parametrize("shape", [(5, 5), (-1, 5), (-1, -1), (0, -1)])
def test_reshape_refuses_what_does_not_fit(x, shape):
    with pytest.raises(ValueError, match=r"cannot reshape an array of shape \(2, 3, 4\) to"):
        x.reshape(shape)


@pytest.mark.parametrize(
    "part", [slice(1, 3), slice(None, 2), slice(-2, None), slice(3, 1), slice(9, 12), slice(None)]
)
def test_slices_are_views(device, part):
    x = to_device(np.arange(20.0).reshape(5, 4), device)
    there, here = x[part], x.numpy()[part]
    assert np.array_equal(there.numpy(), here)
    assert shares_memory(x, there) == (here.size > 0)
    there.copy_from(np.full(here.shape, -1.0))
    assert (x.numpy()[part] == -1).all()
    assert (x.numpy() == -1).sum() == here.size


def test_parts_of_one_array_share_memory_where_they_overlap(x):
    assert not shares_memory(x[:1], x[1:])
    assert shares_memory(x[:2], x[1:])
    assert not shares_memory(x, x.copy())
    assert not shares_memory(x, x.numpy())


@pytest.mark.parametrize("index", [0, (0, 1), slice(0, 2, 2), ..., None, [0, 1]])
def test_other_indices_are_left_to_ops(x, index):
    with pytest.raises(TypeError, match="takes slices of its first axis alone, as x"):
        x[index]


def test_numbers_are_read_by_numpy_alone(x):
    for read in (np.asarray, np.array, lambda a: a.numpy() + a, np.exp, np.sum):
        with pytest.raises(TypeError):
            read(x)
    words = r"an array on cuda \(simulated\) does not become a NumPy array by itself: copy it by numpy\(\)"
    with pytest.raises(TypeError, match=words):
        np.asarray(x)
    with pytest.raises(TypeError, match="an array without axes has no length"):
        len(x[:1].reshape(12)[:1].reshape(()))


def test_copies_are_counted(device):
    with count_transfers() as outer:
        x = to_device(np.ones((2, 3), np.float32), device)
        with count_transfers() as inner:
            y = x.copy()  # stays on the device
            OPS["relu"](y)
            zeros((5,), np.float64, device)
            assert (inner.to_device, inner.to_host) == (0, 0)
            y.numpy()
            y.copy_from(np.zeros((2, 3), np.float32))
        assert (inner.to_device, inner.bytes_to_device) == (1, 24)
        assert (inner.to_host, inner.bytes_to_host) == (1, 24)
    assert (outer.to_device, outer.bytes_to_device, outer.to_host) == (2, 48, 1)
    x.numpy()
    assert outer.to_host == 1  # after its end


def test_copies_fit_exactly(x):
    for other in (np.ones((2, 3, 4)), np.ones((2, 3), np.float32), x[:1]):
        with pytest.raises(ValueError, match="cannot copy"):
            x.copy_from(other)
    with pytest.raises(ValueError, match="cannot copy from cuda"):
        x.copy_from(to_device(x.numpy(), Simulator()))


@pytest.mark.parametrize(
    "array", [np.arange(12.0).reshape(3, 4).T, np.arange(4, dtype=">i4"), np.zeros((0, 3)), np.float64(2)]
)
def test_arrays_of_any_layout_arrive(device, array):
    there = to_device(np.asarray(array), device)
    assert there.dtype.isnative
    assert np.array_equal(there.numpy(), array)


def test_arrays_that_are_too_large(device):
    with pytest.raises(ValueError, match=f"at most {MOST_ELEMENTS} elements"):
        empty((2**16, 2**15), np.float32, device)


def test_an_op_takes_arrays_of_one_device(x):
    with pytest.raises(
        ValueError, match=r"add: .*input 0 on cuda \(simulated\) and input 1 on cpu; move one by to"
    ):
        OPS["add"](x, x.numpy())
    with pytest.raises(ValueError, match=r"input 0 on cpu and input 1 on cuda"):
        OPS["add"](x.numpy(), x)


def test_an_array_outlives_its_simulator():
    with simulate_gpu(("forward",)) as device:
        x = to_device(np.ones(3), device)
    assert np.array_equal(x.numpy(), np.ones(3))
    assert np.array_equal(OPS["relu"](x).numpy(), np.ones(3))
