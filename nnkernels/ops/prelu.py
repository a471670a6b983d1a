"""prelu: relu whose slope on the negative side is learned, one for all of x or one for each channel.

    y_i  = x_i   where x_i > 0, else w_c x_i        c is the channel of x_i
    dx_i = dy_i  where x_i > 0, else w_c dy_i
    dw_c = sum of dy_i x_i over all x_i <= 0 of channel c

x (N, C, ...) or, with one weight, any shape; weight (1) or (C); float32 or float64, both alike. He et al.,
Delving Deep into Rectifiers, 2015.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_array import empty as gpu_empty
from nnkernels.machine.gpu_index import Divisor, divisor, grid_of, quotient, thread_number
from nnkernels.machine.gpu_kernel import THREADS, WARP, at, blocks_for, cuda, kernel
from nnkernels.machine.gpu_reduce import WARPS_MOST, block_sum
from nnkernels.machine.jit import inline, jit, jit_parallel, jit_tuned, prange, signed, typed
from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.machine.threads import SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.normalised import in_channels
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.reduce.cuda import sum_cuda
from nnkernels.ops.validate import floats, rank

Pair = tuple[Array, Array]
AnyArray = Array | GpuArray
RUN = 4096  # terms of one sum before it is added to its channel's: short sums stay accurate

# --- loops ---


@jit
def forward_kernel(x: Array, w: Array, y: Array) -> None:
    N, C, inner = x.shape
    for n in range(N):
        for c in range(C):
            for i in range(inner):
                y[n, c, i] = x[n, c, i] if x[n, c, i] > 0 else w[c] * x[n, c, i]


@jit
def backward_kernel(dy: Array, x: Array, w: Array, dx: Array, dw: Array) -> None:
    N, C, inner = x.shape
    for n in range(N):
        for c in range(C):
            for i in range(inner):
                if x[n, c, i] > 0:
                    dx[n, c, i] = dy[n, c, i]
                else:
                    dx[n, c, i] = w[c] * dy[n, c, i]
                    dw[c] += dy[n, c, i] * x[n, c, i]


def planes(x: AnyArray, weight: AnyArray) -> tuple[int, int, int]:
    """Return (N, C, inner) of x; one channel if all of x shares its slope."""
    return (1, 1, x.size) if weight.size == 1 else (x.shape[0], x.shape[1], math.prod(x.shape[2:]))


def forward_loops(x: Array, weight: Array) -> tuple[Array]:
    y = np.empty(x.shape, x.dtype)
    sizes = planes(x, weight)
    forward_kernel(x.reshape(sizes), weight, y.reshape(sizes))
    return (y,)


def backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Pair, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    x, weight = inputs
    sizes = planes(x, weight)
    dx, dw = np.empty(x.shape, x.dtype), np.zeros(weight.shape, np.float64)  # the yardstick for sums
    backward_kernel(dy.reshape(sizes), x.reshape(sizes), weight, dx.reshape(sizes), dw)
    return dx if needs[0] else None, dw.astype(weight.dtype) if needs[1] else None


# --- vectorized ---


def in_place(weight: Array, ndim: int) -> Array:
    """Return the weight in a shape that broadcasts with an x of ``ndim`` axes."""
    return weight.reshape((weight.size, *(1,) * (ndim - 2)) if ndim > 1 else (1,) * ndim)


def forward_vectorized(x: Array, weight: Array) -> tuple[Array]:
    return (np.where(x > 0, x, in_place(weight, x.ndim) * x),)


def backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Pair, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    x, weight = inputs
    dx = np.where(x > 0, dy, in_place(weight, x.ndim) * dy) if needs[0] else None
    if not needs[1]:
        return dx, None
    parts = np.where(x > 0, dy.dtype.type(0), dy * x).reshape(planes(x, weight))
    return dx, parts.sum(axis=(0, 2))


# --- tuned: one pass over x, in runs of one channel or, where inner is 1, of one row. Bound: memory ---


@inline
def run_at(i: int, last: int, C: int, inner: int) -> tuple[int, int]:
    """Return the channel of element i, and how many of its neighbours before ``last`` one loop takes."""
    if inner == 1:
        return i % C, min(C - i % C, last - i, RUN)
    return i // inner % C, min(inner - i % inner, last - i, RUN)


@jit_tuned
def forward_part(x: Array, w: Array, inner: int, i: int, last: int, y: Array) -> None:
    """Do elements i to last - 1."""
    while i < last:
        c, n = run_at(i, last, w.size, inner)
        given, out, slope, slopes = x[i : i + n], y[i : i + n], w[c], w[c : c + n]
        if inner == 1:
            for e in range(n):
                out[e] = given[e] if given[e] > 0 else slopes[e] * given[e]
        else:
            for e in range(n):
                out[e] = given[e] if given[e] > 0 else slope * given[e]
        i += n


@jit_tuned
def backward_part(dy: Array, x: Array, w: Array, inner: int, i: int, last: int, dx: Array, dw: Array) -> None:
    """Write dx and add to dw what comes from elements i to last - 1; an empty dx or dw is left out."""
    zero = typed(0, w[0])
    while i < last:
        c, n = run_at(i, last, w.size, inner)
        slope, slopes, sums = w[c], w[c : c + n], dw[c : c + n]
        g, given, out = dy[i : i + n], x[i : i + n], dx[i : i + n]
        if inner == 1:
            for e in range(out.size):
                out[e] = g[e] if given[e] > 0 else slopes[e] * g[e]
            for e in range(sums.size):
                sums[e] += zero if given[e] > 0 else g[e] * given[e]
        else:
            for e in range(out.size):
                out[e] = g[e] if given[e] > 0 else slope * g[e]
            if sums.size > 0:
                s = zero
                for e in range(n):
                    s += zero if given[e] > 0 else g[e] * given[e]
                sums[0] += s
        i += n


@jit_parallel
def forward_parallel(x: Array, w: Array, inner: int, share: int, y: Array) -> None:
    for c in prange((x.size + share - 1) // share):
        forward_part(x, w, inner, signed(c) * share, min((signed(c) + 1) * share, x.size), y)


@jit_parallel
def backward_parallel(
    dy: Array, x: Array, w: Array, inner: int, share: int, dx: Array, partial: Array
) -> None:
    for c in prange((x.size + share - 1) // share):
        last = min((signed(c) + 1) * share, x.size)
        backward_part(dy, x, w, inner, signed(c) * share, last, dx, partial[c])


def forward_tuned(x: Array, weight: Array) -> tuple[Array]:
    y = empty(x.shape, x.dtype)
    given = x.ravel(), weight, planes(x, weight)[2]
    if x.size < SERIAL_BELOW_IF_CHEAP:
        forward_part(*given, 0, x.size, y.ravel())
    else:
        forward_parallel(*given, share_of(x.size), y.ravel())
    return (y,)


def backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Pair, needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    x, weight = inputs
    dx = empty(x.shape if needs[0] else (0,), x.dtype)
    dw = zeros(weight.shape if needs[1] else (0,), x.dtype)
    given = dy.ravel(), x.ravel(), weight, planes(x, weight)[2]
    if x.size < SERIAL_BELOW_IF_CHEAP:
        backward_part(*given, 0, x.size, dx.ravel(), dw)
    else:
        share = share_of(x.size)
        partial = zeros((-(-x.size // share), dw.size), x.dtype)
        backward_parallel(*given, share, dx.ravel(), partial)
        dw = partial.sum(axis=0)  # one task after the other
    return dx if needs[0] else None, dw if needs[1] else None


# --- cuda: dw is summed while dx is written, by blocks that have a part of one channel each, or by threads
# that have a part of one column, where channels lie side by side; then the parts are. Bound: memory ---

PER_THREAD = 4  # elements a block's width apart, or rows, that a thread reads before it writes
PARTS = 2048  # about as many blocks sum a large array
COLUMN_THREADS = 2**18


@kernel
def slopes_kernel(g: Array, x: Array, w: Array, by_inner: Divisor, by_c: Divisor, y: Array) -> None:
    """y_i = g_i where x_i > 0, else w_c g_i: forward with g = x, dx with g = dy."""
    start = int32(cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x)
    if start < y.size:
        v = cuda.local.array(PER_THREAD, x.dtype)
        for e in range(PER_THREAD):
            i = int32(min(start + e * THREADS, y.size - 1))  # no load waits for a test
            plane = quotient(i, by_inner)
            slope = w[at(plane - quotient(plane, by_c) * by_c[0])]
            given, grad = x[at(i)], g[at(i)]
            v[e] = grad if given > x.dtype.type(0) else slope * grad
        for e in range(PER_THREAD):
            i = int32(start + e * THREADS)
            if i < y.size:
                y[at(i)] = v[e]


@kernel
def planes_kernel(
    dy: Array, x: Array, w: Array, n: int, by_inner: Divisor, by_c: Divisor, share: int, dx: Array,
    partial: Array,
) -> None:  # fmt: skip
    """Block p C + c takes elements p share ... of channel c, which has n, and writes their sum."""
    scratch = cuda.shared.array(WARPS_MOST, x.dtype)
    part = quotient(cuda.blockIdx.x, by_c)
    c, width = int32(cuda.blockIdx.x - part * by_c[0]), int32(cuda.blockDim.x)
    zero, slope, total = x.dtype.type(0), w[at(c)], x.dtype.type(0)
    v = cuda.local.array(PER_THREAD, x.dtype)
    where = cuda.local.array(PER_THREAD, int32)
    last = int32(min((part + 1) * share, n))
    start = int32(part * share + cuda.threadIdx.x)
    while start < last:
        for k in range(PER_THREAD):
            e = int32(min(start + k * width, last - 1))
            where[k] = e + (quotient(e, by_inner) * (by_c[0] - 1) + c) * by_inner[0]
            given, grad = x[at(where[k])], dy[at(where[k])]
            v[k] = grad if given > zero else slope * grad
            counts = (start + k * width < last) & (not given > zero)
            total += grad * given if counts else zero
        for k in range(PER_THREAD):
            if (start + k * width < last) & (dx.size > 0):
                dx[at(where[k])] = v[k]
        start = int32(start + PER_THREAD * width)
    total = block_sum(total, scratch)
    if cuda.threadIdx.x == 0:
        partial[at(cuda.blockIdx.x)] = total


@kernel
def columns_kernel(
    dy: Array, x: Array, w: Array, N: int, by_columns: Divisor, by_inner: Divisor, rows: int, dx: Array,
    partial: Array,
) -> None:  # fmt: skip
    """Thread p M + m takes rows p rows ... of column m of (N, M = C inner), and writes their sum.

    Neither writes an empty dx.
    """
    t = thread_number()
    if t < partial.size:
        part = quotient(t, by_columns)
        column = int32(t - part * by_columns[0])
        zero, slope, total = x.dtype.type(0), w[at(quotient(column, by_inner))], x.dtype.type(0)
        v = cuda.local.array(PER_THREAD, x.dtype)
        last = int32(min((part + 1) * rows, N))
        row = int32(part * rows)
        while row < last:
            for k in range(PER_THREAD):
                i = min(row + k, last - 1) * by_columns[0] + column
                given, grad = x[at(i)], dy[at(i)]
                v[k] = grad if given > zero else slope * grad
                counts = (row + k < last) & (not given > zero)
                total += grad * given if counts else zero
            for k in range(PER_THREAD):
                if (row + k < last) & (dx.size > 0):
                    dx[at((row + k) * by_columns[0] + column)] = v[k]
            row = int32(row + PER_THREAD)
        partial[at(t)] = total


def slopes(g: GpuArray, x: GpuArray, weight: GpuArray) -> GpuArray:
    """Return g, times its channel's slope where x is not positive."""
    y, (_, C, inner) = empty_like(x), planes(x, weight)
    blocks = blocks_for(y.size, THREADS * PER_THREAD)
    slopes_kernel[blocks, THREADS](g, x, weight, divisor(max(inner, 1)), divisor(max(C, 1)), y)
    return y


