"""Where a convolution's threads find what they need: one description for y and for dx, in one to three axes.

Both passes compute, at every place i of their result and for every one of its channels m in a group,

    result[n, m, i] = b[m] + sum over channels c and taps r of source[n, c, place(i, r)] w[m, c, r]

y reads x at place(i, r) = stride i + dilation r - padding. dx reads dy where that place of y has seen i:
stride p + dilation r - padding = i, so that only taps r count for which i + padding - dilation r is a
multiple of the stride. Places i with the same remainder a by the stride, a *phase*, have the same taps,
evenly spaced; on i = stride j + a, dx is again a convolution over j, and no thread tries a tap in vain.

Per axis, a phase a is described by four numbers: its first tap, their number, and start and step such that
its k-th tap reads the source at down j + start + k step. y has the one phase 0, and down = stride.

What a tap adds to an address does not depend on the pixel, so rows of a *table* hold it for each c and tap.
And whether a tap lies inside of the source depends on the axis alone: a pixel has a bit for each tap of each
axis, set where it does, and a table's row names the three bits that it needs. Filters with more taps than an
int has bits read a source with zeros around it (``with_zeros_around``), where nothing lies outside.
"""

import math
from typing import Any, NamedTuple

from numba import int32

from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_index import divide
from nnkernels.machine.gpu_kernel import ceil_div, device_function
from nnkernels.ops.assemble_cuda import padded

Triple = tuple[int, int, int]
How = tuple[Triple, Triple, Triple, int]  # stride, padding, dilation, groups

MOST_TAPS = 28  # of the three axes together, for which a pixel has bits
REAL = 1 << 28  # the bit of every pixel that there is, needed by every row of a table ...
NEVER = 1 << 29  # ... and a bit that no pixel has, for rows behind the last


class Pass(NamedTuple):
    """What kernels are told: numbers that they take apart in this order."""

    images: int
    groups: int
    filters: int  # channels of the result, in a group
    channels: int  # of the source, in a group
    w_filter: int  # distance in w from one filter to the next
    w_channel: int  # and from one channel to the next
    masked: int  # 0 where no tap is ever outside
    out: Triple  # sizes of the result
    source: Triple
    taps: Triple
    up: Triple  # number of phases: dx's stride
    down: Triple  # y's stride
    every: Triple  # from one tap of a phase to its next
    step: Triple  # what that adds to the place in the source
    dilation: Triple
    padding: Triple

    @property
    def phases(self) -> int:
        """The number of phases of all axes."""
        return math.prod(self.up)

    @property
    def pixels(self) -> int:
        """The most places of the result that a phase has."""
        return self.images * math.prod(ceil_div(n, u) for n, u in zip(self.out, self.up))

    @property
    def depth(self) -> int:
        """The most terms that a sum has."""
        return self.channels * math.prod(ceil_div(t, e) for t, e in zip(self.taps, self.every))


def forward_pass(x: tuple[int, ...], w: tuple[int, ...], out: Triple, how: How) -> Pass:
    """Return the pass from x (N, C, D, H, W) to y, by w (K, C / groups, T, R, S)."""
    stride, padding, dilation, groups = how
    N, _, *source = x
    K, C, *taps = w
    one = (1, 1, 1)
    T = math.prod(taps)
    return Pass(
        N, groups, K // groups, C, C * T, T, int(sum(taps) <= MOST_TAPS), out, triple(source), triple(taps),
        one, stride, one, dilation, dilation, padding,
    )  # fmt: skip


