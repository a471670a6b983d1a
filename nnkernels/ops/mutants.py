"""Planted faults: proof that the table's checks can fail.

A mutant is an edit of one line in an op's source. The edited room is loaded beside the real one, as plain
Python (nothing is compiled, so a mutant costs milliseconds), and its faulty body goes through the checks.
A mutant that passes them all means that the checks are too weak.
"""

import importlib
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nnkernels.machine import jit
from nnkernels.ops import checks
from nnkernels.ops.op import BodyName, Mutant, Op

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


@contextmanager
def uncompiled() -> Iterator[None]:
    """Make the compiling decorators return the Python function as it is."""
    decorators = ("inline", "jit", "jit_elementwise", "jit_tuned", "jit_parallel")
    saved = {name: getattr(jit, name) for name in decorators}
    for name in decorators:
        setattr(jit, name, lambda function: function)
    try:
        yield
    finally:
        for name, decorator in saved.items():
            setattr(jit, name, decorator)


def execute(name: str, source: str, path: str) -> types.ModuleType:
    """Return a module made from ``source`` as if it were imported under ``name``."""
    module = types.ModuleType(name)
    module.__file__ = path
    module.__package__ = name if path.endswith("__init__.py") else name.rpartition(".")[0]
    module.__dict__["__path__"] = [str(Path(path).parent)]
    exec(compile(source, path, "exec"), module.__dict__)
    return module


def load(op: Op, mutant: Mutant) -> Op:
    """Return ``op`` with the mutant's body in place of the sound one."""
    path = ROOM / mutant.file
    dotted = "nnkernels.ops." + mutant.file.removesuffix(".py").replace("/", ".")
    with uncompiled():
        module = execute(dotted, mutated_source(mutant), str(path))
        if "/" in mutant.file:  # a room of several files: rebuild its record around the faulty file
            package_name = dotted.rpartition(".")[0]
            package = importlib.import_module(package_name)
            sound, sys.modules[dotted] = sys.modules[dotted], module
            try:
                assert package.__file__ is not None
                init = Path(package.__file__)
                module = execute(package_name, init.read_text(encoding="utf-8"), str(init))
            finally:
                sys.modules[dotted] = sound
    faulty: Op = getattr(module, op.name)
    bodies: dict[str, Any] = {mutant.body: getattr(faulty, mutant.body)}
    return replace(op, **bodies)


def verdict(op: Op, mutant: Mutant) -> str | None:
    """Return what the first failing check says of the mutant, None when it lives through all of them."""
    faulty = load(op, mutant)
    rng = np.random.default_rng(0)
    # A faulty `loops` is itself the yardstick of the agreement check: hold `vectorized` against it.
    compared: BodyName = "vectorized" if mutant.body == "loops" else mutant.body
    with np.errstate(all="ignore"):
        try:
            for sample in op.samples(rng, np.float64):
                checks.check_agreement(faulty, compared, sample, rng)
                if op.loops.backward is not None:
                    checks.check_gradient(faulty, mutant.body, sample, rng)
            # What only shows on several chunks needs a size that makes several chunks.
            checks.check_agreement(faulty, compared, next(op.bench_samples(rng, np.float64)), rng)
        except (AssertionError, IndexError, ValueError, ZeroDivisionError) as error:
            return str(error)
    return None
