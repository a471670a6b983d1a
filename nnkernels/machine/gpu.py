"""The GPU, by way of numba.cuda: the only file that imports it.

Nothing here runs at import. ``current_device()`` is what "cuda" means now: the first GPU, or what
``simulate_gpu`` has put in its place. Work of one device happens in one stream, in the order it was asked
for, so memory can be given to the next array as soon as the last user of the one before is gone.
"""

import importlib.util
import math
import os
import warnings
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import numba
import numpy as np

from nnkernels.machine.gpu_array import Device, GpuArray, chosen_device
from nnkernels.machine.gpu_kernel import (
    DeviceFunction,
    Instruction,
    Kernel,
    cuda,
    is_plain_function,
    rebound,
)
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array

MAX_HELD_BYTES = 8 * 1024**3  # that the pool keeps for reuse
PACKAGE = 'the GPU extra is not installed: pip install "nnkernels[cuda]"'


@cache
def numba_cuda() -> ModuleType:
    """Return numba.cuda; RuntimeError where the package numba-cuda is missing."""
    if importlib.util.find_spec("numba_cuda") is None:
        raise RuntimeError(PACKAGE)
    if not hasattr(np, "row_stack"):  # removed in NumPy 2.5, and used by numba-cuda 0.30
        setattr(np, "row_stack", np.vstack)  # noqa: B010
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = importlib.import_module("numba.cuda")
    config: Any = importlib.import_module("numba.cuda.core.config")
    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0  # small problems have few blocks
    return module


def why_not_available() -> str | None:
    """Return why there is no GPU to use, in words; None where there is one."""
    try:
        module = numba_cuda()
    except RuntimeError as error:
        return str(error)
    try:
        if module.is_available():
            return None
    except Exception as error:  # a driver of another version, a broken installation
        return f"no usable GPU: {error}"
    return "no usable GPU: the CUDA driver found none"


def is_available() -> bool:
    """Return whether there is a GPU that can be used, or the simulator is in its place."""
    return chosen_device() is not None or why_not_available() is None


def current_device() -> Device:
    """Return the device that "cuda" means; RuntimeError, saying why, where there is none."""
    return chosen_device() or the_gpu()


@cache
def the_gpu() -> "Gpu":
    """Return the first GPU."""
    reason = why_not_available()
    if reason is not None:
        raise RuntimeError(f'"cuda": {reason} (nnk.simulate_gpu() runs small programs without)')
    return Gpu()


# --- compiling ---


def compiled_meaning(value: Any) -> Any:
    """Return what a name of a kernel's source means to Numba."""
    if value is cuda:
        return numba_cuda()
    if isinstance(value, Instruction):
        return value.compiled
    if value is np:
        return numpy_in_kernels()
    if isinstance(value, DeviceFunction):
        value = value.function
    if is_plain_function(value) and value is not typed:
        return compiled_function(value)
    return value


@cache
def compiled_function(function: Callable[..., Any]) -> Any:
    """Return a function that kernels call, as Numba compiles it into them."""
    return numba_cuda().jit(rebound(function, compiled_meaning), device=True, forceinline=True)


@cache
def numpy_in_kernels() -> ModuleType:
    """Return NumPy as formulas see it in kernels: those functions that numba-cuda lacks come from math."""
    module = ModuleType("numpy_in_kernels")
    module.__getattr__ = lambda name: getattr(np, name)  # type: ignore[method-assign]
    for name in ("exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tanh", "floor", "ceil", "fabs"):
        setattr(module, name, getattr(math, name))
    module.abs = module.absolute = abs  # type: ignore[attr-defined]
    module.sign = compiled_function(sign)  # type: ignore[attr-defined]
    return module


def sign(x: Any) -> Any:
    """Return -1, 0 or 1 in the type of x; NaN for NaN."""
    return x if x != x else typed(x > 0, x) - typed(x < 0, x)


def source_for_numba(kernel: Kernel) -> Callable[..., None]:
    """Return the kernel's function with Numba's meaning of its names."""
    return rebound(kernel.function, compiled_meaning)


