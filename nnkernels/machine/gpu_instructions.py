"""Machine instructions that Numba has no name for: 16 bytes at once, asynchronous copies, tensor cores.

    load4(x, i)                  x[i], x[i + 1], x[i + 2], x[i + 3], loaded by instructions of 16 bytes
    store4(x, i, a, b, c, d)     the same four elements, stored

    copy4(x, i, y, j, n)         x[i + k] = y[j + k] for k < n, and 0 for n <= k < 4: float32 from global y to
                                 shared x, on its way until wait_for_copies
    commit_copies()              the thread's copies so far are a group
    wait_for_copies(n)           wait until at most the n latest groups are on their way; n is a constant

x is a flat array in global or shared memory, i a multiple of 16 bytes: of 4 elements of float32, of 2 of
float64. (Shared arrays are declared with ``alignment=16``.)

What the 32 threads of a warp execute together, each of them holding a fragment of every matrix. With
g = lane // 4 and t = lane % 4:

    ldmatrix(x, i)               four matrices of 8 rows of 16 bytes, from shared memory. Lane 8 q + r gives
                                 the place of row r of matrix q; each lane gets element (g, t) of the four, an
                                 element being 4 bytes: a float32, or a pair of bfloat16 in a uint32
    mma_tf32(a, b, c)            a b + c for a (16, 8), b (8, 8), c (16, 8), on tensor cores
        a: (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4)     b: (t, g), (t + 4, g)
        c: (g, 2 t), (g, 2 t + 1), (g + 8, 2 t), (g + 8, 2 t + 1)
    mma_bf16(a, b, c)            the same for a (16, 16), b (16, 8), each number two elements along k
        a: (g, 2 t), (g + 8, 2 t), (g, 2 t + 8), (g + 8, 2 t + 8)     b: (2 t, g), (2 t + 8, g)

Products are exact, their sums float32. ``to_tf32(x)`` rounds a float32 to the 10 bits of mantissa that the
product looks at, ``pack_bf16(low, high)`` rounds two to bfloat16.

Each instruction stands here twice: as what Numba compiles, and in Python, for the simulator.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from nnkernels.machine.gpu_kernel import Instruction
from nnkernels.machine.gpu_simulated import meet_warp
from nnkernels.machine.gpu_simulated_memory import Memory, SimulationError, running

BYTES = 16  # of the widest load

INT, LONG, FLOAT, VOID = ir.IntType(32), ir.IntType(64), ir.FloatType(), ir.VoidType()
GLOBAL, SHARED = 1, 3  # address spaces


def instruction(
    compiled: Callable[..., Any], *, meets: bool = False
) -> Callable[[Callable[..., Any]], Instruction]:
    """Make an Instruction of what an ``intrinsic`` compiles and the decorated function, which simulates it.

    ``meets`` says that the threads of a warp wait for one another.
    """

    def make(simulated: Callable[..., Any]) -> Instruction:
        simulated.meets = meets  # type: ignore[attr-defined]  # read by waits_for_others
        return Instruction(simulated.__name__, intrinsic(prefer_literal=True)(compiled), simulated)

    return make


def pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """Return the address of an element."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def demand_alignment(x: Memory, i: int, name: str) -> None:
    """Raise where 16 bytes from element i do not start at a multiple of 16 bytes."""
    address = x.data.__array_interface__["data"][0] + i * x.data.itemsize
    if address % BYTES:
        raise SimulationError(f"{name}: element {i} of {x.kind} is not at a multiple of {BYTES} bytes")


# --- four elements at once ---


