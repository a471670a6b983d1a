"""Reductions over some axes: y_j = sum, mean or max of all x_i whose kept indices are j.

    sum   y_j = sum of x_i         dx_i = dy_j
    mean  y_j = 1/n sum of x_i     dx_i = dy_j / n             n elements fall on each y_j
    max   y_j = x_argmax(j)        dx_i = dy_j if i = argmax(j) else 0

``dim`` is an int, a tuple of ints or None (all axes); ``keepdim=True`` leaves reduced axes with size 1. Any
shape, float32 or float64. ``max`` keeps ``argmax``: the position in the flat x of the first largest element,
int64, in the shape of y; a NaN counts as largest. An empty sum is 0, an empty mean or maximum an error.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit, jit_elementwise, jit_parallel, jit_tuned, prange
from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW
from nnkernels.ops.binary import source_index
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import axis_index, fail_type, floats

Dim = int | tuple[int, ...] | None
Shape = tuple[int, ...]


def reduced_axes(x: Array, dim: Dim) -> Shape:
    """Return the axes to reduce, counted from the front."""
    if dim is None:
        return tuple(range(x.ndim))
    return tuple(d % x.ndim for d in (dim if isinstance(dim, (tuple, list)) else (dim,)))


def shapes(x: Array, dim: Dim, keepdim: bool) -> tuple[Shape, Shape]:
    """Return y's shape with every reduced axis as 1, and y's own shape."""
    axes = reduced_axes(x, dim)
    kept = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
    return kept, kept if keepdim else tuple(n for i, n in enumerate(x.shape) if i not in axes)


def count(x: Array, dim: Dim) -> int:
    """Return n, the number of elements of x that fall on one element of y."""
    return math.prod(x.shape[i] for i in reduced_axes(x, dim))


def walk(x: Array, kept: Shape) -> tuple[Array, Array]:
    """Return x's shape and, for each of its axes, the step in the flat y: 0 along reduced axes."""
    steps = np.zeros(x.ndim, np.int64)
    step = 1
    for axis in range(x.ndim - 1, -1, -1):
        steps[axis] = step if kept[axis] == x.shape[axis] else 0
        step *= kept[axis]
    return np.array(x.shape, np.int64), steps


# --- loops ---


@jit
def sum_kernel(x: Array, shape: Array, steps: Array, total: Array) -> None:
    for i in range(x.size):
        total[source_index(i, shape, steps)] += x[i]


@jit
def spread_kernel(dy: Array, shape: Array, steps: Array, dx: Array) -> None:
    for i in range(dx.size):
        dx[i] = dy[source_index(i, shape, steps)]


@jit
def max_kernel(x: Array, shape: Array, steps: Array, y: Array, argmax: Array) -> None:
    for i in range(x.size):
        j = source_index(i, shape, steps)
        if argmax[j] < 0 or x[i] > y[j] or (x[i] != x[i] and y[j] == y[j]):
            y[j] = x[i]
            argmax[j] = i


@jit
def route_kernel(dy: Array, argmax: Array, dx: Array) -> None:
    for j in range(dy.size):
        dx[argmax[j]] += dy[j]


def sum_forward_loops(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array]:
    kept, shape = shapes(x, dim, keepdim)
    total = np.zeros(kept, np.float64)  # the yardstick for float32 sums in any order
    sum_kernel(x.reshape(-1), *walk(x, kept), total.reshape(-1))
    return (total.astype(x.dtype).reshape(shape),)


def sum_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    (x,) = inputs
    dx = np.empty(x.shape, x.dtype)
    kept, _ = shapes(x, dim, keepdim)
    spread_kernel(dy.reshape(-1), *walk(x, kept), dx.reshape(-1))
    return (dx,)


def max_forward_loops(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array, Array]:
    kept, shape = shapes(x, dim, keepdim)
    y, argmax = np.empty(shape, x.dtype), np.full(shape, -1, np.int64)
    max_kernel(x.reshape(-1), *walk(x, kept), y.reshape(-1), argmax.reshape(-1))
    return y, argmax


