"""Ops of graphs on a GPU: rows are gathered or added up where an index says, never scattered.

What is to be added up is sorted by its place first (sorting.py), so that each row of the result is written by
its own threads, in a fixed order. Bound: memory, F elements of x for each edge, read wherever they lie. An
index that is outside of its range is no address: what is read by it is NaN, what is added by it is left out.
"""

import math

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty, empty_like, zeros
from nnkernels.machine.gpu_index import Divisor, divisor, grid_of, quotient, thread_number
from nnkernels.machine.gpu_kernel import MOST_THREADS, THREADS, at, ceil_div, cuda, kernel
from nnkernels.machine.memory import Array
from nnkernels.ops.graph.sorting import sorted_by
from nnkernels.ops.integers_cuda import as_int64
from nnkernels.ops.reduce.cuda import comes_before, larger_over_lanes
from nnkernels.ops.reduce.tiling import sum_over_lanes, thread_place, tiling

AT_ONCE = 4  # rows that a thread reads without waiting
NO_ROW = -1
NAN = math.nan
Grad1 = tuple[GpuArray | None, None]
Grad3 = tuple[None, None, GpuArray | None, GpuArray | None]
Spmm = tuple[GpuArray, GpuArray, GpuArray, GpuArray]

# --- rows gathered ---


@kernel
def gather_kernel(
    x: Array, index: Array, counts: Array, argmax: Array, m: int, F: int, rows: int, by: Divisor, share: int,
    width_bits: int, lane_bits: int, tiles: int, y: Array,
) -> None:  # fmt: skip
    """Write to row i of each block of y the row index(i) of x's block, which has m rows of F elements.

    Over counts(index(i)), if these are given; if ``argmax`` is, only where that is i.
    """
    o, lane, f = thread_place(width_bits, lane_bits, tiles)
    last = min((cuda.blockIdx.y + 1) * share, rows)
    if o == 0 and f < F:  # the rows are shared as one axis is that is to be reduced
        values = cuda.local.array(AT_ONCE, x.dtype)
        k = cuda.blockIdx.y * share + lane
        while k < last:
            for j in range(AT_ONCE):
                r = min(k + (j << lane_bits), last - 1)
                block = quotient(r, by)
                i = r - block * by[0]
                row = index[at(i)]
                there = row >= 0 and row < m
                row = row if there else 0
                value = x[at((block * m + row) * F + f)] if there else x.dtype.type(NAN)
                if counts.size > 0:
                    value /= x.dtype.type(counts[at(row)])
                if argmax.size > 0 and there:
                    value = value if argmax[at(row * F + f)] == i else x.dtype.type(0)
                values[j] = value
            for j in range(AT_ONCE):
                if k < last:
                    y[at(k * F + f)] = values[j]
                k += 1 << lane_bits


def gather(
    x: GpuArray, index: GpuArray, blocks: int, m: int, F: int, y: GpuArray, counts: GpuArray | None = None,
    argmax: GpuArray | None = None,
) -> GpuArray:  # fmt: skip
    """Fill y with the rows ``index`` of each block of x."""
    if y.size > 0:
        none, rows = empty((0,), np.int64, x.device), blocks * index.size
        grid = tiling(1, rows, F, AT_ONCE, THREADS, split=True)
        gather_kernel[(grid.blocks, grid.parts), grid.threads](
            x, index, none if counts is None else counts, none if argmax is None else argmax, m, F, rows,
            divisor(index.size), grid.share, grid.width_bits, grid.lane_bits, grid.tiles, y,
        )  # fmt: skip
    return y


# --- rows added up ---


@kernel
def add_rows_kernel(
    indptr: Array, order: Array, source: Array, values: Array, x: Array, by: Divisor, m: int, F: int,
    outer: int, skip: int, mean: int, width_bits: int, lane_bits: int, tiles: int, y: Array,
) -> None:  # fmt: skip
    """Write to row r of each block of y the sum of values(e) x(source(e)) over e = order(p), p in r's range.

    Where an array is empty, order(p) = p, source(e) = e, values(e) = 1. x has blocks of m rows, y of by[0].
    Row ``skip`` becomes 0; a range outside of its array makes a row NaN; ``mean`` divides by its length.
    """
    scratch = cuda.shared.array(MOST_THREADS, x.dtype)
    o, lane, f = thread_place(width_bits, lane_bits, tiles)
    here = o < outer and f < F
    block = quotient(o, by) if here else 0
    r = o - block * by[0] if here else 0
    first, last = indptr[at(r)], indptr[at(r + 1)]
    s = x.dtype.type(0)
    if first < 0 or last < first or last > max(order.size, source.size):
        first = last
        s = x.dtype.type(NAN)
    if r == skip or not here:
        first = last
    p = first + lane
    while p < last:
        for _ in range(AT_ONCE):
            e = min(p, last - 1)
            e = order[at(e)] if order.size > 0 else e
            row = source[at(e)] if source.size > 0 else e
            there = row >= 0 and row < m
            value = x[at((block * m + (row if there else 0)) * F + f)]
            if values.size > 0:
                value *= values[at(e)]
            if not there:
                value = x.dtype.type(NAN)
            s += value if p < last else x.dtype.type(0)
            p += 1 << lane_bits
    s = sum_over_lanes(s, scratch, width_bits, lane_bits)
    if here and lane == 0:
        y[at(o * F + f)] = s / x.dtype.type(last - first) if mean and last > first else s


