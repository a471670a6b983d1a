"""Starting MPI: ranks that do not fight for cores, that say who they are, and that end together."""

import logging
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Callable
from itertools import chain
from types import TracebackType
from typing import Any, NamedTuple

import numba

from nnkernels.machine.threads import get_num_threads, set_num_threads
from nnkernels.parallel.ranks import MpiRanks, Ranks

logger = logging.getLogger("nnkernels")

ExceptHook = Callable[[type[BaseException], BaseException, TracebackType | None], None]

INSTALL = (
    'parallel.init needs mpi4py and an MPI library: pip install "nnkernels[mpi]" and, where the machine has '
    "no MPI of its own, pip install mpich"
)

FORWARDED = 0.5  # seconds; a launcher passes text on by and by, and drops what is on its way when all ends

_started: Ranks | None = None


def init(threads: int | None = None) -> Ranks:
    """Start MPI and return the ranks; later calls return the same and change nothing.

    ``threads`` is how many threads this rank's kernels use. By default the ranks of a machine share its cores
    evenly, and each has at least one. (NumPy's own threads, in ``vectorized`` bodies, follow variables such
    as OPENBLAS_NUM_THREADS.) Where the launcher has pinned a rank to fewer cores, a warning says so.

    With several ranks, each one's process is named on stderr, so that a launcher's "PID 4711 was killed" can
    be read; the log of ranks above 0 begins at warnings; and an exception that nothing catches names its
    rank and ends all of them. (``python -m mpi4py script.py`` does so for ``sys.exit``, too.)

    Without mpiexec there is one rank. Raises RuntimeError where mpi4py or an MPI library is missing, and what
    ``machine.threads.set_num_threads`` raises.
    """
    global _started
    if _started is None:
        mpi = mpi_library()
        ranks = MpiRanks(mpi, mpi.COMM_WORLD)
        share_cores(ranks, threads)
        if ranks.size > 1:
            logger.addFilter(RankFilter(ranks))
            sys.excepthook = aborting(ranks)
            introduce(ranks)
        _started = ranks
    return _started


def rank() -> int:
    """Return this process's rank; 0 before ``init``."""
    return 0 if _started is None else _started.rank


def size() -> int:
    """Return the number of ranks; 1 before ``init``."""
    return 1 if _started is None else _started.size


def started(who: str) -> Ranks:
    """Return the ranks that ``init`` has started; RuntimeError before it.

    Work that took itself for the only rank would look right under mpiexec, and be wrong.
    """
    if _started is None:
        raise RuntimeError(f"{who}: call parallel.init() first, or give ranks=parallel.Ranks() to work alone")
    return _started


def mpi_library() -> Any:
    """Return mpi4py's MPI, which starts MPI when it is first imported."""
    try:
        import mpi4py

        # Only the thread that called init talks to MPI; kernels' threads do not. MPI need not lock.
        mpi4py.rc.thread_level = "funneled"
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # the latter: "cannot load MPI library"
        raise RuntimeError(f"{INSTALL} ({error})") from error
    return MPI


# --- cores ---


class Cores(NamedTuple):
    """The cores of one machine, and what its ranks have of them."""

    machine: int  # cores that a process may be given here
    given: dict[int, float]  # cores by rank; of a core that n ranks may use, each has the nth part

    @property
    def share(self) -> float:
        """How many cores each rank would have if none were pinned."""
        return self.machine / len(self.given)


def share_cores(ranks: MpiRanks, threads: int | None) -> None:
    """Set the number of threads; warn, once on a machine, where the launcher leaves ranks too few cores."""
    here = MpiRanks(ranks.mpi, ranks.comm.Split_type(ranks.mpi.COMM_TYPE_SHARED))
    cores = count_cores(ranks.rank, here)
    first = here.rank == 0
    here.comm.Free()
    even = max(1, int(cores.share))
    # Numba cannot start more threads than it saw cores when it was imported.
    set_num_threads(min(even, numba.config.NUMBA_NUM_THREADS) if threads is None else threads)
    wanted = min(cores.share, even if threads is None else threads)
    pinned = [rank for rank, given in cores.given.items() if given < wanted - 1e-6]
    if pinned and first:
        logger.warning(
            "too few cores for rank %s: pinned to %.3g of %d, the fair share is %.3g; start with "
            "--bind-to none (Open MPI) or -bind-to none (MPICH)",
            ", ".join(map(str, pinned)), min(cores.given.values()), cores.machine, cores.share,
        )  # fmt: skip


def count_cores(rank: int, here: Ranks) -> Cores:
    """Count the cores of this machine and what each of the ranks here has; ``rank`` is among all ranks."""
    if hasattr(os, "sched_getaffinity"):
        machine, mask = most_cores(), sorted(os.sched_getaffinity(0))
    else:  # macOS and Windows pin nothing
        machine = os.cpu_count() or 1
        mask = list(range(machine))
    masks = dict(here.broadcast(here.gather([rank, mask])))
    users = Counter(chain.from_iterable(masks.values()))
    return Cores(machine, {rank: sum(1 / users[core] for core in mask) for rank, mask in masks.items()})


def most_cores() -> int:
    """Return how many cores this process could be given.

    A launcher's pinning can be undone by the process, the limits of a container or a batch system cannot: so
    all cores are asked for, for a moment.
    """
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        return len(os.sched_getaffinity(0))
    except OSError:
        return len(before)
    finally:
        os.sched_setaffinity(0, before)


# --- what several ranks say ---


class RankFilter(logging.Filter):
    """Names the rank in every message; lets only warnings pass on ranks above 0."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the message is to be shown, its rank written in front of it."""
        record.msg = f"rank {self.ranks.rank}: {record.msg}"
        return self.ranks.rank == 0 or record.levelno >= logging.WARNING


def introduce(ranks: Ranks) -> None:
    """Say on stderr which process is which rank: launchers name the process that was killed, not its rank."""
    line = f"process {os.getpid()} on {platform.node()}, {get_num_threads()} thread(s)"
    lines = ranks.gather(line)
    if lines is not None:
        text = "".join(f"nnkernels: rank {i} of {ranks.size} is {line}\n" for i, line in enumerate(lines))
        print(text, end="", file=sys.stderr, flush=True)


def aborting(ranks: MpiRanks) -> ExceptHook:
    """Return a hook that names the rank an exception ends, and ends all: the others would wait for it."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        print(f"rank {ranks.rank} of {ranks.size} has failed and ends all:", file=sys.stderr)
        before(kind, error, traceback)
        sys.stdout.flush()
        sys.stderr.flush()
        time.sleep(FORWARDED)
        ranks.comm.Abort(130 if issubclass(kind, KeyboardInterrupt) else 1)

    return hook
