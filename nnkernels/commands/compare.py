"""``nnkernels compare OP``: the bodies of an op side by side, as a table and a bar chart."""

import argparse
import difflib
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

import nnkernels
from nnkernels import plot
from nnkernels.commands import CommandError
from nnkernels.commands.arguments import positive_int, use_threads, writable_png
from nnkernels.commands.measure import Measurement, measure
from nnkernels.machine import info
from nnkernels.ops import OPS, Op
from nnkernels.ops.explain import lines

HEAD = f"{'':<14}{'error/ULP':>11}{'relative':>11}{'time':>13}{'GFLOP/s':>12}{'speed-up':>12}"
NOTES = """\
error: largest difference of any element from `loops`, in units of that element's last place (sums that cancel
  leave small elements, where these are many), and relative to the largest element
time: median of runs that take turns, compilation excluded; speed-up: over `loops`
~: plain Python was run on a tiny sample and its time scaled up by FLOPs, or by elements"""


def add_parser(commands: Any) -> None:
    """Declare the command."""
    text = "error and speed of an op's bodies: plain Python, loops, vectorized, tuned"
    parser = commands.add_parser("compare", help=text, description=text)
    parser.add_argument("op", nargs="?", metavar="OP", help=f"one of {', '.join(OPS)}")
    parser.add_argument("--all", action="store_true", help="every op, about two seconds for each")
    parser.add_argument("--backward", action="store_true", help="gradients instead of the forward pass")
    parser.add_argument(
        "--dtype", choices=("float32", "float64"), default="float32", help="(default: float32)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="write the speed-ups as bars into FILE.png")
    parser.add_argument(
        "--threads",
        type=positive_int,
        metavar="N",
        help="threads that kernels use (default: all cores); NumPy's matrix products, called by "
        "vectorized bodies, have their own number: set OPENBLAS_NUM_THREADS",
    )
    parser.set_defaults(run=run)  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Print one block of rows per op as they are measured, then draw."""
    ops = chosen(arguments.op, arguments.all, arguments.backward)
    if arguments.plot is not None:
        writable_png(arguments.plot, "--plot")
    use_threads(arguments.threads)
    threads = info.threads()
    direction = "backward" if arguments.backward else "forward"
    running = f"{threads.used} thread{'s' * (threads.used != 1)} ({threads.layer})"
    title = f"{direction}, {arguments.dtype}, {running}, {info.processor().name}"
    print(f"nnkernels {nnkernels.__version__}: {title}\n\n{HEAD}", flush=True)
    rows: list[Measurement] = []
    for op in ops:
        measured = measure(op, np.dtype(arguments.dtype), arguments.backward)
        print(textwrap.shorten(f"{op.name}  {measured[-1].sample.label}", 108, placeholder=" ..."))
        for row in measured:
            print(in_columns(row))
        if op.explain is not None:
            arrays, attributes = measured[-1].sample.arrays, measured[-1].sample.attributes
            shapes = tuple(None if a is None else a.shape for a in arrays)
            print("  tuned takes", *lines(op, shapes, attributes), sep="\n    ")
        print(flush=True)
        rows += measured
    print(NOTES)
    if arguments.plot is not None:
        title = f"{title}; python estimated"
        plot.save(plot.compare_bars([row._asdict() for row in rows], title), arguments.plot)
        print(f"wrote {arguments.plot}")


def chosen(name: str | None, every: bool, backward: bool) -> list[Op]:
    """Return the ops asked for; with ``backward`` those that have gradients."""
    if every == (name is not None):
        raise CommandError("compare wants one OP, or --all" + (", not both" if every else ""))
    if name is None:
        return [op for op in OPS.values() if not backward or op.loops.backward is not None]
    if name not in OPS:
        near = difflib.get_close_matches(name, OPS, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else f"it must be one of {', '.join(OPS)}"
        raise CommandError(f"argument OP: there is no op {name!r}; {hint}")
    if backward and OPS[name].loops.backward is None:
        raise CommandError(f"argument --backward: {name} has no gradients")
    return [OPS[name]]


def in_columns(row: Measurement) -> str:
    """Return one line of the table."""
    about = "~" if row.estimated else ""
    rate = "-" if row.gflops is None else about + number(row.gflops)
    return (
        f"  {row.body:<12}{number(row.ulp):>11}{number(row.relative):>11}{about + duration(row.seconds):>13}"
        f"{rate:>12}{about + factor(row.speedup):>12}"
    )


def number(value: float) -> str:
    """Return three significant digits."""
    if value == 0:
        return "0"
    if 999.5 <= value < 1e6:
        return f"{value:,.0f}"
    return f"{value:.3g}" if 1e-3 <= value < 999.5 else f"{value:.1e}"


def factor(speedup: float) -> str:
    """Return a speed-up, as a fraction where it is none."""
    return f"{number(speedup)}x" if speedup >= 0.1 else f"1/{number(1 / speedup)}x"


def duration(seconds: float) -> str:
    """Return seconds in the unit that suits."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= 0.9995 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"
