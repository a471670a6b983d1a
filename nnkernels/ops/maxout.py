"""maxout: the largest of each group of k = ``pieces`` adjacent channels.

    y[n, g, i]        = max over j < k of x[n, g k + j, i]
    dx[n, g k + j, i] = dy[n, g, i] if j = piece[n, g, i] else 0

x (N, C, ...), y (N, C / k, ...), float32 or float64. ``piece`` (int32, y's shape, kept) is the first j with
the largest x; a NaN counts as largest. After a linear layer, y is the largest of k linear functions, which
can come near any convex one (Goodfellow et al., Maxout Networks, 2013). The loops see x as
(N C / k, k, inner).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import int32

from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_array import empty as gpu_empty
from nnkernels.machine.gpu_index import Divisor, divisor, quotient
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, kernel
from nnkernels.machine.jit import (
    inline_elementwise,
    jit,
    jit_elementwise,
    jit_parallel,
    prange,
    signed,
)
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.gradients import piecewise_linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.pooling.tuned import beats
from nnkernels.ops.validate import check_int, floats

PIECE = np.dtype(np.int32)
RUN = 1024  # outputs whose pieces are compared one after the other while they stay in the L1 cache


def result_shape(x: Array | GpuArray, pieces: int) -> tuple[int, ...]:
    """Return y's shape."""
    return (x.shape[0], x.shape[1] // pieces, *x.shape[2:])


def groups(x: Array | GpuArray, pieces: int) -> tuple[int, int, int]:
    """Return (N C / k, k, inner)."""
    return x.shape[0] * (x.shape[1] // pieces), pieces, math.prod(x.shape[2:])


# --- loops ---


@jit
def forward_kernel(x: Array, y: Array, piece: Array) -> None:
    outer, k, inner = x.shape
    for o in range(outer):
        for i in range(inner):
            y[o, i], piece[o, i] = x[o, 0, i], 0
            for j in range(1, k):
                v = x[o, j, i]
                if v > y[o, i] or (v != v and y[o, i] == y[o, i]):
                    y[o, i], piece[o, i] = v, j


@jit
def backward_kernel(dy: Array, piece: Array, dx: Array) -> None:
    outer, k, inner = dx.shape
    for o in range(outer):
        for j in range(k):
            for i in range(inner):
                dx[o, j, i] = dy[o, i] if piece[o, i] == j else 0


def forward_loops(x: Array, pieces: int) -> tuple[Array, Array]:
    shape, (outer, k, inner) = result_shape(x, pieces), groups(x, pieces)
    y, piece = np.empty(shape, x.dtype), np.empty(shape, PIECE)
    forward_kernel(x.reshape(outer, k, inner), y.reshape(outer, inner), piece.reshape(outer, inner))
    return y, piece


def backward_loops(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool], pieces: int
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    (x,), (_, piece) = inputs, outputs
    outer, k, inner = groups(x, pieces)
    dx = np.empty(x.shape, x.dtype)
    rows = dy.reshape(outer, inner), piece.reshape(outer, inner)
    backward_kernel(*rows, dx.reshape(outer, k, inner))
    return (dx,)


# --- vectorized ---


def forward_vectorized(x: Array, pieces: int) -> tuple[Array, Array]:
    shape, sizes = result_shape(x, pieces), groups(x, pieces)
    grouped = x.reshape(sizes)
    piece = grouped.argmax(axis=1)
    y = np.take_along_axis(grouped, piece[:, None], axis=1)
    return y.reshape(shape), piece.astype(PIECE).reshape(shape)


def backward_vectorized(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool], pieces: int
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    (x,), (_, piece) = inputs, outputs
    outer, k, inner = groups(x, pieces)
    dx = np.zeros((outer, k, inner), x.dtype)
    where = piece.reshape(outer, 1, inner).astype(np.intp)
    np.put_along_axis(dx, where, dy.reshape(outer, 1, inner), axis=1)
    return (dx.reshape(x.shape),)


# --- tuned: neighbours among the outputs side by side. Bound: memory traffic ---


@inline_elementwise
def take_larger(x: Array, first: Any, j: Any, y: Array, piece: Array) -> None:
    """Take x[first + e] and j into y[e] and piece[e] where it is larger than y[e]."""
    for e in range(np.uint64(y.size)):
        v, top = x[first + e], y[e]
        larger = (v > top) | ((v != v) & (top == top))
        y[e] = v if larger else top
        piece[e] = j if larger else piece[e]


@inline_elementwise
def copy_column(x: Array, first: Any, step: Any, column: Array) -> None:
    for e in range(np.uint64(column.size)):
        column[e] = x[first + e * step]


@jit_elementwise
def forward_part(x: Array, k: int, inner: int, i: int, last: int, y: Array, piece: Array) -> None:
    """Do outputs i to last - 1 of the flat y, a run of neighbours at a time."""
    # Groups of neighbours in memory: one piece of each is copied side by side before it is compared, as a
    # loop that compares what it gathers is not vectorised.
    room = np.empty(RUN if inner == 1 else 0, x.dtype)
    while i < last:
        o, at = i // inner, i % inner
        n = min(RUN, last - i) if inner == 1 else min(inner - at, last - i)
        best, where, column = y[i : i + n], piece[i : i + n], room[:n]
        a = np.uint64(o * k * inner + at)
        copy_column(x, a, np.uint64(k if inner == 1 else 1), best)
        for e in range(where.size):
            where[e] = 0
        for j in range(np.uint64(1), np.uint64(k)):
            if inner == 1:
                copy_column(x, a + j, np.uint64(k), column)
                take_larger(column, np.uint64(0), j, best, where)
            else:
                take_larger(x, a + j * np.uint64(inner), j, best, where)
        i += n


@jit_elementwise
def backward_part(dy: Array, piece: Array, k: int, inner: int, i: int, last: int, dx: Array) -> None:
    while i < last:
        o, at = i // inner, i % inner
        n = min(RUN, last - i) if inner == 1 else min(inner - at, last - i)
        given, where = dy[i : i + n], piece[i : i + n]
        a = np.uint64(o * k * inner + at)
        if inner == 1:
            for e in range(a, a + np.uint64(n * k)):
                dx[e] = 0
            for e in range(np.uint64(n)):
                dx[a + e * np.uint64(k) + np.uint64(where[e])] = given[e]
        else:
            for j in range(np.uint64(k)):
                first = a + j * np.uint64(inner)
                for e in range(np.uint64(n)):
                    dx[first + e] = given[e] if where[e] == np.int32(j) else given.dtype.type(0)
        i += n


@jit_parallel
def forward_parallel(x: Array, k: int, inner: int, share: int, y: Array, piece: Array) -> None:
    for c in prange((y.size + share - 1) // share):
        forward_part(x, k, inner, signed(c) * share, min((signed(c) + 1) * share, y.size), y, piece)


@jit_parallel
def backward_parallel(dy: Array, piece: Array, k: int, inner: int, share: int, dx: Array) -> None:
    for c in prange((dy.size + share - 1) // share):
        backward_part(dy, piece, k, inner, signed(c) * share, min((signed(c) + 1) * share, dy.size), dx)


def forward_tuned(x: Array, pieces: int) -> tuple[Array, Array]:
    shape, (_, k, inner) = result_shape(x, pieces), groups(x, pieces)
    y, piece = empty(shape, x.dtype), empty(shape, PIECE)
    if x.size < SERIAL_BELOW_IF_CHEAP:
        forward_part(x.ravel(), k, inner, 0, y.size, y.ravel(), piece.ravel())
    else:
        forward_parallel(x.ravel(), k, inner, share_of(y.size), y.ravel(), piece.ravel())
    return y, piece


def backward_tuned(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool], pieces: int
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    (x,), (_, piece) = inputs, outputs
    _, k, inner = groups(x, pieces)
    dx = empty(x.shape, x.dtype)
    if x.size < SERIAL_BELOW_IF_CHEAP:
        backward_part(dy.ravel(), piece.ravel(), k, inner, 0, dy.size, dx.ravel())
    else:
        backward_parallel(dy.ravel(), piece.ravel(), k, inner, share_of(dy.size), dx.ravel())
    return (dx,)


# --- cuda: PER_THREAD elements of a thread, a block's width apart. Bound: memory traffic ---

PER_THREAD = 4


@kernel
def forward_cuda_kernel(x: Array, k: int, by_inner: Divisor, y: Array, piece: Array) -> None:
    """A thread compares the pieces of PER_THREAD outputs: their loads do not wait for each other."""
    start = int32(cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x)
    if start < y.size:
        first = cuda.local.array(PER_THREAD, int32)
        best, where = cuda.local.array(PER_THREAD, x.dtype), cuda.local.array(PER_THREAD, int32)
        for e in range(PER_THREAD):
            i = int32(min(start + e * THREADS, y.size - 1))
            first[e] = i + quotient(i, by_inner) * (k - 1) * by_inner[0]
            best[e], where[e] = x[at(first[e])], 0
        for m in range(1, k):
            for e in range(PER_THREAD):
                v = x[at(first[e] + m * by_inner[0])]
                wins = beats(v, best[e])
                best[e] = v if wins else best[e]
                where[e] = m if wins else where[e]
        for e in range(PER_THREAD):
            i = int32(start + e * THREADS)
            if i < y.size:
                y[at(i)] = best[e]
                piece[at(i)] = where[e]


@kernel
def backward_cuda_kernel(dy: Array, piece: Array, by_k: Divisor, by_inner: Divisor, dx: Array) -> None:
    """A thread has PER_THREAD elements of dx."""
    start = int32(cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x)
    if start < dx.size:
        v = cuda.local.array(PER_THREAD, dy.dtype)
        for e in range(PER_THREAD):
            i = int32(min(start + e * THREADS, dx.size - 1))
            channel = quotient(i, by_inner)
            group = quotient(channel, by_k)
            of = int32(i - (channel - group) * by_inner[0])
            given, where = dy[at(of)], piece[at(of)]
            v[e] = given if where == int32(channel - group * by_k[0]) else dy.dtype.type(0)
        for e in range(PER_THREAD):
            i = int32(start + e * THREADS)
            if i < dx.size:
                dx[at(i)] = v[e]


def forward_cuda(x: GpuArray, pieces: int) -> tuple[GpuArray, GpuArray]:
    shape, (_, k, inner) = result_shape(x, pieces), groups(x, pieces)
    y, piece = gpu_empty(shape, x.dtype, x.device), gpu_empty(shape, PIECE, x.device)
    blocks = blocks_for(y.size, THREADS * PER_THREAD)
    forward_cuda_kernel[blocks, THREADS](x, k, divisor(max(inner, 1)), y, piece)
    return y, piece


def backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray, GpuArray], inputs: tuple[GpuArray], needs: tuple[bool], pieces: int
) -> tuple[GpuArray | None]:
    if not needs[0]:
        return (None,)
    (x,), (_, piece) = inputs, outputs
    (_, k, inner), dx = groups(x, pieces), empty_like(x)
    blocks = blocks_for(dx.size, THREADS * PER_THREAD)
    backward_cuda_kernel[blocks, THREADS](dy, piece, divisor(k), divisor(max(inner, 1)), dx)
    return (dx,)


# --- records ---


def check(x: Array, pieces: Any) -> None:
    floats("maxout", x=x)
    if x.ndim < 2:
        raise ValueError(f"maxout: x must have at least 2 axes (N, C, ...), got shape {x.shape}")
    check_int("maxout", "pieces", pieces, 1)
    if x.shape[1] % pieces:
        raise ValueError(f"maxout: pieces must divide the {x.shape[1]} channels of x, got {pieces}")


def sample(rng: np.random.Generator, shape: tuple[int, ...], pieces: int, dtype: Any) -> Sample:
    # Different multiples of one step: no difference quotient moves one element past another.
    x = rng.permutation(math.prod(shape)).reshape(shape) * (6 / max(math.prod(shape), 1)) - 3
    return Sample(f"{shape}, {pieces} pieces", (np.asarray(x, dtype),), {"pieces": pieces})


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape, pieces in (
        ((1, 1), 1), ((3, 4), 2), ((2, 6), 3), ((5, 3), 1), ((2, 5), 5), ((2, 4, 3), 2), ((2, 6, 2, 3), 3),
        ((0, 4), 2), ((2, 0), 3), ((2, 4, 0), 2), ((1, 4, 1, 1), 4),
    ):  # fmt: skip
        yield sample(rng, shape, pieces, dtype)


def bad_inputs() -> Iterator[BadInput]:
    x = np.ones((2, 6))
    yield BadInput(ValueError, "at least 2 axes (N, C, ...), got shape (6,)", (x[0],), {"pieces": 2})
    yield BadInput(ValueError, "pieces must divide the 6 channels of x, got 4", (x,), {"pieces": 4})
    yield BadInput(ValueError, "pieces must be at least 1, got 0", (x,), {"pieces": 0})
    yield BadInput(TypeError, "pieces must be an int, got float 2.0", (x,), {"pieces": 2.0})
    yield BadInput(TypeError, "x must be float32 or float64", (np.ones((2, 6), int),), {"pieces": 2})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, (256, 1200), 5, dtype)  # the paper's network for MNIST has 5 pieces a unit
    yield sample(rng, (64, 32, 28, 28), 2, dtype)
    yield sample(rng, (1024, 2048), 2, dtype)


def jvp(tangents: tuple[Array], outputs: tuple[Array, Array], inputs: tuple[Array], pieces: int) -> Array:
    (v,), (y, piece) = tangents, outputs
    outer, k, inner = groups(v, pieces)
    where = piece.reshape(outer, 1, inner).astype(np.intp)
    return np.take_along_axis(v.reshape(outer, k, inner), where, axis=1).reshape(y.shape)


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "maxout.py", old, new)


