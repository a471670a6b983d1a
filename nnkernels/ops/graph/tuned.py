"""Ops of graphs, tuned: every sum is a product with a sparse matrix whose rows are shared among threads.

What is to be added up is sorted by its place first (a counting sort, linear in the number of edges), so each
row of the result is written by one task, in the order of the edges, whatever the number of threads. Four
rows of x are added at a time: one load and store of the sum for four of them. Bound: memory, F elements of x
for each edge, read wherever they lie.
"""

import math
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit_elementwise, jit_parallel, jit_tuned, prange, signed, typed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.graph.shapes import Grad1, Grad3, Spmm, as_int64

U = np.uint64


@jit_elementwise
def sort_kernel(index: Array, indptr: Array, order: Array) -> None:
    """Sort by counting: order[indptr[i] : indptr[i + 1]] becomes where index is i, first to last."""
    for i in range(indptr.size):
        indptr[i] = 0
    for e in range(index.size):
        indptr[index[e]] += 1
    total = 0
    for i in range(indptr.size):
        total += indptr[i]
        indptr[i] = total
    for e in range(index.size - 1, -1, -1):
        indptr[index[e]] -= 1
        order[indptr[index[e]]] = e


def sorted_by(index: Array, n: int) -> tuple[Array, Array]:
    """Return (indptr, order): where each of 0, ..., n - 1 stands in index."""
    indptr, order = np.empty(n + 1, np.int64), empty((index.size,), np.int64)
    sort_kernel(index, indptr, order)
    return indptr, order


@jit_elementwise
def copy_rows(x: Array, index: Array, m: int, F: int, first: int, last: int, y: Array) -> None:
    """Write rows first to last - 1 of y, F elements each; x has blocks of m rows, y of index.size."""
    block, i = first // index.size * m, first % index.size
    for r in range(first, last):
        at, o = U((block + index[i]) * F), U(r * F)
        for f in range(U(F)):
            y[o + f] = x[at + f]
        i += 1
        if i == index.size:
            block, i = block + m, 0


