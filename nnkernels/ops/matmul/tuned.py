"""matmul by register tiles: y = a b^T from contiguous rows, blocked for the caches, shared among threads.

Every product is brought to one form, rows against rows: y[i, j] = a[i, :] . b[j, :]. An operand that lies the
other way is transposed first, which moves M K + P K elements against M P K multiply-adds. KC bounds a tile's
rows so that all 8 fit the L1 cache; the NC rows of b of a block stay in L2 while the rows of a pass by.

Bound: 2 M P K FLOPs at the machine's multiply-add rate.
"""

from nnkernels.machine.jit import jit_elementwise, jit_parallel, jit_tuned, prange
from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.ops.matmul.batches import as_matrices, batches_of
from nnkernels.ops.matmul.tiles import TILE, U, dot, dot_row_tile, dot_tile

KC = 512  # elements of a row per pass: 8 rows of float32 are 16 KiB, half an L1 cache
MC, NC = 32, 64  # rows of a and b in a block: the unit of work that threads share
SERIAL_BELOW = 100_000  # multiply-adds: about 2 us of work
STRIP = 32  # rows of a transposition's strip


@jit_tuned
def block_nt(
    a: Array, b: Array, K: int, i_first: int, i_end: int, j_first: int, j_end: int, y: Array, P: int
) -> None:  # fmt: skip
    """Add a[i, :] . b[j, :] to y[i, j] for one block; a (M, K), b (P, K) and y (M, P) are flat."""
    row = U(K)
    for k in range(0, K, KC):
        n = min(KC, K - k)
        i = i_first
        while i + TILE <= i_end:
            i0, p0 = U(i * K + k), U(i * P)
            i1, i2, i3 = i0 + row, i0 + row + row, i0 + row + row + row
            p1, p2, p3 = p0 + U(P), p0 + U(2 * P), p0 + U(3 * P)
            j = j_first
            while j + TILE <= j_end:
                j0, c = U(j * K + k), U(j)
                dot_tile(
                    a, i0, i1, i2, i3, b, j0, j0 + row, j0 + row + row, j0 + row + row + row, n,
                    y, p0 + c, p1 + c, p2 + c, p3 + c,
                )  # fmt: skip
                j += TILE
            while j < j_end:  # fewer than 4 columns left
                j0, c = U(j * K + k), U(j)
                y[p0 + c] += dot(a, i0, b, j0, n)
                y[p1 + c] += dot(a, i1, b, j0, n)
                y[p2 + c] += dot(a, i2, b, j0, n)
                y[p3 + c] += dot(a, i3, b, j0, n)
                j += 1
            i += TILE
        while i < i_end:  # fewer than 4 rows left
            single_row_nt(a, b, K, k, n, i, j_first, j_end, y, P)
            i += 1


@jit_tuned
def single_row_nt(
    a: Array, b: Array, K: int, k: int, n: int, i: int, j_first: int, j_end: int, y: Array, P: int
) -> None:
    """Add the part k ... k + n of the products of row i to y[i, j_first:j_end]."""
    row = U(K)
    i0, p0 = U(i * K + k), U(i * P)
    j = j_first
    while j + TILE <= j_end:
        j0 = U(j * K + k)
        dot_row_tile(a, i0, b, j0, j0 + row, j0 + row + row, j0 + row + row + row, n, y, p0 + U(j))
        j += TILE
    while j < j_end:
        y[p0 + U(j)] += dot(a, i0, b, U(j * K + k), n)
        j += 1


@jit_parallel
def gemm_nt_parallel(a: Array, b: Array, M: int, P: int, K: int, y: Array) -> None:
    """Add a b^T to y, one block per task: blocks do not overlap, so threads never meet."""
    across = (P + NC - 1) // NC
    for task in prange(((M + MC - 1) // MC) * across):
        i, j = (task // across) * MC, (task % across) * NC
        block_nt(a, b, K, i, min(i + MC, M), j, min(j + NC, P), y, P)


def gemm_nt(a: Array, b: Array, y: Array) -> None:
    """Add a b^T to y, for contiguous matrices a (M, K), b (P, K), y (M, P)."""
    (M, K), P = a.shape, b.shape[0]
    if M * P * K < SERIAL_BELOW:
        block_nt(a.reshape(-1), b.reshape(-1), K, 0, M, 0, P, y.reshape(-1), P)
    else:
        gemm_nt_parallel(a.reshape(-1), b.reshape(-1), M, P, K, y.reshape(-1))


@jit_elementwise
def transpose_strip(x: Array, rows: int, columns: int, first: int, y: Array) -> None:
    """Copy STRIP rows of x (rows, columns) into as many columns of y (columns, rows), both flat."""
    n = min(STRIP, rows - first)
    for c in range(columns):
        for r in range(n):
            y[U(c * rows + first + r)] = x[U((first + r) * columns + c)]


@jit_parallel
def transpose_parallel(x: Array, rows: int, columns: int, y: Array) -> None:
    """Copy x (rows, columns) into y (columns, rows), strips of rows shared among threads."""
    for s in prange((rows + STRIP - 1) // STRIP):
        transpose_strip(x, rows, columns, s * STRIP, y)


def transposed(x: Array) -> Array:
    """Return the transpose of a contiguous matrix as a contiguous matrix."""
    rows, columns = x.shape
    y = empty((columns, rows), x.dtype)
    if x.size < 1 << 15:
        for s in range(0, rows, STRIP):
            transpose_strip(x.reshape(-1), rows, columns, s, y.reshape(-1))
    else:
        transpose_parallel(x.reshape(-1), rows, columns, y.reshape(-1))
    return y


def matmul_forward_tuned(a: Array, b: Array) -> tuple[Array]:
    batches = batches_of(a, b)
    y = zeros(batches.shape, a.dtype)
    ma, mb, my = as_matrices(a), as_matrices(b), as_matrices(y)
    rows_of_b = [transposed(m) for m in mb]
    for n in range(len(my)):
        gemm_nt(ma[batches.a[n]], rows_of_b[batches.b[n]], my[n])
    return (y,)


def matmul_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    a, b = inputs
    batches = batches_of(a, b)
    ma, mb, mdy = as_matrices(a), as_matrices(b), as_matrices(dy)
    da = db = None
    if needs[0]:  # da = dy b^T: the rows of dy against the rows of b, as they lie
        da = zeros(a.shape, a.dtype)
        mda = as_matrices(da)
        for n in range(len(mdy)):
            gemm_nt(mdy[n], mb[batches.b[n]], mda[batches.a[n]])
    if needs[1]:  # db = a^T dy: the columns of a against the columns of dy
        db = zeros(b.shape, b.dtype)
        mdb = as_matrices(db)
        columns_of_a = [transposed(m) for m in ma]
        for n in range(len(mdy)):
            gemm_nt(columns_of_a[batches.a[n]], transposed(mdy[n]), mdb[batches.b[n]])
    return da, db
