"""conv2d forward and dx, directly: sums of shifted rows (see ``planes``) in the matrix product's tiles.

    forward  y[k]  = sum over taps of w[k, t] x[t]         rows: K filters, taps (c, r, s)
    dx       dx[c] = sum over taps of w[t, c] dy[t]        rows: C channels, taps (k, r, s) read backwards

A task is one chunk of rows of one image: it packs the input rows it needs and computes all channels, or a
share of them where chunks are few, MR at a time. Every result is computed by one task alone, so nothing
depends on the number of threads.

Bound: 2 N K C R S P Q FLOPs each; of the pixels computed, Q / pitch are useful.
"""

from numpy.typing import DTypeLike

from nnkernels.machine.jit import flag, jit_parallel, jit_tuned, prange, scalars, signed
from nnkernels.machine.memory import Array, empty, zeros
from nnkernels.machine.simd import VECTORS, U, lanes_of
from nnkernels.ops.conv2d.planes import (
    CORRELATION,
    Correlation,
    Plan,
    forward_plan,
    gradient_plan,
    pack_planes,
    planes_size,
    unpack_rows,
)  # fmt: skip
from nnkernels.ops.conv2d.shapes import SLOTS, Pair, no_bias
from nnkernels.ops.matmul.micro import MR, block_product

SMALL = 1 << 14  # weights that NumPy rearranges in less time than threads take to start


@jit_tuned
def correlate_chunk(
    w: Array, b: Array, parts: Array, offsets: Array, g: Correlation, n: int, first: int, share: int,
    src: Array, base: int, sums: Array, y: Array,
) -> None:  # fmt: skip
    """Compute the rows from ``first`` on of image n, a share of the channels, from the planes in src."""
    channels, filters = g.C // g.groups * g.phases_h * g.phases_w, g.K // g.groups
    panels = (filters + MR - 1) // MR
    low, high = panels * share // g.shares * MR, min(filters, panels * (share + 1) // g.shares * MR)
    for part in range(len(parts)):
        P, Q, row, column, start, first_tap, T, first_weight = parts[part]
        rows = min(g.rows, P - first)
        at, row = offsets[first_tap : first_tap + T], row + first * g.row_step
        length = (rows - 1) * g.pitch + Q
        for group in range(g.groups if rows > 0 else 0):
            j = U(base + start + group * channels * g.plane)
            for k in range(group * filters + low, group * filters + high, MR):
                m = min(MR, group * filters + high - k)
                block_product(
                    w, U(first_weight + k * T), signed(0), U(T), U(1), m,
                    src, j, VECTORS * lanes_of(y), at, length, T, signed(1), U(0), U(0),
                    sums, U(0), U(length), flag(False),
                )  # fmt: skip
                unpack_rows(sums, length, b, g, Q, n, k, m, rows, row, column, y)


@jit_tuned
def correlate_slot(
    slot: int, slots: int, x: Array, w: Array, b: Array, parts: Array, offsets: Array, sizes: Array,
    common: Array, work: Array, y: Array,
) -> None:  # fmt: skip
    """Compute every ``slots``-th share of a chunk; ``common`` has the planes where shares are several."""
    g = Correlation(*scalars(sizes, CORRELATION))
    size = planes_size(g)
    planes, sums = work[:size], work[size:]
    if g.shares > 1:
        planes, sums = common, work
    else:
        planes[:] = 0
    chunks = (g.P + g.rows - 1) // g.rows
    for task in range(slot, g.N * chunks * g.shares, slots):
        chunk, share = task // g.shares, task % g.shares
        n, first = chunk // chunks, chunk % chunks * g.rows
        if not g.packed:
            base = n * g.C * g.H * g.W + first * g.W
            correlate_chunk(w, b, parts, offsets, g, n, first, share, x, base, sums, y)
            continue
        if g.shares == 1:
            pack_planes(x, g, n, first, signed(0), g.C, planes, signed(0))
        base = chunk * size if g.shares > 1 else signed(0)
        correlate_chunk(w, b, parts, offsets, g, n, first, share, planes, base, sums, y)


