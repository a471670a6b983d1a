"""max_pool2d and avg_pool2d as NumPy expressions over a view of all windows."""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.pooling.shapes import NOWHERE, Geometry, Size, divisors, geometry, out_shape


def windows(x: Array, g: Geometry, outside: float, ceil_mode: bool = False) -> Array:
    """Return (..., P, Q, R S): the elements of every window, in window order."""
    R, S, sh, sw, ph, pw, dh, dw = g
    beyond = (sh - 1, sw - 1) if ceil_mode else (0, 0)  # how far a last window may hang over the end
    border = [(0, 0)] * (x.ndim - 2) + [(ph, ph + beyond[0]), (pw, pw + beyond[1])]
    padded = np.pad(x, border, constant_values=outside)
    _, _, P, Q = out_shape((1, 1, *x.shape[-2:]), g, ceil_mode)
    reach = dh * (R - 1) + 1, dw * (S - 1) + 1
    every = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(-2, -1))
    view = every[..., ::sh, ::sw, ::dh, ::dw][..., :P, :Q, :, :]
    return view.reshape(*view.shape[:-2], R * S)


def max_pool2d_forward_vectorized(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False,
) -> tuple[Array, Array]:  # fmt: skip
    g = geometry(kernel_size, stride, padding, dilation)
    H, W = x.shape[2:]
    values = windows(x, g, -np.inf, ceil_mode)
    positions = windows(np.arange(H * W, dtype=np.int32).reshape(H, W), g, -1, ceil_mode)
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


def areas(x: Array, y: tuple[int, ...], g: Geometry, include_pad: bool, override: int | None) -> Array:
    """Return what the sum of each window is divided by, (P, Q), in x's dtype."""
    rows, columns = divisors(x.shape, y, g, include_pad, override)
    return np.multiply.outer(rows, columns).astype(x.dtype)


def avg_pool2d_forward_vectorized(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> tuple[Array]:  # fmt: skip
    g = geometry(kernel_size, stride, padding)
    y = windows(x, g, 0, ceil_mode).sum(axis=-1, dtype=x.dtype)
    return (y / areas(x, y.shape, g, count_include_pad, divisor_override),)


def avg_pool2d_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool],
    *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    (x,) = inputs
    N, C, H, W = x.shape
    _, _, P, Q = dy.shape
    R, S, sh, sw, ph, pw, _, _ = g = geometry(kernel_size, stride, padding)
    # The padded pixel h was read by the windows that start in h - R + 1 ... h. With each dy written where
    # its window starts, and R - 1 zeros in front, dx is again a sum over sliding windows.
    height, width = max(H + 2 * ph, sh * (P - 1) + R), max(W + 2 * pw, sw * (Q - 1) + S)
    starts = np.zeros((N, C, height + R - 1, width + S - 1), x.dtype)
    shares = dy / areas(x, dy.shape, g, count_include_pad, divisor_override)
    starts[:, :, R - 1 :: sh, S - 1 :: sw][:, :, :P, :Q] = shares
    dx = windows(starts, geometry((R, S), 1), 0).sum(axis=-1)
    return (np.ascontiguousarray(dx[:, :, ph : ph + H, pw : pw + W]),)
