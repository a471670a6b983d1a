"""Muon: the mean gradient of a matrix, made orthogonal, so that every direction moves equally far.

    m = momentum m + (1 - momentum) grad            u = m, or (1 - momentum) grad + momentum m with nesterov
    X = u / max(|u|, eps)  (Frobenius norm; transposed if it has more rows than columns), then ns_steps times
        A = X X^T,   X = a X + (b A + c A A) X         with (a, b, c) = ns_coefficients
    param = (1 - lr weight_decay) param - lr ratio X

    param (M, N), M and N at least 1      ratio = sqrt(max(1, M / N)), or 0.2 sqrt(max(M, N)) for
                                          adjust_lr_fn="match_rms_adamw"

Each turn of the iteration (Newton and Schulz's) moves the singular values towards 1, to about 0.7 to 1.2 with
the default coefficients. torch.optim.Muon multiplies in bfloat16; here, all is done in the matrix's dtype.
Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024. Bound: the products' FLOPs.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_array import empty as empty_on_gpu
from nnkernels.machine.gpu_index import grid_of, thread_number
from nnkernels.machine.gpu_kernel import at, kernel
from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array, empty
from nnkernels.ops.matmul.gemm import gemm
from nnkernels.ops.matmul.gemm_cuda import gemm_cuda
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.reduce.total import total
from nnkernels.ops.steps.records import check_arrays, check_options, common_bad_inputs, values

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
Coefficients = tuple[float, float, float]

# --- loops ---


@jit
def square_kernel(x: Array, a: Array) -> None:
    M, N = x.shape
    for i in range(M):
        for j in range(M):
            a[i, j] = 0
            for k in range(N):
                a[i, j] += x[i, k] * x[j, k]


@jit
def turn_kernel(x: Array, a: Array, coefficients: Array, y: Array) -> None:
    """Write y = (c0 + c1 A + c2 A^2) X, one element after the other."""
    M, N = x.shape
    c0, c1, c2 = coefficients[0], coefficients[1], coefficients[2]
    p = np.empty_like(a)
    for i in range(M):
        for j in range(M):
            p[i, j] = c1 * a[i, j]
            for k in range(M):
                p[i, j] += c2 * a[i, k] * a[k, j]
    for i in range(M):
        for j in range(N):
            y[i, j] = c0 * x[i, j]
            for k in range(M):
                y[i, j] += p[i, k] * x[k, j]


def turn_loops(x: Array, coefficients: Coefficients) -> Array:
    a, y = empty((len(x), len(x)), x.dtype), empty(x.shape, x.dtype)
    square_kernel(x, a)
    turn_kernel(x, a, np.array(coefficients, x.dtype), y)
    return y


# --- vectorized ---


def turn_vectorized(x: Array, coefficients: Coefficients) -> Array:
    c0, c1, c2 = coefficients
    a = x @ x.T
    return np.asarray(c0 * x + (c1 * a + c2 * (a @ a)) @ x)


# --- tuned: products by the micro-kernel, sums into what is there ---


def turn_tuned(x: Array, coefficients: Coefficients) -> Array:
    c0, c1, c2 = coefficients
    a = empty((len(x), len(x)), x.dtype)
    gemm(x, x, a, transpose_b=True)
    p, y = c1 * a, c0 * x
    gemm(c2 * a, a, p, add=True)
    gemm(p, x, y, add=True)
    return y


# --- bodies: they differ in how a turn is computed ---


def ratio_of(shape: tuple[int, ...], adjust_lr_fn: str | None) -> float:
    """Return what the learning rate is multiplied by for a matrix of this shape."""
    M, N = shape
    if adjust_lr_fn == "match_rms_adamw":
        return 0.2 * math.sqrt(max(M, N))
    return math.sqrt(max(1, M / N))


def make_body(turn: Callable[[Array, Coefficients], Array]) -> Body:
    """Return the body; of the time that a step takes, what stands here is a small part."""

    def orthogonal(u: Array, coefficients: Coefficients, turns: int, eps: float) -> Array:
        x: Array = u / u.dtype.type(max(float(np.linalg.norm(u)), eps))
        x = np.ascontiguousarray(x.T) if len(u) > u.shape[1] else x
        for _ in range(turns):
            x = turn(x, coefficients)
        return x.T if len(u) > u.shape[1] else x

    def forward(
        param: Array, grad: Array, m: Array, *, lr: float = 1e-3, weight_decay: float = 0.1,
        momentum: float = 0.95, nesterov: bool = True, ns_coefficients: Coefficients = COEFFICIENTS,
        eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        m *= momentum
        m += (1 - momentum) * grad
        u = (1 - momentum) * grad + momentum * m if nesterov else m
        x = orthogonal(u, ns_coefficients, ns_steps, eps)
        param *= 1 - lr * weight_decay
        param -= lr * ratio_of(param.shape, adjust_lr_fn) * x
        return param, m

    return Body(forward)


LOOPS, VECTORIZED, TUNED = map(make_body, (turn_loops, turn_vectorized, turn_tuned))


# --- cuda: A = X^T X and X = X P for a tall X, so that nothing is transposed; the norm stays on the GPU ---


@kernel
def momentum_kernel(
    grad: Array, momentum: Any, gain: Any, nesterov: int, m: Array, u: Array, v: Array
) -> None:
    """Move m, write u and its squares v."""
    i = thread_number()
    if i < m.size:
        g, moved = gain * grad[at(i)], momentum * m[at(i)]
        mean = moved + g
        m[at(i)] = mean
        x = g + momentum * mean if nesterov else mean
        u[at(i)], v[at(i)] = x, x * x


@kernel
def divide_kernel(square: Array, eps: Any, x: Array) -> None:
    """Divide x by the root of ``square``, the one element of an array, or by eps where that is larger."""
    i = thread_number()
    if i < x.size:
        norm = math.sqrt(square[0])
        x[at(i)] /= eps if norm < eps else norm


@kernel
def polynomial_kernel(a: Array, aa: Array, coefficients: Any, size: int, p: Array) -> None:
    """Write c0 I + c1 A + c2 A A to p, with A and A A given."""
    i = thread_number()
    if i < p.size:
        c0, c1, c2 = coefficients
        s = c1 * a[at(i)] + c2 * aa[at(i)]
        p[at(i)] = s + c0 if i % (size + 1) == 0 else s


@kernel
def move_kernel(x: Array, keep: Any, rate: Any, param: Array) -> None:
    """Write param = keep param - rate x."""
    i = thread_number()
    if i < param.size:
        param[at(i)] = keep * param[at(i)] - rate * x[at(i)]


def turn_cuda(x: GpuArray, c: tuple[Any, ...]) -> GpuArray:
    """Return (c0 + c1 A + c2 A A) X."""
    (M, N), n = x.shape, min(x.shape)
    a, aa, p = (empty_on_gpu((n, n), x.dtype, x.device) for _ in range(3))
    y = empty_like(x)
    gemm_cuda(x, x, a, (n, n, max(M, N)), transpose_a=M > N, transpose_b=M <= N)
    gemm_cuda(a, a, aa, (n, n, n))
    polynomial_kernel[grid_of(p.size)](a, aa, c, n, p)
    left, right = (x, p) if M > N else (p, x)
    gemm_cuda(left, right, y, (M, N, n))
    return y


def forward_cuda(
    param: GpuArray, grad: GpuArray, m: GpuArray, *, lr: float = 1e-3, weight_decay: float = 0.1,
    momentum: float = 0.95, nesterov: bool = True, ns_coefficients: Coefficients = COEFFICIENTS,
    eps: float = 1e-7, ns_steps: int = 5, adjust_lr_fn: str | None = None,
) -> tuple[GpuArray, GpuArray]:  # fmt: skip
    """Return what the other bodies do; all that is read on the host are shapes and attributes."""
    number, grid = param.dtype.type, grid_of(param.size)
    x, squares = empty_like(m), empty_like(m)
    momentum_kernel[grid](grad, number(momentum), number(1 - momentum), int(nesterov), m, x, squares)
    divide_kernel[grid](total(squares), number(eps), x)
    for _ in range(ns_steps):
        x = turn_cuda(x, tuple([number(c) for c in ns_coefficients]))
    rate = lr * ratio_of(param.shape, adjust_lr_fn)
    move_kernel[grid](x, number(1 - lr * weight_decay), number(rate), param)
    return param, m


# --- records ---


def check(param: Array, grad: Array, m: Array, **options: Any) -> None:
    check_arrays("muon_step", param, grad=grad, m=m)
    check_options("muon_step", LOOPS.forward, options)
    if param.ndim != 2 or param.size == 0:
        raise ValueError(
            f"muon_step: param must be a matrix (M, N) that is not empty, got shape {param.shape}; use "
            "another optimizer for biases and filters"
        )


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape in ((1, 1), (1, 4), (3, 1), (3, 5), (6, 4)):
        yield Sample(f"shape {shape}", values(rng, dtype, shape, "---"), {"lr": 0.1})
    for attributes in (
        {"lr": 0.1, "nesterov": False, "ns_steps": 2, "weight_decay": 0.5},
        {"lr": 0.1, "adjust_lr_fn": "match_rms_adamw", "momentum": 0.5},
        {"lr": 0.1, "ns_coefficients": (2.0, -1.5, 0.5), "ns_steps": 3, "eps": 100.0},
    ):
        yield Sample(str(attributes), values(rng, dtype, (4, 3), "---"), attributes)


def bad_inputs() -> Iterator[BadInput]:
    p, v = np.ones((2, 3)), np.ones(3)
    three = (p, p, p.copy())
    yield from common_bad_inputs(("m",), {})
    yield BadInput(
        ValueError, "param must be a matrix (M, N) that is not empty, got shape (3,)", (v, v, v.copy())
    )
    yield BadInput(ValueError, "ns_steps must be at least 1, got 0", three, {"ns_steps": 0})
    yield BadInput(ValueError, "ns_steps must be below 100, got 100", three, {"ns_steps": 100})
    yield BadInput(TypeError, "ns_coefficients must be three numbers", three, {"ns_coefficients": (1.0, 2.0)})
    yield BadInput(ValueError, 'adjust_lr_fn must be None, "original" or', three, {"adjust_lr_fn": "mine"})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape in ((120, 400), (512, 512)):
        yield Sample(f"{shape}", values(rng, dtype, shape, "---"), {"ns_steps": 1 + 4 * (shape[0] > 200)})


def flops(param: Array, *others: Array, ns_steps: int = 5, **attributes: Any) -> int:
    M, N = sorted(param.shape)
    return int(ns_steps * (4 * M * M * N + 2 * M**3) + 9 * param.size)


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "steps/muon.py", old, new)


muon_step = Op(
    name="muon_step",
    loops=LOOPS,
    vectorized=VECTORIZED,
    tuned=TUNED,
    cuda=Body(forward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    inplace=(0, 2),
    tolerance=1024,
    mutants=(
        mutant("columns for rows", "loops", "a[i, j] += x[i, k] * x[j, k]", "a[i, j] += x[i, k] * x[i, k]"),
        mutant("missing +=", "loops", "y[i, j] += p[i, k] * x[k, j]", "y[i, j] = p[i, k] * x[k, j]"),
        mutant("first coefficient forgotten", "tuned", "p, y = c1 * a, c0 * x", "p, y = c1 * a, x.copy()"),
        mutant("square not added", "tuned", "gemm(c2 * a, a, p, add=True)", "gemm(c2 * a, a, p)"),
        mutant("tall matrices not transposed", "tuned",
               "np.ascontiguousarray(x.T) if len(u) > u.shape[1] else x", "x"),
        mutant("nesterov left out", "vectorized", "+ momentum * m if nesterov", "+ m if nesterov"),
    ),
)  # fmt: skip
OPS_HERE = (muon_step,)
