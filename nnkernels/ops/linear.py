"""Fully connected layer: y[n, o] = b[o] + sum over i of x[n, i] w[o, i].

    x (..., I)   w (O, I)   b (O) or None   y (..., O)
    dx[n, i] = sum over o of dy[n, o] w[o, i]     dw[o, i] = sum over n of dy[n, o] x[n, i]
    db[o]    = sum over n of dy[n, o]

With activation="relu", y is max(y, 0), in the same pass over memory.

The layout is PyTorch's: a weight row per output, so that x and w meet row against row.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit, jit_tuned
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import U
from nnkernels.ops.activation import before_relu, check_activation, masked_chunk, through_relu
from nnkernels.ops.linear_cuda import linear_backward_cuda, linear_forward_cuda
from nnkernels.ops.matmul.batches import as_rows
from nnkernels.ops.matmul.dot import dot_block
from nnkernels.ops.matmul.gemm import (
    DOT_MOST_ROWS,
    KC,
    SERIAL_BELOW,
    describe,
    gemm,
    row_offsets,
    small_product,
)  # fmt: skip
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import floats, given, rank

Grads = tuple[Array | None, Array | None, Array | None]
Inputs = tuple[Array, Array, Array | None]


# --- loops ---


@jit
def linear_forward_kernel(x: Array, w: Array, b: Array, relu: bool, y: Array) -> None:
    N, I = x.shape  # noqa: E741 (the formula's name)
    O = w.shape[0]  # noqa: E741
    for n in range(N):
        for o in range(O):
            s = b[o]
            for i in range(I):
                s += x[n, i] * w[o, i]
            y[n, o] = max(s, 0) if relu else s


@jit
def linear_backward_kernel(
    dy: Array, y: Array, x: Array, w: Array, relu: bool, dx: Array, dw: Array, db: Array
) -> None:
    N, I = x.shape  # noqa: E741
    O = w.shape[0]  # noqa: E741
    for n in range(N):
        for o in range(O):
            if relu and y[n, o] <= 0:
                continue  # max(s, 0) is flat there
            db[o] += dy[n, o]
            for i in range(I):
                dx[n, i] += dy[n, o] * w[o, i]
                dw[o, i] += dy[n, o] * x[n, i]


def linear_forward_loops(
    x: Array, w: Array, b: Array | None = None, *, activation: str | None = None
) -> tuple[Array]:
    y = np.empty((*x.shape[:-1], len(w)), x.dtype)
    bias = np.zeros(len(w), x.dtype) if b is None else b
    linear_forward_kernel(as_rows(x), w, bias, activation == "relu", as_rows(y))
    return (y,)


def linear_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: tuple[bool, bool, bool], *,
    activation: str | None = None,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(len(w), x.dtype)
    linear_backward_kernel(
        as_rows(dy), as_rows(outputs[0]), as_rows(x), w, activation == "relu", as_rows(dx), dw, db
    )
    return (dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None)


# --- vectorized ---


def linear_forward_vectorized(
    x: Array, w: Array, b: Array | None = None, *, activation: str | None = None
) -> tuple[Array]:
    y = x @ w.T
    y = y if b is None else y + b
    return (np.maximum(y, 0) if activation == "relu" else y,)


def linear_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: tuple[bool, bool, bool], *,
    activation: str | None = None,
) -> Grads:  # fmt: skip
    x, w, _ = inputs
    if activation == "relu":
        dy = dy * (outputs[0] > 0)
    rows, drows = as_rows(x), as_rows(dy)
    dx = dy @ w if needs[0] else None
    dw = drows.T @ rows if needs[1] else None
    db = drows.sum(axis=0) if needs[2] else None
    return dx, dw, db


# --- tuned: the matmul's tiles; bound 2 N I O FLOPs ---
#
# In a small layer calls cost more than sums: there one kernel does everything. All arrays are flat.


@jit_tuned
def set_rows(b: Array, y: Array) -> None:
    """Start every row of y from the bias; the products are added to it."""
    width = U(b.size)
    for n in range(U(y.size // b.size)):
        for o in range(width):
            y[n * width + o] = b[o]


@jit_tuned
def sum_rows(dy: Array, db: Array) -> None:
    """Add up the rows one after the other: the same order for any number of threads."""
    width = U(db.size)
    for o in range(width):
        db[o] = 0
    for n in range(U(dy.size // db.size)):
        for o in range(width):
            db[o] += dy[n * width + o]


@jit_tuned
def relu_inplace(y: Array) -> None:
    for i in range(y.size):
        y[i] = max(y[i], y.dtype.type(0))


@jit_tuned
def forward_small(x: Array, w: Array, b: Array, relu: bool, N: int, O: int, I: int, y: Array) -> None:  # noqa: E741
    if b.size > 0:
        set_rows(b, y)
    dot_block(x, w, I, 0, N, 0, O, y, O, b.size > 0)
    if relu:
        relu_inplace(y)


@jit_tuned
def backward_small(
    dy: Array, y: Array, x: Array, w: Array, w_rows: Array, x_rows: Array, relu: bool,
    N: int, O: int, I: int, masked: Array, dx: Array, dw: Array, db: Array,  # noqa: E741
) -> None:  # fmt: skip
    """Write those gradients that are not empty; ``w_rows`` and ``x_rows`` are the offsets of their rows."""
    if relu:
        masked_chunk(dy, y, masked)
        dy = masked
    if dx.size > 0:
        small_product(dy, O, 1, w, w_rows, N, I, O, dx)
    if dw.size > 0:
        small_product(dy, 1, O, x, x_rows, O, I, N, dw)
    if db.size > 0:
        sum_rows(dy, db)


def linear_forward_tuned(
    x: Array, w: Array, b: Array | None = None, *, activation: str | None = None
) -> tuple[Array]:
    (O, I), dtype, relu = w.shape, x.dtype, activation == "relu"  # noqa: E741
    y = empty((*x.shape[:-1], O), dtype)
    rows, flat = as_rows(y), y.reshape(-1)
    N = len(rows)
    if N <= DOT_MOST_ROWS and N * O * I < SERIAL_BELOW:
        bias = NOTHING[dtype.char] if b is None else b
        forward_small(x.reshape(-1), w.reshape(-1), bias, relu, N, O, I, flat)
        return (y,)
    if b is not None and flat.size > 0:
        set_rows(b, flat)
    gemm(as_rows(x), w, rows, transpose_b=True, add=b is not None)
    if relu:
        relu_inplace(flat)
    return (y,)


def linear_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Inputs, needs: tuple[bool, bool, bool], *,
    activation: str | None = None,
) -> Grads:  # fmt: skip
    (x, w, _), dtype, relu = inputs, dy.dtype, activation == "relu"
    nothing = NOTHING[dtype.char]
    dx = empty(x.shape, dtype) if needs[0] else nothing
    dw = empty(w.shape, dtype) if needs[1] else nothing
    db = empty((len(w),), dtype) if needs[2] else nothing
    (O, I), rows = w.shape, as_rows(x)  # noqa: E741
    N = len(rows)
    if 0 < N * O * I < SERIAL_BELOW:
        backward_small(
            dy.reshape(-1), outputs[0].reshape(-1), rows.reshape(-1), w.reshape(-1),
            row_offsets(min(O, KC), I), row_offsets(min(N, KC), I), relu, N, O, I,
            empty(dy.shape, dtype).reshape(-1) if relu else nothing, dx.reshape(-1), dw.reshape(-1), db,
        )  # fmt: skip
    else:
        if relu:
            dy = through_relu(dy, outputs[0])
        drows = as_rows(dy)
        if needs[0]:
            gemm(drows, w, as_rows(dx))
        if needs[1]:
            gemm(drows, rows, dw, transpose_a=True)
        if needs[2] and O > 0:
            sum_rows(drows.reshape(-1), db)
    return dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None


NOTHING = {char: np.empty(0, char) for char in "fd"}


# --- records ---


def check(x: Array, w: Array, b: Array | None = None, *, activation: str | None = None) -> None:
    floats("linear", x=x, w=w, **given(b=b))
    rank("linear", "w", w, 2, "(out_features, in_features)")
    if x.ndim < 1 or x.shape[-1] != w.shape[1]:
        raise ValueError(
            f"linear: x must have {w.shape[1]} features on its last axis, as w {w.shape} has, "
            f"got shape {x.shape}"
        )
    check_activation("linear", activation)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"linear: b must have shape {w.shape[:1]}, one value per row of w, got {b.shape}")


def sample(
    rng: np.random.Generator, dtype: Any, *shapes: tuple[int, ...] | None, **attributes: Any
) -> Sample:
    arrays = tuple(None if s is None else np.asarray(rng.standard_normal(s), dtype) for s in shapes)
    return Sample(f"{shapes}" + (f" {attributes}" if attributes else ""), arrays, attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1), (1, 1), (1,))
    yield sample(rng, dtype, (6, 7), (5, 7), (5,))
    yield sample(rng, dtype, (3, 9), (8, 9), None)
    yield sample(rng, dtype, (2, 3, 4), (5, 4), (5,))
    yield sample(rng, dtype, (4,), (3, 4), (3,))
    yield sample(rng, dtype, (0, 4), (3, 4), (3,))
    yield sample(rng, dtype, (6, 7), (5, 7), (5,), activation="relu")


def bad_inputs() -> Iterator[BadInput]:
    w = np.ones((3, 4))
    yield BadInput(ValueError, "x must have 4 features", (np.ones((2, 5)), w, None))
    yield BadInput(ValueError, "w must have 2 axes", (np.ones((2, 4)), np.ones(4), None))
    yield BadInput(ValueError, "activation must be one of relu", (np.ones((2, 4)), w), {"activation": "tanh"})
    yield BadInput(ValueError, "b must have shape (3,)", (np.ones((2, 4)), w, np.ones(4)))
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (np.ones((2, 4), np.uint8), w, None))
    yield BadInput(TypeError, "one dtype", (np.ones((2, 4), np.float32), w, None))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (64, 400), (120, 400), (120,))
    yield sample(rng, dtype, (64, 784), (128, 784), (128,))
    yield sample(rng, dtype, (1, 784), (128, 784), (128,))


def flops(x: Array, w: Array, b: Array | None = None, *, activation: str | None = None) -> int:
    each = 2 * w.shape[1] + (b is not None) + (activation is not None)
    return int(each * (x.size // x.shape[-1]) * len(w))


def explain(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None = None, *, activation: str | None = None
) -> dict[str, str]:
    N, (O, I) = math.prod(x[:-1]), w  # noqa: E741
    return {
        "forward": describe(N, O, I, transposed_b=True),
        "dx": describe(N, I, O),
        "dw": describe(O, I, N, transposed_a=True),
    }


def jvp(
    tangents: tuple[Array | None, ...],
    outputs: tuple[Array],
    inputs: Inputs,
    *,
    activation: str | None = None,
) -> Array:
    (x, w, _), (dx, dw, db) = inputs, tangents
    dy = np.zeros_like(outputs[0])
    if dx is not None:
        dy += linear_forward_tuned(dx, w)[0]
    if dw is not None:
        dy += linear_forward_tuned(x, dw)[0]
    if db is not None:
        dy += db
    return dy * (outputs[0] > 0) if activation == "relu" else dy


linear = Op(
    name="linear",
    loops=Body(linear_forward_loops, linear_backward_loops),
    vectorized=Body(linear_forward_vectorized, linear_backward_vectorized),
    tuned=Body(linear_forward_tuned, linear_backward_tuned),
    cuda=Body(linear_forward_cuda, linear_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=jvp,
    gradient=before_relu,
    inputs=3,
    tolerance=256,
    explain=explain,
    mutants=(
        Mutant("missing +=", "loops", "linear.py", "dw[o, i] += dy", "dw[o, i] = dy"),
        Mutant("bias forgotten", "loops", "linear.py", "s = b[o]", "s = 0 * b[o]"),
        Mutant("db of the last row only", "tuned", "linear.py",
               "db[o] += dy[n * width + o]", "db[o] = dy[n * width + o]"),
        Mutant("w not transposed for dx", "tuned", "linear.py",
               "gemm(drows, w, as_rows(dx))", "gemm(drows, w.T.copy().reshape(w.shape), as_rows(dx))"),
        Mutant("rows of w mixed up in a small layer", "tuned", "linear.py",
               "small_product(dy, O, 1, w,", "small_product(dy, O, 1, w[::-1],"),
        Mutant("slope of relu forgotten", "tuned", "linear.py",
               "masked_chunk(dy, y, masked)\n        dy = masked", "pass"),
    ),
)  # fmt: skip
