"""The simulator finds faults: kernels come as twins, one with a planted fault and one without."""

import math
import time

import numpy as np
import pytest
from launches import N, fails, ramp
from test_races import negate_kernel, turned

from nnkernels.machine import gpu_simulator
from nnkernels.machine.gpu_array import chosen_device, empty, to_device, zeros
from nnkernels.machine.gpu_kernel import at, cuda, device_function, kernel
from nnkernels.machine.gpu_reduce import ALL_LANES, block_sum
from nnkernels.machine.gpu_simulated_memory import running
from nnkernels.machine.gpu_simulator import SimulationError, simulate_gpu

pytestmark = pytest.mark.sim


@pytest.fixture
def device():
    with simulate_gpu(("forward", "reversed", 1)) as simulator:
        yield simulator


# --- indices ---


def bounded(test):
    @kernel
    def bounded_kernel(x, y):
        i = cuda.blockIdx.x * N + cuda.threadIdx.x
        if not test or i < x.size:
            y[at(i)] = x[at(i)]

    return bounded_kernel


def test_a_missing_bounds_check(device):
    x, y = ramp(100, device), empty((100,), np.float32, device)
    said = fails(lambda: bounded(False)[2, N](x, y), SimulationError, "index 100 is outside of the array x")
    assert "block (1, 0, 0), thread (36, 0, 0)" in said
    bounded(True)[2, N](x, y)
    assert np.array_equal(y.numpy(), np.arange(100))


def differences(from_first):
    @kernel
    def differences_kernel(x, y):
        i = cuda.threadIdx.x
        y[at(i)] = x[at(i)] - (x[at(i - 1)] if from_first or i > 0 else x.dtype.type(0))

    return differences_kernel


def test_index_minus_one(device):
    x, y = ramp(N, device), empty((N,), np.float32, device)
    fails(lambda: differences(True)[1, N](x, y), SimulationError, "index -1 is outside of the array x")
    differences(False)[1, N](x, y)
    assert y.numpy().sum() == N - 1


def indexed(case):
    @kernel
    def indexed_kernel(x):
        s = cuda.shared.array((4, 8), x.dtype)
        local = cuda.local.array(4, x.dtype)
        if case == "shared row":
            s[4, 0] = x[0]
        elif case == "shared column":
            s[0, 8] = x[0]
        elif case == "axes":
            s[3] = x[0]
        elif case == "local":
            local[4] = x[0]
        else:
            s[3, 7] = x[0]
            local[3] = s[3, 7]
            x[0] = local[3] + local[3]

    return indexed_kernel


def test_indices_of_shared_and_local_memory(device):
    x = to_device(np.ones(1, np.float32), device)
    for case, words in (
        ("shared row", r"index \(4, 0\) is outside of shared memory of shape \(4, 8\)"),
        ("shared column", r"index \(0, 8\) is outside of shared memory"),
        ("axes", "1 indices into shared memory"),
        ("local", "index 4 is outside of local memory"),
    ):
        fails(lambda case=case: indexed(case)[1, 1](x), SimulationError, words)
    indexed("sound")[1, 1](x)
    assert x.numpy()[0] == 2


# --- meetings ---


def divergent(how):
    @kernel
    def divergent_kernel(x, y):
        s = cuda.shared.array(N, x.dtype)
        t = cuda.threadIdx.x
        if how == "early return" and t >= x.size:
            return
        s[t] = x[at(t)] if t < x.size else x.dtype.type(0)
        if how == "two places":
            if t < 32:
                cuda.syncthreads()
            else:
                cuda.syncthreads()
        elif how != "inside if" or t < 40:
            cuda.syncthreads()
        if how == "sound" and t < x.size:
            y[at(t)] = s[x.size - 1 - t]

    return divergent_kernel


def test_a_barrier_that_not_all_threads_reach(device):
    x, y = ramp(50, device), empty((50,), np.float32, device)
    said = fails(lambda: divergent("early return")[1, N](x, y), SimulationError, "divergent barrier")
    assert "this thread has returned, thread (0, 0, 0) waits at syncthreads in line" in said
    fails(lambda: divergent("inside if")[1, N](x, y), SimulationError, "divergent barrier")
    fails(lambda: divergent("two places")[1, N](x, y), SimulationError, "waits at syncthreads in line")
    divergent("sound")[1, N](x, y)
    assert np.array_equal(y.numpy(), np.arange(50)[::-1])


def shuffled(how):
    @kernel
    def shuffled_kernel(x, y):
        t = cuda.threadIdx.x
        value = x[at(t)]
        if how == "all":
            value = cuda.shfl_down_sync(ALL_LANES, value, 1)
        elif how == "half with the mask of all":
            if t < 16:
                value = cuda.shfl_down_sync(ALL_LANES, value, 1)
        elif how == "half":
            if t < 16:
                value = cuda.shfl_down_sync(0xFFFF, value, 1)
        else:
            value = cuda.shfl_down_sync(0xFFFE, value, 1)  # without lane 0, which calls
        y[at(t)] = value

    return shuffled_kernel


