"""From a thread for each element to tensor cores, one idea at a time: y[i, j] = sum_k a[i, k] b[k, j].

Every rung writes the whole product of a (M, K) and b (K, N) to y (M, N), float32, whatever their sizes. Each
differs from the one before by the one idea that its docstring tells. ``RUNGS`` lists them in order. What the
op ``matmul`` uses on a GPU (gemm_cuda.py, gemm_tf32.py) has larger tiles, takes operands transposed, and
shares the K of a tile among blocks where there are few tiles.

A multiprocessor of an H100 does 128 multiply-adds in a cycle, and reads 32 numbers from shared memory: a
kernel that reads two numbers for each multiply-add does an eighth of what it could.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import float32, int32

from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_instructions import load4, mma_tf32, store4, to_tf32
from nnkernels.machine.gpu_kernel import Expected, at, ceil_div, cuda, device_function, kernel
from nnkernels.machine.memory import Array

ALIGNMENT = 16  # bytes, of shared arrays
SIDE = 16  # of the blocks of threads of rungs 1 to 6, and of the tile of rung 3
TILE, DEPTH = 64, 16  # of a block's part of y from rung 4 on, and k's of a step
# From k to k in shared memory; 4 more, so that elements below each other lie in different banks.
ROW = TILE + 4
SIZE = DEPTH * ROW
TWICE = 2 * SIZE


@kernel
def naive_kernel(a: Array, b: Array, M: int, N: int, K: int, y: Array) -> None:
    """1. A thread for each element of y, neighbouring threads below each other.

    The 32 threads of a warp read 32 different rows of a: 32 pieces of memory of 32 bytes each, of which 4 are
    used. They write to 32 rows, too.
    """
    i = cuda.blockIdx.x * SIDE + cuda.threadIdx.x
    j = cuda.blockIdx.y * SIDE + cuda.threadIdx.y
    if i < M and j < N:
        s = y.dtype.type(0)
        for k in range(K):
            s += a[at(i * K + k)] * b[at(k * N + j)]
        y[at(i * N + j)] = s


@kernel
def coalesced_kernel(a: Array, b: Array, M: int, N: int, K: int, y: Array) -> None:
    """2. Coalesced: neighbouring threads side by side.

    A warp now reads neighbours in a row of b, whole pieces of memory, and one or two numbers of a, which
    serve all. Only x and y of the thread have changed places.
    """
    i = cuda.blockIdx.y * SIDE + cuda.threadIdx.y
    j = cuda.blockIdx.x * SIDE + cuda.threadIdx.x
    if i < M and j < N:
        s = y.dtype.type(0)
        for k in range(K):
            s += a[at(i * K + k)] * b[at(k * N + j)]
        y[at(i * N + j)] = s


@kernel(expected=Expected(opcodes=("LDS", "BAR")))
def shared_kernel(a: Array, b: Array, M: int, N: int, K: int, y: Array) -> None:
    """3. Shared memory: a block copies a tile of each operand, which all of its threads then use.

    Each number comes from far away once for 16 multiply-adds. Two barriers: nobody reads a tile before it is
    complete, nobody overwrites it before all have read it.
    """
    a_tile = cuda.shared.array((SIDE, SIDE), y.dtype)
    b_tile = cuda.shared.array((SIDE, SIDE), y.dtype)
    ty, tx = cuda.threadIdx.y, cuda.threadIdx.x
    i, j = cuda.blockIdx.y * SIDE + ty, cuda.blockIdx.x * SIDE + tx
    zero = y.dtype.type(0)
    s = zero
    for k0 in range(0, K, SIDE):
        a_tile[at(ty), at(tx)] = a[at(i * K + k0 + tx)] if i < M and k0 + tx < K else zero
        b_tile[at(ty), at(tx)] = b[at((k0 + ty) * N + j)] if k0 + ty < K and j < N else zero
        cuda.syncthreads()
        for k in range(SIDE):
            s += a_tile[at(ty), k] * b_tile[k, at(tx)]
        cuda.syncthreads()
    if i < M and j < N:
        y[at(i * N + j)] = s


@kernel(expected=Expected(registers=80, opcodes=("LDS", "FFMA")))
def registers_kernel(a: Array, b: Array, M: int, N: int, K: int, y: Array) -> None:
    """4. Register tiles: 4 x 4 sums for each thread.

    So far each multiply-add read two numbers from shared memory; now 8 numbers serve 16. The block's tile is
    64 x 64, and each number from far away serves 64. A thread's rows and columns are 16 apart, so that
    neighbouring threads read neighbouring numbers.
    """
    a_tile, b_tile = cuda.shared.array(SIZE, y.dtype), cuda.shared.array(SIZE, y.dtype)
    sums = cuda.local.array(16, y.dtype)
    tx, ty = cuda.threadIdx.x, cuda.threadIdx.y
    thread = ty * SIDE + tx
    i0, j0 = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    zero = y.dtype.type(0)
    for n in range(16):
        sums[n] = zero
    for k0 in range(0, K, DEPTH):
        for n in range(4):
            i, k = thread // DEPTH + 16 * n, thread % DEPTH
            a_tile[at(k * ROW + i)] = a[at((i0 + i) * K + k0 + k)] if i0 + i < M and k0 + k < K else zero
            j, k = thread % TILE, thread // TILE + 4 * n
            b_tile[at(k * ROW + j)] = b[at((k0 + k) * N + j0 + j)] if j0 + j < N and k0 + k < K else zero
        cuda.syncthreads()
        for k in range(DEPTH):
            for r in range(4):
                for c in range(4):
                    sums[4 * r + c] += (
                        a_tile[at(k * ROW + ty + SIDE * r)] * b_tile[at(k * ROW + tx + SIDE * c)]
                    )
        cuda.syncthreads()
    for r in range(4):
        for c in range(4):
            i, j = i0 + ty + SIDE * r, j0 + tx + SIDE * c
            if i < M and j < N:
                y[at(i * N + j)] = sums[4 * r + c]


@device_function
def four(x: Array, start: int, inside: int, vector: bool) -> Any:
    """Return x[start], ..., x[start + 3], those from ``inside`` on as 0; by one load if ``vector``."""
    zero = x.dtype.type(0)
    p = q = r = s = zero
    if vector:  # then inside is a multiple of 4
        if inside > 0:
            p, q, r, s = load4(x, at(start))
    else:
        p = x[at(start)] if inside > 0 else zero
        q = x[at(start + 1)] if inside > 1 else zero
        r = x[at(start + 2)] if inside > 2 else zero
        s = x[at(start + 3)] if inside > 3 else zero
    return p, q, r, s


@device_function
def multiply(a_tile: Array, b_tile: Array, start: int, sums: Array) -> None:
    """Add the products of a step to the 4 x 4 neighbouring sums of the thread."""
    for k in range(DEPTH):
        p = start + k * ROW
        a0, a1, a2, a3 = load4(a_tile, at(p + 4 * cuda.threadIdx.y))
        b0, b1, b2, b3 = load4(b_tile, at(p + 4 * cuda.threadIdx.x))
        sums[0], sums[1], sums[2], sums[3] = (
            sums[0] + a0 * b0, sums[1] + a0 * b1, sums[2] + a0 * b2, sums[3] + a0 * b3,
        )  # fmt: skip
        sums[4], sums[5], sums[6], sums[7] = (
            sums[4] + a1 * b0, sums[5] + a1 * b1, sums[6] + a1 * b2, sums[7] + a1 * b3,
        )  # fmt: skip
        sums[8], sums[9], sums[10], sums[11] = (
            sums[8] + a2 * b0, sums[9] + a2 * b1, sums[10] + a2 * b2, sums[11] + a2 * b3,
        )  # fmt: skip
        sums[12], sums[13], sums[14], sums[15] = (
            sums[12] + a3 * b0, sums[13] + a3 * b1, sums[14] + a3 * b2, sums[15] + a3 * b3,
        )  # fmt: skip


@device_function
def write(sums: Array, i0: int, j0: int, M: int, N: int, y: Array) -> None:
    """Write the 4 x 4 neighbouring sums of the thread."""
    for r in range(4):
        for c in range(4):
            i, j = i0 + 4 * cuda.threadIdx.y + r, j0 + 4 * cuda.threadIdx.x + c
            if i < M and j < N:
                y[at(i * N + j)] = sums[4 * r + c]


@kernel(expected=Expected(opcodes=("LDG.E.128", "LDS.128", "STS.128")))
def vectors_kernel(a: Array, b: Array, M: int, N: int, K: int, y: Array) -> None:
    """5. Loads of 16 bytes: a quarter of the instructions for the same numbers.

    That needs rows at multiples of 16 bytes, and a thread's rows and columns side by side. Numbers of a lie
    along k, but are wanted along i: they are turned on the way into the tile, whose rows are 4 numbers longer
    than they need be: otherwise all stores of a column would meet the same bank.
    """
    a_tile, b_tile = cuda.shared.array(SIZE, y.dtype, ALIGNMENT), cuda.shared.array(SIZE, y.dtype, ALIGNMENT)
    sums = cuda.local.array(16, y.dtype)
    thread = cuda.threadIdx.y * SIDE + cuda.threadIdx.x
    i0, j0 = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    a_i, a_k = thread // 4, thread % 4 * 4  # what the thread copies: 4 numbers of each operand
    b_k, b_j = thread // 16, thread % 16 * 4
    i, j = i0 + a_i, j0 + b_j
    for n in range(16):
        sums[n] = y.dtype.type(0)
    for k0 in range(0, K, DEPTH):
        k = k0 + a_k
        p, q, r, s = four(a, i * K + k, K - k if i < M else 0, K % 4 == 0)
        a_tile[at(a_k * ROW + a_i)], a_tile[at((a_k + 1) * ROW + a_i)] = p, q
        a_tile[at((a_k + 2) * ROW + a_i)], a_tile[at((a_k + 3) * ROW + a_i)] = r, s
        k = k0 + b_k
        p, q, r, s = four(b, k * N + j, N - j if k < K else 0, N % 4 == 0)
        store4(b_tile, at(b_k * ROW + b_j), p, q, r, s)
        cuda.syncthreads()
        multiply(a_tile, b_tile, 0, sums)
        cuda.syncthreads()
    write(sums, i0, j0, M, N, y)


@kernel(expected=Expected(registers=80, opcodes=("LDG.E.128", "LDS.128", "STS.128")))
def buffers_kernel(a: Array, b: Array, M: int, N: int, K: int, y: Array) -> None:
    """6. Two buffers: the next step's numbers are on their way while this step's are multiplied.

    A load takes hundreds of cycles. It is asked for before the multiply-adds, and what it brought is stored
    after them, in the buffer that nobody reads now: so one barrier for each step is enough.
    """
    a_tile = cuda.shared.array(TWICE, y.dtype, ALIGNMENT)
    b_tile = cuda.shared.array(TWICE, y.dtype, ALIGNMENT)
    sums = cuda.local.array(16, y.dtype)
    thread = cuda.threadIdx.y * SIDE + cuda.threadIdx.x
    i0, j0 = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    a_i, a_k = thread // 4, thread % 4 * 4
    b_k, b_j = thread // 16, thread % 16 * 4
    i, j = i0 + a_i, j0 + b_j
    for n in range(16):
        sums[n] = y.dtype.type(0)
    filled = int32(0)  # where the buffer starts that the next numbers go to
    for k0 in range(-DEPTH, K, DEPTH):  # multiply the step at k0, if any, and load the one behind it
        k = k0 + DEPTH + a_k
        p, q, r, s = four(a, i * K + k, K - k if i < M else 0, K % 4 == 0)
        k = k0 + DEPTH + b_k
        t, u, v, w = four(b, k * N + j, N - j if k < K else 0, N % 4 == 0)
        if k0 >= 0:
            multiply(a_tile, b_tile, SIZE - filled, sums)
        column = filled + a_k * ROW + a_i
        a_tile[at(column)], a_tile[at(column + ROW)] = p, q
        a_tile[at(column + 2 * ROW)], a_tile[at(column + 3 * ROW)] = r, s
        store4(b_tile, at(filled + b_k * ROW + b_j), t, u, v, w)
        filled = int32(SIZE - filled)
        cuda.syncthreads()
    write(sums, i0, j0, M, N, y)


@kernel(expected=Expected(registers=176, opcodes=("HMMA.1688.F32.TF32", "LDS")))
def tensor_kernel(a: Array, b: Array, M: int, N: int, K: int, y: Array) -> None:
    """7. Tensor cores: a warp multiplies (16, 8) by (8, 8) in one instruction, 1024 multiply-adds.

    Factors are rounded to TF32, 10 bits of mantissa, on their way into the tiles; sums stay float32. Of the
    four warps each computes a quarter of the tile, 2 x 4 such products side by side. Every lane holds a few
    elements of each matrix: which, stands in gpu_instructions.py. (As in rung 3 nothing is on its way while
    products are taken: gemm_tf32.py puts rungs 5 and 6 on top.)
    """
    a_tile, b_tile = cuda.shared.array(SIZE, float32), cuda.shared.array(SIZE, float32)
    sums = cuda.local.array(32, float32)
    thread = cuda.threadIdx.x
    warp, g, t = thread // 32, thread % 32 // 4, thread % 4
    i0, j0 = cuda.blockIdx.y * TILE, cuda.blockIdx.x * TILE
    top, left = warp // 2 * 32, warp % 2 * 32
    zero = float32(0)
    for n in range(32):
        sums[n] = zero
    for k0 in range(0, K, DEPTH):
        for n in range(8):
            i, k = thread // DEPTH + 8 * n, thread % DEPTH
            v = a[at((i0 + i) * K + k0 + k)] if i0 + i < M and k0 + k < K else zero
            a_tile[at(k * ROW + i)] = to_tf32(v)
            j, k = thread % TILE, thread // TILE + 2 * n
            v = b[at((k0 + k) * N + j0 + j)] if j0 + j < N and k0 + k < K else zero
            b_tile[at(k * ROW + j)] = to_tf32(v)
        cuda.syncthreads()
        for k in range(0, DEPTH, 8):
            near, far = (k + t) * ROW + g, (k + t + 4) * ROW + g
            for r in range(2):
                p, q = near + top + 16 * r, far + top + 16 * r
                of_a = a_tile[at(p)], a_tile[at(p + 8)], a_tile[at(q)], a_tile[at(q + 8)]
                for c in range(4):
                    of_b = b_tile[at(near + left + 8 * c)], b_tile[at(far + left + 8 * c)]
                    n = 4 * (4 * r + c)
                    sums[n], sums[n + 1], sums[n + 2], sums[n + 3] = mma_tf32(
                        of_a, of_b, (sums[n], sums[n + 1], sums[n + 2], sums[n + 3])
                    )
        cuda.syncthreads()
    for r in range(2):
        for c in range(4):
            for n in range(4):
                i, j = i0 + top + 16 * r + g + n // 2 * 8, j0 + left + 8 * c + 2 * t + n % 2
                if i < M and j < N:
                    y[at(i * N + j)] = sums[4 * (4 * r + c) + n]


class Rung(NamedTuple):
    """One step: what it is called, what it adds to the step before, its kernel, and function(a, b, y)."""

    name: str
    idea: str
    kernel: Any
    function: Callable[[GpuArray, GpuArray, GpuArray], None]


def rung(
    name: str, idea: str, kernel: Any, tile: int, threads: Any = (SIDE, SIDE), turned: bool = False
) -> Rung:
    """Return a rung whose blocks compute ``tile`` x ``tile``, along x side by side or, turned, below."""

    def function(a: GpuArray, b: GpuArray, y: GpuArray) -> None:
        (M, K), N = a.shape, b.shape[1]
        grid = ceil_div(N, tile), ceil_div(M, tile)
        kernel[grid[::-1] if turned else grid, threads](a, b, M, N, K, y)

    return Rung(name, idea, kernel, function)


RUNGS = (
    rung("naive", "a thread for each element", naive_kernel, SIDE, turned=True),
    rung("coalesced", "neighbouring threads side by side", coalesced_kernel, SIDE),
    rung("shared memory", "a block's threads share what they load", shared_kernel, SIDE),
    rung("register tiles", "4 x 4 sums for each thread", registers_kernel, TILE),
    rung("vector loads", "16 bytes at once", vectors_kernel, TILE),
    rung("two buffers", "load the next step while multiplying this one", buffers_kernel, TILE),
    rung("tensor cores", "1024 multiply-adds in an instruction, in TF32", tensor_kernel, TILE, 128),
)
