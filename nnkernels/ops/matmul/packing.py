"""Packing: copies of a block in the order in which the micro-kernel reads it.

    a, panels of MR rows:     out[panel][k][r]      b, panels of NR columns:     out[panel][k][c]

Rows of a large matrix lie pages apart, and many of them share a cache set; a packed panel is one contiguous
run. A panel's last rows or columns may be missing: the micro-kernel never uses them. Packing moves M K + K N
numbers for M K N multiply-adds.
"""

from nnkernels.machine.jit import jit_elementwise
from nnkernels.machine.memory import Array
from nnkernels.machine.simd import VECTORS, U, lanes_of
from nnkernels.ops.matmul.micro import MR


@jit_elementwise
def pack_a(a: Array, i: U, a_row: U, a_col: U, M: int, K: int, out: Array, to: U) -> None:
    """Pack M rows of K elements a[i + r a_row + k a_col]."""
    for r in range(0, M, MR):
        pack_panel(a, i + U(r) * a_row, a_col, a_row, K, min(MR, M - r), MR, out, to + U(r * K))


@jit_elementwise
def pack_b(b: Array, j: U, b_row: U, b_col: U, K: int, N: int, out: Array, to: U) -> None:
    """Pack K rows of N elements b[j + k b_row + c b_col]."""
    NR = VECTORS * lanes_of(b)
    for c in range(0, N, NR):
        pack_panel(b, j + U(c) * b_col, b_row, b_col, K, min(NR, N - c), NR, out, to + U(c * K))


@jit_elementwise
def pack_panel(x: Array, i: U, step: U, across: U, K: int, width: int, pitch: int, out: Array, to: U) -> None:
    """out[to + k pitch + c] = x[i + k step + c across], reading along whichever way is contiguous."""
    if across == U(1):
        for k in range(U(K)):
            for c in range(U(width)):
                out[to + k * U(pitch) + c] = x[i + k * step + c]
    else:
        for c in range(U(width)):
            for k in range(U(K)):
                out[to + k * U(pitch) + c] = x[i + k * step + c * across]
