"""The GPU device on a stand-in for numba.cuda: what is allocated, reused, waited for, and in which stream.

The stand-in keeps arrays in host memory and writes down what it is asked. It says nothing about a real GPU.
"""

import gc
from types import SimpleNamespace

import numpy as np
import pytest

from nnkernels.machine import gpu
from nnkernels.machine.gpu_array import count_transfers, empty, start_upload, to_device, zeros
from nnkernels.machine.gpu_kernel import kernel


class Handle:
    """A flat array in the memory of the stand-in."""

    def __init__(self, cuda, array):
        self.cuda, self.array = cuda, array
        self.size, self.dtype = array.size, array.dtype

    def __getitem__(self, index):
        return Handle(self.cuda, self.array[index])

    def copy_to_device(self, source, stream):
        self.cuda.log.append(("in", stream.name))
        self.array[...] = source.array if isinstance(source, Handle) else source

    def copy_to_host(self, stream):
        self.cuda.log.append(("out", stream.name))
        return self.array.copy()


class StandIn:
    """What the device uses of numba.cuda."""

    def __init__(self):
        self.log, self.finished, self.streams = [], True, 0

    def get_current_device(self):
        return SimpleNamespace(id=0)

    def stream(self):
        self.streams += 1
        name = f"stream {self.streams}"
        return SimpleNamespace(name=name, synchronize=lambda: self.log.append(("synchronize", name)))

    def event(self, timing):
        assert timing is False
        return SimpleNamespace(
            record=lambda stream: self.log.append(("record", stream.name)),
            wait=lambda stream: self.log.append(("wait", stream.name)),
            query=lambda: self.finished,
        )

    def device_array(self, n, dtype):
        self.log.append(("allocate", n))
        return Handle(self, np.empty(n, dtype))

    def pinned_array(self, n, dtype):
        self.log.append(("pin", n))
        return np.empty(n, dtype)

    def jit(self, function, **options):
        self.log.append(("compile", function.__name__))
        return Launcher(self)


class Launcher:
    """A compiled kernel."""

    def __init__(self, cuda):
        self.cuda = cuda

    def __getitem__(self, grid):
        return lambda *args: self.cuda.log.append(("launch", grid[0], grid[1], grid[2].name))


@pytest.fixture
def device(monkeypatch):
    stand_in = StandIn()
    monkeypatch.setattr(gpu, "numba_cuda", lambda: stand_in)
    return gpu.Gpu()


def test_memory_goes_back_to_the_pool_with_the_last_view(device):
    x = empty((4, 3), np.float32, device)
    view = x[1:3].reshape(-1)
    del x
    gc.collect()
    assert device.pool.held_bytes == 0
    del view
    gc.collect()
    assert device.pool.held_bytes == 48
    again = empty((12,), np.float32, device)
    assert device.pool.allocations == 1
    assert device.pool.held_bytes == 0
    del again
    device.pool.clear()
    empty((12,), np.float32, device)
    assert device.pool.allocations == 2


def test_out_of_memory_gives_up_what_the_pool_holds(device, monkeypatch):
    empty((4,), np.float32, device)
    gc.collect()
    assert device.pool.held_bytes
    allocate, failures = device.cuda.device_array, iter([True, False])

    def fails_once(n, dtype):
        if next(failures):
            raise MemoryError
        return allocate(n, dtype)

    monkeypatch.setattr(device.cuda, "device_array", fails_once)
    kept = empty((5,), np.float32, device)
    assert device.pool.held_bytes == 0
    assert kept.size == 5


def test_copies_use_the_stream_of_the_work_and_are_waited_for(device):
    x = to_device(np.arange(6, dtype=np.float32).reshape(2, 3), device)
    np.testing.assert_array_equal(x.numpy(), [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(x[1:].numpy(), [[3, 4, 5]])
    assert x[1:1].size == 0
    moves = [entry for entry in device.cuda.log if entry[0] in ("in", "out", "synchronize")]
    assert moves[:4] == [(w, "stream 1") for w in ("in", "synchronize", "out", "synchronize")]


def test_copies_ahead_have_a_stream_of_their_own_and_order_is_kept_by_events(device):
    batch = np.arange(8, dtype=np.float64)
    with count_transfers() as count:
        ready = start_upload(batch, device)
    assert (count.to_device, count.bytes_to_device) == (1, 64)
    batch[...] = -1  # the copy was staged
    kinds = [entry for entry in device.cuda.log if entry[0] != "allocate"]
    assert kinds == [
        ("pin", 64), ("record", "stream 1"), ("wait", "stream 2"), ("in", "stream 2"), ("record", "stream 2"),
    ]  # fmt: skip
    np.testing.assert_array_equal(ready().numpy(), np.arange(8))
    assert device.cuda.log.index(("wait", "stream 1")) > device.cuda.log.index(("in", "stream 2"))


def test_pinned_memory_is_used_again_when_its_copy_is_done(device):
    for finished, pins in ((True, 1), (False, 2), (True, 2)):
        device.cuda.finished = finished
        start_upload(np.ones(8), device)
        assert device.cuda.log.count(("pin", 64)) == pins


@kernel
def nothing_kernel(x):
    x[0] = x[0]


def test_kernels_are_compiled_once_and_start_in_the_stream(device, monkeypatch):
    monkeypatch.setattr(device, "fill_zero", lambda handle: handle.array.fill(0))
    x = zeros((3,), np.float32, device)
    nothing_kernel[2, 32](x)
    nothing_kernel[2, 32](x)
    nothing_kernel[0, 32](x)  # nothing to do
    nothing_kernel.bound.clear()
    log = [entry for entry in device.cuda.log if entry[0] in ("compile", "launch")]
    assert log == [("compile", "nothing_kernel"), *[("launch", (2, 1, 1), (32, 1, 1), "stream 1")] * 2]


def test_reasons_for_having_no_gpu(monkeypatch):
    def raises(error):
        def call():
            raise error

        return call

    monkeypatch.setattr(gpu, "numba_cuda", raises(RuntimeError("the extra is missing")))
    assert gpu.why_not_available() == "the extra is missing"
    monkeypatch.setattr(gpu, "numba_cuda", lambda: SimpleNamespace(is_available=lambda: False))
    assert gpu.why_not_available() == "no usable GPU: the CUDA driver found none"
    broken = SimpleNamespace(is_available=raises(OSError("driver too old")))
    monkeypatch.setattr(gpu, "numba_cuda", lambda: broken)
    assert gpu.why_not_available() == "no usable GPU: driver too old"
    assert not gpu.is_available()
    monkeypatch.setattr(gpu, "numba_cuda", lambda: SimpleNamespace(is_available=lambda: True))
    assert gpu.why_not_available() is None
    assert gpu.is_available()
