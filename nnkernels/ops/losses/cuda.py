"""The elementwise losses on a GPU: a thread takes PER_THREAD elements at once, a block's width apart.

All of them are read before the first is written: no load is moved before a store that it might depend on.
Bound: memory. All arrays that the formula reads are read once; l_i that are only summed stay in registers.
Every block sums a fixed share, ``total`` adds the shares up.
"""

from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like
from nnkernels.machine.gpu_index import grid_of
from nnkernels.machine.gpu_kernel import Kernel, at, blocks_for, cuda, kernel
from nnkernels.machine.gpu_reduce import WARPS_MOST, block_sum
from nnkernels.machine.memory import Array
from nnkernels.ops.losses.elementwise import (
    OTHER,
    SLOPE,
    SUM,
    TERMS,
    Family,
    Formula,
    Given,
    Scalar,
    flattened,
    make_body,
)
from nnkernels.ops.losses.reduction import factor
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.total import total

PER_THREAD = 4
ROUNDS = 4  # in which a block adds up its share, PER_THREAD elements of each thread in every one


def make_sum_kernel(f: Scalar) -> Kernel:
    """Return the kernel that writes ``scale`` times the sum of block b's share of the l_i to sums[b]."""

    @kernel
    def sum_kernel(x: Array, y: Array, a: Any, b: Any, u: Array, w: Array, scale: Any, sums: Array) -> None:
        scratch = cuda.shared.array(WARPS_MOST, x.dtype)
        share = cuda.blockDim.x * (PER_THREAD * ROUNDS)
        first = cuda.blockIdx.x * share
        last = min(first + share, x.size)
        s = x.dtype.type(0)
        i = first + cuda.threadIdx.x
        while i < last:
            for _ in range(PER_THREAD):
                j = min(i, last - 1)
                term = f(x[at(j)], y[at(j)], a, b, u[at(j)], w[at(j)])
                s += term if i < last else x.dtype.type(0)
                i += cuda.blockDim.x
        s = block_sum(s, scratch)
        if cuda.threadIdx.x == 0:
            sums[at(cuda.blockIdx.x)] = scale * s

    return sum_kernel


def make_terms_kernel(f: Scalar) -> Kernel:
    """Return the kernel that writes the l_i."""

    @kernel
    def terms_kernel(x: Array, y: Array, a: Any, b: Any, u: Array, w: Array, terms: Array) -> None:
        ready = cuda.local.array(PER_THREAD, x.dtype)
        start = cuda.blockIdx.x * cuda.blockDim.x * PER_THREAD + cuda.threadIdx.x
        for k in range(PER_THREAD):
            j = min(start + k * cuda.blockDim.x, x.size - 1)
            ready[k] = f(x[at(j)], y[at(j)], a, b, u[at(j)], w[at(j)])
        for k in range(PER_THREAD):
            i = start + k * cuda.blockDim.x
            if i < x.size:
                terms[at(i)] = ready[k]

    return terms_kernel


def make_derivative_kernel(df: Scalar) -> Kernel:
    """Return the kernel that writes ``scale`` dy_i times a derivative; dy has one number for all, or each."""

    @kernel
    def derivative_kernel(
        dy: Array, scale: Any, x: Array, y: Array, a: Any, b: Any, u: Array, w: Array, dx: Array
    ) -> None:
        ready = cuda.local.array(PER_THREAD, x.dtype)
        start = cuda.blockIdx.x * cuda.blockDim.x * PER_THREAD + cuda.threadIdx.x
        for k in range(PER_THREAD):
            j = min(start + k * cuda.blockDim.x, x.size - 1)
            g = scale * dy[at(j if dy.size > 1 else 0)]
            ready[k] = g * df(x[at(j)], y[at(j)], a, b, u[at(j)], w[at(j)])
        for k in range(PER_THREAD):
            i = start + k * cuda.blockDim.x
            if i < x.size:
                dx[at(i)] = ready[k]

    return derivative_kernel


def grid(n: int, per_thread: int) -> tuple[int, int]:
    """Return blocks and threads, ``per_thread`` elements for each; few threads where n is small."""
    _, threads = grid_of(blocks_for(n, per_thread))
    return blocks_for(n, threads * per_thread), threads


def make_kernels(formula: Formula) -> dict[int, Kernel]:
    """Return the kernels that write the sum of the l_i, the l_i, and each derivative."""
    return {
        SUM: make_sum_kernel(formula.f),
        TERMS: make_terms_kernel(formula.f),
        SLOPE: make_derivative_kernel(formula.slope),
        OTHER: make_derivative_kernel(formula.other),
    }


def make_cuda(family: Family, formulas: tuple[Formula, ...]) -> Body:
    """Return the body."""
    kernels = [make_kernels(formula) for formula in formulas]

    def forward(x: Any, y: Any, given: Given, reduction: str) -> GpuArray:
        arguments = flattened(x, y, given)
        if reduction == "none":
            terms = empty_like(x)
            kernels[given.variant][TERMS][grid(x.size, PER_THREAD)](*arguments, terms)
            return terms
        scale, one = x.dtype.type(factor(reduction, x)), x.dtype.type(1)
        blocks, threads = grid(x.size, PER_THREAD * ROUNDS)
        sums = empty((blocks,) if blocks != 1 else (), x.dtype, x.device)
        kernels[given.variant][SUM][blocks, threads](*arguments, scale if blocks == 1 else one, sums)
        return sums if blocks == 1 else total(sums, scale)

    def derivative(
        dy: Any, which: int, sign: int, x: Any, y: Any, given: Given, reduction: str
    ) -> GpuArray:  # fmt: skip
        dx, scale = empty_like(x), x.dtype.type(sign * factor(reduction, x))
        kernels[given.variant][which][grid(x.size, PER_THREAD)](dy, scale, *flattened(x, y, given), dx)
        return dx

    return make_body(family, forward, derivative)
