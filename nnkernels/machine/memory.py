"""Arrays as kernels want them, and a pool of buffers that are reused instead of page-faulted anew.

A fresh block of a megabyte costs hundreds of page faults on its first touch, which is more than many layers
cost to compute. ``empty`` therefore takes large blocks from a pool. An array from the pool is an ordinary
``ndarray``: its block goes back when the last view of it is gone.
"""

import math
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[Any]

ALIGNMENT = 64  # bytes: one cache line, one AVX-512 register
POOLED_BYTES = 64 * 1024  # smaller blocks: malloc reuses them by itself, faster than we could
MAX_HELD_BYTES = 1024**3
BYTE = np.dtype(np.uint8)

_free: dict[int, list[memoryview]] = defaultdict(list)
_held_bytes = 0
_poison = False


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an uninitialised C-contiguous array, 64-byte aligned and pooled when it is large."""
    if not isinstance(dtype, np.dtype):
        dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < POOLED_BYTES:
        array: Array = np.empty(shape, dtype)
    else:
        array = np.ndarray(shape, dtype, _take_block(nbytes))
    if _poison:
        array.reshape(-1).view(np.uint8).fill(255)
    return array


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill every array from ``empty`` with NaN (integers with -1) inside the ``with`` block.

    A reused buffer often still holds the right answer of the call before: without this, a kernel that
    forgets to write an element would pass its tests.
    """
    global _poison
    saved, _poison = _poison, True
    try:
        yield
    finally:
        _poison = saved


def zeros(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an array as ``empty`` does, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array


class _Lease(weakref.ref[Array]):
    """A weak reference to a lent block: when the block dies, its storage returns to the pool."""

    __slots__ = ("size", "storage")
    size: int
    storage: memoryview


_lent: dict[int, _Lease] = {}  # leases must outlive their blocks to be called


def _take_block(nbytes: int) -> Array:
    """Return an aligned byte array whose storage returns to the pool when nothing views it any more."""
    global _held_bytes
    # Eight sizes per power of two: little waste, and activations of nearby batch sizes share blocks.
    step = 1 << max(12, nbytes.bit_length() - 4)
    size = -(-nbytes // step) * step
    try:
        storage = _free[size].pop()
        _held_bytes -= size
    except IndexError:
        fresh = np.empty(size + ALIGNMENT, BYTE)
        start = -fresh.ctypes.data % ALIGNMENT
        storage = memoryview(fresh)[start : start + size]  # type: ignore[arg-type]
    # NumPy lets views of views point at the first array that is not a plain view of another ndarray. Coming
    # from a memoryview, `block` is that array, so all views keep `block`, and only it, alive.
    block = np.frombuffer(storage, BYTE)
    lease = _Lease(block, _give_back)
    lease.size, lease.storage = size, storage
    _lent[id(lease)] = lease
    return block


def _give_back(lease: _Lease) -> None:
    global _held_bytes
    del _lent[id(lease)]
    if _held_bytes + lease.size <= MAX_HELD_BYTES:
        _free[lease.size].append(lease.storage)
        _held_bytes += lease.size


def held_bytes() -> int:
    """Bytes that the pool keeps ready for reuse."""
    return _held_bytes


def empty_cache() -> None:
    """Give every block that the pool holds back to the operating system."""
    global _held_bytes
    _free.clear()
    _held_bytes = 0


def as_kernel_array(array: Array) -> Array:
    """Return ``array`` in the one form kernels are compiled for: C-contiguous, aligned, writable, native.

    Copies only when it must; a writable copy of a read-only array spares a second compilation of every
    kernel, since Numba gives read-only arrays a type of their own.
    """
    if type(array) is np.ndarray and array.flags.carray and array.dtype.isnative:
        return array
    if hasattr(array, "handle"):  # on a GPU, where arrays have this form alone
        return array
    array = np.asarray(array)  # a memmap or matrix is a type of its own to Numba, too
    return np.require(array, array.dtype.newbyteorder("="), ["C", "A", "W"])
