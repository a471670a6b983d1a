"""Convolutions."""

import numpy as np
import scipy.signal
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, activated, functional, normal, pair


def windows_in(x, kernel, stride, padding):
    """Return (P, Q) by counting the places where a window starts."""
    return tuple(
        len(range(0, size + 2 * p - k + 1, s))
        for size, k, s, p in zip(x.shape[2:], pair(kernel), pair(stride), pair(padding))
    )


def conv1d_plain(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1):
    padded = np.pad(np.asarray(x, float), ((0, 0), (0, 0), (padding, padding)))
    K, C, S = w.shape
    spread = np.zeros((K, C, dilation * (S - 1) + 1))  # the filters, with zeros where a dilation skips
    spread[..., ::dilation] = w
    rows = [
        [
            sum(
                np.correlate(padded[n, k // (K // groups) * C + c], spread[k, c], mode="valid")
                for c in range(C)
            )
            for k in range(K)
        ]
        for n in range(len(x))
    ]
    y = np.array(rows).reshape(len(x), K, padded.shape[2] - spread.shape[2] + 1)[..., ::stride]
    return y if b is None else y + b[:, None]


def conv2d_plain(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1, winograd=None):
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    padded = np.pad(np.asarray(x, float), ((0, 0), (0, 0), (ph, ph), (pw, pw)))
    K, C, R, S = w.shape
    spread = np.zeros((K, C, dh * (R - 1) + 1, dw * (S - 1) + 1))
    spread[..., ::dh, ::dw] = w
    P, Q = windows_in(x, spread.shape[2:], stride, padding)
    y = np.zeros((x.shape[0], K, P, Q))
    for n, k, c in np.ndindex(x.shape[0], K, C):
        plane = padded[n, k // (K // groups) * C + c]
        y[n, k] += scipy.signal.correlate2d(plane, spread[k, c], mode="valid")[::sh, ::sw]
    return y if b is None else y + b[:, None, None]


PLAIN: dict[str, Oracle] = {
    "conv1d": activated(conv1d_plain),
    "conv2d": activated(conv2d_plain),
}


TORCH: dict[str, Oracle] = {
    "conv1d": activated(lambda x, w, b=None, **attributes: functional().conv1d(x, w, b, **attributes)),
    "conv2d": activated(
        lambda x, w, b=None, *, winograd=None, **attributes: functional().conv2d(x, w, b, **attributes)
    ),
}


def convolution_draw(axes):
    """Return what draws a convolution along so many axes: any stride, padding, dilation and groups."""

    def case(draw, rng):
        def per_axis(least, most):
            return tuple(draw(st.integers(least, most)) for _ in range(axes))

        kernel, dilation, padding, stride = per_axis(1, 4), per_axis(1, 3), per_axis(0, 3), per_axis(1, 4)
        groups = draw(st.integers(1, 3))
        C, K = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 9))
        spare = per_axis(0, 9)
        size = [max(1, d * (k - 1) + 1 - 2 * p) + s for k, d, p, s in zip(kernel, dilation, padding, spare)]
        x = normal(rng, draw(st.integers(0, 3)), C, *size)
        b = normal(rng, K) if draw(st.booleans()) else None
        how = {"stride": stride, "padding": padding, "dilation": dilation}
        if axes == 1:
            how = {name: value[0] for name, value in how.items()}
        how |= {"groups": groups, "activation": draw(st.sampled_from([None, "relu"]))}
        return (x, normal(rng, K, C // groups, *kernel), b), how

    return case


DRAWS: dict[str, Draw] = {"conv1d": convolution_draw(1), "conv2d": convolution_draw(2)}
