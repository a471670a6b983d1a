"""General matrix product y (+)= a b of contiguous matrices, either of which may be given transposed.

Six ways, one rule (``method``):

- ``row``: one or two rows of a. Each number of b is used once, so only reading b counts.
- ``outer``: one or two columns of a, times as many rows of b. Only writing y counts, row after row.
- ``dot``: a's rows against the rows of a transposed b, in plain 4 x 4 tiles of dot products. Both operands
  are read as they lie. For few rows of a, where rearranging b would cost more than it saves.
- ``strip``: the same product, b's rows copied into a panel of columns by the task that multiplies them. For
  short rows, whose dot products would spend their time on adding up the lanes of sums.
- ``direct``: the micro-kernel on the operands as they lie. For b with contiguous rows, while it is small.
- ``packed``: blocks of both operands are first copied into panels (see ``packing``), KC deep, then
  multiplied.

Bound: 2 M N K FLOPs at the machine's multiply-add rate; for one row, reading K N numbers; for one column,
writing M N.
"""

from functools import lru_cache
from typing import Literal

import numpy as np

from nnkernels.machine.jit import jit_parallel, jit_tuned, prange, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, U, lanes, lanes_of
from nnkernels.ops.matmul.dot import dot_block
from nnkernels.ops.matmul.micro import MR, block_product
from nnkernels.ops.matmul.packing import pack_a, pack_b

KC = 384  # depth of a panel: MR rows of it are 12 KiB of float32, NR columns 72 KiB
MC, NC = 128, 192  # rows and columns of a packed block, the unit of work that threads share
DIRECT_MC, DIRECT_NC = 32, 96  # the same for operands as they lie: small products, so smaller units
DOT_MC, DOT_NC = 32, 64
SERIAL_BELOW = 1_200_000  # multiply-adds: about 10 us of work, what waking a second thread costs
DOT_MOST_ROWS = 128
STRIP_LEAST_ROWS, STRIP_MOST_K = 32, 256
MOST_SINGLE = 2  # rows or columns of a, that are multiplied one by one
OUTER_ELEMENTS = 1 << 15  # of y in a task of an outer product
OUTER_SERIAL_BELOW = 1 << 18  # elements of y
ROW_NC = 1024  # columns of a task of one row: its sums stay in the L1 cache
DIRECT_MOST_B = 1 << 17  # elements of b: 512 KiB of float32, half an L2 cache

Method = Literal["row", "outer", "dot", "strip", "direct", "packed"]


def method(M: int, N: int, K: int, transposed_a: bool, transposed_b: bool) -> Method:
    """Return the way to multiply (M, K) by (K, N) that was fastest where it was measured."""
    if transposed_b:
        if M > DOT_MOST_ROWS or transposed_a:
            return "packed"
        return "strip" if M >= STRIP_LEAST_ROWS and K <= STRIP_MOST_K else "dot"
    if M <= MOST_SINGLE:
        return "row"
    if K <= MOST_SINGLE:
        return "outer"
    return "direct" if K * N <= DIRECT_MOST_B or M <= 2 * MR else "packed"


def describe(M: int, N: int, K: int, transposed_a: bool = False, transposed_b: bool = False) -> str:
    """Return the way to multiply (M, K) by (K, N), and its reason, in one line."""
    if M * N * K == 0:
        return f"nothing to multiply: ({M}, {K}) by ({K}, {N})"
    way = method(M, N, K, transposed_a, transposed_b)
    rows = "1 row does" if M == 1 else f"{M} rows do"
    if way == "row":
        why = f"each number of b is used {'once' if M == 1 else 'twice'}, so it is read as it lies"
    elif way == "dot":
        why = f"{rows} not repay rearranging b (from {DOT_MOST_ROWS + 1})"
    elif way == "outer":
        why = f"each number of y is {'one product' if K == 1 else 'two products'}, so only writing counts"
    elif way == "strip":
        why = f"rows of b are short (up to {STRIP_MOST_K}) and become columns just before they are used"
    elif way == "packed":
        why = "the rows of a repay copying b into panels"
    elif K * N <= DIRECT_MOST_B:
        why = "b is small enough to be read as it lies"
    else:
        why = f"{rows} not repay copying b into panels (from {2 * MR + 1})"
    a, b = (" transposed" if t else "" for t in (transposed_a, transposed_b))
    return f"{way}: ({M}, {K}){a} by ({K}, {N}){b}, {why}"


@lru_cache(maxsize=256)
def row_offsets(K: int, row: int) -> Array:
    """Return the offsets of K rows of ``row`` elements."""
    return np.arange(K, dtype=np.uint64) * U(row)


