"""What the demos share: options, progress, files, and claims that are checked.

    demo = Demo("With equal covariances the boundary between two Gaussians is a line")
    ...
    demo.save(figure, "boundary")
    demo.check("angle between the two lines, degrees", angle, at_most=2)

A script that makes a `Demo` takes ``--out DIR --seed N --quick`` on its command line, writes its pictures and
metrics.json into the directory, and ends with a `ClaimError` where a claim does not hold.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from nnkernels import io, plot
from nnkernels.machine.info import versions

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Item = TypeVar("Item")
DPI, GIF_DPI = 120, 100
METRICS = "metrics.json"
SILENT = 2.0  # seconds that may pass without a word


class ClaimError(AssertionError):
    """A demo has measured something else than it claims."""


class Demo:
    """One run of a demo.

    ``claim`` is the fact that the demo shows, in one sentence. Options are read from the command line:
    ``out`` is the directory that files go to (made where missing), ``quick`` whether to do less (a trial
    run), ``rng`` a numpy Generator from ``seed``. Everything drawn from here on is in the house style.
    """

    def __init__(self, claim: str) -> None:
        options = read_options(claim)
        self.claim = claim
        self.seed: int = options.seed
        self.quick: bool = options.quick
        self.rng = np.random.default_rng(self.seed)
        self.out: Path = options.out
        self.checks: list[dict[str, Any]] = []
        self.records: dict[str, Any] = {}
        plot.style.use()

    def save(self, picture: Figure | plot.Animation, name: str) -> None:
        """Write a figure to ``name``.png, an animation to ``name``.gif."""
        if not isinstance(picture, plot.Animation):
            plot.save(picture, self.out / f"{name}.png", DPI)
            return
        steps = self.steps(range(picture.frames), f"drawing {name}.gif")

        def update(k: int) -> None:
            next(steps)
            picture.update(k)

        plot.save(replace(picture, update=update), self.out / f"{name}.gif", GIF_DPI)
        next(steps, None)  # ends the progress

    def record(self, **figures: Any) -> None:
        """Print figures (numbers, strings, lists, dicts of them) and keep them for metrics.json."""
        for name, figure in figures.items():
            plain = figure.tolist() if isinstance(figure, np.ndarray | np.generic) else figure
            if isinstance(plain, dict):
                plain = {str(key): part for key, part in plain.items()}  # as JSON has them
            self.records[name] = plain
            print(f"{name.replace('_', ' ')}: {in_words(plain)}")
        self._write()

    def check(
        self,
        what: str,
        measured: float | bool,
        *,
        at_most: float | None = None,
        at_least: float | None = None,
    ) -> None:
        """Demand that ``measured`` lies within the bounds, or, without bounds, that it is true.

        Prints and records it in either case; raises ClaimError if it does not hold (NaN never does). The last
        check is the one that tables of demos show.
        """
        bounded = at_most is not None or at_least is not None
        value = float(measured) if bounded else bool(measured)
        low, high = (-math.inf if at_least is None else at_least), (math.inf if at_most is None else at_most)
        holds = low <= value <= high if bounded else value is True
        bounds = [f"at least {low:g}"] if at_least is not None else []
        bounds += [f"at most {high:g}"] if at_most is not None else []
        bounds = [f"{low:g}"] if low == high else bounds
        found = f"{value:.4g}, claimed {' and '.join(bounds)}" if bounded else ("yes" if value else "no")
        self.checks.append({"what": what, "measured": value, "found": found, "holds": holds})
        print(f"{'holds' if holds else 'FAILS'}: {what}: {found}")
        self._write()
        if not holds:
            raise ClaimError(f"{what}: {found} (the claim: {self.claim})")

    def steps(self, items: Collection[Item], label: str) -> Iterator[Item]:
        """Yield the items and show on stderr how far it is, wherever two seconds pass without a word."""
        total = len(items)
        start = said = time.monotonic()
        live = sys.stderr.isatty()
        for number, item in enumerate(items):
            now = time.monotonic()
            if now - said >= (0.2 if live and said > start else SILENT):
                said = now
                text = f"  {label}: {number} of {total}"
                print(
                    f"\r{text}\033[K" if live else text, end="" if live else "\n", file=sys.stderr, flush=True
                )
            yield item
        if live and said > start:
            print("\r\033[K", end="", file=sys.stderr, flush=True)

    def _write(self) -> None:
        """Write metrics.json as far as it is known."""
        io.write_json(
            self.out / METRICS,
            {
                "claim": self.claim,
                "holds": bool(self.checks) and all(check["holds"] for check in self.checks),
                "checks": self.checks,
                "figures": self.records,
                "seed": self.seed,
                "quick": self.quick,
                "versions": versions(),
            },
        )


def name_of(script: str) -> str:
    """Return a demo's name, that of its file without ``plot_`` and its number.

    >>> name_of("demos/plot_01_two_gaussians.py")
    'two_gaussians'
    """
    return re.sub(r"^plot_\d+_", "", Path(script).stem)


def read_options(claim: str) -> argparse.Namespace:
    """Return the options of a demo's own command line; a wrong one ends the program with one line."""
    parser = argparse.ArgumentParser(description=f"Claim: {claim}.")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where files go (default: runs/NAME)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="seed of all that is random (default: 0)"
    )
    parser.add_argument("--quick", action="store_true", help="do less: a trial run of a few seconds")
    options = parser.parse_args()
    if options.seed < 0:
        parser.error(f"argument --seed: must be at least 0, got {options.seed}")
    options.out = options.out or Path("runs", name_of(sys.argv[0]))
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / METRICS).unlink(missing_ok=True)  # an old one would vouch for a run that failed
    except OSError as error:
        parser.error(f"argument --out: cannot write into {options.out}: {error.strerror}")
    return options


def in_words(value: Any) -> str:
    """Return a recorded figure as text, floats with four digits."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(map(in_words, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {in_words(part)}" for key, part in value.items())
    return str(value)
