"""What ranks say to each other: ``Ranks`` is one process by itself, ``MpiRanks`` several under MPI.

Every method but the properties is collective: all ranks must call it, in the same order, or those that did
wait for ever. Arrays travel as they are, anything else as JSON, never pickled.
"""

import json
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnkernels.machine.memory import Array

Json = Any
"""None, bool, int, float, str, and lists and dicts (with str keys) of them."""


class Ranks:
    """One process alone, without MPI: what it says comes back to it.

    >>> alone = Ranks()
    >>> alone.rank, alone.size, alone.sum([1, 2]).tolist(), alone.gather("here")
    (0, 1, [1.0, 2.0], ['here'])
    """

    rank = 0
    size = 1

    def sum(self, values: ArrayLike) -> NDArray[np.float64]:
        """Return the sums over all ranks of a few numbers, the same on every rank."""
        total = np.array(values, np.float64)
        self.sum_into(total)
        return total

    def sum_into(self, buffer: Array) -> None:
        """Overwrite a contiguous array by its sum over all ranks, bitwise the same on every rank."""

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on at least one rank."""
        return bool(self.sum([bool(flag)])[0])

    def broadcast(self, value: Json) -> Json:
        """Return rank 0's value; the others' are ignored."""
        return decoded(encoded(value))

    def broadcast_into(self, buffer: Array) -> None:
        """Overwrite a contiguous array by rank 0's of the same shape and dtype."""

    def gather(self, value: Json) -> list[Json] | None:
        """Return the values of all ranks, in their order, on rank 0; None on the others."""
        return [decoded(encoded(value))]

    def scatter(self, values: Sequence[Json] | None) -> Json:
        """Return this rank's entry of rank 0's sequence, which has one for each rank; others give None.

        Raises ValueError, on every rank, where rank 0's has more or fewer.
        """
        self._demand_one_each(None if values is None else len(values))
        assert values is not None
        return decoded(encoded(values[0]))

    def agree(self, who: str, lines: Sequence[str]) -> None:
        """Raise ValueError naming the first difference, on every rank, unless all have the same lines."""
        fault = None
        for mine, first in zip_longest(lines, self.broadcast(list(lines)), fillvalue="nothing more"):
            if mine != first:
                fault = f"{who}: rank {self.rank} has {mine} where rank 0 has {first}"
                break
        faults = [found for found in self.gather(fault) or () if found is not None]
        first_fault = self.broadcast(faults[0] if faults else None)
        if first_fault is not None:
            raise ValueError(first_fault)

    def _demand_one_each(self, count: int | None) -> None:
        """Raise ValueError unless ``count``, rank 0's, is the number of ranks."""
        count = self.broadcast(count)
        if count != self.size:
            raise ValueError(
                f"scatter: rank 0 must give one value for each of {self.size} ranks, got {count}"
            )


class MpiRanks(Ranks):
    """The ranks of an mpi4py communicator."""

    def __init__(self, mpi: Any, comm: Any) -> None:
        self.mpi, self.comm = mpi, comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()

    def sum_into(self, buffer: Array) -> None:
        """Overwrite a contiguous array by its sum over all ranks, bitwise the same on every rank."""
        self.comm.Allreduce(self.mpi.IN_PLACE, buffer, op=self.mpi.SUM)

    def broadcast(self, value: Json) -> Json:
        """Return rank 0's value; the others' are ignored."""
        data = encoded(value) if self.rank == 0 else np.empty(0, np.uint8)
        length = np.array([data.size], np.int64)
        self.comm.Bcast(length)
        if self.rank != 0:
            data = np.empty(int(length[0]), np.uint8)
        self.comm.Bcast(data)
        return decoded(data)

    def broadcast_into(self, buffer: Array) -> None:
        """Overwrite a contiguous array by rank 0's of the same shape and dtype."""
        self.comm.Bcast(buffer)

    def gather(self, value: Json) -> list[Json] | None:
        """Return the values of all ranks, in their order, on rank 0; None on the others."""
        data = encoded(value)
        lengths = np.zeros(self.size, np.int64)
        self.comm.Gather(np.array([data.size], np.int64), lengths)
        together = np.empty(int(lengths.sum()), np.uint8)
        self.comm.Gatherv(data, [together, lengths, starts(lengths), self.mpi.BYTE])
        if self.rank != 0:
            return None
        return [decoded(part) for part in np.split(together, np.cumsum(lengths)[:-1])]

    def scatter(self, values: Sequence[Json] | None) -> Json:
        """Return this rank's entry of rank 0's sequence, which has one for each rank; others give None."""
        self._demand_one_each(None if values is None else len(values))
        parts = [encoded(value) for value in values or ()] if self.rank == 0 else []
        lengths = np.array([part.size for part in parts] or [0] * self.size, np.int64)
        length = np.empty(1, np.int64)
        self.comm.Scatter(lengths, length)
        together = np.concatenate(parts) if parts else np.empty(0, np.uint8)
        data = np.empty(int(length[0]), np.uint8)
        self.comm.Scatterv([together, lengths, starts(lengths), self.mpi.BYTE], data)
        return decoded(data)


def encoded(value: Json) -> NDArray[np.uint8]:
    """Return a value as the bytes of its JSON; TypeError for what JSON lacks."""
    return np.frombuffer(json.dumps(value).encode(), np.uint8)


def decoded(data: NDArray[np.uint8]) -> Json:
    """Return the value that bytes of JSON stand for."""
    return json.loads(data.tobytes())


def starts(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return where each of several parts begins that lie one behind the other."""
    return np.cumsum(lengths) - lengths
