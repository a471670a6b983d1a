"""Measured ceilings of this machine: how many multiply-adds and how many bytes it moves in a second.

A kernel that needs F operations and B bytes takes at least max(F / fma_peak, B / memory_bandwidth) seconds;
the FLOPs per byte at which the two are equal are the machine's ridge (Williams, Waterman and Patterson,
Roofline: An Insightful Visual Performance Model for Multicore Architectures, CACM 52(4), 2009).

Both are rates that loops compiled as ours are did reach, the best of several short runs: not a data sheet's.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.machine.jit import jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array
from nnkernels.machine.threads import CHUNK, get_num_threads, set_num_threads

# Each element takes STEPS multiply-adds that wait for each other. 8 are enough to hide a load and a store,
# and few enough that the processor looks far enough ahead to keep its multiply-add units busy with other
# elements (with 32 steps, Zen 5 reached 57 % of what it does with 8).
STEPS = 8
ELEMENTS = 512  # per thread: 2 KiB of float32, near the registers
RUN_STEPS = 1 << 28  # multiply-adds of one thread in a run: 2 ms at 16 lanes, two units and 4 GHz
COPIED_BYTES = 64 * 2**20  # read, and as many written: beyond the last cache of all but the largest servers
SECONDS = 0.25  # of runs, at least RUNS
RUNS = 4


@jit_elementwise
def multiply_add(x: Array, a: float, b: float, rounds: int) -> None:
    """Replace every v of x by v a + b, STEPS times a round."""
    for _ in range(rounds):
        for i in range(x.size):
            v = x[i]
            for _step in range(STEPS):
                v = v * a + b
            x[i] = v


@jit_parallel
def multiply_add_parallel(x: Array, a: float, b: float, rounds: int) -> None:
    """Give every other row of x to a thread; neighbours could share a cache line, and fight for it."""
    for thread in prange(x.shape[0] // 2):
        multiply_add(x[2 * thread], a, b, rounds)


@jit_elementwise
def copy(x: Array, y: Array) -> None:
    """Copy x to y."""
    for i in range(x.size):
        y[i] = x[i]


@jit_parallel
def copy_parallel(x: Array, y: Array) -> None:
    """Copy x to y, chunks shared among threads."""
    for c in prange((x.size + CHUNK - 1) // CHUNK):
        i, j = c * CHUNK, min((c + 1) * CHUNK, x.size)
        copy(x[i:j], y[i:j])


def fma_peak(threads: int, dtype: DTypeLike = np.float32) -> float:
    """Return the most GFLOP/s of ``threads`` threads, a multiply-add counted as two, operands in registers.

    Raises ValueError for a dtype that is not float32 or float64, and as ``set_num_threads`` does.
    """
    dtype = np.dtype(dtype)
    if dtype not in (np.float32, np.float64):
        raise ValueError(f"dtype must be float32 or float64, got {dtype}")
    rounds = RUN_STEPS // (STEPS * ELEMENTS)
    with using_threads(threads):
        x = np.ones((2 * threads, ELEMENTS), dtype)
        a, b = np.asarray([0.5, 0.25], dtype)  # all values go to 0.5
        seconds = shortest(lambda: multiply_add_parallel(x, a, b, rounds))
    return 2 * STEPS * threads * ELEMENTS * rounds / seconds / 1e9


def memory_bandwidth(threads: int) -> float:
    """Return the most GB/s that ``threads`` threads copy, bytes read and bytes written both counted."""
    x = np.ones(COPIED_BYTES // 4, np.float32)
    y = np.zeros_like(x)
    with using_threads(threads):
        seconds = shortest(lambda: copy_parallel(x, y))
    return (x.nbytes + y.nbytes) / seconds / 1e9


def shortest(run: Callable[[], object]) -> float:
    """Return the seconds of the fastest run, after one that compiles."""
    run()
    best, count, end = math.inf, 0, time.perf_counter() + SECONDS
    while count < RUNS or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        best, count = min(best, time.perf_counter() - start), count + 1
    return best


@contextmanager
def using_threads(n: int) -> Iterator[None]:
    """Let kernels use n threads inside the ``with`` block."""
    before = get_num_threads()
    set_num_threads(n)
    try:
        yield
    finally:
        set_num_threads(before)