@jit_tuned
def row_task(
    task: int, a: Array, a_row: int, a_col: int, b: Array, M: int, N: int, K: int, y: Array, add: bool
) -> None:  # fmt: skip
    """Compute ROW_NC columns: y[i, :] (+)= a[i, 0] b[0, :] + a[i, 1] b[1, :] ..., four rows of b at once."""
    first = task * ROW_NC
    columns = U(min(ROW_NC, N - first))
    row = U(N)
    for i in range(M):
        p = U(i * N + first)
        if not add:
            for c in range(columns):
                y[p + c] = 0
        k = 0
        while k + 4 <= K:
            at = U(i * a_row + k * a_col)
            a0, a1 = a[at], a[at + U(a_col)]
            a2, a3 = a[at + U(2 * a_col)], a[at + U(3 * a_col)]
            j0 = U(k * N + first)
            j1, j2, j3 = j0 + row, j0 + row + row, j0 + row + row + row
            for c in range(columns):
                y[p + c] += a0 * b[j0 + c] + a1 * b[j1 + c] + a2 * b[j2 + c] + a3 * b[j3 + c]
            k += 4
        while k < K:
            a0, j0 = a[U(i * a_row + k * a_col)], U(k * N + first)
            for c in range(columns):
                y[p + c] += a0 * b[j0 + c]
            k += 1


@jit_tuned
def row_serial(
    tasks: int, a: Array, a_row: int, a_col: int, b: Array, M: int, N: int, K: int, y: Array, add: bool
) -> None:  # fmt: skip
    for task in range(tasks):
        row_task(task, a, a_row, a_col, b, M, N, K, y, add)


@jit_parallel
def row_parallel(
    tasks: int, a: Array, a_row: int, a_col: int, b: Array, M: int, N: int, K: int, y: Array, add: bool
) -> None:  # fmt: skip
    for task in prange(tasks):
        row_task(signed(task), a, a_row, a_col, b, M, N, K, y, add)


@jit_tuned
def outer_rows(
    first: int, last: int, a: Array, a_row: int, a_col: int, b: Array, N: int, K: int, y: Array, add: bool
) -> None:  # fmt: skip
    """Compute rows first to last - 1: y[i, :] (+)= a[i, 0] b[0, :] + ..., one row of b after the other."""
    for i in range(first, last):
        p = U(i * N)
        for k in range(K):
            a0, j = a[U(i * a_row + k * a_col)], U(k * N)
            if add or k > 0:
                for c in range(U(N)):
                    y[p + c] += a0 * b[j + c]
            else:
                for c in range(U(N)):
                    y[p + c] = a0 * b[j + c]


