"""Two pictures of what peers.py measured: the roofline, and PyTorch's time over ours for every row.

python benchmarks/peers_plot.py [benchmarks/results/peers.json [DIR]]
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from nnkernels import plot

HERE = Path(__file__).parent
# Okabe and Ito's palette, with a marker each: colour alone is not for every eye or printer.
FAMILIES = {
    "conv2d": ("#0072B2", "o"), "conv1d": ("#56B4E9", "h"), "GEMM": ("#D55E00", "s"),
    "pooling": ("#009E73", "^"), "elementwise": ("#E69F00", "D"), "softmax, loss": ("#CC79A7", "v"),
    "reduction": ("#F0E442", "P"), "normalisation": ("#8C564B", "X"), "update step": ("#666666", "<"),
    "training step": ("#222222", "*"), "network": ("#A50026", "p"),
}  # fmt: skip
INK, GREY, FAINT = "#222222", "#767676", "#E5E5E5"
TICKS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200)


def draw(results: dict[str, Any], directory: Path) -> list[Path]:
    """Write both pictures; return their paths."""
    paths = [directory / "roofline.png", directory / "peers.png"]
    plot.save(roofline(results), paths[0], 150)
    plot.save(ratios(results), paths[1], 150)
    return paths


def on_most_threads(results: dict[str, Any]) -> tuple[int, list[dict[str, Any]]]:
    """Return the largest number of threads and its rows."""
    n = max(results["threads"])
    return n, [row for row in results["rows"] if row["threads"] == n]


def whose(results: dict[str, Any], n: int) -> str:
    """Return the machine and the threads in words."""
    machine, on = results["machine"], f"{n} thread{'s' * (n > 1)}"
    return f"{machine['processor']} ({machine['llvm']}), {on}, float32, {results['date']}"


# --- roofline ---


def roofline(results: dict[str, Any]) -> Figure:
    """Draw FLOP/s over FLOPs per byte, the measured ceilings and a point for each row."""
    n, rows = on_most_threads(results)
    limits = results["ceilings"][str(n)]
    peak, bandwidth = limits["fma_gflops"], limits["memory_gbytes"]
    rows = [row for row in rows if row["flops"] and row["bytes"]]
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.add_subplot()
    x = np.array([row["flops"] / row["bytes"] for row in rows])
    y = np.array([row["flops"] / row["as_installed"]["ours"]["median"] / 1e9 for row in rows])
    left, right = min([0.08, *x / 1.5]), max([300.0, *x * 1.5])
    intensity = np.geomspace(left, right, 200)
    axes.loglog(intensity, np.minimum(peak, intensity * bandwidth), color=INK, lw=1.6, zorder=2)
    for family, (colour, marker) in FAMILIES.items():
        here = np.array([row["family"] == family for row in rows], bool)
        if here.any():
            axes.scatter(x[here], y[here], 30, colour, marker=marker, label=family, edgecolors="white",
                         linewidths=0.4, zorder=3)  # fmt: skip
    bottom, top = min([*y, bandwidth * left]) / 1.6, max([peak, *y]) * 2
    axes.set(xlim=(left, right), ylim=(bottom, top),
             xlabel="FLOPs per byte moved at least", ylabel="GFLOP/s of tuned")  # fmt: skip
    note = (
        f"multiply-adds: {peak:.0f} GFLOP/s\nmemory: {bandwidth:.0f} GB/s\nthey meet at "
        f"{peak / bandwidth:.1f} FLOPs a byte\nabove the slope: in caches\n"
        "above the roof: Winograd, its\nproducts counted as the direct ones"
    )
    axes.text(0.02, 0.98, note, transform=axes.transAxes, va="top", fontsize=8.5, linespacing=1.4)
    for ticks in (axes.xaxis, axes.yaxis):
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if rows:
        figure.legend(loc="outside right upper", fontsize=9, frameon=False)
    axes.set_title(f"Roofline: {whose(results, n)}", fontsize=10, loc="left")
    return figure


# --- ratios ---


def ratios(results: dict[str, Any]) -> Figure:
    """Draw PyTorch's time over ours as bars, by family and by size, in two columns."""
    n, rows = on_most_threads(results)
    columns = halves(by_family(rows))
    most = max(sum(len(group) + 1 for group in column) for column in columns)
    figure = Figure(figsize=(12, 1.6 + 0.165 * most), layout="constrained")
    values = [row[s]["ratio"] for row in rows for s in ("as_installed", "allocation_tuned")]
    span = (min(0.7, 0.85 * min(values)), max(1.5, 1.3 * max(values)))
    for place, column in enumerate(columns, start=1):
        draw_column(figure.add_subplot(1, len(columns), place), column, most, span)
    figure.suptitle(
        f"PyTorch {results['versions']['torch']}'s time over ours (right of 1 ours is faster): "
        f"{whose(results, n)}", fontsize=11, x=0.01, ha="left",
    )  # fmt: skip
    keys = [
        Patch(color=GREY, label="PyTorch as installed"),
        Line2D([], [], color=INK, marker="|", ls="", ms=9, mew=1.6, label="its allocation tuned"),
    ]
    figure.legend(handles=keys, loc="outside lower left", ncols=2, fontsize=9, frameon=False)
    return figure


def by_family(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the rows of each family, the largest ratio first."""
    groups = [[row for row in rows if row["family"] == family] for family in FAMILIES]
    return [sorted(group, key=lambda row: -row["as_installed"]["ratio"]) for group in groups if group]


def halves(groups: list[list[Any]]) -> list[list[list[Any]]]:
    """Return the groups in two columns of about equal length, or in one if they are few."""
    sizes = [len(group) + 1 for group in groups]
    if sum(sizes) < 30 or len(groups) < 2:
        return [groups]
    cut = min(range(1, len(groups)), key=lambda i: max(sum(sizes[:i]), sum(sizes[i:])))
    return [groups[:cut], groups[cut:]]


def draw_column(axes: Any, groups: list[list[dict[str, Any]]], most: int, span: tuple[float, float]) -> None:
    """Draw the bars of some families below each other."""
    height, heights, labels = 0.0, [], []
    for group in groups:
        colour = FAMILIES[group[0]["family"]][0]
        title = {"fontsize": 8.5, "fontweight": "bold", "color": INK, "va": "center"}
        axes.text(span[0], height, f" {group[0]['family']}", **title)
        for row in group:
            height += 1
            plain, tuned = row["as_installed"]["ratio"], row["allocation_tuned"]["ratio"]
            axes.barh(height, plain - 1, 0.72, left=1, color=colour)
            axes.plot([tuned, tuned], [height - 0.42, height + 0.42], color=INK, lw=1.6)
            heights.append(height)
            labels.append(f"{row['op']} {row['label']} {row['way']}")
        height += 1
    axes.axvline(1, color=INK, lw=1)
    axes.set_xscale("log")
    axes.set(xlim=span, ylim=(most - 0.4, -0.6))
    axes.set_yticks(heights, labels, fontsize=7.5)
    axes.set_xticks([tick for tick in TICKS if span[0] <= tick <= span[1]])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.tick_params(axis="x", top=True, labeltop=True, labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def main() -> None:
    """Draw again from the file."""
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results" / "peers.json"
    directory = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE.parent / "docs"
    for path in draw(json.loads(source.read_text(encoding="utf-8")), directory):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
