"""The time of each layer and pass, and how much of it the machine would need at least."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nnkernels.plot.bars import time_text
from nnkernels.plot.style import COLOURS, FAINT, LABEL, is_finite, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PASSES = {"forward": COLOURS[0], "backward": COLOURS[1]}
PALE = 0.65  # how much of what exceeds the roofline's time is white
UNITS = (("s", 1.0), ("ms", 1e3), ("µs", 1e6))
Times = tuple[float, float]  # seconds, those that the roofline allows


class Bar(NamedTuple):
    """A layer, or several, with the times of each pass."""

    name: str
    kind: str
    passes: dict[str, Times]


def layer_times(summary: Any, title: str = "", most: int = 25) -> Figure:
    """Horizontal bars of the time of each layer, forward and backward, with the share of the roofline.

    `summary` is what `nn.summary(..., measure=True)` returns: an object with `rows`, each with `name`,
    `forward` and `backward`; a pass is None or has `seconds` and `least_seconds`, what the roofline allows.
    The full part of a bar is that least time, the pale part the rest. Where more than `most` layers have
    times, those whose names begin with the same parts share a bar, as layer1.0.conv1 and layer1.0.bn1; as
    many parts count as leave at most `most` bars, one at least.
    """
    from matplotlib.patches import Patch

    if not isinstance(most, int) or most < 1:
        raise ValueError(f"most must be an int of at least 1, got {most!r}")
    bars = grouped(measured_rows(summary), most)
    figure = new_figure(7.4, 1.2 + 0.34 * len(bars) + 0.3 * bool(title), title)
    axes = figure.add_subplot()
    longest = max(seconds for bar in bars for seconds, _ in bar.passes.values())
    unit, scale = next(((u, s) for u, s in UNITS if longest * s >= 1), UNITS[-1])
    for k, bar in enumerate(bars):
        for name, (seconds, least) in bar.passes.items():
            y = k - 0.2 if name == "forward" else k + 0.2
            draw_bar(axes, y, seconds * scale, min(seconds, least) * scale, PASSES[name])
            words = time_text(seconds) + (f", {least / seconds:.0%}" if least and seconds else "")
            place: dict[str, Any] = {"xytext": (4, 0), "textcoords": "offset points"}
            axes.annotate(words, (seconds * scale, y), va="center_baseline", **place, **LABEL)
    axes.set_yticks(range(len(bars)), [label(bar) for bar in bars])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlim(0, longest * scale * 1.22)  # room for the longest bar's label
    axes.set_xlabel(f"time in {unit}; percent: share of the roofline", **LABEL)
    tidy(axes, "x")
    axes.tick_params(axis="y", length=0)
    keys = [Patch(color=colour, label=name) for name, colour in PASSES.items()]
    keys.append(Patch(color=pale(FAINT), label="beyond the roofline's least time"))
    where: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": len(keys)}
    axes.legend(handles=keys, frameon=False, fontsize=9, handlelength=1.2, columnspacing=1.5, **where)
    return figure


def measured_rows(summary: Any) -> list[Bar]:
    """Return a bar for each layer; layers of which no time was measured are left out."""
    rows = getattr(summary, "rows", None)
    if rows is None:
        raise ValueError(f"summary must have rows, as nn.summary returns them; got {type(summary).__name__}")
    found = []
    for k, row in enumerate(rows):
        passes: dict[str, Times] = {}
        for name in PASSES:
            measured = getattr(row, name, None)
            if measured is None:
                continue
            times = measured.seconds, measured.least_seconds
            if not all(is_finite(t) and t >= 0 for t in times):
                raise ValueError(f"rows[{k}].{name} has times {times}, wanted finite numbers of at least 0")
            passes[name] = times
        if passes:
            found.append(Bar(row.name, getattr(row, "kind", ""), passes))
    if not any(seconds for bar in found for seconds, _ in bar.passes.values()):
        raise ValueError(f"summary has {len(rows)} rows without times, wanted nn.summary(..., measure=True)")
    return found


def grouped(bars: list[Bar], most: int) -> list[Bar]:
    """Return the bars, or where they are too many one with the sums of all whose names begin alike."""
    parts = max(bar.name.count(".") + 1 for bar in bars)
    while len(bars) > most and parts > 0:
        together: dict[str, Bar] = {}
        for name, _, passes in bars:
            start = ".".join(name.split(".")[:parts])
            group = together.setdefault(start, Bar(start, "", {})).passes
            for key, (seconds, least) in passes.items():
                before = group.get(key, (0.0, 0.0))
                group[key] = before[0] + seconds, before[1] + least
        bars, parts = list(together.values()), parts - 1
    return bars


def label(bar: Bar) -> str:
    """Return a bar's name, with the kind of layer where that is only its place in a container."""
    named = bar.name and not bar.name.rpartition(".")[2].isdecimal()
    return bar.name if named else f"{bar.name} {bar.kind}".strip()


def draw_bar(axes: Axes, y: float, length: float, least: float, colour: str) -> None:
    """Draw a time and, in it, what the roofline allows."""
    axes.barh(y, length, height=0.36, color=pale(colour), linewidth=0)
    axes.barh(y, least, height=0.36, color=colour, linewidth=0)


def pale(colour: str) -> tuple[float, float, float]:
    """Return the colour mixed with white; a grid line would show through a transparent one."""
    from matplotlib.colors import to_rgb

    red, green, blue = (PALE + (1 - PALE) * part for part in to_rgb(colour))
    return red, green, blue
