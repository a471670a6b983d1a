"""matmul by ``gemm`` (see there), many small products of a batch at once."""

import numpy as np

from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.ops.matmul.batches import as_matrices, batches_of, multiply_all
from nnkernels.ops.matmul.gemm import gemm


def as_rows(x: Array) -> Array:
    return x.reshape(int(np.prod(x.shape[:-1], dtype=int)), x.shape[-1])


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
    batches, mdy = batches_of(a, b), as_matrices(dy)
    each = np.arange(len(mdy))
    da = db = None
    # A matrix that serves several batch entries sums their gradients; one that serves none keeps 0.
    if needs[0]:
        da, mb = zeros(a.shape, a.dtype), as_matrices(b)
        mda = as_matrices(da)
        if len(mda) == len(mdy):
            multiply_all(mdy, each, mb, batches.b, mda, transpose_b=True)
        else:
            for n in range(len(mdy)):
                gemm(mdy[n], mb[batches.b[n]], mda[batches.a[n]], transpose_b=True, add=True)
    if needs[1]:
        db, ma = zeros(b.shape, b.dtype), as_matrices(a)
        mdb = as_matrices(db)
        if len(mdb) == len(mdy):
            multiply_all(ma, batches.a, mdy, each, mdb, transpose_a=True)
        else:
            for n in range(len(mdy)):
                gemm(ma[batches.a[n]], mdy[n], mdb[batches.b[n]], transpose_a=True, add=True)
    return da, db
