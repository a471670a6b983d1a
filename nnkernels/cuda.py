"""The GPU, for users: whether there is one, waiting for it, its memory, and what was copied.

if nnk.cuda.is_available():
    model.to("cuda")
"""

from nnkernels.machine.gpu import current_device, is_available, the_gpu, why_not_available
from nnkernels.machine.gpu_array import Transfers, count_transfers

__all__ = [
    "Transfers", "count_transfers", "device_name", "empty_cache", "is_available", "memory_held",
    "synchronize", "why_not_available",
]  # fmt: skip


def device_name() -> str:
    """Return the GPU's name. Raises RuntimeError, saying what is missing, where there is none."""
    return str(the_gpu().facts()["name"])


def synchronize() -> None:
    """Wait until all that was asked of the GPU is done: before reading a clock."""
    current_device().synchronize()


def memory_held() -> int:
    """Return how many bytes of the GPU's memory the pool keeps ready for reuse."""
    return the_gpu().pool.held_bytes


def empty_cache() -> None:
    """Give the memory that the pool keeps back to the driver."""
    the_gpu().pool.clear()
