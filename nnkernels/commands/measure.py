"""Measuring one op: how far its bodies are apart and how fast each is."""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.gpu import current_device
from nnkernels.machine.memory import Array
from nnkernels.ops import checks
from nnkernels.ops.op import CPU_BODIES, Body, Op, Sample
from nnkernels.ops.plain import plain_ops

Arrays = tuple[Array | None, ...]
cached_plain_ops = cache(plain_ops)

ROUNDS = 3  # turns of each body
# A turn lasts long enough to let the machine settle. The thread pool of the body before spins on for a while
# (OpenBLAS's about 0.1 s), and threads that were woken on one core must be moved apart.
SETTLE, TURN = 0.15, 0.05  # seconds of untimed, then of timed calls
BLOCK = 5e-4  # seconds: short calls are timed in blocks of about this length, far above the clock's step
GPU_BLOCK, GPU_BLOCKS = 5e-3, 11  # the same of a GPU, between two events


class Measurement(NamedTuple):
    """One body of one op on one sample.

    ``ulp`` and ``relative`` are the largest errors against ``loops``; ``gflops`` is None where the op counts
    no FLOPs. ``estimated`` says that the time was measured on ``sample``, a tiny one, and scaled.
    """

    op: str
    body: str
    sample: Sample
    ulp: float
    relative: float
    seconds: float
    gflops: float | None
    speedup: float
    estimated: bool


def measure(op: Op, dtype: Any, backward: bool = False) -> list[Measurement]:
    """Return the measurements of plain Python, loops, vectorized and tuned, in this order."""
    rng = np.random.default_rng(0)
    sample = next(op.bench_samples(rng, dtype))
    wanted = results(op, op.loops, sample, backward)
    calls = {str(name): caller(op, op.body(name), sample, backward) for name in CPU_BODIES}
    seconds = interleaved(calls)
    flops = 0 if backward else op.flops(*sample.arrays, **sample.attributes)

    def row(
        body: str, on: Sample, error: tuple[float, float], time_taken: float, scaled: bool
    ) -> Measurement:
        gflops = flops / time_taken / 1e9 if flops else None
        return Measurement(
            op.name, body, on, *error, time_taken, gflops, seconds["loops"] / time_taken, scaled
        )

    rows = [row("python", *plain_python(op, sample, rng, backward))]
    for name in CPU_BODIES:
        error = largest_error(results(op, op.body(name), sample, backward), wanted)
        rows.append(row(name, sample, error, seconds[name], False))
    return rows


# --- errors ---


def given(arrays: Arrays, on_gpu: bool) -> Any:
    """Return copies of arrays in host memory, or on what "cuda" means."""
    return checks.placed("cuda" if on_gpu else "loops", checks.copies(arrays))


def results(op: Op, body: Body, sample: Sample, backward: bool, on_gpu: bool = False) -> Arrays:
    """Return what a call computes: outputs, or the gradients for a fixed random cotangent."""
    return checks.fetched(caller(op, body, sample, backward, on_gpu)())


def largest_error(got: Arrays, wanted: Arrays) -> tuple[float, float]:
    """Return the largest error in ULP (of the wanted element) and relative to the largest wanted element."""
    ulp = relative = 0.0
    for g, w in zip(got, wanted, strict=True):
        if g is None or w is None or w.dtype.kind != "f":
            continue  # saved indices are the tests' business
        equal = (g == w) | (np.isnan(g) & np.isnan(w))
        if equal.all():
            continue
        largest = np.abs(w[np.isfinite(w)]).max(initial=np.finfo(w.dtype).tiny)
        g, w = g[~equal], w[~equal]
        if not (np.isfinite(g) & np.isfinite(w)).all():
            return np.inf, np.inf
        error = np.abs(g.astype(np.float64) - w)
        unit = np.spacing(np.maximum(np.abs(w), np.finfo(w.dtype).tiny))
        ulp = max(ulp, float((error / unit).max()))
        relative = max(relative, float(error.max() / largest))
    return ulp, relative


# --- times ---


def caller(op: Op, body: Body, sample: Sample, backward: bool, on_gpu: bool = False) -> Callable[[], Any]:
    """Return the call to be timed, on copies of its own: update steps overwrite their inputs."""
    arrays, attributes = given(sample.arrays, on_gpu), sample.attributes
    if not backward:
        return lambda: body.forward(*arrays, **attributes)
    outputs = body.forward(*arrays, **attributes)
    (dy,) = given((checks.cotangent(np.random.default_rng(1), outputs),), on_gpu)
    needs, pull_back = checks.differentiable(op, sample), body.backward
    assert pull_back is not None
    return lambda: pull_back(dy, outputs, arrays, needs, **attributes)


def interleaved(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the median seconds of each call, the calls taking turns: drifts of the clock hit all alike."""
    for call in calls.values():
        call()  # compiles
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            times[name] += turn(call)
    return {name: statistics.median(t) for name, t in times.items()}


def turn(call: Callable[[], object]) -> list[float]:
    """Return the seconds of a call, measured again and again for one turn."""
    start = time.perf_counter()
    once = timed(call, 1)
    while time.perf_counter() - start < SETTLE:
        once = min(once, timed(call, 1))
    repeats = max(1, int(BLOCK / max(once, 1e-9)))
    start = time.perf_counter()
    times = [timed(call, repeats)]
    while time.perf_counter() - start < TURN:
        times.append(timed(call, repeats))
    return times


def timed(call: Callable[[], object], repeats: int) -> float:
    """Return the mean seconds of ``repeats`` calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def gpu_seconds(call: Callable[[], object]) -> float:
    """Return the median seconds of a call's work on the device that "cuda" means."""
    device = current_device()
    call()  # compiles
    repeats = max(1, int(GPU_BLOCK / max(device.timed(call), 1e-9)))

    def block() -> None:
        for _ in range(repeats):
            call()

    return statistics.median(device.timed(block) for _ in range(GPU_BLOCKS)) / repeats


# --- plain Python ---


def plain_python(
    op: Op, target: Sample, rng: np.random.Generator, backward: bool
) -> tuple[Sample, tuple[float, float], float, bool]:
    """Run ``loops`` without compiling it on the largest of the op's small samples.

    Returns that sample, the error against compiled ``loops`` on it, the seconds scaled to ``target`` by FLOPs
    (by elements where none are counted), and whether they were scaled: a view takes no time at any size.
    """
    dtype = next(a.dtype for a in target.arrays if a is not None and a.dtype.kind == "f")
    sample = max(op.samples(rng, dtype), key=lambda s: work(op, s))
    body = cached_plain_ops()[op.name].loops
    with np.errstate(all="ignore"):  # NumPy scalars warn where compiled code is silent
        error = largest_error(results(op, body, sample, backward), results(op, op.loops, sample, backward))
        seconds = statistics.median(turn(caller(op, body, sample, backward)))
    if not work(op, target):
        return sample, error, seconds, False
    return sample, error, seconds * work(op, target) / work(op, sample), True


def work(op: Op, sample: Sample) -> int:
    """Return FLOPs, or elements of the output where none are counted, or 0 for a view."""
    if flops := op.flops(*sample.arrays, **sample.attributes):
        return flops
    arrays = checks.copies(sample.arrays)
    y = op.loops.forward(*arrays, **sample.attributes)[0]
    return y.size if op.bytes(arrays, y) else 0
