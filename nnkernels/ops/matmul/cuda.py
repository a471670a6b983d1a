"""matmul on a GPU, by ``gemm_cuda`` (see there): one call for the result and one for each gradient."""

import math
from functools import lru_cache

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty
from nnkernels.ops.matmul.form import ONE, Axes
from nnkernels.ops.matmul.gemm_cuda import gemm_cuda

Shape = tuple[int, ...]


def steps(shape: Shape, outer: Shape) -> list[int]:
    """Return how far a matrix of ``shape`` (..., rows, columns) is from the next along each of the axes
    ``outer``, in elements: 0 along those where one matrix serves all."""
    batch = (1,) * (len(outer) + 2 - len(shape)) + shape[:-2]
    found = []
    step = shape[-2] * shape[-1]
    for n in reversed(batch):
        found.append(step if n > 1 else 0)
        step *= n
    return found[::-1]


def merged(axes: list[tuple[int, int, int]]) -> Axes:
    """Return axes (size, step in a, step in b), the slowest first, as ``gemm_cuda`` takes them: few."""
    found: list[tuple[int, int, int]] = []
    for size, step_a, step_b in reversed(axes):
        if size == 1:
            continue
        if found:
            inner, inner_a, inner_b = found[-1]
            if (step_a, step_b) == (inner * inner_a, inner * inner_b):
                found[-1] = inner * size, inner_a, inner_b
                continue
        found.append((size, step_a, step_b))
    return tuple([number for axis in found for number in axis]) or ONE


@lru_cache(maxsize=1024)
def batch_axes(a: Shape, b: Shape, of: Shape) -> tuple[Axes, Axes]:
    """Return the axes along which the product of a and b has entries of its own, and those to sum over.

    The product has the shape ``of``: a's and b's leading axes broadcast, or fewer, if it is a gradient.
    """
    outer = np.broadcast_shapes(a[:-2], b[:-2], of[:-2])
    axes = list(zip(outer, steps(a, outer), steps(b, outer)))
    own = [n > 1 or m == 1 for n, m in zip((1,) * (len(outer) + 2 - len(of)) + of[:-2], outer)]
    return (
        merged([axis for axis, is_own in zip(axes, own) if is_own]),
        merged([axis for axis, is_own in zip(axes, own) if not is_own]),
    )


def multiply(
    a: GpuArray, b: GpuArray, y: GpuArray, transpose_a: bool = False, transpose_b: bool = False
) -> None:
    """Write the product of two batches to y, summed over the axes that y does not have."""
    M, N = y.shape[-2:]
    K = a.shape[-2 if transpose_a else -1]
    outer, summed = batch_axes(a.shape, b.shape, y.shape)
    gemm_cuda(
        a, b, y, (M, N, K), transpose_a=transpose_a, transpose_b=transpose_b, outer=outer, summed=summed
    )


def as_rows(x: GpuArray) -> GpuArray:
    """Return x (..., K) as a matrix (N, K)."""
    return x.reshape(math.prod(x.shape[:-1]), x.shape[-1])


def matmul_forward_cuda(a: GpuArray, b: GpuArray) -> tuple[GpuArray]:
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    y = empty((*outer, a.shape[-2], b.shape[-1]), a.dtype, a.device)
    if b.ndim == 2:  # all rows of a meet the same b
        multiply(as_rows(a), b, as_rows(y))
    else:
        multiply(a, b, y)
    return (y,)


def matmul_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray, GpuArray], needs: tuple[bool, bool]
) -> tuple[GpuArray | None, GpuArray | None]:
    a, b = inputs
    da = empty(a.shape, a.dtype, a.device) if needs[0] else None
    db = empty(b.shape, b.dtype, b.device) if needs[1] else None
    one_b = b.ndim == 2
    if da is not None:  # dy b^T
        rows, to = (as_rows(dy), as_rows(da)) if one_b else (dy, da)
        multiply(rows, b, to, transpose_b=True)
    if db is not None:  # a^T dy
        rows_a, rows_dy = (as_rows(a), as_rows(dy)) if one_b else (a, dy)
        multiply(rows_a, rows_dy, db, transpose_a=True)
    return da, db
