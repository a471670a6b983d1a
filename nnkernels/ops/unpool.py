"""Unpooling: the maxima that max_pool2d kept go back to their places, zeros elsewhere.

    y[n, c, h, w]  = x[n, c, p, q]   where indices[n, c, p, q] = h W + w, else 0
    dx[n, c, p, q] = dy[n, c, h, w]

    x, indices (N, C, P, Q)   y (N, C, H, W)   H = sh (P - 1) + R - 2 ph, W likewise

with kernel_size (R, S), stride (sh, sw; the kernel's size unless given) and padding (ph, pw) of the pool.
Images of several sizes have pools of one size; ``output_size``, (H, W) or the whole shape of y, says which it
is: less than a stride away from the above. ``indices`` are int64 or int32, from 0 to H W - 1, else
ValueError. Where two of a plane are equal, as they can be after windows that overlap, the later x stays, and
each of the two has the gradient at that place. Zeiler and Fergus, Visualizing and Understanding Convolutional
Networks, ECCV 2014.

Bound of ``tuned``: memory. Forward is max_pool2d's backward, the scatter of numbers to places in cleared
planes; backward gathers.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_array import empty as gpu_empty
from nnkernels.machine.gpu_array import zeros as gpu_zeros
from nnkernels.machine.gpu_index import Divisor, divisor, grid_of, quotient, thread_number
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, kernel
from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, share_of
from nnkernels.ops.gradients import linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.pooling.shapes import Size
from nnkernels.ops.pooling.tuned import places_transposed
from nnkernels.ops.validate import check_pair, fail_type, floats, is_array, pair, rank

Inputs = tuple[Array, Array]
Needs = tuple[bool, bool]
Grads = tuple[Array | None, None]


def full_size(
    x: tuple[int, ...], kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> tuple[int, int]:
    """Return (H, W) of the smallest image whose windows, none of them hanging over, are x's pixels."""
    (R, S), (sh, sw) = pair(kernel_size), pair(kernel_size if stride is None else stride)
    ph, pw = pair(padding)
    return sh * (x[2] - 1) + R - 2 * ph, sw * (x[3] - 1) + S - 2 * pw


