"""The kernels of all ops as machine code, without a GPU: which there are, and what became of each.

An op is called with arrays of its samples' shapes on a device that only writes launches down
(machine/gpu_assembly.py). A kernel that several ops launch with the same types is compiled once; processes
share the work.
"""

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine import arrays
from nnkernels.machine.gpu_array import empty
from nnkernels.machine.gpu_assembly import (
    CAPABILITIES,
    Compilation,
    Recorder,
    Report,
    examine,
    faults,
    recording,
    wanted_opcodes,
)
from nnkernels.machine.gpu_random import random_mask
from nnkernels.ops import OPS, checks

MOST_DRAWN = 2**16  # numbers; where more are asked for, zeros do, since nothing is computed


class Shapes(np.random.Generator):
    """A generator for samples of which only the shapes are used: large arrays are zeros."""

    def standard_normal(self, size: Any = None, *args: Any, **options: Any) -> Any:
        """Draw."""
        return zeros_if_many(size, lambda: super(Shapes, self).standard_normal(size, *args, **options))

    def uniform(self, low: Any = 0.0, high: Any = 1.0, size: Any = None) -> Any:
        """Draw."""
        return zeros_if_many(size, lambda: super(Shapes, self).uniform(low, high, size))

    def choice(self, a: Any, size: Any = None, *args: Any, **options: Any) -> Any:
        """Draw."""
        return zeros_if_many(size, lambda: super(Shapes, self).choice(a, size, *args, **options))


def zeros_if_many(size: Any, draw: Callable[[], Any]) -> Any:
    """Return what ``draw`` draws, or zeros where that would be many numbers."""
    if size is None or math.prod(np.atleast_1d(size).tolist()) <= MOST_DRAWN:
        return draw()
    return np.zeros(size, np.float32)


# --- which kernels there are ---


def launch_op(name: str, recorder: Recorder) -> None:
    """Call an op's passes for all shapes of its samples, small and large, in both dtypes."""
    op = OPS[name]
    assert op.cuda is not None
    for source in (op.samples, op.bench_samples):
        for sample in source(Shapes(np.random.PCG64(0)), np.float32):
            for dtype in (np.float32, np.float64):
                placed = tuple(
                    None if a is None else empty(a.shape, dtype if a.dtype.kind == "f" else a.dtype, recorder)
                    for a in sample.arrays
                )
                outputs = op.cuda.forward(*placed, **sample.attributes)
                if op.cuda.backward is not None:
                    dy = empty(outputs[0].shape, outputs[0].dtype, recorder)
                    needs = checks.differentiable(op, sample)
                    op.cuda.backward(dy, outputs, placed, needs, **sample.attributes)


def launch_fill(recorder: Recorder) -> None:
    """Fill arrays."""
    for dtype in (np.float32, np.float64, np.int64, np.bool_):
        arrays.fill(empty((9,), dtype, recorder), 1)


def launch_mask(recorder: Recorder) -> None:
    """Draw a mask."""
    random_mask((9,), 0.5, np.random.default_rng(0), recorder)


OTHERS = {"(fill)": launch_fill, "(random mask)": launch_mask}  # what no op launches


def names() -> list[str]:
    """Return what launches kernels: all ops that have a cuda body, and a few functions."""
    return sorted(name for name in OPS if OPS[name].cuda is not None) + list(OTHERS)


@cache
def compilations(name: str) -> list[Compilation]:
    """Return every kernel that an op launches, with the types of its arguments."""
    with recording() as recorder:
        if name in OTHERS:
            OTHERS[name](recorder)
        else:
            launch_op(name, recorder)
    return list(recorder.compilations.values())


# --- what became of them ---


class Verdict(NamedTuple):
    """What a kernel became on one architecture, and what is wrong with it."""

    kernel: str
    report: Report | None  # None where it could not be compiled
    faults: list[str]
    opcodes: dict[str, int]  # how often the ones that it must have occur


def judge(compilation: Compilation, capability: tuple[int, int]) -> Verdict:
    """Compile a kernel and compare it with what is expected of it."""
    try:
        report = examine(compilation, capability)
    except Exception as error:  # of Numba or NVIDIA's tools, of many kinds
        return Verdict(compilation.name, None, [f"{compilation.name}: {error}"], {})
    wanted = wanted_opcodes(compilation)
    found = {key: sum(n for name, n in report.opcodes.items() if name.startswith(key)) for key in wanted}
    return Verdict(compilation.name, report, faults(report, compilation), found)


def judge_some(name: str, numbers: Sequence[int], capability: tuple[int, int]) -> dict[int, Verdict]:
    """Judge those of an op's kernels: the work of another process, which finds them for itself."""
    return {k: judge(compilations(name)[k], capability) for k in numbers}


class Verdicts:
    """Verdicts on the kernels of many ops, on their way."""

    def __init__(self, wanted: Sequence[str], pool: ProcessPoolExecutor) -> None:
        judged: dict[Any, tuple[str, int]] = {}  # by kernel and types: the op that it is compiled for
        self.places: dict[str, list[tuple[str, int]]] = {}
        self.futures: dict[tuple[str, Any], Future[dict[int, Verdict]]] = {}
        for name in wanted:
            found = compilations(name)
            self.places[name] = [
                judged.setdefault((c.kernel, str(c.types)), (name, k)) for k, c in enumerate(found)
            ]
            numbers = sorted({k for maker, k in self.places[name] if maker == name})
            for capability in CAPABILITIES:
                self.futures[name, capability] = pool.submit(judge_some, name, numbers, capability)

    def of(self, name: str) -> list[Verdict]:
        """Wait for the verdicts on one op's kernels."""
        return [
            self.futures[maker, capability].result()[k]
            for maker, k in self.places[name]
            for capability in CAPABILITIES
        ]


@contextmanager
def verdicts(wanted: Sequence[str]) -> Iterator[Verdicts]:
    """Compile the kernels of the ops ``wanted`` in as many processes as there are cores, 8 at most."""
    context = multiprocessing.get_context("spawn")  # not fork, which leaves threads behind
    with ProcessPoolExecutor(min(8, os.cpu_count() or 1), context) as pool:
        try:
            yield Verdicts(wanted, pool)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
