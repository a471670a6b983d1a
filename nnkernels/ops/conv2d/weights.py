"""conv2d's dw[k, c, r, s] = sum over n, p, q of dy[n, k, p, q] x[n, c, p + r, q + s], and its db.

A matrix product over pixels: rows are filters, and dy has them as they should be, one filter's pixels in a
row. Columns are taps, so each pixel needs its taps side by side. In an image with its channels last, the taps
(s, c) of a filter row are: pixel (p, q) and the S - 1 pixels to its right. Nothing is copied twice. Where
channels are few, a filter row alone would leave vectors half empty; then the R image rows under a filter are
laid side by side as if they were channels, and all taps (s, c, r) are one run.

Partial sums: chunks of images are dealt to ``slots`` with a dw each, which are added up in order, and the
filters are cut into ``parts``; both numbers depend on sizes alone. Of small images, several are summed before
a tile of sums is stored. Bound: 2 N K C R S P Q FLOPs.
"""

from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.jit import flag, jit_elementwise, jit_parallel, jit_tuned, prange, scalars, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, U, lanes_of
from nnkernels.machine.transpose import transpose
from nnkernels.ops.conv2d.shapes import Pair, out_length
from nnkernels.ops.matmul.gemm import SERIAL_BELOW
from nnkernels.ops.matmul.micro import MR, block_product

TASKS = 8
FEW = 48  # taps (s, c) of a filter row: with fewer, rows are laid side by side
SLOT_ELEMENTS = 1 << 16  # of dw: larger ones are not worth keeping several times
SHARED_ELEMENTS = 1 << 24  # of all packed chunks: 64 MiB of float32
FEW_NUMBERS = 40  # of a pixel: transposing blocks of so few is not worth its shuffles
PIXELS = 224  # output pixels of a chunk: the depth of a tile's sums


class Sizes(NamedTuple):
    """Sizes of one weight gradient."""

    N: int
    C: int  # channels of one group
    H: int
    W: int
    K: int
    R: int
    S: int
    P: int
    Q: int
    sh: int
    sw: int
    ph: int
    pw: int
    dh: int
    dw: int
    groups: int
    together: int  # filter rows laid side by side: 1 or R
    run_s: int  # filter columns in a run: S, or 1 where a dilation keeps them apart
    depth: int  # numbers of a packed pixel: C * together
    rows: int  # output rows of a chunk
    packed_rows: int
    width: int  # packed pixels of a row
    row_step: int  # packed rows from one output row to the next
    slots: int
    parts: int
    shared: bool  # all chunks are packed first: several parts would each pack them again
    terms: int  # images summed in one go


SIZES = len(Sizes._fields)


class Tables(NamedTuple):
    """Offsets that kernels go by."""

    at: Array  # where the runs of a chunk's output pixels begin
    numbers: Array  # where a packed pixel's numbers come from: their distance in x from the first
    pixels: Array  # where the packed pixels of a row begin
    places: Array  # where in a slot's sums the element (0, c, r, s) of dw is


class Plan(NamedTuple):
    """What one call needs."""

    sizes: Sizes
    values: Array  # the same, for kernels
    tables: Tables
    packed: tuple[int, int]  # shapes of the workspaces: packed chunks, and a dw for each slot
    partial: tuple[int, int]


