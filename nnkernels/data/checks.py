"""What the rooms of `data` share: types, and arguments checked."""

from __future__ import annotations

import os
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
Labels: TypeAlias = NDArray[np.int64]
PathLike: TypeAlias = str | os.PathLike[str]
Rng: TypeAlias = np.random.Generator | int | None


def generator_of(rng: Rng) -> np.random.Generator:
    """The generator itself, or one made of a seed; None is seed 0."""
    if isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(0 if rng is None else integer(rng, "rng", least=0))


def integer(value: object, argument: str, least: int) -> int:
    """The value, once known to be an int of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        kind = "a numpy Generator or an int seed" if argument == "rng" else "int"
        raise TypeError(f"{argument} is {type(value).__name__}, wanted {kind}")
    if value < least:
        raise ValueError(f"{argument} is {value}, wanted at least {least}")
    return int(value)


def same_length(**arrays: object) -> tuple[Array, ...]:
    """The arrays, once known to hold equally many examples, at least one."""
    checked = []
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is {type(array).__name__}, wanted a numpy array")
        checked.append(array)
    shapes = {name: array.shape for name, array in zip(arrays, checked, strict=True)}
    lengths = {shape[:1] for shape in shapes.values()}
    if len(lengths) != 1 or lengths & {(), (0,)}:
        raise ValueError(f"array shapes {shapes}, wanted equal first dimensions above 0")
    return tuple(checked)


def integer_labels(labels: object) -> Array:
    """The labels, once known to be an array of integers."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        found = labels.dtype if isinstance(labels, np.ndarray) else type(labels).__name__
        raise TypeError(f"labels are {found}, wanted a numpy array of integers")
    return labels
