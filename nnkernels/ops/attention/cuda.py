"""attention on a GPU: scores are computed tile by tile and never written to memory.

A block has a tile of rows of its own, queries or keys, and goes over the others, a tile of OTHERS at a time;
each thread has 4 x 4 scores in registers. Forward rescales what it has whenever a larger score comes along
(an online softmax), and divides by the sum of powers at the end. Backward computes scores anew from the
logarithm of each row's sum, for each gradient: a block's own rows are queries for dq, keys for dk and dv, so
that every gradient has one writer.

Bound: 2 N L S (E + F) FLOPs forward; backward takes eight such products instead of the five it could do with,
but stays within registers that let two blocks share a multiprocessor. Features of a result beyond FEATURES
are left to further blocks, which compute the same scores.

Dao et al., FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, NeurIPS 2022.
"""

import math
from functools import cache
from typing import Any, NamedTuple

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like, or_empty
from nnkernels.machine.gpu_index import divide, grid_of, thread_number
from nnkernels.machine.gpu_kernel import (
    THREADS,
    WARP,
    Expected,
    Kernel,
    at,
    blocks_for,
    ceil_div,
    cuda,
    device_function,
    kernel,
    next_power_of_two,
)
from nnkernels.machine.gpu_reduce import ALL_LANES, warp_sum
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array
from nnkernels.ops.attention.tiles import (
    FEATURES,
    OTHERS,
    OWN,
    PITCH,
    SIDE,
    Mask,
    Sizes,
    clear,
    kept,
    matrix_of,
    others_of,
    place_of,
    products_of_tiles,
    put,
    score,
    store,
)

Grads = tuple[GpuArray | None, ...]
# For one row r of a thread's 4 x 4 numbers. Called for each r by name: so long a loop would not be unrolled,
# and what it indexes not stay in registers.