def out_shape(
    x: tuple[int, ...], *, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
    output_size: tuple[int, ...] | None = None,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Return (N, C, H, W)."""
    H, W = full_size(x, kernel_size, stride, padding) if output_size is None else output_size[-2:]
    return x[0], x[1], int(H), int(W)


# --- loops ---


@jit
def unpool_kernel(x: Array, indices: Array, y: Array) -> None:
    N, C, P, Q = x.shape
    W = y.shape[3]
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    h, w = divmod(indices[n, c, p, q], W)
                    y[n, c, h, w] = x[n, c, p, q]


@jit
def unpool_backward_kernel(dy: Array, indices: Array, dx: Array) -> None:
    N, C, P, Q = dx.shape
    W = dy.shape[3]
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    h, w = divmod(indices[n, c, p, q], W)
                    dx[n, c, p, q] = dy[n, c, h, w]


def forward_loops(x: Array, indices: Array, **attributes: Any) -> tuple[Array]:
    y = np.zeros(out_shape(x.shape, **attributes), x.dtype)
    unpool_kernel(x, indices, y)
    return (y,)


def backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, **attributes: Any
) -> Grads:
    if not needs[0]:
        return None, None
    dx = np.empty(inputs[0].shape, dy.dtype)
    unpool_backward_kernel(dy, inputs[1], dx)
    return dx, None


# --- vectorized ---


def as_rows(a: Array) -> Array:
    """Return images (N, C, H, W) as (N, C, H W)."""
    N, C, H, W = a.shape
    return a.reshape(N, C, H * W)


def forward_vectorized(x: Array, indices: Array, **attributes: Any) -> tuple[Array]:
    y = np.zeros(out_shape(x.shape, **attributes), x.dtype)
    np.put_along_axis(as_rows(y), as_rows(indices), as_rows(x), axis=2)
    return (y,)


def backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, **attributes: Any
) -> Grads:
    if not needs[0]:
        return None, None
    dx = np.take_along_axis(as_rows(dy), as_rows(inputs[1]), axis=2)
    return dx.reshape(inputs[0].shape), None


# --- tuned ---


@jit_elementwise
def gather_planes(dy: Array, indices: Array, windows: int, size: int, dx: Array) -> None:
    """Planes of ``windows`` numbers from planes of ``size`` elements; all flat, offsets unsigned."""
    n, m = np.uint64(windows), np.uint64(size)
    for i in range(np.uint64(0), np.uint64(dx.size) // n):
        for j in range(i * n, i * n + n):
            dx[j] = dy[i * m + np.uint64(indices[j])]


@jit_parallel
def gather_parallel(dy: Array, indices: Array, windows: int, size: int, share: int, dx: Array) -> None:
    for c in prange((dy.size + share * size - 1) // (share * size)):
        i, j = c * share * windows, (c + 1) * share * windows
        part = dy[c * share * size : (c + 1) * share * size]
        gather_planes(part, indices[i:j], windows, size, dx[i:j])


def forward_tuned(x: Array, indices: Array, **attributes: Any) -> tuple[Array]:
    return (places_transposed(x, indices, out_shape(x.shape, **attributes), True),)


def backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, **attributes: Any
) -> Grads:
    if not needs[0]:
        return None, None
    (x, indices), (N, C, H, W) = inputs, dy.shape
    dx = empty(x.shape, dy.dtype)
    given = dy.ravel(), indices.ravel(), x.shape[2] * x.shape[3], H * W
    if dy.size < SERIAL_BELOW:
        gather_planes(*given, dx.ravel())
    else:
        gather_parallel(*given, share_of(N * C, H * W), dx.ravel())
    return dx, None


# --- cuda: as there is no order among threads, the place asks for the latest of the x that go there ---

PER_THREAD = 4
OUTSIDE = 2**31 - 1  # in ``owner``: an index of the plane was wrong


@kernel
def own_kernel(indices: Array, by_windows: Divisor, size: int, owner: Array) -> None:
    """owner[place] = 1 + the last number that goes there; the largest of integers, whoever comes first.

    An index outside of the plane, which nobody has checked, makes the plane's first element NaN.
    """
    i = thread_number()
    if i < indices.size:
        plane, place = quotient(i, by_windows), indices[at(i)]
        if 0 <= place < size:
            cuda.atomic.max(owner, at(plane * size + place), int32(i + 1))
        else:
            cuda.atomic.max(owner, at(plane * size), int32(OUTSIDE))


@kernel
def fetch_kernel(x: Array, owner: Array, y: Array) -> None:
    """Bound: memory, 8 bytes for each element of float32, beside the 4 of clearing ``owner``."""
    start = int32(cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x)
    if start < y.size:
        number = cuda.local.array(PER_THREAD, int32)
        v = cuda.local.array(PER_THREAD, x.dtype)
        for e in range(PER_THREAD):
            number[e] = owner[at(min(start + e * THREADS, y.size - 1))] - 1
        for e in range(PER_THREAD):
            v[e] = x[at(max(0, min(number[e], x.size - 1)))]
            if number[e] < 0:
                v[e] = x.dtype.type(0)
            if number[e] >= x.size:
                v[e] = x.dtype.type(math.nan)
        for e in range(PER_THREAD):
            i = int32(start + e * THREADS)
            if i < y.size:
                y[at(i)] = v[e]


@kernel
def gather_cuda_kernel(dy: Array, indices: Array, by_windows: Divisor, size: int, dx: Array) -> None:
    """NaN where an index is outside of the plane. Bound: memory, each index and window read once."""
    start = int32(cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x)
    if start < dx.size:
        where = cuda.local.array(PER_THREAD, int32)
        v = cuda.local.array(PER_THREAD, dy.dtype)
        for e in range(PER_THREAD):
            i = int32(min(start + e * THREADS, dx.size - 1))
            place = indices[at(i)]
            where[e] = quotient(i, by_windows) * size + place if 0 <= place < size else -1
        for e in range(PER_THREAD):
            v[e] = dy[at(max(where[e], 0))]
            if where[e] < 0:
                v[e] = dy.dtype.type(math.nan)
        for e in range(PER_THREAD):
            i = int32(start + e * THREADS)
            if i < dx.size:
                dx[at(i)] = v[e]


def forward_cuda(x: GpuArray, indices: GpuArray, **attributes: Any) -> tuple[GpuArray]:
    shape = out_shape(x.shape, **attributes)
    owner, y = gpu_zeros(shape, "int32", x.device), gpu_empty(shape, x.dtype, x.device)
    own_kernel[grid_of(x.size)](indices, divisor(x.shape[2] * x.shape[3]), shape[2] * shape[3], owner)
    fetch_kernel[blocks_for(y.size, THREADS * PER_THREAD), THREADS](x, owner, y)
    return (y,)


def backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray, GpuArray], needs: Needs, **attributes: Any
) -> tuple[GpuArray | None, None]:
    if not needs[0]:
        return None, None
    (x, indices), (_, _, H, W) = inputs, dy.shape
    dx = empty_like(x)
    blocks = blocks_for(dx.size, THREADS * PER_THREAD)
    gather_cuda_kernel[blocks, THREADS](dy, indices, divisor(x.shape[2] * x.shape[3]), H * W, dx)
    return dx, None


# --- records ---

NAME = "max_unpool2d"


def check(
    x: Array, indices: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
    output_size: tuple[int, ...] | None = None,
) -> None:  # fmt: skip
    floats(NAME, x=x)
    rank(NAME, "x", x, 4, "(N, C, P, Q)")
    if 0 in x.shape[2:]:
        raise ValueError(f"{NAME}: the images of x must not be empty, got shape {x.shape}")
    if not is_array(indices):
        fail_type(NAME, "indices", indices, "a NumPy array or a Tensor")
    if indices.dtype.kind != "i" or indices.dtype.itemsize not in (4, 8):
        fail_type(NAME, "indices", indices, "int64 or int32")
    if indices.shape != x.shape:
        raise ValueError(f"{NAME}: indices must have the shape of x, {x.shape}, got {indices.shape}")
    check_pair(NAME, "kernel_size", kernel_size, 1)
    steps = check_pair(NAME, "stride", kernel_size if stride is None else stride, 1)
    check_pair(NAME, "padding", padding, 0)
    full = full_size(x.shape, kernel_size, stride, padding)
    if output_size is not None:
        check_output_size(output_size, x.shape, full, steps)
    elif min(full) < 1:
        raise ValueError(f"{NAME}: padding {padding} leaves nothing of images of size {full}")


def check_output_size(
    output_size: Any, x: tuple[int, ...], full: tuple[int, int], steps: tuple[int, int]
) -> None:
    """Demand (H, W) or (N, C, H, W), H and W less than a stride away from the full size."""
    if not isinstance(output_size, (tuple, list)) or not all(type(n) is int for n in output_size):
        fail_type(NAME, "output_size", output_size, "a tuple of ints")
    if len(output_size) not in (2, 4) or tuple(output_size[:-2]) not in ((), x[:2]):
        raise ValueError(f"{NAME}: output_size must be (H, W) or (N, C, H, W) with {x[:2]} in front, "
                         f"got {output_size}")  # fmt: skip
    for n, size, step, axis in zip(output_size[-2:], full, steps, "HW"):
        least, most = max(size - step + 1, 1), size + step - 1
        if not least <= n <= most:
            raise ValueError(f"{NAME}: output_size must be from {least} to {most} along {axis}, less than a "
                             f"stride of {step} from {size}; got {output_size}")  # fmt: skip


def check_values(x: Array, indices: Array, **attributes: Any) -> None:
    _, _, H, W = out_shape(x.shape, **attributes)
    if indices.size and (indices.min() < 0 or indices.max() >= H * W):
        bad = np.argwhere((indices < 0) | (indices >= H * W))[0].tolist()
        raise ValueError(f"{NAME}: indices must be from 0 to {H * W - 1} for planes of {H} x {W}, got "
                         f"{indices[tuple(bad)]} at position {tuple(bad)}")  # fmt: skip


def sample(
    rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], kind: Any = np.int64, **attributes: Any
) -> Sample:
    """Return random numbers, and places of which no two in a plane are equal."""
    _, _, H, W = out_shape(shape, **attributes)
    places = rng.permuted(np.broadcast_to(np.arange(H * W), (*shape[:2], H * W)), axis=2)
    indices = places[:, :, : shape[2] * shape[3]].reshape(shape).astype(kind)
    return Sample(
        f"{shape} {attributes}", (np.asarray(rng.standard_normal(shape), dtype), indices), attributes
    )


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1, 1, 1), kernel_size=1)
    yield sample(rng, dtype, (2, 3, 2, 3), kernel_size=2)
    yield sample(rng, dtype, (2, 2, 3, 2), np.int32, kernel_size=3, stride=2, padding=1)
    yield sample(rng, dtype, (1, 2, 2, 3), kernel_size=(2, 3), stride=(2, 1), output_size=(5, 5))
    yield sample(rng, dtype, (2, 1, 3, 2), kernel_size=2, output_size=(2, 1, 6, 5))
    yield sample(rng, dtype, (0, 2, 2, 2), kernel_size=2)


def bad_inputs() -> Iterator[BadInput]:
    x, i, two = np.ones((1, 2, 2, 3)), np.arange(12).reshape(1, 2, 2, 3), {"kernel_size": 2}
    yield BadInput(ValueError, "x must have 4 axes (N, C, P, Q), got shape (2, 2, 3)", (x[0], i[0]), two)
    yield BadInput(ValueError, "must not be empty", (x[:, :, :0], i[:, :, :0]), two)
    yield BadInput(ValueError, "indices must have the shape of x, (1, 2, 2, 3), got (1, 2, 2, 2)",
                   (x, i[..., :2]), two)  # fmt: skip
    yield BadInput(TypeError, "indices must be int64 or int32", (x, i.astype(float)), two)
    yield BadInput(TypeError, "indices must be int64 or int32", (x, i.astype(np.uint8)), two)
    yield BadInput(TypeError, "indices must be a NumPy array or a Tensor", (x, None), two)
    yield BadInput(ValueError, "indices must be from 0 to 23 for planes of 4 x 6, got 24", (x, i + 13), two)
    yield BadInput(ValueError, "got -1 at position (0, 0, 0, 0)", (x, i - 1), two)
    yield BadInput(ValueError, "kernel_size must be at least 1", (x, i), {"kernel_size": 0})
    yield BadInput(ValueError, "stride must be at least 1", (x, i), {**two, "stride": 0})
    yield BadInput(ValueError, "padding must be at least 0", (x, i), {**two, "padding": -1})
    yield BadInput(ValueError, "leaves nothing", (x, i), {**two, "padding": 2})
    yield BadInput(
        ValueError, "output_size must be from 3 to 5 along H", (x, i), {**two, "output_size": (6, 6)}
    )
    yield BadInput(
        ValueError, "(N, C, H, W) with (1, 2) in front", (x, i), {**two, "output_size": (2, 1, 4, 6)}
    )
    yield BadInput(TypeError, "output_size must be a tuple of ints", (x, i), {**two, "output_size": 4})
    yield BadInput(TypeError, "x must be float32 or float64, got int64", (i, i), two)


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    """Places as max_pool2d gives them: one in each window of 2x2, in their order."""
    for N, C, P, Q in ((8, 6, 32, 32), (16, 64, 28, 28)):
        corner = 4 * Q * np.arange(P)[:, None] + 2 * np.arange(Q)
        inside = rng.choice([0, 1, 2 * Q, 2 * Q + 1], (N, C, P, Q))
        x = np.asarray(rng.standard_normal((N, C, P, Q)), dtype)
        yield Sample(f"{x.shape} x 2", (x, (corner + inside).astype(np.int64)), {"kernel_size": 2})


def flops(x: Array, indices: Array, **attributes: Any) -> int:
    return 0


def jvp(tangents: tuple[Array, None], outputs: tuple[Array], inputs: Inputs, **attributes: Any) -> Array:
    """Return the unpooled tangents: the op is linear in x."""
    return forward_loops(tangents[0], inputs[1], **attributes)[0]


def mutant(name: str, body: Any, old: str, new: str, file: str = "unpool.py") -> Mutant:
    return Mutant(name, body, file, old, new)


max_unpool2d = Op(
    name=NAME,
    loops=Body(forward_loops, backward_loops),
    vectorized=Body(forward_vectorized, backward_vectorized),
    tuned=Body(forward_tuned, backward_tuned),
    cuda=Body(forward_cuda, backward_cuda),
    check=check,
    check_values=check_values,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=jvp,
    gradient=linear,
    constants=frozenset({1}),
    mutants=(
        mutant("rows of the small image", "loops",
               "W = y.shape[3]", "W = x.shape[3]"),
        mutant("gradient of the first place for all", "loops", "        dx[n, c, p, q] = dy[n, c, h, w]",
               "        dx[n, c, p, q] = dy[n, c, 0, 0]"),
        mutant("first plane for all", "tuned", "dy[i * m + np.uint64(", "dy[np.uint64("),
        mutant("last window left out", "tuned", "(i * n, i * n + n)", "(i * n, i * n + n - np.uint64(1))"),
        mutant("chunks overlap", "tuned", "gather_planes(part, indices[i:j], windows, size, dx[i:j])",
               "gather_planes(part, indices[i:j], windows, size, dx[i - 1:j])"),
        mutant("planes not cleared", "tuned", "            dx[e] = 0\n", "            pass\n",
               "pooling/tuned.py"),
    ),
)  # fmt: skip
