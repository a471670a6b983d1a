"""How peers.py times calls: side by side in one process, or each body by itself."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

Call = Callable[[], Any]

WARM = 5e-4  # seconds of untimed calls after a switch, at least one call
BLOCK = 6e-3  # seconds of timed calls before the next switch, at least one call
BUNDLE = 2e-5  # seconds: shorter calls are timed in bundles of this length, far above the clock's step
ROUNDS = 5  # blocks of each call, at least


def interleaved(calls: Mapping[str, Call], seconds: float) -> dict[str, dict[str, float]]:
    """Return the median and quartiles of each call's seconds, over blocks that take turns.

    The order turns round from one round to the next. The first calls of a block are not timed: the thread
    pool of the library before may still spin, and caches hold what it used.
    """
    bundles = {name: bundle_of(call) for name, call in calls.items()}
    blocks: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls)
    start, rounds = time.perf_counter(), 0
    while rounds < ROUNDS or time.perf_counter() - start < seconds:
        for name in order:
            warm(calls[name], WARM)
            blocks[name].append(block(calls[name], bundles[name]))
        order.reverse()
        rounds += 1
    return {name: summary(times) for name, times in blocks.items()}


def alone(call: Call, seconds: float, settle: float) -> float:
    """Return the median of a call's seconds, timed by itself after it has run for a while."""
    call()  # compiles
    n = bundle_of(call, trials=1)
    warm(call, settle)
    times: list[float] = []
    start = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - start < seconds:
        times.append(timed(call, n))
    return statistics.median(times)


def bundle_of(call: Call, trials: int = 3) -> int:
    """Return how many calls are timed together."""
    return max(1, int(BUNDLE / min(timed(call, 1) for _ in range(trials))))


def warm(call: Call, seconds: float) -> None:
    """Call at least once, for about that time."""
    end = time.perf_counter() + seconds
    call()
    while time.perf_counter() < end:
        call()


def block(call: Call, bundle: int) -> float:
    """Return the median seconds of a call over one block."""
    times = []
    end = time.perf_counter() + BLOCK
    while not times or time.perf_counter() < end:
        times.append(timed(call, bundle))
    return statistics.median(times)


def timed(call: Call, repeats: int) -> float:
    """Return the mean seconds of ``repeats`` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def summary(times: list[float]) -> dict[str, float]:
    """Return median and quartiles."""
    quartiles = statistics.quantiles(times, n=4, method="inclusive")
    return dict(zip(("q1", "median", "q3"), quartiles))
