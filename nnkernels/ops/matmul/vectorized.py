"""matmul by NumPy's ``@``, which calls the BLAS library NumPy was built with."""

from nnkernels.machine.memory import Array
from nnkernels.ops.binary import reduced


def matmul_forward_vectorized(a: Array, b: Array) -> tuple[Array]:
    return (a @ b,)


def matmul_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
) -> tuple[Array | None, Array | None]:
    a, b = inputs
    da = reduced(dy @ b.swapaxes(-1, -2), a.shape) if needs[0] else None
    db = reduced(a.swapaxes(-1, -2) @ dy, b.shape) if needs[1] else None
    return da, db