def forward_cuda(x: GpuArray, weight: GpuArray) -> tuple[GpuArray]:
    return (slopes(x, x, weight),)


def backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray, GpuArray], needs: tuple[bool, bool]
) -> tuple[GpuArray | None, GpuArray | None]:
    x, weight = inputs
    if not needs[1]:
        return slopes(dy, x, weight) if needs[0] else None, None
    N, C, inner = planes(x, weight)
    dx = gpu_empty(x.shape if needs[0] else (0,), x.dtype, x.device)
    n, by_inner = N * inner, divisor(max(inner, 1))
    if inner >= WARP:  # neighbouring threads find neighbouring elements of one channel
        share = max(2 * THREADS * PER_THREAD, blocks_for(n * C, PARTS))
        parts = blocks_for(n, share)
        threads = grid_of(blocks_for(min(n, share), PER_THREAD))[1]
        partial = gpu_empty((parts, C, 1), x.dtype, x.device)
        planes_kernel[parts * C, threads](dy, x, weight, n, by_inner, divisor(C), share, dx, partial)
    else:
        rows = max(4 * PER_THREAD, blocks_for(N * C * inner, COLUMN_THREADS))
        partial = gpu_empty((blocks_for(N, rows), C, inner), x.dtype, x.device)
        by_columns = divisor(max(C * inner, 1))
        columns_kernel[grid_of(partial.size)](dy, x, weight, N, by_columns, by_inner, rows, dx, partial)
    (dw,) = sum_cuda.forward(partial, dim=(0, 2))
    return dx if needs[0] else None, dw.reshape(weight.shape)