def dealt_out(chunks: int, most: int, panels: int) -> tuple[int, int]:
    """Return how many slots (at most ``most``) and parts (of ``panels``) keep all threads busiest."""

    def busy(slots: int) -> tuple[float, int]:
        """Return the share of the time that no task waits for another, and as a tie-breaker the slots."""
        tasks = slots * parts(slots)
        even = chunks / (-(-chunks // slots) * slots) * tasks / (tasks + tasks % 2)
        return even * min(1, tasks / TASKS), slots

    def parts(slots: int) -> int:
        return max(1, min(-(-TASKS // slots), panels))

    slots = max(range(1, most + 1), key=busy)
    return slots, parts(slots)


@lru_cache(maxsize=256)
def weight_plan(
    x: tuple[int, ...], w: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair, groups: int
) -> Plan:
    """Return the plan of dw for shapes x (N, C, H, W) and w (K, C / groups, R, S)."""
    (N, _, H, W), (K, C, R, S) = x, w
    (sh, sw), (ph, pw), (dh, dw) = stride, padding, dilation
    P, Q = out_length(H, R, sh, ph, dh), out_length(W, S, sw, pw, dw)
    chunks = max(1, min(P, -(-P * Q // PIXELS)))
    rows = max(1, -(-P // chunks))
    if N * K * P * Q * C * R * S < SERIAL_BELOW:
        slots = parts = 1
    else:
        most = max(1, min(N * -(-P // rows), TASKS, TASKS * SLOT_ELEMENTS // (K * C * R * S)))
        slots, parts = dealt_out(N * -(-P // rows), most, -(-(K // groups) // MR))
    together = R if C * S < FEW else 1
    packed_rows = rows if together > 1 else (rows - 1) * sh + dh * (R - 1) + 1
    depth, width, row_step = C * together, W + 2 * pw, 1 if together > 1 else sh
    every = N * -(-P // rows) * packed_rows * width * depth
    shared = parts > 1 and groups == 1 and every <= SHARED_ELEMENTS
    terms = max(1, PIXELS // (P * Q)) if shared and rows == P else 1
    p, q = np.ogrid[:rows, :Q]
    at = (p * row_step * width + q * sw) * depth
    # A slot's sums: [r // together, s // run_s, k, s % run_s, c, r % together]
    run_s = S if dw == 1 else 1
    c, r, s = np.ogrid[:C, :R, :S]
    numbers = ((c * H + r * dh) * W)[:, :together, 0]
    places = ((r // together * (S // run_s) + s // run_s) * K * run_s + s % run_s) * depth
    places = places + c * together + r % together
    sizes = Sizes(
        N, C, H, W, K, R, S, P, Q, sh, sw, ph, pw, dh, dw, groups, together, run_s, depth,
        rows, packed_rows, width, row_step, slots, parts, shared, terms,
    )  # fmt: skip
    packed = (N * -(-P // rows) if shared else slots * parts, packed_rows * width * depth)
    partial = (slots, K * C * R * S)
    pixels = np.arange(W) * depth
    tables = (a.reshape(-1).astype(np.uint64) for a in (at, numbers, pixels, places))
    return Plan(sizes, np.array(sizes, np.int64), Tables(*tables), packed, partial)


@jit_elementwise
def pack_pixels(
    x: Array, numbers: Array, pixels: Array, g: Sizes, n: int, group: int, first: int, out: Array
) -> None:
    """Write the input rows under the output rows from ``first`` on, all numbers of a pixel side by side."""
    L, border, width = lanes_of(x), g.pw * g.depth, g.W * g.depth
    limits = np.empty(g.depth, np.int64)
    for i in range(g.packed_rows):
        h = first * g.sh + i * (g.sh if g.together > 1 else 1) - g.ph
        for c in range(g.C):
            for r in range(g.together):
                limits[c * g.together + r] = g.W if 0 <= h + r * g.dh < g.H else 0
        row = i * g.width * g.depth
        for e in range(U(border)):
            out[U(row) + e] = 0
            out[U(row + border + width) + e] = 0
        at = ((n * g.groups + group) * g.C * g.H + h) * g.W
        if g.depth <= FEW_NUMBERS:
            copy_columns(x, at, numbers, limits, out, row + border, g.W)
            continue
        for j in range(0, g.W, L):
            for d in range(0, g.depth, L):
                m, columns = min(L, g.depth - d), min(L, g.W - j)
                transpose(x, at, numbers, limits, d, m, j, columns, out, row + border + d, pixels)


@jit_elementwise
def copy_columns(x: Array, i: int, at: Array, limits: Array, out: Array, to: int, n: int) -> None:
    """As ``transpose`` for n columns of all rows, one row after the other."""
    step = U(limits.size)
    for d in range(U(limits.size)):
        o = U(to) + d
        if limits[d] == 0:
            for j in range(U(n)):
                out[o + j * step] = 0
        else:
            first = U(i + int(at[d]))
            for j in range(U(n)):
                out[o + j * step] = x[first + j]


@jit_tuned
def dw_chunks(
    dy: Array, x: Array, t: Tables, g: Sizes, chunk: int, terms: int, low: int, high: int, packed: Array,
    dw: Array,
) -> None:  # fmt: skip
    """Add to the filters low to high - 1 of each group what a chunk gives, and terms - 1 more of the slot."""
    NR, run, size = VECTORS * lanes_of(dw), g.run_s * g.depth, g.packed_rows * g.width * g.depth
    chunks = (g.P + g.rows - 1) // g.rows
    n, first = chunk // chunks, chunk % chunks * g.rows
    depth = min(g.rows, g.P - first) * g.Q
    for group in range(g.groups):
        if not g.shared:
            pack_pixels(x, t.numbers, t.pixels, g, n, group, first, packed)
        k = group * (g.K // g.groups) + low
        i = U(((n * g.K + k) * g.P + first) * g.Q)
        j = U(chunk * size if g.shared else 0)
        for r in range(g.R // g.together):
            for s in range(g.S // g.run_s):
                block_product(
                    dy, i, MR * g.P * g.Q, U(g.P * g.Q), U(1), high - low,
                    packed, j + U((r * g.dh * g.width + s * g.dw) * g.depth), NR, t.at, run, depth,
                    terms, U(g.slots * g.K * g.P * g.Q), U(g.slots * size),
                    dw, U(((r * (g.S // g.run_s) + s) * g.K + k) * run), U(run), flag(True),
                )  # fmt: skip


@jit_tuned
def dw_task(
    task: int, dy: Array, x: Array, at: Array, numbers: Array, pixels: Array, places: Array, sizes: Array,
    packed: Array, partial: Array, dw: Array,
) -> None:  # fmt: skip
    """Sum a slot's chunks of images for a part of the filters; with one slot, that is dw."""
    g, t = Sizes(*scalars(sizes, SIZES)), Tables(at, numbers, pixels, places)
    slot, part, filters = task // g.parts, task % g.parts, g.K // g.groups
    panels = (filters + MR - 1) // MR
    low, high = panels * part // g.parts * MR, min(filters, panels * (part + 1) // g.parts * MR)
    chunks = g.N * ((g.P + g.rows - 1) // g.rows)
    own, run = packed.reshape(-1) if g.shared else packed[task], g.run_s * g.depth
    for k in range(0, partial.shape[1], filters * run):  # every set of filters of a run of taps
        for e in range(U(k + low * run), U(k + high * run)):
            partial[U(slot), e] = 0
    for chunk in range(slot, chunks, g.slots * g.terms):
        terms = min(g.terms, (chunks - chunk + g.slots - 1) // g.slots)
        dw_chunks(dy, x, t, g, chunk, terms, low, high, own, partial[slot])
    if g.slots == 1:
        for group in range(g.groups):
            for k in range(group * filters + low, group * filters + high):
                gather_filter(partial, t.places, g, k, dw)


@jit_tuned
def gather_filter(partial: Array, places: Array, g: Sizes, k: int, dw: Array) -> None:
    """Add up the slots' sums of filter k, slot by slot, and write them as dw[k, c, r, s]."""
    first, to = U(k * g.run_s * g.depth), U(k * places.size)
    for e in range(U(places.size)):
        dw[to + e] = partial[0, first + places[e]]
    for slot in range(1, g.slots):
        for e in range(U(places.size)):
            dw[to + e] += partial[slot, first + places[e]]


@jit_tuned
def pack_chunk(chunk: int, x: Array, numbers: Array, pixels: Array, sizes: Array, packed: Array) -> None:
    """Pack a chunk that several parts will read."""
    g = Sizes(*scalars(sizes, SIZES))
    chunks = (g.P + g.rows - 1) // g.rows
    pack_pixels(x, numbers, pixels, g, chunk // chunks, signed(0), chunk % chunks * g.rows, packed[chunk])


@jit_tuned
def finish_filter(
    k: int, dy: Array, places: Array, sizes: Array, partial: Array, dw: Array, db: Array
) -> None:
    """Write what is left to write of dw and db of filter k."""
    g = Sizes(*scalars(sizes, SIZES))
    if g.slots > 1:
        gather_filter(partial, places, g, k, dw)
    if db.size > 0:
        db[k] = bias_gradient(dy, g, k)


@jit_tuned
def dw_serial(
    tasks: int, filters: int, shared: bool, dy: Array, x: Array, at: Array, numbers: Array, pixels: Array,
    places: Array, sizes: Array, packed: Array, partial: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    for task in range(tasks):
        dw_task(task, dy, x, at, numbers, pixels, places, sizes, packed, partial, dw)
    for k in range(filters):
        finish_filter(k, dy, places, sizes, partial, dw, db)


@jit_parallel
def dw_parallel(
    tasks: int, filters: int, shared: bool, dy: Array, x: Array, at: Array, numbers: Array, pixels: Array,
    places: Array, sizes: Array, packed: Array, partial: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    for chunk in prange(len(packed) if shared else 0):
        pack_chunk(signed(chunk), x, numbers, pixels, sizes, packed)
    for task in prange(tasks):
        dw_task(signed(task), dy, x, at, numbers, pixels, places, sizes, packed, partial, dw)
    for k in prange(filters):
        finish_filter(signed(k), dy, places, sizes, partial, dw, db)


@jit_tuned
def bias_gradient(dy: Array, g: Sizes, k: int) -> Any:
    """Return db[k] = sum over n, p, q of dy[n, k, p, q]."""
    total, pixels = dy.dtype.type(0), U(g.P * g.Q)
    for n in range(g.N):
        at = U(n * g.K + k) * pixels
        for q in range(pixels):
            total += dy[at + q]
    return total


def weight_gradients(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int, bias: bool
) -> tuple[Array, Array]:
    """Return dw (K, C / groups, R, S) and, if asked for, db (K)."""
    if not dy.size:
        return np.zeros_like(w), np.zeros(len(w), w.dtype)
    plan = weight_plan(x.shape, w.shape, stride, padding, dilation, groups)
    g, dtype = plan.sizes, w.dtype
    packed, partial = empty(plan.packed, dtype), empty(plan.partial, dtype)
    dw, db = empty(w.shape, dtype), empty((g.K if bias else 0,), dtype)
    tasks = g.slots * g.parts
    run = dw_serial if tasks == 1 else dw_parallel
    run(
        tasks, g.K, g.shared, dy.reshape(-1), x.reshape(-1), *plan.tables, plan.values, packed, partial,
        dw.reshape(-1), db,
    )  # fmt: skip
    return dw, db
