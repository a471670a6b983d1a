"""conv2d in NumPy: a window per output pixel (a view), then one contraction per group."""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.shapes import Pair, Winograd, out_shape
from nnkernels.ops.validate import pair


def padded_input(x: Array, padding: Pair) -> Array:
    ph, pw = padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw))) if ph or pw else x


def windows(x: Array, w: Array, stride: Pair, dilation: Pair) -> Any:
    """Return a view (N, C, P, Q, R, S) of a padded input x."""
    (dh, dw), (R, S) = dilation, w.shape[2:]
    every = np.lib.stride_tricks.sliding_window_view(x, (dh * (R - 1) + 1, dw * (S - 1) + 1), axis=(2, 3))
    return every[:, :, :: stride[0], :: stride[1], ::dh, ::dw]


def conv2d_forward_vectorized(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1, activation: str | None = None, winograd: Winograd = None,
) -> tuple[Array]:  # fmt: skip
    x_windows = windows(padded_input(x, pair(padding)), w, pair(stride), pair(dilation))
    parts = [
        np.tensordot(part, filters, axes=((1, 4, 5), (1, 2, 3)))
        for part, filters in zip(np.split(x_windows, groups, axis=1), np.split(w, groups))
    ]
    y = np.ascontiguousarray(np.concatenate(parts, axis=-1).transpose(0, 3, 1, 2))
    y = y if b is None else y + b[:, None, None]
    return (np.maximum(y, 0) if activation == "relu" else y,)


def conv2d_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array, Array | None], needs: tuple[bool, ...],
    *, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
    activation: str | None = None, winograd: Winograd = None,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    x, w, _ = inputs
    if activation == "relu":
        dy = dy * (outputs[0] > 0)
    (sh, sw), (ph, pw), (dh, dv) = pair(stride), pair(padding), pair(dilation)
    (_, _, H, W), (_, _, R, S) = x.shape, w.shape
    _, _, P, Q = out_shape(x, w, stride, padding, dilation)
    padded = padded_input(x, (ph, pw))
    dys, filters = np.split(dy, groups, axis=1), np.split(w, groups)
    dx = dw = db = None
    if needs[0]:
        # One filter position at a time: its products all land on different pixels, so += is safe.
        d = np.zeros_like(padded)
        for r in range(R):
            for s in range(S):
                parts = [
                    np.tensordot(part, f[:, :, r, s], axes=((1,), (0,))).transpose(0, 3, 1, 2)
                    for part, f in zip(dys, filters)
                ]
                rows, columns = slice(dh * r, dh * r + sh * P, sh), slice(dv * s, dv * s + sw * Q, sw)
                d[:, :, rows, columns] += np.concatenate(parts, axis=1)
        dx = np.ascontiguousarray(d[:, :, ph : ph + H, pw : pw + W])
    if needs[1]:
        x_windows = np.split(windows(padded, w, (sh, sw), (dh, dv)), groups, axis=1)
        pairs = zip(dys, x_windows)
        dw = np.concatenate([np.tensordot(part, v, axes=((0, 2, 3), (0, 2, 3))) for part, v in pairs])
    if needs[2]:
        db = dy.sum(axis=(0, 2, 3))
    return dx, dw, db
