"""Data-parallel training on 1 and 2 ranks as measured, and a model of what it costs on up to 1,024.

    python benchmarks/scaling.py [--quick] [--repeats 5] [--out DIR]
    python benchmarks/scaling.py --draw

Measured, under mpiexec on this machine, with one thread per rank: steps of LeNet-5 by SGD with momentum, 64
examples on one rank, 32 on each of two (strong scaling) and 64 on each of two (weak scaling); steps of
ResNet-50, 4 images of 224 x 224 on one rank; and the Allreduce of 4 bytes to 64 MiB between two ranks. Of
every kind the tenth percentile in the best of the launches is kept: other programs can only add to a time.

The model: every rank computes as long as one does here, then all of them add up n bytes of gradients, which
takes the shorter of

    recursive doubling      log2(P) (a + n b + n c)
    Rabenseifner's method   2 log2(P) a + 2 (P - 1)/P n b + (P - 1)/P n c

with a the latency of a message, b the time per byte sent, c the time per byte added (Thakur, Rabenseifner and
Gropp, Optimization of Collective Communication Operations in MPICH, Int. J. of High Performance Computing
Applications 19(1), 2005, sections 4.4 and 4.5; both for P a power of two). c is measured here; a and b are
assumptions, NETWORKS below. The model knows one rank per machine, no messages in each other's way, no
rank slower than the others, and nothing computed while messages travel.

A full run takes about two minutes and writes benchmarks/results/scaling.json, docs/scaling.png and the tables
of docs/benchmarks.md; with --quick, files are written only where --out says. --draw writes picture and tables
again from the file.
"""

import argparse
import datetime
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from peers import machine
from readme_table import between

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import io, nn, optim, parallel, plot

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
SETTINGS = {"1 rank x 64": (1, 64), "2 ranks x 32": (2, 32), "2 ranks x 64": (2, 64)}
IMAGES = 4  # of 224 x 224, for a step of ResNet-50
NETWORKS = {  # latency of a message in seconds, bytes per second: round numbers, assumed
    "InfiniBand, 100 Gbit/s": (2e-6, 12e9),
    "Ethernet, 10 Gbit/s": (30e-6, 1.1e9),
}
RANKS = [2**i for i in range(11)]
LISTED = (2, 16, 128, 1024)
MIB = 1 << 20


# --- on the ranks ---


def step_times(ranks: parallel.Ranks, network: str, batch: int, steps: int) -> dict[str, float]:
    """Return the seconds of a step, and of averaging the gradients in it."""
    rng = np.random.default_rng(ranks.rank)
    if network == "LeNet-5":
        model, x = nn.models.LeNet5(rng=0), rng.standard_normal((batch, 1, 28, 28), np.float32)
    else:
        model, x = nn.models.ResNet50(rng=0), rng.standard_normal((batch, 3, 224, 224), np.float32)
    y = rng.integers(0, 10, batch)
    inner = optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    optimizer = parallel.DistributedOptimizer(inner, ranks)
    whole, averaging = [], []
    for _ in range(steps + 2):
        start = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        before = time.perf_counter()
        optimizer.average_gradients(samples=batch)
        after = time.perf_counter()
        inner.step()
        whole.append(time.perf_counter() - start)
        averaging.append(after - before)
    return {"step": undisturbed(whole[2:]), "averaging": undisturbed(averaging[2:])}


def undisturbed(times: list[float]) -> float:
    """Return the time that a tenth of all stay below: other programs can only make one longer.

    >>> undisturbed([float(t) for t in range(100, 0, -1)])
    10.9
    """
    return float(np.quantile(times, 0.1))


