"""What ``cuda`` and the other names of a kernel's source mean in the simulator: memory that checks indices,
meetings of threads, and NumPy's functions for those of math."""

import operator
import sys
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

import numba
import numpy as np

from nnkernels.machine.gpu_kernel import DeviceFunction, Instruction, at, cuda, is_plain_function, rebound
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array

WARP = 32
MOST_SHARED = 48 * 1024  # bytes of a block, statically declared


class SimulationError(Exception):
    """A kernel did what a GPU does not define: the message says which thread did what, where."""


class RaceError(SimulationError):
    """What a kernel computes depends on the order in which threads run."""


def fill_poison(data: Array) -> None:
    """Fill an array with what shows when it is read before it was written: NaN, the least integer, True."""
    if data.dtype.kind == "f":
        data.fill(np.nan)
    elif data.dtype.kind in "iu":
        data.fill(np.iinfo(data.dtype).min if data.dtype.kind == "i" else np.iinfo(data.dtype).max)
    else:
        data.fill(1)


class Memory:
    """Memory of a simulated GPU as kernels see it: every index is checked."""

    __slots__ = ("data", "dtype", "kind", "shape", "size")

    def __init__(self, data: Array, kind: str) -> None:
        self.data, self.kind = data, kind
        self.dtype, self.shape, self.size = data.dtype, data.shape, data.size

    def __len__(self) -> int:
        return int(self.shape[0])

    def place(self, index: Any) -> Any:
        """Return the index after checking it."""
        indices = index if type(index) is tuple else (index,)
        if len(indices) != len(self.shape):
            raise SimulationError(f"{len(indices)} indices into {self.kind} of shape {self.shape}")
        for i, n in zip(indices, self.shape):
            if not 0 <= operator.index(i) < n:
                raise SimulationError(f"index {index} is outside of {self.kind} of shape {self.shape}")
        return index

    def __getitem__(self, index: Any) -> Any:
        if type(index) is int and len(self.shape) == 1 and 0 <= index < self.size:
            return self.data[index]
        return self.data[self.place(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        if type(index) is int and len(self.shape) == 1 and 0 <= index < self.size:
            self.data[index] = value
        else:
            self.data[self.place(index)] = value


class Dim:
    """A thread's or block's place, or a size."""

    __slots__ = ("x", "y", "z")

    def __init__(self) -> None:
        self.x = self.y = self.z = 0

    def set(self, place: tuple[int, ...]) -> None:
        """Take the three numbers."""
        self.x, self.y, self.z = place


class Thread:
    """One thread of the block that is running."""

    __slots__ = ("answer", "body", "copies", "done", "index", "lane", "place", "waits", "warp")

    def __init__(self, index: int, place: tuple[int, ...]) -> None:
        self.index, self.place = index, place
        self.warp, self.lane = divmod(index, WARP)
        self.body: Any = None  # its greenlet
        self.answer: Any = None  # what the meeting that it waits for gives it
        self.waits: Meeting | None = None
        self.done = False
        self.copies: list[list[Callable[[], None]]] = [[]]  # asynchronous copies on their way, by group


class Meeting:
    """What a thread waits for: the others of its block or of its warp, at one place in the source."""

    __slots__ = ("combine", "mask", "name", "site", "value")

    def __init__(self, name: str, mask: int | None, value: Any, combine: Any) -> None:
        frame = sys._getframe(2)
        while frame.f_globals.get("__name__") == __name__ and frame.f_back is not None:
            frame = frame.f_back
        self.name = name
        self.site = (frame.f_code, frame.f_lasti)
        self.mask = mask  # lanes of the warp; None for the whole block
        self.value = value
        self.combine = combine  # from {lane or index: value} to {lane or index: answer}


class Running:
    """What the simulated ``cuda`` reads: the place of the thread that runs, and its block's memory."""

    def __init__(self) -> None:
        self.thread: Thread = Thread(0, (0, 0, 0))
        self.shared: dict[Any, Memory] = {}
        self.hub: Any = None


running = Running()


def meet(name: str, mask: int | None, value: Any, combine: Any) -> Any:
    """Wait for the other threads; return what ``combine`` makes of everyone's value for this one."""
    thread = running.thread
    thread.waits = Meeting(name, mask, value, combine)
    return running.hub.switch()


def meet_warp(name: str, value: Any, combine: Callable[[dict[int, Any]], dict[int, Any]]) -> Any:
    """Wait for all 32 lanes of the warp: how instructions that a warp executes together are simulated."""
    return meet(name, 0xFFFFFFFF, value, combine)


# --- the simulated cuda ---


def same(values: dict[int, Any]) -> dict[int, Any]:
    """Give everyone nothing: a mere meeting."""
    return dict.fromkeys(values)


def to_all(function: Callable[[Iterable[Any]], Any]) -> Callable[[dict[int, Any]], dict[int, Any]]:
    """Return what gives everyone ``function`` of all values."""
    return lambda values: dict.fromkeys(values, function(values.values()))


def from_lane(source: Callable[[int], int]) -> Callable[[dict[int, Any]], dict[int, Any]]:
    """Return what gives each lane the value of lane ``source(lane)``; its own where there is none."""

    def combine(values: dict[int, Any]) -> dict[int, Any]:
        return {lane: values.get(source(lane), values[lane]) for lane in values}

    return combine


def ballot(values: dict[int, Any]) -> dict[int, Any]:
    """Give everyone the bits of the lanes whose value is true."""
    return dict.fromkeys(values, np.uint32(sum(1 << lane for lane, value in values.items() if value)))


class Shared:
    """cuda.shared: memory of a block, one array per place in the source that declares it."""

    def array(self, shape: Any, dtype: Any) -> Memory:
        """Return the block's array that is declared where this is called."""
        frame = sys._getframe(1)
        key = (frame.f_code, frame.f_lasti)
        if key not in running.shared:
            data = np.empty(shape, as_numpy_type(dtype))
            fill_poison(data)
            running.shared[key] = Memory(data, "shared memory")
            used = sum(memory.data.nbytes for memory in running.shared.values())
            if used > MOST_SHARED:
                raise SimulationError(f"{used} bytes of shared memory; a block has {MOST_SHARED}")
        return running.shared[key]


class Local:
    """cuda.local: memory of a thread."""

    def array(self, shape: Any, dtype: Any) -> Memory:
        """Return a fresh array."""
        data = np.empty(shape, as_numpy_type(dtype))
        fill_poison(data)
        return Memory(data, "local memory")


class Atomic:
    """cuda.atomic: read, change and write that nobody comes between; each returns the old value."""

    def add(self, memory: Memory, index: Any, value: Any) -> Any:
        """Add."""
        old = memory[index]
        memory[index] = old + value
        return old

    def max(self, memory: Memory, index: Any, value: Any) -> Any:
        """Keep the larger."""
        old = memory[index]
        memory[index] = max(old, value)
        return old

    def min(self, memory: Memory, index: Any, value: Any) -> Any:
        """Keep the smaller."""
        old = memory[index]
        memory[index] = min(old, value)
        return old


class SimulatedCuda:
    """What ``cuda`` means in a simulated kernel."""

    warpsize = WARP

    def __init__(self) -> None:
        self.threadIdx, self.blockIdx, self.blockDim, self.gridDim = Dim(), Dim(), Dim(), Dim()
        self.shared, self.local, self.atomic = Shared(), Local(), Atomic()

    @property
    def laneid(self) -> int:
        """The thread's number in its warp."""
        return running.thread.lane

    def grid(self, ndim: int) -> Any:
        """Return the thread's place in the whole grid."""
        dims = [
            getattr(self.blockIdx, axis) * getattr(self.blockDim, axis) + getattr(self.threadIdx, axis)
            for axis in "xyz"[:ndim]
        ]
        return dims[0] if ndim == 1 else tuple(dims)

    def gridsize(self, ndim: int) -> Any:
        """Return the number of threads along each axis."""
        dims = [getattr(self.gridDim, axis) * getattr(self.blockDim, axis) for axis in "xyz"[:ndim]]
        return dims[0] if ndim == 1 else tuple(dims)

    def syncthreads(self) -> None:
        """Wait for the block."""
        meet("syncthreads", None, None, same)

    def syncthreads_or(self, flag: Any) -> int:
        """Wait for the block; return whether any thread's flag is set."""
        return int(meet("syncthreads_or", None, bool(flag), to_all(any)))

    def syncthreads_and(self, flag: Any) -> int:
        """Wait for the block; return whether every thread's flag is set."""
        return int(meet("syncthreads_and", None, bool(flag), to_all(all)))

    def syncwarp(self, mask: int = 0xFFFFFFFF) -> None:
        """Wait for the warp."""
        meet("syncwarp", mask, None, same)

    def shfl_sync(self, mask: int, value: Any, source: int) -> Any:
        """Return the value of lane ``source``."""

        def combine(values: dict[int, Any]) -> dict[int, Any]:
            return {lane: values[int(s) % WARP][0] for lane, (_, s) in values.items()}

        return meet("shfl_sync", mask, (value, source), combine)

    def shfl_down_sync(self, mask: int, value: Any, delta: int) -> Any:
        """Return the value of the lane ``delta`` higher."""
        return meet("shfl_down_sync", mask, value, from_lane(lambda lane: lane + delta))

    def shfl_up_sync(self, mask: int, value: Any, delta: int) -> Any:
        """Return the value of the lane ``delta`` lower."""
        return meet("shfl_up_sync", mask, value, from_lane(lambda lane: lane - delta))

    def shfl_xor_sync(self, mask: int, value: Any, bits: int) -> Any:
        """Return the value of the lane whose number differs in ``bits``."""
        return meet("shfl_xor_sync", mask, value, from_lane(lambda lane: lane ^ bits))

    def all_sync(self, mask: int, flag: Any) -> bool:
        """Return whether every lane's flag is set."""
        return bool(meet("all_sync", mask, bool(flag), to_all(all)))

    def any_sync(self, mask: int, flag: Any) -> bool:
        """Return whether any lane's flag is set."""
        return bool(meet("any_sync", mask, bool(flag), to_all(any)))

    def ballot_sync(self, mask: int, flag: Any) -> Any:
        """Return the bits of the lanes whose flag is set."""
        return meet("ballot_sync", mask, bool(flag), ballot)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """Return a b + c, rounded once (here, for float32, by way of float64)."""
        return type(a)(np.float64(a) * np.float64(b) + np.float64(c))

    def popc(self, x: Any) -> int:
        """Return the number of bits set."""
        return int(x).bit_count()

    def threadfence(self) -> None:
        """Order memory operations; here they are in order."""


# Names whose use means that threads wait for one another.
MEETINGS = frozenset(name for name in dir(SimulatedCuda) if "sync" in name)


class SimulatedMath:
    """The functions of math for NumPy numbers: no exception for what a GPU answers by inf or NaN."""

    inf, pi, e, nan = np.inf, np.pi, np.e, np.nan
    exp, log, log2, log1p, expm1 = np.exp, np.log, np.log2, np.log1p, np.expm1
    sqrt, fabs, sin, cos, tanh = np.sqrt, np.fabs, np.sin, np.cos, np.tanh
    floor, ceil, trunc = np.floor, np.ceil, np.trunc
    pow, copysign, isnan, isinf = np.power, np.copysign, np.isnan, np.isinf

    @staticmethod
    def erf(x: Any) -> Any:
        """Return the error function in the type of x."""
        from math import erf

        return type(x)(erf(x))


simulated_cuda, simulated_math = SimulatedCuda(), SimulatedMath()

NUMBERS = {
    numba.int32: int, numba.int64: int, numba.uint32: np.uint32, numba.uint64: np.uint64,
    numba.float32: np.float32, numba.float64: np.float64, numba.boolean: bool, numba.bool_: bool,
}  # fmt: skip


def as_numpy_type(dtype: Any) -> Any:
    """Return a Numba or NumPy type as NumPy's."""
    names = {numba.int32: np.int32, numba.int64: np.int64, numba.boolean: np.bool_}
    return names.get(dtype, NUMBERS.get(dtype, dtype))


def simulated_typed(value: Any, x: Any) -> Any:
    """Return ``value`` in the type of x, as ``typed`` does."""
    return type(x)(value)


_rebound: dict[Any, Any] = {}


def meaning(value: Any) -> Any:
    """Return what a name of a kernel's source means in the simulator."""
    if value is cuda:
        return simulated_cuda
    if value is at:
        return operator.index
    if isinstance(value, numba.types.Type):
        return NUMBERS.get(value, value)
    if isinstance(value, Instruction):
        return value.simulated
    if isinstance(value, ModuleType) and value.__name__ == "math":
        return simulated_math
    if value is typed:
        return simulated_typed
    if isinstance(value, DeviceFunction):
        value = value.function
    if is_plain_function(value):
        if value not in _rebound:
            _rebound[value] = rebound(value, meaning)
        return _rebound[value]
    return value


def waits_for_others(function: Any) -> bool:
    """Return whether a bound function, or one that it calls, uses what threads meet at."""
    names = set(function.__code__.co_names)
    if names & MEETINGS:
        return True
    used = [function.__globals__.get(name) for name in names]
    used += [cell.cell_contents for cell in function.__closure__ or ()]
    return any(
        getattr(f, "meets", False)
        or (hasattr(f, "__code__") and is_plain_function(f) and waits_for_others(f))
        for f in used
    )