@jit_parallel
def copy_parallel(x: Array, index: Array, m: int, F: int, rows: int, share: int, y: Array) -> None:
    for t in prange((rows + share - 1) // share):
        first = signed(t * share)
        copy_rows(x, index, m, F, first, min(first + share, rows), y)


def copied_rows(x: Array, index: Array, blocks: int, m: int, F: int, y: Array) -> Array:
    """Fill y with the rows ``index`` of each block of x."""
    rows = blocks * index.size
    if y.size < SERIAL_BELOW_IF_CHEAP:
        copy_rows(x.reshape(-1), index, m, F, 0, rows, y.reshape(-1))
    else:
        copy_parallel(x.reshape(-1), index, m, F, rows, share_of(rows, F), y.reshape(-1))
    return y


@jit_elementwise
def product_rows(
    indptr: Array, indices: Array, values: Array, x: Array, m: int, F: int, first: int, last: int, y: Array
) -> None:
    """Write rows first to last - 1 of y = A x; x has blocks of m rows, y of as many as A."""
    n = indptr.size - 1
    for r in range(first, last):
        o, block, e, end = U(r * F), r // n * m, indptr[r % n], indptr[r % n + 1]
        for f in range(U(F)):
            y[o + f] = typed(0, values[0])
        while e + 4 <= end:
            x0, x1 = U((block + indices[e]) * F), U((block + indices[e + 1]) * F)
            x2, x3 = U((block + indices[e + 2]) * F), U((block + indices[e + 3]) * F)
            v0, v1, v2, v3 = values[e], values[e + 1], values[e + 2], values[e + 3]
            for f in range(U(F)):
                y[o + f] += (v0 * x[x0 + f] + v1 * x[x1 + f]) + (v2 * x[x2 + f] + v3 * x[x3 + f])
            e += 4
        while e < end:
            at, v = U((block + indices[e]) * F), values[e]
            for f in range(U(F)):
                y[o + f] += v * x[at + f]
            e += 1


@jit_parallel
def product_parallel(
    indptr: Array, indices: Array, values: Array, x: Array, m: int, F: int, rows: int, share: int, y: Array
) -> None:
    for t in prange((rows + share - 1) // share):
        first = signed(t * share)
        product_rows(indptr, indices, values, x, m, F, first, min(first + share, rows), y)


def product(indptr: Array, indices: Array, values: Array, x: Array, blocks: int, m: int, y: Array) -> Array:
    """Fill y with A times each block of x."""
    rows = blocks * (indptr.size - 1)
    if y.size == 0:
        return y
    if values.size == 0:
        y.fill(0)
        return y
    F, work = y.size // rows, blocks * values.size * (y.size // rows)
    given = indptr, indices, values, x.reshape(-1), m, F
    if work < SERIAL_BELOW:
        product_rows(*given, 0, rows, y.reshape(-1))
    else:
        product_parallel(*given, rows, share_of(rows, max(1, work // rows)), y.reshape(-1))
    return y


# --- index_select ---


def select_forward_tuned(x: Array, index: Array, *, dim: int = 0) -> tuple[Array]:
    axis = dim % x.ndim
    y = empty((*x.shape[:axis], index.size, *x.shape[axis + 1 :]), x.dtype)
    if y.size > 0:
        blocks = math.prod(x.shape[:axis])
        copied_rows(x, as_int64(index), blocks, x.shape[axis], math.prod(x.shape[axis + 1 :]), y)
    return (y,)


def select_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool], *, dim: int = 0
) -> Grad1:
    if not needs[0]:
        return None, None
    (x, index), axis = inputs, dim % dy.ndim
    indptr, order = sorted_by(as_int64(index), x.shape[axis])
    ones, blocks = np.ones(index.size, x.dtype), math.prod(x.shape[:axis])
    return product(indptr, order, ones, dy, blocks, index.size, empty(x.shape, x.dtype)), None


# --- segment ---


@jit_elementwise
def max_rows(
    indptr: Array, order: Array, x: Array, F: int, first: int, last: int, y: Array, argmax: Array
) -> None:
    """Write rows first to last - 1 of y, the largest of their rows of x, and where these stand."""
    for r in range(first, last):
        o, e, end = U(r * F), indptr[r], indptr[r + 1]
        if e == end:
            for f in range(U(F)):
                y[o + f], argmax[o + f] = typed(0, x[0]), -1
            continue
        row = order[e]
        at = U(row * F)
        for f in range(U(F)):
            y[o + f], argmax[o + f] = x[at + f], row
        for later in range(e + 1, end):
            row = order[later]
            at = U(row * F)
            for f in range(U(F)):
                v, best = x[at + f], y[o + f]
                if v > best or (v != v and best == best):
                    y[o + f], argmax[o + f] = v, row


@jit_parallel
def max_parallel(
    indptr: Array, order: Array, x: Array, F: int, rows: int, share: int, y: Array, argmax: Array
) -> None:
    for t in prange((rows + share - 1) // share):
        first = signed(t * share)
        max_rows(indptr, order, x, F, first, min(first + share, rows), y, argmax)


@jit_elementwise
def spread_rows(
    dy: Array, index: Array, by: Array, argmax: Array, F: int, first: int, last: int, dx: Array
) -> None:
    """Write rows first to last - 1 of dx: by[i] dy[i] of their row i, at maxima only if argmax is given."""
    for e in range(first, last):
        o, at, factor = U(e * F), U(index[e] * F), by[index[e]]
        if argmax.size > 0:
            for f in range(U(F)):
                dx[o + f] = dy[at + f] if argmax[at + f] == e else typed(0, factor)
        else:
            for f in range(U(F)):
                dx[o + f] = dy[at + f] * factor


@jit_parallel
def spread_parallel(dy: Array, index: Array, by: Array, argmax: Array, F: int, share: int, dx: Array) -> None:
    for t in prange((index.size + share - 1) // share):
        first = signed(t * share)
        spread_rows(dy, index, by, argmax, F, first, min(first + share, index.size), dx)


def segment_forward_tuned(x: Array, index: Array, *, n: int, reduction: str = "sum") -> tuple[Array, ...]:
    y = empty((n, *x.shape[1:]), x.dtype)
    indptr, order = sorted_by(as_int64(index), n)
    if reduction != "max":
        count = np.diff(indptr)
        each = (1 / np.maximum(count, 1)).astype(x.dtype) if reduction == "mean" else np.ones(n, x.dtype)
        return (product(indptr, order, np.repeat(each, count), x, 1, 0, y),)
    argmax = empty(y.shape, np.int64)
    if x.size == 0:
        y.fill(0)
        argmax.fill(-1)
    elif x.size < SERIAL_BELOW:
        max_rows(indptr, order, x.reshape(-1), y.size // n, 0, n, y.reshape(-1), argmax.reshape(-1))
    else:
        share, F = share_of(n, max(1, x.size // n)), y.size // n
        max_parallel(indptr, order, x.reshape(-1), F, n, share, y.reshape(-1), argmax.reshape(-1))
    return y, argmax


def segment_backward_tuned(
    dy: Array, outputs: tuple[Array, ...], inputs: tuple[Array, Array], needs: tuple[bool, bool], *, n: int,
    reduction: str = "sum",
) -> Grad1:  # fmt: skip
    if not needs[0]:
        return None, None
    x, index = inputs[0], as_int64(inputs[1])
    dx = empty(x.shape, x.dtype)
    if x.size == 0:
        return dx, None
    by = np.ones(n, x.dtype)
    if reduction == "mean":
        by /= np.maximum(np.bincount(index, minlength=n), 1).astype(x.dtype)
    argmax = outputs[1].reshape(-1) if reduction == "max" else np.empty(0, np.int64)
    given = dy.reshape(-1), index, by, argmax, x.size // len(x)
    if x.size < SERIAL_BELOW_IF_CHEAP:
        spread_rows(*given, 0, len(x), dx.reshape(-1))
    else:
        spread_parallel(*given, share_of(len(x), x.size // len(x)), dx.reshape(-1))
    return dx, None


# --- spmm ---


@jit_tuned
def dot_at(a: Array, i: U, b: Array, j: U, F: int) -> Any:
    total = typed(0, a[0])
    for f in range(U(F)):
        total += a[i + f] * b[j + f]
    return total


@jit_elementwise
def value_rows(
    dy: Array, indptr: Array, indices: Array, x: Array, F: int, first: int, last: int, dvalues: Array
) -> None:
    """Write dvalues of rows first to last - 1 of A: products of rows of dy and x."""
    for r in range(first, last):
        for e in range(indptr[r], indptr[r + 1]):
            dvalues[e] = dot_at(dy, U(r * F), x, U(indices[e] * F), F)


@jit_parallel
def value_parallel(
    dy: Array, indptr: Array, indices: Array, x: Array, F: int, share: int, dvalues: Array
) -> None:
    for t in prange((indptr.size - 1 + share - 1) // share):
        first = signed(t * share)
        value_rows(dy, indptr, indices, x, F, first, min(first + share, indptr.size - 1), dvalues)


def spmm_forward_tuned(indptr: Array, indices: Array, values: Array, x: Array) -> tuple[Array]:
    y = empty((len(indptr) - 1, x.shape[1]), x.dtype)
    return (product(as_int64(indptr), as_int64(indices), values, x, 1, 0, y),)


def spmm_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: Spmm, needs: tuple[bool, bool, bool, bool]
) -> Grad3:
    indptr, indices, values, x = as_int64(inputs[0]), as_int64(inputs[1]), *inputs[2:]
    dvalues = dx = None
    n, F = dy.shape
    if needs[2]:
        dvalues = empty(values.shape, x.dtype)
        if dvalues.size * F == 0:
            dvalues.fill(0)
        elif dvalues.size * F < SERIAL_BELOW:
            value_rows(dy.reshape(-1), indptr, indices, x.reshape(-1), F, 0, n, dvalues)
        else:
            share = share_of(n, max(1, dvalues.size * F // n))
            value_parallel(dy.reshape(-1), indptr, indices, x.reshape(-1), F, share, dvalues)
    if needs[3]:  # A transposed times dy: column by column, rows in their order
        columns, order = sorted_by(indices, len(x))
        rows = np.repeat(np.arange(n), np.diff(indptr))[order]
        dx = product(columns, rows, values[order], dy, 1, 0, empty(x.shape, x.dtype))
    return None, None, dvalues, dx