def quarters(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> list[Any]:
    """Return the addresses of the vectors of 16 bytes that hold the four elements from ``index``."""
    lanes = min(4, BYTES * 8 // kind.dtype.bitwidth)
    vector = ir.VectorType(context.get_data_type(kind.dtype), lanes)
    first = pointer(context, builder, kind, array, index)
    first = builder.bitcast(first, vector.as_pointer(first.type.addrspace))
    return [builder.gep(first, [INT(v)]) for v in range(4 // lanes)]


def compiled_load4(typing: Any, x: Any, i: Any) -> Any:
    """Vector loads, their alignment said."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = []
        for place in quarters(context, builder, signature.args[0], *args):
            vector = builder.load(place, align=BYTES)
            numbers += [builder.extract_element(vector, INT(k)) for k in range(vector.type.count)]
        return context.make_tuple(builder, signature.return_type, numbers)

    return types.UniTuple(x.dtype, 4)(x, i), make


@instruction(compiled_load4)
def load4(x: Memory, i: int) -> tuple[Any, ...]:
    """Return four elements."""
    demand_alignment(x, i, "load4")
    return tuple([x[i + k] for k in range(4)])


def compiled_store4(typing: Any, x: Any, i: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Vector stores, their alignment said."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        numbers = list(args[2:])
        for place in quarters(context, builder, signature.args[0], *args[:2]):
            vector = ir.Constant(place.type.pointee, ir.Undefined)
            for k in range(place.type.pointee.count):
                vector = builder.insert_element(vector, numbers.pop(0), INT(k))
            builder.store(vector, place, align=BYTES)
        return context.get_dummy_value()

    return types.void(x, i, x.dtype, x.dtype, x.dtype, x.dtype), make


@instruction(compiled_store4)
def store4(x: Memory, i: int, a: Any, b: Any, c: Any, d: Any) -> None:
    """Write four elements."""
    demand_alignment(x, i, "store4")
    for k, value in enumerate((a, b, c, d)):
        x[i + k] = value


# --- asynchronous copies ---


def address(builder: Any, place: Any, space: int) -> Any:
    """Return a pointer as PTX wants it: a number in its address space, 32 bits wide for shared memory."""
    there = builder.addrspacecast(place, place.type.pointee.as_pointer(space))
    return builder.ptrtoint(there, INT if space == SHARED else LONG)


def assembly(builder: Any, result: Any, code: str, constraints: str, args: list[Any]) -> Any:
    """Write a line of PTX that is neither removed nor moved."""
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(ir.InlineAsm(kind, code, constraints, side_effect=True), args)


def compiled_copy4(typing: Any, x: Any, i: Any, y: Any, j: Any, n: Any) -> Any:
    """cp.async of 16 bytes, past the L1 cache."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        x, i, y, j, n = args
        count = context.cast(builder, n, signature.args[4], types.int32)
        operands = [
            address(builder, pointer(context, builder, signature.args[0], x, i), SHARED),
            address(builder, pointer(context, builder, signature.args[2], y, j), GLOBAL),
            builder.mul(count, INT(4)),
        ]
        assembly(builder, VOID, "cp.async.cg.shared.global [$0], [$1], 16, $2;", "r,l,r,~{memory}", operands)
        return context.get_dummy_value()

    return types.void(x, i, y, j, n), make


@instruction(compiled_copy4)
def copy4(x: Memory, i: int, y: Memory, j: int, n: int) -> None:
    """Begin to copy n elements from y to x."""
    demand_alignment(x, i, "copy4")
    demand_alignment(y, j, "copy4")
    if x.dtype != np.float32 or y.dtype != np.float32 or not 0 <= n <= 4:
        raise SimulationError(f"copy4: at most 4 elements of float32, got {n} of {y.dtype} to {x.dtype}")
    values = [y[j + k] if k < n else np.float32(0) for k in range(4)]
    for k in range(4):
        x[i + k] = np.float32(np.nan)  # what is there until it has been waited for

    def arrive() -> None:
        for k, value in enumerate(values):
            x[i + k] = value

    running.thread.copies[-1].append(arrive)


def compiled_commit(typing: Any) -> Any:
    """cp.async.commit_group"""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        assembly(builder, VOID, "cp.async.commit_group;", "~{memory}", [])
        return context.get_dummy_value()

    return types.void(), make


@instruction(compiled_commit)
def commit_copies() -> None:
    """Make a group of the copies so far."""
    running.thread.copies.append([])


def compiled_wait(typing: Any, n: Any) -> Any:
    """cp.async.wait_group"""
    if not isinstance(n, types.IntegerLiteral):
        return None

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        assembly(builder, VOID, f"cp.async.wait_group {n.literal_value};", "~{memory}", [])
        return context.get_dummy_value()

    return types.void(n), make


@instruction(compiled_wait)
def wait_for_copies(n: int) -> None:
    """Let all groups but the last n arrive."""
    groups = running.thread.copies
    while len(groups) > n + 1:
        for arrive in groups.pop(0):
            arrive()


# --- tensor cores ---

Four = tuple[Any, Any, Any, Any]
Two = tuple[Any, Any]


def compiled_ldmatrix(typing: Any, x: Any, i: Any) -> Any:
    """ldmatrix of four matrices."""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        place = address(builder, pointer(context, builder, signature.args[0], *args), SHARED)
        code = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {$0, $1, $2, $3}, [$4];"
        words = assembly(builder, ir.LiteralStructType([INT] * 4), code, "=r,=r,=r,=r,r,~{memory}", [place])
        return as_tuple(context, builder, signature.return_type, words)

    return types.UniTuple(x.dtype, 4)(x, i), make


def as_tuple(context: Any, builder: Any, kind: Any, words: Any) -> Any:
    """Return a struct of 32-bit numbers as a tuple of another 32-bit type."""
    element = context.get_data_type(kind.dtype)
    numbers = [builder.extract_value(words, k) for k in range(kind.count)]
    return context.make_tuple(builder, kind, [builder.bitcast(number, element) for number in numbers])


@instruction(compiled_ldmatrix, meets=True)
def ldmatrix(x: Memory, i: int) -> Four:
    """Return the lane's elements of four matrices."""
    demand_alignment(x, i, "ldmatrix")
    row = (x[i], x[i + 1], x[i + 2], x[i + 3])

    def combine(rows: dict[int, Any]) -> dict[int, Any]:
        return {lane: tuple([rows[8 * q + lane // 4][lane % 4] for q in range(4)]) for lane in rows}

    found: Four = meet_warp("ldmatrix", row, combine)
    return found


def compiled_mma(code: str, number: Any) -> Callable[..., Any]:
    """Return an mma instruction whose a and b are given as 4 and 2 numbers of type ``number``."""

    def compiled(typing: Any, a: Any, b: Any, c: Any) -> Any:
        def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, b, c = (
                [builder.extract_value(values, k) for k in range(kind.count)]
                for values, kind in zip(args, signature.args)
            )
            words = [builder.bitcast(value, INT) for value in a + b]
            sums = assembly(
                builder, ir.LiteralStructType([FLOAT] * 4),
                f"mma.sync.aligned.{code} {{$0, $1, $2, $3}}, {{$4, $5, $6, $7}}, {{$8, $9}}, "
                "{$10, $11, $12, $13};",
                "=f,=f,=f,=f,r,r,r,r,r,r,f,f,f,f", words + c,
            )  # fmt: skip
            return as_tuple(context, builder, signature.return_type, sums)

        sums = types.UniTuple(types.float32, 4)
        return sums(types.UniTuple(number, 4), types.UniTuple(number, 2), sums), make

    return compiled


def multiply_fragments(name: str, a: Four, b: Two, c: Four, depth: int, elements: Any) -> Four:
    """Multiply matrices that lie in the fragments of a warp; ``elements`` takes a number apart, along k."""

    def combine(fragments: dict[int, Any]) -> dict[int, Any]:
        A, B, C = np.zeros((16, depth)), np.zeros((depth, 8)), np.zeros((16, 8))
        for lane, (a, b, c) in fragments.items():
            g, t = divmod(lane, 4)
            for q in range(4):
                values = elements(a[q])
                k = (t + q // 2 * 4) * len(values)
                A[g + q % 2 * 8, k : k + len(values)] = values
                C[g + q // 2 * 8, 2 * t + q % 2] = c[q]
            for q in range(2):
                values = elements(b[q])
                k = (t + q * 4) * len(values)
                B[k : k + len(values), g] = values
        Y = (A @ B + C).astype(np.float32)
        return {
            lane: tuple([Y[lane // 4 + q // 2 * 8, lane % 4 * 2 + q % 2] for q in range(4)])
            for lane in fragments
        }

    found: Four = meet_warp(name, (a, b, c), combine)
    return found


def tf32_bits(x: Any) -> tuple[Any]:
    """Return the bits of a float32 that a tensor core looks at, as a number."""
    return ((np.float32(x).view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32),)


def bf16_pair(x: Any) -> Two:
    """Return the numbers that a pair of bfloat16 stands for, the lower half first."""
    halves = np.array([int(x) << 16 & 0xFFFFFFFF, int(x) & 0xFFFF0000], np.uint32).view(np.float32)
    return halves[0], halves[1]


@instruction(compiled_mma("m16n8k8.row.col.f32.tf32.tf32.f32", types.float32), meets=True)
def mma_tf32(a: Four, b: Two, c: Four) -> Four:
    """Return the lane's elements of a b + c, the factors in TF32."""
    return multiply_fragments("mma_tf32", a, b, c, 8, tf32_bits)


@instruction(compiled_mma("m16n8k16.row.col.f32.bf16.bf16.f32", types.uint32), meets=True)
def mma_bf16(a: Four, b: Two, c: Four) -> Four:
    """Return the lane's elements of a b + c, the factors pairs of bfloat16."""
    return multiply_fragments("mma_bf16", a, b, c, 16, bf16_pair)


def compiled_to_tf32(typing: Any, x: Any) -> Any:
    """cvt.rna.tf32.f32"""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(assembly(builder, INT, "cvt.rna.tf32.f32 $0, $1;", "=r,f", list(args)), FLOAT)

    return types.float32(types.float32), make


@instruction(compiled_to_tf32)
def to_tf32(x: Any) -> Any:
    """Return x rounded to 10 bits of mantissa."""
    bits = np.float32(x).view(np.uint32)
    if not np.isfinite(x):
        return np.float32(x)
    return ((bits + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32)  # halves away from 0


def compiled_pack_bf16(typing: Any, low: Any, high: Any) -> Any:
    """cvt.rn.bf16x2.f32"""

    def make(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        low, high = args
        return assembly(builder, INT, "cvt.rn.bf16x2.f32 $0, $1, $2;", "=r,f,f", [high, low])

    return types.uint32(types.float32, types.float32), make


@instruction(compiled_pack_bf16)
def pack_bf16(low: Any, high: Any) -> Any:
    """Return two numbers, rounded to bfloat16, as one."""
    first, second = (int(bits) for bits in np.array([low, high], np.float32).view(np.uint32))
    first, second = (bits + 0x7FFF + (bits >> 16 & 1) >> 16 for bits in (first, second))  # halves to even
    return np.uint32(first | second << 16)