# --- in ops ---


def prelu_formula(x: Any, weight: Any) -> Any:
    of_channel = in_channels(weight, x) if weight.size > 1 else weight.reshape(())
    return x.relu() - of_channel * (-x).relu()


# --- records ---


def check(x: Array, weight: Array) -> None:
    floats("prelu", x=x, weight=weight)
    rank("prelu", "weight", weight, 1, "(1) or (C)")
    channels = x.shape[1] if x.ndim > 1 else 1
    if weight.size not in (1, channels):
        wanted = f"(1,) or ({channels},)" if x.ndim > 1 else "(1,)"
        raise ValueError(
            f"prelu: weight must have shape {wanted} for x of shape {x.shape}, got {weight.shape}"
        )


def sample(rng: np.random.Generator, shape: tuple[int, ...], weights: int, dtype: Any) -> Sample:
    x = rng.uniform(0.05, 3, shape) * rng.choice([-1, 1], shape)
    w = rng.uniform(-0.5, 1.5, weights)
    return Sample(f"{shape}, {weights} weights", (np.asarray(x, dtype), np.asarray(w, dtype)))


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape, weights in (
        ((), 1), ((5,), 1), ((1, 1), 1), ((4, 3), 1), ((4, 3), 3), ((2, 3, 4), 3), ((2, 3, 2, 3), 1),
        ((2, 3, 2, 3), 3), ((0, 3), 3), ((0, 3), 1), ((2, 3, 0), 3),
    ):  # fmt: skip
        yield sample(rng, shape, weights, dtype)


