"""Vector registers for kernels: load, store, broadcast, multiply-add, and a register tile made of them.

LLVM finds vector instructions in most loops by itself. In a matrix product it does not find the best ones:
there a block of sums, as many as the processor has registers for, must stay in registers while one row of
numbers after the other is multiplied into it. The functions below say so directly.

    load(x, i, n)        a vector of the first n elements of the flat array x from index i, zeros behind
    store(v, x, i, n)    write the first n lanes to x        broadcast(x, i)   x[i] in every lane
    fma(a, b, c)         a b + c, rounded once               maximum(a, s)     of a vector and a number
    a + b, a - b, 2 * a  lane by lane; a product and a sum may become one multiply-add

A tile is ROWS x vectors such registers, holding ROWS x (vectors * LANES) sums:

    zero_tile(x, vectors)                       all sums 0, of x's dtype
    load_tile(x, p, row, m, n, vectors)         row r from x[p + r row :]; n columns, zeros behind
    add_outer(t, a, i, row, m, b, j, n, vectors)  t[r, c] += a[i + r row] b[j + c]
    store_tile(t, x, p, row, m, n, vectors)     write m rows of n columns

Rows from m on repeat row m - 1 and columns from n on are not touched, so a tile may overhang a matrix.
``row`` and all indices are unsigned (np.uint64); ``vectors`` is a constant of the program (Numba compiles one
version for each).

Each function stands here twice: as plain loops over a small array, which is what Python runs (tests, planted
faults, ``NNKERNELS_SIMD=0``), and as instructions, which compiled kernels get.
"""

import operator
import os
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.datamodel import models, register_default
from numba.extending import intrinsic, overload, register_jitable

from nnkernels.machine.memory import Array

U = np.uint64
REGISTER_BITS = {"avx512f": 512, "avx": 256}  # anything else: 128 (SSE, NEON; LLVM splits what is too wide)
FEATURES = {name for name, present in llvm.get_host_cpu_features().items() if present}
BITS: int = max([bits for name, bits in REGISTER_BITS.items() if name in FEATURES], default=128)
# A tile of ROWS x VECTORS sums, VECTORS operands and a broadcast fill 28 of 32 registers, or 16 of 16.
ROWS = 8 if "avx512f" in FEATURES or "neon" in FEATURES else 4
VECTORS = 3
ENABLED = os.environ.get("NNKERNELS_SIMD", "1") != "0"
LANES32, LANES64 = BITS // 32, BITS // 64


def lanes(dtype: Any) -> int:
    """Return the number of elements of ``dtype`` (float32 or float64) in a vector register."""
    return BITS // (8 * int(np.dtype(dtype).itemsize))


# --- the plain loops ---


@register_jitable  # type: ignore[untyped-decorator]
def lanes_of(x: Any) -> int:
    """Return the number of lanes for an array's elements."""
    return LANES32 if x.itemsize == 4 else LANES64


def load(x: Array, i: U, n: int) -> Any:
    """Return a vector of the first n elements of the flat array x from index i, zeros behind."""
    v = np.zeros(lanes_of(x), x.dtype)
    n = min(n, v.size)
    v[:n] = x[i : i + U(n)]
    return v


def store(v: Any, x: Array, i: U, n: int) -> None:
    """Write the first n lanes of the vector v to the flat array x from index i."""
    n = min(n, v.size)
    x[i : i + U(n)] = v[:n]


def broadcast(x: Array, i: U) -> Any:
    """Return x[i] in every lane."""
    return np.full(lanes_of(x), x[i])


def fma(a: Any, b: Any, c: Any) -> Any:
    """Return a b + c of three vectors."""
    return a * b + c


def maximum(a: Any, s: float) -> Any:
    """Return the larger of each lane of a and the number s, NaN where a is NaN."""
    return np.where(a < s, a.dtype.type(s), a)


def prefetch(x: Array, i: U) -> None:
    """Have x[i]'s cache line fetched for writing; i may lie outside x. In Python there is nothing to do."""


def zero_tile(x: Array, vectors: int) -> Any:
    """Return a tile of zeros of x's dtype."""
    return np.zeros((ROWS, vectors * lanes_of(x)), x.dtype)


def load_tile(x: Array, p: U, row: U, m: int, n: int, vectors: int) -> Any:
    """Return a tile with the elements x[p + r row + c], c < n; 0 behind."""
    t = np.zeros((ROWS, vectors * lanes_of(x)), x.dtype)
    columns = min(n, t.shape[1])
    for r in range(ROWS):
        first = p + U(min(r, m - 1)) * row
        t[r, :columns] = x[first : first + U(columns)]
    return t


