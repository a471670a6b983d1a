"""What the GPU's product kernels share: flags, the axes of a batch, and what is done to a finished sum."""

from typing import Any

from numba import int32

from nnkernels.machine.gpu_kernel import ceil_div, cuda, device_function
from nnkernels.machine.jit import typed

# Flags of a product; one number, since launches cost more with each argument.
TRANSPOSED_A, TRANSPOSED_B, VECTOR_A, VECTOR_B, VECTOR_Y, BIAS, RELU = (1 << i for i in range(7))

Axes = tuple[int, ...]  # size, step in a, step in b; size, ...: the first counts fastest
ONE: Axes = (1, 0, 0)


@device_function
def offsets(number: int, axes: Axes) -> Any:
    """Return where entry ``number`` of a batch starts in a and in b."""
    in_a = in_b = 0
    for i in range(0, len(axes), 3):
        place = number % axes[i]
        number //= axes[i]
        in_a += place * axes[i + 1]
        in_b += place * axes[i + 2]
    return in_a, in_b


@device_function
def work_of_block(M: int, N: int, rows: int, columns: int, splits: int) -> Any:
    """Return the first column and row of the block's tile of y, its part of y, its split and its entry.

    Parts count entries of the batch first, then splits: by each of these, each entry is written.
    """
    across, down = ceil_div(N, columns), ceil_div(M, rows)
    block, batch = cuda.blockIdx.x, cuda.gridDim.x // (across * down * splits)
    part = block // (across * down)
    j0, i0 = int32(block % across * columns), int32(block // across % down * rows)
    return j0, i0, part, part // batch, part % batch


def finished(s: Any, bias: Any, flags: int) -> Any:
    """Return a sum with bias and activation."""
    s += bias
    if flags & RELU and s < typed(0, s):
        s = typed(0, s)
    return s
