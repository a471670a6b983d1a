"""Memory of the simulated GPU: it checks indices, starts as NaN, and finds races.

A race is found by who used an element when: each element remembers the moments, a moment being a thread
between two barriers. Whether two moments are ordered does not depend on the order in which the simulator
happens to run threads, so one run finds what may happen on a GPU in any.
"""

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.machine.gpu_kernel import WARP
from nnkernels.machine.memory import Array

if TYPE_CHECKING:
    from nnkernels.machine.gpu_simulated import Meeting


class SimulationError(Exception):
    """A kernel did what a GPU does not define: the message says which thread did what, where."""


class RaceError(SimulationError):
    """Two threads use one element, one of them to write, and nothing says which comes first."""


def poison(shape: Any, dtype: Any) -> Array:
    """Return an array of what shows when it is read before it was written: NaN, the least integer, True."""
    data = np.empty(shape, dtype)
    if data.dtype.kind == "f":
        data.fill(np.nan)
    elif data.dtype.kind in "iu":
        data.fill(np.iinfo(data.dtype).min if data.dtype.kind == "i" else np.iinfo(data.dtype).max)
    else:
        data.fill(1)
    return data


class Memory:
    """Memory of a simulated GPU as kernels see it: every index is checked."""

    __slots__ = ("data", "dtype", "is_flat", "kind", "shape", "size")

    def __init__(self, data: Array, kind: str) -> None:
        self.data, self.kind = data.reshape(-1), kind
        self.dtype, self.shape, self.size = data.dtype, data.shape, data.size
        self.is_flat = len(data.shape) == 1

    def __len__(self) -> int:
        return int(self.shape[0])

    def place(self, index: Any) -> int:
        """Return the number of the element, after checking the index."""
        indices = index if type(index) is tuple else (index,)
        if len(indices) != len(self.shape):
            raise SimulationError(f"{len(indices)} indices into {self.kind} of shape {self.shape}")
        number = 0
        for i, n in zip(indices, self.shape):
            k = operator.index(i)
            if not 0 <= k < n:
                raise SimulationError(f"index {index} is outside of {self.kind} of shape {self.shape}")
            number = number * n + k
        return number

    def __getitem__(self, index: Any) -> Any:
        if not (type(index) is int and 0 <= index < self.size and self.is_flat):
            index = self.place(index)
        return self.data[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if not (type(index) is int and 0 <= index < self.size and self.is_flat):
            index = self.place(index)
        self.data[index] = value

    def change(self, index: Any, new: Callable[[Any], Any]) -> Any:
        """Put ``new(element)`` in an element's place, as one step; return what it was."""
        number = self.place(index)
        old = self.data[number]
        self.data[number] = new(old)
        return old


class Moment:
    """A thread between two barriers: what memory remembers of who used an element.

    ``interval`` counts the barriers that the block has passed, ``tick`` those of the warp.
    """

    __slots__ = ("atomically", "block", "interval", "thread", "tick", "warp")

    def __init__(self, thread: "Thread", interval: int, tick: int) -> None:
        self.thread, self.block, self.warp = thread, thread.block, thread.warp
        self.interval, self.tick = interval, tick
        self.atomically: Moment | None = None  # stands for atomic operations of the same moment

    def is_before(self, now: "Moment") -> bool:
        """Return whether whatever happened in this moment is over for ``now``, which runs later here."""
        if self.thread is now.thread:
            return True
        if self.block is not now.block:
            return False  # nothing orders blocks
        return self.interval < now.interval or (self.warp == now.warp and self.tick < now.tick)


class Atomically(Moment):
    """The atomic operations of a moment, which are no race among each other."""

    __slots__ = ()


class Uses:
    """Who wrote and who read each element of some memory: ``written[i]`` is the last moment, or is missing.

    ``read[i]`` is one moment, or three where several threads have read: the first, the last, and the last of
    another warp (of another thread where one warp alone has read). They suffice: a write that is unordered
    with any read is unordered with one of these.
    """

    __slots__ = ("read", "written")

    def __init__(self) -> None:
        self.written: dict[int, Moment] = {}
        self.read: dict[int, Any] = {}

    def add_reader(self, i: int, before: Any, now: Moment) -> None:
        """Note that ``now`` has read element i, which ``before`` have read."""
        if type(before) is not list:
            if before.thread is now.thread:
                self.read[i] = now
            else:
                self.read[i] = [before, now, before]
        elif before[1] is not now:
            _, last, other = before
            tells_more = (
                other.interval == now.interval and other.warp != now.warp and other.block is now.block
            )
            if not tells_more and last.thread is not now.thread:
                before[2] = last
            before[1] = now

    def unordered_reader(self, i: int, now: Moment) -> Moment | None:
        """Return a moment that has read element i and is not over for ``now``; None where there is none."""
        readers = self.read.get(i)
        if readers is None or readers is now:
            return None
        moments = readers if type(readers) is list else (readers,)
        return next((m for m in moments if not m.is_before(now)), None)


class WatchedMemory(Memory):
    """Memory that also finds races: two threads at one element, one of them writing, no barrier between.

    Two threads that write the same value are a race as well: the language does not define it. Barriers are
    syncthreads and, within a warp, syncwarp; shuffles exchange values and order nothing else. What two atomic
    operations do to one element is defined.
    """

    __slots__ = ("first", "uses")

    def __init__(self, data: Array, kind: str, uses: Uses | None = None, first: int = 0) -> None:
        super().__init__(data, kind)
        self.uses = uses or Uses()  # arrays in the same memory share it
        self.first = first  # element 0 among the uses

    def __getitem__(self, index: Any) -> Any:
        if not (type(index) is int and 0 <= index < self.size and self.is_flat):
            index = self.place(index)
        uses, now, i = self.uses, running.thread.moment, index + self.first
        writer = uses.written.get(i)
        if writer is not None and writer is not now and not writer.is_before(now):
            self.report(index, "reads", writer, "written")
        reader = uses.read.get(i)
        if reader is None:
            uses.read[i] = now
        elif reader is not now:
            uses.add_reader(i, reader, now)
        return self.data[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        if not (type(index) is int and 0 <= index < self.size and self.is_flat):
            index = self.place(index)
        uses, now, i = self.uses, running.thread.moment, index + self.first
        writer = uses.written.get(i)
        if writer is not now:
            if writer is not None and not writer.is_before(now):
                self.report(index, "writes", writer, "written")
            uses.written[i] = now
        reader = uses.unordered_reader(i, now)
        if reader is not None:
            self.report(index, "writes", reader, "read")
        self.data[index] = value

    def change(self, index: Any, new: Callable[[Any], Any]) -> Any:
        """Put ``new(element)`` in an element's place; races with what is not atomic only."""
        number = self.place(index)
        uses, now, i = self.uses, running.thread.moment, number + self.first
        if now.atomically is None:
            now.atomically = Atomically(now.thread, now.interval, now.tick)
        writer = uses.written.get(i)
        if writer is None or writer.is_before(now):
            uses.written[i] = now.atomically
        elif type(writer) is not Atomically:
            self.report(number, "changes", writer, "written")
        reader = uses.unordered_reader(i, now)
        if reader is not None:
            self.report(number, "changes", reader, "read")
        return super().change(index, new)

    def report(self, number: int, does: str, other: Moment, has: str) -> None:
        """Raise RaceError for two moments that use an element."""
        index = number if self.is_flat else tuple(int(k) for k in np.unravel_index(number, self.shape))
        now = running.thread.moment
        whose = "" if other.block is now.block else f" of block {other.block}"
        why = (
            "nothing orders the blocks of a launch"
            if whose
            else "no syncthreads lies between"
            if other.warp != now.warp
            else "neither syncthreads nor syncwarp lies between"
        )
        once = " by an atomic operation" if type(other) is Atomically else ""
        raise RaceError(
            f"a race: this thread {does} element {index} of {self.kind}, which thread "
            f"{other.thread.place}{whose} has {has}{once}, and {why}"
        )


class Thread:
    """One thread of the block that is running."""

    __slots__ = (
        "answer", "block", "body", "copies", "done", "index", "lane", "moment", "place", "waits", "warp"
    )  # fmt: skip

    def __init__(self, index: int, place: tuple[int, ...], block: tuple[int, ...]) -> None:
        self.index, self.place, self.block = index, place, block
        self.warp, self.lane = divmod(index, WARP)
        self.moment = Moment(self, 0, 0)
        self.body: Any = None  # its greenlet
        self.answer: Any = None  # what the meeting that it waits for gives it
        self.waits: Meeting | None = None
        self.done = False
        self.copies: list[list[Callable[[], None]]] = [[]]  # asynchronous copies on their way, by group


class Running:
    """What the simulated ``cuda`` reads: the place of the thread that runs, and its block's memory."""

    def __init__(self) -> None:
        self.thread: Thread = Thread(0, (0, 0, 0), (0, 0, 0))
        self.shared: dict[Any, Memory] = {}
        self.block: tuple[int, ...] = (0, 0, 0)
        self.watches = False  # whether shared memory is to find races
        self.hub: Any = None


running = Running()
