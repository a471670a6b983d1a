"""Products of tiles: what a matrix product and a convolution by matrix product share on a GPU.

A block of threads computes a tile of y, ``rows`` x ``columns`` sums, in steps of ``depth`` products each. For
a step it copies a part of both operands to shared memory, with k along the slow axis:

    a_tile[k a_row + i], i < rows       b_tile[k b_row + j], j < columns       k < depth

and every thread adds the products of ``tm`` of those rows and ``tn`` of those columns to sums that stay in
its registers. For each k that is tm + tn numbers from shared memory for tm tn multiply-adds.

The rows of a thread are ``row(0)`` to ``row(tm - 1)`` of the tile, four neighbours and again four, a fraction
of the tile further down: so the 16-byte loads of neighbouring threads lie side by side, and meet different
banks of shared memory. The same with its columns. Of a warp's lanes 8 lie along the columns, 4 along the
rows.
"""

from typing import Any, NamedTuple

from numba import int32

from nnkernels.machine.gpu_instructions import load4, store4
from nnkernels.machine.gpu_kernel import at, cuda, device_function
from nnkernels.machine.memory import Array

ALIGNMENT = 16  # bytes, of the shared arrays
PAD = 4  # elements behind a row of a tile: rows that are written down a column lie in different banks
LANES_ACROSS, LANES_DOWN = 8, 4
UNROLLED = 2  # k's in a turn of the innermost loop: the fewer turns, the less is spent on counting them


class Tile(NamedTuple):
    """Sizes: of a block's tile, and of the part of it that is one thread's (tm, tn: multiples of 4)."""

    rows: int
    columns: int
    depth: int
    tm: int
    tn: int

    @property
    def threads(self) -> int:
        """The number of threads of a block."""
        return self.rows // self.tm * (self.columns // self.tn)

    @property
    def a_row(self) -> int:
        """From one k to the next in a_tile."""
        return self.rows + PAD

    @property
    def b_row(self) -> int:
        """From one k to the next in b_tile."""
        return self.columns + PAD


# 256 threads with 64 sums each: two blocks fill a multiprocessor's registers.
BIG = Tile(rows=128, columns=128, depth=16, tm=8, tn=8)
# For problems that have few tiles, and for float64, whose sums take two registers each.
SMALL = Tile(rows=32, columns=32, depth=8, tm=4, tn=4)


class TileFunctions(NamedTuple):
    """Device functions for one Tile; kernels name them one by one, as closure variables."""

    row: Any  # row(i): place in the tile of the thread's i-th row
    column: Any  # column(j)
    clear: Any  # clear(sums): set them to 0
    multiply: Any  # multiply(a_tile, a_start, b_tile, b_start, sums): add a step's products
    store: Any  # store(sums, y, start, m, n, y_row, vector): write those inside of y


