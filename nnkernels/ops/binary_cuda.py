"""The `cuda` body of functions of two arrays: a thread per few elements, and sums over what was stretched.

Arrays of one shape, or an array and a number, are one axis: no index is divided. Bound: memory traffic; every
array is read once and written once. The gradient of an input that was stretched is multiplied and summed in
one pass, the innermost group of stretched axes first, without the products in memory.
"""

from collections.abc import Callable
from typing import Any

from nnkernels.machine.gpu_array import GpuArray, empty, zeros
from nnkernels.machine.gpu_kernel import MOST_THREADS, THREADS, Kernel, at, blocks_for, cuda, kernel
from nnkernels.machine.memory import Array
from nnkernels.ops.folding_cuda import Axes, Tuple, folded, source
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.cuda import grids, sum_pass
from nnkernels.ops.reduce.tiling import sum_over_lanes, thread_place
from nnkernels.ops.reduce.tuned import plan

Scalar = Callable[..., Any]
PER_THREAD = 4  # elements that a thread loads before it uses the first
AXES = 4  # of kernels that look up places once for many elements


def make_forward(f: Scalar) -> Kernel:
    """Return the kernel for y."""

    @kernel
    def forward_kernel(x1: Array, x2: Array, axes: Axes, steps1: Tuple, steps2: Tuple, y: Array) -> None:
        lefts = cuda.local.array(PER_THREAD, y.dtype)
        rights = cuda.local.array(PER_THREAD, y.dtype)
        start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
        for k in range(PER_THREAD):  # behind the end, the last element once more
            i = min(at(start + k * THREADS), at(y.size - 1))
            lefts[k], rights[k] = x1[source(i, axes, steps1)], x2[source(i, axes, steps2)]
        for k in range(PER_THREAD):
            i = at(start + k * THREADS)
            if i < at(y.size):
                y[i] = f(lefts[k], rights[k])

    return forward_kernel


def make_backward(df1: Scalar, df2: Scalar, first: bool, second: bool) -> Kernel:
    """Return the kernel for dx1, dx2 or both, neither of them stretched."""

    @kernel
    def backward_kernel(
        dy: Array, x1: Array, x2: Array, y: Array, axes: Axes, steps1: Tuple, steps2: Tuple,
        dx1: Array, dx2: Array,
    ) -> None:  # fmt: skip
        dys = cuda.local.array(PER_THREAD, y.dtype)
        lefts = cuda.local.array(PER_THREAD, y.dtype)
        rights = cuda.local.array(PER_THREAD, y.dtype)
        ys = cuda.local.array(PER_THREAD, y.dtype)
        start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
        for k in range(PER_THREAD):
            i = min(at(start + k * THREADS), at(y.size - 1))
            lefts[k], rights[k] = x1[source(i, axes, steps1)], x2[source(i, axes, steps2)]
            dys[k], ys[k] = dy[i], y[i]
        for k in range(PER_THREAD):
            i = at(start + k * THREADS)
            if i < at(y.size):
                if first:
                    dx1[i] = dys[k] * df1(lefts[k], rights[k], ys[k])
                if second:
                    dx2[i] = dys[k] * df2(lefts[k], rights[k], ys[k])

    return backward_kernel


def make_sums(df: Scalar) -> Kernel:
    """Return the kernel for the gradient of an input that was stretched."""

    @kernel
    def sums_kernel(
        dy: Array, x1: Array, x2: Array, y: Array, axes: Axes, steps1: Tuple, steps2: Tuple, outer: int,
        n: int, inner: int, share: int, width_bits: int, lane_bits: int, tiles: int, sums: Array,
    ) -> None:  # fmt: skip
        """Write sums of dy df along the middle axis of (outer, n, inner), as ``sum_kernel`` does.

        Along it, the input is stretched and the other one is not: places in both move by equal steps.
        """
        scratch = cuda.shared.array(MOST_THREADS, dy.dtype)
        o, lane, column = thread_place(width_bits, lane_bits, tiles)
        part, parts = cuda.blockIdx.y, cuda.gridDim.y
        s = dy.dtype.type(0)
        if o < outer and column < inner:
            first = o * n * inner + column
            first1, first2 = source(first, axes, steps1), source(first, axes, steps2)
            step1 = source(first + inner, axes, steps1) - first1
            step2 = source(first + inner, axes, steps2) - first2
            row, last = part * share + lane, min((part + 1) * share, n)
            while row < last:
                for k in range(PER_THREAD):
                    r = row + (k << lane_bits)
                    e = min(r, last - 1)
                    i = first + e * inner
                    value = dy[at(i)] * df(x1[at(first1 + e * step1)], x2[at(first2 + e * step2)], y[at(i)])
                    s += value if r < last else dy.dtype.type(0)
                row += PER_THREAD << lane_bits
        s = sum_over_lanes(s, scratch, width_bits, lane_bits)
        if lane == 0 and o < outer and column < inner:
            sums[at((o * parts + part) * inner + column)] = s

    return sums_kernel


