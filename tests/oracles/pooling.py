"""Pooling."""

import math
from fractions import Fraction

import numpy as np
import scipy.ndimage
import scipy.signal
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, functional, normal, pair, wide


def plane_by_plane(function, x, shape):
    """Return function(plane) for each (H, W) plane of x (N, C, H, W)."""
    y = np.empty((*x.shape[:2], *shape))
    for n, c in np.ndindex(x.shape[:2]):
        y[n, c] = function(x[n, c])
    return y


def windows_in(x, kernel, stride, padding, dilation=1, ceil_mode=False):
    """Return (P, Q) by counting the places where a window starts."""
    counts = []
    for size, k, s, p, d in zip(x.shape[2:], *map(pair, (kernel, stride, padding, dilation))):
        padded, reach = size + 2 * p, d * (k - 1) + 1
        starts = list(range(0, padded - reach + 1, s))
        after = starts[-1] + s
        counts.append(len(starts) + (ceil_mode and after + reach - s < padded and after < size + p))
    return tuple(counts)


def padded_plane(plane, padding, outside):
    """Return the plane with its padding, and as much again as a hanging window can need."""
    return np.pad(plane, [(p, p + 20) for p in padding], constant_values=outside)


def max_pool2d_plain(x, *, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    stride = kernel_size if stride is None else stride
    (R, S), (sh, sw), (dh, dw) = pair(kernel_size), pair(stride), pair(dilation)
    taps = np.zeros((dh * (R - 1) + 1, dw * (S - 1) + 1), bool)
    taps[::dh, ::dw] = True

    def pooled(plane):
        padded = padded_plane(np.asarray(plane, float), pair(padding), -np.inf)
        # SciPy's windows are centred: the one that starts at i belongs to i + size // 2.
        largest = scipy.ndimage.maximum_filter(padded, footprint=taps, mode="constant", cval=-np.inf)
        return largest[len(taps) // 2 :: sh, taps.shape[1] // 2 :: sw][:P, :Q]

    P, Q = windows_in(x, kernel_size, stride, padding, dilation, ceil_mode)
    return plane_by_plane(pooled, x, (P, Q))


def avg_pool2d_plain(
    x, *, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    stride = kernel_size if stride is None else stride
    (R, S), (sh, sw), padding = pair(kernel_size), pair(stride), pair(padding)

    def sums(padded):
        return scipy.signal.correlate2d(padded, np.ones((R, S)), mode="valid")[::sh, ::sw][:P, :Q]

    P, Q = windows_in(x, kernel_size, stride, padding, 1, ceil_mode)
    ones = np.ones(x.shape[2:])
    if count_include_pad:
        counted = np.pad(np.pad(ones, [(p, p) for p in padding], constant_values=1), ((0, 20), (0, 20)))
    else:
        counted = padded_plane(ones, padding, 0)
    divisor = sums(counted) if divisor_override is None else divisor_override
    return plane_by_plane(lambda plane: sums(padded_plane(plane, padding, 0)) / divisor, x, (P, Q))


def signal_windows(x, kernel, stride, padding, dilation, ceil_mode):
    """Return the places that each window along the last axis reads, the padding's among them."""
    shape = (1, 1, 1, x.shape[2])
    _, count = windows_in(np.empty(shape), (1, kernel), (1, stride), (0, padding), (1, dilation), ceil_mode)
    return [[i * stride - padding + s * dilation for s in range(kernel)] for i in range(count)]


def inside(window, x):
    return [i for i in window if 0 <= i < x.shape[2]]


def max_pool1d_plain(x, *, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False):
    windows = signal_windows(x, kernel_size, stride or kernel_size, padding, dilation, ceil_mode)
    return np.stack([np.max(x[:, :, inside(window, x)], axis=2) for window in windows], axis=2)


def avg_pool1d_plain(x, *, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True):
    results = []
    for window in signal_windows(x, kernel_size, stride or kernel_size, padding, 1, ceil_mode):
        counted = [i for i in window if i < x.shape[2] + padding] if count_include_pad else inside(window, x)
        results.append(wide(x)[:, :, inside(window, x)].sum(axis=2) / len(counted))
    return np.stack(results, axis=2)


def adaptive_windows(size, count):
    """Return the indices of each window: all i that touch the interval [p, p + 1) size / count."""
    return [
        [i for i in range(size) if Fraction(p * size, count) < i + 1 and i < Fraction((p + 1) * size, count)]
        for p in range(count)
    ]


def adaptive_plain(reduce):
    """Return the oracle that reduces the windows of images (N, C, H, W) or signals (N, C, L)."""

    def pooled(x, *, output_size):
        counts = output_size if isinstance(output_size, tuple) else (output_size,) * (x.ndim - 2)
        windows = [
            adaptive_windows(n, n if count is None else count) for n, count in zip(x.shape[2:], counts)
        ]
        y = np.empty((*x.shape[:2], *map(len, windows)), np.longdouble)
        for at in np.ndindex(y.shape[2:]):
            chosen = np.ix_(*map(range, x.shape[:2]), *(w[i] for w, i in zip(windows, at)))
            y[:, :, *at] = reduce(wide(x)[chosen], axis=tuple(range(2, x.ndim)))
        return y

    return pooled


def max_unpool2d_plain(x, indices, *, kernel_size, stride=None, padding=0, output_size=None):
    if output_size is None:
        geometry = zip(x.shape[2:], *map(pair, (kernel_size, stride or kernel_size, padding)))
        output_size = [(count - 1) * s - 2 * p + k for count, k, s, p in geometry]
    places = np.arange(output_size[-2] * output_size[-1]).reshape(output_size[-2:])
    hits = indices[..., None, None] == places  # (N, C, P, Q, H, W)
    return np.where(hits, wide(x)[..., None, None], 0).sum(axis=(2, 3))


def places(n, count, factor, place):
    """Return for each of ``count`` pixels its place among n: place(i, step)."""
    step = Fraction(n, count) if factor is None else 1 / Fraction(factor)
    return [place(i, step) for i in range(count)]


def resized(x, size, scale_factor):
    """Return for both axes (n, count, factor)."""
    if scale_factor is None:
        return [(n, count, None) for n, count in zip(x.shape[2:], pair(size))]
    return [(n, int(n * factor), factor) for n, factor in zip(x.shape[2:], pair(scale_factor))]


def upsample_nearest2d_plain(x, *, size=None, scale_factor=None):
    rows, columns = (
        places(n, count, factor, lambda i, step, n=n: min(math.floor(i * step), n - 1))
        for n, count, factor in resized(x, size, scale_factor)
    )
    return wide(x)[:, :, rows][:, :, :, columns]


def upsample_bilinear2d_plain(x, *, size=None, scale_factor=None, align_corners=False):
    y = wide(x)
    for axis, (n, count, factor) in enumerate(resized(x, size, scale_factor), 2):
        if align_corners:
            at = [Fraction(i * (n - 1), max(count - 1, 1)) for i in range(count)]
        else:
            at = places(n, count, factor, lambda i, step: (i + Fraction(1, 2)) * step - Fraction(1, 2))
        # The interpolants of unit vectors; np.interp goes on with the values at the ends beyond these.
        hats = [np.interp(np.array(at, float), np.arange(n), unit) for unit in np.eye(n)]
        y = np.moveaxis(np.tensordot(y, np.array(hats), (axis, 0)), -1, axis)
    return y


PLAIN: dict[str, Oracle] = {
    "max_pool2d": max_pool2d_plain,
    "avg_pool2d": avg_pool2d_plain,
    "max_pool1d": max_pool1d_plain,
    "avg_pool1d": avg_pool1d_plain,
    "adaptive_max_pool2d": adaptive_plain(np.max),
    "adaptive_avg_pool2d": adaptive_plain(np.mean),
    "adaptive_max_pool1d": adaptive_plain(np.max),
    "adaptive_avg_pool1d": adaptive_plain(np.mean),
    "max_unpool2d": max_unpool2d_plain,
    "upsample_nearest2d": upsample_nearest2d_plain,
    "upsample_bilinear2d": upsample_bilinear2d_plain,
}


def torch_pool(name):
    return lambda x, **attributes: getattr(functional(), name)(x, **attributes)


def torch_adaptive(name):
    """PyTorch's function, with None written out: for signals, it does not know None."""

    def pooled(x, *, output_size):
        counts = output_size if isinstance(output_size, tuple) else (output_size,) * (x.ndim - 2)
        known = [n if count is None else count for n, count in zip(x.shape[2:], counts)]
        return getattr(functional(), name)(x, known)

    return pooled


def torch_unpool(x, indices, **attributes):
    return functional().max_unpool2d(x, indices.long(), **attributes)


def torch_upsample(mode):
    return lambda x, **attributes: functional().interpolate(x, mode=mode, **attributes)


TORCH: dict[str, Oracle] = {
    **{name: torch_pool(name) for name in ("max_pool2d", "avg_pool2d", "max_pool1d", "avg_pool1d")},
    **{name: torch_adaptive(name) for name in PLAIN if name.startswith("adaptive")},
    "max_unpool2d": torch_unpool,
    "upsample_nearest2d": torch_upsample("nearest"),
    "upsample_bilinear2d": torch_upsample("bilinear"),
}


def windows_draw(draw, dilations=1):
    """Draw (H, W) and the attributes of windows of which each has a place in the image."""
    two = lambda least, most: (draw(st.integers(least, most)), draw(st.integers(least, most)))  # noqa: E731
    kernel, dilation = two(1, 4), two(1, dilations)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    least = [max(d, d * (k - 1) + 1 - 2 * p) for k, p, d in zip(kernel, padding, dilation)]
    size = [draw(st.integers(n, max(n, 12))) for n in least]
    stride = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    attributes = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return size, attributes | {"ceil_mode": draw(st.booleans())}


def images(draw, rng, size):
    return normal(rng, draw(st.integers(0, 3)), draw(st.integers(1, 4)), *size)


def max_draw(draw, rng):
    size, attributes = windows_draw(draw, 3)
    return (images(draw, rng, size),), attributes


def avg_draw(draw, rng):
    size, attributes = windows_draw(draw)
    del attributes["dilation"]
    attributes["count_include_pad"] = draw(st.booleans())
    attributes["divisor_override"] = draw(st.none() | st.integers(-3, -1) | st.integers(1, 9))
    return (images(draw, rng, size),), attributes


def in_one_row(draw_images):
    """Return the draw for signals made of one for images."""

    def drawn(draw, rng):
        (x,), attributes = draw_images(draw, rng)
        attributes.pop("divisor_override", None)
        signal = {name: v[1] if isinstance(v, tuple) else v for name, v in attributes.items()}
        return (np.ascontiguousarray(x[:, :, 0]),), signal

    return drawn


def adaptive_draw(draw, rng):
    count = st.none() | st.integers(1, 9)
    x = images(draw, rng, (draw(st.integers(1, 12)), draw(st.integers(1, 12))))
    return (x,), {"output_size": (draw(count), draw(count))}


def unpool_draw(draw, rng):
    kernel, stride = (tuple(draw(st.integers(1, 4)) for _ in "HW") for _ in range(2))
    padding = tuple(draw(st.integers(0, min(k // 2, s // 2))) for k, s in zip(kernel, stride))
    x = images(draw, rng, (draw(st.integers(2, 5)), draw(st.integers(2, 5))))
    full = [s * (n - 1) + k - 2 * p for n, k, s, p in zip(x.shape[2:], kernel, stride, padding)]
    # Room for as many different places as x has pixels: since padding is 0 for strides of 1, there is some.
    least = [max(size - s + 1, n) for size, s, n in zip(full, stride, x.shape[2:])]
    size = [draw(st.integers(m, n + s - 1)) for m, n, s in zip(least, full, stride)]
    count = size[0] * size[1]
    every = rng.permuted(np.broadcast_to(np.arange(count), (*x.shape[:2], count)), axis=2)
    indices = every[:, :, : x.shape[2] * x.shape[3]].reshape(x.shape)
    attributes = {"kernel_size": kernel, "stride": stride, "padding": padding, "output_size": tuple(size)}
    return (x, indices), attributes


def upsample_draw(draw, rng):
    x = images(draw, rng, (draw(st.integers(1, 9)), draw(st.integers(1, 9))))
    if draw(st.booleans()):
        return (x,), {"size": (draw(st.integers(1, 30)), draw(st.integers(1, 30)))}
    factors = [max(draw(st.floats(0.3, 4)), 1 / n) for n in x.shape[2:]]
    return (x,), {"scale_factor": tuple(f if int(n * f) else 1.0 for n, f in zip(x.shape[2:], factors))}


def bilinear_draw(draw, rng):
    arrays, attributes = upsample_draw(draw, rng)
    return arrays, attributes | {"align_corners": draw(st.booleans())}


DRAWS: dict[str, Draw] = {
    "max_pool2d": max_draw,
    "avg_pool2d": avg_draw,
    "max_pool1d": in_one_row(max_draw),
    "avg_pool1d": in_one_row(avg_draw),
    "adaptive_max_pool2d": adaptive_draw,
    "adaptive_avg_pool2d": adaptive_draw,
    "adaptive_max_pool1d": in_one_row(adaptive_draw),
    "adaptive_avg_pool1d": in_one_row(adaptive_draw),
    "max_unpool2d": unpool_draw,
    "upsample_nearest2d": upsample_draw,
    "upsample_bilinear2d": bilinear_draw,
}
