"""Mini-batches, and labels as vectors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from nnkernels.data.checks import Array, Labels, Rng, generator_of, integer, integer_labels, same_length


def one_hot(labels: Array, num_classes: int) -> NDArray[np.float32]:
    """float32 (..., num_classes): 1 at each label, 0 elsewhere.

    labels: integers of any shape, from 0 to num_classes - 1.

    >>> one_hot(np.array([2, 0]), 3).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    labels, num_classes = integer_labels(labels), integer(num_classes, "num_classes", least=1)
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(f"labels from {labels.min()} to {labels.max()}, wanted 0 to {num_classes - 1}")
    encoded = np.zeros((*labels.shape, num_classes), dtype=np.float32)
    np.put_along_axis(encoded, labels[..., np.newaxis].astype(np.int64), np.float32(1), axis=-1)
    return encoded


class Batches:
    """Mini-batches of arrays that share their first dimension, for a `for` loop.

    Each batch is a tuple with one C-ordered copy, in native byte order, per array; the last may be
    short unless drop_last. With shuffle, every pass goes through the examples in a new order drawn
    from `rng`. Raises TypeError or ValueError naming the argument at fault.

    >>> [x.tolist() for (x,) in Batches(np.arange(5), 2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(
        self,
        *arrays: Array | int,
        batch_size: int | None = None,
        shuffle: bool = False,
        rng: Rng = None,
        drop_last: bool = False,
    ) -> None:
        """`Batches(x, y, 64)`, or with any number of arrays `Batches(x, y, z, batch_size=64)`."""
        if batch_size is None:
            last = arrays[-1] if arrays else None
            if last is None or isinstance(last, np.ndarray):
                raise TypeError("batch_size is missing, wanted an int after the arrays")
            arrays, batch_size = arrays[:-1], last
        self.arrays = same_length(**{f"arrays[{i}]": array for i, array in enumerate(arrays)})
        self.batch_size = integer(batch_size, "batch_size", least=1)
        self.shuffle, self.drop_last = shuffle, drop_last
        self._rng = generator_of(rng)
        if len(self) == 0:
            size = len(self.arrays[0])
            raise ValueError(f"batch_size is {batch_size}, wanted at most the {size} examples with drop_last")

    def __len__(self) -> int:
        full, rest = divmod(len(self.arrays[0]), self.batch_size)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        # Drawn here, not at the first next(): the order depends on when the pass was begun only.
        return self.in_order(self.draw_order())

    def draw_order(self) -> Labels:
        """The numbers of all examples, in the order of a new pass."""
        size = len(self.arrays[0])
        return self._rng.permutation(size) if self.shuffle else np.arange(size)

    def in_order(self, order: Labels, first: int = 0) -> Iterator[tuple[Array, ...]]:
        """The batches of a pass in an order that `draw_order` has returned, from number `first` on.

        >>> [x.tolist() for (x,) in Batches(np.arange(5), 2).in_order(np.array([4, 2, 0, 1, 3]), first=1)]
        [[0, 1], [3]]
        """
        size = len(self.arrays[0])
        if order.shape != (size,) or order.dtype.kind != "i" or order.min() < 0 or order.max() >= size:
            raise ValueError(
                f"order is {order.dtype} {order.shape}, wanted {size} integers from 0 to {size - 1}"
            )
        if not 0 <= first <= len(self):
            raise ValueError(f"first is {first}, wanted 0 to {len(self)}")
        starts = range(first * self.batch_size, len(self) * self.batch_size, self.batch_size)
        return (self._gather(order[start : start + self.batch_size]) for start in starts)

    def _gather(self, indices: Labels) -> tuple[Array, ...]:
        return tuple(a[indices].astype(a.dtype.newbyteorder("="), order="C", copy=False) for a in self.arrays)
