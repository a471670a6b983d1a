"""Dropout: some elements, or whole channels, are dropped, the others take over their part.

    y_is = scale mask_i x_is       dx_is = scale mask_i dy_is       scale = 1 / (1 - p), 0 for p = 1

p is the probability with which the mask was drawn False, so the expectation of y is x. mask is bool, of the
shape of x's leading axes: of all of them to drop single elements, (N, C) to drop channels of x (N, C, ...);
s runs over the axes that the mask lacks. x is float32 or float64 (Srivastava et al., Dropout: A Simple Way to
Prevent Neural Networks from Overfitting, JMLR 15, 2014; Tompson et al., Efficient Object Localization Using
Convolutional Networks, CVPR 2015, for channels).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_index import Divisor, divisor, quotient
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, kernel
from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, prange, signed, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.gradients import linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import fail_type, floats, is_array, number

Inputs = tuple[Array, Array]
Needs = tuple[bool, bool]


def scale_for(p: float) -> float:
    """Return what the elements that stay are multiplied with."""
    return 1 / (1 - p) if p < 1 else 0.0


def as_runs(x: Array, mask: Array) -> Array:
    """Return x with a row for each element of the mask."""
    return x.reshape(mask.size, x.size // max(1, mask.size))


# --- loops ---


@jit
def dropout_kernel(x: Array, mask: Array, scale: float, y: Array) -> None:
    for i in range(x.shape[0]):
        for s in range(x.shape[1]):
            y[i, s] = x[i, s] * scale if mask[i] else x[i, s] * 0


def dropout_forward_loops(x: Array, mask: Array, *, p: float = 0.5) -> tuple[Array]:
    y = np.empty(x.shape, x.dtype)
    dropout_kernel(as_runs(x, mask), mask.reshape(-1), scale_for(p), as_runs(y, mask))
    return (y,)


def dropout_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, p: float = 0.5
) -> tuple[Array | None, None]:
    return dropout_forward_loops(dy, inputs[1], p=p)[0] if needs[0] else None, None


# --- vectorized ---


def dropout_forward_vectorized(x: Array, mask: Array, *, p: float = 0.5) -> tuple[Array]:
    factors = mask.astype(x.dtype) * x.dtype.type(scale_for(p))
    return (x * factors.reshape((*mask.shape, *(1,) * (x.ndim - mask.ndim))),)


def dropout_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, p: float = 0.5
) -> tuple[Array | None, None]:
    return dropout_forward_vectorized(dy, inputs[1], p=p)[0] if needs[0] else None, None


# --- tuned: bound by memory, 9 bytes an element ---

U = np.uint64


@jit_elementwise
def drop_part(x: Array, mask: Array, run: int, scale: float, first: int, last: int, y: Array) -> None:
    """Do elements first to last - 1 of the mask, each for ``run`` elements of x; the mask is of 0 and 1."""
    by = typed(scale, x[0])
    if run == 1:
        for i in range(U(first), U(last)):
            y[i] = x[i] * (by * typed(mask[i], x[0]))
    else:
        for i in range(first, last):
            at, factor = U(i * run), by * typed(mask[i], x[0])
            for s in range(U(run)):
                y[at + s] = x[at + s] * factor


@jit_parallel
def drop_parallel(x: Array, mask: Array, run: int, scale: float, share: int, y: Array) -> None:
    for t in prange((mask.size + share - 1) // share):
        first = signed(t * share)
        drop_part(x, mask, run, scale, first, min(first + share, mask.size), y)


def dropout_forward_tuned(x: Array, mask: Array, *, p: float = 0.5) -> tuple[Array]:
    y = empty(x.shape, x.dtype)
    if x.size > 0:
        run = x.size // mask.size
        given = x.reshape(-1), mask.reshape(-1).view(np.uint8), run, float(scale_for(p))
        if x.size < SERIAL_BELOW_IF_CHEAP:
            drop_part(*given, 0, mask.size, y.reshape(-1))
        else:
            drop_parallel(*given, share_of(mask.size, run), y.reshape(-1))
    return (y,)


def dropout_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: Needs, *, p: float = 0.5
) -> tuple[Array | None, None]:
    return dropout_forward_tuned(dy, inputs[1], p=p)[0] if needs[0] else None, None


# --- cuda: PER_THREAD elements of a thread, a block's width apart. Bound: memory traffic, as tuned ---

PER_THREAD = 4


@kernel
def dropout_cuda_kernel(x: Array, mask: Array, by_run: Divisor, scale: Any, y: Array) -> None:
    """All loads of a thread are under way before it stores."""
    start = int32(cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x)
    if start < y.size:
        v = cuda.local.array(PER_THREAD, x.dtype)
        for e in range(PER_THREAD):
            i = int32(min(start + e * THREADS, y.size - 1))
            v[e] = x[at(i)] * (scale if mask[at(quotient(i, by_run))] else x.dtype.type(0))
        for e in range(PER_THREAD):
            i = int32(start + e * THREADS)
            if i < y.size:
                y[at(i)] = v[e]


def dropout_forward_cuda(x: GpuArray, mask: GpuArray, *, p: float = 0.5) -> tuple[GpuArray]:
    y, by_run = empty_like(x), divisor(max(1, x.size // max(1, mask.size)))
    blocks = blocks_for(y.size, THREADS * PER_THREAD)
    dropout_cuda_kernel[blocks, THREADS](x, mask, by_run, x.dtype.type(scale_for(p)), y)
    return (y,)


def dropout_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray, GpuArray], needs: Needs, *, p: float = 0.5
) -> tuple[GpuArray | None, None]:
    return dropout_forward_cuda(dy, inputs[1], p=p)[0] if needs[0] else None, None


# --- records ---


def check(x: Array, mask: Array, *, p: Any = 0.5) -> None:
    floats("dropout", x=x)
    if not is_array(mask) or mask.dtype != np.bool_:
        fail_type("dropout", "mask", mask, "an array of bools")
    if mask.shape != x.shape[: mask.ndim]:
        raise ValueError(
            f"dropout: mask must have the shape of x's leading axes, x is {x.shape}, got {mask.shape}"
        )
    check_probability("dropout", p)


def check_probability(name: str, p: Any) -> None:
    """Demand 0 <= p <= 1."""
    number(name, "p", p, least=0)
    if p > 1:
        raise ValueError(f"{name}: p must be in [0, 1], got {p!r}")


def sample(
    rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], axes: int | None = None, **attributes: Any
) -> Sample:
    """Return x and a mask of its first ``axes`` axes, all of them if None."""
    mask = rng.random(shape[:axes]) >= attributes.get("p", 0.5)
    label = f"{'x'.join(map(str, shape))} p{attributes.get('p', 0.5)}"
    return Sample(
        label if axes is None else f"{label} axes {axes}",
        (np.asarray(rng.standard_normal(shape), dtype), np.asarray(mask)),
        attributes,
    )


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (5, 7))
    yield sample(rng, dtype, (37,), p=0.1)
    yield sample(rng, dtype, (3, 4, 2, 3), axes=2, p=0.3)
    yield sample(rng, dtype, (4, 3, 1), axes=2)
    yield sample(rng, dtype, (), p=0.2)
    yield sample(rng, dtype, (2, 3), axes=0, p=0.25)
    yield sample(rng, dtype, (6,), p=0)
    yield sample(rng, dtype, (6,), p=1)
    yield sample(rng, dtype, (0, 3))


def bad_inputs() -> Iterator[BadInput]:
    x = np.ones((2, 3))
    yield BadInput(TypeError, "x must be float32 or float64, got int64", (x.astype(int), x > 0))
    yield BadInput(TypeError, "mask must be an array of bools, got float64 array", (x, x))
    yield BadInput(ValueError, "shape of x's leading axes, x is (2, 3), got (3,)", (x, np.ones(3, bool)))
    yield BadInput(ValueError, "got (2, 3, 1)", (x, np.ones((2, 3, 1), bool)))
    yield BadInput(ValueError, "p must be in [0, 1], got 1.5", (x, x > 0), {"p": 1.5})
    yield BadInput(ValueError, "p must be at least 0, got -0.1", (x, x > 0), {"p": -0.1})
    yield BadInput(TypeError, "p must be a number, got str", (x, x > 0), {"p": "0.5"})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (512, 1024))
    yield sample(rng, dtype, (64, 64, 28, 28), axes=2)


def jvp(
    tangents: tuple[Array | None, None], outputs: tuple[Array], inputs: Inputs, *, p: float = 0.5
) -> Array:
    dx = tangents[0]
    return np.zeros_like(inputs[0]) if dx is None else dropout_forward_vectorized(dx, inputs[1], p=p)[0]


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "dropout.py", old, new)


dropout = Op(
    name="dropout",
    loops=Body(dropout_forward_loops, dropout_backward_loops),
    vectorized=Body(dropout_forward_vectorized, dropout_backward_vectorized),
    tuned=Body(dropout_forward_tuned, dropout_backward_tuned),
    cuda=Body(dropout_forward_cuda, dropout_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, *_, **__: int(x.size),
    jvp=jvp,
    gradient=linear,
    mutants=(
        mutant("not scaled", "x[i, s] * scale if", "x[i, s] if"),
        mutant("mask the wrong way round", "if mask[i] else", "if not mask[i] else"),
        mutant("divided by p", "1 / (1 - p) if p < 1", "1 / p if 0 < p < 1"),
        mutant("gradient not masked", "dropout_forward_loops(dy, inputs[1], p=p)[0]", "dy.copy()"),
        mutant("not scaled", "* (by * typed(mask[i], x[0]))", "* typed(mask[i], x[0])", "tuned"),
        mutant("channels not scaled", "U(i * run), by * typed(mask[i], x[0])",
               "U(i * run), typed(mask[i], x[0])", "tuned"),
        mutant("first element of a channel alone", "y[at + s] = x[at + s]", "y[at + s] = x[at]", "tuned"),
        mutant("last share left out", "prange((mask.size + share - 1) // share)",
               "prange(mask.size // share - 1)", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (dropout,)