def is_stretched(x: GpuArray, y: GpuArray) -> bool:
    """Return whether some elements of x went to several of y, or to none."""
    return x.size != y.size


def stretched_gradient(
    sums_kernel: Kernel, dy: GpuArray, x1: GpuArray, x2: GpuArray, y: GpuArray, shape: Tuple
) -> GpuArray:
    """Return the gradient of the input that had this shape."""
    if y.size == 0:
        return zeros(shape, y.dtype, y.device)
    leading = y.ndim - len(shape)
    stretched = tuple(i for i in range(y.ndim) if i < leading or shape[i - leading] != y.shape[i])
    one, ways = y.dtype.type(1), plan(y.shape, stretched, False).passes
    outer, n, inner = ways[0][:3]
    grid = grids((outer, n, inner))[0]
    sums = empty((outer, grid.parts, inner), y.dtype, y.device)
    sums_kernel[(grid.blocks, grid.parts), grid.threads](
        dy, x1, x2, y, *folded(x1.shape, x2.shape, AXES)[1], outer, n, inner,
        grid.share, grid.width_bits, grid.lane_bits, grid.tiles, sums,
    )  # fmt: skip
    rest = [(outer, grid.parts, inner)] if grid.parts > 1 else []
    for outer, n, inner in rest + [way[:3] for way in ways[1:]]:
        more = empty((outer, inner), y.dtype, y.device)
        sum_pass(sums, (outer, n, inner), one, more)
        sums = more
    return sums.reshape(shape)


def make_cuda(f: Scalar, df1: Scalar, df2: Scalar, passed_on: tuple[bool, bool]) -> Body:
    """Return the body; ``passed_on`` says which gradients are dy itself before any sum."""
    forward_kernel = make_forward(f)
    sums_kernels = make_sums(df1), make_sums(df2)
    backward_kernels = {
        needs: make_backward(df1, df2, *needs) for needs in ((True, False), (False, True), (True, True))
    }

    def forward(x1: GpuArray, x2: GpuArray) -> tuple[GpuArray]:
        shape, places = folded(x1.shape, x2.shape)
        y = empty(shape, x1.dtype, x1.device)
        forward_kernel[blocks_for(y.size, THREADS * PER_THREAD), THREADS](x1, x2, *places, y)
        return (y,)

    def backward(
        dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray, GpuArray], needs: tuple[bool, bool]
    ) -> tuple[GpuArray | None, ...]:
        (x1, x2), (y,) = inputs, outputs
        grads: list[GpuArray | None] = [None, None]
        written = [False, False]
        for i, x in enumerate(inputs):
            if needs[i] and is_stretched(x, y):
                grads[i] = stretched_gradient(sums_kernels[i], dy, x1, x2, y, x.shape)
            elif needs[i] and passed_on[i]:
                grads[i] = dy.reshape(x.shape)
            elif needs[i]:
                grads[i], written[i] = empty(x.shape, y.dtype, y.device), True
        if any(written):
            dx1, dx2 = [dx if here else y for dx, here in zip(grads, written)]
            backward_kernels[written[0], written[1]][blocks_for(y.size, THREADS * PER_THREAD), THREADS](
                dy, x1, x2, y, *folded(x1.shape, x2.shape)[1], dx1, dx2
            )
        return tuple(grads)

    return Body(forward, backward)
