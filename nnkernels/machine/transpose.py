"""Transposing a block of an array in vector registers.

    transpose(x, i, at, limits, r, m, c, n, out, o, to)

        out[o + to[c + q] + p] = x[i + at[r + p] + c + q], 0 where c + q >= limits[r + p]        p < m, q < n

Rows of the flat array x, given by a table of offsets and one of lengths, become columns of ``out``, whose
rows a third table gives; m and n are at most the lanes of a register. Element by element, this costs a load
and a store each; in registers, a block of L x L takes L loads, L stores and L log2(L) shuffles: in step d =
L/2, ..., 2, 1 the rows p and p + d exchange the squares of d x d on the wrong side of the diagonal.

As in ``simd``, the plain loops are what Python runs, the instructions what compiled kernels get.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from nnkernels.machine.memory import Array
from nnkernels.machine.simd import ENABLED, I32, I64, Emitter, emitted


def transpose(
    x: Array, i: int, at: Array, limits: Array, r: int, m: int, c: int, n: int, out: Array, o: int, to: Array
) -> None:
    """Write the n columns from c on of m rows of x as rows of ``out``.

    ``i`` may lie outside x, where every row that is read does not.
    """
    for p in range(m):
        for q in range(n):
            inside = c + q < limits[r + p]
            out[o + int(to[c + q]) + p] = x[i + int(at[r + p]) + c + q] if inside else x.dtype.type(0)


def emit_transpose(
    e: Emitter, tables: tuple[Any, Any, Any], x: Any, i: Any, at: Any, limits: Any, r: Any, m: Any, c: Any,
    n: Any, out: Any, o: Any, to: Any,
) -> None:  # fmt: skip
    """Write ``transpose``; ``tables`` are emitters for the arrays ``at``, ``limits`` and ``to``."""
    b, L, (places, lengths, targets) = e.b, e.lanes, tables
    source, target = b.gep(e.pointer(x, i), [c]), e.pointer(out, o)
    last = b.sub(m, I64(1))
    rows = []
    for p in range(L):
        k = b.add(r, b.select(b.icmp_signed("<", I64(p), last), I64(p), last))
        offset, limit = b.load(places.pointer(at, k)), b.load(lengths.pointer(limits, k))
        rows.append(e.load(e.at(source, offset), e.masks(b.sub(limit, c), 1)[0]))
    d = L // 2
    while d:
        for p in range(L):
            if p & d == 0:
                upper, lower = rows[p], rows[p + d]
                rows[p] = shuffled(e, upper, lower, [k if k & d == 0 else L + k - d for k in range(L)])
                rows[p + d] = shuffled(e, upper, lower, [k + d if k & d == 0 else L + k for k in range(L)])
        d //= 2
    last = b.sub(n, I64(1))
    for q in range(L):
        present = b.icmp_signed("<", I64(q), n)  # a row beyond n is masked out altogether
        k = b.add(c, b.select(present, I64(q), last))
        width = b.select(present, m, I64(0))
        e.store(rows[q], e.at(target, b.load(targets.pointer(to, k))), e.masks(width, 1)[0])


def shuffled(e: Emitter, first: Any, second: Any, lanes: list[int]) -> Any:
    """Return a vector of the lanes of two, those of the second counted on."""
    return e.b.shuffle_vector(first, second, ir.Constant(ir.VectorType(I32, e.lanes), lanes))


@intrinsic  # type: ignore[untyped-decorator]
def _transpose(
    typing: Any, x: Any, i: Any, at: Any, limits: Any, r: Any, m: Any, c: Any, n: Any, out: Any, o: Any,
    to: Any,
) -> Any:  # fmt: skip
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        tables = tuple(Emitter(context, builder, table) for table in (at, limits, to))
        return emitted(emit_transpose, context, builder, x, None, (tables, *values))

    whole = types.int64
    return types.void(x, whole, at, limits, whole, whole, whole, whole, out, whole, to), generate


@overload(transpose, strict=False)  # type: ignore[untyped-decorator]
def _compiled_transpose(
    x: Any, i: Any, at: Any, limits: Any, r: Any, m: Any, c: Any, n: Any, out: Any, o: Any, to: Any
) -> Any:
    if not ENABLED:
        return transpose
    return lambda x, i, at, limits, r, m, c, n, out, o, to: _transpose(
        x, i, at, limits, r, m, c, n, out, o, to
    )
