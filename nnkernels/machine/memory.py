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

_free: dict[int, list[Array]] = defaultdict(list)
_held_bytes = 0
_poison = False


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    """Return an uninitialised C-contiguous array, 64-byte aligned and pooled when it is large."""
    dtype = np.dtype(dtype)
    nbytes = math.prod(shape) * dtype.itemsize
    if nbytes < POOLED_BYTES:
        array = np.empty(shape, dtype)
    else:
        array = _take_block(nbytes)[:nbytes].view(dtype).reshape(shape)
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


def _take_block(nbytes: int) -> Array:
    """Return an aligned byte array whose storage returns to the pool when nothing views it any more."""
    global _held_bytes
    # Eight sizes per power of two: little waste, and activations of nearby batch sizes share blocks.
    step = 1 << max(12, nbytes.bit_length() - 4)
    size = -(-nbytes // step) * step
    blocks = _free[size]
    try:
        storage = blocks.pop()
        _held_bytes -= size
    except IndexError:
        storage = np.empty(size + ALIGNMENT, np.uint8)
    start = -storage.ctypes.data % ALIGNMENT
    # NumPy lets views of views point at the first array that is not a plain view of another ndarray. Going
    # through a memoryview makes `block` that array, so all views keep `block`, and only it, alive.
    block = np.frombuffer(memoryview(storage)[start : start + size], np.uint8)  # type: ignore[arg-type]
    weakref.finalize(block, _give_back, size, storage).atexit = False
    return block


def _give_back(size: int, storage: Array) -> None:
    global _held_bytes
    if _held_bytes + size <= MAX_HELD_BYTES:
        _free[size].append(storage)
        _held_bytes += size


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
    array = np.asarray(array)  # a memmap or matrix is a type of its own to Numba, too
    return np.require(array, array.dtype.newbyteorder("="), ["C", "A", "W"])
