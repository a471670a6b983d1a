"""max_pool2d and avg_pool2d as sweeps over contiguous rows.

A window's maximum or sum is taken in two steps: down its columns into one line per row of windows, then
along the line for a window starting at every pixel, of which each sw-th is a result. That is (R + S) W
operations for a row of windows instead of Q R S; both steps run over contiguous rows whatever the stride,
and the line's borders of pw elements spare every test for the image's edge. The commonest case, 2x2
windows side by side, never leaves the registers.

Bound: memory. Forward reads x once and writes y (and argmax), backward reads these and writes dx: for 2x2
windows of float32, 4 + 1 (+ 1) bytes per element of x either way. Image planes are independent: they are
dealt to threads in chunks, and no result depends on how.
"""

from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW
from nnkernels.ops.pooling.shapes import NOWHERE, Geometry, Size, geometry, out_shape

SIDE_BY_SIDE = (2, 2, 2, 2, 0, 0)


@inline
def beats(v: Any, best: Any) -> Any:
    """v is larger, or NaN where best is a number; without branches, so loops with it vectorise."""
    return (not v <= best) & (best == best)


@inline
def ties(v: Any, best: Any) -> Any:
    return (v == best) | ((v != v) & (best != best))


@inline
def max_down(row: Array, first: int, best: Array, at: Array) -> None:
    """best_w = max(best_w, row_w), where row_w has the place first + w in the plane."""
    for w in range(best.size):
        v, b, j = row[w], best[w], at[w]  # all loads first: conditional loads would not vectorise
        wins = beats(v, b)
        best[w] = v if wins else b
        at[w] = first + w if wins else j


@inline
def max_along(line: Array, places: Array, best: Array, at: Array) -> None:
    """best_w = max(best_w, line_w); among equals the smaller place, which comes first in the window."""
    for w in range(best.size):
        v, i, b, j = line[w], places[w], best[w], at[w]
        earlier = min(i, j) if ties(v, b) else j
        wins = beats(v, b)
        best[w] = v if wins else b
        at[w] = i if wins else earlier


@jit_elementwise
def max_planes(x: Array, g: Geometry, y: Array, argmax: Array) -> None:
    """Any geometry."""
    _, H, W = x.shape
    R, S, sh, sw, ph, pw = g
    line, places = np.full(W + 2 * pw, -np.inf, x.dtype), np.full(W + 2 * pw, NOWHERE, np.int32)
    inner, inner_places = line[pw : pw + W], places[pw : pw + W]
    best, at = np.empty(line.size - S + 1, x.dtype), np.empty(line.size - S + 1, np.int32)
    for i in range(len(x)):
        for p in range(y.shape[1]):
            top, bottom = max(sh * p - ph, 0), min(sh * p - ph + R, H)
            inner[:] = x[i, top]
            for w in range(W):
                inner_places[w] = top * W + w
            for h in range(top + 1, bottom):
                max_down(x[i, h], h * W, inner, inner_places)
            best[:] = line[: best.size]
            at[:] = places[: best.size]
            for s in range(1, S):
                max_along(line[s:], places[s:], best, at)
            for q in range(y.shape[2]):
                y[i, p, q] = best[q * sw]
                argmax[i, p, q] = at[q * sw]


@jit_elementwise
def max_planes_2x2(x: Array, y: Array, argmax: Array) -> None:
    """2x2 windows side by side: a tournament of four, each element loaded once."""
    W = x.shape[2]
    for i in range(len(x)):
        for p in range(y.shape[1]):
            upper, lower, best, at = x[i, 2 * p], x[i, 2 * p + 1], y[i, p], argmax[i, p]
            first = 2 * p * W
            for q in range(best.size):
                a, b, c, d = upper[2 * q], upper[2 * q + 1], lower[2 * q], lower[2 * q + 1]
                right = beats(b, a)
                top = b if right else a
                low_right = beats(d, c)
                low = d if low_right else c
                below = beats(low, top)
                best[q] = low if below else top
                at[q] = first + 2 * q + ((W + (1 if low_right else 0)) if below else (1 if right else 0))