def test_a_shuffle_that_not_all_lanes_of_its_mask_reach(device):
    x, y = ramp(32, device), empty((32,), np.float32, device)
    fails(
        lambda: shuffled("half with the mask of all")[1, 32](x, y), SimulationError, "lanes .*16.* not there"
    )
    fails(lambda: shuffled("without caller")[1, 32](x, y), SimulationError, "leaves out the caller, lane 0")
    shuffled("half")[1, 32](x, y)
    assert np.array_equal(y.numpy()[:15], np.arange(1, 16))
    assert np.array_equal(y.numpy()[16:], np.arange(16, 32))
    shuffled("all")[1, 32](x, y)
    assert np.array_equal(y.numpy()[:31], np.arange(1, 32))


@kernel
def votes_kernel(x, y):
    t = cuda.threadIdx.x
    flag = x[at(t)] > x.dtype.type(30)
    y[at(t)] = cuda.popc(cuda.ballot_sync(ALL_LANES, flag))
    if cuda.any_sync(ALL_LANES, flag):
        y[at(t)] += 100
    if cuda.all_sync(ALL_LANES, flag):
        y[at(t)] += 1000
    y[at(t)] += 10000 * cuda.syncthreads_or(flag) + 100000 * cuda.syncthreads_and(flag)
    y[at(t)] += 1000000 * cuda.shfl_up_sync(ALL_LANES, t % 32, 1)


def test_votes(device):
    y = empty((N,), np.int32, device)
    votes_kernel[1, N](ramp(N, device), y)
    lanes = np.arange(N) % 32
    votes = np.where(np.arange(N) < 32, 10101, 11132)  # one flag in the first warp, all in the second
    assert np.array_equal(y.numpy(), votes + 1000000 * np.maximum(lanes - 1, 0))


# --- memory that nobody has written ---


def uninitialised(where):
    @kernel
    def uninitialised_kernel(x, y):
        s = cuda.shared.array(N, x.dtype)
        local = cuda.local.array(2, x.dtype)
        t = cuda.threadIdx.x
        value = x[at(t)]
        if where == "shared":
            value += s[t]
        elif where == "local":
            value += local[1]
        elif where == "output":
            value += y[at(t)]
        y[at(t)] = value

    return uninitialised_kernel


@pytest.mark.parametrize("where", ["shared", "local", "output"])
def test_reading_what_nobody_has_written_gives_nan(device, where):
    x, y = ramp(N, device), empty((N,), np.float32, device)
    uninitialised(where)[1, N](x, y)
    assert np.isnan(y.numpy()).all()
    uninitialised("nowhere")[1, N](x, y)
    assert np.array_equal(y.numpy(), np.arange(N))


@kernel
def gather_kernel(x, indices, y):
    t = cuda.threadIdx.x
    y[at(t)] = x[at(indices[at(t)])]


def test_an_index_that_nobody_has_written_is_outside(device):
    x, indices = ramp(N, device), empty((N,), np.int64, device)
    fails(
        lambda: gather_kernel[1, N](x, indices, empty((N,), np.float32, device)),
        SimulationError,
        "index -9223372036854775808 is outside",
    )


@kernel
def two_arrays_kernel(x, y):
    a, b = cuda.shared.array(N, x.dtype), cuda.shared.array(N, x.dtype)
    t = cuda.threadIdx.x
    a[t] = x[at(t)]
    b[t] = x.dtype.type(7)
    cuda.syncthreads()
    y[at(t)] = a[N - 1 - t]


def test_two_shared_arrays_of_one_line_are_two(device):
    x, y = ramp(N, device), empty((N,), np.float32, device)
    two_arrays_kernel[1, N](x, y)
    assert np.array_equal(y.numpy(), np.arange(N)[::-1])


def copied(waits):
    @device_function
    def arrive():
        for group in running.thread.copies:
            for copy in group:
                copy()
        running.thread.copies = [[]]

    @kernel
    def copied_kernel(x, y):
        running.thread.copies[-1].append(lambda: y.__setitem__(0, x[0]))
        if waits:
            arrive()

    return copied_kernel


def test_asynchronous_copies_that_nobody_waits_for(device):
    x, y = to_device(np.ones(1, np.float32), device), empty((1,), np.float32, device)
    fails(lambda: copied(False)[1, 1](x, y), SimulationError, "asynchronous copies were never waited for")
    copied(True)[1, 1](x, y)
    assert y.numpy()[0] == 1


# --- limits ---


def hungry(elements):
    @kernel
    def hungry_kernel(x):
        s = cuda.shared.array(elements, x.dtype)
        s[cuda.threadIdx.x] = x[0]

    return hungry_kernel


def test_too_much_shared_memory(device):
    x = ramp(1, device)
    hungry(12288)[1, 1](x)
    fails(lambda: hungry(12289)[1, 1](x), SimulationError, "49156 bytes of shared memory; a block has 49152")


