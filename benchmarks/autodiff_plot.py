"""The picture of autodiff_modes.py: times of Jacobians over n and m, and the memory of both modes.

python benchmarks/autodiff_plot.py [benchmarks/results/autodiff_modes.json [FILE]]
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from nnkernels import plot
from nnkernels.plot import style

HERE = Path(__file__).parent
INK, GRID = style.INK, style.GRID_LINE
# Okabe and Ito's blue and vermilion, as in nnkernels.plot.style; a marker each, for those who see no colours.
STYLES = {"forward": ("#0072B2", "o"), "reverse": ("#D55E00", "s")}
SIZE = 10  # points: 10 pixels high where the picture is 600 wide


def picture(results: dict[str, Any]) -> Figure:
    """Draw four panels: n varies, m varies, n m is fixed, and memory over depth."""
    figure = Figure(figsize=(7.4, 6.6), layout="constrained")
    found = results["modes"]
    panels = figure.subplots(2, 2)
    top = [[row for row in found["rows"] if row[one] == 1] for one in ("m", "n")]
    product = [row for row in found["rows"] if row["n"] * row["m"] == found["product"]]
    draw_times(panels[0, 0], top[0], "n", "m = 1: many inputs, one output")
    draw_times(panels[0, 1], top[1], "m", "n = 1: one input, many outputs")
    draw_times(panels[1, 0], product, "n", f"n · m = {found['product']}")
    draw_crossover(panels[1, 0], found, product)
    draw_memory(panels[1, 1], results["memory"])
    keys = [
        Line2D([], [], color=colour, marker=marker, lw=1.8, ms=6, label=f"{mode} mode")
        for mode, (colour, marker) in STYLES.items()
    ]
    keys.append(Line2D([], [], color=INK, ls="--", lw=1.4, label="predicted"))
    figure.legend(handles=keys, loc="outside upper center", ncols=3, fontsize=SIZE + 1, frameon=False)
    machine = results["machine"]
    threads = f"{results['threads']} thread{'s' * (results['threads'] > 1)}"
    figure.supxlabel(
        f"{machine['processor']} ({machine['llvm']}), {threads}, float64, {results['date']}",
        fontsize=SIZE - 1, color=style.FAINT,
    )  # fmt: skip
    return figure


def draw_times(axes: Axes, rows: list[dict[str, Any]], variable: str, title: str) -> None:
    """Draw measured and predicted milliseconds of a whole Jacobian over n or m."""
    rows = sorted(rows, key=lambda row: row[variable])
    x = [row[variable] for row in rows]
    for mode, (colour, marker) in STYLES.items():
        axes.plot(x, [1e3 * row["predicted"][mode] for row in rows], color=colour, ls="--", lw=1.4)
        measured = [1e3 * row["measured"][mode] for row in rows]
        axes.plot(x, measured, color=colour, marker=marker, lw=1.8, ms=5)
    finish(axes, x, f"{'inputs' if variable == 'n' else 'outputs'} {variable}", "Jacobian, ms", title)


def draw_crossover(axes: Axes, found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Mark where both modes take the same time."""
    n = found["crossover_n"]["measured"]
    if n is None:
        return
    rows = sorted(rows, key=lambda row: row["n"])
    logs = np.log([[row["n"], 1e3 * row["measured"]["reverse"]] for row in rows])
    axes.plot(n, np.exp(np.interp(np.log(n), *logs.T)), "o", ms=13, mfc="none", mec=INK, mew=1.4)
    axes.axvline(n, color=INK, lw=1, ls=":")
    axes.text(
        n, 0.03, f"same time at\nn = {n:.1f}, m = {found['product'] / n:.0f}", color=INK, fontsize=SIZE,
        transform=axes.get_xaxis_transform(), ha="center", va="bottom",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 2},
    )  # fmt: skip


def draw_memory(axes: Axes, found: dict[str, Any]) -> None:
    """Draw measured and predicted peaks over the depth of the chain."""
    rows = found["rows"]
    x = [row["depth"] for row in rows]
    for mode, (colour, marker) in STYLES.items():
        axes.plot(x, [row[mode] / 2**20 for row in rows], color=colour, marker=marker, lw=1.8, ms=5)
    predicted = [row["predicted_reverse"] / 2**20 for row in rows]
    axes.plot(x, predicted, color=STYLES["reverse"][0], ls="--", lw=1.4)
    kib = found["array_bytes"] // 1024
    finish(axes, x, f"layers, each with {found['arrays_per_layer']} arrays of {kib} KiB", "peak memory, MiB",
           "one pass through a chain")  # fmt: skip


def finish(axes: Axes, x: list[int], below: str, beside: str, title: str) -> None:
    """Set logarithmic scales with plain numbers, labels and a grid."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(x[:: 1 if len(x) <= 5 else 2])
    axes.xaxis.set_minor_locator(NullLocator())
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.tick_params(labelsize=SIZE, labelcolor=INK, color=style.FRAME)
    axes.set_xlabel(below, fontsize=SIZE, color=INK)
    axes.set_ylabel(beside, fontsize=SIZE, color=INK)
    axes.set_title(title, fontsize=SIZE + 1, color=INK)
    axes.grid(color=GRID, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def main() -> None:
    """Draw again from the file."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results" / "autodiff_modes.json"
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE.parent / "docs" / "autodiff-modes.png"
    plot.save(picture(json.loads(source.read_text(encoding="utf-8"))), target, 150)
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
