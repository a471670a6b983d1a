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
from nnkernels.commands.compare_cuda import run_on_gpu, run_simulated
from nnkernels.commands.measure import Measurement, measure
from nnkernels.commands.table import ERRORS, HEAD, in_columns
from nnkernels.machine import info
from nnkernels.ops import OPS, Op
from nnkernels.ops.explain import lines

NOTES = f"""\
{ERRORS}
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
    parser.add_argument(
        "--body",
        choices=("cuda",),
        help="the body for GPUs instead of the others: timed on a GPU, beside loops and tuned",
    )
    parser.add_argument(
        "--simulate",
        action="store_true",
        help="with --body cuda: no GPU, but the simulator, which runs each kernel on the op's small samples "
        "and looks for faults; its times say nothing about a GPU (needs the package greenlet)",
    )
    parser.set_defaults(run=run)  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    """Print one block of rows per op as they are measured, then draw."""
    ops = chosen(arguments.op, arguments.all, arguments.backward)
    if arguments.simulate and arguments.body is None:
        raise CommandError("argument --simulate: only with --body cuda; the other bodies need no simulator")
    if arguments.plot is not None and arguments.body is not None:
        raise CommandError("argument --plot: not with --body cuda")
    if arguments.plot is not None:
        writable_png(arguments.plot, "--plot")
    use_threads(arguments.threads)
    if arguments.body is not None:
        with_cuda(ops, arguments)
        return
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


def with_cuda(ops: list[Op], arguments: argparse.Namespace) -> None:
    """Compare the bodies for GPUs; those of --all that have none are left out."""
    found = [op for op in ops if op.cuda is not None]
    if not found:
        raise CommandError(f"argument --body: {ops[0].name} has no cuda body")
    compare = run_simulated if arguments.simulate else run_on_gpu
    compare(found, np.dtype(arguments.dtype), arguments.backward)


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
