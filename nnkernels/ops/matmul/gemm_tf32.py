"""``gemm_cuda`` on tensor cores: factors rounded to TF32, 10 bits of mantissa, and float32 sums.

Four warps compute a tile of 128 x 128, each a quarter, 64 x 64: 4 x 8 products of (16, 8) by (8, 8) for each
8 of K, whose sums fill 128 registers of every lane. Operands go to shared memory by asynchronous copies,
which pass by the registers: of three buffers one is multiplied while the other two fill.

In a buffer an operand lies as in memory, k along its rows (``turned``) or along its columns. So that a warp's
loads meet all 32 banks, runs of a row change places in a pattern that repeats after a few rows:

    turned:  tile[w 16 + (k // 4 ^ w // 2 % 4) 4 + k % 4]        else:  tile[k 128 + (w ^ k % 4 * 8)]

Bound: 2 M N K FLOPs at the rate of TF32 (by mma.sync instructions, on an H100 about 0.6 of its peak).
"""

from functools import cache
from typing import Any

from numba import int32

from nnkernels.machine.gpu_instructions import (
    commit_copies,
    copy4,
    ldmatrix,
    mma_tf32,
    to_tf32,
    wait_for_copies,
)
from nnkernels.machine.gpu_kernel import Expected, at, ceil_div, cuda, device_function, kernel
from nnkernels.machine.memory import Array
from nnkernels.ops.matmul.form import BIAS, Axes, finished, offsets, work_of_block
from nnkernels.ops.matmul.tiles import ALIGNMENT

SIDE, DEPTH = 128, 16  # of a block's tile; of a step
QUARTER, HALF = 64, 32
TF32_THREADS = 128
BUFFERS = 3
PART = SIDE * DEPTH  # elements of an operand in a buffer
SIZE = BUFFERS * PART
RUNS = PART // 4 // TF32_THREADS  # of four elements, which a thread copies
ACROSS, DOWN = 8, 4  # products of (16, 8) by (8, 8) of a warp, side by side and below each other
SUMS = 4 * ACROSS * DOWN
HALF_SUMS = SUMS // 2


