"""What automatic differentiation costs: forward against reverse mode, memory of the tape, its time per op.

    python benchmarks/autodiff_modes.py [--quick] [--threads 1] [--out FILE] [--plot FILE]

1. The whole Jacobian of f: R^n -> R^m by both modes, over n with m = 1, over m with n = 1, and with n m
   fixed. f is tanh(A x), repeated: from n numbers to WIDTH, DEPTH times from WIDTH to WIDTH, then to m. The
   inner layers do nearly all the work, so that a pass costs about the same for all n and m (at n or m = 128,
   12 % more). Forward mode needs n passes, reverse mode one to record and m back; times of single passes
   give the predictions. Jacobians are compared and passes counted before anything is timed.
2. The most memory that is alive during one J v and one J^T v of a chain of such layers, over its depth, as
   tracemalloc sees it: arrays and Python objects. Arrays stay below the size at which they come from the
   library's pool, whose blocks tracemalloc sees only once.
3. The tape's time per op (see autodiff_tape.py), also PyTorch's where it is installed.

A full run takes about three minutes and writes benchmarks/results/autodiff_modes.json and
docs/autodiff-modes.png. With --quick, files are written only where --out and --plot say.
"""

import argparse
import datetime
import gc
import math
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import autodiff_plot
import autodiff_tape
import numpy as np
import peers
import peers_table
import peers_time
from peers_table import duration

import nnkernels as nnk
from nnkernels import io, plot
from nnkernels.autograd.transforms import jacobian, jvp, vjp
from nnkernels.commands import CommandError
from nnkernels.commands.arguments import writable_directory, writable_png
from nnkernels.machine import info
from nnkernels.machine.memory import POOLED_BYTES
from nnkernels.ops import OPS
from nnkernels.ops.op import Body, Op

HERE = Path(__file__).parent
WIDTH, DEPTH = 256, 4
PRODUCT, QUICK_PRODUCT = 128, 16  # n m on the way from few inputs to few outputs; the largest n and m
SECONDS, QUICK_SECONDS = 1.5, 0.08  # for a point of the grid
TAPE_SECONDS, QUICK_TAPE_SECONDS = 12.0, 0.5  # for a case
DEPTHS, QUICK_DEPTHS = (1, 2, 4, 8, 16, 32, 64, 128), (1, 4, 16)
ROWS = 16  # of the chain whose memory is measured: arrays of 32 KiB
PER_LAYER = 2  # arrays that the tape keeps: A x, and its tanh
MULTIPLY_ADDS = {"jvp": 2, "record": 1, "pull": 1}  # products per layer: value and tangent; value; gradient
Function = Callable[[Any], Any]
Row = dict[str, Any]


# --- functions ---


def layered(widths: list[int], tanh: Op = OPS["tanh"]) -> Function:
    """Return f with a layer tanh(A x) between neighbours of ``widths``, in float64."""
    rng = np.random.default_rng(0)
    matrices = [rng.standard_normal((m, n)) / math.sqrt(n) for n, m in pairwise(widths)]
    return chained(matrices, tanh)


def chained(matrices: list[Any], tanh: Op = OPS["tanh"]) -> Function:
    """Return x -> tanh(A x) for one matrix after the other."""

    def f(x: Any) -> Any:
        for a in matrices:
            x = tanh(OPS["linear"](x, a, None))
        return x

    return f


def function(n: int, m: int, tanh: Op = OPS["tanh"]) -> Function:
    """Return f: R^n -> R^m."""
    return layered([n, *[WIDTH] * (DEPTH + 1), m], tanh)


def point(n: int) -> Any:
    """Return an x in R^n."""
    return np.random.default_rng(1).standard_normal(n)


# --- time ---