maxout = Op(
    name="maxout",
    loops=Body(forward_loops, backward_loops),
    vectorized=Body(forward_vectorized, backward_vectorized),
    tuned=Body(forward_tuned, backward_tuned),
    cuda=Body(forward_cuda, backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, pieces: x.size - x.size // pieces,
    jvp=jvp,
    gradient=piecewise_linear,
    mutants=(
        mutant("smallest", "loops", "if v > y[o, i] or", "if v < y[o, i] or"),
        mutant("last piece forgotten", "loops", "for j in range(1, k):", "for j in range(1, k - 1):"),
        mutant("piece not kept", "loops", "= v, j\n", "= v, 0\n"),
        mutant("gradient to all", "loops", "if piece[o, i] == j else 0", "if piece[o, i] >= 0 else 0"),
        mutant("second piece of another group", "tuned", "copy_column(x, a + j, np.uint64(k), column)",
               "copy_column(x, a + j, np.uint64(1), column)"),
        mutant("first piece again", "tuned", "take_larger(x, a + j * np.uint64(inner), j, best, where)",
               "take_larger(x, a, j, best, where)"),
        mutant("run beyond its channel", "tuned",
               "else min(inner - at, last - i)\n        best, where, column", "else last - i\n"
               "        best, where, column"),
        mutant("gradient not cleared", "tuned", "else given.dtype.type(0)", "else given[e]"),
        mutant("gradient to the first piece", "tuned", "+ np.uint64(where[e])] = given[e]", "] = given[e]"),
    ),
)  # fmt: skip
