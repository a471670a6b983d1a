"""Shapes of the pooling ops, and how many elements each window of an average counts."""

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.validate import pair

Size = int | tuple[int, int]
Geometry = tuple[int, int, int, int, int, int, int, int]  # R, S, sh, sw, ph, pw, dh, dw

NOWHERE = np.iinfo(np.int32).max  # index of what lies outside the image


def geometry(
    kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1
) -> Geometry:
    """Return the attributes as eight ints."""
    R, S = pair(kernel_size)
    sh, sw = pair(kernel_size if stride is None else stride)
    ph, pw = pair(padding)
    dh, dw = pair(dilation)
    return R, S, sh, sw, ph, pw, dh, dw


def out_length(size: int, kernel: int, stride: int, padding: int, dilation: int, ceil_mode: bool) -> int:
    """Return the number of windows along an axis.

    With ``ceil_mode`` a last one may hang over the end, if it starts in the image or in the padding before.
    """
    rest = size + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return rest // stride + 1
    last = -(-rest // stride)
    return last + 1 if last * stride < size + padding else last


def out_shape(x: tuple[int, ...], g: Geometry, ceil_mode: bool = False) -> tuple[int, int, int, int]:
    """Return (N, C, P, Q) for images of shape x (N, C, H, W)."""
    N, C, H, W = x
    R, S, sh, sw, ph, pw, dh, dw = g
    return N, C, out_length(H, R, sh, ph, dh, ceil_mode), out_length(W, S, sw, pw, dw, ceil_mode)


def extents(size: int, windows: int, kernel: int, stride: int, padding: int, include_pad: bool) -> Array:
    """Return how many places along an axis each window counts: of the padded image, or of the image."""
    outside = padding if include_pad else 0
    start = stride * np.arange(windows) - padding
    return np.minimum(start + kernel, size + outside) - np.maximum(start, -outside)


def divisors(
    x: tuple[int, ...], y: tuple[int, ...], g: Geometry, include_pad: bool, override: int | None
) -> tuple[Array, Array]:
    """Return a divisor for each row and for each column of windows: their product is what avg divides by."""
    R, S, sh, sw, ph, pw, _, _ = g
    if override is not None:
        return np.full(y[2], override), np.ones(y[3], int)
    return extents(x[2], y[2], R, sh, ph, include_pad), extents(x[3], y[3], S, sw, pw, include_pad)
