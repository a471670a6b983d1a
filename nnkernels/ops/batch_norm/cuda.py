"""batch_norm and batch_norm_inference on a GPU.

Every thread takes the mean and the squares of PER_THREAD elements at a time, relative to the channel's first
element, and puts them together with what it has; so do threads, and parts of a channel, in a fixed order. So
no digits are lost where the mean is far from 0 (Chan, Golub and LeVeque, Algorithms for Computing the Sample
Variance, 1983).

Bound: memory. Where a channel has few elements, one block does all for it: forward reads x and writes y,
backward reads dy and x twice (the second time from the L2 cache) and writes dx. Else parts of channels are
shared among blocks, and x (and dy) are read twice.
"""

import math
from typing import Any

from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like, or_empty
from nnkernels.machine.gpu_index import divide, grid_of, thread_number
from nnkernels.machine.gpu_kernel import THREADS, WARP, at, blocks_for, cuda, device_function, kernel
from nnkernels.machine.gpu_reduce import ALL_LANES, warp_sum
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array
from nnkernels.ops.batch_norm.walk import (
    MOST_THREADS,
    PER_THREAD,
    Plan,
    blocks_of,
    channel_of,
    image_and_position,
    next_places,
    plan_for,
    start_of,
    value_or,
)

Inputs = tuple[GpuArray, GpuArray | None, GpuArray | None]
Outputs = tuple[GpuArray, GpuArray, GpuArray]
Needs = tuple[bool, bool, bool]
Grads = tuple[GpuArray | None, GpuArray | None, GpuArray | None]

TWO, THREE = 2 * MOST_THREADS, 3 * MOST_THREADS  # numbers that two or three of each thread take

# --- sums of a block, and of parts ---


@device_function
def merged(count: Any, mean: Any, square: Any, other: Any, mean_o: Any, square_o: Any) -> Any:
    """Return count, mean and squared distances from it, of two sets of numbers together."""
    total = count + other
    share = other / max(total, typed(1, total))
    far = mean_o - mean
    return total, mean + far * share, square + square_o + far * far * (count * share)


@device_function
def moments_of_thread(x: Array, centre: Any, plan: Plan) -> Any:
    """Return count, mean and squares of x - centre over the thread's elements."""
    values = cuda.local.array(PER_THREAD, x.dtype)
    places = cuda.local.array(PER_THREAD, int32)
    zero, one = typed(0, centre), typed(1, centre)
    count, mean, square = zero, zero, zero
    j, _, q, last = start_of(plan)
    n, s = image_and_position(q, plan)
    while q < last:
        n, s = next_places(q, last, n, s, plan, j * plan[2], (plan[1] * plan[2], 1), places)
        for k in range(PER_THREAD):
            values[k] = x[at(places[k])]
        seen, total, around = zero, zero, zero
        for k in range(PER_THREAD):
            if q + k * plan[6] < last:
                values[k] -= centre
                total += values[k]
                seen += one
        here = total / seen
        for k in range(PER_THREAD):
            if q + k * plan[6] < last:
                around += (values[k] - here) * (values[k] - here)
        count, mean, square = merged(count, mean, square, seen, here, around)
        q += plan[6] * PER_THREAD
    return count, mean, square


@device_function
def moments_of_block(x: Array, centre: Any, plan: Plan, scratch: Array) -> Any:
    """Return mean and squares of x - centre over the block's part of the thread's column."""
    t, T = cuda.threadIdx.x, MOST_THREADS
    count, mean, square = moments_of_thread(x, centre, plan)
    scratch[at(t)], scratch[at(T + t)], scratch[at(2 * T + t)] = count, mean, square
    cuda.syncthreads()
    half = cuda.blockDim.x // 2
    while half >= plan[4]:
        if t < half:
            o = t + half
            count, mean, square = merged(
                count, mean, square, scratch[at(o)], scratch[at(T + o)], scratch[at(2 * T + o)]
            )
            scratch[at(t)], scratch[at(T + t)], scratch[at(2 * T + t)] = count, mean, square
        cuda.syncthreads()
        half //= 2
    of = t % plan[4]
    return scratch[at(T + of)], scratch[at(2 * T + of)]


@device_function
def centre_of(x: Array, j: int, plan: Plan) -> Any:
    """Return the first element of the channel of column j, and the channel."""
    c = channel_of(j, plan)
    return x[at(c * plan[2] * plan[3])], c