def tile_functions(tile: Tile) -> TileFunctions:
    """Return the functions; ``sums`` is a local array of tm tn elements, row after row."""
    depth, tm, tn, a_row, b_row = tile.depth, tile.tm, tile.tn, tile.a_row, tile.b_row
    warps_across = tile.columns // tn // LANES_ACROSS
    row_jump, column_jump = tile.rows * 4 // tm, tile.columns * 4 // tn  # from four to the next four

    @device_function
    def row(i: int) -> Any:
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        thread = warp // warps_across * LANES_DOWN + lane // LANES_ACROSS
        return thread * 4 + i // 4 * row_jump + i % 4

    @device_function
    def column(j: int) -> Any:
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        thread = warp % warps_across * LANES_ACROSS + lane % LANES_ACROSS
        return thread * 4 + j // 4 * column_jump + j % 4

    @device_function
    def clear(sums: Array) -> None:
        for i in range(tm * tn):
            sums[i] = sums.dtype.type(0)

    @device_function
    def multiply_one(a_tile: Array, p: int, b_tile: Array, q: int, sums: Array) -> None:
        """Add the products of one k, whose rows and columns start at p and q."""
        a, b = cuda.local.array(tm, sums.dtype), cuda.local.array(tn, sums.dtype)
        for i in range(0, tm, 4):
            a[i], a[i + 1], a[i + 2], a[i + 3] = load4(a_tile, p + i // 4 * row_jump)
        for j in range(0, tn, 4):
            b[j], b[j + 1], b[j + 2], b[j + 3] = load4(b_tile, q + j // 4 * column_jump)
        for i in range(tm):
            for j in range(tn):
                sums[i * tn + j] += a[i] * b[j]

    @device_function
    def multiply(a_tile: Array, a_start: int, b_tile: Array, b_start: int, sums: Array) -> None:
        """Add the products of a step, whose parts of the shared arrays start at a_start and b_start."""
        p, q = int32(a_start + row(0)), int32(b_start + column(0))
        end = int32(p + depth * a_row)
        while p < end:  # the place counts: of 143 instructions in a BIG tile's turn, 128 are multiply-adds
            multiply_one(a_tile, p, b_tile, q, sums)
            multiply_one(a_tile, p + a_row, b_tile, q + b_row, sums)
            p, q = int32(p + UNROLLED * a_row), int32(q + UNROLLED * b_row)

    @device_function
    def store(sums: Array, y: Array, start: int, m: int, n: int, y_row: int, vector: bool) -> None:
        """Write what lies in the tile's first m rows and n columns to y[start + i y_row + j]."""
        if vector:
            for i in range(tm):
                for j in range(0, tn, 4):
                    if row(i) < m and column(j) < n:
                        p, s = int32(start + row(i) * y_row + column(j)), i * tn + j
                        store4(y, at(p), sums[s], sums[s + 1], sums[s + 2], sums[s + 3])
        else:
            for i in range(tm):
                for j in range(tn):
                    if row(i) < m and column(j) < n:
                        y[at(start + row(i) * y_row + column(j))] = sums[i * tn + j]

    return TileFunctions(row, column, clear, multiply, store)


# --- bringing a matrix into a tile, by way of registers ---


class OperandFunctions(NamedTuple):
    """Device functions that bring one operand of a step, ``depth`` x ``width`` elements, to shared memory."""

    fetch: Any  # fetch(x, origin, w0, W, k0, K, turned, vector, held): load to registers
    put: Any  # put(held, turned, tile, start): store to the tile


def held_by_thread(tile: Tile, width: int) -> int:
    """Return how many elements of a step's operand each thread brings."""
    return tile.depth * width // tile.threads


def operand_functions(tile: Tile, width: int) -> OperandFunctions:
    """Return the functions for an operand of ``width`` = tile.rows or tile.columns.

    The matrix lies in x from ``origin``: (K, W) row after row, or (W, K) if ``turned``. A thread loads runs
    of 4 neighbours, by one instruction if ``vector`` says that all rows start at multiples of 16 bytes;
    elements outside of the matrix are 0. Loading and storing are two functions, so that a step's loads can be
    under way while the step before is multiplied.
    """
    depth, threads, row = tile.depth, tile.threads, width + PAD
    runs = held_by_thread(tile, width) // 4

    @device_function
    def place(run: int, turned: bool) -> Any:
        """Return k and w of the first element of a run."""
        number = cuda.threadIdx.x + run * threads
        if turned:
            return number % (depth // 4) * 4, number // (depth // 4)
        return number // (width // 4), number % (width // 4) * 4

    @device_function
    def fetch(
        x: Array, origin: int, w0: int, W: int, k0: int, K: int, turned: bool, vector: bool, held: Array
    ) -> None:
        zero = held.dtype.type(0)
        for run in range(runs):
            k, w = place(run, turned)
            k, w, h = int32(k + k0), int32(w + w0), 4 * run
            if turned:
                start, inside = int32(origin + w * K + k), int32(K - k if w < W else 0)
            else:
                start, inside = int32(origin + k * W + w), int32(W - w if k < K else 0)
            if vector:
                held[h] = held[h + 1] = held[h + 2] = held[h + 3] = zero
                if inside > 0:
                    held[h], held[h + 1], held[h + 2], held[h + 3] = load4(x, at(start))
            else:
                for c in range(4):
                    held[h + c] = x[at(start + c)] if c < inside else zero

    @device_function
    def put(held: Array, turned: bool, tile: Array, start: int) -> None:
        for run in range(runs):
            k, w = place(run, turned)
            p, h = start + k * row + w, 4 * run
            if turned:
                for c in range(4):
                    tile[at(p + c * row)] = held[h + c]
            else:
                store4(tile, at(p), held[h], held[h + 1], held[h + 2], held[h + 3])

    return OperandFunctions(fetch, put)
