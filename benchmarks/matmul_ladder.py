"""The rungs of the matmul ladder against the machine's peak and against NumPy's BLAS, one command.

    python benchmarks/matmul_ladder.py [--n 1024] [--seconds S] [--out DIR]

All rungs and NumPy take turns on the same float32 matrices, (n, n) by (n, n), after each rung's result was
compared with NumPy's. The triple loop gets only the first n / 16 rows of a: the same work for each row, in a
sixteenth of the time. NumPy runs and takes its times in processes of its own, which sleep between their turns
and know of no OPENBLAS_ variable but OPENBLAS_NUM_THREADS.

Writes benchmarks/results/matmul_ladder.json and docs/matmul-ladder.png, or both to DIR.
"""

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import peers
import peers_plot
import peers_table
import peers_time
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

import nnkernels
from nnkernels import io, plot
from nnkernels.machine import ceilings, info
from nnkernels.machine.memory import empty
from nnkernels.ops.matmul.ladder import RUNGS

HERE = Path(__file__).parent
SECONDS = 20.0
FRACTION = {"triple loop": 16}  # of the rows of a
COLOURS = {"one": "#0072B2", "all": "#009E73", "numpy": "#D55E00", "peak": "#222222"}
STYLES = ("--", "-")  # of lines for one and for all threads
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


def matrices(n: int) -> tuple[Any, Any, Any]:
    """Return the operands, the same in every process, and room for the product; all aligned."""
    rng = np.random.default_rng(0)
    a, b, y = (empty((n, n), np.float32) for _ in "aby")
    for x in (a, b):
        rng.standard_normal(dtype=np.float32, out=x)
    return a, b, y


def turn(call: Callable[[], Any]) -> float:
    """Return the median seconds of a call over one block, after untimed ones."""
    peers_time.warm(call, 0.3)  # until threads are awake and those of others asleep
    return statistics.median(peers_time.block(call, 1) for _ in range(3))


def interleaved(turns: dict[str, Callable[[], float]], seconds: float) -> dict[str, dict[str, float]]:
    """Return median and quartiles of what each gives, taking turns in an order that turns round."""
    times: dict[str, list[float]] = {name: [] for name in turns}
    order, end, rounds = list(turns), time.perf_counter() + seconds, 0
    while rounds < peers_time.ROUNDS or time.perf_counter() < end:
        for name in order:
            times[name].append(turns[name]())
        order.reverse()
        rounds += 1
    return {name: peers_time.summary(taken) for name, taken in times.items()}


# --- NumPy, in its own process ---


def serve(n: int) -> None:
    """Take one turn for every line that comes in, and answer with the seconds of a product."""
    a, b, y = matrices(n)
    for _ in sys.stdin:
        print(turn(lambda: np.matmul(a, b, out=y)), flush=True)


@contextmanager
def numpy_process(n: int, threads: int) -> Iterator[Callable[[], float]]:
    """Start NumPy on that many threads; give a function that lets it take a turn."""
    # A variable like OPENBLAS_CORETYPE=Haswell would hold NumPy to AVX2, half the rate of AVX-512.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
    environment["OPENBLAS_NUM_THREADS"] = str(threads)
    command = [sys.executable, __file__, "--n", str(n), "--serve"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env=environment) as process:

        def its_turn() -> float:
            process.stdin.write(b"\n")
            process.stdin.flush()
            answer = process.stdout.readline()
            if not answer:
                raise SystemExit("matmul_ladder: NumPy's process ended")
            time.sleep(0.2)  # OpenBLAS's threads spin for about 0.1 s after a product
            return float(answer)

        yield its_turn
        process.stdin.close()


# --- the rungs ---


