"""Arrays on a GPU: a shape over flat memory that a device owns.

Memory never moves by itself: ``to_device`` and ``to_host`` are the only ways in and out, and both are
counted.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NoReturn, Protocol

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.machine.gpu_kernel import MOST_ELEMENTS, Kernel
from nnkernels.machine.memory import Array, as_kernel_array


class Device(Protocol):
    """What can hold arrays and run kernels: a GPU, or its simulator."""

    name: str

    def allocate(self, n: int, dtype: np.dtype[Any]) -> tuple[Any, Any]:
        """Return flat memory of n uninitialised elements, and what to keep alive as long as it is used."""

    def part(self, handle: Any, start: int, stop: int) -> Any:
        """Return elements start to stop of flat memory."""

    def fill_zero(self, handle: Any) -> None:
        """Fill flat memory with zeros."""

    def upload(self, flat: Array, handle: Any) -> None:
        """Copy a flat NumPy array into flat memory."""

    def download(self, handle: Any) -> Array:
        """Return flat memory as a new NumPy array."""

    def copy(self, source: Any, target: Any) -> None:
        """Copy flat memory to flat memory of this device."""

    def upload_ahead(self, flat: Array, handle: Any) -> Callable[[], None]:
        """Begin to copy a flat NumPy array into flat memory; return what makes later work wait for it."""

    def launch(
        self, kernel: Kernel, blocks: tuple[int, ...], threads: tuple[int, ...], args: tuple[Any, ...]
    ) -> None:
        """Run a kernel on a grid of blocks of threads."""

    def synchronize(self) -> None:
        """Wait until all that was launched is done."""

    def timed(self, function: Callable[[], object]) -> float:
        """Call a function; return the seconds from its first launch's turn to its last launch's end."""


class Transfers:
    """How many copies there were between host and device, and of how many bytes."""

    def __init__(self) -> None:
        self.to_device = self.to_host = self.bytes_to_device = self.bytes_to_host = 0


_chosen: ContextVar[Any] = ContextVar("chosen", default=None)


@contextmanager
def use_device(device: Any) -> Iterator[Any]:
    """Let "cuda" mean ``device`` inside the ``with`` block."""
    token = _chosen.set(device)
    try:
        yield device
    finally:
        _chosen.reset(token)


def chosen_device() -> Device | None:
    """Return the device that "cuda" has been made to mean; None where it means the GPU."""
    device: Device | None = _chosen.get()
    return device


_counters: ContextVar[tuple[Transfers, ...]] = ContextVar("counters", default=())


@contextmanager
def count_transfers() -> Iterator[Transfers]:
    """Count the copies between host and device inside the ``with`` block."""
    counter = Transfers()
    token = _counters.set((*_counters.get(), counter))
    try:
        yield counter
    finally:
        _counters.reset(token)


class GpuArray:
    """A C-contiguous array in a device's memory.

    ``shape``, ``dtype``, ``ndim``, ``size`` and ``nbytes`` are as NumPy's; ``reshape`` and slices of one axis
    are views. Numbers are read by ``numpy()`` alone.
    """

    __slots__ = ("__weakref__", "device", "dtype", "handle", "owner", "shape", "size", "start")

    def __init__(
        self, device: Device, handle: Any, owner: Any, shape: tuple[int, ...], dtype: np.dtype[Any],
        start: int = 0,
    ) -> None:  # fmt: skip
        self.device = device
        self.handle = handle  # flat memory: what kernels get
        self.owner = owner  # keeps the memory from being used again
        self.shape = shape
        self.dtype = dtype
        self.size = math.prod(shape)
        self.start = start  # in the owner's memory, in elements

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return int(self.dtype.itemsize)

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        return self.size * self.itemsize

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<{self.dtype} array of shape {self.shape} on {self.device.name}>"

    def __array__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError(
            f"an array on {self.device.name} does not become a NumPy array by itself: copy it by numpy(), "
            "or a Tensor by cpu()"
        )

    __array_ufunc__ = None  # NumPy's functions refuse it

    @property
    def __cuda_array_interface__(self) -> Any:
        return self.handle.__cuda_array_interface__ | {"shape": self.shape, "strides": None}

    def reshape(self, *shape: Any) -> "GpuArray":
        """Return the same elements in another shape; one length may be -1."""
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        if -1 in wanted:
            rest = -math.prod(wanted)
            found = self.size // rest if rest > 0 else 0
            wanted = tuple(found if n == -1 else int(n) for n in wanted)
        if math.prod(wanted) != self.size:
            raise ValueError(f"cannot reshape an array of shape {self.shape} to {wanted}")
        return GpuArray(self.device, self.handle, self.owner, wanted, self.dtype, self.start)

    def ravel(self) -> "GpuArray":
        """Return the elements along one axis."""
        return self.reshape(self.size)

    def __getitem__(self, index: slice) -> "GpuArray":
        """Return a part along the first axis, as a view."""
        if not isinstance(index, slice) or index.step not in (None, 1) or not self.shape:
            raise TypeError(
                "a GPU array takes slices of its first axis alone, as x[2:5]; ops take the others"
            )
        first, last, _ = index.indices(self.shape[0])
        last = max(first, last)
        row = math.prod(self.shape[1:])
        handle = self.device.part(self.handle, first * row, last * row)
        shape = (last - first, *self.shape[1:])
        return GpuArray(self.device, handle, self.owner, shape, self.dtype, self.start + first * row)

    def numpy(self) -> Array:
        """Return a copy in host memory."""
        return to_host(self)

    def item(self) -> Any:
        """Return the single element as a Python number: a copy to the host."""
        return to_host(self).item()

    def copy(self) -> "GpuArray":
        """Return a copy on the same device."""
        other = empty(self.shape, self.dtype, self.device)
        other.copy_from(self)
        return other

    def copy_from(self, other: "GpuArray | Array") -> None:
        """Overwrite the elements with those of an array of the same shape and dtype, from anywhere."""
        if other.shape != self.shape or other.dtype != self.dtype:
            raise ValueError(
                f"cannot copy {other.dtype} {other.shape} into an array of {self.dtype} {self.shape}"
            )
        if self.size == 0:
            return
        if isinstance(other, GpuArray):
            if other.device is not self.device:
                raise ValueError(f"cannot copy from {other.device.name} to {self.device.name}")
            self.device.copy(other.handle, self.handle)
        else:
            upload(self, other)


def shares_memory(a: Any, b: Any) -> bool:
    """Return whether two arrays, on a GPU or the host, may overlap."""
    if isinstance(a, GpuArray) and isinstance(b, GpuArray):
        overlap = a.start < b.start + b.size and b.start < a.start + a.size
        return a.owner is b.owner and overlap and a.size > 0 and b.size > 0
    if isinstance(a, GpuArray) or isinstance(b, GpuArray):
        return False
    return bool(np.may_share_memory(a, b))


def is_aligned(x: GpuArray) -> bool:
    """Return whether an array starts at a multiple of 16 bytes, what the widest loads demand."""
    return x.start * x.itemsize % 16 == 0


def empty(shape: tuple[int, ...], dtype: DTypeLike, device: Device) -> GpuArray:
    """Return an uninitialised array on ``device``."""
    dtype, n = np.dtype(dtype), math.prod(shape)
    if n > MOST_ELEMENTS:
        raise ValueError(f"a GPU array holds at most {MOST_ELEMENTS} elements, got shape {shape}")
    handle, owner = device.allocate(n, dtype)
    return GpuArray(device, handle, owner, tuple(shape), dtype)


def zeros(shape: tuple[int, ...], dtype: DTypeLike, device: Device) -> GpuArray:
    """Return an array of zeros on ``device``."""
    array = empty(shape, dtype, device)
    if array.size:
        device.fill_zero(array.handle)
    return array


def empty_like(x: GpuArray) -> GpuArray:
    """Return an uninitialised array of x's shape, dtype and device."""
    return empty(x.shape, x.dtype, x.device)


