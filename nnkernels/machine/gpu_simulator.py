"""Run GPU kernels without a GPU: every thread in Python, one after the other, hidden faults made visible.

    with simulate_gpu():
        x = nnk.tensor([1.0, 2.0]).to("cuda")

The kernel's own source runs, so that a debugger can step through it and ``print`` works. Threads that meet
(at barriers, in shuffles) are greenlets: each runs until it has to wait. Stricter than a GPU:

- shared and local memory, and fresh arrays, start as NaN (integers as the least one): what is read before
  it was written shows;
- an index below 0 or beyond the end raises, and so does a barrier that not all threads of the block reach;
- two threads at one element of shared or global memory, one of them writing and no barrier between, are a
  race and raise; so do results that differ when blocks and threads run in another order;
- an asynchronous copy arrives when it is waited for, not earlier.

No simulator checks types: that float32 stays float32 is seen in machine code (gpu_assembly.py).
"""

import contextvars
import itertools
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import use_device
from nnkernels.machine.gpu_kernel import MOST_THREADS, WARP, Kernel, rebound
from nnkernels.machine.gpu_simulated import Meeting, meaning, simulated_cuda, waits_for_others
from nnkernels.machine.gpu_simulated_memory import (
    Memory,
    Moment,
    RaceError,
    SimulationError,
    Thread,
    Uses,
    WatchedMemory,
    poison,
    running,
)
from nnkernels.machine.memory import Array

try:
    import greenlet
except ImportError:  # an extra; simulate_gpu says so
    greenlet = None

__all__ = ["RaceError", "SimulationError", "Simulator", "simulate_gpu"]

MOST_SECONDS = 60.0  # that a launch may take
LEAST_SECONDS = 1e-6  # that a thread takes, whatever it does
ORDERS = ("forward", "reversed")

Order = str | int


# --- running a grid ---