@device_function
def statistics(centre: Any, off: Any, variance: Any, eps: Any) -> Any:
    """Return mean and rstd, and what rounding centre + off added to the mean."""
    mean = centre + off
    return mean, typed(1, eps) / math.sqrt(variance + eps), (mean - centre) - off


@device_function
def normalise(x: Array, plan: Plan, mean: Any, scale: Any, shift: Any, y: Array) -> None:
    """Write y = (x - mean) scale + shift for the thread's elements."""
    values = cuda.local.array(PER_THREAD, x.dtype)
    places = cuda.local.array(PER_THREAD, int32)
    j, _, q, last = start_of(plan)
    n, s = image_and_position(q, plan)
    while q < last:
        n, s = next_places(q, last, n, s, plan, j * plan[2], (plan[1] * plan[2], 1), places)
        for k in range(PER_THREAD):
            values[k] = x[at(places[k])]
        for k in range(PER_THREAD):
            if q + k * plan[6] < last:
                y[at(places[k])] = (values[k] - mean) * scale + shift
        q += plan[6] * PER_THREAD


# --- forward ---


@kernel
def forward_kernel(
    x: Array, w: Array, b: Array, plan: Plan, eps: Any, y: Array, mean: Array, rstd: Array
) -> None:
    """Do everything for the channels of the block, whose only part it takes."""
    scratch = cuda.shared.array(THREE, x.dtype)
    j = start_of(plan)[0]
    centre, c = centre_of(x, j, plan)
    off, square = moments_of_block(x, centre, plan, scratch)
    m, r, rest = statistics(centre, off, square / typed(plan[0] * plan[2], eps), eps)
    scale = value_or(w, c, typed(1, eps)) * r
    normalise(x, plan, m, scale, value_or(b, c, typed(0, eps)) + scale * rest, y)
    if cuda.threadIdx.x < plan[4] and j < plan[1]:
        mean[at(c)], rstd[at(c)] = m, r


@kernel
def moments_kernel(x: Array, plan: Plan, parts: int, sums: Array) -> None:
    """Write mean and squares of one part of each column, relative to its channel's first element."""
    scratch = cuda.shared.array(THREE, x.dtype)
    W = plan[1]
    j, part, _, _ = start_of(plan)
    off, square = moments_of_block(x, centre_of(x, j, plan)[0], plan, scratch)
    if cuda.threadIdx.x < plan[4] and j < W:
        sums[at(part * W + j)], sums[at((parts + part) * W + j)] = off, square


