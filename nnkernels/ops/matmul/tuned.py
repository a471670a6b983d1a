"""matmul by ``gemm`` (see there), one matrix of the batch after the other."""

from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.ops.matmul.batches import as_matrices, batches_of
from nnkernels.ops.matmul.gemm import gemm


def matmul_forward_tuned(a: Array, b: Array) -> tuple[Array]:
    if a.ndim == b.ndim == 2:  # no batch: small products would take as long as finding out
        y = empty((a.shape[0], b.shape[1]), a.dtype)
        gemm(a, b, y)
        return (y,)
    batches = batches_of(a, b)
    y = empty(batches.shape, a.dtype)
    ma, mb, my = as_matrices(a), as_matrices(b), as_matrices(y)
    for n in range(len(my)):
        gemm(ma[batches.a[n]], mb[batches.b[n]], my[n])
    return (y,)


def matmul_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    a, b = inputs
    batches = batches_of(a, b)
    ma, mb, mdy = as_matrices(a), as_matrices(b), as_matrices(dy)
    da = db = None
    # A matrix that serves several batch entries sums their gradients; one that serves none keeps 0.
    if needs[0]:  # da = dy b^T
        da = zeros(a.shape, a.dtype)
        mda = as_matrices(da)
        for n in range(len(mdy)):
            gemm(mdy[n], mb[batches.b[n]], mda[batches.a[n]], transpose_b=True, add=True)
    if needs[1]:  # db = a^T dy
        db = zeros(b.shape, b.dtype)
        mdb = as_matrices(db)
        for n in range(len(mdy)):
            gemm(ma[batches.a[n]], mdy[n], mdb[batches.b[n]], transpose_a=True, add=True)
    return da, db