def bad_inputs() -> Iterator[BadInput]:
    x = np.ones((2, 3))
    yield BadInput(ValueError, "weight must have 1 axes (1) or (C), got shape (3, 1)", (x, np.ones((3, 1))))
    yield BadInput(
        ValueError, "must have shape (1,) or (3,) for x of shape (2, 3), got (2,)", (x, np.ones(2))
    )
    yield BadInput(ValueError, "must have shape (1,) for x of shape (3,), got (3,)", (x[0], np.ones(3)))
    yield BadInput(TypeError, "one dtype, got float64 and float32", (x, np.ones(3, np.float32)))
    yield BadInput(TypeError, "weight must be a NumPy array", (x, 0.25))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, (16, 32, 28, 28), 32, dtype)
    yield sample(rng, (64, 64, 56, 56), 1, dtype)
    yield sample(rng, (256, 1024), 1024, dtype)


def jvp(tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: Pair) -> Array:
    (x, weight), (vx, vw) = inputs, tangents
    w, dy = in_place(weight, x.ndim), np.zeros_like(x)
    if vx is not None:
        dy += np.where(x > 0, 1, w) * vx
    if vw is not None:
        dy += np.where(x > 0, 0, x) * in_place(vw, x.ndim)
    return dy


prelu = Op(
    name="prelu",
    loops=Body(forward_loops, backward_loops),
    vectorized=Body(forward_vectorized, backward_vectorized),
    tuned=Body(forward_tuned, backward_tuned),
    cuda=Body(forward_cuda, backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, weight: x.size,
    jvp=jvp,
    gradient=by_formula(prelu_formula),
    mutants=(
        Mutant("weight ignored", "loops", "prelu.py", "> 0 else w[c] * x[n, c, i]", "> 0 else x[n, c, i]"),
        Mutant("missing +=", "loops", "prelu.py", "dw[c] += dy", "dw[c] = dy"),
        Mutant("cotangent passes unscaled", "loops", "prelu.py", "= w[c] * dy[n, c, i]", "= dy[n, c, i]"),
        Mutant("one channel for all", "loops", "prelu.py", "(1, 1, x.size) if weight.size == 1 else",
               "(1, 1, x.size) if True else"),
        Mutant("slope of the row's first channel", "tuned", "prelu.py",
               "out[e] = given[e] if given[e] > 0 else slopes[e] * given[e]",
               "out[e] = given[e] if given[e] > 0 else slopes[0] * given[e]"),
        Mutant("channels of planes mixed up", "tuned", "prelu.py", "return i // inner % C, min",
               "return i % C, min"),
        Mutant("sum over positive x, too", "tuned", "prelu.py", "s += zero if given[e] > 0 else", "s +="),
        Mutant("sum of the last run alone", "tuned", "prelu.py", "sums[0] += s", "sums[0] = s"),
        Mutant("slope 0 as in relu", "tuned", "prelu.py", "else slope * g[e]", "else zero"),
        Mutant("sum of the first task", "tuned", "prelu.py",
               "dw = partial.sum(axis=0)  #", "dw = partial[0]  #"),
    ),
)  # fmt: skip