@jit_elementwise
def max_forward_planes(x: Array, g: Geometry, y: Array, argmax: Array) -> None:
    if g == SIDE_BY_SIDE:
        max_planes_2x2(x, y, argmax)
    else:
        max_planes(x, g, y, argmax)


@jit_elementwise
def max_backward_planes(dy: Array, argmax: Array, dx: Array) -> None:
    """A scatter, plane by plane: the plane is in the L1 cache from being cleared."""
    for i in range(len(dx)):
        g, at, d = dy[i].reshape(-1), argmax[i].reshape(-1), dx[i].reshape(-1)
        d[:] = 0
        for j in range(g.size):
            d[at[j]] += g[j]


@inline
def add(row: Array, total: Array) -> None:
    for w in range(total.size):
        total[w] += row[w]


@jit_elementwise
def avg_planes(x: Array, g: Geometry, scale: float, y: Array) -> None:
    """Any geometry."""
    _, H, W = x.shape
    R, S, sh, sw, ph, pw = g
    line = np.zeros(W + 2 * pw, x.dtype)
    inner, total = line[pw : pw + W], np.empty(line.size - S + 1, x.dtype)
    for i in range(len(x)):
        for p in range(y.shape[1]):
            top, bottom = max(sh * p - ph, 0), min(sh * p - ph + R, H)
            inner[:] = x[i, top]
            for h in range(top + 1, bottom):
                add(x[i, h], inner)
            total[:] = line[: total.size]
            for s in range(1, S):
                add(line[s:], total)
            for q in range(y.shape[2]):
                y[i, p, q] = total[q * sw] * scale


@jit_elementwise
def avg_planes_2x2(x: Array, scale: float, y: Array) -> None:
    for i in range(len(x)):
        for p in range(y.shape[1]):
            upper, lower, row = x[i, 2 * p], x[i, 2 * p + 1], y[i, p]
            for q in range(row.size):
                row[q] = (upper[2 * q] + upper[2 * q + 1] + lower[2 * q] + lower[2 * q + 1]) * scale


@jit_elementwise
def avg_forward_planes(x: Array, g: Geometry, scale: float, y: Array) -> None:
    if g == SIDE_BY_SIDE:
        avg_planes_2x2(x, scale, y)
    else:
        avg_planes(x, g, scale, y)


@jit_elementwise
def avg_planes_transposed(dy: Array, g: Geometry, scale: float, dx: Array) -> None:
    """The two steps backwards: every dy to the S elements of its line, the line to its R rows of dx."""
    _, H, W = dx.shape
    R, S, sh, sw, ph, pw = g
    line = np.empty(W + 2 * pw, dx.dtype)
    starts = np.zeros(line.size - S + 1, dx.dtype)  # dy where its window starts, 0 between
    dx[:] = 0
    for i in range(len(dx)):
        for p in range(dy.shape[1]):
            for q in range(dy.shape[2]):
                starts[q * sw] = dy[i, p, q] * scale
            line[:] = 0
            for s in range(S):
                add(starts, line[s : s + starts.size])
            for h in range(max(sh * p - ph, 0), min(sh * p - ph + R, H)):
                add(line[pw : pw + W], dx[i, h])


@jit_elementwise
def avg_planes_2x2_transposed(dy: Array, scale: float, dx: Array) -> None:
    P, Q = dy.shape[1:]
    for i in range(len(dx)):
        dx[i, 2 * P :] = 0
        dx[i, :, 2 * Q :] = 0
        for p in range(P):
            row, upper, lower = dy[i, p], dx[i, 2 * p], dx[i, 2 * p + 1]
            for q in range(Q):
                share = row[q] * scale
                upper[2 * q] = share
                upper[2 * q + 1] = share
                lower[2 * q] = share
                lower[2 * q + 1] = share