@kernel
def finish_moments_kernel(
    x: Array, b: Array, w: Array, plan: Plan, parts: int, sums: Array, eps: Any,
    mean: Array, rstd: Array, shift: Array,
) -> None:  # fmt: skip
    """Put the parts of a channel together, a warp for each; shift is what (x - mean) w rstd needs to be y."""
    N, W, S, width, _, share, _, _, _ = plan
    c, lane = cuda.blockIdx.x * (THREADS // WARP) + cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
    if c < mean.size:
        count = off = square = typed(0, eps)
        for e in range(lane, parts * width, WARP):
            part = divide(e, width)
            i = part * W + c * width + e - part * width
            seen = x.dtype.type(min(share, N * S - part * share))
            count, off, square = merged(count, off, square, seen, sums[at(i)], sums[at(parts * W + i)])
        for distance in (16, 8, 4, 2, 1):
            seen = cuda.shfl_down_sync(ALL_LANES, count, distance)
            here = cuda.shfl_down_sync(ALL_LANES, off, distance)
            around = cuda.shfl_down_sync(ALL_LANES, square, distance)
            count, off, square = merged(count, off, square, seen, here, around)
        if lane == 0:
            m, r, rest = statistics(x[at(c * S * width)], off, square / count, eps)
            scale = value_or(w, c, typed(1, eps)) * r
            mean[at(c)], rstd[at(c)] = m, r
            shift[at(c)] = value_or(b, c, typed(0, eps)) + scale * rest


@kernel
def normalise_kernel(
    x: Array, plan: Plan, mean: Array, rstd: Array, w: Array, shift: Array, y: Array
) -> None:  # fmt: skip
    """Write y = (x - mean) w rstd + shift; an empty mean or shift is 0, an empty w is 1."""
    c = channel_of(start_of(plan)[0], plan)
    r = rstd[at(c)]
    zero = typed(0, r)
    scale = value_or(w, c, typed(1, r)) * r
    normalise(x, plan, value_or(mean, c, zero), scale, value_or(shift, c, zero), y)


def batch_norm_forward_cuda(
    x: GpuArray, w: GpuArray | None, b: GpuArray | None, *, eps: float = 1e-5
) -> Outputs:
    y, (plan, parts, threads) = empty_like(x), plan_for(x)
    w, b, least, blocks = or_empty(w, x), or_empty(b, x), x.dtype.type(eps), blocks_of(plan, parts)
    mean, rstd = empty(x.shape[1:2], x.dtype, x.device), empty(x.shape[1:2], x.dtype, x.device)
    if parts == plan[3] == 1:
        forward_kernel[blocks, threads](x, w, b, plan, least, y, mean, rstd)
        return y, mean, rstd
    sums, shift = empty((2, parts, plan[1]), x.dtype, x.device), empty_like(mean)
    moments_kernel[blocks, threads](x, plan, parts, sums)
    finish_moments_kernel[blocks_for(mean.size * WARP), THREADS](
        x, b, w, plan, parts, sums, least, mean, rstd, shift
    )
    normalise_kernel[blocks, threads](x, plan, mean, rstd, w, shift, y)
    return y, mean, rstd


# --- backward ---


@kernel
def sums_kernel(
    dy: Array, x: Array, mean: Array, rstd: Array, owner: tuple[int, int], plan: Plan, parts: int, sums: Array
) -> None:
    """Write the sums of dy (x - m) r and of dy over one part of each column.

    m and r of channel c in image n are elements n G + c // K of mean and rstd, owner = (G, K): (0, 1) where
    each channel has its own.
    """
    scratch = cuda.shared.array(TWO, x.dtype)
    values, slopes = cuda.local.array(PER_THREAD, x.dtype), cuda.local.array(PER_THREAD, x.dtype)
    places, owners = cuda.local.array(PER_THREAD, int32), cuda.local.array(PER_THREAD, int32)
    _, W, S, _, _, _, along, _, _ = plan
    total = dot = x.dtype.type(0)
    j, part, q, last = start_of(plan)
    own = divide(channel_of(j, plan), owner[1])
    n, s = image_and_position(q, plan)
    while q < last:
        next_places(q, last, n, s, plan, own, (owner[0], 0), owners)
        n, s = next_places(q, last, n, s, plan, j * S, (W * S, 1), places)
        for k in range(PER_THREAD):
            i = at(owners[k])
            values[k] = (x[at(places[k])] - mean[i]) * rstd[i]
            slopes[k] = dy[at(places[k])]
        for k in range(PER_THREAD):
            if q + k * along < last:
                total += slopes[k]
                dot += slopes[k] * values[k]
        q += along * PER_THREAD
    t, T, half = cuda.threadIdx.x, MOST_THREADS, cuda.blockDim.x // 2
    scratch[at(t)], scratch[at(T + t)] = dot, total
    cuda.syncthreads()
    while half >= plan[4]:
        if t < half:
            scratch[at(t)] += scratch[at(t + half)]
            scratch[at(T + t)] += scratch[at(T + t + half)]
        cuda.syncthreads()
        half //= 2
    if t < plan[4] and j < W:
        i = part * W + j
        sums[at(i)], sums[at(parts * W + i)] = scratch[at(t)], scratch[at(T + t)]


@kernel
def finish_sums_kernel(sums: Array, plan: Plan, parts: int, dw: Array, db: Array) -> None:
    """Add the parts of a channel, a warp for each."""
    W, width = plan[1], plan[3]
    c, lane = cuda.blockIdx.x * (THREADS // WARP) + cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
    if c < dw.size:
        total = dot = sums.dtype.type(0)
        for e in range(lane, parts * width, WARP):
            part = divide(e, width)
            i = part * W + c * width + e - part * width
            dot += sums[at(i)]
            total += sums[at(parts * W + i)]
        dot, total = warp_sum(dot), warp_sum(total)
        if lane == 0:
            dw[at(c)], db[at(c)] = dot, total


def channel_sums(
    dy: GpuArray, x: GpuArray, mean: GpuArray, rstd: GpuArray, owner: tuple[int, int] = (0, 1),
    ends: int | None = None,
) -> tuple[GpuArray, GpuArray]:  # fmt: skip
    """Return for each channel dw, the sum of dy (x - mean) rstd, and db, the sum of dy; flat.

    For ``owner`` see the kernel, for ``ends`` plan_for. Bound: dy and x are read once.
    """
    plan, parts, threads = plan_for(x, ends)
    W, width = plan[1], plan[3]
    sums = empty((2, parts * W), x.dtype, x.device)
    sums_kernel[blocks_of(plan, parts), threads](dy, x, mean, rstd, owner, plan, parts, sums)
    if parts * width == 1:
        return sums[:1].ravel(), sums[1:].ravel()
    dw, db = empty((W // width,), x.dtype, x.device), empty((W // width,), x.dtype, x.device)
    finish_sums_kernel[blocks_for(dw.size * WARP), THREADS](sums, plan, parts, dw, db)
    return dw, db


@kernel
def gradient_kernel(
    dy: Array, x: Array, w: Array, mean: Array, rstd: Array, dw: Array, db: Array, plan: Plan, dx: Array
) -> None:
    """Write dx."""
    values, slopes = cuda.local.array(PER_THREAD, x.dtype), cuda.local.array(PER_THREAD, x.dtype)
    places = cuda.local.array(PER_THREAD, int32)
    j, _, q, last = start_of(plan)
    c = channel_of(j, plan)
    m, r = mean[at(c)], rstd[at(c)]
    count = x.dtype.type(plan[0] * plan[2] * plan[3])
    scale = value_or(w, c, typed(1, r)) * r
    along, across = db[at(c)] / count, r * (dw[at(c)] / count)
    n, s = image_and_position(q, plan)
    while q < last:
        n, s = next_places(q, last, n, s, plan, j * plan[2], (plan[1] * plan[2], 1), places)
        for k in range(PER_THREAD):
            values[k], slopes[k] = x[at(places[k])], dy[at(places[k])]
        for k in range(PER_THREAD):
            if q + k * plan[6] < last:
                dx[at(places[k])] = scale * ((slopes[k] - along) - (values[k] - m) * across)
        q += plan[6] * PER_THREAD


def batch_norm_backward_cuda(
    dy: GpuArray, outputs: Outputs, inputs: Inputs, needs: Needs, *, eps: float = 1e-5
) -> Grads:
    (x, w, _), (_, mean, rstd) = inputs, outputs
    (dw, db), dx = channel_sums(dy, x, mean, rstd), None
    if needs[0]:
        dx, (plan, parts, threads) = empty_like(x), plan_for(x)
        gradient_kernel[blocks_of(plan, parts), threads](
            dy, x, or_empty(w, x), mean, rstd, dw, db, plan, dx
        )  # fmt: skip
    return dx, dw if needs[1] else None, db if needs[2] else None


# --- by given statistics ---


@kernel
def inverse_deviation_kernel(var: Array, eps: Any, rstd: Array) -> None:
    """Write 1 / sqrt(var + eps)."""
    c = thread_number()
    if c < rstd.size:
        rstd[at(c)] = typed(1, eps) / math.sqrt(var[at(c)] + eps)


def rstd_of(var: GpuArray, eps: float) -> GpuArray:
    """Return 1 / sqrt(var + eps)."""
    rstd = empty_like(var)
    inverse_deviation_kernel[grid_of(var.size)](var, var.dtype.type(eps), rstd)
    return rstd


def inference_forward_cuda(
    x: GpuArray, mean: GpuArray, var: GpuArray, w: GpuArray | None, b: GpuArray | None, *, eps: float = 1e-5
) -> tuple[GpuArray]:
    """Bound: x is read and y written once."""
    y, (plan, parts, threads) = empty_like(x), plan_for(x)
    normalise_kernel[blocks_of(plan, parts), threads](
        x, plan, mean, rstd_of(var, eps), or_empty(w, x), or_empty(b, x), y
    )
    return (y,)


def inference_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: Any, needs: tuple[bool, ...], *, eps: float = 1e-5
) -> tuple[GpuArray | None, None, None, GpuArray | None, GpuArray | None]:
    """Bound: dy is read and dx written once; for dw and db, dy and x are read once more."""
    x, mean, var, w, _ = inputs
    rstd, dx, dw, db = rstd_of(var, eps), None, None, None
    if needs[0]:
        dx, nothing, (plan, parts, threads) = empty_like(x), or_empty(None, x), plan_for(x)
        normalise_kernel[blocks_of(plan, parts), threads](
            dy, plan, nothing, rstd, or_empty(w, x), nothing, dx
        )  # fmt: skip
    if needs[3] or needs[4]:
        dw, db = channel_sums(dy, x, mean, rstd)
    return dx, None, None, dw if needs[3] else None, db if needs[4] else None
