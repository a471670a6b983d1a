"""How kernels are compiled: four decorators, each saying all of its flags.

Numba hands ``fastmath`` flags down to inlined callees and leaves them out of its cache key, so they are
spelled out here, once, and nowhere else.

- ``jit`` compiles the ``loops`` bodies: strict IEEE arithmetic in the order written.
- ``jit_elementwise`` compiles serial tuned kernels without sums: only fused multiply-add is allowed, since
  reordering spoils the range reduction of ``exp`` (4.5 rounding errors instead of 1).
- ``jit_tuned`` compiles serial tuned kernels with sums. ``reassoc`` lets LLVM split one sum over the lanes
  of a vector register; ``contract`` allows fused multiply-add. ``nnan`` and ``ninf`` are left out: with them,
  LLVM may delete ``isnan`` tests and mishandle ``exp(-inf)``.
- ``jit_parallel`` compiles the thin drivers that spread a tuned kernel over threads with ``prange``.
"""

import itertools
import os
import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import numba
import numpy as np
from numba import prange, types
from numba.core.bytecode import FunctionIdentity
from numba.extending import overload, register_jitable
from numba.np.unsafe.ndarray import to_fixed_tuple

from nnkernels.machine.cache import cache_directory

__all__ = [
    "flag",
    "inline",
    "inline_always",
    "inline_elementwise",
    "inline_tuned",
    "jit",
    "jit_elementwise",
    "jit_parallel",
    "jit_tuned",
    "overload_exactly",
    "prange",
    "scalars",
    "signed",
    "typed",
]

F = TypeVar("F", bound=Callable[..., Any])

ELEMENTWISE_FLAGS = {"contract"}
TUNED_FLAGS = {"contract", "reassoc", "nsz", "arcp", "afn"}

# Numba compiles a kernel once more for each new combination of argument types, and prange counts in unsigned
# integers, while the literals 1 and False have types of their own: kernels are called with these instead.
signed: Any = np.int64
flag: Any = np.bool_


def number_functions_apart() -> None:
    """Let Numba number this process's functions from a random place on, in the place of 1.

    The number is all that tells the symbols of closures from one factory apart, and it is kept with the
    machine code. Two processes that counted from 1 would cache, say, the loops of sin and of tanh under one
    name; a third that loads both would run the one it met first for either (numba/numba#10486).
    """
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(60))


number_functions_apart()
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=number_functions_apart)  # parent and child would count alike


def compile_lazily(function: F, **options: Any) -> F:
    """Wrap ``function`` for compilation on its first call, cached in this project's own directory."""
    # Numba fixes the cache path at decoration time, so pointing it at our directory for this moment
    # leaves the cache of the user's own functions where it was.
    saved = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(cache_directory())
    try:
        compiled: F = numba.njit(cache=True, nogil=True, error_model="numpy", **options)(function)
    finally:
        numba.config.CACHE_DIR = saved
    return compiled


def jit(function: F) -> F:
    """Compile a ``loops`` body: strict arithmetic, one thread."""
    return compile_lazily(function, fastmath=False)


def jit_elementwise(function: F) -> F:
    """Compile a serial tuned kernel that works element by element."""
    return compile_lazily(function, fastmath=ELEMENTWISE_FLAGS)


def jit_tuned(function: F) -> F:
    """Compile a serial tuned kernel: sums may be reordered, NaN and infinities are kept."""
    return compile_lazily(function, fastmath=TUNED_FLAGS)


def jit_parallel(function: F) -> F:
    """Compile a driver whose ``prange`` loop calls serial tuned kernels."""
    return compile_lazily(function, fastmath=False, parallel=True)


def inline(function: F) -> F:
    """Mark a scalar function for use inside kernels; in Python it stays the plain function."""
    marked: F = register_jitable(function)
    return marked


def inline_elementwise(function: F) -> F:
    """As ``inline``, with the flags of ``jit_elementwise`` whatever those of the caller.

    For what closures over formulas call: a kernel that captured a compiled function, or a function that calls
    one, would not be found in the cache by the next process.
    """
    marked: F = register_jitable(fastmath=ELEMENTWISE_FLAGS)(function)
    return marked


def inline_tuned(function: F) -> F:
    """As ``inline``, with the flags of ``jit_tuned`` whatever those of the caller."""
    marked: F = register_jitable(fastmath=TUNED_FLAGS)(function)
    return marked


def inline_always(function: F) -> F:
    """As ``inline``, for functions so long that LLVM would call them and not vectorise the loop around."""
    marked: F = register_jitable(forceinline=True)(function)
    return marked


def overload_exactly(function: Callable[..., Any]) -> Callable[[F], F]:
    """Like Numba's ``overload``, for what must not be reordered: fused multiply-add is all it may use.

    Without flags of its own, it would be compiled with those of whichever kernel calls it. It is always put
    in the place of the call, since a loop that calls a function is not vectorised.
    """
    options = {"fastmath": ELEMENTWISE_FLAGS, "forceinline": True}
    decorator: Callable[[F], F] = overload(function, jit_options=options)
    return decorator


def scalars(values: Any, n: int) -> tuple[Any, ...]:
    """Return the first n elements of an array, n being a constant of the program.

    Kernels take a dozen numbers as one array and name them inside, ``Sizes(*scalars(values, SIZES))``: to
    Numba's dispatcher, a NamedTuple of 20 numbers costs 1 us at every call.
    """
    return tuple(values[:n].tolist())


@overload(scalars, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _scalars(values: Any, n: int) -> Any:
    return lambda values, n: to_fixed_tuple(values, n)


def typed(value: float, x: Any) -> Any:
    """Return ``value`` in the float type of x, for use inside kernels.

    Numba takes float32 with an integer literal to float64, and half of a vector register is lost.
    """
    return x.dtype.type(value)


@overload(typed)  # type: ignore[untyped-decorator]
def _choose_typed(value: float, x: Any) -> Any:
    return _typed32 if x == types.float32 else _typed64


@register_jitable  # type: ignore[untyped-decorator]
def _typed32(value: float, x: Any) -> Any:
    return types.float32(value)


@register_jitable  # type: ignore[untyped-decorator]
def _typed64(value: float, x: Any) -> Any:
    return types.float64(value)
