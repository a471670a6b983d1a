"""The micro-kernel: a tile of sums that stays in vector registers. Matrix products and convolutions end here.

    y[p + r y_row + c] (+)= sum over k of a[i + r a_row + k a_col] b[j + at[k] + c]

or the sum of ``terms`` such products, each ``a_step`` and ``b_step`` elements after the one before. All
arrays are flat. The rows of b are given by a table of offsets ``at``: at[k] = k P for a matrix with rows of P
elements, and one entry per filter tap for a convolution. For each k the kernel reads VECTORS vectors of b and
ROWS numbers of a, and does ROWS * VECTORS vector multiply-adds: more arithmetic than the two load ports could
feed from any smaller tile.

After Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication, ACM TOMS 34(3), 2008.
"""

from nnkernels.machine.jit import jit_tuned
from nnkernels.machine.memory import Array
from nnkernels.machine.simd import (
    ROWS,
    VECTORS,
    U,
    add_outer,
    lanes_of,
    load_tile,
    prefetch,
    store_tile,
    zero_tile,
)  # fmt: skip

MR = ROWS  # rows of a tile


@jit_tuned
def wide_tile(
    a: Array, i: U, a_row: U, a_col: U, m: int, b: Array, j: U, at: Array, n: int, K: int,
    terms: int, a_step: U, b_step: U, y: Array, p: U, y_row: U, add: bool,
) -> None:  # fmt: skip
    """Compute m <= MR rows of n <= VECTORS * LANES columns; ``add`` to what stands in y, or write over it."""
    t = load_tile(y, p, y_row, m, n, VECTORS) if add else zero_tile(y, VECTORS)
    for g in range(U(terms)):
        ig, jg = i + g * a_step, j + g * b_step
        for k in range(U(K)):
            t = add_outer(t, a, ig + k * a_col, a_row, m, b, jg + at[k], n, VECTORS)
    store_tile(t, y, p, y_row, m, n, VECTORS)


@jit_tuned
def pair_tile(
    a: Array, i: U, a_row: U, a_col: U, m: int, b: Array, j: U, at: Array, n: int, K: int,
    terms: int, a_step: U, b_step: U, y: Array, p: U, y_row: U, add: bool,
) -> None:  # fmt: skip
    """The same for n <= 2 LANES columns."""
    t = load_tile(y, p, y_row, m, n, 2) if add else zero_tile(y, 2)
    for g in range(U(terms)):
        ig, jg = i + g * a_step, j + g * b_step
        for k in range(U(K)):
            t = add_outer(t, a, ig + k * a_col, a_row, m, b, jg + at[k], n, 2)
    store_tile(t, y, p, y_row, m, n, 2)


@jit_tuned
def narrow_tile(
    a: Array, i: U, a_row: U, a_col: U, m: int, b: Array, j: U, at: Array, n: int, K: int,
    terms: int, a_step: U, b_step: U, y: Array, p: U, y_row: U, add: bool,
) -> None:  # fmt: skip
    """The same for n <= LANES columns."""
    t = load_tile(y, p, y_row, m, n, 1) if add else zero_tile(y, 1)
    for g in range(U(terms)):
        ig, jg = i + g * a_step, j + g * b_step
        for k in range(U(K)):
            t = add_outer(t, a, ig + k * a_col, a_row, m, b, jg + at[k], n, 1)
    store_tile(t, y, p, y_row, m, n, 1)


@jit_tuned
def block_product(
    a: Array, i: U, a_panel: int, a_row: U, a_col: U, M: int,
    b: Array, j: U, b_panel: int, at: Array, N: int, K: int,
    terms: int, a_step: U, b_step: U, y: Array, p: U, y_row: U, add: bool,
) -> None:  # fmt: skip
    """Compute an M x N block of y tile by tile.

    ``a_panel`` is the distance in a from one set of MR rows to the next. Columns of b are packed in panels of
    NR (see ``packing``), ``b_panel`` being the distance from one to the next, or lie as they are: then it is
    NR. Rows go in the outer loop: their MR x K numbers stay in the L1 cache while the columns stream past
    from L2.
    """
    lanes = lanes_of(y)
    NR = VECTORS * lanes
    for r in range((M + MR - 1) // MR):
        m, ir, pr = min(MR, M - r * MR), i + U(r * a_panel), p + U(r * MR) * y_row
        c = 0
        while c < N:
            n = min(NR, N - c)
            if b_panel == NR and 3 * lanes < N - c <= 4 * lanes:
                n = 2 * lanes  # 2 + 2 vectors: a single vector at the end would leave the adders waiting
            jc, pc = j + U(c // NR * b_panel + c % NR), pr + U(c)
            if add:  # a tile reads its sums first: those of the next one are on their way meanwhile
                for q in range(U(MR)):
                    for v in range(U(VECTORS)):
                        prefetch(y, pc + U(n) + q * y_row + v * U(lanes))
            if n > 2 * lanes:
                wide_tile(a, ir, a_row, a_col, m, b, jc, at, n, K, terms, a_step, b_step, y, pc, y_row, add)
            elif n > lanes:
                pair_tile(a, ir, a_row, a_col, m, b, jc, at, n, K, terms, a_step, b_step, y, pc, y_row, add)
            else:
                narrow_tile(a, ir, a_row, a_col, m, b, jc, at, n, K, terms, a_step, b_step, y, pc, y_row, add)
            c += n
