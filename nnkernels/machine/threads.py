"""Threads: how many, and how work is cut so that results do not depend on how many.

Work is cut into chunks whose bounds depend on the size of the problem alone. Each chunk is computed in one
order by one thread; sums over chunks are added up in the chunks' order. So every result is bitwise the same
with 1, 2, ... N threads.
"""

import os
from functools import lru_cache

import numba

# A thread that waits for the others at the end of a parallel region spins before it sleeps. GNU OpenMP lets
# it spin for milliseconds; where another program wants the core, that starves the very thread waited for
# (training LeNet on two busy cores took 161 s instead of 4). A shorter spin costs nothing on an idle machine.
# Read when the first parallel kernel runs; whoever has chosen a policy keeps it.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")

CHUNK = 8192  # elements of an elementwise chunk: 32 KiB of float32, an L1 cache
# Elements below which starting threads costs more than it saves: for work of about 1 ns an element (exp, a
# sum, a step of Adam), and for work that one core does at the speed of its cache (relu, an addition).
SERIAL_BELOW = 1 << 15
SERIAL_BELOW_IF_CHEAP = 1 << 18
PARTS = 64  # most tasks of one call: enough for any number of threads, few enough to cost nothing each


def set_num_threads(n: int) -> None:
    """Let kernels use ``n`` threads, from 1 to the number Numba started with (the machine's cores).

    Raises ValueError when ``n`` is out of that range, TypeError when it is no integer.
    """
    if not isinstance(n, int) or isinstance(n, bool):
        raise TypeError(f"n must be an int, got {type(n).__name__}")
    most = numba.config.NUMBA_NUM_THREADS
    if not 1 <= n <= most:
        raise ValueError(f"n must be from 1 to {most} (NUMBA_NUM_THREADS), got {n}")
    numba.set_num_threads(n)


def get_num_threads() -> int:
    """Return the number of threads that kernels use."""
    n: int = numba.get_num_threads()
    return n


@lru_cache(maxsize=1024)
def share_of(count: int, size: int = 1) -> int:
    """Return how many of ``count`` pieces of ``size`` elements one task takes.

    About CHUNK elements, more where that would be more than PARTS tasks; the number of tasks is a multiple of
    4, so that few threads get equally many, and shares of single elements fill whole cache lines.
    """
    tasks = min(PARTS, -(-count * size // (4 * CHUNK)) * 4)
    share = -(-count // max(tasks, 1))
    return max(share if size > 1 else -(-share // 64) * 64, 1)
