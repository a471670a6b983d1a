"""Sizes of a convolution: N images, C channels, H x W pixels, K filters of R x S, P x Q outputs."""

from functools import lru_cache
from typing import Literal

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.validate import pair

SLOTS = 8  # workspaces that a convolution's tasks are dealt to
Pair = tuple[int, int]
Winograd = Literal[False, 2, 4] | None  # off, patches of 2 x 2 or 4 x 4, or whatever the rule says


@lru_cache(maxsize=256)
def no_bias(K: int, dtype: str) -> Array:
    """Return K zeros in place of a bias, never written to."""
    return np.zeros(K, dtype)


def out_length(length: int, filter_length: int, stride: int, padding: int, dilation: int) -> int:
    """Return the number of places where a dilated filter fits into a padded axis."""
    return (length + 2 * padding - dilation * (filter_length - 1) - 1) // stride + 1


def out_shape(
    x: Array, w: Array, stride: int | Pair, padding: int | Pair, dilation: int | Pair
) -> tuple[int, int, int, int]:
    """Return (N, K, P, Q) with P = floor((H + 2 ph - dh (R - 1) - 1) / sh) + 1, Q alike."""
    (sh, sw), (ph, pw), (dh, dw) = pair(stride), pair(padding), pair(dilation)
    N, _, H, W = x.shape
    K, _, R, S = w.shape
    return N, K, out_length(H, R, sh, ph, dh), out_length(W, S, sw, pw, dw)