@jit_parallel
def outer_parallel(
    rows: int, a: Array, a_row: int, a_col: int, b: Array, M: int, N: int, K: int, y: Array, add: bool
) -> None:  # fmt: skip
    for task in prange((M + rows - 1) // rows):
        i = signed(task * rows)
        outer_rows(i, min(i + rows, M), a, a_row, a_col, b, N, K, y, add)


@jit_tuned
def dot_task(task: int, a: Array, b: Array, M: int, N: int, K: int, y: Array, add: bool) -> None:
    across = (N + DOT_NC - 1) // DOT_NC
    i, j = task // across * DOT_MC, task % across * DOT_NC
    dot_block(a, b, K, i, min(i + DOT_MC, M), j, min(j + DOT_NC, N), y, N, add)


@jit_parallel
def dot_parallel(tasks: int, a: Array, b: Array, M: int, N: int, K: int, y: Array, add: bool) -> None:
    for task in prange(tasks):
        dot_task(signed(task), a, b, M, N, K, y, add)


@jit_tuned
def strip_task(
    task: int, a: Array, b: Array, at: Array, M: int, N: int, K: int, panels: Array, y: Array, add: bool
) -> None:
    """Pack VECTORS vectors of b's rows as columns, at their place in ``panels``, and multiply them."""
    NR = VECTORS * lanes_of(y)
    j, n = task * NR, min(NR, N - task * NR)
    pack_b(b, U(j * K), U(1), U(K), K, n, panels, U(j * K))
    block_product(
        a, U(0), MR * K, U(K), U(1), M, panels, U(j * K), NR * K, at, n, K,
        signed(1), U(0), U(0), y, U(j), U(N), add,
    )  # fmt: skip


@jit_tuned
def strip_serial(
    tasks: int, a: Array, b: Array, at: Array, M: int, N: int, K: int, panels: Array, y: Array, add: bool
) -> None:
    for task in range(tasks):
        strip_task(task, a, b, at, M, N, K, panels, y, add)


@jit_parallel
def strip_parallel(
    tasks: int, a: Array, b: Array, at: Array, M: int, N: int, K: int, panels: Array, y: Array, add: bool
) -> None:
    for task in prange(tasks):
        strip_task(signed(task), a, b, at, M, N, K, panels, y, add)


@jit_tuned
def direct_task(
    task: int, a: Array, a_row: int, a_col: int, b: Array, at: Array, M: int, N: int, K: int, y: Array,
    add: bool,
) -> None:  # fmt: skip
    across = (N + DIRECT_NC - 1) // DIRECT_NC
    i, j = task // across * DIRECT_MC, task % across * DIRECT_NC
    for k in range(0, K, KC):
        block_product(
            a, U(i * a_row + k * a_col), MR * a_row, U(a_row), U(a_col), min(DIRECT_MC, M - i),
            b, U(k * N + j), VECTORS * lanes_of(y), at, min(DIRECT_NC, N - j), min(KC, K - k),
            signed(1), U(0), U(0), y, U(i * N + j), U(N), add or k > 0,
        )  # fmt: skip


@jit_tuned
def direct_serial(
    tasks: int, a: Array, a_row: int, a_col: int, b: Array, at: Array, M: int, N: int, K: int, y: Array,
    add: bool,
) -> None:  # fmt: skip
    for task in range(tasks):
        direct_task(task, a, a_row, a_col, b, at, M, N, K, y, add)


@jit_parallel
def direct_parallel(
    tasks: int, a: Array, a_row: int, a_col: int, b: Array, at: Array, M: int, N: int, K: int, y: Array,
    add: bool,
) -> None:  # fmt: skip
    for task in prange(tasks):
        direct_task(signed(task), a, a_row, a_col, b, at, M, N, K, y, add)


@jit_tuned
def pack_task(
    task: int, a: Array, a_row: int, a_col: int, b: Array, b_row: int, b_col: int, M: int, N: int,
    k: int, n: int, a_panels: Array, b_panels: Array,
) -> None:  # fmt: skip
    """Pack one block's part of the slab k ... k + n: first those of a, then those of b."""
    down = (M + MC - 1) // MC
    if task < down:
        i = task * MC
        at = U(i * a_row + k * a_col)
        pack_a(a, at, U(a_row), U(a_col), min(MC, M - i), n, a_panels, U(i * n))
    else:
        j = (task - down) * NC
        at = U(k * b_row + j * b_col)
        pack_b(b, at, U(b_row), U(b_col), n, min(NC, N - j), b_panels, U(j * n))


@jit_tuned
def packed_task(
    task: int, a_panels: Array, b_panels: Array, at: Array, M: int, N: int, n: int, y: Array, add: bool
) -> None:
    across = (N + NC - 1) // NC
    i, j = task // across * MC, task % across * NC
    block_product(
        a_panels, U(i * n), MR * n, U(1), U(MR), min(MC, M - i),
        b_panels, U(j * n), VECTORS * lanes_of(y) * n, at, min(NC, N - j), n,
        signed(1), U(0), U(0), y, U(i * N + j), U(N), add,
    )  # fmt: skip


@jit_tuned
def packed_serial(
    a: Array, a_row: int, a_col: int, b: Array, b_row: int, b_col: int, at: Array, M: int, N: int, K: int,
    a_panels: Array, b_panels: Array, y: Array, add: bool,
) -> None:  # fmt: skip
    down, across = (M + MC - 1) // MC, (N + NC - 1) // NC
    for k in range(0, K, KC):
        n = min(KC, K - k)
        for task in range(down + across):
            pack_task(task, a, a_row, a_col, b, b_row, b_col, M, N, k, n, a_panels, b_panels)
        for task in range(down * across):
            packed_task(task, a_panels, b_panels, at, M, N, n, y, add or k > 0)


@jit_parallel
def packed_parallel(
    a: Array, a_row: int, a_col: int, b: Array, b_row: int, b_col: int, at: Array, M: int, N: int, K: int,
    a_panels: Array, b_panels: Array, y: Array, add: bool,
) -> None:  # fmt: skip
    """Slab after slab: all threads pack it, then all multiply, one block of y per task."""
    down, across = (M + MC - 1) // MC, (N + NC - 1) // NC
    for k in range(0, K, KC):
        n = min(KC, K - k)
        for task in prange(down + across):
            pack_task(signed(task), a, a_row, a_col, b, b_row, b_col, M, N, k, n, a_panels, b_panels)
        for task in prange(down * across):
            packed_task(signed(task), a_panels, b_panels, at, M, N, n, y, add or k > 0)


@jit_tuned
def small_product(
    a: Array, a_row: int, a_col: int, b: Array, at: Array, M: int, N: int, K: int, y: Array
) -> None:  # fmt: skip
    """Write a b, by rows or directly as the rule has it for a small b: a part of kernels that do more.

    ``at`` are the offsets of KC rows of b, or of all if they are fewer.
    """
    if M <= MOST_SINGLE:
        row_serial((N + ROW_NC - 1) // ROW_NC, a, a_row, a_col, b, M, N, K, y, False)
    elif K <= MOST_SINGLE:
        outer_rows(0, M, a, a_row, a_col, b, N, K, y, False)
    else:
        tasks = (M + DIRECT_MC - 1) // DIRECT_MC * ((N + DIRECT_NC - 1) // DIRECT_NC)
        direct_serial(tasks, a, a_row, a_col, b, at, M, N, K, y, False)


def row_product(
    a: Array, a_row: int, a_col: int, b: Array, M: int, N: int, K: int, y: Array, add: bool
) -> None:
    run = row_serial if M * N * K < SERIAL_BELOW else row_parallel
    run(-(-N // ROW_NC), a, a_row, a_col, b, M, N, K, y, add)


def outer_product(
    a: Array, a_row: int, a_col: int, b: Array, M: int, N: int, K: int, y: Array, add: bool
) -> None:
    if M * N < OUTER_SERIAL_BELOW:
        outer_rows(0, M, a, a_row, a_col, b, N, K, y, add)
    else:
        outer_parallel(max(1, OUTER_ELEMENTS // N), a, a_row, a_col, b, M, N, K, y, add)


def dot_product(a: Array, b: Array, M: int, N: int, K: int, y: Array, add: bool) -> None:
    tasks = -(-M // DOT_MC) * -(-N // DOT_NC)
    if M * N * K < SERIAL_BELOW:
        dot_block(a, b, K, 0, M, 0, N, y, N, add)
    else:
        dot_parallel(tasks, a, b, M, N, K, y, add)


def strip_product(a: Array, b: Array, M: int, N: int, K: int, y: Array, add: bool) -> None:
    NR = VECTORS * lanes(y.dtype)
    tasks = -(-N // NR)
    run = strip_serial if M * N * K < SERIAL_BELOW else strip_parallel
    run(tasks, a, b, row_offsets(K, NR), M, N, K, empty((tasks * NR * K,), y.dtype), y, add)


def direct_product(
    a: Array, a_row: int, a_col: int, b: Array, M: int, N: int, K: int, y: Array, add: bool
) -> None:
    tasks = -(-M // DIRECT_MC) * -(-N // DIRECT_NC)
    run = direct_serial if M * N * K < SERIAL_BELOW else direct_parallel
    run(tasks, a, a_row, a_col, b, row_offsets(min(K, KC), N), M, N, K, y, add)


def packed_product(
    a: Array, a_row: int, a_col: int, b: Array, b_row: int, b_col: int, M: int, N: int, K: int,
    y: Array, add: bool,
) -> None:  # fmt: skip
    NR = VECTORS * lanes(y.dtype)
    deep = min(K, KC)
    a_panels = empty((-(-M // MR) * MR * deep,), y.dtype)
    b_panels = empty((-(-N // NR) * NR * deep,), y.dtype)
    run = packed_serial if M * N * K < SERIAL_BELOW else packed_parallel
    run(a, a_row, a_col, b, b_row, b_col, row_offsets(KC, NR), M, N, K, a_panels, b_panels, y, add)


def gemm(
    a: Array, b: Array, y: Array, *, transpose_a: bool = False, transpose_b: bool = False,
    add: bool = False, way: Method | None = None,
) -> None:  # fmt: skip
    """Write a b to the contiguous matrix y (M, N), or ``add`` it.

    ``a`` is a contiguous (M, K), or (K, M) when ``transpose_a``; ``b`` (K, N), or (N, K) when
    ``transpose_b``. ``way`` overrules the rule.
    """
    M, N = y.shape
    K = a.shape[0] if transpose_a else a.shape[1]
    if M * N == 0:
        return
    if K == 0:
        if not add:
            y.fill(0)
        return
    if way is None:
        way = method(M, N, K, transpose_a, transpose_b)
    a_row, a_col = (1, M) if transpose_a else (K, 1)
    b_row, b_col = (1, K) if transpose_b else (N, 1)
    a, b, y = a.reshape(-1), b.reshape(-1), y.reshape(-1)
    if way == "packed":
        packed_product(a, a_row, a_col, b, b_row, b_col, M, N, K, y, add)
    elif way == "direct":
        direct_product(a, a_row, a_col, b, M, N, K, y, add)
    elif way == "outer":
        outer_product(a, a_row, a_col, b, M, N, K, y, add)
    elif way == "row":
        row_product(a, a_row, a_col, b, M, N, K, y, add)
    elif way == "strip":
        strip_product(a, b, M, N, K, y, add)
    else:
        dot_product(a, b, M, N, K, y, add)
