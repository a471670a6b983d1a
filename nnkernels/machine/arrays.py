"""What can be done to an array wherever it is: made beside another, overwritten, moved."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.machine.gpu import current_device
from nnkernels.machine.gpu_array import GpuArray, empty, to_device, to_host
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import at, kernel
from nnkernels.machine.memory import Array


@kernel
def fill_kernel(value: Any, x: Array) -> None:
    """Write value to every element."""
    i = thread_number()
    if i < x.size:
        x[at(i)] = value


def where(a: Any) -> str:
    """Return the name of the device that holds an array: "cpu", "cuda:0"."""
    return a.device.name if isinstance(a, GpuArray) else "cpu"


def side(a: Any) -> str:
    """Return "cpu" or "cuda", where an array is."""
    return "cuda" if isinstance(a, GpuArray) else "cpu"


def full(shape: tuple[int, ...], value: float, dtype: DTypeLike, beside: Any) -> Any:
    """Return an array filled with ``value`` on the device of the array ``beside``, where it is made."""
    if not isinstance(beside, GpuArray):
        return np.full(shape, value, dtype)
    made = empty(shape, dtype, beside.device)
    fill(made, value)
    return made


def fill(a: Any, value: float) -> None:
    """Overwrite every element with ``value``."""
    if not isinstance(a, GpuArray):
        a.fill(value)
    elif value == 0 and math.copysign(1, value) > 0 and a.size:  # the bits of -0.0 are not all 0
        a.device.fill_zero(a.handle)
    else:
        number = a.dtype.type(value)
        fill_kernel[grid_of(a.size)](number if a.dtype.kind == "f" else int(number), a)


def overwrite(target: Any, source: Any) -> None:
    """Copy an array's elements into another of its shape, on the same device or not."""
    if isinstance(target, GpuArray):
        target.copy_from(source if isinstance(source, GpuArray) else np.asarray(source, target.dtype))
    else:
        target[...] = to_host(source) if isinstance(source, GpuArray) else source


def check_device(who: str, device: Any) -> str:
    """Return "cpu" or "cuda", from those words or "cuda:0"; ValueError for anything else."""
    if device in ("cpu", "cuda", "cuda:0"):
        return str(device).partition(":")[0]
    raise ValueError(f"{who}: device must be cpu or cuda, got {device!r}")


def move(a: Any, device: str) -> Any:
    """Return the array on "cpu" or "cuda": itself where it is there, else a copy."""
    if device == "cpu":
        return to_host(a) if isinstance(a, GpuArray) else a
    here = current_device()
    if not isinstance(a, GpuArray):
        return to_device(a, here)
    if a.device is not here:
        raise ValueError(f"cannot move from {a.device.name} to {here.name}")
    return a