def test_too_many_threads_or_blocks(device):
    x, y = ramp(1, device), empty((1,), np.float32, device)
    for threads in (1025, (32, 33), (1, 1, 65), 0):
        fails(lambda threads=threads: negate_kernel[1, threads](x, y), ValueError, "a block has 1 to 1024")
    fails(lambda: negate_kernel[(1, 65536), 1](x, y), ValueError, "at most 65535 blocks along y and z")
    negate_kernel[0, N](x, y)  # nothing to do
    negate_kernel[1, 1](x, y)


@kernel
def slow_kernel(x):
    total = x.dtype.type(0)
    for _ in range(1000):
        total += x[0]
    if total < x[0]:
        x[at(cuda.threadIdx.x)] = total


@kernel
def endless_kernel(x):
    while x[at(cuda.threadIdx.x)] == x[at(cuda.threadIdx.x)]:
        cuda.syncthreads()


@pytest.mark.parametrize(
    ("start", "words"),
    [
        (lambda x: negate_kernel[2**31 - 1, 1024](x, x), r"\(2147483647, 1, 1\) blocks of \(1024, 1, 1\)"),
        (lambda x: slow_kernel[10**4, N](x), "would take the simulator .* s or more; use smaller arrays"),
        (lambda x: endless_kernel[1, N](x), "would take the simulator 1 s or more"),
    ],
    ids=("threads", "blocks", "barriers"),
)
def test_a_launch_that_takes_too_long_is_refused_soon(start, words):
    with simulate_gpu(("forward",), most_seconds=1.0) as device:
        begun = time.perf_counter()
        fails(lambda: start(zeros((N,), np.float32, device)), ValueError, words)
        assert time.perf_counter() - begun < 5


# --- the context ---


def test_greenlet_is_an_extra(monkeypatch):
    monkeypatch.setattr(gpu_simulator, "greenlet", None)
    with pytest.raises(ImportError, match=r'pip install "nnkernels\[simulator\]"'), simulate_gpu():
        pass
    assert chosen_device() is None


@pytest.mark.parametrize("orders", [("backward",), (), (1.5,), "forward"])
def test_wrong_orders(orders):
    with (
        pytest.raises(ValueError, match=r"simulate_gpu: (an order is|orders is empty)"),
        simulate_gpu(orders),
    ):
        pass
    assert chosen_device() is None


def test_simulators_nest():
    with simulate_gpu() as outer:
        with simulate_gpu() as inner:
            assert chosen_device() is inner
            negate_kernel[1, N](ramp(4, inner), empty((4,), np.float32, inner))
        assert chosen_device() is outer
        assert (outer.launches, inner.launches) == (0, 1)
    assert chosen_device() is None


def test_errors_leave_nothing_behind(device):
    """A launch after one that failed, with threads that still waited, is as any other."""
    x, y = ramp(N, device), empty((N,), np.float32, device)
    fails(lambda: divergent("inside if")[1, N](ramp(50, device), y), SimulationError, "divergent")
    turned(True)[1, N](x, y)
    assert np.array_equal(y.numpy(), np.arange(N)[::-1])
    with pytest.raises(ZeroDivisionError), simulate_gpu():
        raise ZeroDivisionError
    assert chosen_device() is device
    assert np.geterr()["divide"] == "warn"


@kernel
def told_kernel(x):
    if cuda.threadIdx.x == 3:
        print("x is", x[3])
    cuda.syncthreads()
    if cuda.threadIdx.x == 3:
        breakpoint()


def test_print_and_breakpoints_work(monkeypatch, capsys):
    stops = []
    monkeypatch.setattr("sys.breakpointhook", lambda: stops.append(running.thread.place))
    with simulate_gpu(("forward",)) as device:
        told_kernel[1, N](ramp(N, device))
    assert capsys.readouterr().out == "x is 3.0\n"
    assert stops == [(3, 0, 0)]


@kernel
def wrong_kernel(x):
    cuda.syncthreads()
    x[at(cuda.threadIdx.x)] = math.unknown(x[0])


def test_errors_of_python_come_as_they_are(device):
    fails(lambda: wrong_kernel[1, N](ramp(N, device)), AttributeError, "unknown")
    fails(lambda: negate_kernel[1, N](ramp(N, device)), TypeError, "missing 1 required positional argument")


def test_kernels_run_on_a_grid_and_on_arrays_only(device):
    fails(lambda: negate_kernel(1, 2), TypeError, r"must be started on a grid: kernel\[blocks, threads\]")
    fails(
        lambda: negate_kernel[1, N](ramp(4, device), 1.5), TypeError, "floats of a NumPy type, got float 1.5"
    )
    fails(lambda: cuda.threadIdx, AttributeError, "inside of a running kernel only")
    fails(lambda: block_sum(1, 2), TypeError, "block_sum can be called in kernels only")


@kernel
def places_kernel(y, numbers):
    first, second = numbers
    i, j = cuda.grid(2)
    y[at(j * cuda.gridsize(1) + i)] = first + second * y.dtype.type(j)


def test_grids_of_two_axes_and_tuples_of_numbers(device):
    y = empty((4, 6), np.float32, device)
    places_kernel[(2, 2), (3, 2)](y, (np.float32(1), np.float32(10)))
    assert np.array_equal(y.numpy(), 1 + 10 * np.arange(4)[:, None] * np.ones((1, 6)))
