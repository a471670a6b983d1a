"""Local response normalisation: each pixel is divided by the energy of neighbouring channels.

    y_ncs = x_ncs d_ncs^-beta         d_ncs = k + alpha / size sum over j in window(c) of x_njs^2
    window(c) = c - size // 2, ..., c + (size - 1) // 2, as far as there are channels

    dx_ncs = dy_ncs d_ncs^-beta - 2 alpha beta / size x_ncs sum over j with c in window(j) of q_njs
    q_njs = dy_njs y_njs / d_njs

x is (N, C, ...) with one or more axes of positions s, float32 or float64 (Krizhevsky, Sutskever and Hinton,
ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012, 3.3; alpha / size is their alpha).

Keeps d, of the shape of x, for the backward pass.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import int32

from nnkernels.machine.elementary import power
from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_index import Divisor, divisor, grid_of, quotient, thread_number
from nnkernels.machine.gpu_kernel import at, blocks_for, cuda, device_function, kernel
from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, prange, signed, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW
from nnkernels.ops.assemble import pad
from nnkernels.ops.batch_norm.shapes import as_planes
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import check_int, floats, number

Outputs = tuple[Array, Array]

# --- loops ---


@jit
def forward_kernel(x: Array, size: int, alpha: float, beta: float, k: float, y: Array, d: Array) -> None:
    N, C, S = x.shape
    for n in range(N):
        for c in range(C):
            for s in range(S):
                energy = 0.0
                for j in range(max(0, c - size // 2), min(C, c + (size - 1) // 2 + 1)):
                    energy += x[n, j, s] ** 2
                d[n, c, s] = k + alpha / size * energy
                y[n, c, s] = x[n, c, s] * d[n, c, s] ** -beta


@jit
def backward_kernel(
    dy: Array, x: Array, y: Array, d: Array, size: int, alpha: float, beta: float, dx: Array
) -> None:
    N, C, S = x.shape
    for n in range(N):
        for c in range(C):
            for s in range(S):
                total = 0.0
                for j in range(max(0, c - (size - 1) // 2), min(C, c + size // 2 + 1)):
                    total += dy[n, j, s] * y[n, j, s] / d[n, j, s]
                dx[n, c, s] = dy[n, c, s] * d[n, c, s] ** -beta - 2 * alpha * beta / size * x[n, c, s] * total


def lrn_forward_loops(
    x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Outputs:
    y, d = np.empty(x.shape, x.dtype), np.empty(x.shape, x.dtype)
    forward_kernel(as_planes(x), size, float(alpha), float(beta), float(k), as_planes(y), as_planes(d))
    return y, d


def lrn_backward_loops(
    dy: Array, outputs: Outputs, inputs: tuple[Array], needs: tuple[bool], *, size: int, alpha: float = 1e-4,
    beta: float = 0.75, k: float = 1.0,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = np.empty(dy.shape, dy.dtype)
    read = as_planes(dy), as_planes(inputs[0]), as_planes(outputs[0]), as_planes(outputs[1])
    backward_kernel(*read, size, float(alpha), float(beta), as_planes(dx))
    return (dx,)


# --- vectorized ---


def windowed(a: Array, before: int, after: int) -> Array:
    """Return for each channel c the sum of channels c - before to c + after of a (N, C, ...)."""
    C = a.shape[1]
    total = np.zeros_like(a)
    for shift in range(-min(before, C - 1), min(after, C - 1) + 1):
        total[:, max(0, -shift) : C - max(0, shift)] += a[:, max(0, shift) : C + min(0, shift)]
    return total


def lrn_forward_vectorized(
    x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Outputs:
    d = k + alpha / size * windowed(x * x, size // 2, (size - 1) // 2)
    return x * d**-beta, d


def lrn_backward_vectorized(
    dy: Array, outputs: Outputs, inputs: tuple[Array], needs: tuple[bool], *, size: int, alpha: float = 1e-4,
    beta: float = 0.75, k: float = 1.0,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    (y, d), (x,) = outputs, inputs
    total = windowed(dy * y / d, (size - 1) // 2, size // 2)
    return (dy * d**-beta - 2 * alpha * beta / size * x * total,)


# --- tuned: strips of positions, all channels of which stay in an L1 cache, down the channels.
# Bound: the power, and memory: 2 arrays read and 1 written, forward 1 and 2 ---

STRIP = 4096  # elements of a strip: its squares and its x, 32 KiB of float32
U = np.uint64


@jit_elementwise
def powers(d: Array, at: U, length: int, beta: float, p: Array) -> None:
    """Write d^-beta; for 0.75, which nearly all networks take, by roots."""
    if beta == 0.75:
        for s in range(U(length)):
            root = np.sqrt(d[at + s])
            p[s] = typed(1, root) / (root * np.sqrt(root))
    else:
        exponent = typed(-beta, d[0])
        for s in range(U(length)):
            p[s] = power(d[at + s], exponent)


@jit_elementwise
def add_window(a: Array, C: int, length: int, before: int, after: int, c: int, total: Array) -> None:
    """Write the sum of rows c - before to c + after of a, which has C rows of ``length``."""
    for s in range(U(length)):
        total[s] = typed(0, total[0])
    for j in range(max(0, c - before), min(C, c + after + 1)):
        at = U(j * length)
        for s in range(U(length)):
            total[s] += a[at + s]


@jit_elementwise
def forward_strips(
    x: Array, C: int, S: int, width: int, how: Array, size: int, first: int, last: int, y: Array, d: Array
) -> None:
    """Do strips first to last - 1; ``how`` holds alpha / size, beta and k."""
    strips = (S + width - 1) // width
    squares, total, p = np.empty(C * width, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    share, k = typed(how[0], x[0]), typed(how[2], x[0])
    for i in range(first, last):
        start = i % strips * width
        length = min(width, S - start)
        for c in range(C):
            at, o = U((i // strips * C + c) * S + start), U(c * length)
            for s in range(U(length)):
                squares[o + s] = x[at + s] * x[at + s]
        for c in range(C):
            at = U((i // strips * C + c) * S + start)
            add_window(squares, C, length, size // 2, (size - 1) // 2, c, total)
            for s in range(U(length)):
                d[at + s] = k + share * total[s]
            powers(d, at, length, how[1], p)
            for s in range(U(length)):
                y[at + s] = x[at + s] * p[s]


@jit_elementwise
def backward_strips(
    dy: Array, x: Array, y: Array, d: Array, C: int, S: int, width: int, how: Array, size: int,
    first: int, last: int, dx: Array,
) -> None:  # fmt: skip
    """Do strips first to last - 1 of dx."""
    strips = (S + width - 1) // width
    q, total, p = np.empty(C * width, x.dtype), np.empty(width, x.dtype), np.empty(width, x.dtype)
    share = typed(2 * how[0] * how[1], x[0])
    for i in range(first, last):
        start = i % strips * width
        length = min(width, S - start)
        for c in range(C):
            at, o = U((i // strips * C + c) * S + start), U(c * length)
            for s in range(U(length)):
                q[o + s] = dy[at + s] * y[at + s] / d[at + s]
        for c in range(C):
            at = U((i // strips * C + c) * S + start)
            add_window(q, C, length, (size - 1) // 2, size // 2, c, total)
            powers(d, at, length, how[1], p)
            for s in range(U(length)):
                dx[at + s] = dy[at + s] * p[s] - share * x[at + s] * total[s]


@jit_parallel
def forward_parallel(
    x: Array, C: int, S: int, width: int, how: Array, size: int, strips: int, y: Array, d: Array
) -> None:
    for i in prange(strips):
        forward_strips(x, C, S, width, how, size, signed(i), signed(i) + 1, y, d)


@jit_parallel
def backward_parallel(
    dy: Array, x: Array, y: Array, d: Array, C: int, S: int, width: int, how: Array, size: int, strips: int,
    dx: Array,
) -> None:  # fmt: skip
    for i in prange(strips):
        backward_strips(dy, x, y, d, C, S, width, how, size, signed(i), signed(i) + 1, dx)


def strips_of(x: Array) -> tuple[int, int, int, int]:
    """Return C, S, the positions of a strip, and the number of strips."""
    N, C = x.shape[:2]
    S = math.prod(x.shape[2:])
    width = min(S, max(64, STRIP // C // 16 * 16))
    return C, S, width, N * -(-S // width)


def lrn_forward_tuned(
    x: Array, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Outputs:
    y, d = empty(x.shape, x.dtype), empty(x.shape, x.dtype)
    if x.size > 0:
        C, S, width, strips = strips_of(x)
        given = x.reshape(-1), C, S, width, np.array([alpha / size, beta, k], np.float64), size
        if x.size < SERIAL_BELOW:
            forward_strips(*given, 0, strips, y.reshape(-1), d.reshape(-1))
        else:
            forward_parallel(*given, strips, y.reshape(-1), d.reshape(-1))
    return y, d


def lrn_backward_tuned(
    dy: Array, outputs: Outputs, inputs: tuple[Array], needs: tuple[bool], *, size: int, alpha: float = 1e-4,
    beta: float = 0.75, k: float = 1.0,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = empty(dy.shape, dy.dtype)
    if dy.size > 0:
        C, S, width, strips = strips_of(dy)
        (y, d), (x,), how = outputs, inputs, np.array([alpha / size, beta, k], np.float64)
        read = dy.reshape(-1), x.reshape(-1), y.reshape(-1), d.reshape(-1), C, S, width, how, size
        if dy.size < SERIAL_BELOW:
            backward_strips(*read, 0, strips, dx.reshape(-1))
        else:
            backward_parallel(*read, strips, dx.reshape(-1))
    return (dx,)


# --- cuda: a thread has CHANNELS neighbouring channels at one position; what it reads, it reads for all of
# them, so that for a window of 5 two squares are read per result. Bound: memory, as tuned ---

CHANNELS = 4


@device_function
def inverse_power(d: Any, beta: Any) -> Any:
    """d^-beta, by roots where beta is 0.75."""
    if beta == typed(0.75, beta):
        root = math.sqrt(d)
        return typed(1, d) / (root * math.sqrt(root))
    return math.pow(d, -beta)


@device_function
def channels_of_thread(C: int, by_s: Divisor, by_groups: Divisor) -> Any:
    """Return the thread's first channel, the place of channel 0, and how far channels are apart.

    There is nothing to do for a thread whose place is beyond the end.
    """
    t = thread_number()
    line = quotient(t, by_s)
    n, S = quotient(line, by_groups), by_s[0]
    return int32((line - n * by_groups[0]) * CHANNELS), int32(n * C * S + t - line * S), S


@kernel
def forward_cuda_kernel(
    x: Array, C: int, by_s: Divisor, by_groups: Divisor, size: int, how: tuple[Any, Any, Any], y: Array,
    d: Array,
) -> None:  # fmt: skip
    """``how`` holds alpha / size, beta and k."""
    c, first, S = channels_of_thread(C, by_s, by_groups)
    if first < x.size:
        before, after = size // 2, (size - 1) // 2
        energy = cuda.local.array(CHANNELS, x.dtype)
        for k in range(CHANNELS):
            energy[k] = x.dtype.type(0)
        for j in range(max(0, c - before), min(C, c + CHANNELS + after)):
            v = x[at(first + j * S)]
            for k in range(CHANNELS):
                near = (j >= c + k - before) & (j <= c + k + after)
                energy[k] += v * v if near else x.dtype.type(0)
        scaled = cuda.local.array(CHANNELS, x.dtype)
        for k in range(CHANNELS):
            energy[k] = how[2] + how[0] * energy[k]
            scaled[k] = x[at(first + min(c + k, C - 1) * S)] * inverse_power(energy[k], how[1])
        for k in range(CHANNELS):
            if c + k < C:
                d[at(first + (c + k) * S)] = energy[k]
                y[at(first + (c + k) * S)] = scaled[k]


@kernel
def backward_cuda_kernel(
    dy: Array, x: Array, y: Array, d: Array, C: int, by_s: Divisor, by_groups: Divisor, size: int,
    how: tuple[Any, Any], dx: Array,
) -> None:  # fmt: skip
    """``how`` holds 2 alpha beta / size and beta."""
    c, first, S = channels_of_thread(C, by_s, by_groups)
    if first < x.size:
        before, after = (size - 1) // 2, size // 2
        total = cuda.local.array(CHANNELS, x.dtype)
        for k in range(CHANNELS):
            total[k] = x.dtype.type(0)
        for j in range(max(0, c - before), min(C, c + CHANNELS + after)):
            i = first + j * S
            q = dy[at(i)] * y[at(i)] / d[at(i)]
            for k in range(CHANNELS):
                near = (j >= c + k - before) & (j <= c + k + after)
                total[k] += q if near else x.dtype.type(0)
        for k in range(CHANNELS):
            i = first + min(c + k, C - 1) * S
            total[k] = dy[at(i)] * inverse_power(d[at(i)], how[1]) - how[0] * x[at(i)] * total[k]
        for k in range(CHANNELS):
            if c + k < C:
                dx[at(first + (c + k) * S)] = total[k]


def grid_over(x: GpuArray) -> tuple[tuple[int, int], tuple[int, Divisor, Divisor]]:
    """Return the kernels' grid, and C with the divisors by positions and by groups of channels."""
    (N, C), S = x.shape[:2], math.prod(x.shape[2:])
    groups = blocks_for(C, CHANNELS)
    return grid_of(N * groups * S), (C, divisor(max(S, 1)), divisor(max(groups, 1)))


