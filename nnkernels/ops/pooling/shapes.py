"""Shapes of the two pooling ops."""

import numpy as np

from nnkernels.ops.validate import pair

Size = int | tuple[int, int]
Geometry = tuple[int, int, int, int, int, int]  # R, S, sh, sw, ph, pw

NOWHERE = np.iinfo(np.int32).max  # index of what lies outside the image


def geometry(kernel_size: Size, stride: Size | None, padding: Size) -> Geometry:
    """Return the attributes as six ints."""
    R, S = pair(kernel_size)
    sh, sw = pair(kernel_size if stride is None else stride)
    ph, pw = pair(padding)
    return R, S, sh, sw, ph, pw


def out_shape(x: tuple[int, ...], g: Geometry) -> tuple[int, int, int, int]:
    """Return (N, C, P, Q) for images of shape x (N, C, H, W)."""
    N, C, H, W = x
    R, S, sh, sw, ph, pw = g
    return N, C, (H + 2 * ph - R) // sh + 1, (W + 2 * pw - S) // sw + 1