def compile_ptx(kernel: Kernel, types: tuple[Any, ...], capability: tuple[int, int]) -> str:
    """Return the kernel's PTX for argument ``types`` and a compute capability; needs no GPU."""
    module = numba_cuda()
    dispatcher: Any = importlib.import_module("numba.cuda.dispatcher")

    class Named:
        compute_capability = capability

    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: Named  # device functions ask for it, and there may be none
    try:
        ptx, _ = module.compile(
            source_for_numba(kernel), types, device=False, abi="numba", cc=capability, **kernel.options
        )
    finally:
        dispatcher.get_current_device = asked
    return str(ptx)


# --- running ---


class Pool:
    """Flat device arrays that nobody uses any more, by length and dtype."""

    def __init__(self) -> None:
        self.free: dict[tuple[int, str], list[Any]] = defaultdict(list)
        self.held_bytes = 0
        self.allocations = 0

    def take(self, n: int, dtype: np.dtype[Any]) -> Any:
        """Return an array of n elements, of unknown content."""
        waiting = self.free[n, dtype.char]
        if waiting:
            self.held_bytes -= n * dtype.itemsize
            return waiting.pop()
        self.allocations += 1
        try:
            return numba_cuda().device_array(n, dtype)
        except Exception:  # out of memory, perhaps because of what is kept here
            if not self.held_bytes:
                raise
            self.clear()
            return numba_cuda().device_array(n, dtype)

    def give_back(self, handle: Any) -> None:
        """Keep an array for later, or let it go where enough are kept."""
        nbytes = handle.size * handle.dtype.itemsize
        if self.held_bytes + nbytes <= MAX_HELD_BYTES:
            self.held_bytes += nbytes
            self.free[handle.size, handle.dtype.char].append(handle)

    def clear(self) -> None:
        """Let all arrays go."""
        self.free.clear()
        self.held_bytes = 0


class Lease:
    """Held by the arrays that share memory: the last one to die gives the memory back."""

    __slots__ = ("handle", "pool")

    def __init__(self, handle: Any, pool: Pool) -> None:
        self.handle, self.pool = handle, pool

    def __del__(self) -> None:
        self.pool.give_back(self.handle)


