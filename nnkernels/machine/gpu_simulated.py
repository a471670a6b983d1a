"""What ``cuda`` and the other names of a kernel's source mean in the simulator: meetings of threads, memory
(gpu_simulated_memory.py), and NumPy's functions for those of math."""

import operator
import sys
from collections.abc import Callable, Iterable
from functools import cache
from types import ModuleType
from typing import Any

import numba
import numpy as np

from nnkernels.machine.gpu_kernel import (
    WARP,
    DeviceFunction,
    Instruction,
    at,
    cuda,
    is_plain_function,
    rebound,
)
from nnkernels.machine.gpu_simulated_memory import (
    Memory,
    SimulationError,
    WatchedMemory,
    poison,
    running,
)
from nnkernels.machine.jit import typed

MOST_SHARED = 48 * 1024  # bytes of a block, statically declared


class Dim:
    """A thread's or block's place, or a size."""

    __slots__ = ("x", "y", "z")

    def __init__(self) -> None:
        self.x = self.y = self.z = 0

    def set(self, place: tuple[int, ...]) -> None:
        """Take the three numbers."""
        self.x, self.y, self.z = place


NOT_KERNELS = (__name__, "nnkernels.machine.gpu_instructions")  # whose lines are not where threads meet


class Meeting:
    """What a thread waits for: the others of its block or of its warp, at one place in the source."""

    __slots__ = ("combine", "mask", "name", "orders_memory", "site", "value")

    def __init__(self, name: str, mask: int | None, value: Any, combine: Any) -> None:
        frame = sys._getframe(2)
        while frame.f_globals.get("__name__") in NOT_KERNELS and frame.f_back is not None:
            frame = frame.f_back
        self.name = name
        self.orders_memory = name.startswith("sync")  # shuffles and votes do not
        self.site = (frame.f_code, frame.f_lasti)
        self.mask = mask  # lanes of the warp; None for the whole block
        self.value = value
        self.combine = combine  # from {lane or index: value} to {lane or index: answer}


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

    def array(self, shape: Any, dtype: Any, alignment: int | None = None) -> Memory:
        """Return the block's array that is declared where this is called, aligned to 16 bytes."""
        frame = sys._getframe(1)
        key = (frame.f_code, frame.f_lasti)
        if key not in running.shared:
            make = WatchedMemory if running.watches else Memory
            running.shared[key] = make(poison(shape, as_numpy_type(dtype)), "shared memory")
            used = sum(memory.data.nbytes for memory in running.shared.values())
            if used > MOST_SHARED:
                raise SimulationError(f"{used} bytes of shared memory; a block has {MOST_SHARED}")
        return running.shared[key]


class Local:
    """cuda.local: memory of a thread."""

    def array(self, shape: Any, dtype: Any) -> Memory:
        """Return a fresh array."""
        return Memory(poison(shape, as_numpy_type(dtype)), "local memory")


class Atomic:
    """cuda.atomic: read, change and write that nobody comes between; each returns the old value."""

    def add(self, memory: Memory, index: Any, value: Any) -> Any:
        """Add."""
        return memory.change(index, lambda old: old + value)

    def max(self, memory: Memory, index: Any, value: Any) -> Any:
        """Keep the larger."""
        return memory.change(index, lambda old: max(old, value))

    def min(self, memory: Memory, index: Any, value: Any) -> Any:
        """Keep the smaller."""
        return memory.change(index, lambda old: min(old, value))


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
    names = {operator.index: np.uint32}  # what ``at``, another name of uint32, has become
    names |= {numba.int32: np.int32, numba.int64: np.int64, numba.boolean: np.bool_}
    return names.get(dtype, NUMBERS.get(dtype, dtype))


def simulated_typed(value: Any, x: Any) -> Any:
    """Return ``value`` in the type of x, as ``typed`` does."""
    return type(x)(value)


@cache
def simulated_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that kernels call, as the simulator runs it."""
    return rebound(function, meaning)


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
        return simulated_function(value)
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
