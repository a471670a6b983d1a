"""From three loops to the speed of the machine, one idea at a time: y[i, j] = sum over k of a[i, k] b[k, j].

Every rung writes the whole product of two contiguous matrices, a (M, K) and b (K, N), to y (M, N), whatever
their sizes, and does the same 2 M N K FLOPs. Each differs from the one before by the one idea that its
docstring tells. All are compiled with the same flags; all but the last use one thread.

    python benchmarks/matmul_ladder.py

measures them. ``RUNGS`` lists them in order. The top rung is what the op ``matmul`` uses for large matrices;
there is more to it (small sizes, transposed operands): see ``gemm``.

After Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34(3), 2008.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.jit import flag, inline, jit_tuned, signed
from nnkernels.machine.memory import Array
from nnkernels.machine.simd import VECTORS, U, broadcast, fma, lanes_of, load, store
from nnkernels.ops.matmul.dot import dot_block
from nnkernels.ops.matmul.gemm import gemm
from nnkernels.ops.matmul.micro import MR, block_product
from nnkernels.ops.matmul.packing import pack_a, pack_b, pack_panel

# Rungs 3 and 4: one block of b is 256 KiB of float32 and stays in the L2 cache; a row of it, in L1. Narrower
# blocks would fit into L1, but then the loop over j is too short to be worth its start.
ROWS_OF_B, COLUMNS_OF_B = 64, 1024
# Rungs 5 to 7: KC numbers of a few rows of a fit into L1, of NC columns of b into L2.
KC, MC, NC = 384, 128, 192


@jit_tuned
def triple_loop(a: Array, b: Array, y: Array) -> None:
    """1. The definition: each element of y is a row of a times a column of b.

    Two numbers of a column of b lie a whole row apart. Each is fetched with a cache line of 16 of which the
    other 15 are not used, and no vector instruction can load several at once.
    """
    M, K, N = a.shape[0], a.shape[1], b.shape[1]
    for i in range(M):
        for j in range(N):
            s = y.dtype.type(0)
            for k in range(K):
                s += a[i, k] * b[k, j]
            y[i, j] = s


@jit_tuned
def reordered(a: Array, b: Array, y: Array) -> None:
    """2. Order i, k, j: the innermost loop runs along rows.

    Every number of a cache line is used, and LLVM turns the loop over j into vector instructions. But all of
    b passes through the processor for each row of a, and once it is larger than a cache, that is what counts.
    """
    M, K, N = a.shape[0], a.shape[1], b.shape[1]
    y[:] = 0
    for i in range(M):
        for k in range(K):
            v = a[i, k]
            for j in range(N):
                y[i, j] += v * b[k, j]


@jit_tuned
def blocked(a: Array, b: Array, y: Array) -> None:
    """3. Blocks: the same three loops on a part of b that stays in a cache while all rows of a meet it.

    Each block of b comes from far away once, not M times. How much that is worth depends on how slow far
    away is: little while all of b fits into the L3 cache. (Indices are unsigned: for signed ones that do not
    start at 0, Numba tests for a[-1], and the loop is not vectorised.)
    """
    M, K, N = a.shape[0], a.shape[1], b.shape[1]
    y[:] = 0
    for j0 in range(0, N, COLUMNS_OF_B):
        for k0 in range(0, K, ROWS_OF_B):
            j_end, k_end = min(j0 + COLUMNS_OF_B, N), min(k0 + ROWS_OF_B, K)
            for i in range(U(M)):
                for k in range(U(k0), U(k_end)):
                    v = a[i, k]
                    for j in range(U(j0), U(j_end)):
                        y[i, j] += v * b[k, j]


@jit_tuned
def packed(a: Array, b: Array, y: Array) -> None:
    """4. Packing: copy the block into a contiguous panel first.

    The rows of a block lie N numbers apart: on memory pages of their own, and if N is a power of two, in the
    same few sets of a cache, where they drive each other out. A panel is one run that fills a cache evenly.
    Rows as long as these gain little from that; the tiles of the next rungs, which read a few numbers of
    each of many rows, could not do without. The copy moves K N numbers for M K N multiply-adds.
    """
    M, K, N = a.shape[0], a.shape[1], b.shape[1]
    panel = np.empty((ROWS_OF_B, COLUMNS_OF_B), y.dtype)
    y[:] = 0
    for j0 in range(0, N, COLUMNS_OF_B):
        for k0 in range(0, K, ROWS_OF_B):
            n, deep = min(COLUMNS_OF_B, N - j0), min(ROWS_OF_B, K - k0)
            for k in range(U(deep)):
                for j in range(U(n)):
                    panel[k, j] = b[U(k0) + k, U(j0) + j]
            for i in range(U(M)):
                for k in range(U(deep)):
                    v = a[i, U(k0) + k]
                    for j in range(U(n)):
                        y[i, U(j0) + j] += v * panel[k, j]


@jit_tuned
def register_tile(a: Array, b: Array, y: Array) -> None:
    """5. A tile of 4 x 4 sums in registers: ``dot_tile``, whose sums are 16 named scalars.

    So far each multiply-add loaded a number of y and stored it again. Now a sum stays in a register for KC
    multiply-adds, and 8 loads serve 16 of them. The panels hold rows of a and, so that both are read along k,
    columns of b. LLVM makes each scalar a vector of partial sums along k.
    """
    M, K, N = a.shape[0], a.shape[1], b.shape[1]
    a, b, to = a.reshape(-1), b.reshape(-1), y.reshape(-1)
    rows, columns = np.empty(M * KC, y.dtype), np.empty(N * KC, y.dtype)
    y[:] = 0
    for k in range(0, K, KC):
        deep = min(KC, K - k)
        pack_panel(a, U(k), U(K), U(1), M, deep, deep, rows, U(0))
        pack_panel(b, U(k * N), U(1), U(N), N, deep, deep, columns, U(0))
        for i in range(0, M, MC):
            for j in range(0, N, NC):
                dot_block(rows, columns, deep, i, min(i + MC, M), j, min(j + NC, N), to, N, True)


@jit_tuned
def simd_tile(a: Array, i: U, m: int, b: Array, j: U, n: int, deep: int, y: Array, p: U, y_row: U) -> None:
    """Add the product of m <= 4 packed rows and n packed columns, up to two vectors of them, to y[p:].

    a[i + 4 k + r]   b[j + 2 lanes k + c]   y[p + r y_row + c]
    """
    lanes = lanes_of(y)
    L = U(lanes)
    n0, n1 = min(n, lanes), max(n - lanes, 0)  # columns in the first and in the second vector
    zero = load(b, j, 0)
    s00 = s01 = s10 = s11 = s20 = s21 = s30 = s31 = zero
    for k in range(U(deep)):
        at, bt = i + U(4) * k, j + U(2) * L * k
        b0, b1 = load(b, bt, n0), load(b, bt + L, n1)
        a0, a1 = broadcast(a, at), broadcast(a, at + U(1))
        a2, a3 = broadcast(a, at + U(2)), broadcast(a, at + U(3))
        s00, s01 = fma(a0, b0, s00), fma(a0, b1, s01)
        s10, s11 = fma(a1, b0, s10), fma(a1, b1, s11)
        s20, s21 = fma(a2, b0, s20), fma(a2, b1, s21)
        s30, s31 = fma(a3, b0, s30), fma(a3, b1, s31)
    add_vectors(s00, s01, y, p, L, n0, n1)
    if m > 1:
        add_vectors(s10, s11, y, p + y_row, L, n0, n1)
    if m > 2:
        add_vectors(s20, s21, y, p + U(2) * y_row, L, n0, n1)
    if m > 3:
        add_vectors(s30, s31, y, p + U(3) * y_row, L, n0, n1)


@inline
def add_vectors(v0: Any, v1: Any, y: Array, p: U, L: U, n0: int, n1: int) -> None:
    store(load(y, p, n0) + v0, y, p, n0)
    store(load(y, p + L, n1) + v1, y, p + L, n1)


@jit_tuned
def simd(a: Array, b: Array, y: Array) -> None:
    """6. Vector instructions, said outright: 4 rows x 2 vectors of sums, in ``simd_tile``.

    Each number of a is spread over a vector (``broadcast``) and multiplied with neighbours in a row of b, so
    that no sum is cut into parts that must be added up at the end, and b needs no transposing. 6 loads serve
    8 multiply-adds of whole vectors. 8 is also the least number of sums that keeps two multiply-add units
    busy whose results take 4 cycles. Panels of a are 4 rows wide, those of b 2 vectors.
    """
    M, K, N = a.shape[0], a.shape[1], b.shape[1]
    a, b, to = a.reshape(-1), b.reshape(-1), y.reshape(-1)
    wide = 2 * lanes_of(y)
    a_panels = np.empty((M + 3) // 4 * 4 * KC, y.dtype)
    b_panels = np.empty((N + wide - 1) // wide * wide * KC, y.dtype)
    y[:] = 0
    for k in range(0, K, KC):
        deep = min(KC, K - k)
        for i in range(0, M, 4):
            pack_panel(a, U(i * K + k), U(1), U(K), deep, min(4, M - i), 4, a_panels, U(i * deep))
        for j in range(0, N, wide):
            pack_panel(b, U(k * N + j), U(N), U(1), deep, min(wide, N - j), wide, b_panels, U(j * deep))
        for j0 in range(0, N, NC):
            for i in range(0, M, 4):
                for j in range(j0, min(j0 + NC, N), wide):
                    simd_tile(
                        a_panels, U(i * deep), min(4, M - i), b_panels, U(j * deep), min(wide, N - j), deep,
                        to, U(i * N + j), U(N),
                    )  # fmt: skip


@jit_tuned
def full_tile(a: Array, b: Array, y: Array) -> None:
    """7. As many sums as there are registers: the tile of ``block_product``, 8 x 3 vectors with AVX-512.

    For each k it makes 11 loads and 24 multiply-adds of vectors. Rung 6 makes 6 and 8: so near the two loads
    that a core can do in the time of two multiply-adds that each late one from the L2 cache is felt.
    """
    M, K, N = a.shape[0], a.shape[1], b.shape[1]
    a, b, to = a.reshape(-1), b.reshape(-1), y.reshape(-1)
    NR = VECTORS * lanes_of(y)
    a_panels = np.empty((M + MR - 1) // MR * MR * KC, y.dtype)
    b_panels = np.empty((N + NR - 1) // NR * NR * KC, y.dtype)
    at = np.arange(KC).astype(np.uint64) * U(NR)  # where a panel's rows start
    y[:] = 0
    for k in range(0, K, KC):
        deep = min(KC, K - k)
        pack_a(a, U(k), U(K), U(1), M, deep, a_panels, U(0))
        pack_b(b, U(k * N), U(N), U(1), deep, N, b_panels, U(0))
        for i in range(0, M, MC):
            for j in range(0, N, NC):
                block_product(
                    a_panels, U(i * deep), MR * deep, U(1), U(MR), min(MC, M - i),
                    b_panels, U(j * deep), NR * deep, at, min(NC, N - j), deep,
                    signed(1), U(0), U(0), to, U(i * N + j), U(N), flag(True),
                )  # fmt: skip


def parallel(a: Array, b: Array, y: Array) -> None:
    """8. All threads: they share the blocks of y, and the packing (``gemm``, as the op ``matmul`` calls it).

    No two threads write to the same block, and each sum is taken in the same order as by one thread.
    """
    gemm(a, b, y, way="packed")


class Rung(NamedTuple):
    """One step: what it is called, what it adds to the step before, and function(a, b, y)."""

    name: str
    idea: str
    function: Callable[[Array, Array, Array], None]


RUNGS = (
    Rung("triple loop", "the definition", triple_loop),
    Rung("reordered", "innermost loop along rows", reordered),
    Rung("blocked", "a block of b stays in a cache", blocked),
    Rung("packed", "the block is copied to one panel", packed),
    Rung("register tile", "4 x 4 sums stay in registers", register_tile),
    Rung("simd", "4 x 2 vectors of sums", simd),
    Rung("full tile", f"{MR} x {VECTORS} vectors fill the registers", full_tile),
    Rung("parallel", "threads share the blocks", parallel),
)