@jit_tuned
def pack_for_all(task: int, x: Array, sizes: Array, common: Array) -> None:
    """Pack one of SLOTS parts of the channels of a chunk."""
    g = Correlation(*scalars(sizes, CORRELATION))
    chunk, part, chunks = task // SLOTS, task % SLOTS, (g.P + g.rows - 1) // g.rows
    low, high, base = g.C * part // SLOTS, g.C * (part + 1) // SLOTS, chunk * planes_size(g)
    channel = g.phases_h * g.phases_w * g.plane
    common[base + low * channel : base + high * channel] = 0
    pack_planes(x, g, chunk // chunks, chunk % chunks * g.rows, low, high, common, base)


@jit_tuned
def correlate_serial(
    x: Array, w: Array, taps: Array, weights: Array, b: Array, parts: Array, offsets: Array, sizes: Array,
    work: Array, y: Array,
) -> None:  # fmt: skip
    """Rearrange the weights, unless ``taps`` is empty and they are w itself; compute all chunks."""
    for i in range(taps.size):
        weights[i] = w[taps[i]]
    correlate_slot(signed(0), len(work), x, weights, b, parts, offsets, sizes, work[0], work[0], y)


@jit_parallel
def correlate_parallel(
    packs: int, x: Array, w: Array, b: Array, parts: Array, offsets: Array, sizes: Array, common: Array,
    work: Array, y: Array,
) -> None:  # fmt: skip
    for task in prange(packs):
        pack_for_all(signed(task), x, sizes, common)
    for slot in prange(len(work)):
        correlate_slot(signed(slot), len(work), x, w, b, parts, offsets, sizes, common, work[slot], y)


def correlate(plan: Plan, x: Array, w: Array, b: Array | None, y: Array) -> None:
    """Write the correlation of x with the weights w to the pixels of y that the plan names."""
    sizes, values, slots, space, parts, offsets, taps = plan
    dtype = x.dtype
    bias = no_bias(sizes.K, dtype.char) if b is None else b
    x, w, y, work = x.reshape(-1), w.reshape(-1), y.reshape(-1), empty((slots, space), dtype)
    if slots == 1:
        weights = empty((taps.size,), dtype) if taps.size else w
        correlate_serial(x, w, taps, weights, bias, parts, offsets, values, work, y)
        return
    if taps.size:
        w = rearranged(w, taps)
    chunks = sizes.N * -(-sizes.P // sizes.rows) if sizes.shares > 1 and sizes.packed else 0
    common = empty((chunks * planes_size(sizes),), dtype)
    correlate_parallel(chunks * SLOTS, x, w, bias, parts, offsets, values, common, work, y)


def rearranged(w: Array, taps: Array) -> Array:
    """Return w[taps]."""
    if taps.size < SMALL:
        return w[taps]
    weights = empty(taps.shape, w.dtype)
    gather(w, taps, weights)
    return weights


@jit_parallel
def gather(w: Array, taps: Array, weights: Array) -> None:
    for i in prange(taps.size):
        weights[i] = w[taps[i]]


def forward(
    x: Array, w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair, groups: int, relu: bool
) -> Array:
    """Return y (N, K, P, Q)."""
    plan = forward_plan(x.shape, w.shape, stride, padding, dilation, groups, relu)
    g = plan.sizes
    y = empty((g.N, g.K, g.height, g.width), x.dtype)
    if y.size:
        correlate(plan, x, w, b, y)
    return y


def result_of(plan: Plan, stride: Pair, shape: tuple[int, ...], b: Array | None, dtype: DTypeLike) -> Array:
    """Return where a gradient goes: with a stride, b (C), or 0, where no window may read."""
    if stride == (1, 1) and len(plan.parts):
        return empty(shape, dtype)
    dx = zeros(shape, dtype)
    if b is not None:
        dx += b[:, None, None]
    return dx


def input_gradient(
    dy: Array, shape: tuple[int, ...], w: Array, b: Array | None, stride: Pair, padding: Pair, dilation: Pair,
    groups: int,
) -> Array:  # fmt: skip
    """Return dx of the given shape (N, C, H, W), plus b (C) if there is one."""
    plan = gradient_plan(shape, w.shape, stride, padding, dilation, groups)
    dx = result_of(plan, stride, shape, b, dy.dtype)
    if len(plan.parts):  # none: every window lies in the padding
        correlate(plan, dy, w, b, dx)
    return dx
