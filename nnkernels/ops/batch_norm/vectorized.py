"""batch_norm in NumPy."""

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.batch_norm.shapes import Grads, Inputs, Needs, Outputs, weights


def along_channels(x: Array, a: Array) -> Array:
    """Return a (C,) with axes of size 1 behind it, to go with x (N, C, ...)."""
    return a.reshape(-1, *(1,) * (x.ndim - 2))


def channel_mean(x: Array) -> Array:
    mean: Array = x.mean(axis=(0, *range(2, x.ndim)), dtype=np.float64)
    return mean


def batch_norm_forward_vectorized(
    x: Array, w: Array | None, b: Array | None, *, eps: float = 1e-5
) -> Outputs:
    w, b = weights(x, w, b)
    mean = channel_mean(x).astype(x.dtype)
    moved = x - along_channels(x, mean)
    rstd = (1 / np.sqrt(channel_mean(moved * moved) + eps)).astype(x.dtype)
    return moved * along_channels(x, w * rstd) + along_channels(x, b), mean, rstd


def batch_norm_backward_vectorized(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, eps: float = 1e-5
) -> Grads:
    (x, w, b), (_, mean, rstd) = inputs, outputs
    x_hat = (x - along_channels(x, mean)) * along_channels(x, rstd)
    db, dw = channel_mean(dy).astype(x.dtype), channel_mean(dy * x_hat).astype(x.dtype)
    dx = None
    if needs[0]:
        scale = along_channels(x, weights(x, w, b)[0] * rstd)
        dx = scale * (dy - along_channels(x, db) - x_hat * along_channels(x, dw))
    n = x.size // max(1, x.shape[1])
    return dx, dw * n if needs[1] else None, db * n if needs[2] else None
