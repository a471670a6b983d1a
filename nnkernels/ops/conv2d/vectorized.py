"""conv2d in NumPy: a window per output pixel (a view), then one contraction."""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.shapes import Pair, out_shape
from nnkernels.ops.validate import pair


def padded_input(x: Array, padding: Pair) -> Array:
    ph, pw = padding
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw))) if ph or pw else x


def windows(x: Array, w: Array, stride: Pair) -> Any:
    """Return a view (N, C, P, Q, R, S) of a padded input x."""
    every = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], axis=(2, 3))
    return every[:, :, :: stride[0], :: stride[1]]


def conv2d_forward_vectorized(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0
) -> tuple[Array]:
    x_windows = windows(padded_input(x, pair(padding)), w, pair(stride))
    y = np.ascontiguousarray(np.tensordot(x_windows, w, axes=((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2))
    return (y if b is None else y + b[:, None, None],)


def conv2d_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array, Array | None], needs: tuple[bool, ...],
    *, stride: int | Pair = 1, padding: int | Pair = 0,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    x, w, _ = inputs
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    (_, _, H, W), (_, _, R, S) = x.shape, w.shape
    _, _, P, Q = out_shape(x, w, stride, padding)
    padded = padded_input(x, (ph, pw))
    dx = dw = db = None
    if needs[0]:
        # One filter position at a time: its products all land on different pixels, so += is safe.
        d = np.zeros_like(padded)
        for r in range(R):
            for s in range(S):
                part = np.tensordot(dy, w[:, :, r, s], axes=((1,), (0,))).transpose(0, 3, 1, 2)
                d[:, :, r : r + sh * P : sh, s : s + sw * Q : sw] += part
        dx = np.ascontiguousarray(d[:, :, ph : ph + H, pw : pw + W])
    if needs[1]:
        dw = np.tensordot(dy, windows(padded, w, (sh, sw)), axes=((0, 2, 3), (0, 2, 3)))
    if needs[2]:
        db = dy.sum(axis=(0, 2, 3))
    return dx, dw, db
