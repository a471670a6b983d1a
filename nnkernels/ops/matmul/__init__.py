"""Matrix product, batched: y[n, i, j] = sum over k of a[n, i, k] b[n, k, j].

    a (..., M, K)   b (..., K, P)   y (..., M, P)        da = dy b^T   db = a^T dy

Leading axes broadcast as in ``numpy.matmul``; a matrix that serves several batch entries sums their
gradients.
Blocking and register tiles after Goto and van de Geijn, Anatomy of High-Performance Matrix Multiplication,
ACM TOMS 34(3), 2008.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import multilinear
from nnkernels.ops.matmul.cuda import matmul_backward_cuda, matmul_forward_cuda
from nnkernels.ops.matmul.gemm import describe
from nnkernels.ops.matmul.loops import matmul_backward_loops, matmul_forward_loops
from nnkernels.ops.matmul.tuned import matmul_backward_tuned, matmul_forward_tuned
from nnkernels.ops.matmul.vectorized import matmul_backward_vectorized, matmul_forward_vectorized
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import floats

# --- records ---


def check(a: Array, b: Array) -> None:
    floats("matmul", a=a, b=b)
    for name, x in (("a", a), ("b", b)):
        if x.ndim < 2:
            raise ValueError(f"matmul: {name} must have at least 2 axes (..., rows, columns), got {x.shape}")
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: a's columns must equal b's rows, got shapes {a.shape} and {b.shape}")
    if a.ndim > 2 and b.ndim > 2 and a.shape[:-2] != b.shape[:-2]:
        try:
            np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        except ValueError:
            raise ValueError(
                f"matmul: the leading axes of a and b do not broadcast: {a.shape} and {b.shape}"
            ) from None


def sample(rng: np.random.Generator, dtype: Any, a: tuple[int, ...], b: tuple[int, ...]) -> Sample:
    return Sample(f"{a} @ {b}", tuple(np.asarray(rng.standard_normal(s), dtype) for s in (a, b)))


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
        ((1, 1), (1, 1)), ((2, 3), (3, 4)), ((9, 7), (7, 11)), ((1, 5), (5, 6)), ((5, 2), (2, 1)),
        ((3, 2, 4), (3, 4, 5)), ((2, 1, 3, 2), (3, 2, 3)), ((4, 3), (2, 3, 5)), ((0, 3), (3, 2)),
        ((5, 3), (3, 1)), ((2, 0), (0, 3)), ((0, 2, 3), (3, 2)),
    )  # fmt: skip
    for a, b in shapes:
        yield sample(rng, dtype, a, b)


def bad_inputs() -> Iterator[BadInput]:
    x = np.ones((2, 3))
    yield BadInput(ValueError, "a must have at least 2 axes", (np.ones(3), x))
    yield BadInput(ValueError, "a's columns must equal b's rows, got shapes (2, 3) and (2, 3)", (x, x))
    yield BadInput(ValueError, "do not broadcast", (np.ones((2, 1, 3)), np.ones((3, 3, 1))))
    yield BadInput(TypeError, "b must be float32 or float64, got int64", (x, np.ones((3, 2), int)))
    yield BadInput(TypeError, "one dtype", (x, np.ones((3, 2), np.float32)))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (64, 400), (400, 120))
    yield sample(rng, dtype, (1024, 1024), (1024, 1024))
    yield sample(rng, dtype, (16, 64, 128), (16, 128, 64))


def flops(a: Array, b: Array) -> int:
    outer = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    return 2 * int(np.prod(outer, dtype=int)) * int(a.shape[-2] * a.shape[-1] * b.shape[-1])


def explain(a: tuple[int, ...], b: tuple[int, ...]) -> dict[str, str]:
    (M, K), P = a[-2:], b[-1]
    count = math.prod(np.broadcast_shapes(a[:-2], b[:-2]))
    if len(b) == 2:  # one b: the rows of all a's are multiplied at once
        M, count = M * count, 1
    each = f" (each of {count})" if len(b) > 2 else ""
    lines = {
        "forward": describe(M, P, K),
        "da": describe(M, K, P, transposed_b=True),
        "db": describe(K, P, M, transposed_a=True),
    }
    return {name: line + each for name, line in lines.items()}


def jvp(tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: tuple[Array, Array]) -> Array:
    (a, b), (da, db) = inputs, tangents
    dy = np.zeros_like(outputs[0])
    if da is not None:
        dy += matmul_forward_tuned(da, b)[0]
    if db is not None:
        dy += matmul_forward_tuned(a, db)[0]
    return dy


matmul = Op(
    name="matmul",
    loops=Body(matmul_forward_loops, matmul_backward_loops),
    vectorized=Body(matmul_forward_vectorized, matmul_backward_vectorized),
    tuned=Body(matmul_forward_tuned, matmul_backward_tuned),
    cuda=Body(matmul_forward_cuda, matmul_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=jvp,
    gradient=multilinear(0, 1),
    tolerance=256,
    explain=explain,
    mutants=(
        Mutant("missing +=", "loops", "matmul/loops.py", "da[at[n], i, k] += dy", "da[at[n], i, k] = dy"),
        Mutant("b not transposed", "vectorized", "matmul/vectorized.py", "dy @ b.swapaxes(-1, -2)", "dy @ b"),
        Mutant("batches mixed up", "loops", "matmul/loops.py", "db[bt[n], k, j]", "db[at[n], k, j]"),
        Mutant("last rows dropped", "tuned", "matmul/dot.py", "while i < i_end:", "while i < i_end - 1:"),
        Mutant("odd column read twice", "tuned", "matmul/dot.py",
               "y[p1 + c] += dot(a, i1, b, j0, n)", "y[p1 + c] += dot(a, i0, b, j0, n)"),
        Mutant("last columns dropped", "tuned", "matmul/micro.py", "while c < N:", "while c + 1 < N:"),
        Mutant("row of tiles repeated", "tuned", "matmul/micro.py", "i + U(r * a_panel)", "i"),
        Mutant("right operand mistaken for packed", "tuned", "matmul/gemm.py",
               "task % across * DIRECT_NC", "0"),
        Mutant("broadcast gradient overwritten", "tuned", "matmul/tuned.py",
               "mdb[batches.b[n]],", "mdb[batches.b[0]],"),
    ),
)  # fmt: skip
