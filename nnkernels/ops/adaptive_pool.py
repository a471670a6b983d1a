"""Adaptive pooling: windows placed so that P x Q of them cover an image of any size.

    max   y[n, c, p, q] = max  of x[n, c, h, w]      h from floor(p H / P) to ceil((p + 1) H / P) - 1
    avg   y[n, c, p, q] = mean of x[n, c, h, w]      w from floor(q W / Q) to ceil((q + 1) W / Q) - 1

    x (N, C, H, W)   y (N, C, P, Q)   output_size (P, Q), P for both, None for the size that x has

Windows share a row or column where P does not divide H, and come to H / P rows each, side by side, where it
does. max keeps ``argmax`` as max_pool2d does; gradients are those of max_pool2d and avg_pool2d.
P = Q = 1 is the global average: Lin, Chen and Yan, Network In Network, ICLR 2014.

Bound of ``tuned``: memory, as for the pools with windows of one size, which do the work where P divides H and
Q divides W. Elsewhere rows are swept as there, into one line per row of windows; a table of bounds then cuts
the line into its windows.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.jit import inline, jit, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, share_of
from nnkernels.ops.gradients import linear, piecewise_linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.pooling import check_images, max_pool2d_jvp, named
from nnkernels.ops.pooling import cuda as fixed_cuda
from nnkernels.ops.pooling import cuda_adaptive as ragged_cuda
from nnkernels.ops.pooling import sample as pooling_sample
from nnkernels.ops.pooling import tuned as fixed
from nnkernels.ops.pooling.loops import max_pool2d_backward_loops
from nnkernels.ops.pooling.tuned import PLACE, add, beats, clear, copy, max_down, places_transposed, ties
from nnkernels.ops.pooling.vectorized import max_pool2d_backward_vectorized
from nnkernels.ops.validate import check_int

OutputSize = int | None | tuple[int | None, int | None]
Needs = tuple[bool, ...]


def sizes(x: tuple[int, ...], output_size: OutputSize) -> tuple[int, int]:
    """Return (P, Q) for images of shape x."""
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    P, Q = (size if n is None else int(n) for n, size in zip(wanted, x[2:]))
    return P, Q


# --- loops ---


@inline
def start(p: int, P: int, H: int) -> int:
    """floor(p H / P)."""
    return p * H // P


@inline
def stop(p: int, P: int, H: int) -> int:
    """ceil((p + 1) H / P)."""
    return ((p + 1) * H + P - 1) // P


@jit
def adaptive_max_kernel(x: Array, y: Array, argmax: Array) -> None:
    N, C, H, W = x.shape
    _, _, P, Q = y.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    at = start(p, P, H) * W + start(q, Q, W)
                    best = x[n, c, start(p, P, H), start(q, Q, W)]
                    for h in range(start(p, P, H), stop(p, P, H)):
                        for w in range(start(q, Q, W), stop(q, Q, W)):
                            v = x[n, c, h, w]
                            if v > best or (v != v and best == best):  # NaN beats numbers
                                best, at = v, h * W + w
                    y[n, c, p, q] = best
                    argmax[n, c, p, q] = at


@jit
def adaptive_avg_kernel(x: Array, y: Array) -> None:
    N, C, H, W = x.shape
    _, _, P, Q = y.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    total, count = 0.0, 0
                    for h in range(start(p, P, H), stop(p, P, H)):
                        for w in range(start(q, Q, W), stop(q, Q, W)):
                            total += x[n, c, h, w]
                            count += 1
                    y[n, c, p, q] = total / count


@jit
def adaptive_avg_backward_kernel(dy: Array, dx: Array) -> None:
    N, C, P, Q = dy.shape
    _, _, H, W = dx.shape
    for n in range(N):
        for c in range(C):
            for p in range(P):
                for q in range(Q):
                    rows, columns = stop(p, P, H) - start(p, P, H), stop(q, Q, W) - start(q, Q, W)
                    for h in range(start(p, P, H), stop(p, P, H)):
                        for w in range(start(q, Q, W), stop(q, Q, W)):
                            dx[n, c, h, w] += dy[n, c, p, q] / (rows * columns)  # +=: windows may overlap


def adaptive_max_forward_loops(x: Array, *, output_size: OutputSize) -> tuple[Array, Array]:
    shape = (*x.shape[:2], *sizes(x.shape, output_size))
    y, argmax = np.empty(shape, x.dtype), np.empty(shape, np.int32)
    adaptive_max_kernel(x, y, argmax)
    return y, argmax


def adaptive_avg_forward_loops(x: Array, *, output_size: OutputSize) -> tuple[Array]:
    y = np.empty((*x.shape[:2], *sizes(x.shape, output_size)), x.dtype)
    adaptive_avg_kernel(x, y)
    return (y,)


def adaptive_avg_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs, **attributes: Any
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    dx = np.zeros_like(inputs[0])
    adaptive_avg_backward_kernel(dy, dx)
    return (dx,)


# --- vectorized: window by window, all images at once; averages as two matrix products ---


def cuts(size: int, count: int) -> list[slice]:
    """Return the windows along an axis."""
    return [slice(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def adaptive_max_forward_vectorized(x: Array, *, output_size: OutputSize) -> tuple[Array, Array]:
    (N, C, H, W), (P, Q) = x.shape, sizes(x.shape, output_size)
    y, argmax = np.empty((N, C, P, Q), x.dtype), np.empty((N, C, P, Q), np.int32)
    places = np.arange(H * W, dtype=np.int32).reshape(H, W)
    for p, rows in enumerate(cuts(H, P)):
        for q, columns in enumerate(cuts(W, Q)):
            window = x[:, :, rows, columns]
            values = window.reshape(N, C, window.shape[2] * window.shape[3])
            first = values.argmax(axis=2)
            y[:, :, p, q] = np.take_along_axis(values, first[:, :, None], axis=2)[:, :, 0]
            argmax[:, :, p, q] = places[rows, columns].reshape(-1)[first]
    return y, argmax


def mean_matrix(size: int, count: int, dtype: Any) -> Array:
    """Return (count, size): row i holds 1 / length where window i lies."""
    matrix = np.zeros((count, size), dtype)
    for row, window in zip(matrix, cuts(size, count)):
        row[window] = 1 / (window.stop - window.start)
    return matrix


def adaptive_avg_forward_vectorized(x: Array, *, output_size: OutputSize) -> tuple[Array]:
    (_, _, H, W), (P, Q) = x.shape, sizes(x.shape, output_size)
    return (mean_matrix(H, P, x.dtype) @ x @ mean_matrix(W, Q, x.dtype).T,)


def adaptive_avg_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs, **attributes: Any
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    (_, _, H, W), (_, _, P, Q) = inputs[0].shape, dy.shape
    return (mean_matrix(H, P, dy.dtype).T @ dy @ mean_matrix(W, Q, dy.dtype),)


# --- tuned: bounds from tables, (2, P) for the rows and (2, Q) for the columns ---


@jit_elementwise
def max_windows(x: Array, rows: Array, columns: Array, y: Array, argmax: Array) -> None:
    """Planes of x; the maxima of all rows of a window as in max_planes, then the maximum of each window."""
    W = x.shape[2]
    line, places = np.empty(W, x.dtype), np.empty(W, np.int32)
    for i in range(len(x)):
        for p in range(y.shape[1]):
            top = rows[0, p]
            copy(x[i, top], line)
            for w in range(W):
                places[w] = top * W + w
            for h in range(top + 1, rows[1, p]):
                max_down(x[i, h], h * W, line, places)
            for q in range(y.shape[2]):
                best, at = line[columns[0, q]], places[columns[0, q]]
                for w in range(columns[0, q] + 1, columns[1, q]):
                    v, k = line[w], places[w]
                    wins = beats(v, best)
                    at = k if wins or (ties(v, best) and k < at) else at
                    best = v if wins else best
                y[i, p, q] = best
                argmax[i, p, q] = at


@jit_elementwise
def sum_windows(x: Array, rows: Array, columns: Array, down: Array, along: Array, y: Array) -> None:
    """Planes of x; the sum of window (p, q) is multiplied by down_p along_q. A window may be empty."""
    line = np.empty(x.shape[2], x.dtype)
    for i in range(len(x)):
        for p in range(y.shape[1]):
            clear(line)
            for h in range(rows[0, p], rows[1, p]):
                add(x[i, h], line)
            for q in range(y.shape[2]):
                total = line.dtype.type(0)
                for w in range(columns[0, q], columns[1, q]):
                    total += line[w]
                y[i, p, q] = total * (down[p] * along[q])


@jit_elementwise
def sum_windows_transposed(
    dy: Array, rows: Array, columns: Array, down: Array, along: Array, dx: Array
) -> None:
    """Backwards: every dy to the columns of its window in a line, the line to the window's rows."""
    line = np.empty(dx.shape[2], dx.dtype)
    for i in range(len(dx)):
        for h in range(dx.shape[1]):
            clear(dx[i, h])
        for p in range(dy.shape[1]):
            clear(line)
            for q in range(dy.shape[2]):
                v = dy[i, p, q] * (down[p] * along[q])
                for w in range(columns[0, q], columns[1, q]):
                    line[w] += v
            for h in range(rows[0, p], rows[1, p]):
                add(line, dx[i, h])


