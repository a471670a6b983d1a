"""Each rank's rows of every batch."""

from collections.abc import Iterator

import numpy as np

from nnkernels.data import Batches
from nnkernels.data.checks import Labels
from nnkernels.machine.memory import Array
from nnkernels.parallel.ranks import Ranks
from nnkernels.parallel.start import started


def shard(batches: Batches, ranks: Ranks | None = None) -> "Shard":
    """Return this rank's part of each batch, for a ``for`` loop; see ``Shard``.

    ``ranks`` are those that ``init`` has started. Raises ValueError, on every rank, where the ranks' batches
    differ in number, sizes or kind, or where ``drop_last`` leaves none.
    """
    return Shard(batches, started("shard") if ranks is None else ranks)


class Shard:
    """This rank's rows of global batches, each of which is ``batches.batch_size`` examples on every rank.

    All ranks go through the examples in one order, rank 0's: rank r takes rows r b to (r + 1) b of each
    global batch, so that 2 ranks with batches of 32 see what 1 rank with batches of 64 sees. A shorter last
    batch is split as evenly as can be. Where it has fewer examples than there are ranks, every rank gets all
    of them: the mean of equal gradients is that gradient.

    ``len`` is the number of global batches.

    >>> class Second(Ranks):
    ...     rank, size = 1, 2
    >>> [x.tolist() for (x,) in Shard(Batches(np.arange(7), 2), Second())]
    [[2, 3], [6]]
    """

    def __init__(self, batches: Batches, ranks: Ranks) -> None:
        self.batches, self.ranks = batches, ranks
        self.examples = len(batches.arrays[0])
        self.global_batch = batches.batch_size * ranks.size
        kinds = [f"arrays of {a.dtype} {a.shape}" for a in batches.arrays]
        ranks.agree("shard", [*kinds, f"batches of {batches.batch_size}", f"drop_last={batches.drop_last}"])
        if len(self) == 0:
            raise ValueError(
                f"shard: {ranks.size} ranks with batches of {batches.batch_size} need {self.global_batch} "
                f"examples with drop_last, got {self.examples}"
            )

    def __len__(self) -> int:
        full, rest = divmod(self.examples, self.global_batch)
        return full + (rest > 0 and not self.batches.drop_last)

    def __iter__(self) -> Iterator[tuple[Array, ...]]:
        return self.in_order(self.draw_order())

    def draw_order(self) -> Labels:
        """Return the order of one pass, drawn by rank 0. All ranks must call this."""
        batches = self.batches
        drawn = batches._rng.permutation(self.examples) if batches.shuffle else np.arange(self.examples)
        order = np.ascontiguousarray(drawn, np.int64)
        self.ranks.broadcast_into(order)
        return order

    def in_order(self, order: Labels, first: int = 0) -> Iterator[tuple[Array, ...]]:
        """Yield this rank's rows of the global batches of a pass in ``order``, from number ``first`` on.

        The order must be the same on all ranks, as ``draw_order`` returns it.
        """
        return (self.batches._gather(order[self.rows(number)]) for number in range(first, len(self)))

    def rows(self, number: int) -> slice:
        """Return the places in the order of the examples that this rank takes of batch ``number``, from 0."""
        start, count = number * self.global_batch, self.together(number)
        if count < self.ranks.size:
            return slice(start, start + count)
        each, more = divmod(count, self.ranks.size)
        rank = self.ranks.rank
        start += rank * each + min(rank, more)
        return slice(start, start + each + (rank < more))

    def together(self, number: int) -> int:
        """Return how many examples batch ``number`` has on all ranks together."""
        return min(self.global_batch, self.examples - number * self.global_batch)

    def counted(self, number: int) -> int:
        """Return how many examples of batch ``number`` this rank counts in sums over ranks: each one once."""
        rows = self.rows(number)
        copied = self.together(number) < self.ranks.size and self.ranks.rank > 0
        return 0 if copied else rows.stop - rows.start

    def weight(self, number: int) -> float:
        """Return what this rank's mean loss over batch ``number`` counts for; the mean over ranks is 1.

        The mean over ranks of weight times gradient is the gradient of the global batch's mean loss.
        """
        if self.together(number) < self.ranks.size:
            return 1.0
        return self.counted(number) * self.ranks.size / self.together(number)
