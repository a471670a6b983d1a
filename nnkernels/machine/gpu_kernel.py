"""Kernels: Python functions that every thread of a GPU runs, written once and bound to what runs them.

    @kernel
    def scale_kernel(x, factor, y):
        i = thread_number()
        if i < x.size:
            y[at(i)] = factor * x[at(i)]

    scale_kernel[grid_of(y.size)](x, x.dtype.type(2), y)      # see gpu_index.py

In a kernel's source, ``cuda`` is a name without a meaning. What it means is decided where the kernel runs:
numba.cuda on a GPU (gpu.py), threads written in Python in the simulator (gpu_simulator.py). Both are made by
``rebound``, which copies a function and puts other values in the place of the names it uses.

Arrays reach kernels flat; shapes are passed as numbers. Conventions that keep float32 kernels fast:

- Python ints become int32; an index is wrapped in ``at``, uint32, so that it is computed in 32 bits and
  Numba need not ask whether it is negative. (All other integers are signed: uint64 and int64 make float64.)
- float numbers must say their type, ``x.dtype.type(0.5)`` or ``typed(0.5, x)``: a Python float is float64.
- Functions of the math module, as ``math.exp``, have the type of their argument.
"""

import operator
import types
from collections.abc import Callable
from typing import Any, NamedTuple, overload

import numba
import numpy as np

WARP = 32  # threads that run together
THREADS = 256  # of a block, where nothing speaks for another number
MOST_THREADS = 1024  # of any block
MOST_ELEMENTS = 2**31 - MOST_THREADS  # of an array: numbers of threads, of the last block too, are int32
MULTIPROCESSORS = 132  # of an H100, the GPU that grids are made for

at = numba.uint32


class _Unbound:
    """Stands for numba.cuda in the source of kernels."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"cuda.{name} means something inside of a running kernel only")


cuda: Any = _Unbound()


class Expected(NamedTuple):
    """What the compiler must make of a kernel; a test reads it in the machine code (see gpu_assembly.py).

    ``registers`` is the most that a thread may use, in float32 and in float64; ``stack`` the most bytes of
    local memory; ``opcodes`` what must occur in the float32 kernel, ``opcodes64`` in the float64 kernel;
    ``doubles`` the most lines of a float32 kernel's PTX that may mention float64.
    """

    registers: int = 64
    registers64: int = 128
    stack: int = 0
    opcodes: tuple[str, ...] = ()
    opcodes64: tuple[str, ...] = ()
    doubles: int = 0


class Kernel:
    """A function that GPU threads run: ``kernel[blocks, threads](*args)`` starts it on its arrays' device."""

    def __init__(self, function: Callable[..., None], expected: Expected, options: dict[str, Any]) -> None:
        self.function = function
        self.expected = expected
        self.options = options  # of numba.cuda.jit
        self.bound: dict[Any, Any] = {}  # what devices have made of the function
        self.__doc__ = function.__doc__

    @property
    def name(self) -> str:
        """The function's name, with what closures captured: ``forward_kernel(relu_f)``."""
        captured = [
            getattr(cell.cell_contents, "__name__", str(cell.cell_contents))
            for cell in self.function.__closure__ or ()
        ]
        return self.function.__name__ + (f"({', '.join(captured)})" if captured else "")

    @property
    def place(self) -> str:
        """The module and name of the function, as ``ops.linear.forward_kernel``."""
        return f"{self.function.__module__.removeprefix('nnkernels.')}.{self.name}"

    def __repr__(self) -> str:
        return f"<kernel {self.place}>"

    def __getitem__(self, grid: tuple[int | tuple[int, ...], int | tuple[int, ...]]) -> Callable[..., None]:
        blocks, threads = (as_triple(n) for n in grid)

        def start(*args: Any) -> None:
            if 0 in blocks:
                return  # nothing to do, and an error to CUDA
            device = next(a.device for a in args if hasattr(a, "handle"))
            device.launch(self, blocks, threads, tuple([kernel_argument(a) for a in args]))

        return start

    def __call__(self, *args: Any) -> None:
        """Refuse: how many threads?"""
        raise TypeError(f"{self.place} must be started on a grid: kernel[blocks, threads](...)")