def operand(turned: bool, is_a: bool) -> tuple[Any, Any]:
    """Return device functions: to copy a step's part of an operand, and to load a fragment."""

    @device_function
    def place(w: int, k: int) -> int:
        """Return where element (k, w) lies in a buffer."""
        if turned:
            return w * DEPTH + ((k // 4) ^ (w // 2 % 4)) * 4 + k % 4
        return k * SIDE + (w ^ (k % 4 * 8))

    @device_function
    def copy(x: Array, origin: int, w0: int, W: int, k0: int, K: int, tile: Array, start: int) -> None:
        for run in range(RUNS):
            number = cuda.threadIdx.x + run * TF32_THREADS
            if turned:
                k, w = number % (DEPTH // 4) * 4, number // (DEPTH // 4)
                source = origin + (w0 + w) * K + k0 + k
            else:
                k, w = number // (SIDE // 4), number % (SIDE // 4) * 4
                source = origin + (k0 + k) * W + w0 + w
            if w0 + w < W and k0 + k < K:
                copy4(tile, at(start + place(w, k)), x, at(source), 4)
            else:
                copy4(tile, at(start + place(w, k)), x, at(0), 0)

    @device_function
    def fragment(tile: Array, start: int, w0: int, k0: int) -> Any:
        """Return the lane's elements of 16 of w and 8 of k, in the order of mma_tf32's a, or of two b's."""
        lane = cuda.threadIdx.x % 32
        if turned:
            q, r = lane // 8, lane % 8
            w, k = (q % 2 * 8 + r, q // 2 * 4) if is_a else (q // 2 * 8 + r, q % 2 * 4)
            f0, f1, f2, f3 = ldmatrix(tile, at(start + place(w0 + w, k0 + k)))
        else:
            w, k = w0 + lane // 4, k0 + lane % 4
            w1, k2 = (w + 8, k) if is_a else (w, k + 4)
            w2, k1 = (w, k + 4) if is_a else (w + 8, k)
            f0 = tile[at(start + place(w, k))]
            f1 = tile[at(start + place(w1, k2))]
            f2 = tile[at(start + place(w2, k1))]
            f3 = tile[at(start + place(w + 8, k + 4))]
        return to_tf32(f0), to_tf32(f1), to_tf32(f2), to_tf32(f3)

    return copy, fragment


@device_function
def add_product(sums: Array, p: int, a: Array, i: int, b0: Any, b1: Any) -> None:
    """Add the product of two fragments to sums[p : p + 4]."""
    sums[p], sums[p + 1], sums[p + 2], sums[p + 3] = mma_tf32(
        (a[i], a[i + 1], a[i + 2], a[i + 3]), (b0, b1), (sums[p], sums[p + 1], sums[p + 2], sums[p + 3])
    )


@device_function
def finish(sums: Array, i: int, bias: Array, left: int, N: int, flags: int) -> None:
    """Add the bias and take the activation, in 16 of the rows."""
    for j in range(ACROSS):
        for q in range(2):
            c, p = int32(left + 8 * j + q), 4 * (i * ACROSS + j) + q
            add = bias[at(c)] if flags & BIAS and c < N else sums.dtype.type(0)
            sums[p], sums[p + 2] = finished(sums[p], add, flags), finished(sums[p + 2], add, flags)


@device_function
def store(sums: Array, i: int, y: Array, start: int, m: int, n: int, y_row: int) -> None:
    """Write what lies in y's first m rows and n columns, of 16 of the rows."""
    for j in range(ACROSS):
        for q in range(4):
            row, column = 16 * i + q // 2 * 8, 8 * j + q % 2
            if row < m and column < n:
                y[at(start + row * y_row + column)] = sums[4 * (i * ACROSS + j) + q]


@cache
def tf32_kernel(turned_a: bool, turned_b: bool) -> Any:
    """Return the kernel for operands whose k lies along rows (``turned``) or along columns."""
    copy_a, fragment_a = operand(turned_a, True)
    copy_b, fragment_b = operand(turned_b, False)

    @kernel(expected=Expected(registers=255, opcodes=("HMMA.1688.F32.TF32", "LDGSTS.E.BYPASS.128")))
    def tf32_product_kernel(
        a: Array, b: Array, bias: Array, form: Axes, outer: Axes, summed: Axes, y: Array
    ) -> None:
        M, N, K, flags, splits, share, steps = form
        a_tile = cuda.shared.array(SIZE, y.dtype, ALIGNMENT)
        b_tile = cuda.shared.array(SIZE, y.dtype, ALIGNMENT)
        a_held, sums = cuda.local.array(16, y.dtype), cuda.local.array(SUMS, y.dtype)
        for i in range(HALF_SUMS):  # two short loops: a longer one would not be unrolled
            sums[i] = y.dtype.type(0)
        for i in range(HALF_SUMS, SUMS):
            sums[i] = y.dtype.type(0)

        j0, i0, part, split, n = work_of_block(M, N, SIDE, SIDE, splits)
        a_start, b_start = offsets(n, outer)
        warp, lane = cuda.threadIdx.x // 32, cuda.threadIdx.x % 32
        row, column = warp // 2 * QUARTER, warp % 2 * QUARTER

        first, last = int32(split * share), int32(min(split * share + share, steps))
        each = ceil_div(K, DEPTH)  # steps of one product
        r, k0, fills, reads = int32(first // each), int32(first % each * DEPTH), int32(0), int32(0)
        a_at, b_at = offsets(r, summed)
        for step in range(first - 2, last):  # copy two steps ahead of multiplying
            wait_for_copies(1)
            cuda.syncthreads()
            if step + 2 < last:
                copy_a(a, int32(a_start + a_at), i0, M, k0, K, a_tile, fills)
                copy_b(b, int32(b_start + b_at), j0, N, k0, K, b_tile, fills)
                fills = int32(0 if fills == SIZE - PART else fills + PART)
                k0 = int32(k0 + DEPTH)
                if k0 >= K:
                    r, k0 = int32(r + 1), int32(0)
                    a_at, b_at = offsets(r, summed)
            commit_copies()  # maybe of none, so that the number of groups tells which have arrived
            if step >= first:
                for k in range(0, DEPTH, 8):
                    for i in range(DOWN):
                        a_held[4 * i], a_held[4 * i + 1], a_held[4 * i + 2], a_held[4 * i + 3] = fragment_a(
                            a_tile, reads, row + 16 * i, k
                        )
                    for j in range(0, ACROSS, 2):
                        b0, b1, b2, b3 = fragment_b(b_tile, reads, column + 8 * j, k)
                        for i in range(DOWN):
                            add_product(sums, 4 * (i * ACROSS + j), a_held, 4 * i, b0, b1)
                            add_product(sums, 4 * (i * ACROSS + j + 1), a_held, 4 * i, b2, b3)
                reads = int32(0 if reads == SIZE - PART else reads + PART)

        top, left = row + lane // 4, column + lane % 4 * 2
        start, m, left = int32((part * M + i0 + top) * N + j0 + left), int32(M - i0 - top), int32(j0 + left)
        finish(sums, 0, bias, left, N, flags)  # written out: in a long loop, sums would not stay in registers
        finish(sums, 1, bias, left, N, flags)
        finish(sums, 2, bias, left, N, flags)
        finish(sums, 3, bias, left, N, flags)
        store(sums, 0, y, start, m, N - left, N)
        store(sums, 1, y, start, m, N - left, N)
        store(sums, 2, y, start, m, N - left, N)
        store(sums, 3, y, start, m, N - left, N)

    return tf32_product_kernel
