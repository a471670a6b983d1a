"""3 x 3 convolution with fewer multiplications: F(m x m, 3 x 3) after Winograd, m = 4 or 2.

An m x m patch of outputs needs an n x n patch d of inputs, n = m + 2. In one dimension (Toom and Cook): the m
outputs are m coefficients of a product of polynomials, which is known once its values at n points are known;
B^T takes inputs to such values, G the filter, A^T comes back. In two dimensions, for each patch:

    y = A^T [ sum over c of (G w G^T) (B^T d B) ] A         the bracket: lane by lane over the n^2 values

Per output, m = 4 multiplies 36 / 16 = 2.25 times instead of 9, m = 2 multiplies 4 times. For every one of the
n^2 values, the sum over c is a matrix product (patches x C) (C x K): the micro-kernel's. Transforms work on
vectors of channels, so patches are packed with channels last.

The price: the points 0, 1, -1, 2, -2 make numbers of different size meet, and rounding errors grow. Largest
error in float32 with up to 256 channels, relative to the largest output: below 3e-5 for m = 4, 3e-6 for
m = 2, 6e-6 direct (one sum of nine times as many terms). Half of that was measured.

Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, CVPR 2016.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from nnkernels.machine.jit import flag, jit_elementwise, jit_parallel, jit_tuned, prange, signed
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, U, lanes, lanes_of, load, store
from nnkernels.machine.transpose import transpose
from nnkernels.ops.conv2d.shapes import SLOTS, no_bias
from nnkernels.ops.matmul.gemm import row_offsets
from nnkernels.ops.matmul.micro import MR, block_product

PATCHES = 56  # of a task, about: their n^2 values fit an L2 cache at 64 channels
APART = 16  # elements between planes of values: multiples of 4 KiB would meet in the same cache lines
BLOCK = 16  # channels whose filters are transformed in one go: their taps are whole vectors
DEEP = 1 << 20  # transformed filters: 4 MiB of float32, several L2 caches


PART = 9 * BLOCK + 18  # rows of a panel that transforming filters needs: all taps, and half a transform


class Sizes(NamedTuple):
    """Sizes of one convolution by patches of m x m outputs."""

    N: int
    C: int
    H: int
    W: int
    K: int
    P: int
    Q: int
    ph: int
    pw: int
    m: int
    n: int  # m + 2
    down: int  # rows of patches per image
    across: int  # patches per row
    tasks: int  # of rows of patches, counted through all images
    rows: int  # of a task, at most
    width: int  # pixels of a packed row
    panel: int  # filters of a panel
    panels: int
    from_k: int  # filter (k, c) begins at w[k from_k + c from_c], and is turned around if flip
    from_c: int
    flip: bool
    relu: bool


@lru_cache(maxsize=256)
def sizes(
    x: tuple[int, ...], K: int, padding: tuple[int, int], m: int, vector: int,
    from_k: int, from_c: int, flip: bool, relu: bool,
) -> Sizes:  # fmt: skip
    """Return the sizes for x (N, C, H, W) and vectors of ``vector`` lanes."""
    N, C, H, W = x
    ph, pw = padding
    P, Q = H + 2 * ph - 2, W + 2 * pw - 2
    down, across = -(-P // m), -(-Q // m)
    most = max(1, -(-PATCHES // across))
    # Among 1 ... most rows, those that fill the tiles' MR rows best; the larger of equals.
    rows = max(range(1, most + 1), key=lambda r: (r * across / (-(-r * across // MR) * MR) > 0.9, r))
    tasks = max(2, -(-N * down // rows))
    # As many as can be dealt out evenly, to slots and to threads.
    tasks = -(-tasks // SLOTS) * SLOTS if tasks > SLOTS else tasks + tasks % 2
    tasks = min(N * down, tasks)
    rows = -(-N * down // tasks)
    # Whole tiles of columns where three vectors divide K well, else of two, which divide more numbers.
    over = K % (VECTORS * vector)
    panel = (VECTORS if over == 0 or over > 2 * vector else 2) * vector
    return Sizes(
        N, C, H, W, K, P, Q, ph, pw, m, m + 2, down, across, tasks, rows, m * across + 2, panel,
        -(-K // panel), from_k, from_c, flip, relu,
    )  # fmt: skip


class Filters(NamedTuple):
    """Where filters are in w, how long they are, and to which rows of a panel their taps go."""

    at: Array
    lengths: Array
    places: Array


@lru_cache(maxsize=256)
def filter_tables(K: int, C: int, from_k: int, panel: int, flip: bool) -> Filters:
    """Return the tables for K filters of C channels: of all channels, turned around of one."""
    taps = np.arange(9 if flip else 9 * C)
    rows = 8 - taps if flip else taps % (9 * BLOCK)
    return Filters(row_offsets(K, from_k), np.full(K, taps.size), (rows * panel).astype(np.uint64))


# --- the transforms, one lane per channel ---


@jit_elementwise
def input_4(d: Array, i: U, step: U, out: Array, o: U, out_step: U, count: int) -> None:
    """out = B^T d for 6 rows of ``count`` numbers, ``step`` apart."""
    for c in range(0, count, lanes_of(d)):
        at, to, n = i + U(c), o + U(c), count - c
        d0, d1, d2 = load(d, at, n), load(d, at + step, n), load(d, at + U(2) * step, n)
        d3, d4, d5 = load(d, at + U(3) * step, n), load(d, at + U(4) * step, n), load(d, at + U(5) * step, n)
        even, odd = d4 - 4 * d2, d3 - 4 * d1
        even_2, odd_2 = d4 - d2, 2 * (d3 - d1)
        store(4 * d0 - 5 * d2 + d4, out, to, n)
        store(even + odd, out, to + out_step, n)
        store(even - odd, out, to + U(2) * out_step, n)
        store(even_2 + odd_2, out, to + U(3) * out_step, n)
        store(even_2 - odd_2, out, to + U(4) * out_step, n)
        store(4 * d1 - 5 * d3 + d5, out, to + U(5) * out_step, n)


@jit_elementwise
def input_2(d: Array, i: U, step: U, out: Array, o: U, out_step: U, count: int) -> None:
    """out = B^T d for 4 rows."""
    for c in range(0, count, lanes_of(d)):
        at, to, n = i + U(c), o + U(c), count - c
        d0, d1, d2 = load(d, at, n), load(d, at + step, n), load(d, at + U(2) * step, n)
        d3 = load(d, at + U(3) * step, n)
        store(d0 - d2, out, to, n)
        store(d1 + d2, out, to + out_step, n)
        store(d2 - d1, out, to + U(2) * out_step, n)
        store(d1 - d3, out, to + U(3) * out_step, n)


@jit_elementwise
def output_4(v: Array, i: U, step: U, out: Array, o: U, out_step: U, count: int) -> None:
    """out = A^T v: 6 rows to 4."""
    for c in range(0, count, lanes_of(v)):
        at, to, n = i + U(c), o + U(c), count - c
        v0, v1, v2 = load(v, at, n), load(v, at + step, n), load(v, at + U(2) * step, n)
        v3, v4, v5 = load(v, at + U(3) * step, n), load(v, at + U(4) * step, n), load(v, at + U(5) * step, n)
        even, odd, even_2, odd_2 = v1 + v2, v1 - v2, v3 + v4, v3 - v4
        store(v0 + even + even_2, out, to, n)
        store(odd + 2 * odd_2, out, to + out_step, n)
        store(even + 4 * even_2, out, to + U(2) * out_step, n)
        store(odd + 8 * odd_2 + v5, out, to + U(3) * out_step, n)


@jit_elementwise
def output_2(v: Array, i: U, step: U, out: Array, o: U, out_step: U, count: int) -> None:
    """out = A^T v: 4 rows to 2."""
    for c in range(0, count, lanes_of(v)):
        at, to, n = i + U(c), o + U(c), count - c
        v0, v1, v2 = load(v, at, n), load(v, at + step, n), load(v, at + U(2) * step, n)
        v3 = load(v, at + U(3) * step, n)
        store(v0 + v1 + v2, out, to, n)
        store(v1 - v2 - v3, out, to + out_step, n)


@jit_elementwise
def filter_4(g: Array, i: U, step: U, out: Array, o: U, out_step: U, count: int) -> None:
    """out = G g: 3 rows to 6."""
    for c in range(0, count, lanes_of(g)):
        at, to, n = i + U(c), o + U(c), count - c
        g0, g1, g2 = load(g, at, n), load(g, at + step, n), load(g, at + U(2) * step, n)
        even, odd = (-1 / 6) * (g0 + g2), (1 / 6) * g1
        even_2, odd_2 = (1 / 24) * g0 + (1 / 6) * g2, (1 / 12) * g1
        store(0.25 * g0, out, to, n)
        store(even - odd, out, to + out_step, n)
        store(even + odd, out, to + U(2) * out_step, n)
        store(even_2 + odd_2, out, to + U(3) * out_step, n)
        store(even_2 - odd_2, out, to + U(4) * out_step, n)
        store(g2, out, to + U(5) * out_step, n)


@jit_elementwise
def filter_2(g: Array, i: U, step: U, out: Array, o: U, out_step: U, count: int) -> None:
    """out = G g: 3 rows to 4."""
    for c in range(0, count, lanes_of(g)):
        at, to, n = i + U(c), o + U(c), count - c
        g0, g1, g2 = load(g, at, n), load(g, at + step, n), load(g, at + U(2) * step, n)
        even, odd = 0.5 * (g0 + g2), 0.5 * g1
        store(g0, out, to, n)
        store(even + odd, out, to + out_step, n)
        store(even - odd, out, to + U(2) * out_step, n)
        store(g2, out, to + U(3) * out_step, n)


# --- the steps of a task ---


@jit_tuned
def transform_filters(
    w: Array, t: Filters, g: Sizes, c: int, channels: int, first: int, width: int, part: Array, u: Array,
    plane: U, to: U,
) -> None:  # fmt: skip
    """u[to + (i n + j) plane + channel panel + k] = (G w G^T)[i, j], from channel c, filter ``first`` on."""
    L, row, half = lanes_of(w), U(g.panel), U(9 * BLOCK * g.panel)
    # part[9 channel + tap, filter]; only filters that are not turned around have their channels side by side.
    start, low = (c * g.from_c, 0) if g.flip else (0, 9 * c)
    for k in range(0, width, L):
        for e in range(low, low + 9 * channels, L):
            n = min(L, low + 9 * channels - e)
            transpose(w, start, t.at, t.lengths, first + k, min(L, width - k), e, n, part, k, t.places)
    for channel in range(channels):
        taps, out = U(9 * channel * g.panel), to + U(channel * g.panel)
        for s in range(3):  # columns: 3 x 3 to n x 3
            if g.m == 4:
                filter_4(part, taps + U(s) * row, U(3) * row, part, half + U(s) * row, U(3) * row, width)
            else:
                filter_2(part, taps + U(s) * row, U(3) * row, part, half + U(s) * row, U(3) * row, width)
        for i in range(g.n):  # rows: n x 3 to n x n
            if g.m == 4:
                filter_4(part, half + U(3 * i) * row, row, u, out + U(i * g.n) * plane, plane, width)
            else:
                filter_2(part, half + U(3 * i) * row, row, u, out + U(i * g.n) * plane, plane, width)


@jit_elementwise
def pack_patch_rows(x: Array, g: Sizes, image: int, row: int, pixels: Array) -> None:
    """Write the n input rows under a row of patches as pixels[i, j, c]; zeros at the sides are there."""
    step = U(g.C)
    for i in range(g.n):
        h = row * g.m + i - g.ph
        first = U((i * g.width + g.pw) * g.C)
        length = min(g.W, g.width - g.pw)
        for c in range(g.C):
            to = first + U(c)
            if h < 0 or h >= g.H:
                for j in range(U(length)):
                    pixels[to + j * step] = 0
            else:
                at = U(((image * g.C + c) * g.H + h) * g.W)
                for j in range(U(length)):
                    pixels[to + j * step] = x[at + j]


@jit_tuned
def transform_input(pixels: Array, g: Sizes, t: int, patches: int, part: Array, v: Array) -> None:
    """v[i, j, t + q, :] = (B^T d B)[i, j] for the patches q of a row."""
    n, C = g.n, U(g.C)
    plane = U(patches) * C + U(APART)
    for q in range(g.across):
        for j in range(n):
            at = U(q * g.m + j) * C
            if g.m == 4:
                input_4(pixels, at, U(g.width) * C, part, U(j) * C, U(n) * C, g.C)
            else:
                input_2(pixels, at, U(g.width) * C, part, U(j) * C, U(n) * C, g.C)
        for i in range(n):
            to = U(i * n) * plane + U(t + q) * C
            if g.m == 4:
                input_4(part, U(i * n) * C, C, v, to, plane, g.C)
            else:
                input_2(part, U(i * n) * C, C, v, to, plane, g.C)


@jit_tuned
def transform_output(
    sums: Array, g: Sizes, t: int, patches: int, width: int, part: Array, pixels: Array
) -> None:
    """pixels[i, q m + j, :] = (A^T sums A)[i, j] for the patches q of a row; ``width`` channels."""
    n, m, K = g.n, g.m, U(width)
    plane = U(patches) * K
    for q in range(g.across):
        for j in range(n):
            at = U(j) * plane + U(t + q) * K
            if m == 4:
                output_4(sums, at, U(n) * plane, part, U(j) * K, U(n) * K, width)
            else:
                output_2(sums, at, U(n) * plane, part, U(j) * K, U(n) * K, width)
        for i in range(m):
            to = U(i * g.width + q * m) * K
            if m == 4:
                output_4(part, U(i * n) * K, K, pixels, to, K, width)
            else:
                output_2(part, U(i * n) * K, K, pixels, to, K, width)


@jit_elementwise
def unpack_patch_rows(
    pixels: Array, b: Array, g: Sizes, image: int, row: int, first: int, width: int, y: Array
) -> None:
    """Write the m output rows of a row of patches, with the bias, as y[n, k, p, q], k from ``first`` on."""
    step = U(width)
    for i in range(min(g.m, g.P - row * g.m)):
        for k in range(width):
            at, bias = U(i * g.width * width + k), b[first + k]
            to = U(((image * g.K + first + k) * g.P + row * g.m + i) * g.Q)
            if g.relu:
                for q in range(U(g.Q)):
                    y[to + q] = max(pixels[at + q * step] + bias, bias * 0)
            else:
                for q in range(U(g.Q)):
                    y[to + q] = pixels[at + q * step] + bias


# --- shallow: all filters are transformed once, then blocks of patches go through the L2 cache ---


@jit_tuned
def block_of_patches(
    task: int, x: Array, u: Array, b: Array, at: Array, g: Sizes,
    pixels: Array, out: Array, part: Array, v: Array, sums: Array, y: Array,
) -> None:  # fmt: skip
    first, end = g.N * g.down * task // g.tasks, g.N * g.down * (task + 1) // g.tasks
    patches = (end - first) * g.across
    for row in range(first, end):
        pack_patch_rows(x, g, row // g.down, row % g.down, pixels)
        transform_input(pixels, g, (row - first) * g.across, patches, part, v)
    for value in range(g.n * g.n):
        for k in range(0, g.K, g.panel):  # a panel stays in the L2 cache while the patches pass by
            block_product(
                v, U(value * (patches * g.C + APART)), MR * g.C, U(g.C), U(1), patches,
                u, U(value * (g.panels * g.panel * g.C + APART) + k * g.C), g.panel, at,
                min(g.panel, g.K - k), g.C, signed(1), U(0), U(0),
                sums, U(value * patches * g.K + k), U(g.K), flag(False),
            )  # fmt: skip
    for row in range(first, end):
        transform_output(sums, g, (row - first) * g.across, patches, g.K, part, out)
        unpack_patch_rows(out, b, g, row // g.down, row % g.down, 0, g.K, y)


@jit_parallel
def shallow(
    x: Array, b: Array, at: Array, g: Sizes, u: Array,
    pixels: Array, out: Array, part: Array, v: Array, sums: Array, y: Array,
) -> None:  # fmt: skip
    slots = len(v)
    for slot in prange(slots):
        pixels[slot, :] = 0
        for task in range(slot, g.tasks, slots):
            block_of_patches(
                signed(task), x, u, b, at, g, pixels[slot], out[slot], part[slot], v[slot], sums[slot], y
            )


@jit_parallel
def transform_all_filters(w: Array, t: Filters, g: Sizes, u: Array) -> None:
    plane, block = U(g.panels * g.panel * g.C + APART), 1 if g.flip else BLOCK
    for chunk in prange((g.C + block - 1) // block):
        work, c = np.empty(PART * g.panel, w.dtype), signed(chunk) * block
        channels = min(block, g.C - c)
        for k in range(0, g.K, g.panel):
            to = U(k * g.C + c * g.panel)
            transform_filters(w, t, g, c, channels, k, min(g.panel, g.K - k), work, u, plane, to)


# --- deep: many channels, few patches. All patches are transformed once; a task is a panel of filters, whose
# values, n^2 / 9 times the filters, then never leave the L2 cache ---


@jit_tuned
def panel_of_filters(
    panel: int, v: Array, w: Array, t: Filters, b: Array, at: Array, g: Sizes, prepared: bool,
    u: Array, out: Array, part: Array, sums: Array, y: Array,
) -> None:  # fmt: skip
    first, patches = panel * g.panel, g.N * g.down * g.across
    width, start = min(g.panel, g.K - first), U(first * g.C if prepared else 0)
    plane = U((g.panels if prepared else 1) * g.panel * g.C + APART)
    block = 1 if g.flip else BLOCK
    for c in range(0, 0 if prepared else g.C, block):
        to = U(c * g.panel)
        transform_filters(w, t, g, c, min(block, g.C - c), first, width, part, u, plane, to)
    for value in range(g.n * g.n):
        block_product(
            v, U(value * (patches * g.C + APART)), MR * g.C, U(g.C), U(1), patches,
            u, U(value) * plane + start, g.panel, at, width, g.C, signed(1), U(0), U(0),
            sums, U(value * patches * width), U(width), flag(False),
        )  # fmt: skip
    for row in range(g.N * g.down):
        transform_output(sums, g, row * g.across, patches, width, part, out)
        unpack_patch_rows(out, b, g, row // g.down, row % g.down, first, width, y)


@jit_parallel
def deep(
    x: Array, w: Array, t: Filters, b: Array, at: Array, g: Sizes, prepared: bool, u: Array,
    pixels: Array, out: Array, part: Array, v: Array, sums: Array, y: Array,
) -> None:  # fmt: skip
    slots = len(out)
    for slot in prange(slots):
        pixels[slot, :] = 0
        for row in range(slot, g.N * g.down, slots):
            pack_patch_rows(x, g, row // g.down, row % g.down, pixels[slot])
            transform_input(pixels[slot], g, row * g.across, g.N * g.down * g.across, part[slot], v)
    for slot in prange(slots):
        own = u[0 if prepared else signed(slot)]
        for panel in range(slot, g.panels, slots):
            panel_of_filters(panel, v, w, t, b, at, g, prepared, own, out[slot], part[slot], sums[slot], y)


def transformed(w: Array, g: Sizes) -> Array:
    """Return the values of all filters (n^2, panels, C, panel)."""
    u = empty((g.n * g.n * (g.panels * g.panel * g.C + APART),), w.dtype)
    transform_all_filters(w.reshape(-1), filter_tables(g.K, g.C, g.from_k, g.panel, g.flip), g, u)
    return u


def convolve(x: Array, w: Array, b: Array, g: Sizes, u: Array | None = None) -> Array:
    """Return the correlation of x (N, C, H, W) with K filters, of which ``transformed`` has made u."""
    n2, dtype = g.n * g.n, x.dtype
    y = empty((g.N, g.K, g.P, g.Q), dtype)
    at = row_offsets(g.C, g.panel)
    is_deep = n2 * g.C * g.K > DEEP
    if is_deep:
        slots, patches, filters = min(SLOTS, g.panels), g.N * g.down * g.across, g.panel
    else:
        slots, patches, filters = min(SLOTS, g.tasks), g.rows * g.across, g.K
    pixels = empty((slots, g.n * g.width * g.C), dtype)
    out = empty((slots, g.m * g.width * filters), dtype)
    part = empty((slots, max(n2 * max(g.C, filters), PART * g.panel)), dtype)
    sums = empty((slots, n2 * patches * filters), dtype)
    if is_deep:
        tables = filter_tables(g.K, g.C, g.from_k, g.panel, g.flip)
        own = empty((slots, n2 * (g.C * g.panel + APART)), dtype) if u is None else u.reshape(1, -1)
        v = empty((n2 * (patches * g.C + APART),), dtype)
        arrays = x.reshape(-1), w.reshape(-1), tables, b, at, g, flag(u is not None), own
        deep(*arrays, pixels, out, part, v, sums, y.reshape(-1))
    else:
        v = empty((slots, n2 * (patches * g.C + APART)), dtype)
        u = transformed(w, g) if u is None else u
        shallow(x.reshape(-1), b, at, g, u, pixels, out, part, v, sums, y.reshape(-1))
    return y


def forward_sizes(x: tuple[int, ...], w: Array, padding: tuple[int, int], m: int, relu: bool) -> Sizes:
    """Return the sizes of a forward pass."""
    K, C, _, _ = w.shape
    return sizes(x, K, padding, m, lanes(w.dtype), 9 * C, 9, False, relu)


def forward(
    x: Array, w: Array, b: Array | None, padding: tuple[int, int], m: int, relu: bool = False,
    u: Array | None = None,
) -> Array:  # fmt: skip
    """Return y (N, K, P, Q) of a 3 x 3 convolution with stride 1; u is what ``prepare`` made of w."""
    g = forward_sizes(x.shape, w, padding, m, relu)
    return convolve(x, w, no_bias(g.K, x.dtype.char) if b is None else b, g, u)


def prepare(x: tuple[int, ...], w: Array, padding: tuple[int, int], m: int) -> Array:
    """Return the filters as ``forward`` uses them, for many calls on images of one shape."""
    return transformed(w, forward_sizes(x, w, padding, m, False))


def input_gradient(dy: Array, w: Array, b: Array | None, padding: tuple[int, int], m: int) -> Array:
    """Return dx (N, C, H, W), plus b (C) if there is one: the correlation of dy with the filters turned
    around, channels for filters.
    """
    _, C, _, _ = w.shape
    g = sizes(dy.shape, C, (2 - padding[0], 2 - padding[1]), m, lanes(dy.dtype), 9, 9 * C, True, False)
    return convolve(dy, w, no_bias(C, dy.dtype.char) if b is None else b, g)