def rung_turn(rung: Any, a: Any, b: Any, y: Any) -> Callable[[], float]:
    """Return a function that lets one rung take a turn, after comparing its product with NumPy's."""
    rows = max(1, len(a) // FRACTION.get(rung.name, 1))
    a, y = a[:rows], y[:rows]
    y.fill(np.nan)
    rung.function(a, b, y)
    error = np.abs(y - a.astype(np.float64) @ b).max()
    if not error <= 1e-5 * len(b):
        raise SystemExit(f"matmul_ladder: {rung.name} differs from NumPy by {error:.2g}")
    return lambda: turn(lambda: rung.function(a, b, y))


def measured(n: int, seconds: float) -> dict[str, Any]:
    """Return everything that goes into the JSON file."""
    threads = sorted({1, min(2, info.threads().most)})
    nnkernels.set_num_threads(threads[-1])
    a, b, y = matrices(n)
    peaks = [{t: ceilings.fma_peak(t) for t in threads} for _ in range(3)]
    start, before = datetime.datetime.now(), peers.others_seconds()
    with ExitStack() as stack:
        turns = {rung.name: rung_turn(rung, a, b, y) for rung in RUNGS}
        for t in threads:
            turns[f"NumPy {t}"] = stack.enter_context(numpy_process(n, t))
        times = interleaved(turns, seconds)
    run_seconds = (datetime.datetime.now() - start).total_seconds()
    after = peers.others_seconds()
    peaks += [{t: ceilings.fma_peak(t) for t in threads} for _ in range(3)]  # a peak is the best ever seen
    peak = {t: max(p[t] for p in peaks) for t in threads}

    def row(name: str, rows: int, on: int) -> dict[str, Any]:
        gflops = 2 * rows * n * n / times[name]["median"] / 1e9
        return {"rows": rows, "threads": on, "seconds": times[name], "gflops": gflops,
                "of_peak": gflops / peak[on]}  # fmt: skip

    rungs = []
    for rung in RUNGS:
        rows, on = max(1, n // FRACTION.get(rung.name, 1)), threads[-1] if rung.name == "parallel" else 1
        rungs.append({"name": rung.name, "idea": rung.idea, **row(rung.name, rows, on)})
    return {
        "machine": peers.machine(),
        "versions": {"nnkernels": nnkernels.__version__, **info.versions()},
        "date": f"{start:%Y-%m-%d}",
        "cores_others_used": None if before is None else (after - before) / run_seconds,
        "n": n,
        "dtype": "float32",
        "threads": threads,
        "peak_gflops": {str(t): peak[t] for t in threads},
        "rungs": rungs,
        "numpy": {str(t): row(f"NumPy {t}", n, t) for t in threads},
    }


# --- table and picture ---


def short(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}"


def on(threads: int) -> str:
    return f"{threads} thread{'s' * (threads > 1)}"


def text(results: dict[str, Any]) -> str:
    """Return the table that is printed."""
    lines = [f"{'rung':<16}{'idea':<34}{'threads':>8}{'GFLOP/s':>9}{'of peak':>9}{'step':>8}"]
    previous = None
    for r in results["rungs"]:
        step = "" if previous is None else f"{short(r['gflops'] / previous)}x"
        lines.append(
            f"{r['name']:<16}{r['idea']:<34}{r['threads']:>8}{short(r['gflops']):>9}{r['of_peak']:>9.1%}"
            f"{step:>8}"
        )
        previous = r["gflops"]
    for t, r in results["numpy"].items():
        lines.append(f"{'NumPy':<16}{'its BLAS':<34}{t:>8}{short(r['gflops']):>9}{r['of_peak']:>9.1%}")
    for t, peak in results["peak_gflops"].items():
        lines.append(f"{'peak':<16}{'multiply-adds in registers':<34}{t:>8}{short(peak):>9}")
    return "\n".join([*lines, *warning(results)])


def warning(results: dict[str, Any]) -> list[str]:
    """Return one line if other programs were at work, else none."""
    others = results["cores_others_used"]
    if others is None or others <= peers_table.MOST_OTHERS:
        return []
    return [f"preliminary: other programs kept {others:.1f} cores busy meanwhile"]


def picture(results: dict[str, Any]) -> Figure:
    """Draw a bar for each rung, its figures in columns beside it, and lines for the peaks and NumPy."""
    rungs, most = results["rungs"], results["threads"][-1]
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.set_xscale("log")
    rates = [r["gflops"] for r in rungs]
    left, right = min(rates) / 2, 1.25 * max(*rates, *results["peak_gflops"].values())
    colours = [COLOURS["one" if r["threads"] == 1 else "all"] for r in rungs]
    axes.barh(range(len(rungs)), [v - left for v in rates], 0.66, left=left, color=colours)
    for t, style in zip(results["threads"], STYLES[-len(results["threads"]) :], strict=True):
        peak, blas = results["peak_gflops"][str(t)], results["numpy"][str(t)]["gflops"]
        axes.axvline(peak, color=COLOURS["peak"], ls=style, lw=1.3, label=f"peak, {on(t)}: {short(peak)}")
        axes.axvline(blas, color=COLOURS["numpy"], ls=style, lw=1.3, label=f"NumPy, {on(t)}: {short(blas)}")
    columns = ((62, "GFLOP/s"), (114, "of peak"), (160, "step"))
    for y in range(-1, len(rungs)):
        if y < 0:
            cells = [head for _, head in columns]
        else:
            step = "" if y == 0 else f"{short(rates[y] / rates[y - 1])}×"
            cells = [short(rates[y]), f"{100 * rungs[y]['of_peak']:.2g} %", step]
        for (offset, _), cell in zip(columns, cells, strict=True):
            axes.annotate(
                cell, (1, y + 0.25 * (y < 0)), xycoords=axes.get_yaxis_transform(), xytext=(offset, 0),
                textcoords="offset points", ha="right", va="center", fontsize=9, annotation_clip=False,
            )  # fmt: skip
    names = [f"{i}  {r['name']}: {r['idea']}" for i, r in enumerate(rungs, start=1)]
    axes.set_yticks(range(len(rungs)), names, fontsize=9)
    axes.set(xlim=(left, right), ylim=(len(rungs) - 0.4, -0.6))
    axes.set_xlabel("; ".join(["GFLOP/s", *warning(results)]), fontsize=9)
    axes.set_xticks([tick for tick in TICKS if left <= tick <= right])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=peers_plot.FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2 * len(results["threads"]), fontsize=9, frameon=False)
    n = results["n"]
    whose = f"{results['machine']['processor']} ({results['machine']['llvm']}), {results['date']}"
    what = f"y = a b, {n} × {n}, float32; rungs 1 to {len(rungs) - 1} on 1 thread, {len(rungs)} on {most}"
    figure.suptitle(f"{what}: {whose}", fontsize=10, x=0.01, ha="left")
    return figure


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=1024, help="rows and columns (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, metavar="S", default=SECONDS, help="of runs in all (default: %(default)s)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="where JSON and picture go")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    return parser


def main() -> None:
    """Measure, print, write."""
    parser = build_parser()
    arguments = parser.parse_args()
    if arguments.n < 1:
        parser.error(f"argument --n: {arguments.n} is below 1")
    if arguments.serve:
        serve(arguments.n)
        return
    results = measured(arguments.n, arguments.seconds)
    print(text(results))
    data = (arguments.out or HERE / "results") / "matmul_ladder.json"
    image = (arguments.out or HERE.parent / "docs") / "matmul-ladder.png"
    for path in (data, image):
        path.parent.mkdir(parents=True, exist_ok=True)
    io.write_json(data, results)
    plot.save(picture(results), image, 150)
    print(f"wrote {data}\nwrote {image}")


if __name__ == "__main__":
    main()