def allreduce_times(ranks: parallel.Ranks, most: int) -> list[tuple[int, float]]:
    """Return (bytes, seconds) of an Allreduce of float32, for sizes up to ``most`` bytes."""
    found = []
    size = 4
    while size <= most:
        buffer = np.zeros(size // 4, np.float32)
        times = []
        for _ in range(max(7, min(200, 20 * MIB // size))):
            ranks.any(False)  # begin together
            start = time.perf_counter()
            ranks.sum_into(buffer)
            times.append(time.perf_counter() - start)
        found.append((size, undisturbed(times)))
        size *= 4
    return found


def on_ranks(quick: bool, out: Path) -> None:
    """Measure what this number of ranks is for; rank 0 writes it down."""
    ranks = parallel.init(threads=1)
    found: dict[str, Any] = {
        name: step_times(ranks, "LeNet-5", batch, 20 if quick else 150)
        for name, (size, batch) in SETTINGS.items()
        if size == ranks.size
    }
    if ranks.size == 2:
        found["allreduce"] = allreduce_times(ranks, MIB if quick else 64 * MIB)
    if ranks.rank == 0:
        io.write_json(out, found)


# --- measuring ---


def launched(ranks: int, quick: bool) -> dict[str, Any]:
    """Return what so many ranks have measured."""
    mpiexec = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
    if mpiexec is None:
        raise SystemExit("scaling.py needs mpiexec: pip install mpi4py mpich")
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory) / "found.json"
        command = [
            mpiexec,
            "-n",
            f"{ranks}",
            sys.executable,
            "-m",
            "mpi4py",
            __file__,
            "--on-ranks",
            f"{out}",
        ]
        done = subprocess.run(command + ["--quick"] * quick, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"mpiexec failed:\n{done.stderr}")
        found: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return found


def measured(quick: bool, repeats: int) -> dict[str, Any]:
    """Return everything that goes into the JSON file: the best of launches that take turns."""
    runs = [{**launched(1, quick), **launched(2, quick)} for _ in range(repeats)]
    steps = {
        name: {key: min(run[name][key] for run in runs) for key in ("step", "averaging")} for name in SETTINGS
    }
    sizes = [size for size, _ in runs[0]["allreduce"]]
    allreduce = [(size, min(run["allreduce"][i][1] for run in runs)) for i, size in enumerate(sizes)]
    latency, bandwidth = fitted(allreduce)
    nnk.set_num_threads(1)
    alone = parallel.Ranks()
    sizes_of_models = {"LeNet-5": nn.models.LeNet5(rng=0), "ResNet-50": nn.models.ResNet50(rng=0)}
    networks: dict[str, Any] = {"LeNet-5": {"batch": 64, "compute": steps["1 rank x 64"]["step"]}}
    if not quick:
        found = step_times(alone, "ResNet-50", IMAGES, 3)
        networks["ResNet-50"] = {"batch": IMAGES, "compute": found["step"]}
    for name, facts in networks.items():
        facts["bytes"] = sum(p.data.nbytes for p in sizes_of_models[name].parameters())
    results: dict[str, Any] = {
        "machine": machine(), "threads_per_rank": 1, "version": nnk.__version__,
        "date": f"{datetime.date.today()}", "load_average": os.getloadavg()[0], "repeats": repeats,
        "measured": {
            "steps": steps, "allreduce_2_ranks": allreduce, "seconds_per_byte_added": adding_time(),
            "fit": {"latency": latency, "bytes_per_second": bandwidth}, "networks": networks,
        },
        "assumed": {
            name: {"latency": latency, "bytes_per_second": bandwidth}
            for name, (latency, bandwidth) in NETWORKS.items()
        },
    }  # fmt: skip
    results["model"] = modelled(results)
    return results


def fitted(times: list[tuple[int, float]]) -> tuple[float, float]:
    """Return latency and bytes per second of t = latency + bytes / bandwidth, by least relative squares.

    >>> [float(f"{v:.6g}") for v in fitted([(n, 1e-5 + n / 2e9) for n in (4, 4096, 1 << 22)])]
    [1e-05, 2000000000.0]
    """
    sizes, seconds = np.array(times).T
    columns = np.stack([1 / seconds, sizes / seconds], axis=1)
    latency, per_byte = np.linalg.lstsq(columns, np.ones(len(times)))[0]
    return float(latency), float(1 / per_byte)


def adding_time() -> float:
    """Return the seconds that adding a byte of one array to another takes on one thread."""
    a, b = np.zeros(4 * MIB, np.float32), np.ones(4 * MIB, np.float32)
    times = []
    for _ in range(9):
        start = time.perf_counter()
        np.add(a, b, out=a)
        times.append(time.perf_counter() - start)
    return undisturbed(times) / a.nbytes


# --- the model ---


def allreduce_time(ranks: int, size: float, latency: float, per_byte: float, adding: float) -> float:
    """Return the modelled seconds of an Allreduce of ``size`` bytes; the formulas stand above.

    >>> allreduce_time(1, 1e6, 1e-6, 1e-9, 0.0), allreduce_time(8, 0, 1.0, 0.0, 0.0)
    (0.0, 3.0)
    >>> allreduce_time(4, 1e9, 0.0, 1e-9, 0.0)
    1.5
    """
    rounds, part = math.log2(ranks), (ranks - 1) / ranks
    doubling = rounds * (latency + size * (per_byte + adding))
    halving = 2 * rounds * latency + part * size * (2 * per_byte + adding)
    return min(doubling, halving)


def modelled(results: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the modelled step of every network of layers over every network of wires."""
    adding = results["measured"]["seconds_per_byte_added"]
    rows = []
    for model, facts in results["measured"]["networks"].items():
        for wires, link in results["assumed"].items():
            for ranks in RANKS:
                talking = allreduce_time(
                    ranks, facts["bytes"], link["latency"], 1 / link["bytes_per_second"], adding
                )
                efficiency = facts["compute"] / (facts["compute"] + talking)
                row = {"model": model, "wires": wires, "ranks": ranks}
                rows.append({**row, "allreduce": talking, "efficiency": efficiency})
    return rows


# --- words and pictures ---


def table(results: dict[str, Any]) -> str:
    """Return the measured steps as a Markdown table."""
    steps = results["measured"]["steps"]
    alone = steps["1 rank x 64"]["step"] / 64
    lines = [
        f"{results['machine']['processor']}, {results['machine']['cores']} cores, 1 thread per rank:",
        "",
        "| LeNet-5 | ms a step | of which averaging | examples a second | beside 1 rank |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, (ranks, batch) in SETTINGS.items():
        found, each = steps[name], steps[name]["step"] / (ranks * batch)
        lines.append(
            f"| {name.replace('x', plot.style.TIMES)} | {1e3 * found['step']:.2f} | "
            f"{1e3 * found['averaging']:.2f} | {1 / each:,.0f} | {alone / each:.2f} |"
        )
    fit = results["measured"]["fit"]
    lines += [
        "",
        f"An Allreduce between two ranks takes {1e6 * fit['latency']:.1f} µs, and 1 s more for every "
        f"{fit['bytes_per_second'] / 1e9:.1f} GB.",
    ]
    return "\n".join(lines)


def model_table(results: dict[str, Any]) -> str:
    """Return the modelled efficiencies as a Markdown table."""
    head = ["modelled, not measured", "step alone", "gradients", *(f"{ranks:,} ranks" for ranks in LISTED)]
    lines = ["| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
    for model, facts in results["measured"]["networks"].items():
        for wires in results["assumed"]:
            cells = [f"{100 * row['efficiency']:.0f}%" for row in rows_of(results, model, wires, LISTED)]
            lines.append(
                f"| {model}, batch {facts['batch']} a rank, {wires} | {1e3 * facts['compute']:,.1f} ms | "
                f"{facts['bytes'] / 1e6:.2f} MB | " + " | ".join(cells) + " |"
            )
    return "\n".join(lines)


def rows_of(results: dict[str, Any], model: str, wires: str, ranks: Any) -> list[dict[str, Any]]:
    """Return the modelled rows of one network over one kind of wires."""
    found = [row for row in results["model"] if (row["model"], row["wires"]) == (model, wires)]
    return [row for row in found if row["ranks"] in ranks]


def picture(results: dict[str, Any]) -> Figure:
    """Draw the measured Allreduce beside the modelled efficiency."""
    with plot.style.context():
        figure, (left, right) = plot.subplots(1, 2, size=(7.4, 4.2))
        draw_allreduce(left, results)
        draw_model(right, results)
    return figure


def draw_allreduce(panel: Axes, results: dict[str, Any]) -> None:
    """Draw the time of an Allreduce over its size, with the line fitted to it."""
    sizes, seconds = np.array(results["measured"]["allreduce_2_ranks"]).T
    fit = results["measured"]["fit"]
    panel.plot(sizes, 1e6 * seconds, "o", color=plot.COLOURS[0], label="measured")
    line = fit["latency"] + sizes / fit["bytes_per_second"]
    words = f"{1e6 * fit['latency']:.1f} µs + bytes / ({fit['bytes_per_second'] / 1e9:.1f} GB/s)"
    panel.plot(sizes, 1e6 * line, "-", color=plot.COLOURS[0], label=words, linewidth=1.2)
    panel.set(xscale="log", yscale="log", xlabel="bytes", ylabel="µs")
    panel.minorticks_off()
    panel.set_title("Measured here:\nAllreduce between 2 ranks")
    panel.legend(loc="upper left")
    panel.set_ylim(top=8 * panel.get_ylim()[1])  # room for the legend


def draw_model(panel: Axes, results: dict[str, Any]) -> None:
    """Draw the efficiency of weak scaling: the model as dashed lines, what was measured as points."""
    for i, model in enumerate(results["measured"]["networks"]):
        for wires, line in zip(results["assumed"], ("--", ":")):
            rows = rows_of(results, model, wires, RANKS)
            panel.plot(
                [row["ranks"] for row in rows], [100 * row["efficiency"] for row in rows], line,
                color=plot.COLOURS[i], label=f"model: {model}, {wires}", linewidth=(3.2, 1.5)[i],
            )  # fmt: skip
    steps = results["measured"]["steps"]
    weak = 100 * steps["1 rank x 64"]["step"] / steps["2 ranks x 64"]["step"]
    panel.plot([1, 2], [100, weak], "o", color=plot.COLOURS[0], label="measured: LeNet-5, this machine")
    panel.set(xscale="log", xlabel="ranks", ylabel="efficiency of weak scaling, in %", ylim=(0, 105))
    panel.set_xticks([1, 4, 16, 64, 256, 1024], ["1", "4", "16", "64", "256", "1024"])
    panel.minorticks_off()
    panel.set_title("A model, not a measurement,\nbeyond 2 ranks")
    panel.figure.legend(
        *panel.get_legend_handles_labels(), loc="outside lower center", ncols=2, handlelength=3.5
    )


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few steps, no ResNet-50: a trial run")
    parser.add_argument("--repeats", type=int, default=None, metavar="N", help="launches of each kind (5)")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="where files go")
    parser.add_argument("--draw", action="store_true", help="only draw again, from the file")
    parser.add_argument("--on-ranks", type=Path, default=None, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    chosen.repeats = chosen.repeats or (1 if chosen.quick else 5)
    return chosen


def main() -> None:
    """Measure or draw, as the command line asks."""
    chosen = options()
    if chosen.on_ranks is not None:
        on_ranks(chosen.quick, chosen.on_ranks)
        return
    file = (chosen.out or HERE / "results") / "scaling.json"
    drawing = (chosen.out or HERE.parent / "docs") / "scaling.png"
    writes = chosen.out is not None or not chosen.quick
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
    results = (
        json.loads(file.read_text(encoding="utf-8"))
        if chosen.draw
        else measured(chosen.quick, chosen.repeats)
    )
    print(table(results), model_table(results), sep="\n\n")
    if writes:
        if not chosen.draw:
            io.write_json(file, results)
        plot.save(picture(results), drawing, 150)
        print(f"wrote {file} and {drawing}")
    if writes and chosen.out is None:
        page = between(PAGE.read_text(encoding="utf-8"), "scaling", table(results))
        PAGE.write_text(between(page, "scaling-model", model_table(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
