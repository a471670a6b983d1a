"""Bars of speed, bodies beside bodies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.plot.style import BODY_COLOURS, INK, LABEL, TIMES, is_finite, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def compare_bars(rows: Sequence[Mapping[str, Any]], title: str = "Speed of the bodies") -> Figure:
    """Horizontal bars of speed-up on a log scale, grouped by op, with times and rates as columns.

    `rows` are dicts with `op` (str), `body` (a key of BODY_COLOURS), `seconds`, `speedup` (> 0) and
    `gflops` (> 0 or None). Bars start at 1, so a body slower than the baseline points left; the
    baseline is named where exactly one body has speed-up 1 throughout. Ops keep their order.
    """
    from matplotlib.patches import Patch

    _check_rows(rows)
    bodies = [body for body in BODY_COLOURS if any(row["body"] == body for row in rows)]
    ordered: list[Mapping[str, Any]] = []
    heights: list[float] = []
    middles = {}
    top = 0.0
    for op in dict.fromkeys(row["op"] for row in rows):
        group = sorted((r for r in rows if r["op"] == op), key=lambda r: bodies.index(r["body"]))
        ordered += group
        heights += [top + k for k in range(len(group))]
        middles[str(op)] = top + (len(group) - 1) / 2
        top += len(group) + 0.7
    figure = new_figure(7.4, 1.35 + 0.175 * top, title)
    axes = figure.add_subplot()
    _draw_bars(axes, ordered, heights)
    axes.set_ylim(top - 1.0, -0.7)
    axes.set_yticks(list(middles.values()), list(middles))
    baselines = [b for b in bodies if all(row["speedup"] == 1 for row in rows if row["body"] == b)]
    over = f" over {baselines[0]}" if len(baselines) == 1 else ""
    axes.set_xlabel(f"speed-up{over} (log scale)", **LABEL)
    keys = [Patch(color=BODY_COLOURS[body], label=body) for body in bodies]
    # Anchored above the left end of the axes: a long figure keeps it next to the first bars.
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": len(keys)}
    axes.legend(handles=keys, frameon=False, fontsize=9, handlelength=1.2, columnspacing=1.5, **place)
    return figure


def _check_rows(rows: Sequence[Mapping[str, Any]]) -> None:
    if not rows:
        raise ValueError("rows is empty, wanted one dict per op and body")
    for k, row in enumerate(rows):
        missing = [key for key in ("op", "body", "seconds", "gflops", "speedup") if key not in row]
        if missing:
            raise ValueError(f"rows[{k}] lacks {', '.join(missing)}; it holds {sorted(row)}")
        if row["body"] not in BODY_COLOURS:
            raise ValueError(f"rows[{k}] has body {row['body']!r}, wanted one of {', '.join(BODY_COLOURS)}")
        for key in ("seconds", "speedup", "gflops"):
            value = row[key]
            absent = key == "gflops" and value is None
            if not absent and not (is_finite(value) and value > 0):
                raise ValueError(f"rows[{k}] has {key} {value!r}, wanted a finite number above 0")


def _draw_bars(axes: Axes, rows: Sequence[Mapping[str, Any]], heights: Sequence[float]) -> None:
    """One bar per row, its speed-up at its end, time and GFLOP/s in columns right of the axes."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    speedups = np.array([row["speedup"] for row in rows], dtype=np.float64)
    low, high = min(1.0, speedups.min()) / 1.15, max(1.0, speedups.max())
    span = math.log10(high / low)
    axes.set_xscale("log")
    # The longest bar leaves an eighth of the width, and at least a factor 1.5, for its label.
    axes.set_xlim(low, high * max(1.5, 10 ** (span / 8)))
    colours = [BODY_COLOURS[row["body"]] for row in rows]
    axes.axvline(1, color=INK, linewidth=0.8, zorder=0.9)
    # A bar of speed-up 1 has no width: its edge makes it visible.
    edges = np.where(np.abs(np.log10(speedups)) < 0.01 * span, 3.0, 0.0)
    axes.barh(heights, speedups - 1, left=1, height=0.74, color=colours, edgecolor=colours, linewidth=edges)
    for y, speedup in zip(heights, speedups, strict=True):
        label = f"{short(speedup)}{TIMES}"
        place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center_baseline"}
        axes.annotate(label, (max(speedup, 1.0), y), **place, **LABEL)
    times = [time_text(row["seconds"]) for row in rows]
    rates = ["" if row["gflops"] is None else short(row["gflops"]) for row in rows]
    for offset, head, texts in ((58, "time", times), (116, "GFLOP/s", rates)):
        for y, text in zip([-1.1, *heights], [head if any(texts) else "", *texts], strict=True):
            place = {"xytext": (offset, 0), "textcoords": "offset points", "va": "center_baseline"}
            place |= {"xycoords": axes.get_yaxis_transform(), "ha": "right", "annotation_clip": False}
            axes.annotate(text, (1, y), **place, **LABEL)
    tidy(axes, "x")
    decades = LogLocator(subs=(1.0, 2.0, 5.0) if span < 1.5 else (1.0,))
    axes.xaxis.set_major_locator(decades if span > 0.5 else MaxNLocator(5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{short(value)}{TIMES}"))
    axes.tick_params(axis="y", length=0)


def short(value: float) -> str:
    """Three significant digits, never in e-notation."""
    if value >= 999.5:
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")


def time_text(seconds: float) -> str:
    """Seconds in the largest unit that leaves a number of at least 1, or in nanoseconds."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("\N{MICRO SIGN}s", 1e-6)):
        if seconds >= 0.9995 * size:
            return f"{short(seconds / size)} {unit}"
    return f"{short(seconds / 1e-9)} ns"
