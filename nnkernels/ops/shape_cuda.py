"""Copies of elements in another order on a GPU: y_i = x_s(i), s(i) = offset + sum of y's i_axis step_axis.

Bound: memory traffic; every element of y is written once and one of x is read. Threads take elements of y in
its order, so writes are coalesced. Reads are as well where y's last axis is one along which x has step 1;
otherwise, tiles of this axis and the one that has step 1 are turned around in shared memory.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty, zeros_like
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, ceil_div, cuda, kernel
from nnkernels.machine.memory import Array
from nnkernels.ops.folding_cuda import Axes, Tuple, joined, merged, source
from nnkernels.ops.op import Body

Map = tuple[int, Tuple, Tuple]  # offset, shape, steps
PER_THREAD = 4  # elements that a thread loads before it stores the first
TILE, PADDED_TILE = 32, 32 * 33  # rows and columns of a tile; a column more spreads columns over the banks
ROWS = TILE // PER_THREAD  # that the threads of a block take at once, neighbours along a row
TILED_FROM = 8  # shorter axes waste threads of a tile, and cache lines hold most of what is read out of order
ALIGNED = 16  # bytes: where views begin, for kernels that read as much at once


@kernel
def gather_kernel(x: Array, offset: int, axes: Axes, steps: Tuple, y: Array) -> None:
    """y_i = x_s(i)."""
    values = cuda.local.array(PER_THREAD, x.dtype)
    start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
    for k in range(PER_THREAD):  # behind the end, the last element once more
        i = min(at(start + k * THREADS), at(y.size - 1))
        values[k] = x[at(offset + source(i, axes, steps))]
    for k in range(PER_THREAD):
        i = at(start + k * THREADS)
        if i < at(y.size):
            y[i] = values[k]


@kernel
def scatter_kernel(dy: Array, offset: int, axes: Axes, steps: Tuple, dx: Array) -> None:
    """dx_s(i) = dy_i; no place comes twice."""
    values = cuda.local.array(PER_THREAD, dy.dtype)
    start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
    for k in range(PER_THREAD):
        values[k] = dy[min(at(start + k * THREADS), at(dy.size - 1))]
    for k in range(PER_THREAD):
        i = at(start + k * THREADS)
        if i < at(dy.size):
            dx[at(offset + source(i, axes, steps))] = values[k]


@kernel
def tiles_kernel(
    x: Array, offset: int, tiles: Axes, steps: Tuple, y_steps: Tuple, row_steps: Tuple, column_steps: Tuple,
    rows: int, columns: int, x_row: int, y_column: int, y: Array,
) -> None:  # fmt: skip
    """Copy a tile of two axes of x, (rows, columns) with column step 1, to y, where the row step is 1.

    The steps of ``tiles`` say where a block's tile begins: in x, in y, in its rows and in its columns.
    """
    tile = cuda.shared.array(PADDED_TILE, x.dtype)
    values = cuda.local.array(PER_THREAD, x.dtype)
    fast, slow = cuda.threadIdx.x % TILE, cuda.threadIdx.x // TILE
    row, column = source(cuda.blockIdx.x, tiles, row_steps), source(cuda.blockIdx.x, tiles, column_steps)
    from_x, to_y = offset + source(cuda.blockIdx.x, tiles, steps), source(cuda.blockIdx.x, tiles, y_steps)
    height, width = min(rows - row, TILE), min(columns - column, TILE)
    for k in range(PER_THREAD):  # beyond the tile's end, its last row and column once more
        r = min(slow + k * ROWS, height - 1)
        values[k] = x[at(from_x + r * x_row + min(fast, width - 1))]
    for k in range(PER_THREAD):
        tile[at((slow + k * ROWS) * (TILE + 1) + fast)] = values[k]
    cuda.syncthreads()
    for k in range(PER_THREAD):
        c = slow + k * ROWS
        if c < width and fast < height:
            y[at(to_y + c * y_column + fast)] = tile[at(fast * (TILE + 1) + c)]


@lru_cache(maxsize=1024)
def tiled(shape: Tuple, steps: Tuple) -> tuple[Any, ...] | None:
    """Return the number of tiles and what ``tiles_kernel`` needs; None where rows of y will do."""
    y_steps = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
    axes = joined(shape, steps, y_steps)
    across = next((axis for axis in axes if axis[1] == 1), None)
    if across is None or across is axes[-1] or min(across[0], axes[-1][0]) < TILED_FROM:
        return None
    (columns, _, y_column), (rows, x_row, _) = across, axes[-1]
    down, right = ceil_div(rows, TILE), ceil_div(columns, TILE)
    places = [(n, step, y_step, 0, 0) for n, step, y_step in axes[:-1] if (n, step, y_step) != across]
    places.append((right, TILE, TILE * y_column, 0, TILE))
    places.append((down, TILE * x_row, TILE, TILE, 0))
    blocks = math.prod(place[0] for place in places)
    return blocks, *merged(*zip(*places), least=4), rows, columns, x_row, y_column


def gathered(x: GpuArray, where: Map) -> GpuArray:
    """Return the elements of x at the map's places: a view if they are neighbours, or a copy."""
    offset, shape, steps = where
    size = math.prod(shape)
    if size == 0:
        return empty(shape, x.dtype, x.device)
    axes, after = merged(shape, steps)
    if len(axes) == 1 and (size == 1 or after == (1,)) and (x.start + offset) * x.itemsize % ALIGNED == 0:
        return x.ravel()[offset : offset + size].reshape(shape)
    y = empty(shape, x.dtype, x.device)
    tiles = tiled(shape, steps)
    if tiles is None:
        gather_kernel[blocks_for(size, THREADS * PER_THREAD), THREADS](x, offset, axes, after, y)
    else:
        tiles_kernel[tiles[0], TILE * ROWS](x, offset, *tiles[1:], y)
    return y


def scatter(dy: GpuArray, where: Map, dx: GpuArray) -> None:
    """Write dy to the map's places in dx."""
    offset, shape, steps = where
    if dy.size > 0:
        blocks = blocks_for(dy.size, THREADS * PER_THREAD)
        scatter_kernel[blocks, THREADS](dy, offset, *merged(shape, steps), dx)


def make_copies(place: Callable[..., Map], back: Callable[..., Map] | None = None) -> Body:
    """Return the body of an op whose y is x at a map's places.

    ``back(dy)`` is the map from dx to dy; without one, dx is 0 where y has not read x.
    """

    def forward(x: GpuArray, **attributes: Any) -> tuple[GpuArray]:
        return (gathered(x, place(x, **attributes)),)

    def backward(
        dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray], needs: tuple[bool], **attributes: Any
    ) -> tuple[GpuArray | None]:
        if not needs[0]:
            return (None,)
        if back is not None:
            return (gathered(dy, back(dy, **attributes)),)
        dx = zeros_like(inputs[0])
        scatter(dy, place(inputs[0], **attributes), dx)
        return (dx,)

    return Body(forward, backward)
