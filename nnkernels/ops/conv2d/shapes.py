"""Sizes of a convolution: N images, C channels, H x W pixels, K filters of R x S, P x Q outputs."""

from nnkernels.machine.memory import Array
from nnkernels.ops.validate import pair

Pair = tuple[int, int]


def out_shape(x: Array, w: Array, stride: int | Pair, padding: int | Pair) -> tuple[int, int, int, int]:
    """Return (N, K, P, Q) with P = floor((H + 2 ph - R) / sh) + 1, Q alike."""
    (sh, sw), (ph, pw) = pair(stride), pair(padding)
    N, _, H, W = x.shape
    K, _, R, S = w.shape
    return N, K, (H + 2 * ph - R) // sh + 1, (W + 2 * pw - S) // sw + 1
