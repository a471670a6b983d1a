"""``nnkernels gradcheck OP``: are the derivatives of an op's bodies right, and would faults be noticed?"""

import argparse
import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import nnkernels
from nnkernels.commands import CommandError
from nnkernels.commands.arguments import positive_int, use_threads
from nnkernels.commands.compare import chosen
from nnkernels.commands.table import number
from nnkernels.machine import info
from nnkernels.ops import OPS, Op, checks
from nnkernels.ops.mutants import verdict
from nnkernels.ops.op import CPU_BODIES, BodyName, Sample

WIDTH = 110
COLUMNS = ("samples", "elements", "reverse", "forward", "adjoint")
HEAD = f"{'op':<24}{'body':<12}{''.join(f'{name:>11}' for name in COLUMNS)}  verdict"
NOTES = f"""\
reverse: gradients for random cotangents, element by element; forward: J v for a random v; the largest error
  against central differences, relative to the largest element or 1, at most {checks.DIFFERENCES:.0e}
adjoint: <dy, J v> against <J^T dy, v>, which should be equal, relative, at most {checks.ADJOINT:.0e}"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    text = "check the ops' derivatives against central differences; can the checks fail?"
    parser = commands.add_parser("gradcheck", help=text, description=text)
    parser.add_argument("ops", nargs="*", metavar="OP", help=f"any of {', '.join(OPS)}")
    parser.add_argument("--all", action="store_true", help="every op, about a minute; with --mutants ten")
    parser.add_argument(
        "--mutants",
        action="store_true",
        help="also run the faults that each op plants in its own source, and say which check notices them",
    )
    parser.add_argument("--body", choices=CPU_BODIES, help="one body and its faults (default: all three)")
    parser.add_argument(
        "--threads", type=positive_int, metavar="N", help="threads that kernels use (default: all cores)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print a row per body as it is checked; raise CommandError with status 1 where something is wrong."""
    ops = asked_for(arguments.ops, arguments.all)
    use_threads(arguments.threads)
    bodies = CPU_BODIES if arguments.body is None else (arguments.body,)
    threads = info.threads()
    running = f"{threads.used} thread{'s' * (threads.used != 1)} ({threads.layer})"
    print(f"nnkernels {nnkernels.__version__}: derivatives in float64, {running}\n\n{HEAD}", flush=True)
    rows, failed, caught, planted = 0, 0, 0, 0
    for op in ops:
        for good in print_bodies(op, bodies):
            rows += 1
            failed += not good
        if arguments.mutants:
            for good in print_mutants(op, bodies):
                planted += 1
                caught += good
    if rows:
        print(f"\n{NOTES}\n\n{rows - failed} of {rows} bodies ok")
    if arguments.mutants:
        print(f"{caught} of {planted} planted faults caught")
    reasons = [f"{failed} of {rows} bodies failed"] * (failed > 0)
    reasons += [f"{planted - caught} of {planted} planted faults not caught"] * (caught < planted)
    if reasons:
        raise CommandError("gradcheck: " + ", ".join(reasons), status=1)


def asked_for(names: list[str], every: bool) -> list[Op]:
    """Return the ops named, each once, or all."""
    if every == bool(names):
        raise CommandError("gradcheck wants one OP or several, or --all" + (", not both" if every else ""))
    if every:
        return list(OPS.values())
    return [op for name in dict.fromkeys(names) for op in chosen(name, False, False)]


# --- bodies ---


@dataclass
class Worst:
    """The largest relative error so far, and what has been wrong."""

    limit: float
    error: float = 0.0
    fault: str = ""

    def add(self, error: checks.Error, what: str) -> None:
        """Take one more error into account; NaN counts as the largest."""
        if not error.relative <= self.error:
            self.error = error.relative
        if not error.relative <= self.limit:
            self.fault = (
                self.fault or f"{what}: error {error.error:.3g}, allowed {self.limit * error.scale:.3g}"
            )


def print_bodies(op: Op, bodies: tuple[BodyName, ...]) -> Iterator[bool]:
    """Print a row per body and yield whether all is right; an update step gets a line and yields nothing."""
    if op.loops.backward is None:
        print(f"{op.name:<24}an update step: overwrites its inputs, has no gradients", flush=True)
        return
    for body in bodies:
        rng = np.random.default_rng(0)
        row, faults = checked(op, body, list(op.samples(rng, np.float64)))
        print(f"{op.name:<24}{body:<12}{row}  {'FAILED' if faults else 'ok'}", flush=True)
        for fault in faults:
            print(paragraph(fault), flush=True)
        yield not faults


def checked(op: Op, body: BodyName, samples: list[Sample]) -> tuple[str, list[str]]:
    """Return the numbers of one row, and what is wrong."""
    reverse, forward = Worst(checks.DIFFERENCES), Worst(checks.DIFFERENCES)
    adjoint = Worst(checks.ADJOINT)
    elements, broken = 0, ""
    for sample in samples:
        needs = checks.differentiable(op, sample)
        elements += sum(a.size for a, need in zip(sample.arrays, needs) if need and a is not None)
        try:
            errors = checks.gradient_errors(op, body, sample, np.random.default_rng(0))
            for i, error in errors.items():
                reverse.add(error, f"reverse, gradient of input {i} on {sample.label}")
            along, sides = checks.jvp_errors(op, body, sample, np.random.default_rng(0))
            forward.add(along, f"forward on {sample.label}")
            adjoint.add(sides, f"adjoint on {sample.label}")
        except (AssertionError, IndexError, ValueError, ZeroDivisionError) as error:
            broken = broken or f"{sample.label}: {error}"
    numbers = "".join(f"{number(worst.error):>11}" for worst in (reverse, forward, adjoint))
    faults = [broken, *(worst.fault for worst in (reverse, forward, adjoint))]
    return f"{len(samples):>11}{elements:>11}{numbers}", [fault for fault in faults if fault]


def paragraph(text: str) -> str:
    """Return a text in lines that are indented."""
    return textwrap.fill(text, WIDTH, initial_indent="    ", subsequent_indent="      ")


# --- planted faults ---


def print_mutants(op: Op, bodies: tuple[BodyName, ...]) -> Iterator[bool]:
    """Print a line per planted fault with the check that notices it; yield whether one does."""
    mutants = [mutant for mutant in op.mutants if mutant.body in bodies]
    width = max((len(mutant.name) for mutant in mutants), default=0)
    for mutant in mutants:
        line = f"  {mutant.body:<12}{mutant.name:<{width}}  "
        try:
            message = verdict(op, mutant)
        except ValueError as error:  # the op's source has changed
            print(f"{line}CANNOT BE PLANTED:\n{paragraph(str(error))}", flush=True)
            yield False
            continue
        told = "LIVES: no check notices it" if message is None else reason(message, WIDTH - len(line))
        print(line + told, flush=True)
        yield message is not None


def reason(message: str, width: int) -> str:
    """Return what a failed check says, with the sample last, where there is room for it.

    >>> reason("relu/tuned on shape (3,), output 0: largest error 2, allowed 1e-14", 40)
    'output 0: error 2 on shape (3,)'
    """
    found = re.fullmatch(r"\S+/\S+ on (.*?)[,:] ((?:output|gradient|jvp) .*)", message, re.DOTALL)
    if found is None:
        return textwrap.shorten(message, width, placeholder=" ...")
    told = re.sub(r"largest (error \S+), allowed \S+", r"\1", found[2])
    whole = f"{told} on {found[1]}"
    return whole if len(whole) <= width else textwrap.shorten(told, width, placeholder=" ...")