def add_outer(t: Any, a: Array, i: U, row: U, m: int, b: Array, j: U, n: int, vectors: int) -> Any:
    """Return the tile t plus the products a[i + r row] b[j + c]."""
    columns = min(n, t.shape[1])
    for r in range(ROWS):
        t[r, :columns] += a[i + U(min(r, m - 1)) * row] * b[j : j + U(columns)]
    return t


def store_tile(t: Any, x: Array, p: U, row: U, m: int, n: int, vectors: int) -> None:
    """Write m rows of n columns of the tile t to x[p + r row + c]."""
    columns = min(n, t.shape[1])
    for r in range(min(m, ROWS)):
        first = p + U(r) * row
        x[first : first + U(columns)] = t[r, :columns]


# --- the same as instructions ---

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


class Vector(types.Type):  # type: ignore[misc]
    """Numba's type of one vector register."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = BITS // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")


@register_default(Vector)
class VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    """A vector register is LLVM's vector type."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        element = manager.lookup(vector.dtype).get_value_type()
        super().__init__(manager, vector, ir.VectorType(element, vector.lanes))


class Emitter:
    """Writes the instructions of one call into the function that Numba is building."""

    def __init__(self, context: Any, builder: Any, x: Any) -> None:
        """``x`` is Numba's type of the array whose elements the vectors hold."""
        self.context, self.b, self.array = context, builder, x
        self.vector = context.get_value_type(Vector(x.dtype))
        self.lanes = self.vector.count
        self.suffix = f"v{self.lanes}f{x.dtype.bitwidth}"
        self.align = x.dtype.bitwidth // 8  # rows start anywhere, so vectors may straddle cache lines

    def pointer(self, x: Any, i: Any) -> Any:
        """Return the address of element i."""
        return self.b.gep(self.context.make_array(self.array)(self.context, self.b, x).data, [i])

    def at(self, pointer: Any, offset: Any) -> Any:
        """Return the address ``offset`` elements further, as a vector's."""
        return self.b.bitcast(self.b.gep(pointer, [offset]), self.vector.as_pointer())

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call one of LLVM's intrinsics."""
        kind = ir.FunctionType(result, [a.type for a in arguments])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, name), arguments)

    def load(self, pointer: Any, mask: Any = None) -> Any:
        """Return the vector at an address, zeros where the mask is not set."""
        if mask is not None:
            zero = ir.Constant(self.vector, None)
            return self.call(
                f"llvm.masked.load.{self.suffix}.p0", self.vector, pointer, I32(self.align), mask, zero
            )
        value = self.b.load(pointer)
        value.align = self.align
        return value

    def store(self, value: Any, pointer: Any, mask: Any = None) -> None:
        """Write a vector to an address where the mask is set."""
        if mask is not None:
            self.call(
                f"llvm.masked.store.{self.suffix}.p0", ir.VoidType(), value, pointer, I32(self.align), mask
            )
        else:
            self.b.store(value, pointer).align = self.align

    def spread(self, scalar: Any) -> Any:
        """Return a vector with ``scalar`` in every lane."""
        kind = ir.VectorType(scalar.type, self.lanes)
        undefined = ir.Constant(kind, ir.Undefined)
        one = self.b.insert_element(undefined, scalar, I32(0))
        return self.b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(I32, self.lanes), None))

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """Return x y + z, rounded once."""
        return self.call(f"llvm.fma.{self.suffix}", self.vector, x, y, z)

    def masks(self, n: Any, vectors: int) -> list[Any]:
        """Return, for each vector of a tile, the lanes that lie in its first n columns."""
        n = self.spread(n)
        numbers = ir.VectorType(I64, self.lanes)
        columns = [range(v * self.lanes, (v + 1) * self.lanes) for v in range(vectors)]
        return [self.b.icmp_signed("<", ir.Constant(numbers, list(c)), n) for c in columns]

    def rows(self, pointer: Any, row: Any, m: Any) -> list[Any]:
        """Return the addresses of a tile's rows; those from row m on repeat row m - 1."""
        last = self.b.sub(m, I64(1))
        numbers = (self.b.select(self.b.icmp_signed("<", I64(r), last), I64(r), last) for r in range(ROWS))
        return [self.b.gep(pointer, [self.b.mul(r, row)]) for r in numbers]

    def columns(self, pointer: Any, vectors: int) -> list[Any]:
        """Return the addresses of the vectors of one row of a tile."""
        return [self.at(pointer, I64(v * self.lanes)) for v in range(vectors)]


def emit_load(e: Emitter, x: Any, i: Any, n: Any) -> Any:
    """Write ``load``."""
    return e.load(e.at(e.pointer(x, i), I64(0)), e.masks(n, 1)[0])


def emit_store(e: Emitter, v: Any, x: Any, i: Any, n: Any) -> None:
    """Write ``store``."""
    e.store(v, e.at(e.pointer(x, i), I64(0)), e.masks(n, 1)[0])


