"""Planted faults: proof that the table's checks can fail.

A mutant is an edit of one line in an op's source. The ops are imported a second time with the edit in place,
as plain Python: nothing is compiled, so a mutant costs a fraction of a second, and a faulty index raises
instead of writing anywhere. Then its faulty body goes through the checks. A mutant that passes them all means
that the checks are too weak.
"""

import importlib.abc
import types
from collections.abc import Iterable
from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import numpy as np

from nnkernels.machine.gpu_simulator import SimulationError, simulate_gpu
from nnkernels.ops import checks
from nnkernels.ops.op import BodyName, Mutant, Op, Sample
from nnkernels.ops.plain import plain_ops

ROOM = Path(__file__).parent
RECORDS = "\n# --- record"  # below this line a file declares its mutants: their texts do not count


def mutated_source(mutant: Mutant) -> str:
    """Return the file's source with the fault planted; ValueError unless ``old`` occurs exactly once."""
    source = (ROOM / mutant.file).read_text(encoding="utf-8")
    code, mark, records = source.partition(RECORDS)
    if code.count(mutant.old) != 1:
        raise ValueError(f"mutant {mutant.name!r}: {mutant.old!r} occurs {code.count(mutant.old)} times in "
                         f"{mutant.file}, must be once")  # fmt: skip
    return code.replace(mutant.old, mutant.new) + mark + records


class MutantFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives the import system the faulty source for one module name."""

    def __init__(self, name: str, mutant: Mutant) -> None:
        self.name, self.mutant = name, mutant

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        """Claim the one module, leave all others to the usual finders."""
        return ModuleSpec(fullname, self, origin=self.mutant.file) if fullname == self.name else None

    def exec_module(self, module: types.ModuleType) -> None:
        """Run the faulty source."""
        exec(compile(mutated_source(self.mutant), self.mutant.file, "exec"), module.__dict__)


def load(op: Op, mutant: Mutant) -> Op:
    """Return ``op`` with the mutant's body in place of the sound one."""
    name = "nnkernels.ops." + mutant.file.removesuffix(".py").replace("/", ".")
    faulty = plain_ops(MutantFinder(name, mutant))[op.name]
    bodies: dict[str, Any] = {mutant.body: getattr(faulty, mutant.body)}
    return replace(op, **bodies)


def verdict(op: Op, mutant: Mutant) -> str | None:
    """Return what the first failing check says of the mutant, None when it lives through all of them."""
    return judged(load(op, mutant), mutant.body)


def judged(op: Op, body: BodyName) -> str | None:
    """Return what the first check that fails for one of the op's bodies says, None when all pass."""
    rng = np.random.default_rng(0)
    # A faulty `loops` is itself the yardstick of the agreement check: hold `vectorized` against it.
    compared: BodyName = "vectorized" if body == "loops" else body
    if body == "cuda":
        return judged_in_simulator(op, op.samples(rng, np.float64))
    with np.errstate(all="ignore"):
        try:
            for sample in op.samples(rng, np.float64):
                checks.check_agreement(op, compared, sample, rng)
                if op.loops.backward is not None:
                    checks.check_gradient(op, body, sample, rng)
            # What only shows on several chunks needs a size that makes several chunks.
            checks.check_agreement(op, compared, next(op.bench_samples(rng, np.float64)), rng)
        except (AssertionError, IndexError, ValueError, ZeroDivisionError) as error:
            return str(error)
    return None


def judged_in_simulator(op: Op, samples: Iterable[Sample]) -> str | None:
    """Return what the simulator, or the first check that fails for the op's cuda body in it, says."""
    try:
        for sample in samples:
            with simulate_gpu():
                checks.check_agreement(op, "cuda", sample, np.random.default_rng(0))
    except (AssertionError, SimulationError, ValueError) as error:
        return str(error)
    return None