def zeros_like(x: GpuArray) -> GpuArray:
    """Return zeros of x's shape, dtype and device."""
    return zeros(x.shape, x.dtype, x.device)


def or_empty(a: GpuArray | None, like: GpuArray) -> GpuArray:
    """Return a, or an array without elements: how kernels are told that something is left out."""
    return empty((0,), like.dtype, like.device) if a is None else a


def to_device(array: Array, device: Device) -> GpuArray:
    """Return a copy of a NumPy array on ``device``."""
    target = empty(array.shape, array.dtype.newbyteorder("="), device)
    if target.size:
        upload(target, array)
    return target


def upload(target: GpuArray, array: Array) -> None:
    """Copy a NumPy array into a GPU array of the same shape and dtype."""
    target.device.upload(as_kernel_array(array).reshape(-1), target.handle)
    count_upload(target)


def count_upload(target: GpuArray) -> None:
    """Count a copy from host to device."""
    for counter in _counters.get():
        counter.to_device += 1
        counter.bytes_to_device += target.nbytes


def start_upload(array: Array, device: Device) -> Callable[[], GpuArray]:
    """Begin to copy a NumPy array to ``device``, which goes on computing; return what gives the copy."""
    target = empty(array.shape, array.dtype.newbyteorder("="), device)
    wait = device.upload_ahead(as_kernel_array(array).reshape(-1), target.handle) if target.size else None
    count_upload(target)

    def ready() -> GpuArray:
        if wait is not None:
            wait()
        return target

    return ready


def to_host(array: GpuArray) -> Array:
    """Return a copy of a GPU array as a NumPy array."""
    for counter in _counters.get():
        counter.to_host += 1
        counter.bytes_to_host += array.nbytes
    if array.size == 0:
        return np.empty(array.shape, array.dtype)
    return array.device.download(array.handle).reshape(array.shape)