def max_backward_loops(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = np.zeros(inputs[0].shape, inputs[0].dtype)
    route_kernel(dy.reshape(-1), outputs[1].reshape(-1), dx.reshape(-1))
    return (dx,)


# --- mean, from any body's sum ---


def make_mean(body: Body) -> Body:
    """Return the body that divides by n: the sum forward, its cotangent backward."""

    def forward(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array]:
        (y,) = body.forward(x, dim, keepdim)
        return (np.asarray(y / x.dtype.type(count(x, dim))),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
        dim: Dim = None, keepdim: bool = False,
    ) -> tuple[Array | None, ...]:  # fmt: skip
        assert body.backward is not None
        share = np.asarray(dy / dy.dtype.type(count(inputs[0], dim)))
        return body.backward(share, outputs, inputs, needs, dim, keepdim)

    return Body(forward, backward)


# --- vectorized ---


def sum_forward_vectorized(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array]:
    return (np.asarray(x.sum(axis=reduced_axes(x, dim), keepdims=keepdim)),)


def sum_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    # Written out: a stretched view would surprise whoever adds to it.
    dx = empty(inputs[0].shape, dy.dtype)
    dx[...] = dy.reshape(shapes(dx, dim, keepdim)[0])
    return (dx,)


def max_forward_vectorized(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array, Array]:
    axes = reduced_axes(x, dim)
    shape = shapes(x, dim, keepdim)[1]
    # Kept axes first, reduced ones flattened behind them; beside each value the position it came from.
    order = tuple(i for i in range(x.ndim) if i not in axes) + tuple(sorted(axes))
    rows = (math.prod(shape), count(x, dim))
    values = x.transpose(order).reshape(rows)
    positions = np.arange(x.size).reshape(x.shape).transpose(order).reshape(rows)
    first = (np.arange(rows[0]), values.argmax(axis=1))
    return values[first].reshape(shape), positions[first].reshape(shape)


def max_backward_vectorized(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool],
    dim: Dim = None, keepdim: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    dx = zeros(inputs[0].shape, inputs[0].dtype)
    dx.reshape(-1)[outputs[1]] = dy  # no position comes twice, so = does what += would
    return (dx,)


# --- tuned: the innermost group of reduced axes first, then the next group on what is left ---


def passes(x: Array, dim: Dim) -> list[tuple[int, int, int]]:
    """Return (outer, n, inner) of each pass; a pass reduces the middle axis of x seen as three axes.

    Neighbouring axes merge when both are reduced or both are kept: images (N, C, H, W) over dim=(0, 2, 3)
    take the passes (N C, H W, 1) and (1, N, C).
    """
    axes = reduced_axes(x, dim)
    found: list[tuple[int, int, int]] = []
    inner, axis = 1, x.ndim - 1
    while axis >= 0:
        if axis not in axes:
            inner *= x.shape[axis]
            axis -= 1
            continue
        n = 1
        while axis >= 0 and axis in axes:
            n *= x.shape[axis]
            axis -= 1
        found.append((math.prod(x.shape[: axis + 1]), n, inner))
    return found


@jit_tuned
def row_sum(x: Array) -> Any:
    # `reassoc` splits this one accumulator over the lanes of several registers, which also keeps the
    # rounding error of a long float32 row small.
    total = x[0]
    for i in range(1, x.size):
        total += x[i]
    return total


@jit_elementwise
def sum_blocks(x: Array, n: int, inner: int, length: int, first: int, y: Array) -> None:
    """Sum blocks first, first + 1, ...: block b of row o adds up x[o, b*length : (b+1)*length, :]."""
    blocks = (n + length - 1) // length
    for t in range(y.size // inner):
        o, b = (first + t) // blocks, (first + t) % blocks
        source = x[(o * n + b * length) * inner :]
        rows = min(length, n - b * length)
        if inner == 1:
            y[t] = row_sum(source[:rows])
        else:
            total = y[t * inner : (t + 1) * inner]
            for j in range(inner):
                total[j] = source[j]
            for k in range(1, rows):
                row = source[k * inner : (k + 1) * inner]
                for j in range(inner):
                    total[j] += row[j]


@jit_parallel
def sum_parallel(x: Array, n: int, inner: int, length: int, tasks: int, share: int, y: Array) -> None:
    for c in prange((tasks + share - 1) // share):
        part = y[c * share * inner : (c + 1) * share * inner]
        sum_blocks(x, n, inner, length, c * share, part)


@jit_tuned
def row_max(x: Array) -> Any:
    """Return the largest element of a row; NaN is passed over, except in x[0]."""
    # LLVM does not vectorise one running maximum; eight side by side become one vector register.
    m0 = m1 = m2 = m3 = m4 = m5 = m6 = m7 = x[0]
    for i in range(x.size // 8):
        r = x[8 * i :]
        m0 = r[0] if r[0] > m0 else m0
        m1 = r[1] if r[1] > m1 else m1
        m2 = r[2] if r[2] > m2 else m2
        m3 = r[3] if r[3] > m3 else m3
        m4 = r[4] if r[4] > m4 else m4
        m5 = r[5] if r[5] > m5 else m5
        m6 = r[6] if r[6] > m6 else m6
        m7 = r[7] if r[7] > m7 else m7
    for i in range(x.size // 8 * 8, x.size):
        m0 = x[i] if x[i] > m0 else m0
    for m in (m1, m2, m3, m4, m5, m6, m7):
        m0 = m if m > m0 else m0
    return m0


@jit_tuned
def row_argmax(x: Array) -> int:
    """Return the position of the first NaN, else of the first largest element."""
    top = row_max(x)
    nans = 0
    for i in range(x.size):
        nans += x[i] != x[i]
    for i in range(x.size):
        if (nans > 0 and x[i] != x[i]) or (nans == 0 and x[i] == top):
            return i
    return 0


@jit_elementwise
def max_blocks(
    x: Array, source: Array, n: int, inner: int, length: int, first: int, y: Array, argmax: Array
) -> None:
    """As sum_blocks; ``source`` holds where x's elements came from (empty: from where they stand)."""
    blocks = (n + length - 1) // length
    for t in range(y.size // inner):
        o, b = (first + t) // blocks, (first + t) % blocks
        start = (o * n + b * length) * inner
        rows = min(length, n - b * length)
        best = y[t * inner : (t + 1) * inner]
        where = argmax[t * inner : (t + 1) * inner]
        if inner == 1:
            where[0] = start + row_argmax(x[start : start + rows])
            best[0] = x[where[0]]
        else:
            for j in range(inner):
                best[j], where[j] = x[start + j], start + j
            for k in range(1, rows):
                base = start + k * inner
                row = x[base : base + inner]
                for j in range(inner):
                    larger = (row[j] > best[j]) | ((row[j] != row[j]) & (best[j] == best[j]))
                    best[j] = row[j] if larger else best[j]
                    where[j] = base + j if larger else where[j]
        if source.size > 0:
            for j in range(inner):
                where[j] = source[where[j]]


@jit_parallel
def max_parallel(
    x: Array, source: Array, n: int, inner: int, length: int, tasks: int, share: int, y: Array, argmax: Array
) -> None:
    for c in prange((tasks + share - 1) // share):
        i, j = c * share * inner, (c + 1) * share * inner
        max_blocks(x, source, n, inner, length, c * share, y[i:j], argmax[i:j])


def blocks_of(n: int, inner: int) -> tuple[int, int]:
    """Return how many rows a block sums, and how many blocks a thread takes at once (about one L1 cache).

    Long sums are cut even without threads: float32 partial sums of one block each keep the error small.
    """
    length = min(n, CHUNK // inner if inner < CHUNK // 32 else 32)
    return length, -(-CHUNK // (length * inner))


def sum_forward_tuned(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array]:
    shape = shapes(x, dim, keepdim)[1]
    if x.size == 0 or x.ndim == 0:
        return (x.sum(axis=reduced_axes(x, dim), keepdims=keepdim, out=empty(shape, x.dtype)),)
    flat = x.reshape(-1)
    for outer, n, inner in passes(x, dim):
        while True:
            length, share = blocks_of(n, inner)
            tasks = outer * -(-n // length)
            y = empty((tasks * inner,), x.dtype)
            if flat.size < SERIAL_BELOW:
                sum_blocks(flat, n, inner, length, 0, y)
            else:
                sum_parallel(flat, n, inner, length, tasks, share, y)
            flat, n = y, tasks // outer
            if n == 1:
                break
    return (flat.reshape(shape),)


def max_forward_tuned(x: Array, dim: Dim = None, keepdim: bool = False) -> tuple[Array, Array]:
    shape = shapes(x, dim, keepdim)[1]
    if x.size == 0 or x.ndim == 0:
        return max_forward_vectorized(x, dim, keepdim)
    flat, source = x.reshape(-1), empty((0,), np.int64)
    for outer, n, inner in passes(x, dim):
        while True:
            length, share = blocks_of(n, inner)
            tasks = outer * -(-n // length)
            y, argmax = empty((tasks * inner,), x.dtype), empty((tasks * inner,), np.int64)
            if flat.size < SERIAL_BELOW:
                max_blocks(flat, source, n, inner, length, 0, y, argmax)
            else:
                max_parallel(flat, source, n, inner, length, tasks, share, y, argmax)
            flat, source, n = y, argmax, tasks // outer
            if n == 1:
                break
    return flat.reshape(shape), source.reshape(shape)


# --- records ---


def check(op: str, x: Array, dim: Any = None, keepdim: Any = False) -> None:
    floats(op, x=x)
    if not isinstance(keepdim, (bool, np.bool_)):
        fail_type(op, "keepdim", keepdim, "a bool")
    if dim is None:
        axes = list(range(x.ndim))
    elif isinstance(dim, (tuple, list)):
        axes = [axis_index(op, d, x.ndim) for d in dim]
        if not axes:
            raise ValueError(f"{op}: dim must name at least one axis (None means all), got {dim!r}")
        if len(set(axes)) != len(axes):
            raise ValueError(f"{op}: dim names an axis twice: {dim!r} for {x.ndim} axes")
    else:
        axes = [axis_index(op, dim, x.ndim)]
    if op != "sum" and x.size == 0 and 0 in (x.shape[i] for i in axes):
        raise ValueError(f"{op}: no elements along dim={dim!r} of x with shape {x.shape}")


Fault = tuple[str, str, str, Any]  # name, old, new, body


def make_op(name: str, loops: Body, vectorized: Body, tuned: Body, mutants: tuple[Fault, ...]) -> Op:
    """Return the record; values are a shuffled grid, so that no two are within a difference step."""

    def values(rng: np.random.Generator, shape: Shape, dtype: Any) -> Array:
        grid = np.linspace(-2, 3, math.prod(shape))
        return np.asarray(rng.permutation(grid).reshape(shape), dtype)

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        cases: tuple[tuple[Shape, dict[str, Any]], ...] = (
            ((), {}), ((1,), {"dim": 0}), ((7,), {}), ((2, 3, 4, 5), {}), ((3, 19), {"dim": -1}),
            ((3, 19), {"dim": 0, "keepdim": True}), ((2, 3, 4, 5), {"dim": (0, 2, 3)}),
            ((2, 3, 4, 5), {"dim": (3, 1), "keepdim": True}), ((2, 3, 4, 5), {"dim": (1, 2)}),
            ((2, 1, 4), {"dim": (1,)}), ((2, 0, 3), {"dim": 0}), ((0, 3), {"dim": (1,), "keepdim": True}),
            *((((2, 0, 3), {"dim": 1}),) if name == "sum" else ()),
        )  # fmt: skip
        for shape, attributes in cases:
            yield Sample(f"shape {shape}, {attributes}", (values(rng, shape, dtype),), attributes)

    def bad_inputs() -> Iterator[BadInput]:
        x = np.ones((2, 3))
        yield BadInput(TypeError, f"{name}: x must be float32 or float64, got int64", (np.arange(3),))
        yield BadInput(ValueError, "dim must be in [-2, 2) for 2 axes, got 2", (x,), {"dim": 2})
        yield BadInput(ValueError, "names an axis twice: (0, -2)", (x,), {"dim": (0, -2)})
        yield BadInput(ValueError, "name at least one axis", (x,), {"dim": ()})
        yield BadInput(TypeError, "dim must be an int, got float 1.0", (x,), {"dim": 1.0})
        yield BadInput(TypeError, "keepdim must be a bool", (x,), {"dim": 1, "keepdim": 1})
        if name != "sum":
            yield BadInput(ValueError, "dim=1 of x with shape (2, 0)", (np.ones((2, 0)),), {"dim": 1})
            yield BadInput(ValueError, "no elements along dim=None", (np.ones((0, 3)),))

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        x = values(rng, (5, 3, 10007), dtype)
        if name == "max":  # ties and a NaN, which differences in `samples` could not stand
            x = np.round(x, 1)
            x[1, 2, 9000] = np.nan
        yield Sample("5x3x10007 per channel", (x,), {"dim": (0, 2)})
        yield Sample("1000x1000 rows", (values(rng, (1000, 1000), dtype),), {"dim": 1})
        yield Sample("1000x1000 columns", (values(rng, (1000, 1000), dtype),), {"dim": 0})
        yield Sample("4 Mi", (values(rng, (1 << 22,), dtype),))

    def jvp(
        tangents: tuple[Array], outputs: tuple[Array, ...], inputs: tuple[Array], **attributes: Any
    ) -> Any:
        if name == "max":
            return np.asarray(tangents[0].reshape(-1)[outputs[1]])
        return loops.forward(tangents[0], **attributes)[0]  # linear: its own derivative

    return Op(
        name=name,
        loops=loops,
        vectorized=vectorized,
        tuned=tuned,
        check=lambda x, dim=None, keepdim=False: check(name, x, dim, keepdim),
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=lambda x, **_: int(x.size),
        jvp=jvp,
        mutants=tuple(Mutant(title, body, "reduce.py", old, new) for title, old, new, body in mutants),
        tolerance=512.0,  # one long sum in order against many short ones
    )


sum_loops = Body(sum_forward_loops, sum_backward_loops)
sum_vectorized = Body(sum_forward_vectorized, sum_backward_vectorized)
sum_tuned = Body(sum_forward_tuned, sum_backward_vectorized)

sum = make_op(  # noqa: A001 (NumPy's and PyTorch's name)
    "sum", sum_loops, sum_vectorized, sum_tuned,
    (
        ("missing +=", "total[source_index(i, shape, steps)] += x[i]",
         "total[source_index(i, shape, steps)] = x[i]", "loops"),
        ("kept axes stepped over", "step *= kept[axis]", "step *= x.shape[axis]", "loops"),
        ("last row forgotten", "for k in range(1, rows):\n                row =",
         "for k in range(1, rows - 1):\n                row =", "tuned"),
        ("ragged block", "source = x[(o * n + b * length) * inner :]",
         "source = x[(o * blocks + b) * length * inner :]", "tuned"),
    ),
)  # fmt: skip
mean = make_op(
    "mean", make_mean(sum_loops), make_mean(sum_vectorized), make_mean(sum_tuned),
    (
        ("divided by the size of x", "y / x.dtype.type(count(x, dim))", "y / x.dtype.type(x.size)", "loops"),
        ("gradient not divided by n", "dy / dy.dtype.type(count(inputs[0], dim))", "dy / 1", "loops"),
        ("gradient divided by the size of y", "dy / dy.dtype.type(count(inputs[0], dim))",
         "dy / dy.dtype.type(dy.size)", "tuned"),
        ("first element twice", "for i in range(1, x.size):\n        total += x[i]",
         "for i in range(x.size):\n        total += x[i]", "tuned"),
    ),
)  # fmt: skip
max = make_op(  # noqa: A001
    "max", Body(max_forward_loops, max_backward_loops), Body(max_forward_vectorized, max_backward_vectorized),
    Body(max_forward_tuned, max_backward_vectorized),
    (
        ("last element of a tie", "argmax[j] < 0 or x[i] > y[j]", "argmax[j] < 0 or x[i] >= y[j]", "loops"),
        ("argmax within the row", "argmax[j] = i\n", "argmax[j] = j\n", "loops"),
        ("eighth accumulator dropped", "for m in (m1, m2, m3, m4, m5, m6, m7)",
         "for m in (m1, m2, m3, m4, m5, m6)", "tuned"),
        ("position in the second pass", "where[j] = source[where[j]]", "where[j] = where[j]", "tuned"),
        ("NaN overlooked", "nans += x[i] != x[i]", "nans += x[i] == np.inf", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (sum, mean, max)