@device_function
def soften(
    r: int, s: Array, sums: Array, top: Array, total: Array, p: Array, place: Any, sizes: Sizes, scale: Any,
    bias: Array, matrix: int, mask: Mask, keep: Array,
) -> None:  # fmt: skip
    """Turn products s into p = e^(score - largest so far), and rescale what there is by the new largest."""
    n, first, o = place
    y, x = divide(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
    zero, least, most = typed(0, scale), typed(-math.inf, scale), top[r]
    i = first + 4 * y + r
    for c in range(4):
        s[4 * r + c] = score(s[4 * r + c], i, o + x + SIDE * c, sizes, scale, bias, matrix, mask)
        most = max(most, s[4 * r + c])
    for distance in (8, 4, 2, 1):
        most = max(most, cuda.shfl_xor_sync(ALL_LANES, most, distance))
    shift = most if most > least else zero  # e^(-inf - shift) is 0
    shrink = math.exp(top[r] - shift)
    top[r], total[r] = most, total[r] * shrink
    for c in range(4):
        power = math.exp(s[4 * r + c] - shift)
        total[r] += power
        sums[4 * r + c] *= shrink
        power *= kept(keep, n, i, o + x + SIDE * c, sizes, typed(1, scale))
        p[at((4 * y + r) * PITCH + x + SIDE * c)] = power


@device_function
def probable(
    r: int, s: Array, place: Any, own_keys: int, sizes: Sizes, scale: Any, bias: Array, matrix: int,
    mask: Mask, lse: Array,
) -> None:  # fmt: skip
    """Turn products s into probabilities; the own rows are keys, or else queries."""
    _, first, o = place
    y, x = divide(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
    for c in range(4):
        own, other = first + 4 * y + r, o + x + SIDE * c
        i, j = (other, own) if own_keys else (own, other)
        of = at(place[0] * sizes[0] + min(i, sizes[0] - 1))
        s[4 * r + c] = math.exp(score(s[4 * r + c], i, j, sizes, scale, bias, matrix, mask) - lse[of])


@device_function
def slope(
    r: int, s: Array, d: Array, place: Any, own_keys: int, sizes: Sizes, scale: Any, keep: Array, dots: Array
) -> None:
    """Turn probabilities s into ds; d holds the products of dy and v."""
    n, first, o = place
    y, x = divide(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
    for c in range(4):
        own, other = first + 4 * y + r, o + x + SIDE * c
        i, j = (other, own) if own_keys else (own, other)
        of = at(n * sizes[0] + min(i, sizes[0] - 1))
        change = (d[4 * r + c] * kept(keep, n, i, j, sizes, typed(1, scale)) - dots[of]) * scale
        # What is hidden has no slope, whatever stands in its place.
        s[4 * r + c] = s[4 * r + c] * change if s[4 * r + c] != typed(0, scale) else typed(0, scale)


class Kernels(NamedTuple):
    """The kernels for one dtype."""

    forward: Kernel
    slopes: Kernel
    values: Kernel


@cache
def kernels_for(itemsize: int) -> Kernels:
    """Return kernels whose tiles fit into shared memory."""
    tiles_size, multiply, accumulate = products_of_tiles(32 if itemsize == 4 else 8)
    scores_size = OWN * PITCH
    # Threads of a block, and blocks that a multiprocessor must have registers for.
    bounds = (SIDE * OWN // 4, 2 if itemsize == 4 else 1)
    expected = Expected(registers=128, registers64=255)

    @kernel(expected=expected, launch_bounds=bounds)
    def forward_kernel(
        q: Array, k: Array, v: Array, bias: Array, mask: Mask, keep: Array, sizes: Sizes, scale: Any,
        y: Array, lse: Array,
    ) -> None:  # fmt: skip
        """Write y and lse of a tile of queries."""
        tiles = cuda.shared.array(tiles_size, q.dtype, alignment=16)
        p = cuda.shared.array(scores_size, q.dtype, alignment=16)
        s, sums = cuda.local.array(16, q.dtype), cuda.local.array(16, q.dtype)
        top, total = cuda.local.array(4, q.dtype), cuda.local.array(4, q.dtype)
        L, S, E, F, _ = sizes
        n, first, start, rows = place_of(L, divide(F + FEATURES - 1, FEATURES))
        matrix = matrix_of(n, mask)
        row, x = divide(cuda.threadIdx.x, SIDE) * 4, cuda.threadIdx.x % SIDE
        zero, least = typed(0, scale), typed(-math.inf, scale)
        clear(sums)
        for r in range(4):
            top[r], total[r] = least, zero
        o, end = others_of(first, rows, False, sizes)
        while o < end:
            multiply(q, n, first, rows, L, k, o, S, E, tiles, s)
            at_tile = n, first, o
            soften(0, s, sums, top, total, p, at_tile, sizes, scale, bias, matrix, mask, keep)
            soften(1, s, sums, top, total, p, at_tile, sizes, scale, bias, matrix, mask, keep)
            soften(2, s, sums, top, total, p, at_tile, sizes, scale, bias, matrix, mask, keep)
            soften(3, s, sums, top, total, p, at_tile, sizes, scale, bias, matrix, mask, keep)
            accumulate(p, v, n, o, S, start, F, tiles, sums)
            o += OTHERS
        for r in range(4):
            for distance in (8, 4, 2, 1):
                total[r] += cuda.shfl_xor_sync(ALL_LANES, total[r], distance)
            sees = total[r] != zero  # NaN does
            for c in range(4):
                sums[4 * r + c] = sums[4 * r + c] / total[r] if sees else zero
            if x == 0 and start == 0 and first + row + r < L:
                lse[at(n * L + first + row + r)] = top[r] + math.log(total[r]) if sees else -least
        store(sums, n, first, L, start, F, y)

    @kernel(expected=expected, launch_bounds=bounds)
    def slopes_kernel(
        own: Array, other: Array, own_d: Array, other_d: Array, own_keys: int, bias: Array, mask: Mask,
        keep: Array, lse: Array, dots: Array, sizes: Sizes, scale: Any, gradient: Array,
    ) -> None:  # fmt: skip
        """Write a tile of dq: own rows q and dy, others k and v; with own_keys of dk: the other way round."""
        tiles = cuda.shared.array(tiles_size, own.dtype, alignment=16)
        p = cuda.shared.array(scores_size, own.dtype, alignment=16)
        s, d = cuda.local.array(16, own.dtype), cuda.local.array(16, own.dtype)
        sums = cuda.local.array(16, own.dtype)
        L, S, E, F, _ = sizes
        length, others = (S, L) if own_keys else (L, S)
        n, first, start, rows = place_of(length, divide(E + FEATURES - 1, FEATURES))
        matrix = matrix_of(n, mask)
        clear(sums)
        o, end = others_of(first, rows, own_keys, sizes)
        while o < end:
            at_tile = n, first, o
            multiply(own, n, first, rows, length, other, o, others, E, tiles, s)
            probable(0, s, at_tile, own_keys, sizes, scale, bias, matrix, mask, lse)
            probable(1, s, at_tile, own_keys, sizes, scale, bias, matrix, mask, lse)
            probable(2, s, at_tile, own_keys, sizes, scale, bias, matrix, mask, lse)
            probable(3, s, at_tile, own_keys, sizes, scale, bias, matrix, mask, lse)
            multiply(own_d, n, first, rows, length, other_d, o, others, F, tiles, d)
            slope(0, s, d, at_tile, own_keys, sizes, scale, keep, dots)
            slope(1, s, d, at_tile, own_keys, sizes, scale, keep, dots)
            slope(2, s, d, at_tile, own_keys, sizes, scale, keep, dots)
            slope(3, s, d, at_tile, own_keys, sizes, scale, keep, dots)
            put(s, p)
            accumulate(p, other, n, o, others, start, E, tiles, sums)
            o += OTHERS
        store(sums, n, first, length, start, E, gradient)

    @kernel(expected=expected, launch_bounds=bounds)
    def values_kernel(
        dy: Array, q: Array, k: Array, bias: Array, mask: Mask, keep: Array, lse: Array, sizes: Sizes,
        scale: Any, dv: Array,
    ) -> None:  # fmt: skip
        """Write a tile of dv."""
        tiles = cuda.shared.array(tiles_size, q.dtype, alignment=16)
        p = cuda.shared.array(scores_size, q.dtype, alignment=16)
        s, sums = cuda.local.array(16, q.dtype), cuda.local.array(16, q.dtype)
        L, S, E, F, _ = sizes
        n, first, start, rows = place_of(S, divide(F + FEATURES - 1, FEATURES))
        matrix = matrix_of(n, mask)
        j, x = first + 4 * divide(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
        clear(sums)
        o, end = others_of(first, rows, True, sizes)
        while o < end:
            at_tile = n, first, o
            multiply(k, n, first, rows, S, q, o, L, E, tiles, s)
            probable(0, s, at_tile, True, sizes, scale, bias, matrix, mask, lse)
            probable(1, s, at_tile, True, sizes, scale, bias, matrix, mask, lse)
            probable(2, s, at_tile, True, sizes, scale, bias, matrix, mask, lse)
            probable(3, s, at_tile, True, sizes, scale, bias, matrix, mask, lse)
            for r in range(4):
                for c in range(4):
                    s[4 * r + c] *= kept(keep, n, o + x + SIDE * c, j + r, sizes, typed(1, scale))
            put(s, p)
            accumulate(p, dy, n, o, L, start, F, tiles, sums)
            o += OTHERS
        store(sums, n, first, S, start, F, dv)

    return Kernels(forward_kernel, slopes_kernel, values_kernel)


# --- masks ---


@kernel
def hide_kernel(mask: Array, bias: Array) -> None:
    """Write 0 where a mask is True, else -inf."""
    i = thread_number()
    if i < bias.size:
        bias[at(i)] = bias.dtype.type(0) if mask[at(i)] else bias.dtype.type(-math.inf)


@kernel
def repeat_kernel(x: Array, times: int, length: int, y: Array) -> None:
    """Write every run of ``length`` elements so many times."""
    i = thread_number()
    if i < y.size:
        run = divide(i, length)
        y[at(i)] = x[at(divide(run, times) * length + i - run * length)]


def added(mask: GpuArray | None, lead: tuple[int, ...], like: GpuArray) -> tuple[GpuArray, Mask]:
    """Return what to add to scores, empty for nothing, and how kernels find an element.

    Of the leading axes, those along which a mask differs must be neighbours: others between are written out.
    """
    if mask is None:
        return or_empty(None, like), (1, 1, 0, 0, 0)
    if mask.dtype.kind == "b":
        bias = empty(mask.shape, like.dtype, like.device)
        hide_kernel[grid_of(mask.size)](mask, bias)
        mask = bias
    rows, columns = mask.shape[-2] if mask.ndim > 1 else 1, mask.shape[-1]
    outer = [1] * (len(lead) - len(mask.shape[:-2])) + list(mask.shape[:-2])
    differ = [a for a, n in enumerate(outer) if n > 1] or [len(lead) - 1]
    for a in range(differ[0], differ[-1]):
        if outer[a] != lead[a]:
            repeated = empty((mask.size * lead[a],), mask.dtype, mask.device)
            length = math.prod(outer[a + 1 :]) * rows * columns
            repeat_kernel[grid_of(repeated.size)](mask, lead[a], length, repeated)
            mask, outer[a] = repeated, lead[a]
    inner = math.prod(lead[differ[-1] + 1 :])
    return mask, (
        max(inner, 1), max(math.prod(outer), 1), rows * columns, columns if rows > 1 else 0, int(columns > 1)
    )  # fmt: skip


# --- bodies ---


class Call(NamedTuple):
    """One call, with all leading axes as one, N."""

    N: int
    bias: GpuArray
    mask: Mask
    keep: GpuArray
    sizes: Sizes
    scale: Any

    def grid(self, own: int, features: int) -> tuple[int, int]:
        """Return the number of blocks, and of threads of a block, for results (N, own, features)."""
        rows = min(OWN, max(8, 4 * next_power_of_two(own // 4)))
        return self.N * ceil_div(own, rows) * ceil_div(features, FEATURES), rows // 4 * SIDE


def call_of(
    q: GpuArray, k: GpuArray, v: GpuArray, mask: GpuArray | None = None, keep: GpuArray | None = None, *,
    is_causal: bool = False, scale: float | None = None,
) -> Call:  # fmt: skip
    """Return what kernels want to know."""
    lead, (L, E), (S, F) = q.shape[:-2], q.shape[-2:], v.shape[-2:]
    factor = q.dtype.type(1 / math.sqrt(E) if scale is None else scale)
    sizes = L, S, E, F, int(is_causal)
    return Call(math.prod(lead), *added(mask, lead, q), or_empty(keep, q), sizes, factor)


def attention_forward_cuda(*inputs: Any, **attributes: Any) -> tuple[GpuArray, GpuArray]:
    q, k, v = inputs[:3]
    call = call_of(*inputs, **attributes)
    L, _, _, F, _ = call.sizes
    y = empty((*q.shape[:-1], F), q.dtype, q.device)
    lse = empty(q.shape[:-1], q.dtype, q.device)
    kernels_for(q.itemsize).forward[call.grid(L, F)](q, k, v, *call[1:], y, lse)
    return y, lse


@kernel
def dots_kernel(dy: Array, y: Array, F: int, dots: Array) -> None:
    """Write dy . y of every query, a warp for each."""
    row, lane = cuda.blockIdx.x * (THREADS // WARP) + cuda.threadIdx.x // WARP, cuda.threadIdx.x % WARP
    if row < dots.size:
        dot = dy.dtype.type(0)
        for f in range(lane, F, WARP):
            dot += dy[at(row * F + f)] * y[at(row * F + f)]
        dot = warp_sum(dot)
        if lane == 0:
            dots[at(row)] = dot


def attention_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray, GpuArray], inputs: Any, needs: tuple[bool, ...], **attributes: Any
) -> Grads:
    (q, k, v), (y, lse) = inputs[:3], outputs
    call, kernels = call_of(*inputs, **attributes), kernels_for(q.itemsize)
    L, S, E, F, _ = call.sizes
    dots = empty_like(lse)
    dots_kernel[blocks_for(dots.size * WARP), THREADS](dy, y, F, dots)
    masks, rest = (call.bias, call.mask, call.keep, lse), (call.sizes, call.scale)
    dq, dk, dv = (empty_like(a) if need else None for a, need in zip(inputs[:3], needs))
    if dq is not None:
        kernels.slopes[call.grid(L, E)](q, k, dy, v, 0, *masks, dots, *rest, dq)
    if dk is not None:
        kernels.slopes[call.grid(S, E)](k, q, v, dy, 1, *masks, dots, *rest, dk)
    if dv is not None:
        kernels.values[call.grid(S, F)](dy, q, k, *masks, *rest, dv)
    return (dq, dk, dv, *(None,) * (len(inputs) - 3))
