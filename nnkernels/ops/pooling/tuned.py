"""max_pool2d and avg_pool2d as sweeps over contiguous rows.

A window's maximum or sum is taken in two steps: down its columns into one line per row of windows, then
along the line for a window starting at every pixel, of which each sw-th is a result. That is (R + S) W
operations for a row of windows instead of Q R S; both steps run over contiguous rows whatever the stride,
and the line's borders of pw elements spare every test for the image's edge. The commonest case, 2x2
windows side by side, never leaves the registers; a window as large as the image is a row of numbers, and goes
to the kernels that reduce rows.

Bound: memory. Forward reads x once and writes y (and argmax), backward reads these and writes dx: for 2x2
windows of float32, 4 + 1 (+ 1) bytes per element of x either way. Image planes are independent: they are
dealt to threads in chunks, and no result depends on how.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.jit import inline, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW, share_of
from nnkernels.ops.pooling.shapes import NOWHERE, Geometry, Size, divisors, geometry, out_shape
from nnkernels.ops.reduce.tuned import mean_tuned
from nnkernels.ops.reduce.tuned_max import row_maxima, row_places

SIDE_BY_SIDE = (2, 2, 2, 2, 0, 0, 1, 1)
PLACE = np.dtype(np.int32)


@inline
def beats(v: Any, best: Any) -> Any:
    """v is larger, or NaN where best is a number; without branches, so loops with it vectorise."""
    return (not v <= best) & (best == best)


@inline
def ties(v: Any, best: Any) -> Any:
    return (v == best) | ((v != v) & (best != best))


@inline
def copy(source: Array, target: Array) -> None:
    for w in range(target.size):
        target[w] = source[w]


@inline
def clear(row: Array) -> None:
    for w in range(row.size):
        row[w] = 0


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


@inline
def line_length(W: int, Q: int, S: int, sw: int, pw: int, dw: int) -> int:
    """Elements of a padded row; the last of Q windows may hang over its end."""
    return max(W + 2 * pw, sw * (Q - 1) + dw * (S - 1) + 1)


@jit_elementwise
def max_planes(x: Array, g: Geometry, y: Array, argmax: Array) -> None:
    """Any geometry."""
    _, H, W = x.shape
    R, S, sh, sw, ph, pw, dh, dw = g
    length = line_length(W, y.shape[2], S, sw, pw, dw)
    line, places = np.empty(length, x.dtype), np.empty(length, np.int32)
    for w in range(length):
        line[w], places[w] = -np.inf, NOWHERE
    inner, inner_places = line[pw : pw + W], places[pw : pw + W]
    starts = length - dw * (S - 1)
    best, at = np.empty(starts, x.dtype), np.empty(starts, np.int32)
    for i in range(len(x)):
        for p in range(y.shape[1]):
            top, bottom = sh * p - ph, min(sh * p - ph + dh * (R - 1) + 1, H)
            if top < 0:
                top %= dh  # the first row of the window that lies in the image
            copy(x[i, top], inner)
            for w in range(W):
                inner_places[w] = top * W + w
            for h in range(top + dh, bottom, dh):
                max_down(x[i, h], h * W, inner, inner_places)
            copy(line, best)
            copy(places, at)
            for s in range(1, S):
                max_along(line[s * dw :], places[s * dw :], best, at)
            for q in range(y.shape[2]):
                y[i, p, q] = best[q * sw]
                argmax[i, p, q] = at[q * sw]


@inline
def split(line: Array, sw: int, phases: Array) -> None:
    """phases[b, j] = line[sw j + b]: windows sw apart start side by side in a phase."""
    if sw == 2:  # a constant stride becomes shuffles
        for j in range(phases.shape[1]):
            phases[0, j] = line[2 * j]
            phases[1, j] = line[2 * j + 1]
    else:
        for b in range(sw):
            for j in range(phases.shape[1]):
                phases[b, j] = line[sw * j + b]


@inline
def max_at(row: Array, first: int, step: int, best: Array, at: Array) -> None:
    """best_q = max(best_q, row_q), where row_q has the place first + step q."""
    for q in range(best.size):
        v, b, j = row[q], best[q], at[q]
        wins = beats(v, b)
        best[q] = v if wins else b
        at[q] = first + step * q if wins else j


@jit_elementwise
def max_rows(x: Array, g: Geometry, y: Array, argmax: Array) -> None:
    """Images of one row: all windows at once, tap after tap."""
    W, Q = x.shape[2], y.shape[2]
    _, S, _, sw, _, pw, _, dw = g
    length = (line_length(W, Q, S, sw, pw, dw) + sw - 1) // sw
    line, phases = np.empty(length * sw, x.dtype), np.empty((sw, length), x.dtype)
    for w in range(line.size):
        line[w] = -np.inf
    outside = (pw + sw - 1) // sw  # so many windows start in the padding
    for i in range(len(x)):
        best, at = y[i, 0], argmax[i, 0]
        copy(x[i, 0], line[pw : pw + W])
        split(line, sw, phases)
        for q in range(Q):
            best[q], at[q] = -np.inf, sw * q - pw
        for q in range(min(outside, Q)):
            at[q] = (sw * q - pw) % dw  # the first tap that lies in the image
        for s in range(S):
            max_at(phases[s * dw % sw, s * dw // sw :], s * dw - pw, sw, best, at)


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
def max_whole_planes(x: Array, y: Array, argmax: Array) -> None:
    """Windows as large as the image; all flat."""
    n = x.size // y.size
    row_maxima(x, n, y)
    row_places(x, n, y, argmax)


@jit_elementwise
def max_backward_planes(dy: Array, argmax: Array, windows: int, size: int, disjoint: bool, dx: Array) -> None:
    """A scatter into planes of ``size`` elements, cleared before as many at a time as fill the L1 cache.

    All flat, and offsets unsigned: views of planes and tests for negative places took most of the time.
    """
    n, m = np.uint64(windows), np.uint64(size)
    planes = np.uint64(dy.size) // n
    block = max(np.uint64(CHUNK) // m, np.uint64(1))
    for first in range(np.uint64(0), planes, block):
        last = min(first + block, planes)
        for e in range(first * m, last * m):
            dx[e] = 0
        for i in range(first, last):
            if disjoint:
                for j in range(i * n, i * n + n):
                    dx[i * m + np.uint64(argmax[j])] = dy[j]
            else:
                for j in range(i * n, i * n + n):
                    dx[i * m + np.uint64(argmax[j])] += dy[j]


@inline
def add(row: Array, total: Array) -> None:
    for w in range(total.size):
        total[w] += row[w]


@jit_elementwise
def avg_planes(x: Array, g: Geometry, down: Array, along: Array, y: Array) -> None:
    """Any geometry; the sum of window (p, q) is multiplied by down_p along_q."""
    _, H, W = x.shape
    R, S, sh, sw, ph, pw, _, _ = g
    line = np.empty(line_length(W, y.shape[2], S, sw, pw, 1), x.dtype)
    clear(line)
    inner, total = line[pw : pw + W], np.empty(line.size - S + 1, x.dtype)
    for i in range(len(x)):
        for p in range(y.shape[1]):
            top, bottom = max(sh * p - ph, 0), min(sh * p - ph + R, H)
            copy(x[i, top], inner)
            for h in range(top + 1, bottom):
                add(x[i, h], inner)
            copy(line, total)
            for s in range(1, S):
                add(line[s:], total)
            for q in range(y.shape[2]):
                y[i, p, q] = total[q * sw] * (down[p] * along[q])


@jit_elementwise
def avg_planes_2x2(x: Array, scale: float, y: Array) -> None:
    for i in range(len(x)):
        for p in range(y.shape[1]):
            upper, lower, row = x[i, 2 * p], x[i, 2 * p + 1], y[i, p]
            for q in range(row.size):
                row[q] = (upper[2 * q] + upper[2 * q + 1] + lower[2 * q] + lower[2 * q + 1]) * scale


@jit_elementwise
def avg_planes_transposed(dy: Array, g: Geometry, down: Array, along: Array, dx: Array) -> None:
    """The two steps backwards: every dy to the S elements of its line, the line to its R rows of dx."""
    _, H, W = dx.shape
    R, S, sh, sw, ph, pw, _, _ = g
    line = np.empty(line_length(W, dy.shape[2], S, sw, pw, 1), dx.dtype)
    starts = np.empty(line.size - S + 1, dx.dtype)  # dy where its window starts, 0 between
    clear(starts)
    for i in range(len(dx)):
        for h in range(H):
            clear(dx[i, h])
        for p in range(dy.shape[1]):
            for q in range(dy.shape[2]):
                starts[q * sw] = dy[i, p, q] * (down[p] * along[q])
            clear(line)
            for s in range(S):
                add(starts, line[s : s + starts.size])
            for h in range(max(sh * p - ph, 0), min(sh * p - ph + R, H)):
                add(line[pw : pw + W], dx[i, h])


@jit_elementwise
def avg_planes_2x2_transposed(dy: Array, scale: float, dx: Array) -> None:
    P, Q = dy.shape[1:]
    for i in range(len(dx)):
        for h in range(dx.shape[1]):
            for w in range(2 * Q if h < 2 * P else 0, dx.shape[2]):
                dx[i, h, w] = 0
        for p in range(P):
            row, upper, lower = dy[i, p], dx[i, 2 * p], dx[i, 2 * p + 1]
            for q in range(Q):  # one row after the other: four streams of stores at once are slower
                upper[2 * q] = row[q] * scale
                upper[2 * q + 1] = row[q] * scale
            for q in range(Q):
                lower[2 * q] = row[q] * scale
                lower[2 * q + 1] = row[q] * scale


# --- drivers: planes dealt to threads ---


@jit_parallel
def max_parallel(x: Array, g: Geometry, share: int, y: Array, argmax: Array) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        max_planes(x[i:j], g, y[i:j], argmax[i:j])


@jit_parallel
def max_parallel_rows(x: Array, g: Geometry, share: int, y: Array, argmax: Array) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        max_rows(x[i:j], g, y[i:j], argmax[i:j])


@jit_parallel
def max_parallel_2x2(x: Array, share: int, y: Array, argmax: Array) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        max_planes_2x2(x[i:j], y[i:j], argmax[i:j])


@jit_parallel
def max_parallel_whole(x: Array, share: int, y: Array, argmax: Array) -> None:
    n = x.size // y.size
    for c in prange((y.size + share - 1) // share):
        i, j = c * share, (c + 1) * share
        max_whole_planes(x[i * n : j * n], y[i:j], argmax[i:j])


@jit_parallel
def max_backward_parallel(
    dy: Array, argmax: Array, windows: int, size: int, disjoint: bool, share: int, dx: Array
) -> None:
    for c in prange((dx.size + share * size - 1) // (share * size)):
        i, j = c * share * windows, (c + 1) * share * windows
        part = dx[c * share * size : (c + 1) * share * size]
        max_backward_planes(dy[i:j], argmax[i:j], windows, size, disjoint, part)


@jit_parallel
def avg_parallel(x: Array, g: Geometry, down: Array, along: Array, share: int, y: Array) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        avg_planes(x[i:j], g, down, along, y[i:j])


@jit_parallel
def avg_parallel_2x2(x: Array, scale: float, share: int, y: Array) -> None:
    for c in prange((len(x) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        avg_planes_2x2(x[i:j], scale, y[i:j])


@jit_parallel
def avg_backward_parallel(dy: Array, g: Geometry, down: Array, along: Array, share: int, dx: Array) -> None:
    for c in prange((len(dx) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        avg_planes_transposed(dy[i:j], g, down, along, dx[i:j])


@jit_parallel
def avg_backward_parallel_2x2(dy: Array, scale: float, share: int, dx: Array) -> None:
    for c in prange((len(dx) + share - 1) // share):
        i, j = c * share, (c + 1) * share
        avg_planes_2x2_transposed(dy[i:j], scale, dx[i:j])


# --- bodies ---

Planes = tuple[int, int, int]


class Plan(NamedTuple):
    """What sizes alone decide."""

    shape: tuple[int, int, int, int]  # of y
    x_planes: Planes  # (N C, H, W)
    y_planes: Planes
    whole: bool  # there are images, and one window covers each
    one_row: bool  # of images and of windows
    side_by_side: bool  # 2x2 windows, none over the edge
    serial: bool
    share: int  # planes of a task


@lru_cache(maxsize=256)
def plan(x: tuple[int, ...], g: Geometry, ceil_mode: bool) -> Plan:
    """Return the plan for images of shape x (N, C, H, W)."""
    N, C, H, W = x
    _, _, P, Q = shape = out_shape(x, g, ceil_mode)
    serial, share = N * C * H * W < SERIAL_BELOW, share_of(N * C, H * W)
    whole = N * C > 0 and g[:2] == (H, W) and g[4:] == (0, 0, 1, 1)
    one_row = H == P == g[0] == 1
    side_by_side = g == SIDE_BY_SIDE and 2 * P <= H and 2 * Q <= W
    return Plan(shape, (N * C, H, W), (N * C, P, Q), whole, one_row, side_by_side, serial, share)


@lru_cache(maxsize=256)
def factors(
    x: tuple[int, ...], y: tuple[int, ...], g: Geometry, include_pad: bool, override: int | None, dtype: Any
) -> tuple[Array, Array]:
    """Return what sums are multiplied by: a factor for each row and one for each column of windows."""
    rows, columns = divisors(x, y, g, include_pad, override)
    return (1 / rows).astype(dtype), (1 / columns).astype(dtype)


def max_pool2d_forward_tuned(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    g = geometry(kernel_size, stride, padding, dilation)
    shape, x_planes, y_planes, whole, one_row, side_by_side, serial, share = plan(x.shape, g, ceil_mode)
    y, argmax = empty(shape, x.dtype), empty(shape, PLACE)
    if whole:
        flat = y.ravel(), argmax.ravel()
        if serial:
            max_whole_planes(x.ravel(), *flat)
        else:
            max_parallel_whole(x.ravel(), share, *flat)
        return y, argmax
    given, planes = x.reshape(x_planes), (y.reshape(y_planes), argmax.reshape(y_planes))
    if side_by_side:
        if serial:
            max_planes_2x2(given, *planes)
        else:
            max_parallel_2x2(given, share, *planes)
    elif one_row:
        if serial:
            max_rows(given, g, *planes)
        else:
            max_parallel_rows(given, g, share, *planes)
    elif serial:
        max_planes(given, g, *planes)
    else:
        max_parallel(given, g, share, *planes)
    return y, argmax


def max_pool2d_backward_tuned(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool],
    *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    R, S, sh, sw, _, _, dh, dw = geometry(kernel_size, stride, padding, dilation)
    return (places_transposed(dy, outputs[1], inputs[0].shape, sh > dh * (R - 1) and sw > dw * (S - 1)),)


def places_transposed(dy: Array, argmax: Array, shape: tuple[int, ...], disjoint: bool) -> Array:
    """Return dx of ``shape`` (N, C, H, W), with every dy added at its place in its plane."""
    N, C, H, W = shape
    _, _, P, Q = dy.shape
    dx = empty(shape, dy.dtype)
    given = dy.ravel(), argmax.ravel(), P * Q, H * W, disjoint
    if dx.size < SERIAL_BELOW:
        max_backward_planes(*given, dx.ravel())
    else:
        max_backward_parallel(*given, share_of(N * C, H * W), dx.ravel())
    return dx


def avg_pool2d_forward_tuned(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> tuple[Array, ...]:  # fmt: skip
    g = geometry(kernel_size, stride, padding)
    shape, x_planes, y_planes, whole, _, side_by_side, serial, share = plan(x.shape, g, ceil_mode)
    if whole and divisor_override is None:
        return mean_tuned.forward(x, (2, 3), True)
    y = empty(shape, x.dtype)
    given, planes = x.reshape(x_planes), y.reshape(y_planes)
    if side_by_side:
        scale = x.dtype.type(1 / (divisor_override or 4))
        if serial:
            avg_planes_2x2(given, scale, planes)
        else:
            avg_parallel_2x2(given, scale, share, planes)
        return (y,)
    scales = factors(x.shape, shape, g, count_include_pad, divisor_override, x.dtype)
    if serial:
        avg_planes(given, g, *scales, planes)
    else:
        avg_parallel(given, g, *scales, share, planes)
    return (y,)


def avg_pool2d_backward_tuned(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> tuple[Array | None, ...]:  # fmt: skip
    if not needs[0]:
        return (None,)
    (x,) = inputs
    g = geometry(kernel_size, stride, padding)
    shape, x_planes, y_planes, whole, _, side_by_side, serial, share = plan(x.shape, g, ceil_mode)
    if whole and divisor_override is None:
        assert mean_tuned.backward is not None
        return mean_tuned.backward(dy, outputs, inputs, needs, (2, 3), True)
    dx = empty(x.shape, dy.dtype)
    given, planes = dy.reshape(y_planes), dx.reshape(x_planes)
    if side_by_side:
        scale = dy.dtype.type(1 / (divisor_override or 4))
        if serial:
            avg_planes_2x2_transposed(given, scale, planes)
        else:
            avg_backward_parallel_2x2(given, scale, share, planes)
        return (dx,)
    scales = factors(x.shape, shape, g, count_include_pad, divisor_override, dy.dtype)
    if serial:
        avg_planes_transposed(given, g, *scales, planes)
    else:
        avg_backward_parallel(given, g, *scales, share, planes)
    return (dx,)
