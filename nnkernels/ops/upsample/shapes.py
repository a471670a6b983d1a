"""Lengths of the axes of upsampled images, and tables of where their pixels come from."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.memory import Array

Scale = float | tuple[float, float] | None
Size = int | tuple[int, int] | None
Shape = tuple[int, ...]


class Axis(NamedTuple):
    """How an axis changes its length."""

    size: int
    out: int
    factor: float | None  # out / size where it was given, for it need not be that exactly


def axes(x: Shape, size: Size = None, scale_factor: Scale = None) -> tuple[Axis, Axis]:
    """Return the vertical and the horizontal axis."""
    given: Any = size if scale_factor is None else scale_factor
    both = given if isinstance(given, (tuple, list)) else (given, given)
    if scale_factor is None:
        return Axis(x[2], int(both[0]), None), Axis(x[3], int(both[1]), None)
    first, second = (Axis(n, math.floor(n * float(s)), float(s)) for n, s in zip(x[2:], both))
    return first, second


def step(axis: Axis, align_corners: bool = False) -> float:
    """Return by how much the place in x grows from one pixel of y to the next."""
    if axis.out == axis.size:
        return 1.0  # whatever factor was rounded to it
    if align_corners:
        return (axis.size - 1) / (axis.out - 1) if axis.out > 1 else 0.0
    return axis.size / axis.out if axis.factor is None else 1 / axis.factor


def nearest_step(axis: Axis) -> Any:
    """Return ``step`` in float32, 1/2 for doubled axes whatever the factor."""
    return np.float32(0.5 if axis.out == 2 * axis.size else step(axis))


@lru_cache(maxsize=256)
def nearest_places(axis: Axis) -> Array:
    """Return h(p) for every p."""
    places = np.floor(np.arange(axis.out, dtype=np.float32) * nearest_step(axis))
    whole: Array = np.minimum(places, axis.size - 1).astype(np.int64)
    return whole


@lru_cache(maxsize=256)
def nearest_windows(axis: Axis) -> Array:
    """Return for every h where the p with h(p) = h begin, and where they end."""
    places, h = nearest_places(axis), np.arange(axis.size)
    return np.stack((np.searchsorted(places, h, "left"), np.searchsorted(places, h, "right")))


@lru_cache(maxsize=256)
def bilinear_places(axis: Axis, align_corners: bool, dtype: Any) -> tuple[Array, Array]:
    """Return (2, out): the two places in x of every p, and their weights."""
    p, last = np.arange(axis.out), axis.size - 1
    by = step(axis, align_corners)
    place = p * by if align_corners else np.maximum((p + 0.5) * by - 0.5, 0)
    h = np.minimum(place.astype(int), last)
    a = np.minimum(place - h, 1)
    return np.stack((h, np.minimum(h + 1, last))), np.stack((1 - a, a)).astype(dtype)


@lru_cache(maxsize=256)
def bilinear_windows(axis: Axis, align_corners: bool, dtype: Any) -> tuple[Array, Array]:
    """Return for every w where the p made of it begin and where they end, and all their weights in a row."""
    (first, second), (left, right) = bilinear_places(axis, align_corners, dtype)
    w = np.arange(axis.size)
    begin, end = np.searchsorted(second, w, "left"), np.searchsorted(first, w, "right")
    weights = [np.where(first == i, left, 0) + np.where(second == i, right, 0) for i in w]
    cut = [row[i:j] for row, i, j in zip(weights, begin, end)]
    return np.stack((begin, end)), np.concatenate(cut).astype(dtype)
