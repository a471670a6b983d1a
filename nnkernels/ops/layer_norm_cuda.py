"""layer_norm and group_norm on a GPU: rows of n numbers, each by its own statistics.

A row belongs to T threads: a warp where rows are short, else a block. A thread holds PER_THREAD numbers of
it in registers, T apart: a row of up to PER_THREAD MOST_THREADS numbers is read once, and of a longer one,
later passes read again what the caches still have.

Number j of row i is of channel i % G K + j // S: a row of group_norm is one of G groups of K channels of S
positions, and in a row of layer_norm every number has a weight of its own (G, K, S = 1, n, 1).

Bound: memory. Forward reads x and writes y, dx reads dy and x and is written, each once; the sums for the
weights read dy and x once more.
"""

import math
from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like, or_empty
from nnkernels.machine.gpu_index import divide
from nnkernels.machine.gpu_kernel import (
    WARP,
    at,
    blocks_for,
    ceil_div,
    cuda,
    device_function,
    kernel,
    threads_for,
)
from nnkernels.machine.gpu_reduce import WARPS_MOST, block_sum, warp_sum
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array
from nnkernels.ops.batch_norm.cuda import Grads, Inputs, Needs, Outputs, channel_sums
from nnkernels.ops.batch_norm.walk import value_or

PER_THREAD = 8
MOST_THREADS = 512  # whose registers are 128 each
Sizes = tuple[int, int, int, int, int]  # n, T, G, K, S


def threads_of_row(n: int) -> int:
    """Return T."""
    return threads_for(ceil_div(n, PER_THREAD), MOST_THREADS)


def grid_for(rows: int, T: int) -> tuple[int, int]:
    """Return the number of blocks, and of threads of a block."""
    together = min(4, max(rows, 1)) if T == WARP else 1
    return blocks_for(rows, together), together * T


# --- device functions ---


@device_function
def row_of(T: int) -> Any:
    """Return the thread's row, and its place among the row's threads."""
    here = divide(cuda.threadIdx.x, T)
    return cuda.blockIdx.x * divide(cuda.blockDim.x, T) + here, cuda.threadIdx.x - here * T


@device_function
def row_sum(value: Any, T: int, scratch: Array) -> Any:
    """Return the sum over the threads of a row."""
    return warp_sum(value) if T == WARP else block_sum(value, scratch)


@device_function
def channel_of(row: int, j: int, sizes: Sizes) -> Any:
    """Return the channel of number j of a row."""
    _, _, G, K, S = sizes
    return (row - divide(row, G) * G) * K + (divide(j, S) if S > 1 else j)


@device_function
def load_row(x: Array, row: int, j: int, sizes: Sizes, values: Array) -> None:
    """Load the thread's numbers j, j + T ... of a row; behind its end, the last again."""
    for k in range(PER_THREAD):
        values[k] = x[at(row * sizes[0] + min(j + k * sizes[1], sizes[0] - 1))]


@device_function
def load_both(
    dy: Array, x: Array, w: Array, mean: Any, row: int, j: int, sizes: Sizes, slopes: Array, values: Array
) -> None:
    """Load dy w and x - mean, as load_row does."""
    for k in range(PER_THREAD):
        at_k = min(j + k * sizes[1], sizes[0] - 1)
        i = at(row * sizes[0] + at_k)
        values[k] = x[i] - mean
        slopes[k] = dy[i] * value_or(w, channel_of(row, at_k, sizes), typed(1, mean))


# --- kernels ---


@kernel
def forward_kernel(
    x: Array, w: Array, b: Array, sizes: Sizes, eps: Any, y: Array, mean: Array, rstd: Array
) -> None:
    """Write y, mean and rstd of one row per T threads.

    Distances from a first, rounded mean add up to how far it is off, and no digit is lost where the mean is
    far from 0 (Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance, 1983).
    """
    scratch, values = cuda.shared.array(WARPS_MOST, x.dtype), cuda.local.array(PER_THREAD, x.dtype)
    n, T, _, _, _ = sizes
    row, t = row_of(T)
    if row < mean.size:
        zero, one, count = typed(0, eps), typed(1, eps), x.dtype.type(n)
        total = off = square = zero
        j = t
        while j < n:
            load_row(x, row, j, sizes, values)
            for k in range(PER_THREAD):
                if j + k * T < n:
                    total += values[k]
            j += PER_THREAD * T
        centre = row_sum(total, T, scratch) / count
        j = t
        while j < n:
            if n > PER_THREAD * T:
                load_row(x, row, j, sizes, values)
            for k in range(PER_THREAD):
                if j + k * T < n:
                    off += values[k] - centre
                    square += (values[k] - centre) * (values[k] - centre)
            j += PER_THREAD * T
        off = row_sum(off, T, scratch) / count
        variance = row_sum(square, T, scratch) / count - off * off
        m = centre + off
        r = one / math.sqrt((zero if variance < zero else variance) + eps)
        rest = r * ((m - centre) - off)  # what rounding added to the mean
        j = t
        while j < n:
            if n > PER_THREAD * T:
                load_row(x, row, j, sizes, values)
            for k in range(PER_THREAD):
                c = channel_of(row, min(j + k * T, n - 1), sizes)
                values[k] = ((values[k] - m) * r + rest) * value_or(w, c, one) + value_or(b, c, zero)
            for k in range(PER_THREAD):
                if j + k * T < n:
                    y[at(row * n + j + k * T)] = values[k]
            j += PER_THREAD * T
        if t == 0:
            mean[at(row)], rstd[at(row)] = m, r


