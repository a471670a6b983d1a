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


def conv3d_plain(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1):
    steps, borders, gaps = (v if isinstance(v, tuple) else (v,) * 3 for v in (stride, padding, dilation))
    padded = np.pad(np.asarray(x, float), ((0, 0), (0, 0), *((p, p) for p in borders)))
    K, C = w.shape[:2]
    spread = np.zeros((K, C, *(d * (r - 1) + 1 for d, r in zip(gaps, w.shape[2:]))))
    spread[:, :, :: gaps[0], :: gaps[1], :: gaps[2]] = w
    volumes = [
        [
            scipy.signal.correlate(part[k // (K // groups) * C :][:C], spread[k], "valid", "direct")[0]
            for k in range(K)
        ]
        for part in padded
    ]
    sizes = (n - r + 1 for n, r in zip(padded.shape[2:], spread.shape[2:]))
    y = np.array(volumes).reshape(len(x), K, *sizes)[:, :, :: steps[0], :: steps[1], :: steps[2]]
    return y if b is None else y + b[:, None, None, None]


def conv_transpose2d_plain(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Return the full convolution of x, with zeros between its pixels, cut to size."""
    (sh, sw), (ph, pw), (oh, ow), (dh, dw) = map(pair, (stride, padding, output_padding, dilation))
    N, C, H, W = x.shape
    _, K, R, S = w.shape
    apart = np.zeros((N, C, (H - 1) * sh + 1, (W - 1) * sw + 1))
    apart[:, :, ::sh, ::sw] = x
    spread = np.zeros((C, K, dh * (R - 1) + 1, dw * (S - 1) + 1))
    spread[:, :, ::dh, ::dw] = w
    y = np.zeros((N, K * groups, apart.shape[2] + spread.shape[2] - 1, apart.shape[3] + spread.shape[3] - 1))
    for n, c, k in np.ndindex(N, C, K):
        y[n, c // (C // groups) * K + k] += scipy.signal.convolve2d(apart[n, c], spread[c, k])
    y = np.pad(y, ((0, 0), (0, 0), (0, oh), (0, ow)))
    y = y[:, :, ph : y.shape[2] - ph, pw : y.shape[3] - pw]
    return y if b is None else y + b[:, None, None]


def conv_transpose1d_plain(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    N, C, L = x.shape
    _, K, S = w.shape
    apart = np.zeros((N, C, (L - 1) * stride + 1))
    apart[:, :, ::stride] = x
    spread = np.zeros((C, K, dilation * (S - 1) + 1))
    spread[:, :, ::dilation] = w
    y = np.zeros((N, K * groups, apart.shape[2] + spread.shape[2] - 1 + output_padding))
    for n, c, k in np.ndindex(N, C, K):
        full = np.convolve(apart[n, c], spread[c, k])
        y[n, c // (C // groups) * K + k, : len(full)] += full
    y = y[:, :, padding : y.shape[2] - padding]
    return y if b is None else y + b[:, None]


PLAIN: dict[str, Oracle] = {
    "conv1d": activated(conv1d_plain),
    "conv2d": activated(conv2d_plain),
    "conv3d": activated(conv3d_plain),
    "conv_transpose1d": conv_transpose1d_plain,
    "conv_transpose2d": conv_transpose2d_plain,
}


TORCH: dict[str, Oracle] = {
    "conv1d": activated(lambda x, w, b=None, **attributes: functional().conv1d(x, w, b, **attributes)),
    "conv2d": activated(
        lambda x, w, b=None, *, winograd=None, **attributes: functional().conv2d(x, w, b, **attributes)
    ),
    "conv3d": activated(lambda x, w, b=None, **attributes: functional().conv3d(x, w, b, **attributes)),
    "conv_transpose1d": lambda x, w, b=None, **attributes: functional().conv_transpose1d(
        x, w, b, **attributes
    ),
    "conv_transpose2d": lambda x, w, b=None, **attributes: functional().conv_transpose2d(
        x, w, b, **attributes
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


def transposed_draw(axes):
    """Return what draws a transposed convolution along so many axes, any output_padding included."""

    def case(draw, rng):
        def per_axis(least, most):
            return tuple(draw(st.integers(least, most)) for _ in range(axes))

        size, kernel, stride, dilation = per_axis(1, 7), per_axis(1, 4), per_axis(1, 4), per_axis(1, 3)
        more = tuple(draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation))
        last = [  # of y without padding
            (n - 1) * s + d * (r - 1) + o for n, s, d, r, o in zip(size, stride, dilation, kernel, more)
        ]
        padding = tuple(draw(st.integers(0, min(4, n // 2))) for n in last)
        groups = draw(st.integers(1, 3))
        C, K = groups * draw(st.integers(1, 9)), draw(st.integers(1, 5))
        x, w = normal(rng, draw(st.integers(0, 3)), C, *size), normal(rng, C, K, *kernel)
        b = normal(rng, K * groups) if draw(st.booleans()) else None
        how = {"stride": stride, "padding": padding, "output_padding": more, "dilation": dilation}
        if axes == 1:
            how = {name: value[0] for name, value in how.items()}
        return (x, w, b), how | {"groups": groups}

    return case


DRAWS: dict[str, Draw] = {
    "conv1d": convolution_draw(1),
    "conv2d": convolution_draw(2),
    "conv3d": convolution_draw(3),
    "conv_transpose1d": transposed_draw(1),
    "conv_transpose2d": transposed_draw(2),
}
