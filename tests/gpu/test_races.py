"""Races that the simulator finds: two threads at one element, one of them writing, and no barrier between.

Kernels come as twins, one with a planted fault and one without.
"""

import numpy as np
import pytest
from launches import N, fails, ramp

from nnkernels.machine.gpu_array import empty, to_device, zeros
from nnkernels.machine.gpu_kernel import at, cuda, kernel
from nnkernels.machine.gpu_reduce import ALL_LANES, WARPS_MOST, block_sum
from nnkernels.machine.gpu_simulator import RaceError, simulate_gpu

pytestmark = pytest.mark.sim


@pytest.fixture
def device():
    with simulate_gpu(("forward", "reversed", 1)) as simulator:
        yield simulator


def turned(barrier):
    @kernel
    def turned_kernel(x, y):
        s = cuda.shared.array(N, x.dtype)
        t = cuda.threadIdx.x
        s[t] = x[at(t)]
        if barrier:
            cuda.syncthreads()
        y[at(t)] = s[N - 1 - t]

    return turned_kernel


def test_a_missing_barrier_after_writing_shared_memory(device):
    x, y = ramp(N, device), empty((N,), np.float32, device)
    said = fails(lambda: turned(False)[1, N](x, y), RaceError, "no syncthreads lies between")
    assert "turned_kernel(False), block (0, 0, 0), thread (32, 0, 0)" in said
    assert "writes element 32 of shared memory, which thread (31, 0, 0) has read" in said
    turned(True)[1, N](x, y)
    assert np.array_equal(y.numpy(), np.arange(N)[::-1])


def test_a_missing_barrier_shows_in_a_single_order_too():
    with simulate_gpu(("reversed",)) as device:
        x, y = ramp(N, device), empty((N,), np.float32, device)
        fails(lambda: turned(False)[1, N](x, y), RaceError, "no syncthreads lies between")


def reused(barrier):
    @kernel
    def reused_kernel(x, y):
        s = cuda.shared.array(N, x.dtype)
        t = cuda.threadIdx.x
        total = x.dtype.type(0)
        for k in range(2):
            s[t] = x[at(k * N + t)]
            cuda.syncthreads()
            total += s[(t + 1) % N]
            if barrier:
                cuda.syncthreads()  # before the next round writes
        y[at(t)] = total

    return reused_kernel


def test_a_missing_barrier_before_shared_memory_is_used_again(device):
    x, y = ramp(2 * N, device), empty((N,), np.float32, device)
    said = fails(lambda: reused(False)[1, N](x, y), RaceError, "writes element")
    assert "has read" in said
    reused(True)[1, N](x, y)
    assert y.numpy()[0] == 1 + 65


def summed(value_of_everyone):
    @kernel
    def summed_kernel(x, y):
        scratch = cuda.shared.array(WARPS_MOST, x.dtype)
        s = block_sum(x[at(cuda.threadIdx.x)], scratch)
        if value_of_everyone or cuda.threadIdx.x == 0:
            y[0] = s

    return summed_kernel


def test_the_same_value_written_by_many_threads_is_a_race(device):
    x, y = ramp(N, device), empty((1,), np.float32, device)
    fails(lambda: summed(True)[1, N](x, y), RaceError, "writes element 0 of the array y")
    summed(False)[1, N](x, y)
    assert y.numpy()[0] == sum(range(N))


@kernel
def shifted_kernel(x, y):
    i = cuda.blockIdx.x * N + cuda.threadIdx.x
    if i + 1 < x.size:
        y[at(i)] = x[at(i + 1)]


def test_an_array_in_two_arguments_is_one_memory(device):
    x = ramp(2 * N, device)
    fails(lambda: shifted_kernel[2, N](x, x), RaceError, "reads element|writes element")
    fails(lambda: shifted_kernel[2, N](x[1:], x[:-1]), RaceError, "a race")  # parts that overlap
    x = ramp(2 * N, device)
    shifted_kernel[1, N](x[:N], x[N:])  # parts that do not
    assert np.array_equal(x.numpy()[N : 2 * N - 1], np.arange(1, N))


@kernel
def negate_kernel(x, y):
    i = cuda.blockIdx.x * N + cuda.threadIdx.x
    if i < x.size:
        y[at(i)] = -x[at(i)]


def test_an_element_that_one_thread_reads_and_writes_is_no_race(device):
    x = ramp(100, device)
    negate_kernel[2, N](x, x)
    assert np.array_equal(x.numpy(), -np.arange(100))


