"""Images in two parts, one to train on and one held out, and how examples are parted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnkernels.data.checks import Array, Labels, Rng, generator_of, integer, integer_labels, same_length


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Images and labels in two disjoint parts: one to train on, one held out.

    x_train, x_test: float32 (N, C, H, W) in [0, 1]; y_train, y_test: int64 (N,), label k standing
    for class_names[k].
    """

    x_train: NDArray[np.float32]
    y_train: Labels
    x_test: NDArray[np.float32]
    y_test: Labels
    name: str
    class_names: tuple[str, ...]

    def __repr__(self) -> str:
        return (
            f"Split({self.name!r}: x_train {self.x_train.shape}, x_test {self.x_test.shape}, "
            f"{len(self.class_names)} classes)"
        )


def scaled(pixels: Array, brightest: int) -> NDArray[np.float32]:
    """The pixels over the brightest, float32 in [0, 1]."""
    quotient: NDArray[np.float32] = np.divide(pixels, np.float32(brightest), dtype=np.float32, order="C")
    return quotient


def balanced_split(labels: Array, held_out: int, rng: Rng = None) -> tuple[Labels, Labels]:
    """Indices (kept, held out) that part the examples, every class in proportion to its size.

    labels: integers (N,); 0 < held_out < N. Both index arrays, int64, are in an order shuffled by
    `rng`. Where the shares are no whole numbers, the largest fractions are rounded up.

    >>> kept, held = balanced_split(np.array([7] * 6 + [9] * 3), 3)
    >>> np.array([7] * 6 + [9] * 3)[held].tolist().count(7)
    2
    """
    labels = integer_labels(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels have shape {labels.shape}, wanted (N,)")
    size, held_out = labels.size, integer(held_out, "held_out", least=1)
    if held_out >= size:
        raise ValueError(f"held_out is {held_out}, wanted less than the {size} examples")
    generator = generator_of(rng)
    classes, counts = np.unique(labels, return_counts=True)
    share, fraction = counts * held_out // size, counts * held_out % size
    share[np.argsort(-fraction, kind="stable")[: held_out - share.sum()]] += 1
    held = np.zeros(size, dtype=bool)
    for label, count in zip(classes, share, strict=True):
        held[generator.permutation(np.flatnonzero(labels == label))[:count]] = True
    return generator.permutation(np.flatnonzero(~held)), generator.permutation(np.flatnonzero(held))


def train_validation_split(
    x: Array, y: Array, fraction: float, rng: Rng = None
) -> tuple[Array, Array, Array, Array]:
    """x_train, y_train, x_validation, y_validation: copies, shuffled, class-balanced by labels y (N,).

    fraction: the validation part's share, above 0 and below 1; each part gets at least one example.
    """
    x, y = same_length(x=x, y=y)
    if isinstance(fraction, bool) or not isinstance(fraction, int | float | np.floating):
        raise TypeError(f"fraction is {type(fraction).__name__}, wanted a float between 0 and 1")
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}, wanted above 0 and below 1")
    if len(x) == 1:
        raise ValueError("x holds 1 example, wanted at least 2 to split")
    held_out = min(max(round(fraction * len(x)), 1), len(x) - 1)
    kept, held = balanced_split(y, held_out, rng)
    return x[kept], y[kept], x[held], y[held]