def lrn_forward_cuda(
    x: GpuArray, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> tuple[GpuArray, GpuArray]:
    (grid, sizes), kind = grid_over(x), x.dtype.type
    y, d = empty_like(x), empty_like(x)
    forward_cuda_kernel[grid](x, *sizes, size, (kind(alpha / size), kind(beta), kind(k)), y, d)
    return y, d


def lrn_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray, GpuArray], inputs: tuple[GpuArray], needs: tuple[bool],
    *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0,
) -> tuple[GpuArray | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    (grid, sizes), kind, dx = grid_over(dy), dy.dtype.type, empty_like(dy)
    how = kind(2 * alpha * beta / size), kind(beta)
    backward_cuda_kernel[grid](dy, inputs[0], *outputs, *sizes, size, how, dx)
    return (dx,)


# --- in ops ---


def response_formula(x: Any, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Any:
    (N, C), positions = x.shape[:2], math.prod(x.shape[2:])
    squares = pad((x * x).reshape(N, C, positions), padding=(0, 0, size // 2, (size - 1) // 2))
    energy = squares[:, :C]
    for j in range(1, size):
        energy = energy + squares[:, j : j + C]
    return x * (energy.reshape(x.shape) * (alpha / size) + k) ** -beta


# --- records ---


def check(x: Array, *, size: Any, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> None:
    floats("local_response_norm", x=x)
    if x.ndim < 3:
        raise ValueError(f"local_response_norm: x must have at least 3 axes (N, C, ...), got shape {x.shape}")
    check_int("local_response_norm", "size", size, 1)
    number("local_response_norm", "alpha", alpha)
    number("local_response_norm", "beta", beta)
    number("local_response_norm", "k", k)


def sample(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], **attributes: Any) -> Sample:
    x = rng.standard_normal(shape).astype(dtype)
    words = ", ".join(f"{name} {value}" for name, value in attributes.items())
    return Sample(f"{'x'.join(map(str, shape))}, {words}", (x,), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (2, 7, 2, 3), size=5, alpha=0.7)
    yield sample(rng, dtype, (2, 5, 3), size=2, alpha=2.0, k=0.5)
    yield sample(rng, dtype, (1, 6, 3, 2), size=4, alpha=1.0, beta=1.3, k=2)
    yield sample(rng, dtype, (2, 1, 5), size=3, alpha=1.0)
    yield sample(rng, dtype, (1, 2, 2, 1, 2), size=9, alpha=3.0, beta=0.5)
    yield sample(rng, dtype, (0, 2, 3), size=1)


def bad_inputs() -> Iterator[BadInput]:
    x = np.ones((2, 3, 4))
    yield BadInput(
        ValueError, "x must have at least 3 axes (N, C, ...), got shape (2, 3)", (x[..., 0],), {"size": 2}
    )
    yield BadInput(TypeError, "x must be float32 or float64, got int64", (x.astype(int),), {"size": 2})
    yield BadInput(ValueError, "size must be at least 1, got 0", (x,), {"size": 0})
    yield BadInput(TypeError, "size must be an int, got float", (x,), {"size": 2.0})
    yield BadInput(TypeError, "alpha must be a number, got str", (x,), {"size": 2, "alpha": "1"})
    yield BadInput(ValueError, "beta must be finite, got nan", (x,), {"size": 2, "beta": float("nan")})
    yield BadInput(TypeError, "k must be a number, got NoneType", (x,), {"size": 2, "k": None})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (8, 96, 13, 13), size=5)
    yield sample(rng, dtype, (16, 96, 27, 27), size=5, alpha=5e-4, k=2.0)


def jvp(
    tangents: tuple[Array | None], outputs: Outputs, inputs: tuple[Array], *, size: int, alpha: float = 1e-4,
    beta: float = 0.75, k: float = 1.0,
) -> Array:  # fmt: skip
    (y, d), (x,), (dx,) = outputs, inputs, tangents
    if dx is None:
        return np.zeros_like(y)
    moved = 2 * alpha / size * windowed(x * dx, size // 2, (size - 1) // 2)  # how d moves
    return np.asarray(dx * d**-beta - beta * y / d * moved)


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "local_response_norm.py", old, new)


local_response_norm = Op(
    name="local_response_norm",
    loops=Body(lrn_forward_loops, lrn_backward_loops),
    vectorized=Body(lrn_forward_vectorized, lrn_backward_vectorized),
    tuned=Body(lrn_forward_tuned, lrn_backward_tuned),
    cuda=Body(lrn_forward_cuda, lrn_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=lambda x, *, size, **_: (size + 5) * int(x.size),
    jvp=jvp,
    gradient=by_formula(response_formula),
    tolerance=128,
    mutants=(
        mutant("window one channel short", "(size - 1) // 2 + 1)):\n                    energy",
               "(size - 1) // 2)):\n                    energy"),
        mutant("alpha not shared", "k + alpha / size * energy", "k + alpha * energy"),
        mutant("missing +=", "energy += x", "energy = x"),
        mutant("window not mirrored", "max(0, c - (size - 1) // 2), min(C, c + size // 2 + 1)",
               "max(0, c - size // 2), min(C, c + (size - 1) // 2 + 1)"),
        mutant("factor 2 forgotten", "- 2 * alpha * beta / size * x[n, c, s]",
               "- alpha * beta / size * x[n, c, s]"),
        mutant("window one channel short", "min(C, c + after + 1)", "min(C, c + after)", "tuned"),
        mutant("window not mirrored", "add_window(q, C, length, (size - 1) // 2, size // 2,",
               "add_window(q, C, length, size // 2, (size - 1) // 2,", "tuned"),
        mutant("wrong root", "(root * np.sqrt(root))", "(root * root)", "tuned"),
        mutant("beta's sign", "typed(-beta, d[0])", "typed(beta, d[0])", "tuned"),
        mutant("last strip left out", "prange(strips):\n        forward",
               "prange(strips - 1):\n        forward", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (local_response_norm,)