def add_rows(
    indptr: GpuArray, order: GpuArray | None, source: GpuArray | None, values: GpuArray | None, x: GpuArray,
    blocks: int, m: int, y: GpuArray, *, skip: int = NO_ROW, mean: bool = False,
) -> GpuArray:  # fmt: skip
    """Fill y with the sums of rows of each block of x; see ``add_rows_kernel``."""
    if y.size > 0:
        n = indptr.size - 1
        none, F = empty((0,), np.int32, x.device), y.size // (blocks * n)
        entries = max(0 if a is None else a.size for a in (order, source))
        grid = tiling(blocks * n, max(1, entries // n), F, AT_ONCE, MOST_THREADS)
        add_rows_kernel[grid.blocks, grid.threads](
            indptr, none if order is None else order, none if source is None else source,
            empty((0,), x.dtype, x.device) if values is None else values, x, divisor(n), m, F, blocks * n,
            skip, mean, grid.width_bits, grid.lane_bits, grid.tiles, y,
        )  # fmt: skip
    return y


# --- index_select ---


def select_forward_cuda(x: GpuArray, index: GpuArray, *, dim: int = 0) -> tuple[GpuArray]:
    axis = dim % x.ndim
    y = empty((*x.shape[:axis], index.size, *x.shape[axis + 1 :]), x.dtype, x.device)
    blocks, F = math.prod(x.shape[:axis]), math.prod(x.shape[axis + 1 :])
    return (gather(x, as_int64(index), blocks, x.shape[axis], F, y),)


def select_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: tuple[GpuArray, GpuArray], needs: tuple[bool, bool], *,
    dim: int = 0,
) -> Grad1:  # fmt: skip
    if not needs[0]:
        return None, None
    (x, index), axis = inputs, dim % dy.ndim
    if dy.size == 0:
        return zeros(x.shape, x.dtype, x.device), None
    indptr, order = sorted_by(as_int64(index), x.shape[axis])
    blocks = math.prod(x.shape[:axis])
    return add_rows(indptr, order, None, None, dy, blocks, index.size, empty_like(x)), None


# --- segment ---


@kernel
def segment_max_kernel(
    indptr: Array, order: Array, x: Array, n: int, F: int, width_bits: int, lane_bits: int, tiles: int,
    y: Array, argmax: Array,
) -> None:  # fmt: skip
    """Write the largest of their rows of x to the rows of y, and where these stand; 0 and -1 if none."""
    values = cuda.shared.array(MOST_THREADS, x.dtype)
    places = cuda.shared.array(MOST_THREADS, argmax.dtype)
    r, lane, f = thread_place(width_bits, lane_bits, tiles)
    here = r < n and f < F
    first, last = 0, 0
    if here:
        first, last = indptr[at(r)], indptr[at(r + 1)]
    best, place = x.dtype.type(0), -1
    if first < last:  # lanes that come too late begin with the first element as well
        place = order[at(min(first + lane, last - 1))]
        best = x[at(place * F + f)]
    p = first + lane
    while p < last:
        for _ in range(AT_ONCE):
            e = order[at(min(p, last - 1))]
            value = x[at(e * F + f)]
            if comes_before(value, e, best, place):
                best, place = value, e
            p += 1 << lane_bits
    best, place = larger_over_lanes(best, place, values, places, width_bits, lane_bits)
    if here and lane == 0:
        y[at(r * F + f)] = best
        argmax[at(r * F + f)] = place


@kernel
def counts_kernel(index: Array, counts: Array) -> None:
    """Count in counts[v] how often the index is v: whole numbers may be added in any order."""
    i = thread_number()
    if i < index.size:
        v = index[at(i)]
        if v >= 0 and v < counts.size:
            cuda.atomic.add(counts, at(v), 1)


def segment_forward_cuda(
    x: GpuArray, index: GpuArray, *, n: int, reduction: str = "sum"
) -> tuple[GpuArray, ...]:
    shape = (n, *x.shape[1:])
    indptr, order = sorted_by(as_int64(index), n)
    y = zeros(shape, x.dtype, x.device) if x.size == 0 else empty(shape, x.dtype, x.device)
    if reduction != "max":
        if x.size > 0:
            add_rows(indptr, order, None, None, x, 1, len(x), y, mean=reduction == "mean")
        return (y,)
    argmax = empty(shape, np.int64, x.device)
    if y.size > 0:
        F = y.size // n
        grid = tiling(n, ceil_div(len(x), n), F, AT_ONCE, MOST_THREADS)
        segment_max_kernel[grid.blocks, grid.threads](
            indptr, order, x, n, F, grid.width_bits, grid.lane_bits, grid.tiles, y, argmax
        )
    return y, argmax


def segment_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray, ...], inputs: tuple[GpuArray, GpuArray], needs: tuple[bool, bool],
    *, n: int, reduction: str = "sum",
) -> Grad1:  # fmt: skip
    if not needs[0]:
        return None, None
    x, index = inputs[0], as_int64(inputs[1])
    counts = None
    if reduction == "mean":
        counts = zeros((n,), np.int32, x.device)
        counts_kernel[grid_of(index.size)](index, counts)
    argmax = outputs[1] if reduction == "max" else None
    return gather(dy, index, 1, n, dy.size // n, empty_like(x), counts, argmax), None


# --- spmm ---


@kernel
def rows_kernel(indptr: Array, rows: Array) -> None:
    """Write the row of each stored value e: how many rows end at e or before."""
    e = thread_number()
    if e < rows.size:
        low, high = 1, indptr.size
        while low < high:
            middle = (low + high) >> 1
            if indptr[at(middle)] <= e:
                low = middle + 1
            else:
                high = middle
        rows[at(e)] = low - 1


@kernel
def values_kernel(
    dy: Array, rows: Array, indices: Array, x: Array, n: int, m: int, F: int, lane_bits: int, dvalues: Array
) -> None:
    """Write the products of row rows(e) of dy and row indices(e) of x, F elements by the lanes of each e."""
    scratch = cuda.shared.array(MOST_THREADS, x.dtype)
    e, lane, _ = thread_place(0, lane_bits, 1)
    s = x.dtype.type(0)
    if e < dvalues.size:
        i, j = rows[at(e)], indices[at(e)]
        if i < 0 or i >= n or j < 0 or j >= m:
            s = x.dtype.type(NAN)
        else:
            f = lane
            while f < F:
                for _ in range(AT_ONCE):
                    value = dy[at(i * F + min(f, F - 1))] * x[at(j * F + min(f, F - 1))]
                    s += value if f < F else x.dtype.type(0)
                    f += 1 << lane_bits
    s = sum_over_lanes(s, scratch, 0, lane_bits)
    if lane == 0 and e < dvalues.size:
        dvalues[at(e)] = s


def spmm_forward_cuda(indptr: GpuArray, indices: GpuArray, values: GpuArray, x: GpuArray) -> tuple[GpuArray]:
    shape = len(indptr) - 1, x.shape[1]
    if x.size == 0 or values.size == 0:
        return (zeros(shape, x.dtype, x.device),)
    y = empty(shape, x.dtype, x.device)
    return (add_rows(as_int64(indptr), None, as_int64(indices), values, x, 1, len(x), y),)


def spmm_backward_cuda(
    dy: GpuArray, outputs: tuple[GpuArray], inputs: Spmm, needs: tuple[bool, bool, bool, bool]
) -> Grad3:
    indptr, indices, values, x = as_int64(inputs[0]), as_int64(inputs[1]), *inputs[2:]
    n, F = dy.shape
    if dy.size == 0 or values.size == 0 or x.size == 0:
        nothing = [zeros(a.shape, a.dtype, a.device) for a in (values, x)]
        return None, None, nothing[0] if needs[2] else None, nothing[1] if needs[3] else None
    dvalues = dx = None
    rows = empty(values.shape, np.int32, x.device)
    rows_kernel[grid_of(rows.size)](indptr, rows)
    if needs[2]:
        dvalues = empty_like(values)
        grid = tiling(values.size, F, 1, AT_ONCE, THREADS)
        values_kernel[grid.blocks, grid.threads](dy, rows, indices, x, n, len(x), F, grid.lane_bits, dvalues)
    if needs[3]:  # A transposed times dy: column by column, values in their order
        columns, order = sorted_by(indices, len(x))
        dx = add_rows(columns, order, rows, values, dy, 1, n, empty_like(x))
    return None, None, dvalues, dx