@kernel
def gradient_kernel(dy: Array, x: Array, w: Array, mean: Array, rstd: Array, sizes: Sizes, dx: Array) -> None:
    """Write dx of one row per T threads."""
    scratch = cuda.shared.array(WARPS_MOST, x.dtype)
    values, slopes = cuda.local.array(PER_THREAD, x.dtype), cuda.local.array(PER_THREAD, x.dtype)
    n, T, _, _, _ = sizes
    row, t = row_of(T)
    if row < mean.size:
        m, r, count = mean[at(row)], rstd[at(row)], x.dtype.type(n)
        total = dot = typed(0, m)
        j = t
        while j < n:
            load_both(dy, x, w, m, row, j, sizes, slopes, values)
            for k in range(PER_THREAD):
                if j + k * T < n:
                    total += slopes[k]
                    dot += slopes[k] * values[k]
            j += PER_THREAD * T
        along = row_sum(total, T, scratch) / count
        across = r * r * (row_sum(dot, T, scratch) / count)
        j = t
        while j < n:
            if n > PER_THREAD * T:
                load_both(dy, x, w, m, row, j, sizes, slopes, values)
            for k in range(PER_THREAD):
                if j + k * T < n:
                    dx[at(row * n + j + k * T)] = r * ((slopes[k] - along) - values[k] * across)
            j += PER_THREAD * T


# --- bodies ---


def forward_rows(
    x: GpuArray, w: GpuArray | None, b: GpuArray | None, leading: tuple[int, ...], sizes: Sizes, eps: float
) -> Outputs:
    """Return y, mean and rstd of rows counted by the axes ``leading``."""
    y, mean, rstd = empty_like(x), empty(leading, x.dtype, x.device), empty(leading, x.dtype, x.device)
    forward_kernel[grid_for(mean.size, sizes[1])](
        x, or_empty(w, x), or_empty(b, x), sizes, x.dtype.type(eps), y, mean, rstd
    )
    return y, mean, rstd


def backward_rows(
    dy: GpuArray, outputs: Outputs, inputs: Inputs, needs: Needs, sizes: Sizes, owner: tuple[int, int],
    ends: int | None,
) -> Grads:  # fmt: skip
    """Return dx, dw and db; ``owner`` and ``ends`` are as in channel_sums."""
    (x, w, _), (_, mean, rstd) = inputs, outputs
    dx, dw, db = None, None, None
    if needs[0]:
        dx = empty_like(x)
        gradient_kernel[grid_for(mean.size, sizes[1])](dy, x, or_empty(w, x), mean, rstd, sizes, dx)
    if needs[1] or needs[2]:
        dw, db = channel_sums(dy, x, mean, rstd, owner, ends)
    return dx, dw if needs[1] else None, db if needs[2] else None


def sizes_of_examples(normalized_shape: Any) -> tuple[Sizes, tuple[int, ...]]:
    """Return sizes, and ``normalized_shape`` as a tuple."""
    given = isinstance(normalized_shape, (tuple, list))
    shape = tuple(normalized_shape) if given else (normalized_shape,)
    n = math.prod(shape)
    return (n, threads_of_row(n), 1, n, 1), shape


def layer_norm_forward_cuda(
    x: GpuArray, w: GpuArray | None, b: GpuArray | None, *, normalized_shape: Any, eps: float = 1e-5
) -> Outputs:
    sizes, shape = sizes_of_examples(normalized_shape)
    return forward_rows(x, w, b, x.shape[: x.ndim - len(shape)], sizes, eps)


def layer_norm_backward_cuda(
    dy: GpuArray, outputs: Outputs, inputs: Inputs, needs: Needs, *, normalized_shape: Any, eps: float = 1e-5
) -> Grads:
    sizes, shape = sizes_of_examples(normalized_shape)
    dx, *rest = backward_rows(dy, outputs, inputs, needs, sizes, (1, sizes[0]), len(shape))
    dw, db = (None if grad is None else grad.reshape(shape) for grad in rest)
    return dx, dw, db


def sizes_of_groups(x: GpuArray, num_groups: int) -> Sizes:
    """Return sizes."""
    K, S = x.shape[1] // num_groups, math.prod(x.shape[2:])
    return K * S, threads_of_row(K * S), num_groups, K, S


def group_norm_forward_cuda(
    x: GpuArray, w: GpuArray | None, b: GpuArray | None, *, num_groups: int, eps: float = 1e-5
) -> Outputs:
    return forward_rows(x, w, b, (len(x), num_groups), sizes_of_groups(x, num_groups), eps)


def group_norm_backward_cuda(
    dy: GpuArray, outputs: Outputs, inputs: Inputs, needs: Needs, *, num_groups: int, eps: float = 1e-5
) -> Grads:
    sizes = sizes_of_groups(inputs[0], num_groups)
    return backward_rows(dy, outputs, inputs, needs, sizes, (num_groups, sizes[3]), None)
