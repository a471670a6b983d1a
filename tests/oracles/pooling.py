"""Pooling."""

import numpy as np
import scipy.ndimage
import scipy.signal
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, functional, normal, pair


def plane_by_plane(function, x, shape):
    """Return function(plane) for each (H, W) plane of x (N, C, H, W)."""
    y = np.empty((*x.shape[:2], *shape))
    for n, c in np.ndindex(x.shape[:2]):
        y[n, c] = function(x[n, c])
    return y


def windows_in(x, kernel, stride, padding):
    """Return (P, Q) by counting the places where a window starts."""
    return tuple(
        len(range(0, size + 2 * p - k + 1, s))
        for size, k, s, p in zip(x.shape[2:], pair(kernel), pair(stride), pair(padding))
    )


def max_pool2d_plain(x, *, kernel_size, stride=None, padding=0):
    stride = kernel_size if stride is None else stride
    (R, S), (sh, sw), (ph, pw) = pair(kernel_size), pair(stride), pair(padding)

    def pooled(plane):
        padded = np.pad(np.asarray(plane, float), ((ph, ph), (pw, pw)), constant_values=-np.inf)
        # SciPy's windows are centred: the one that starts at i belongs to i + R // 2.
        largest = scipy.ndimage.maximum_filter(padded, size=(R, S), mode="constant", cval=-np.inf)
        return largest[R // 2 :: sh, S // 2 :: sw][:P, :Q]

    P, Q = windows_in(x, kernel_size, stride, padding)
    return plane_by_plane(pooled, x, (P, Q))


def avg_pool2d_plain(x, *, kernel_size, stride=None, padding=0):
    stride = kernel_size if stride is None else stride
    (R, S), (sh, sw), (ph, pw) = pair(kernel_size), pair(stride), pair(padding)

    def pooled(plane):
        padded = np.pad(np.asarray(plane, float), ((ph, ph), (pw, pw)))
        return scipy.signal.correlate2d(padded, np.full((R, S), 1 / (R * S)), mode="valid")[::sh, ::sw]

    return plane_by_plane(pooled, x, windows_in(x, kernel_size, stride, padding))


PLAIN: dict[str, Oracle] = {
    "max_pool2d": max_pool2d_plain,
    "avg_pool2d": avg_pool2d_plain,
}


TORCH: dict[str, Oracle] = {
    "max_pool2d": lambda x, **attributes: functional().max_pool2d(x, **attributes),
    "avg_pool2d": lambda x, **attributes: functional().avg_pool2d(x, **attributes),
}


def pooling_draw(draw, rng):
    kernel = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    size = [draw(st.integers(max(1, k - 2 * p), 12)) for k, p in zip(kernel, padding)]
    x = normal(rng, draw(st.integers(0, 3)), draw(st.integers(1, 4)), *size)
    stride = draw(st.none() | st.tuples(st.integers(1, 4), st.integers(1, 4)))
    return (x,), {"kernel_size": kernel, "stride": stride, "padding": padding}


DRAWS: dict[str, Draw] = dict.fromkeys(("max_pool2d", "avg_pool2d"), pooling_draw)