def emit_broadcast(e: Emitter, x: Any, i: Any) -> Any:
    """Write ``broadcast``."""
    return e.spread(e.b.load(e.pointer(x, i)))


def emit_prefetch(e: Emitter, x: Any, i: Any) -> None:
    """Write ``prefetch``: for a write, to all levels, of data."""
    address = e.b.bitcast(e.pointer(x, i), ir.IntType(8).as_pointer())
    e.call("llvm.prefetch.p0", ir.VoidType(), address, I32(1), I32(3), I32(1))


def emit_zero_tile(e: Emitter, vectors: int, x: Any) -> Any:
    """Write ``zero_tile``."""
    return ir.Constant(ir.ArrayType(e.vector, ROWS * vectors), None)


def emit_load_tile(e: Emitter, vectors: int, x: Any, p: Any, row: Any, m: Any, n: Any) -> Any:
    """Write ``load_tile``."""
    t = ir.Constant(ir.ArrayType(e.vector, ROWS * vectors), ir.Undefined)
    masks = e.masks(n, vectors)
    for r, pointer in enumerate(e.rows(e.pointer(x, p), row, m)):
        for v, address in enumerate(e.columns(pointer, vectors)):
            t = e.b.insert_value(t, e.load(address, masks[v]), r * vectors + v)
    return t


def emit_add_outer(
    e: Emitter, vectors: int, t: Any, a: Any, i: Any, row: Any, m: Any, b: Any, j: Any, n: Any
) -> Any:
    """Write ``add_outer``."""
    masks = e.masks(n, vectors)
    right = [e.load(p, masks[v]) for v, p in enumerate(e.columns(e.pointer(b, j), vectors))]
    for r, pointer in enumerate(e.rows(e.pointer(a, i), row, m)):
        left = e.spread(e.b.load(pointer))
        for v in range(vectors):
            k = r * vectors + v
            t = e.b.insert_value(t, e.fma(left, right[v], e.b.extract_value(t, k)), k)
    return t


def emit_store_tile(e: Emitter, vectors: int, t: Any, x: Any, p: Any, row: Any, m: Any, n: Any) -> None:
    """Write ``store_tile``."""
    # Rows beyond the last repeat it: they write the same numbers to the same place once more.
    masks = e.masks(n, vectors)
    for r, pointer in enumerate(e.rows(e.pointer(x, p), row, m)):
        for v, address in enumerate(e.columns(pointer, vectors)):
            e.store(e.b.extract_value(t, r * vectors + v), address, masks[v])


def emitted(emit: Callable[..., Any], context: Any, builder: Any, x: Any, vectors: Any, values: Any) -> Any:
    """Run ``emit`` and return what it returns; Numba's None where that is nothing."""
    count = () if vectors is None else (vectors.literal_value,)
    value = emit(Emitter(context, builder, x), *count, *values)
    return context.get_dummy_value() if value is None else value


def is_constant(vectors: Any) -> bool:
    """Return whether Numba knows the number of vectors."""
    return isinstance(vectors, types.IntegerLiteral)


def tile_of(x: Any, vectors: Any) -> Any:
    """Return Numba's type of a tile: LLVM keeps such a tuple in registers."""
    return types.UniTuple(Vector(x.dtype), ROWS * vectors.literal_value)


# An intrinsic returns its signature and what writes its code; a literal is how a constant arrives.