def counted(atomic):
    @kernel
    def counted_kernel(x, counts):
        i = cuda.blockIdx.x * N + cuda.threadIdx.x
        if i < x.size:
            if atomic:
                cuda.atomic.add(counts, at(x[at(i)]), 1)
            else:
                counts[at(x[at(i)])] += 1

    return counted_kernel


def test_atomics_left_out(device):
    """Threads run one after the other here, so that no update is ever lost: who used what tells."""
    x = to_device(np.arange(100, dtype=np.int32) % 4, device)
    counts = zeros((4,), np.int32, device)
    fails(lambda: counted(False)[2, N](x, counts), RaceError, "reads element 0 of the array counts")
    counts = zeros((4,), np.int32, device)
    counted(True)[2, N](x, counts)
    assert np.array_equal(counts.numpy(), [25] * 4)


def counted_in_shared(barrier):
    @kernel
    def counted_in_shared_kernel(x, counts):
        h = cuda.shared.array(N, counts.dtype)
        t = cuda.threadIdx.x
        h[t] = 0
        cuda.syncthreads()
        cuda.atomic.add(h, at(x[at(t)]), 1)
        if barrier:
            cuda.syncthreads()
        counts[at(t)] = h[max(t - 1, 0)]

    return counted_in_shared_kernel


def test_atomics_do_not_replace_a_barrier(device):
    x, counts = to_device(np.arange(N, dtype=np.int32), device), empty((N,), np.int32, device)
    fails(lambda: counted_in_shared(False)[1, N](x, counts), RaceError, "by an atomic operation")
    counted_in_shared(True)[1, N](x, counts)
    assert np.array_equal(counts.numpy(), [1] * N)


@kernel
def atomic_extremes_kernel(x, y):
    i = cuda.threadIdx.x
    cuda.atomic.max(y, 0, x[at(i)])
    cuda.atomic.min(y, 1, x[at(i)])


def test_atomic_extremes(device):
    y = zeros((2,), np.float32, device)
    atomic_extremes_kernel[1, N](to_device(np.linspace(-3, 5, N, dtype=np.float32), device), y)
    assert np.array_equal(y.numpy(), [5, -3])


@kernel
def neighbour_block_kernel(x, y):
    i = cuda.blockIdx.x * N + cuda.threadIdx.x
    y[at(i)] = x[at(i)]
    cuda.syncthreads()  # of this block, which says nothing of the others
    x[at(i)] = y[at((i + N) % y.size)]


def test_a_barrier_does_not_order_blocks(device):
    x, y = ramp(2 * N, device), empty((2 * N,), np.float32, device)
    said = fails(lambda: neighbour_block_kernel[2, N](x, y), RaceError, "nothing orders the blocks")
    assert "of block (0, 0, 0)" in said


def handed_over(how):
    @kernel
    def handed_over_kernel(x, y):
        s = cuda.shared.array(N, x.dtype)
        t = cuda.threadIdx.x
        s[t] = x[at(t)]
        if how == "syncwarp":
            cuda.syncwarp()
        else:
            cuda.shfl_sync(ALL_LANES, t, 0)
        y[at(t)] = s[t ^ 1 if how != "other warp" else (t + 32) % N]

    return handed_over_kernel


def test_a_warp_is_ordered_by_syncwarp_and_not_by_a_shuffle(device):
    x, y = ramp(N, device), empty((N,), np.float32, device)
    fails(lambda: handed_over("shuffle")[1, N](x, y), RaceError, "neither syncthreads nor syncwarp")
    fails(lambda: handed_over("other warp")[1, N](x, y), RaceError, "no syncthreads lies between")
    handed_over("syncwarp")[1, N](x, y)
    assert np.array_equal(y.numpy(), np.arange(N) ^ 1)


@kernel
def first_come_kernel(order, x):
    i = cuda.atomic.add(order, 0, 1)
    x[at(i)] = x.dtype.type(cuda.threadIdx.x)


def test_results_that_depend_on_the_order_are_a_race(device):
    order, x = zeros((1,), np.int32, device), empty((N,), np.float32, device)
    said = fails(lambda: first_come_kernel[1, N](order, x), RaceError, "when threads run forward")
    assert "x[0] is 0.0 when threads run forward, 63.0 when they run in order 'reversed'" in said


def test_a_sound_kernel_gives_the_same_bits_in_every_order():
    x = np.random.default_rng(0).standard_normal(N).astype(np.float32)
    results = set()
    for order in ("forward", "reversed", 1, 2, 3):
        with simulate_gpu((order,)) as device:
            y = empty((1,), np.float32, device)
            summed(False)[1, N](to_device(x, device), y)
            results.add(y.numpy().tobytes())
    assert len(results) == 1