class Gpu:
    """The GPU: arrays in its memory, kernels on its cores."""

    def __init__(self) -> None:
        self.cuda = numba_cuda()
        device = self.cuda.get_current_device()
        self.name = f"cuda:{device.id}"
        self.pool = Pool()
        self.launches = 0
        self.stream = self.cuda.stream()  # all work but copies ahead, in the order it was asked for
        self.copies = self.cuda.stream()
        self.staging: list[tuple[Any, Array]] = []  # pinned host memory, and the event that frees it

    def facts(self) -> dict[str, Any]:
        """Return what the driver says about the GPU."""
        device = self.cuda.get_current_device()
        name = device.name.decode() if isinstance(device.name, bytes) else str(device.name)
        return {
            "name": name,
            "compute_capability": tuple(device.compute_capability),
            "multiprocessors": device.MULTIPROCESSOR_COUNT,
            "clock_mhz": device.CLOCK_RATE // 1000,
        }

    def allocate(self, n: int, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """Return memory from the pool and the lease that keeps it."""
        handle = self.pool.take(n, dtype)
        return handle, Lease(handle, self.pool)

    def part(self, handle: Any, start: int, stop: int) -> Any:
        """Return a view."""
        if start == stop:  # numba-cuda has no views of nothing
            return self.cuda.device_array(0, handle.dtype)
        return handle[start:stop]

    def fill_zero(self, handle: Any) -> None:
        """Fill with zeros."""
        driver = importlib.import_module("numba.cuda.cudadrv.driver")
        driver.device_memset(handle, 0, handle.size * handle.dtype.itemsize, stream=self.stream)

    def upload(self, flat: Array, handle: Any) -> None:
        """Copy from the host; returns when the host's array may change again."""
        handle.copy_to_device(flat, stream=self.stream)
        self.stream.synchronize()

    def upload_ahead(self, flat: Array, handle: Any) -> Callable[[], None]:
        """Copy from pinned memory in a stream of its own, after the work that may still use the memory.

        That is all work so far: ask for the copy before the work that it shall overlap with.
        """
        staged = self.pinned(flat.nbytes)
        begun, done = self.cuda.event(timing=False), self.cuda.event(timing=False)
        pinned = staged[: flat.nbytes].view(flat.dtype)
        pinned[...] = flat
        begun.record(self.stream)
        begun.wait(self.copies)
        handle.copy_to_device(pinned, stream=self.copies)
        done.record(self.copies)
        self.staging.append((done, staged))
        return lambda: done.wait(self.stream)

    def pinned(self, nbytes: int) -> Array:
        """Return pinned host memory that no copy uses any more, of at least so many bytes."""
        for i, (done, memory) in enumerate(self.staging):
            if memory.nbytes >= nbytes and done.query():
                del self.staging[i]
                return memory
        fresh: Array = self.cuda.pinned_array(nbytes, np.uint8)
        return fresh

    def download(self, handle: Any) -> Array:
        """Copy to the host, when all that was launched is done."""
        flat: Array = handle.copy_to_host(stream=self.stream)
        self.stream.synchronize()
        return flat

    def copy(self, source: Any, target: Any) -> None:
        """Copy on the device."""
        target.copy_to_device(source, stream=self.stream)

    def timed(self, function: Callable[[], object]) -> float:
        """Return the seconds between two events of the stream, one before and one after the function's work.

        What the stream has to do before does not count. Where it waits for the host, the wait counts.
        """
        begin, end = self.cuda.event(), self.cuda.event()
        begin.record(self.stream)
        function()
        end.record(self.stream)
        end.synchronize()
        milliseconds: float = self.cuda.event_elapsed_time(begin, end)
        return milliseconds / 1e3

    def synchronize(self) -> None:
        """Wait until all that was launched is done."""
        self.cuda.synchronize()

    def launch(
        self, kernel: Kernel, blocks: tuple[int, ...], threads: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        """Compile the kernel for these types, the first time, and start it."""
        configured = kernel.bound.get(("gpu", blocks, threads))
        if configured is None:
            if "gpu" not in kernel.bound:
                kernel.bound["gpu"] = self.cuda.jit(source_for_numba(kernel), **kernel.options)
            configured = kernel.bound["gpu"][blocks, threads, self.stream]
            kernel.bound["gpu", blocks, threads] = configured
        self.launches += 1
        configured(*args)


def adopt(array: Any) -> GpuArray:
    """Return an array of another library (CuPy, PyTorch, Numba) as a GpuArray, on the same memory.

    Raises TypeError for one that is not C-contiguous.
    """
    device = the_gpu()
    view = device.cuda.as_cuda_array(array)
    if not view.is_c_contiguous():
        raise TypeError(f"a GPU array must be C-contiguous, got shape {view.shape}, strides {view.strides}")
    shape, address = tuple(view.shape), view.__cuda_array_interface__["data"][0]
    start = address % 16 // view.dtype.itemsize  # as if of a larger array: tells how it is aligned
    return GpuArray(device, view.reshape(view.size), view, shape, view.dtype, start)


def argument_type(a: Any) -> Any:
    """Return the Numba type of a kernel argument, for compiling without launching."""
    if isinstance(a, np.ndarray):
        return numba.types.Array(numba.from_dtype(a.dtype), 1, "C")
    if isinstance(a, tuple):
        return numba.types.Tuple([argument_type(value) for value in a])
    return numba.typeof(a)


def directory_of_tools() -> str:
    """Return the directory of NVIDIA's tools that came with the extra; RuntimeError where missing."""
    spec = importlib.util.find_spec("nvidia")
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        for version in sorted(os.listdir(root), reverse=True):
            tools = os.path.join(root, version, "bin")
            if os.path.exists(os.path.join(tools, "ptxas")):
                return tools
    raise RuntimeError(f"ptxas not found; {PACKAGE}")
