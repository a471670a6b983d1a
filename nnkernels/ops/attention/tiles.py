"""Tiles of attention on a GPU: who has which part, how it gets to shared memory, what a score is."""

import math
from typing import Any

from nnkernels.machine.gpu_index import divide
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
