"""attention on a GPU: scores are computed tile by tile and never written to memory.

A block has a tile of rows of its own, queries or keys, and goes over the others, a tile of OTHERS at a time;
each thread has 4 x 4 scores in registers. Forward rescales what it has whenever a larger score comes along
(an online softmax), and divides by the sum of powers at the end. Backward computes scores anew from the
logarithm of each row's sum: once for dq, where a block's own rows are queries, and once for dk and dv, where
they are keys, so that every gradient has one writer.

Bound: 2 N L S (E + F) FLOPs forward; backward takes seven such products instead of the five it could do with.
Features of a result beyond FEATURES are left to further blocks, which compute the same scores.

Dao et al., FlashAttention: Fast and Memory-Efficient Exact Attention with IO-Awareness, NeurIPS 2022.
"""

import math
from functools import cache
from typing import Any, NamedTuple

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like
from nnkernels.machine.gpu_instructions import load4
from nnkernels.machine.gpu_kernel import (
    THREADS,
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
from nnkernels.machine.gpu_reduce import ALL_LANES, WARP, warp_sum
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array
from nnkernels.ops.batch_norm.walk import quotient

Grads = tuple[GpuArray | None, ...]
Sizes = tuple[int, int, int, int, int]  # L, S, E, F, is_causal
Mask = tuple[int, int, int, int, int]  # see matrix_of, score
OWN = OTHERS = FEATURES = 64  # rows of a tile, and columns of a result, at most
SIDE = 16  # threads along a tile's columns, 4 columns each
PITCH = OTHERS + 4  # of the tile of scores: 16-byte loads of neighbouring rows meet different banks
LOADS = 4  # at a time, of a thread

# --- device functions of every tile ---


@device_function
def matrix_of(n: int, mask: Mask) -> Any:
    """Return where the matrix begins that is added to the scores of head n."""
    inner, matrices, size, _, _ = mask
    outer = quotient(n, inner)
    return (outer - quotient(outer, matrices) * matrices) * size


@device_function
def score(s: Any, i: int, j: int, sizes: Sizes, scale: Any, bias: Array, matrix: int, mask: Mask) -> Any:
    """Return the score of a product s, -inf where the key is hidden or there is none."""
    if i >= sizes[0] or j >= sizes[1] or (sizes[4] and j > i):
        return typed(-math.inf, scale)
    if bias.size > 0:
        return s * scale + bias[at(matrix + i * mask[3] + j * mask[4])]
    return s * scale


@device_function
def kept(keep: Array, n: int, i: int, j: int, sizes: Sizes, one: Any) -> Any:
    """Return keep[n, i, j], 1 where there is no dropout or no such score."""
    if keep.size == 0 or i >= sizes[0] or j >= sizes[1]:
        return one
    return keep[at((n * sizes[0] + i) * sizes[1] + j)]


@device_function
def load_tile(
    m: Array, n: int, first: int, rows: int, length: int, start: int, features: int, to: int, shape: Any,
    tile: Array,
) -> None:  # fmt: skip
    """Write rows first ... of head n, features start ..., to tile[to:]; zeros where there are none.

    ``shape`` is the tile's width and the distance between its rows.
    """
    values = cuda.local.array(LOADS, m.dtype)
    width, pitch = shape
    i, count = int(cuda.threadIdx.x), rows * width
    while i < count:
        for k in range(LOADS):
            place = i + k * cuda.blockDim.x
            r = quotient(place, width)
            row, feature = first + r, start + place - r * width
            values[k] = m.dtype.type(0)
            if place < count and row < length and feature < features:
                values[k] = m[at((n * length + row) * features + feature)]
        for k in range(LOADS):
            place = i + k * cuda.blockDim.x
            if place < count:
                r = quotient(place, width)
                tile[at(to + r * pitch + place - r * width)] = values[k]
        i += LOADS * cuda.blockDim.x


@device_function
def clear(sums: Array) -> None:
    """Set 16 sums to 0."""
    for k in range(16):
        sums[k] = sums.dtype.type(0)


@device_function
def store(sums: Array, n: int, first: int, length: int, start: int, features: int, m: Array) -> None:
    """Write the thread's 4 x 4 sums to rows first ... of head n, features start ..."""
    y, x = quotient(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
    for r in range(4):
        for c in range(4):
            row, feature = first + 4 * y + r, start + 4 * x + c
            if row < length and feature < features:
                m[at((n * length + row) * features + feature)] = sums[4 * r + c]


@device_function
def place_of(own: int, tiles: int) -> Any:
    """Return the block's head, first own row, first feature of its results, and number of own rows."""
    rows = quotient(cuda.blockDim.x, SIDE) * 4
    many = quotient(own + rows - 1, rows)
    rest = quotient(cuda.blockIdx.x, tiles)
    n = quotient(rest, many)
    return n, (rest - n * many) * rows, (cuda.blockIdx.x - rest * tiles) * FEATURES, rows


@device_function
def put(s: Array, p: Array) -> None:
    """Write the thread's 16 numbers to the tile p."""
    y, x = quotient(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
    for r in range(4):
        for c in range(4):
            p[at((4 * y + r) * PITCH + x + SIDE * c)] = s[4 * r + c]


# One row r of a thread's 4 x 4 numbers; called with each r by itself, as a loop of that length stays a loop, and
# then what it indexes does not stay in registers.


@device_function
def soften(
    r: int, s: Array, sums: Array, top: Array, total: Array, p: Array, place: Any, sizes: Sizes, scale: Any,
    bias: Array, matrix: int, mask: Mask, keep: Array,
) -> None:  # fmt: skip
    """Turn products s into p = e^(score - largest so far), and rescale what there is by the new largest."""
    n, first, o = place
    y, x = quotient(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
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
def slope(
    r: int, s: Array, d: Array, place: Any, own_keys: bool, sizes: Sizes, scale: Any,
    bias: Array, matrix: int, mask: Mask, keep: Array, lse: Array, dots: Array,
) -> None:  # fmt: skip
    """Turn products s = q . k and d = dy . v into p keep and ds; the own rows are keys, or else queries."""
    n, first, o = place
    y, x = quotient(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
    for c in range(4):
        own, other = first + 4 * y + r, o + x + SIDE * c
        i, j = (other, own) if own_keys else (own, other)
        of = at(n * sizes[0] + min(i, sizes[0] - 1))
        power = math.exp(score(s[4 * r + c], i, j, sizes, scale, bias, matrix, mask) - lse[of])
        share = kept(keep, n, i, j, sizes, typed(1, scale))
        s[4 * r + c] = power * share
        change = (d[4 * r + c] * share - dots[of]) * scale
        d[4 * r + c] = power * change if power != typed(0, scale) else power


class Kernels(NamedTuple):
    """The kernels for one dtype."""

    forward: Kernel
    queries: Kernel
    keys: Kernel


@cache
def kernels_for(itemsize: int) -> Kernels:
    """Return kernels whose tiles fit into shared memory: ``depth`` features of rows at a time."""
    depth = 32 if itemsize == 4 else 8
    pitch = depth + 4
    second = OWN * pitch  # where the second tile begins
    tiles_size, scores_size = 2 * second, OWN * PITCH
    few = tiles_size // FEATURES // 16 * 16  # rows of FEATURES numbers in the place of the two tiles

    @device_function
    def multiply(
        own: Array, n: int, first: int, rows: int, length: int, other: Array, o: int, others: int,
        features: int, tiles: Array, s: Array,
    ) -> None:  # fmt: skip
        """Write the products of the thread's 4 own rows with its 4 others, SIDE apart, to s.

        For others that do not exist it writes anything.
        """
        b = cuda.local.array(16, s.dtype)
        y, x = quotient(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
        clear(s)
        start = 0
        while start < features:
            cuda.syncthreads()
            load_tile(own, n, first, rows, length, start, features, 0, (depth, pitch), tiles)
            load_tile(
                other, n, o, min(OTHERS, others - o), others, start, features, second, (depth, pitch), tiles
            )
            cuda.syncthreads()
            e = 0
            while e < min(depth, features - start):
                for c in range(4):
                    i = second + (x + SIDE * c) * pitch + e
                    b[4 * c], b[4 * c + 1], b[4 * c + 2], b[4 * c + 3] = load4(tiles, at(i))
                for r in range(4):
                    a0, a1, a2, a3 = load4(tiles, at((4 * y + r) * pitch + e))
                    for c in range(4):
                        s[4 * r + c] += a0 * b[4 * c]
                        s[4 * r + c] += a1 * b[4 * c + 1]
                        s[4 * r + c] += a2 * b[4 * c + 2]
                        s[4 * r + c] += a3 * b[4 * c + 3]
                e += 4
            start += depth

    @device_function
    def accumulate(
        p: Array, m: Array, n: int, o: int, others: int, start: int, features: int, tiles: Array, sums: Array
    ) -> None:
        """Add p times rows o ... of m to the sums of the thread's 4 own rows and 4 features."""
        b = cuda.local.array(16, p.dtype)
        y, x = quotient(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
        done, count = 0, min(OTHERS, others - o)
        while done < count:
            cuda.syncthreads()
            here = min(few, (count - done + 3) // 4 * 4)  # zeros behind the last
            load_tile(m, n, o + done, here, others, start, features, 0, (FEATURES, FEATURES), tiles)
            cuda.syncthreads()
            j = 0
            while j < here:
                for k in range(4):
                    i = (j + k) * FEATURES + 4 * x
                    b[4 * k], b[4 * k + 1], b[4 * k + 2], b[4 * k + 3] = load4(tiles, at(i))
                for r in range(4):
                    a0, a1, a2, a3 = load4(p, at((4 * y + r) * PITCH + done + j))
                    for c in range(4):
                        sums[4 * r + c] += a0 * b[c]
                        sums[4 * r + c] += a1 * b[4 + c]
                        sums[4 * r + c] += a2 * b[8 + c]
                        sums[4 * r + c] += a3 * b[12 + c]
                j += 4
            done += few

    @kernel(expected=Expected(registers=128, registers64=255))
    def forward_kernel(
        q: Array, k: Array, v: Array, bias: Array, mask: Mask, keep: Array, sizes: Sizes, scale: Any,
        y: Array, lse: Array,
    ) -> None:  # fmt: skip
        """Write y and lse of a tile of queries."""
        tiles = cuda.shared.array(tiles_size, q.dtype, alignment=16)
        p = cuda.shared.array(scores_size, q.dtype, alignment=16)
        s, sums = cuda.local.array(16, q.dtype), cuda.local.array(16, q.dtype)
        top, total = cuda.local.array(4, q.dtype), cuda.local.array(4, q.dtype)
        L, S, E, F, causal = sizes
        n, first, start, rows = place_of(L, quotient(F + FEATURES - 1, FEATURES))
        matrix = matrix_of(n, mask)
        row, x = quotient(cuda.threadIdx.x, SIDE) * 4, cuda.threadIdx.x % SIDE
        zero, least = typed(0, scale), typed(-math.inf, scale)
        clear(sums)
        for r in range(4):
            top[r], total[r] = least, zero
        o, end = 0, min(S, first + rows) if causal else S
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
            sees = top[r] != least
            for c in range(4):
                sums[4 * r + c] = sums[4 * r + c] / total[r] if sees else zero
            if x == 0 and start == 0 and first + row + r < L:
                lse[at(n * L + first + row + r)] = top[r] + math.log(total[r]) if sees else -least
        store(sums, n, first, L, start, F, y)

    @kernel(expected=Expected(registers=128, registers64=255))
    def queries_kernel(
        dy: Array, q: Array, k: Array, v: Array, bias: Array, mask: Mask, keep: Array, lse: Array,
        dots: Array, sizes: Sizes, scale: Any, dq: Array,
    ) -> None:  # fmt: skip
        """Write dq of a tile of queries."""
        tiles = cuda.shared.array(tiles_size, q.dtype, alignment=16)
        p = cuda.shared.array(scores_size, q.dtype, alignment=16)
        s, d, sums = (
            cuda.local.array(16, q.dtype), cuda.local.array(16, q.dtype), cuda.local.array(16, q.dtype)
        )  # fmt: skip
        L, S, E, F, causal = sizes
        n, first, start, rows = place_of(L, quotient(E + FEATURES - 1, FEATURES))
        matrix = matrix_of(n, mask)
        row, x = quotient(cuda.threadIdx.x, SIDE) * 4, cuda.threadIdx.x % SIDE
        clear(sums)
        o, end = 0, min(S, first + rows) if causal else S
        while o < end:
            multiply(q, n, first, rows, L, k, o, S, E, tiles, s)
            multiply(dy, n, first, rows, L, v, o, S, F, tiles, d)
            at_tile = n, first, o
            slope(0, s, d, at_tile, False, sizes, scale, bias, matrix, mask, keep, lse, dots)
            slope(1, s, d, at_tile, False, sizes, scale, bias, matrix, mask, keep, lse, dots)
            slope(2, s, d, at_tile, False, sizes, scale, bias, matrix, mask, keep, lse, dots)
            slope(3, s, d, at_tile, False, sizes, scale, bias, matrix, mask, keep, lse, dots)
            put(d, p)
            accumulate(p, k, n, o, S, start, E, tiles, sums)
            o += OTHERS
        store(sums, n, first, L, start, E, dq)

    @kernel(expected=Expected(registers=168, registers64=255))
    def keys_kernel(
        dy: Array, q: Array, k: Array, v: Array, bias: Array, mask: Mask, keep: Array, lse: Array,
        dots: Array, sizes: Sizes, scale: Any, dk: Array, dv: Array,
    ) -> None:  # fmt: skip
        """Write dk and dv of a tile of keys; an empty one is not needed."""
        tiles = cuda.shared.array(tiles_size, q.dtype, alignment=16)
        p = cuda.shared.array(scores_size, q.dtype, alignment=16)
        s, d = cuda.local.array(16, q.dtype), cuda.local.array(16, q.dtype)
        sums_k, sums_v = cuda.local.array(16, q.dtype), cuda.local.array(16, q.dtype)
        L, S, E, F, causal = sizes
        n, first, start, rows = place_of(S, quotient(max(E, F) + FEATURES - 1, FEATURES))
        matrix = matrix_of(n, mask)
        row, x = quotient(cuda.threadIdx.x, SIDE) * 4, cuda.threadIdx.x % SIDE
        clear(sums_k)
        clear(sums_v)
        o = quotient(first, OTHERS) * OTHERS if causal else 0
        while o < L:
            multiply(k, n, first, rows, S, q, o, L, E, tiles, s)
            multiply(v, n, first, rows, S, dy, o, L, F, tiles, d)
            at_tile = n, first, o
            slope(0, s, d, at_tile, True, sizes, scale, bias, matrix, mask, keep, lse, dots)
            slope(1, s, d, at_tile, True, sizes, scale, bias, matrix, mask, keep, lse, dots)
            slope(2, s, d, at_tile, True, sizes, scale, bias, matrix, mask, keep, lse, dots)
            slope(3, s, d, at_tile, True, sizes, scale, bias, matrix, mask, keep, lse, dots)
            put(s, p)
            if dv.size > 0 and start < F:
                accumulate(p, dy, n, o, L, start, F, tiles, sums_v)
            if dk.size > 0 and start < E:
                cuda.syncthreads()
                put(d, p)
                accumulate(p, q, n, o, L, start, E, tiles, sums_k)
            o += OTHERS
        if dk.size > 0:
            store(sums_k, n, first, S, start, E, dk)
        if dv.size > 0:
            store(sums_v, n, first, S, start, F, dv)

    return Kernels(forward_kernel, queries_kernel, keys_kernel)


# --- masks ---


@kernel
def hide_kernel(mask: Array, bias: Array) -> None:
    """Write 0 where a mask is True, else -inf."""
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < bias.size:
        bias[at(i)] = bias.dtype.type(0) if mask[at(i)] else bias.dtype.type(-math.inf)


@kernel
def repeat_kernel(x: Array, times: int, length: int, y: Array) -> None:
    """Write every run of ``length`` elements so many times."""
    i = cuda.blockIdx.x * THREADS + cuda.threadIdx.x
    if i < y.size:
        run = quotient(i, length)
        y[at(i)] = x[at(quotient(run, times) * length + i - run * length)]


def added(mask: GpuArray | None, lead: tuple[int, ...], like: GpuArray) -> tuple[GpuArray, Mask]:
    """Return what to add to scores, empty for nothing, and how kernels find an element.

    Of the leading axes, those along which a mask differs must be neighbours: others between are written out.
    """
    if mask is None:
        return empty((0,), like.dtype, like.device), (1, 1, 0, 0, 0)
    if mask.dtype.kind == "b":
        bias = empty(mask.shape, like.dtype, like.device)
        hide_kernel[blocks_for(mask.size), THREADS](mask, bias)
        mask = bias
    rows, columns = mask.shape[-2] if mask.ndim > 1 else 1, mask.shape[-1]
    outer = [1] * (len(lead) - len(mask.shape[:-2])) + list(mask.shape[:-2])
    differ = [a for a, n in enumerate(outer) if n > 1] or [len(lead) - 1]
    for a in range(differ[0], differ[-1]):
        if outer[a] != lead[a]:
            repeated = empty((mask.size * lead[a],), mask.dtype, mask.device)
            length = math.prod(outer[a + 1 :]) * rows * columns
            repeat_kernel[blocks_for(repeated.size), THREADS](mask, lead[a], length, repeated)
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
    keep = empty((0,), q.dtype, q.device) if keep is None else keep
    return Call(math.prod(lead), *added(mask, lead, q), keep, (L, S, E, F, int(is_causal)), factor)


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
    given = dy, q, k, v, call.bias, call.mask, call.keep, lse, dots, call.sizes, call.scale
    dq, dk, dv = (empty_like(a) if need else None for a, need in zip(inputs[:3], needs))
    if dq is not None:
        kernels.queries[call.grid(L, E)](*given, dq)
    if dk is not None or dv is not None:
        nothing = empty((0,), q.dtype, q.device)
        kernels.keys[call.grid(S, max(E, F))](*given, *(nothing if d is None else d for d in (dk, dv)))
    return (dq, dk, dv, *(None,) * (len(inputs) - 3))