def gradient_pass(dy: tuple[int, ...], w: tuple[int, ...], out: Triple, how: How) -> Pass:
    """Return the pass from dy (N, K, M, P, Q) to dx: filters and channels are in each other's place."""
    stride, padding, dilation, groups = how
    N, _, *source = dy
    K, C, *taps = w
    every = triple([s // math.gcd(s, d) for s, d in zip(stride, dilation)])
    step = triple([-d * e // s for s, d, e in zip(stride, dilation, every)])
    T = math.prod(taps)
    return Pass(
        N, groups, C, K // groups, T, C * T, int(sum(taps) <= MOST_TAPS), out, triple(source), triple(taps),
        stride, (1, 1, 1), every, step, dilation, padding,
    )  # fmt: skip


def triple(values: Any) -> Triple:
    """Return three numbers as a tuple."""
    a, b, c = values
    return a, b, c


# --- in kernels ---


@device_function
def taps_of(a: int, taps: int, up: int, every: int, step: int, dilation: int, padding: int) -> Any:
    """Return phase a's (first tap, number of taps, start, step) along an axis."""
    first = taps
    for r in range(min(every, taps)):
        far = a + padding + dilation * r * (up - 1)  # a + padding - dilation r, and multiples of up
        if far == divide(far, up) * up:
            first = r
    count, start = divide(taps - first + every - 1, every), dilation * first - padding
    if step < 0:
        start -= a
        start = divide(-start, up) if start < 0 else -divide(start, up)
    return int32(first), count, int32(start), int32(step)


@device_function
def phase_of(number: int, g: Any) -> Any:
    """Return phase ``number``'s place a along each axis, and its taps along each axis."""
    _, _, _, _, _, _, _, _, _, taps, up, _, every, step, dilation, padding = g
    rest = divide(number, up[2])
    a0 = divide(rest, up[1])
    a = (a0, int32(rest - a0 * up[1]), int32(number - rest * up[2]))
    return (
        a,
        taps_of(a[0], taps[0], up[0], every[0], step[0], dilation[0], padding[0]),
        taps_of(a[1], taps[1], up[1], every[1], step[1], dilation[1], padding[1]),
        taps_of(a[2], taps[2], up[2], every[2], step[2], dilation[2], padding[2]),
    )


@device_function
def row_of_table(d: int, phase: Any, g: Any) -> Any:
    """Return for row d, which is (c, t, r, s) of a phase: what it adds to an address, the bits that it needs,
    and the place of its weight in the filter."""
    _, _, _, channels, _, w_channel, masked, _, source, taps, _, _, every, _, _, _ = g
    _, (first0, n0, start0, step0), (first1, n1, start1, step1), (first2, n2, start2, step2) = phase
    if d >= channels * n0 * n1 * n2:
        return int32(0), int32(NEVER), int32(0)
    row = divide(d, n2)
    plane = divide(row, n1)
    c = divide(plane, n0)
    t, r, s = plane - c * n0, row - plane * n1, d - row * n2
    place0, place1, place2 = start0 + t * step0, start1 + r * step1, start2 + s * step2
    offset = ((c * source[0] + place0) * source[1] + place1) * source[2] + place2
    needed = (1 << t | 1 << (n0 + r) | 1 << (n0 + n1 + s)) if masked else 0
    tap = ((first0 + t * every[0]) * taps[1] + first1 + r * every[1]) * taps[2] + first2 + s * every[2]
    return int32(offset), int32(needed | REAL), int32(c * w_channel + tap)


@device_function
def bits_inside(place: int, start: int, step: int, count: int, size: int) -> Any:
    """Return bit k for each k below ``count`` where 0 <= place + start + k step < size."""
    bits, i = int32(0), int32(place + start)
    for k in range(count):
        bits = int32(bits | (0 <= i < size) << k)
        i = int32(i + step)
    return bits


@device_function
def pixel_of(number: int, group: int, phase: Any, g: Any) -> Any:
    """Return for a phase's pixel: the address in the source that a row's offset is added to, the bits of the
    taps that lie inside, image, and place in the result's channels; bits 0 where there is no such pixel."""
    images, groups, _, channels, _, _, masked, out, source, _, up, down, _, _, _, _ = g
    a, (_, n0, start0, step0), (_, n1, start1, step1), (_, n2, start2, step2) = phase
    size0, size1, size2 = (
        divide(out[0] - a[0] + up[0] - 1, up[0]),
        divide(out[1] - a[1] + up[1] - 1, up[1]),
        divide(out[2] - a[2] + up[2] - 1, up[2]),
    )
    if number >= images * size0 * size1 * size2:
        return int32(0), int32(0), int32(0), int32(0)
    row = divide(number, size2)
    plane = divide(row, size1)
    n = divide(plane, size0)
    j0, j1, j2 = plane - n * size0, row - plane * size1, number - row * size2
    i0, i1, i2 = j0 * down[0], j1 * down[1], j2 * down[2]
    bits = REAL
    if masked:
        bits |= (
            bits_inside(i0, start0, step0, n0, source[0])
            | bits_inside(i1, start1, step1, n1, source[1]) << n0
            | bits_inside(i2, start2, step2, n2, source[2]) << (n0 + n1)
        )
    base = (((n * groups + group) * channels * source[0] + i0) * source[1] + i1) * source[2] + i2
    place = ((j0 * up[0] + a[0]) * out[1] + j1 * up[1] + a[1]) * out[2] + j2 * up[2] + a[2]
    return int32(base), int32(bits), int32(n), int32(place)


# --- a source with zeros around it ---


def with_zeros_around(source: GpuArray, g: Pass) -> tuple[GpuArray, Pass]:
    """Return the source and the pass as they are or, for a filter with too many taps, with zeros around."""
    if g.masked:
        return source, g
    sides = []
    for n, size, taps, up, down, step, d, p in zip(
        g.out, g.source, g.taps, g.up, g.down, g.step, g.dilation, g.padding
    ):
        reach = d * (taps - 1)
        low, high = (-p, (n - 1) * down + reach - p) if step > 0 else ((p - reach) // up, (n - 1 + p) // up)
        sides.append((max(0, -low), max(0, high - size + 1)))
    wider = padded(source, ((0, 0), (0, 0), *sides), 0.0)
    # In the wider source, all places are ``before`` further on.
    padding = [
        p - before if step > 0 else p + before * up
        for p, (before, _), step, up in zip(g.padding, sides, g.step, g.up)
    ]
    return wider, g._replace(source=triple(wider.shape[2:]), padding=triple(padding))