@jit_elementwise
def avg_backward_planes(dy: Array, g: Geometry, scale: float, dx: Array) -> None:
    if g == SIDE_BY_SIDE:
        avg_planes_2x2_transposed(dy, scale, dx)
    else:
        avg_planes_transposed(dy, g, scale, dx)


@jit_parallel
def max_forward_parallel(x: Array, g: Geometry, planes: int, y: Array, argmax: Array) -> None:
    for c in prange((len(x) + planes - 1) // planes):
        i, j = c * planes, (c + 1) * planes
        max_forward_planes(x[i:j], g, y[i:j], argmax[i:j])


@jit_parallel
def max_backward_parallel(dy: Array, argmax: Array, planes: int, dx: Array) -> None:
    for c in prange((len(dx) + planes - 1) // planes):
        i, j = c * planes, (c + 1) * planes
        max_backward_planes(dy[i:j], argmax[i:j], dx[i:j])


@jit_parallel
def avg_forward_parallel(x: Array, g: Geometry, scale: float, planes: int, y: Array) -> None:
    for c in prange((len(x) + planes - 1) // planes):
        i, j = c * planes, (c + 1) * planes
        avg_forward_planes(x[i:j], g, scale, y[i:j])


@jit_parallel
def avg_backward_parallel(dy: Array, g: Geometry, scale: float, planes: int, dx: Array) -> None:
    for c in prange((len(dx) + planes - 1) // planes):
        i, j = c * planes, (c + 1) * planes
        avg_backward_planes(dy[i:j], g, scale, dx[i:j])


def as_planes(a: Array) -> Array:
    """Return the (N C, H, W) view of an (N, C, H, W) array."""
    N, C, H, W = a.shape
    return a.reshape(N * C, H, W)


def planes_per_chunk(x: Array) -> int:
    """Return how many image planes one task of a parallel loop takes."""
    H: int = x.shape[2]
    W: int = x.shape[3]
    return max(1, CHUNK // (H * W))


def max_pool2d_forward_tuned(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> tuple[Array, Array]:
    g = geometry(kernel_size, stride, padding)
    shape = out_shape(x, g)
    y, argmax = empty(shape, x.dtype), empty(shape, np.int32)
    if x.size < SERIAL_BELOW:
        max_forward_planes(as_planes(x), g, as_planes(y), as_planes(argmax))
    else:
        max_forward_parallel(as_planes(x), g, planes_per_chunk(x), as_planes(y), as_planes(argmax))
    return y, argmax


def max_pool2d_backward_tuned(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool], **attributes: Any
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    dx, argmax = empty(inputs[0].shape, dy.dtype), outputs[1]
    if dx.size < SERIAL_BELOW:
        max_backward_planes(as_planes(dy), as_planes(argmax), as_planes(dx))
    else:
        max_backward_parallel(as_planes(dy), as_planes(argmax), planes_per_chunk(dx), as_planes(dx))
    return (dx,)


def avg_pool2d_forward_tuned(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> tuple[Array]:
    g = geometry(kernel_size, stride, padding)
    y, scale = empty(out_shape(x, g), x.dtype), x.dtype.type(1 / (g[0] * g[1]))
    if x.size < SERIAL_BELOW:
        avg_forward_planes(as_planes(x), g, scale, as_planes(y))
    else:
        avg_forward_parallel(as_planes(x), g, scale, planes_per_chunk(x), as_planes(y))
    return (y,)


def avg_pool2d_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    *, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    g = geometry(kernel_size, stride, padding)
    dx, scale = empty(inputs[0].shape, dy.dtype), dy.dtype.type(1 / (g[0] * g[1]))
    if dx.size < SERIAL_BELOW:
        avg_backward_planes(as_planes(dy), g, scale, as_planes(dx))
    else:
        avg_backward_parallel(as_planes(dy), g, scale, planes_per_chunk(dx), as_planes(dx))
    return (dx,)
