"""Checks that ops share. Every message names the argument, what came and what was wanted."""

import math
from numbers import Integral
from typing import Any, NoReturn

import numpy as np

from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.memory import Array


def is_array(a: Any) -> bool:
    """Return whether ``a`` is an array, on the host or on a GPU."""
    return isinstance(a, (np.ndarray, GpuArray))


def describe(value: Any) -> str:
    """Return a short description of a value for an error message."""
    if is_array(value):
        return f"{value.dtype} array of shape {value.shape}"
    return f"{type(value).__name__} {value!r}"[:80]


def fail_type(op: str, argument: str, value: Any, wanted: str) -> NoReturn:
    """Raise a TypeError that names the argument."""
    raise TypeError(f"{op}: {argument} must be {wanted}, got {describe(value)}")


def floats(op: str, **arrays: Array | None) -> None:
    """Demand float32 or float64 arrays, all of one dtype."""
    first = None
    a: Any
    for name, a in arrays.items():
        if type(a) is not np.ndarray:
            if isinstance(a, np.ma.MaskedArray):
                fail_type(op, name, a, "an array without a mask (fill it first)")
            if not is_array(a):
                fail_type(op, name, a, "a NumPy array or a Tensor")
        kind = a.dtype
        if kind.kind != "f" or kind.itemsize not in (4, 8):
            fail_type(op, name, a, "float32 or float64")
        if first is None:
            first, first_name = kind.itemsize, name
        elif kind.itemsize != first:
            raise TypeError(
                f"{op}: {first_name} and {name} must have one dtype, got float{8 * first} and "
                f"float{8 * kind.itemsize}; convert one with astype"
            )


def given(**arrays: Array | None) -> dict[str, Array]:
    """Return the optional arrays that are there."""
    return {name: a for name, a in arrays.items() if a is not None}


def rank(op: str, name: str, a: Array, ndim: int, shape: str) -> None:
    """Demand an array of ``ndim`` axes; ``shape`` names them in the message."""
    if a.ndim != ndim:
        raise ValueError(f"{op}: {name} must have {ndim} axes {shape}, got shape {a.shape}")


def pair(value: int | tuple[int, int]) -> tuple[int, int]:
    """Return an int twice, a pair as it is: how bodies read ``stride``, ``padding``, ``kernel_size``."""
    if type(value) is int:
        return value, value
    if isinstance(value, (tuple, list)):
        return int(value[0]), int(value[1])
    return int(value), int(value)


def check_pair(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """Return ``value``, an int or a pair of ints not below ``least``, as a pair."""
    if type(value) is int and value >= least:  # the common case: asking whether it is Integral takes longer
        return value, value
    if isinstance(value, (tuple, list)) and len(value) == 2:
        values: tuple[Any, ...] = tuple(value)
    else:
        values = (value, value)
    if not all(isinstance(v, Integral) and not isinstance(v, bool) for v in values):
        fail_type(op, name, value, "an int or a pair of ints")
    if min(values) < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value!r}")
    return values[0], values[1]


def check_int(op: str, name: str, value: Any, least: int) -> None:
    """Demand an int not below ``least``."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        fail_type(op, name, value, "an int")
    if value < least:
        raise ValueError(f"{op}: {name} must be at least {least}, got {value}")


def output_size(op: str, size: int, kernel: int, stride: int, padding: int, axis: str) -> int:
    """Return floor((size + 2 padding - kernel) / stride) + 1; a kernel that does not fit is an error."""
    padded = size + 2 * padding
    if kernel > padded:
        raise ValueError(
            f"{op}: the kernel ({kernel}) is larger than the padded input ({size} + 2*{padding} "
            f"= {padded}) along {axis}"
        )
    return (padded - kernel) // stride + 1


def axis_index(op: str, dim: Any, ndim: int) -> int:
    """Return axis ``dim`` counted from the front; it must be an int in [-ndim, ndim)."""
    if type(dim) is not int and (not isinstance(dim, Integral) or isinstance(dim, bool)):
        fail_type(op, "dim", dim, "an int")
    if not -ndim <= int(dim) < ndim:
        raise ValueError(f"{op}: dim must be in [{-ndim}, {ndim}) for {ndim} axes, got {dim}")
    return int(dim) % ndim


def choice(op: str, name: str, value: Any, allowed: tuple[str, ...]) -> None:
    """Demand one of the allowed words."""
    if value not in allowed:
        raise ValueError(f"{op}: {name} must be one of {', '.join(allowed)}, got {value!r}")


def number(op: str, name: str, value: Any, least: float | None = None, below: float | None = None) -> None:
    """Demand a finite real number, ``least <= value < below`` where given."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
        fail_type(op, name, value, "a number")
    if not math.isfinite(value):
        raise ValueError(f"{op}: {name} must be finite, got {value!r}")
    if (least is not None and value < least) or (below is not None and value >= below):
        bounds = f"at least {least}" if below is None else f"in [{least}, {below})"
        raise ValueError(f"{op}: {name} must be {bounds}, got {value!r}")
