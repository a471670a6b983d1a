"""max_pool2d and avg_pool2d as NumPy expressions over a view of all windows."""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.pooling.shapes import NOWHERE, Geometry, Size, geometry


def windows(x: Array, g: Geometry, outside: float) -> Array:
    """Return (..., P, Q, R S): the elements of every window, in window order."""
    R, S, sh, sw, ph, pw = g
    border = [(0, 0)] * (x.ndim - 2) + [(ph, ph), (pw, pw)]
    padded = np.pad(x, border, constant_values=outside)
    view = np.lib.stride_tricks.sliding_window_view(padded, (R, S), axis=(-2, -1))[..., ::sh, ::sw, :, :]
    return view.reshape(*view.shape[:-2], R * S)


def max_pool2d_forward_vectorized(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> tuple[Array, Array]:
    g = geometry(kernel_size, stride, padding)
    H, W = x.shape[2:]
    values = windows(x, g, -np.inf)
    positions = windows(np.arange(H * W, dtype=np.int32).reshape(H, W), g, -1)
    first = values.argmax(axis=-1)
    y = np.take_along_axis(values, first[..., None], axis=-1)[..., 0]
    positions = np.broadcast_to(positions, values.shape)
    argmax = np.take_along_axis(positions, first[..., None], axis=-1)[..., 0]
    # In a window of -inf alone the border came first: its first element inside the image takes its place.
    inside = np.where(positions < 0, NOWHERE, positions).min(axis=-1)
    return y, np.where(argmax < 0, inside, argmax)


def max_pool2d_backward_vectorized(
    dy: Array, outputs: tuple[Array, Array], inputs: tuple[Array], needs: tuple[bool], **attributes: Any
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    N, C, H, W = inputs[0].shape
    _, _, P, Q = dy.shape
    dx = np.zeros_like(inputs[0])
    planes = np.arange(N * C)[:, None] * (H * W)
    np.add.at(dx.reshape(-1), planes + outputs[1].reshape(N * C, P * Q), dy.reshape(N * C, P * Q))
    return (dx,)


def avg_pool2d_forward_vectorized(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0
) -> tuple[Array]:
    return (windows(x, geometry(kernel_size, stride, padding), 0).mean(axis=-1, dtype=x.dtype),)


def avg_pool2d_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    *, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    (x,) = inputs
    N, C, H, W = x.shape
    _, _, P, Q = dy.shape
    R, S, sh, sw, ph, pw = geometry(kernel_size, stride, padding)
    # The padded pixel h was read by the windows that start in h - R + 1 ... h. With each dy written where
    # its window starts, and R - 1 zeros in front, dx is again a sum over sliding windows.
    starts = np.zeros((N, C, H + 2 * ph + R - 1, W + 2 * pw + S - 1), x.dtype)
    starts[:, :, R - 1 :: sh, S - 1 :: sw][:, :, :P, :Q] = dy / (R * S)
    dx = windows(starts, (R, S, 1, 1, 0, 0), 0).sum(axis=-1)
    return (np.ascontiguousarray(dx[:, :, ph : ph + H, pw : pw + W]),)