def grid(product: int) -> list[tuple[int, int]]:
    """Return all (n, m), powers of two: m = 1, n = 1, n m = product.

    >>> grid(4)
    [(1, 1), (1, 2), (1, 4), (2, 1), (2, 2), (4, 1)]
    """
    powers = [2**k for k in range(product.bit_length())]
    return sorted({(n, 1) for n in powers} | {(1, m) for m in powers} | {(n, product // n) for n in powers})


def counted(n: int, m: int) -> tuple[dict[str, int], float]:
    """Return how many passes either mode takes, and the largest difference of their Jacobians.

    Counted are calls of the last kernel that every pass goes through: of tanh's jvp, or backward, per layer.
    """
    calls = {"forward": 0, "reverse": 0}
    op = OPS["tanh"]

    def push(*arrays: Any) -> Any:
        calls["forward"] += 1
        assert op.jvp is not None
        return op.jvp(*arrays)

    def pull(*arrays: Any) -> Any:
        calls["reverse"] += 1
        assert op.tuned.backward is not None
        return op.tuned.backward(*arrays)

    f = function(n, m, replace(op, tuned=Body(op.tuned.forward, pull), jvp=push))
    found = {mode: jacobian(f, point(n), mode=mode) for mode in ("forward", "reverse")}
    difference = float(np.abs(found["forward"] - found["reverse"]).max())
    return {mode: number // (DEPTH + 2) for mode, number in calls.items()}, difference


def pass_seconds(product: int, seconds: float) -> dict[str, float]:
    """Return the times of f, of a forward pass (jvp), of recording f, and of a pass back (pull)."""
    n = 2 ** (product.bit_length() // 2)
    f, x = function(n, product // n), point(n)
    y, pull = vjp(f, x)
    dy, v = np.ones_like(y), np.ones_like(x)
    calls = {
        "f": lambda: f(x), "jvp": lambda: jvp(f, x, v), "record": lambda: vjp(f, x), "pull": lambda: pull(dy),
    }  # fmt: skip
    return {name: t["median"] for name, t in peers_time.interleaved(calls, 2 * seconds).items()}


def predicted(n: int, m: int, costs: dict[str, Any]) -> dict[str, float]:
    """Return what a Jacobian costs by either mode, in the unit of ``costs``."""
    return {"forward": n * costs["jvp"], "reverse": costs["record"] + m * costs["pull"]}


def timed_point(n: int, m: int, costs: dict[str, float], seconds: float) -> Row:
    """Return one row: passes, predicted and measured seconds."""
    passes, difference = counted(n, m)
    if passes != {"forward": n, "reverse": m} or not difference < 1e-12:
        raise AssertionError(f"n = {n}, m = {m}: passes {passes}, Jacobians differ by {difference}")
    f, x = function(n, m), point(n)
    calls = {
        "forward": lambda: jacobian(f, x, mode="forward"),
        "reverse": lambda: jacobian(f, x, mode="reverse"),
    }
    times = {mode: t["median"] for mode, t in peers_time.interleaved(calls, seconds).items()}
    return {
        "n": n, "m": m, "passes": passes, "difference": difference, "predicted": predicted(n, m, costs),
        "measured": times,
    }  # fmt: skip


def crossover(rows: list[Row], kind: str) -> float | None:
    """Return the n at which both modes take the same time, straight lines between points in log scale.

    >>> rows = [{"n": n, "t": {"forward": n, "reverse": 8 / n}} for n in (2, 4)]
    >>> round(crossover(rows, "t"), 9)  # 2 sqrt(2)
    2.828427125
    """
    rows = sorted(rows, key=lambda row: row["n"])
    for low, high in pairwise(rows):
        a, b = (math.log(row[kind]["forward"] / row[kind]["reverse"]) for row in (low, high))
        if a <= 0 < b:
            return float(low["n"] * (high["n"] / low["n"]) ** (a / (a - b)))
    return None


def along_product(rows: list[Row], product: int) -> list[Row]:
    """Return the rows with n m = product."""
    return [row for row in rows if row["n"] * row["m"] == product]


def modes(product: int, seconds: float) -> Row:
    """Return times over the grid, of single passes, and the crossovers."""
    costs = pass_seconds(product, seconds)
    rows = [timed_point(n, m, costs, seconds) for n, m in grid(product)]
    way = along_product(rows, product)
    counts = [{**row, "counts": predicted(row["n"], row["m"], MULTIPLY_ADDS)} for row in way]
    return {
        "width": WIDTH, "depth": DEPTH, "product": product, "pass_seconds": costs, "rows": rows,
        "crossover_n": {
            "measured": crossover(way, "measured"), "predicted": crossover(way, "predicted"),
            "multiply_adds": crossover(counts, "counts"),
        },
    }  # fmt: skip


# --- memory ---


def peak_bytes(call: Callable[[], Any]) -> int:
    """Return the most bytes alive at once during a call, beyond those before it."""
    call()
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        call()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def memory(depths: tuple[int, ...]) -> Row:
    """Return the peaks of both modes over the depth of a chain, whose layers share one matrix."""
    x = np.random.default_rng(1).standard_normal((ROWS, WIDTH))
    a = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)) / math.sqrt(WIDTH)
    assert x.nbytes < POOLED_BYTES
    v, rows = np.ones_like(x), []
    for depth in depths:
        f = chained([a] * depth)
        rows.append({
            "depth": depth, "forward": peak_bytes(lambda: jvp(f, x, v)),  # noqa: B023 (called at once)
            "reverse": peak_bytes(lambda: vjp(f, x)[1](v)),  # noqa: B023
            "predicted_reverse": PER_LAYER * depth * x.nbytes,
        })  # fmt: skip
    return {"array_bytes": x.nbytes, "arrays_per_layer": PER_LAYER, "rows": rows}


# --- report ---


def measured(quick: bool, threads: int) -> Row:
    """Return everything that goes into the JSON file."""
    nnk.set_num_threads(threads)
    versions = {"nnkernels": nnk.__version__, **info.versions()}
    if find_spec("torch"):
        import torch

        torch.set_num_threads(threads)
        versions["torch"] = version("torch")
    start, before = datetime.datetime.now(), peers.others_seconds()
    product, seconds, tape_seconds, depths = (
        (QUICK_PRODUCT, QUICK_SECONDS, QUICK_TAPE_SECONDS, QUICK_DEPTHS)
        if quick
        else (PRODUCT, SECONDS, TAPE_SECONDS, DEPTHS)
    )
    times, peaks = modes(product, seconds), memory(depths)
    tape = autodiff_tape.measured_all(quick, tape_seconds)
    scalars = autodiff_tape.timed_scalars(quick, seconds)
    run_seconds = (datetime.datetime.now() - start).total_seconds()
    after = peers.others_seconds()
    worst = max(row["tape_us"] for row in tape[1:])  # after the chain
    return {
        "machine": peers.machine(),
        "versions": versions,
        "date": f"{start:%Y-%m-%d}",
        "run_seconds": round(run_seconds),
        "cores_others_used": None if before is None or after is None else (after - before) / run_seconds,
        "threads": threads,
        "modes": times,
        "memory": peaks,
        "tape": tape,
        "scalars": scalars,
        "goal": {
            "us_per_op": autodiff_tape.GOAL,
            "worst_us_per_op": worst,
            "met": worst <= autodiff_tape.GOAL,
        },
    }


def text(results: Row) -> str:
    """Return the report for a terminal, at most 110 columns wide."""
    lines = [*mode_lines(results["modes"]), "", *memory_lines(results["memory"]), "", *tape_lines(results)]
    others = results["cores_others_used"]
    if others is not None and others > peers_table.MOST_OTHERS:
        lines += ["", f"preliminary: other programs kept {others:.1f} cores busy meanwhile"]
    return "\n".join(lines)


def mode_lines(found: Row) -> list[str]:
    """Return the table of Jacobians."""
    costs, cross, product = found["pass_seconds"], found["crossover_n"], found["product"]
    lines = [
        f"Jacobian of f: R^n -> R^m, layers tanh(A x), {found['depth']} of them {found['width']} x "
        f"{found['width']}, float64",
        f"one f {duration(costs['f'])}, recorded {duration(costs['record'])}; a pass of forward mode "
        f"{duration(costs['jvp'])}, of reverse mode {duration(costs['pull'])}",
        f"{'':>12}{'passes':>18}{'predicted':>20}{'measured':>20}{'forward':>12}",
        f"{'n':>6}{'m':>6}{'forward':>9}{'reverse':>9}{'forward':>10}{'reverse':>10}{'forward':>10}{'reverse':>10}"
        f"{'/ reverse':>12}",
    ]
    for row in found["rows"]:
        times = [duration(row[kind][mode]) for kind in ("predicted", "measured") for mode in row["passes"]]
        ratio = row["measured"]["forward"] / row["measured"]["reverse"]
        lines.append(
            f"{row['n']:>6}{row['m']:>6}{row['passes']['forward']:>9}{row['passes']['reverse']:>9}"
            + "".join(f"{t:>10}" for t in times)
            + f"{ratio:>12.3g}"
        )
    values = ", ".join(f"{name} {at(cross[key])}" for name, key in CROSSOVERS)
    return [*lines, f"with n m = {product}, both take the same time at n = {values}"]


CROSSOVERS = (
    ("measured", "measured"), ("predicted", "predicted"), ("by multiply-adds alone", "multiply_adds"),
)  # fmt: skip


def at(n: float | None) -> str:
    return "nowhere" if n is None else f"{n:.1f}"


def memory_lines(found: Row) -> list[str]:
    """Return the table of peaks."""
    lines = [
        f"peak memory of one pass in KiB, arrays of {found['array_bytes'] // 1024} KiB; predicted: the "
        f"{found['arrays_per_layer']} of each layer",
        f"{'layers':>8}{'forward':>10}{'reverse':>10}{'predicted':>11}",
    ]
    for row in found["rows"]:
        kib = [row[key] / 1024 for key in ("forward", "reverse", "predicted_reverse")]
        lines.append(f"{row['depth']:>8}{kib[0]:>10.0f}{kib[1]:>10.0f}{kib[2]:>11.0f}")
    return lines


def tape_lines(results: Row) -> list[str]:
    """Return the table of the tape's costs."""
    heads = ("kernels", "checks", "record", "walk", "tape", "±", "layers", "step", "torch", "its record")
    keys = [{"±": "tape_error", "torch": "torch_step", "its record": "torch_record"}.get(h, h) for h in heads]
    lines = [
        "step without optimizer, µs per recorded op, forward and backward together; tape = record + walk",
        f"{'':<18}{'ops':>4}" + "".join(f"{head:>{w}}" for head, w in zip(heads, WIDTHS)),
    ]
    for row in results["tape"]:
        cells = [f"{row[key + '_us']:.2f}" if key + "_us" in row else "" for key in keys]
        cells = [f"{cell:>{w}}" for cell, w in zip(cells, WIDTHS)]
        lines.append(f"{row['case']:<18}{row['ops']:>4}" + "".join(cells))
    if "torch" not in results["versions"]:
        lines.append("PyTorch is not installed: pip install torch==2.13.0")
    for row in results["scalars"]:
        lines.append(
            f"a Python object per number, {row['case']}: {row['ops']:,} operations, "
            f"{duration(row['seconds'])}, {row['op_us']:.2f} µs each"
        )
    goal = results["goal"]
    return [
        *lines,
        f"at most {goal['us_per_op']:g} µs of tape per op in steps of MLP and LeNet-5: "
        f"{'met' if goal['met'] else 'not met'}, at most {goal['worst_us_per_op']:.1f} µs",
    ]


WIDTHS = (9, 8, 8, 7, 7, 6, 8, 8, 8, 12)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small and short: under 20 seconds")
    most = info.threads().most
    parser.add_argument(
        "--threads", type=int, metavar="N", choices=range(1, most + 1), default=1,
        help=f"of both libraries, 1 to {most} (default: 1, which makes small differences measurable)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where the picture goes")
    return parser


def main() -> None:
    """Measure, print, write."""
    parser = build_parser()
    arguments = parser.parse_args()
    out, picture = arguments.out, arguments.plot
    if not arguments.quick:
        out = out or HERE / "results" / "autodiff_modes.json"
        picture = picture or HERE.parent / "docs" / "autodiff-modes.png"
    try:  # now rather than after minutes of measuring
        if out is not None:
            writable_directory(out.parent, "--out")
            if out.is_dir():
                raise CommandError(f"argument --out: {out} is a directory, wanted a file")
        if picture is not None:
            writable_png(picture, "--plot")
    except CommandError as error:
        parser.error(str(error))
    results = measured(arguments.quick, arguments.threads)
    print(text(results))
    try:
        if out is not None:
            io.write_json(out, results)
            print(f"wrote {out}")
        if picture is not None:
            plot.save(autodiff_plot.picture(results), picture, 150)
            print(f"wrote {picture}")
    except OSError as error:
        parser.error(f"cannot write: {error}")


if __name__ == "__main__":
    main()