def places(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return all places of a grid, x counting fastest."""
    return [(x, y, z) for z, y, x in itertools.product(*(range(n) for n in reversed(sizes)))]


def in_order(items: Sequence[Any], order: Order) -> list[Any]:
    """Return the items forward, reversed, or shuffled by a seed."""
    if order == "reversed":
        return list(reversed(items))
    shuffled = list(items)
    if isinstance(order, int):
        random.Random(order).shuffle(shuffled)
    return shuffled


class Launch:
    """One kernel on one grid."""

    def __init__(
        self, kernel: Kernel, blocks: tuple[int, ...], threads: tuple[int, ...], args: tuple[Any, ...],
        most_seconds: float,
    ) -> None:  # fmt: skip
        self.most_seconds = most_seconds
        if "simulator" not in kernel.bound:
            function = rebound(kernel.function, meaning)
            kernel.bound["simulator"] = function, waits_for_others(function)
        self.kernel, self.blocks, self.threads = kernel, blocks, threads
        self.function, self.meets = kernel.bound["simulator"]
        self.places = places(threads)
        self.given = dict(zip(kernel.function.__code__.co_varnames, args))
        self.arrays = dict(named_arrays(self.given))
        seconds = LEAST_SECONDS * math.prod(blocks) * math.prod(threads)
        self.demand_time(seconds, time.perf_counter() + most_seconds)

    def arguments(self, watched: bool) -> list[Any]:
        """Return the arguments as the kernel gets them; memory that is ``watched`` finds races."""
        uses: dict[int, Uses] = {}

        def simulated(name: str, a: Any) -> Any:
            if isinstance(a, tuple):
                return tuple([simulated(f"{name}[{k}]", value) for k, value in enumerate(a)])
            if not isinstance(a, np.ndarray):
                return int(a) if isinstance(a, np.integer) else a  # Python's ints are faster
            if not watched:
                return Memory(a, f"the array {name}")
            whole = a
            while isinstance(whole.base, np.ndarray):
                whole = whole.base
            first = (address(a) - address(whole)) // a.itemsize
            shared = uses.setdefault(address(whole), Uses())
            return WatchedMemory(a, f"the array {name}", shared, first)

        return [simulated(name, a) for name, a in self.given.items()]

    def run(self, order: Order, deadline: float, watched: bool) -> None:
        """Run all blocks, one after the other; where ``watched``, finding races."""
        self.args = self.arguments(watched)
        simulated_cuda.blockDim.set(self.threads)
        simulated_cuda.gridDim.set(self.blocks)
        start = time.perf_counter()
        for number, block in enumerate(in_order(places(self.blocks), order)):
            simulated_cuda.blockIdx.set(block)
            running.shared, running.block, running.watches = {}, block, watched
            try:
                (self.run_together if self.meets else self.run_apart)(order, deadline)
            except SimulationError as error:
                x, y, z = running.thread.place
                where = f"{self.kernel.place}, block {block}, thread ({x}, {y}, {z})"
                raise type(error)(f"{where}: {error}") from error.__cause__
            if number == 0:
                self.demand_time((time.perf_counter() - start) * (math.prod(self.blocks) - 1), deadline)

    def demand_time(self, seconds: float, deadline: float) -> None:
        """Refuse a launch that would take too long."""
        if time.perf_counter() + seconds > deadline:
            raise ValueError(
                f"{self.kernel.place}: {self.blocks} blocks of {self.threads} threads would take the "
                f"simulator {max(seconds, self.most_seconds):.0f} s or more; use smaller arrays"
            )

    def run_apart(self, order: Order, deadline: float) -> None:
        """Run a block whose threads never meet."""
        for index, place in in_order(list(enumerate(self.places)), order):
            thread = running.thread = Thread(index, place, running.block)
            simulated_cuda.threadIdx.set(place)
            self.function(*self.args)
            self.finish(thread, deadline)

    def finish(self, thread: Thread, deadline: float) -> None:
        """Check a thread that has returned."""
        if any(thread.copies):
            raise SimulationError("asynchronous copies were never waited for")
        self.demand_time(0.0, deadline)

    def run_together(self, order: Order, deadline: float) -> None:
        """Run a block whose threads wait for one another."""
        threads = [Thread(index, place, running.block) for index, place in enumerate(self.places)]
        running.hub = greenlet.getcurrent()
        for thread in threads:
            thread.body = greenlet.greenlet(self.function)
            thread.body.gr_context = contextvars.copy_context()  # with NumPy's error settings
        ready = in_order(threads, order)
        started = False
        while ready:
            for thread in ready:
                running.thread = thread
                simulated_cuda.threadIdx.set(thread.place)
                thread.waits = None
                if started:
                    thread.body.switch(thread.answer)
                else:
                    thread.body.switch(*self.args)
                thread.done = thread.body.dead
                if thread.done:
                    self.finish(thread, deadline)
            started = True
            ready = in_order(resolve(threads), order)
            self.demand_time(0.0, deadline)


def named_arrays(given: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """Yield the arrays among a kernel's arguments, with their names."""
    for name, a in given.items():
        if isinstance(a, np.ndarray):
            yield name, a
        elif isinstance(a, tuple):
            yield from named_arrays({f"{name}[{k}]": value for k, value in enumerate(a)})


def address(a: Array) -> int:
    """Return where an array's memory starts."""
    return int(a.__array_interface__["data"][0])


def resolve(threads: list[Thread]) -> list[Thread]:
    """Return the threads whose meeting is complete, with their answers; all threads wait or are done."""
    alive = [thread for thread in threads if not thread.done]
    ready = []
    for _, members in itertools.groupby(alive, key=lambda thread: thread.warp):
        lanes = {thread.lane: thread for thread in members}
        ready += meet_in_warp(
            {k: t for k, t in lanes.items() if t.waits is not None and t.waits.mask is not None}
        )
    if ready or not alive:
        return ready
    first = alive[0].waits
    assert first is not None
    for thread in threads:
        if thread.done or thread.waits is None or thread.waits.site != first.site:
            running.thread = thread
            did = "has returned" if thread.done else f"waits at {where_is(thread.waits)}"
            raise SimulationError(
                f"divergent barrier: this thread {did}, thread {alive[0].place} waits at {where_is(first)}"
            )
    answers = first.combine({t.index: t.waits.value for t in alive if t.waits is not None})
    for thread in alive:
        thread.answer = answers[thread.index]
        thread.moment = Moment(thread, thread.moment.interval + 1, thread.moment.tick)
    return alive


def where_is(meeting: Meeting | None) -> str:
    """Return a meeting's name and line."""
    if meeting is None:
        return "nothing"
    code, at_instruction = meeting.site
    line = next(
        (line for start, stop, line in code.co_lines() if start <= at_instruction < stop), code.co_firstlineno
    )
    return f"{meeting.name} in line {line} of {code.co_name}"


def meet_in_warp(waiting: dict[int, Thread]) -> list[Thread]:
    """Return those of a warp's lanes whose meeting is complete."""
    ready: list[Thread] = []
    while waiting:
        lane, thread = next(iter(waiting.items()))
        first = thread.waits
        assert first is not None
        mask = int(first.mask or 0)
        group = {k: t for k, t in waiting.items() if mask >> k & 1}
        wanted = {k for k in range(WARP) if mask >> k & 1}
        running.thread = thread
        if lane not in wanted:
            raise SimulationError(f"{where_is(first)}: the mask {mask:#x} leaves out the caller, lane {lane}")
        strangers = [t for t in group.values() if t.waits is not None and t.waits.site != first.site]
        if strangers or set(group) != wanted:
            missing = sorted(wanted - set(group)) or [t.lane for t in strangers]
            raise SimulationError(
                f"{where_is(first)}: lanes {missing} of the mask {mask:#x} are not there; they have "
                "returned, or wait elsewhere"
            )
        answers = first.combine({k: t.waits.value for k, t in group.items() if t.waits is not None})
        tick = max(member.moment.tick for member in group.values()) + 1
        for k, member in group.items():
            member.answer = answers[k]
            if first.orders_memory:
                member.moment = Moment(member, member.moment.interval, tick)
            ready.append(member)
            del waiting[k]
    return ready


class Simulator:
    """A GPU in Python. ``orders`` are those in which each launch runs: "forward", "reversed", or a seed."""

    name = "cuda (simulated)"

    def __init__(self, orders: Sequence[Order] = ORDERS, most_seconds: float = MOST_SECONDS) -> None:
        self.orders = tuple(orders)
        self.most_seconds = most_seconds
        self.launches = 0

    def allocate(self, n: int, dtype: np.dtype[Any]) -> tuple[Array, Any]:
        """Return poisoned memory."""
        data = poison(n, dtype)
        return data, data

    def part(self, handle: Array, start: int, stop: int) -> Array:
        """Return a view."""
        return handle[start:stop]

    def fill_zero(self, handle: Array) -> None:
        """Fill with zeros."""
        handle.fill(0)

    def upload(self, flat: Array, handle: Array) -> None:
        """Copy into the memory."""
        handle[...] = flat

    def upload_ahead(self, flat: Array, handle: Array) -> Callable[[], None]:
        """Copy at once."""
        handle[...] = flat
        return lambda: None

    def download(self, handle: Array) -> Array:
        """Return a copy."""
        return handle.copy()

    def copy(self, source: Array, target: Array) -> None:
        """Copy from memory to memory."""
        target[...] = source

    def synchronize(self) -> None:
        """Nothing is ever under way."""

    def timed(self, function: Callable[[], object]) -> float:
        """Return the seconds of the simulation."""
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    def launch(
        self, kernel: Kernel, blocks: tuple[int, ...], threads: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        """Run the kernel in every order; results that differ are a race."""
        count = threads[0] * threads[1] * threads[2]
        if not 0 < count <= MOST_THREADS or threads[2] > 64:
            raise ValueError(f"{kernel.place}: a block has 1 to {MOST_THREADS} threads, got {threads}")
        if max(blocks[1:]) > 65535:
            raise ValueError(f"{kernel.place}: a grid has at most 65535 blocks along y and z, got {blocks}")
        self.launches += 1
        launch = Launch(kernel, blocks, threads, args, self.most_seconds)
        before = {name: a.copy() for name, a in launch.arrays.items()}
        first: dict[str, Array] = {}
        deadline = time.perf_counter() + self.most_seconds
        for number, order in enumerate(self.orders):
            for name, a in launch.arrays.items():
                a[...] = before[name]
            with np.errstate(all="ignore"):
                launch.run(order, deadline, watched=number == 0)  # who meets whom is the same in all orders
            for name, wanted in first.items():
                a = launch.arrays[name]
                if a.tobytes() != wanted.tobytes():
                    where = np.flatnonzero(a.view(np.uint8) != wanted.view(np.uint8))[0] // a.itemsize
                    raise RaceError(
                        f"{kernel.place}: a race: {name}[{where}] is {wanted[where]} when threads run "
                        f"{self.orders[0]}, {a[where]} when they run in order {order!r}"
                    )
            first = first or {name: a.copy() for name, a in launch.arrays.items()}


@contextmanager
def simulate_gpu(orders: Sequence[Order] = ORDERS, most_seconds: float = MOST_SECONDS) -> Iterator[Simulator]:
    """Let "cuda" mean the simulator inside the ``with`` block.

    ``orders`` are those in which each kernel's threads run ("forward", "reversed", or a seed to shuffle by);
    a launch that would take more than ``most_seconds`` is refused by a ValueError. Needs the package greenlet
    (``pip install "nnkernels[simulator]"``), and raises ImportError without.

    >>> import nnkernels as nnk
    >>> with nnk.simulate_gpu():
    ...     x = nnk.tensor([-1.0, 2.0]).to("cuda")
    ...     print(x.relu().cpu())
    tensor([0., 2.])
    """
    if greenlet is None:
        raise ImportError('simulate_gpu needs the package greenlet: pip install "nnkernels[simulator]"')
    for order in orders:
        if order not in ("forward", "reversed") and not isinstance(order, int):
            raise ValueError(f'simulate_gpu: an order is "forward", "reversed" or a seed, got {order!r}')
    if not orders:
        raise ValueError("simulate_gpu: orders is empty")
    with use_device(Simulator(orders, most_seconds)) as simulator:
        yield simulator
