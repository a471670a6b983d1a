"""upsample_nearest2d and upsample_bilinear2d as NumPy: a matrix from the left and one from the right."""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.upsample.shapes import Scale, Size, axes, bilinear_places, nearest_places

Needs = tuple[bool]


def matrix(places: Array, weights: Array, size: int) -> Array:
    """Return (out, size), with the weights where the places say."""
    found = np.zeros((places.shape[1], size), weights.dtype)
    for at, weight in zip(places, weights):
        np.add.at(found, (np.arange(len(at)), at), weight)
    return found


def nearest_forward_vectorized(x: Array, *, size: Size = None, scale_factor: Scale = None) -> tuple[Array]:
    down, along = axes(x.shape, size, scale_factor)
    return (np.ascontiguousarray(x[:, :, nearest_places(down)[:, None], nearest_places(along)]),)


def nearest_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs,
    *, size: Size = None, scale_factor: Scale = None,
) -> tuple[Array | None]:  # fmt: skip
    if not needs[0]:
        return (None,)
    left, right = (
        matrix(nearest_places(axis)[None], np.ones((1, axis.out), dy.dtype), axis.size)
        for axis in axes(inputs[0].shape, size, scale_factor)
    )
    return (left.T @ dy @ right,)


def bilinear_matrices(
    x: Array, size: Size = None, scale_factor: Scale = None, align_corners: bool = False
) -> tuple[Array, Array]:
    """Return (P, H) and (Q, W): y is the first times x times the second's transpose."""
    left, right = (
        matrix(*bilinear_places(axis, align_corners, x.dtype), axis.size)
        for axis in axes(x.shape, size, scale_factor)
    )
    return left, right


def bilinear_forward_vectorized(x: Array, **attributes: Any) -> tuple[Array]:
    left, right = bilinear_matrices(x, **attributes)
    return (left @ x @ right.T,)


def bilinear_backward_vectorized(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: Needs, **attributes: Any
) -> tuple[Array | None]:
    if not needs[0]:
        return (None,)
    left, right = bilinear_matrices(inputs[0], **attributes)
    return (left.T @ dy @ right,)