@intrinsic  # type: ignore[untyped-decorator]
def _load(typing: Any, x: Any, i: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emitted(emit_load, context, builder, x, None, values)

    return Vector(x.dtype)(x, i, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _store(typing: Any, v: Any, x: Any, i: Any, n: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emitted(emit_store, context, builder, x, None, values)

    return types.void(v, x, i, types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _prefetch(typing: Any, x: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emitted(emit_prefetch, context, builder, x, None, values)

    return types.void(x, i), generate


@intrinsic  # type: ignore[untyped-decorator]
def _broadcast(typing: Any, x: Any, i: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emitted(emit_broadcast, context, builder, x, None, values)

    return Vector(x.dtype)(x, i), generate


@intrinsic  # type: ignore[untyped-decorator]
def _fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return Emitter(context, builder, a).fma(*values)

    return a(a, b, c), generate


@intrinsic  # type: ignore[untyped-decorator]
def _maximum(typing: Any, a: Any, s: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v, least = values[0], Emitter(context, builder, a).spread(values[1])
        return builder.select(builder.fcmp_ordered("<", v, least), least, v)

    return a(a, a.dtype), generate


@intrinsic  # type: ignore[untyped-decorator]
def _sum(typing: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.fadd(*values, flags=("contract",))

    return a(a, b), generate


@intrinsic  # type: ignore[untyped-decorator]
def _difference(typing: Any, a: Any, b: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.fsub(*values, flags=("contract",))

    return a(a, b), generate


@intrinsic  # type: ignore[untyped-decorator]
def _multiple(typing: Any, s: Any, a: Any) -> Any:
    """s a of a number and a vector."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.fmul(Emitter(context, builder, a).spread(values[0]), values[1], flags=("contract",))

    return a(a.dtype, a), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _zero_tile(typing: Any, x: Any, vectors: Any) -> Any:
    if not is_constant(vectors):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emitted(emit_zero_tile, context, builder, x, vectors, values[:-1])

    return tile_of(x, vectors)(x, vectors), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _load_tile(typing: Any, x: Any, p: Any, row: Any, m: Any, n: Any, vectors: Any) -> Any:
    if not is_constant(vectors):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emitted(emit_load_tile, context, builder, x, vectors, values[:-1])

    return tile_of(x, vectors)(x, p, row, types.int64, types.int64, vectors), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _add_outer(
    typing: Any, t: Any, a: Any, i: Any, row: Any, m: Any, b: Any, j: Any, n: Any, vectors: Any
) -> Any:
    if not is_constant(vectors):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emitted(emit_add_outer, context, builder, a, vectors, values[:-1])

    return t(t, a, i, row, types.int64, b, j, types.int64, vectors), generate


@intrinsic(prefer_literal=True)  # type: ignore[untyped-decorator]
def _store_tile(typing: Any, t: Any, x: Any, p: Any, row: Any, m: Any, n: Any, vectors: Any) -> Any:
    if not is_constant(vectors):
        return None

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return emitted(emit_store_tile, context, builder, x, vectors, values[:-1])

    return types.void(t, x, p, row, types.int64, types.int64, vectors), generate


# Compiled callers of the plain functions get the instructions.


@overload(load, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_load(x: Any, i: Any, n: Any) -> Any:
    return (lambda x, i, n: _load(x, i, n)) if ENABLED else load


@overload(store, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_store(v: Any, x: Any, i: Any, n: Any) -> Any:
    return (lambda v, x, i, n: _store(v, x, i, n)) if ENABLED else store


@overload(prefetch, strict=False)  # type: ignore[untyped-decorator]
def _compiled_prefetch(x: Any, i: Any) -> Any:
    return (lambda x, i: _prefetch(x, i)) if ENABLED else prefetch


@overload(broadcast, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_broadcast(x: Any, i: Any) -> Any:
    return (lambda x, i: _broadcast(x, i)) if ENABLED else broadcast


@overload(fma, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_fma(a: Any, b: Any, c: Any) -> Any:
    return (lambda a, b, c: _fma(a, b, c)) if ENABLED else fma


@overload(maximum, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_maximum(a: Any, s: Any) -> Any:
    return (lambda a, s: _maximum(a, s)) if ENABLED else maximum


@overload(operator.add, strict=False)  # type: ignore[untyped-decorator]
def _compiled_sum(a: Any, b: Any) -> Any:
    return (lambda a, b: _sum(a, b)) if isinstance(a, Vector) and isinstance(b, Vector) else None


@overload(operator.sub, strict=False)  # type: ignore[untyped-decorator]
def _compiled_difference(a: Any, b: Any) -> Any:
    return (lambda a, b: _difference(a, b)) if isinstance(a, Vector) and isinstance(b, Vector) else None


@overload(operator.mul, strict=False)  # type: ignore[untyped-decorator]
def _compiled_multiple(a: Any, b: Any) -> Any:
    return (lambda a, b: _multiple(a, b)) if isinstance(a, types.Number) and isinstance(b, Vector) else None


@overload(zero_tile, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_zero_tile(x: Any, vectors: Any) -> Any:
    return (lambda x, vectors: _zero_tile(x, vectors)) if ENABLED else zero_tile


@overload(load_tile, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_load_tile(x: Any, p: Any, row: Any, m: Any, n: Any, vectors: Any) -> Any:
    if not ENABLED:
        return load_tile
    return lambda x, p, row, m, n, vectors: _load_tile(x, p, row, m, n, vectors)


@overload(add_outer, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_add_outer(
    t: Any, a: Any, i: Any, row: Any, m: Any, b: Any, j: Any, n: Any, vectors: Any
) -> Any:
    if not ENABLED:
        return add_outer
    return lambda t, a, i, row, m, b, j, n, vectors: _add_outer(t, a, i, row, m, b, j, n, vectors)


@overload(store_tile, prefer_literal=True, strict=False)  # type: ignore[untyped-decorator]
def _compiled_store_tile(t: Any, x: Any, p: Any, row: Any, m: Any, n: Any, vectors: Any) -> Any:
    if not ENABLED:
        return store_tile
    return lambda t, x, p, row, m, n, vectors: _store_tile(t, x, p, row, m, n, vectors)
