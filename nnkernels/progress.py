"""What a training shows while it runs: a bar, a line per epoch, or nothing."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class Score(NamedTuple):
    """Mean loss per sample and, for integer labels, the share classified correctly (else None)."""

    loss: float
    accuracy: float | None


class Report:
    """Shows nothing; the base of what shows progress."""

    def batch(self) -> None:
        """Note that a batch is done."""

    def epoch(self, epoch: int, scores: dict[str, Score]) -> None:
        """Note that an epoch is done."""


class Lines(Report):
    """One line per epoch on stderr."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def epoch(self, epoch: int, scores: dict[str, Score]) -> None:
        """Print the epoch's scores."""
        print(f"epoch {epoch:3d}/{self.epochs}  {in_words(scores)}", file=sys.stderr, flush=True)


class Bar(Report):
    """A tqdm bar over all batches, with a line per epoch above it."""

    def __init__(self, epochs: int, bar: Any) -> None:
        self.epochs, self.bar = epochs, bar

    def batch(self) -> None:
        """Move the bar."""
        self.bar.update()

    def epoch(self, epoch: int, scores: dict[str, Score]) -> None:
        """Write the epoch's scores above the bar."""
        self.bar.write(f"epoch {epoch:3d}/{self.epochs}  {in_words(scores)}", file=sys.stderr)


def in_words(scores: dict[str, Score]) -> str:
    """Return the scores of an epoch as text."""
    parts = []
    for name, score in scores.items():
        accuracy = "" if score.accuracy is None else f" accuracy {score.accuracy:.1%}"
        parts.append(f"{name} loss {score.loss:.4f}{accuracy}")
    return "   ".join(parts)


@contextmanager
def reporting(epochs: int, batches: int, progress: bool, done: int = 0) -> Iterator[Report]:
    """Yield what shows progress: a bar on a terminal where tqdm is installed, else lines, else nothing.

    ``batches`` are those of one epoch, ``done`` those of all epochs that a resumed training has behind it.
    """
    if not progress:
        yield Report()
        return
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            with tqdm(total=epochs * batches, initial=done, unit="batch", leave=False) as bar:
                yield Bar(epochs, bar)
            return
    yield Lines(epochs)
