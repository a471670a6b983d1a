"""Tiles of attention on a GPU: who has which part, how it gets to shared memory, what a score is."""

import math
from typing import Any, NamedTuple

from nnkernels.machine.gpu_index import divide
from nnkernels.machine.gpu_instructions import load4
from nnkernels.machine.gpu_kernel import at, cuda, device_function
from nnkernels.machine.jit import typed
from nnkernels.machine.memory import Array

Sizes = tuple[int, int, int, int, int]  # L, S, E, F, is_causal
Mask = tuple[int, int, int, int, int]  # see matrix_of, score
OWN = OTHERS = FEATURES = 64  # rows of a tile, and columns of a result, at most
SIDE = 16  # threads along a tile's columns, 4 columns each
PITCH = OTHERS + 4  # of the tile of scores: 16-byte loads of neighbouring rows meet different banks
LOADS = 4  # at a time, of a thread


@device_function
def matrix_of(n: int, mask: Mask) -> Any:
    """Return where the matrix begins that is added to the scores of head n."""
    inner, matrices, size, _, _ = mask
    outer = divide(n, inner)
    return (outer - divide(outer, matrices) * matrices) * size


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
            r = divide(place, width)
            row, feature = first + r, start + place - r * width
            values[k] = m.dtype.type(0)
            if place < count and row < length and feature < features:
                values[k] = m[at((n * length + row) * features + feature)]
        for k in range(LOADS):
            place = i + k * cuda.blockDim.x
            if place < count:
                r = divide(place, width)
                tile[at(to + r * pitch + place - r * width)] = values[k]
        i += LOADS * cuda.blockDim.x


@device_function
def plus_dot(s: Any, a: Any, b: Any) -> Any:
    """Return s + a . b of four numbers each, by four multiply-adds."""
    s += a[0] * b[0]
    s += a[1] * b[1]
    s += a[2] * b[2]
    return s + a[3] * b[3]


@device_function
def clear(sums: Array) -> None:
    """Set 16 sums to 0."""
    for k in range(16):
        sums[k] = sums.dtype.type(0)


@device_function
def store(sums: Array, n: int, first: int, length: int, start: int, features: int, m: Array) -> None:
    """Write the thread's 4 x 4 sums to rows first ... of head n, features start ..."""
    y, x = divide(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
    for r in range(4):
        for c in range(4):
            row, feature = first + 4 * y + r, start + 4 * x + c
            if row < length and feature < features:
                m[at((n * length + row) * features + feature)] = sums[4 * r + c]


@device_function
def place_of(own: int, tiles: int) -> Any:
    """Return the block's head, first own row, first feature of its results, and number of own rows."""
    rows = divide(cuda.blockDim.x, SIDE) * 4
    many = divide(own + rows - 1, rows)
    rest = divide(cuda.blockIdx.x, tiles)
    n = divide(rest, many)
    return n, (rest - n * many) * rows, (cuda.blockIdx.x - rest * tiles) * FEATURES, rows


@device_function
def put(s: Array, p: Array) -> None:
    """Write the thread's 16 numbers to the tile p."""
    y, x = divide(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
    for r in range(4):
        for c in range(4):
            p[at((4 * y + r) * PITCH + x + SIDE * c)] = s[4 * r + c]


@device_function
def others_of(first: int, rows: int, own_keys: int, sizes: Sizes) -> Any:
    """Return which other rows have to do with own rows first ...: the first of a tile, and the end."""
    L, S, _, _, causal = sizes
    if own_keys:
        return (divide(first, OTHERS) * OTHERS if causal else 0), L
    return 0, (min(S, first + rows) if causal else S)


class Products(NamedTuple):
    """Device functions that multiply tiles of rows."""

    size: int  # of the shared memory that they bring rows to
    multiply: Any  # multiply(own, ..., s): products of rows with rows
    accumulate: Any  # accumulate(p, m, ..., sums): sums of rows


def products_of_tiles(depth: int) -> Products:
    """Return the functions that take ``depth`` features of rows at a time."""
    pitch = depth + 4
    second = OWN * pitch  # where the second tile begins
    size = 2 * second
    few = size // FEATURES // 16 * 16  # rows of FEATURES numbers in the place of the two tiles

    @device_function
    def multiply(
        own: Array, n: int, first: int, rows: int, length: int, other: Array, o: int, others: int,
        features: int, tiles: Array, s: Array,
    ) -> None:  # fmt: skip
        """Write the products of the thread's 4 own rows with its 4 others, SIDE apart, to s.

        For others that do not exist it writes anything.
        """
        y, x = divide(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
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
                i, step = second + x * pitch + e, SIDE * pitch
                b0, b1 = load4(tiles, at(i)), load4(tiles, at(i + step))
                b2, b3 = load4(tiles, at(i + 2 * step)), load4(tiles, at(i + 3 * step))
                for r in range(4):
                    a = load4(tiles, at((4 * y + r) * pitch + e))
                    s[4 * r] = plus_dot(s[4 * r], a, b0)
                    s[4 * r + 1] = plus_dot(s[4 * r + 1], a, b1)
                    s[4 * r + 2] = plus_dot(s[4 * r + 2], a, b2)
                    s[4 * r + 3] = plus_dot(s[4 * r + 3], a, b3)
                e += 4
            start += depth

    @device_function
    def accumulate(
        p: Array, m: Array, n: int, o: int, others: int, start: int, features: int, tiles: Array, sums: Array
    ) -> None:
        """Add p times rows o ... of m to the sums of the thread's 4 own rows and 4 features."""
        y, x = divide(cuda.threadIdx.x, SIDE), cuda.threadIdx.x % SIDE
        done, count = 0, min(OTHERS, others - o)
        while done < count:
            cuda.syncthreads()
            here = min(few, (count - done + 3) // 4 * 4)  # zeros behind the last
            load_tile(m, n, o + done, here, others, start, features, 0, (FEATURES, FEATURES), tiles)
            cuda.syncthreads()
            j = 0
            while j < here:
                i = j * FEATURES + 4 * x
                b0, b1 = load4(tiles, at(i)), load4(tiles, at(i + FEATURES))
                b2, b3 = load4(tiles, at(i + 2 * FEATURES)), load4(tiles, at(i + 3 * FEATURES))
                for r in range(4):
                    a = load4(p, at((4 * y + r) * PITCH + done + j))
                    sums[4 * r] = plus_dot(sums[4 * r], a, (b0[0], b1[0], b2[0], b3[0]))
                    sums[4 * r + 1] = plus_dot(sums[4 * r + 1], a, (b0[1], b1[1], b2[1], b3[1]))
                    sums[4 * r + 2] = plus_dot(sums[4 * r + 2], a, (b0[2], b1[2], b2[2], b3[2]))
                    sums[4 * r + 3] = plus_dot(sums[4 * r + 3], a, (b0[3], b1[3], b2[3], b3[3]))
                j += 4
            done += few

    return Products(size, multiply, accumulate)
