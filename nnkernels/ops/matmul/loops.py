"""matmul as its definition: three loops, and a fourth over the batch."""

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.matmul.batches import Batches, as_matrices, batches_of


@jit
def matmul_forward_kernel(a: Array, b: Array, at: Array, bt: Array, y: Array) -> None:
    """y[n, i, j] = sum over k of a[at[n], i, k] b[bt[n], k, j]."""
    N, M, P = y.shape
    K = a.shape[2]
    for n in range(N):
        for i in range(M):
            for j in range(P):
                s = y.dtype.type(0)
                for k in range(K):
                    s += a[at[n], i, k] * b[bt[n], k, j]
                y[n, i, j] = s


@jit
def matmul_backward_kernel(
    dy: Array, a: Array, b: Array, at: Array, bt: Array, needs: tuple[bool, bool], da: Array, db: Array
) -> None:
    """da = dy b^T and db = a^T dy; a matrix used by several batch entries sums over them."""
    N, M, P = dy.shape
    K = a.shape[2]
    for n in range(N):
        for i in range(M):
            for j in range(P):
                for k in range(K):
                    if needs[0]:
                        da[at[n], i, k] += dy[n, i, j] * b[bt[n], k, j]
                    if needs[1]:
                        db[bt[n], k, j] += dy[n, i, j] * a[at[n], i, k]


def matmul_forward_loops(a: Array, b: Array) -> tuple[Array]:
    batches = batches_of(a, b)
    y = np.empty(batches.shape, a.dtype)
    matmul_forward_kernel(as_matrices(a), as_matrices(b), batches.a, batches.b, as_matrices(y))
    return (y,)


def matmul_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    a, b = inputs
    batches: Batches = batches_of(a, b)
    da, db = np.zeros(a.shape, a.dtype), np.zeros(b.shape, b.dtype)
    matmul_backward_kernel(
        as_matrices(dy), as_matrices(a), as_matrices(b), batches.a, batches.b,
        (bool(needs[0]), bool(needs[1])), as_matrices(da), as_matrices(db),
    )  # fmt: skip
    return (da if needs[0] else None, db if needs[1] else None)
