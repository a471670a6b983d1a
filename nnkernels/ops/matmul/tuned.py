"""matmul by ``gemm`` (see there), many small products of a batch at once."""

from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.ops.matmul.batches import as_matrices, as_rows, batches_of, multiply_all
from nnkernels.ops.matmul.gemm import gemm


def matmul_forward_tuned(a: Array, b: Array) -> tuple[Array]:
    if b.ndim == 2:  # all rows of a meet the same b
        y = empty((*a.shape[:-1], b.shape[1]), a.dtype)
        gemm(as_rows(a), b, as_rows(y))
        return (y,)
    batches = batches_of(a, b)
    y = empty(batches.shape, a.dtype)
    multiply_all(as_matrices(a), batches.a, as_matrices(b), batches.b, as_matrices(y))
    return (y,)


def matmul_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    a, b = inputs
    if b.ndim == 2:
        da = empty(a.shape, a.dtype) if needs[0] else None
        db = empty(b.shape, b.dtype) if needs[1] else None
        if da is not None:  # dy b^T
            gemm(as_rows(dy), b, as_rows(da), transpose_b=True)
        if db is not None:  # a^T dy
            gemm(as_rows(a), as_rows(dy), db, transpose_a=True)
        return da, db
    batches, mdy, ma, mb = batches_of(a, b), as_matrices(dy), as_matrices(a), as_matrices(b)
    da = db = None
    # A matrix that serves several batch entries sums their gradients; one that serves none keeps 0.
    if needs[0] and len(ma) == len(mdy):
        da = empty(a.shape, a.dtype)
        multiply_all(mdy, batches.each, mb, batches.b, as_matrices(da), transpose_b=True)
    elif needs[0]:
        da = zeros(a.shape, a.dtype)
        mda = as_matrices(da)
        for n in batches.each:
            gemm(mdy[n], mb[batches.b[n]], mda[batches.a[n]], transpose_b=True, add=True)
    if needs[1] and len(mb) == len(mdy):
        db = empty(b.shape, b.dtype)
        multiply_all(ma, batches.a, mdy, batches.each, as_matrices(db), transpose_a=True)
    elif needs[1]:
        db = zeros(b.shape, b.dtype)
        mdb = as_matrices(db)
        for n in batches.each:
            gemm(ma[batches.a[n]], mdy[n], mdb[batches.b[n]], transpose_a=True, add=True)
    return da, db