def kernel_argument(a: Any) -> Any:
    """Return an argument as kernels take it: arrays flat, ints as int32, numbers of a NumPy type."""
    if hasattr(a, "handle"):
        return a.handle
    if isinstance(a, (int, np.integer)):  # bool included
        return np.int32(operator.index(a))
    if type(a) in (np.float32, np.float64):
        return a
    if type(a) is tuple:
        return tuple([kernel_argument(value) for value in a])
    raise TypeError(
        f"a kernel takes GPU arrays, ints, and floats of a NumPy type, got {type(a).__name__} {a!r:.40}"
    )


def as_triple(n: int | tuple[int, ...]) -> tuple[int, ...]:
    """Return one to three numbers as three."""
    given = n if isinstance(n, tuple) else (n,)
    return (*given, *(1,) * (3 - len(given)))


@overload
def kernel(function: Callable[..., None]) -> Kernel: ...


@overload
def kernel(
    *, expected: Expected | None = None, **options: Any
) -> Callable[[Callable[..., None]], Kernel]: ...


def kernel(
    function: Callable[..., None] | None = None, *, expected: Expected | None = None, **options: Any
) -> Kernel | Callable[[Callable[..., None]], Kernel]:
    """Make a Kernel of a function; ``options`` are those of numba.cuda.jit (fastmath, launch_bounds)."""

    def make(function: Callable[..., None]) -> Kernel:
        return Kernel(function, expected or Expected(), options)

    return make if function is None else make(function)


class DeviceFunction:
    """A function that kernels call, in whose source ``cuda`` may occur."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.__name__, self.__doc__ = function.__name__, function.__doc__

    def __call__(self, *args: Any) -> Any:
        """Refuse: only threads of a GPU can."""
        raise TypeError(f"{self.__name__} can be called in kernels only")


def device_function(function: Callable[..., Any]) -> Any:
    """Mark a function for use in kernels, inlined there. Plain formulas (``jit.inline``) need no mark."""
    return DeviceFunction(function)


class Instruction:
    """A machine instruction: what Numba makes of it, and what the simulator does instead."""

    def __init__(self, name: str, compiled: Any, simulated: Callable[..., Any]) -> None:
        self.__name__ = name
        self.compiled = compiled
        self.simulated = simulated

    def __call__(self, *args: Any) -> Any:
        """Refuse: only threads of a GPU can."""
        raise TypeError(f"{self.__name__} is an instruction of kernels")


def ceil_div(a: int, b: int) -> int:
    """Return a / b, rounded up."""
    return -(-a // b)


def next_power_of_two(n: int) -> int:
    """Return the smallest power of two that is at least n and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


def blocks_for(n: int, per_block: int = THREADS) -> int:
    """Return how many blocks cover n elements."""
    return ceil_div(n, per_block)


def threads_for(n: int, most: int = THREADS) -> int:
    """Return the threads of a block for n elements: whole warps, few where n is small."""
    return max(WARP, min(most, WARP * ceil_div(n, WARP)))


def rebound(function: Callable[..., Any], meaning: Callable[[Any], Any]) -> Callable[..., Any]:
    """Return a copy of ``function`` in which each value v that it uses by name is ``meaning(v)``."""
    code = function.__code__
    scope = function.__globals__
    names = {name: meaning(scope[name]) for name in code.co_names if name in scope}
    names["__builtins__"] = scope["__builtins__"]
    names["__name__"] = scope["__name__"]
    cells = tuple(types.CellType(meaning(cell.cell_contents)) for cell in function.__closure__ or ())
    copy = types.FunctionType(code, names, function.__name__, function.__defaults__, cells)
    copy.__kwdefaults__ = function.__kwdefaults__
    copy.__qualname__, copy.__module__ = function.__qualname__, function.__module__
    return copy


def is_plain_function(value: Any) -> bool:
    """Return whether ``value`` is a Python function of this project."""
    return isinstance(value, types.FunctionType) and (value.__module__ or "").startswith("nnkernels")