@jit_parallel
def max_windows_parallel(x: Array, rows: Array, columns: Array, share: int, y: Array, argmax: Array) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        max_windows(x[i:j], rows, columns, y[i:j], argmax[i:j])


@jit_parallel
def sum_windows_parallel(
    x: Array, rows: Array, columns: Array, down: Array, along: Array, share: int, y: Array
) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        sum_windows(x[i:j], rows, columns, down, along, y[i:j])


@jit_parallel
def sum_windows_transposed_parallel(
    dy: Array, rows: Array, columns: Array, down: Array, along: Array, share: int, dx: Array
) -> None:
    for c in prange((len(dx) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        sum_windows_transposed(dy[i:j], rows, columns, down, along, dx[i:j])


@lru_cache(maxsize=256)
def bounds(size: int, count: int) -> Array:
    """Return the windows' first elements, and where they end."""
    i = np.arange(count)
    return np.stack((i * size // count, -(-(i + 1) * size // count)))


@lru_cache(maxsize=256)
def shares(size: int, count: int, dtype: Any) -> Array:
    """Return 1 / length of each window."""
    first, end = bounds(size, count)
    return np.asarray(1 / (end - first), dtype)


def even(x: tuple[int, ...], P: int, Q: int) -> dict[str, tuple[int, int]] | None:
    """Return the pools' attributes where all windows are alike and lie side by side, else None."""
    _, _, H, W = x
    return {"kernel_size": (H // P, W // Q)} if H % P == 0 and W % Q == 0 else None


def planes(a: Array) -> Array:
    """Return (N, C, H, W) as (N C, H, W)."""
    N, C, H, W = a.shape
    return a.reshape(N * C, H, W)


def adaptive_max_forward_tuned(x: Array, *, output_size: OutputSize) -> tuple[Array, Array]:
    (N, C, H, W), (P, Q) = x.shape, sizes(x.shape, output_size)
    if windows := even(x.shape, P, Q):
        return fixed.max_pool2d_forward_tuned(x, **windows)  # type: ignore[arg-type]
    y, argmax = empty((N, C, P, Q), x.dtype), empty((N, C, P, Q), PLACE)
    given, results = (planes(x), bounds(H, P), bounds(W, Q)), (planes(y), planes(argmax))
    if x.size < SERIAL_BELOW:
        max_windows(*given, *results)
    else:
        max_windows_parallel(*given, share_of(N * C, H * W), *results)
    return y, argmax


def adaptive_max_backward_tuned(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: Needs, **attributes: Any
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    disjoint = even(inputs[0].shape, *dy.shape[2:]) is not None
    return (places_transposed(dy, outputs[1], inputs[0].shape, disjoint),)


def adaptive_avg_forward_tuned(x: Array, *, output_size: OutputSize) -> tuple[Array, ...]:
    (N, C, H, W), (P, Q) = x.shape, sizes(x.shape, output_size)
    if windows := even(x.shape, P, Q):
        return fixed.avg_pool2d_forward_tuned(x, **windows)  # type: ignore[arg-type]
    y = empty((N, C, P, Q), x.dtype)
    given = planes(x), bounds(H, P), bounds(W, Q), shares(H, P, x.dtype), shares(W, Q, x.dtype)
    if x.size < SERIAL_BELOW:
        sum_windows(*given, planes(y))
    else:
        sum_windows_parallel(*given, share_of(N * C, H * W), planes(y))
    return (y,)


def adaptive_avg_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs, **attributes: Any
) -> tuple[Array | None, ...]:
    if not needs[0]:
        return (None,)
    (N, C, H, W), (P, Q) = inputs[0].shape, dy.shape[2:]
    if windows := even(inputs[0].shape, P, Q):
        return fixed.avg_pool2d_backward_tuned(dy, outputs, inputs, (True,), **windows)  # type: ignore[arg-type]
    dx = empty((N, C, H, W), dy.dtype)
    given = planes(dy), bounds(H, P), bounds(W, Q), shares(H, P, dy.dtype), shares(W, Q, dy.dtype)
    if dx.size < SERIAL_BELOW:
        sum_windows_transposed(*given, planes(dx))
    else:
        sum_windows_transposed_parallel(*given, share_of(N * C, H * W), planes(dx))
    return (dx,)


# --- cuda ---


def adaptive_max_forward_cuda(x: GpuArray, *, output_size: OutputSize) -> tuple[GpuArray, GpuArray]:
    P, Q = sizes(x.shape, output_size)
    if windows := even(x.shape, P, Q):
        return fixed_cuda.max_pool2d_forward_cuda(x, **windows)  # type: ignore[arg-type]
    return ragged_cuda.max_windows(x, P, Q)


def adaptive_max_backward_cuda(
    dy: GpuArray, outputs: Any, inputs: tuple[GpuArray], needs: Needs, **attributes: Any
) -> tuple[GpuArray | None]:
    if not needs[0]:
        return (None,)
    if windows := even(inputs[0].shape, *dy.shape[2:]):
        return fixed_cuda.max_pool2d_backward_cuda(dy, outputs, inputs, (True,), **windows)  # type: ignore[arg-type]
    return (ragged_cuda.max_windows_backward(dy, outputs[1], inputs[0].shape),)


def adaptive_avg_forward_cuda(x: GpuArray, *, output_size: OutputSize) -> tuple[GpuArray]:
    P, Q = sizes(x.shape, output_size)
    if windows := even(x.shape, P, Q):
        return fixed_cuda.avg_pool2d_forward_cuda(x, **windows)  # type: ignore[arg-type]
    return (ragged_cuda.avg_windows(x, P, Q),)


def adaptive_avg_backward_cuda(
    dy: GpuArray, outputs: Any, inputs: tuple[GpuArray], needs: Needs, **attributes: Any
) -> tuple[GpuArray | None]:
    if not needs[0]:
        return (None,)
    if windows := even(inputs[0].shape, *dy.shape[2:]):
        return fixed_cuda.avg_pool2d_backward_cuda(dy, outputs, inputs, (True,), **windows)  # type: ignore[arg-type]
    return (ragged_cuda.avg_windows_backward(dy, inputs[0].shape),)


# --- records ---


def check(op: str, x: Array, *, output_size: OutputSize) -> None:
    check_images(op, x)
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size, output_size)
    if len(wanted) != 2:
        raise ValueError(f"{op}: output_size must be an int, None or a pair of them, got {output_size!r}")
    for n in wanted:
        if n is not None:
            check_int(op, "output_size", n, 1)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape, output_size in (
        ((1, 1, 1, 1), 1), ((2, 2, 5, 7), (3, 4)), ((1, 2, 6, 8), (3, 4)), ((2, 1, 4, 6), 2),
        ((2, 3, 3, 4), 1), ((1, 2, 2, 3), (5, 4)), ((1, 1, 7, 4), (3, None)), ((1, 2, 3, 5), None),
        ((2, 1, 5, 6), (1, 4)), ((0, 2, 5, 4), (2, 3)), ((1, 2, 4, 3), (3, 7)),
    ):  # fmt: skip
        yield pooling_sample(rng, dtype, shape, output_size=output_size)


def bad_inputs() -> Iterator[BadInput]:
    x, two = np.ones((2, 3, 5, 4)), {"output_size": 2}
    yield BadInput(ValueError, "x must have 4 axes (N, C, H, W), got shape (3, 5, 4)", (x[0],), two)
    yield BadInput(ValueError, "the images of x must hold 1 to", (x[:, :, :0],), two)
    yield BadInput(ValueError, "output_size must be at least 1, got 0", (x,), {"output_size": 0})
    yield BadInput(ValueError, "output_size must be at least 1, got -3", (x,), {"output_size": (2, -3)})
    yield BadInput(ValueError, "output_size must be an int, None or a pair", (x,), {"output_size": (1, 1, 1)})
    yield BadInput(TypeError, "output_size must be an int, got float 2.0", (x,), {"output_size": 2.0})
    yield BadInput(TypeError, "output_size must be an int, got bool True", (x,), {"output_size": (True, 1)})
    yield BadInput(TypeError, "'output_size'", (x,))
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8),), two)


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    """Ragged windows, AlexNet's last pool, and the global average of a residual network."""
    for shape, size in (((16, 16, 15, 17), (4, 6)), ((16, 256, 13, 13), 6), ((16, 512, 7, 7), 1)):
        x = np.maximum(rng.standard_normal(shape), 0)
        yield Sample(f"{shape} -> {size}", (np.asarray(x, dtype),), {"output_size": size})


def flops(x: Array, *, output_size: OutputSize) -> int:
    (N, C, H, W), (P, Q) = x.shape, sizes(x.shape, output_size)
    rows, columns = (int(np.sum(b[1] - b[0])) for b in (bounds(H, P), bounds(W, Q)))
    return int(N * C * rows * columns)


def avg_jvp(tangents: tuple[Array], outputs: tuple[Array], inputs: tuple[Array], **attributes: Any) -> Array:
    """Return the average of the tangents: the op is linear."""
    return adaptive_avg_forward_tuned(tangents[0], **attributes)[0]


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    return Mutant(name, body, "adaptive_pool.py", old, new)


adaptive_max_pool2d = Op(
    name="adaptive_max_pool2d",
    loops=Body(adaptive_max_forward_loops, max_pool2d_backward_loops),
    vectorized=Body(adaptive_max_forward_vectorized, max_pool2d_backward_vectorized),
    tuned=Body(adaptive_max_forward_tuned, adaptive_max_backward_tuned),
    cuda=Body(adaptive_max_forward_cuda, adaptive_max_backward_cuda),
    check=named("adaptive_max_pool2d", check),
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=max_pool2d_jvp,
    gradient=piecewise_linear,
    mutants=(
        mutant("windows end too early", "loops", "((p + 1) * H + P - 1) // P", "(p + 1) * H // P"),
        mutant("place of the first element for all", "loops", "best, at = v, h * W + w", "best = v"),
        mutant("first row alone", "tuned", "range(top + 1, rows[1, p])", "range(top + 1, top + 1)"),
        mutant("place in the window's first row", "tuned", "(x[i, h], h * W,", "(x[i, h], top * W,"),
        mutant("last column left out", "tuned", "range(columns[0, q] + 1, columns[1, q])",
               "range(columns[0, q] + 1, columns[1, q] - 1)"),
        mutant("overlapping windows taken for disjoint", "tuned", "*dy.shape[2:]) is not None",
               "*dy.shape[2:]) is None"),
        mutant("rows alone decide", "tuned", "if H % P == 0 and W % Q == 0", "if H % P == 0"),
    ),
)  # fmt: skip
adaptive_avg_pool2d = Op(
    name="adaptive_avg_pool2d",
    loops=Body(adaptive_avg_forward_loops, adaptive_avg_backward_loops),
    vectorized=Body(adaptive_avg_forward_vectorized, adaptive_avg_backward_vectorized),
    tuned=Body(adaptive_avg_forward_tuned, adaptive_avg_backward_tuned),
    cuda=Body(adaptive_avg_forward_cuda, adaptive_avg_backward_cuda),
    check=named("adaptive_avg_pool2d", check),
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=avg_jvp,
    gradient=linear,
    mutants=(
        mutant("windows overwrite each other", "loops", "dx[n, c, h, w] += dy", "dx[n, c, h, w] = dy"),
        mutant("divided by the rows alone", "loops", "/ (rows * columns)", "/ rows"),
        mutant("divided before", "vectorized", "1 / (window.stop - window.start)", "1"),
        mutant("axes swapped", "tuned", "total * (down[p] * along[q])", "total * (down[p] * along[p])"),
        mutant("missing +=", "tuned", "line[w] += v", "line[w] = v"),
        mutant("line kept from the row before", "tuned",
               "clear(line)\n            for q", "for q"),
        mutant("first row alone", "tuned", "add(line, dx[i, h])", "copy(line, dx[i, h])"),
        mutant("floor for ceil", "tuned", "np.stack((i * size // count, -(-(i + 1) * size // count)))",
               "np.stack((i * size // count, (i + 1) * size // count))"),
    ),
)  # fmt: skip
OPS_HERE = (adaptive_max_pool2d, adaptive_avg_pool2d)
