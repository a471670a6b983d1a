"""Pictures: learning curves, filters, activation maps, confusion matrices, speed comparisons.

Every function takes arrays and plain dicts and returns a `matplotlib.figure.Figure`; `save` writes
it as PNG. Bad input raises ValueError naming the argument, what came and what was wanted.
Matplotlib is imported inside the functions, so that importing this module stays cheap, and only
through its object interface, so that neither a backend nor pyplot's global state is touched.
"""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

    FloatArray = npt.NDArray[np.float64]
    Mistake = tuple[npt.ArrayLike, int, int, float]

# Okabe and Ito's palette: its colours stay apart with every common kind of colour blindness.
BODY_COLOURS = {
    "python": "#999999",
    "loops": "#E69F00",
    "vectorized": "#56B4E9",
    "tuned": "#0072B2",
    "cuda": "#009E73",
}
CURVES = {"train": ("#0072B2", "o"), "val": ("#D55E00", "s")}
INK, FAINT, FRAME, GRID_LINE = "#222222", "#767676", "#B0B0B0", "#E5E5E5"
SMALL: dict[str, Any] = {"fontsize": 8, "color": INK}
LABEL: dict[str, Any] = {"fontsize": 9, "color": INK}
TIMES = "\N{MULTIPLICATION SIGN}"


def learning_curves(history: Mapping[str, Any], validation_name: str = "validation") -> Figure:
    """Loss and accuracy per epoch, side by side; a panel without any values is left out.

    `history` holds lists of one value per epoch under `train_loss`, `val_loss`, `train_accuracy`,
    `val_accuracy` (accuracies as fractions of 1; absent or empty lists are not drawn, NaN leaves a
    gap) and, optionally, `best_epoch` (an int or a list of one, the first epoch is 1). Other keys are
    ignored. `validation_name` is what the legend calls the `val_` curves.
    """
    curves = _history_curves(history)
    epochs = len(next(iter(curves.values())))
    best = history.get("best_epoch")
    if isinstance(best, list) and len(best) == 1:  # as train.fit leaves it, among lists per epoch
        best = best[0]
    if best is not None and not (_is_index(best, epochs + 1) and best >= 1):
        raise ValueError(f"history['best_epoch'] is {best!r}, wanted an int from 1 to {epochs}")
    panels = [kind for kind in ("loss", "accuracy") if any(key.endswith(kind) for key in curves)]
    figure = _figure(4.6 * len(panels), 3.5)
    for place, kind in enumerate(panels, start=1):
        names = {"train": "training", "val": validation_name}
        _draw_curves(figure.add_subplot(1, len(panels), place), kind, curves, names, best)
    return figure


def filters(weights: npt.ArrayLike, title: str = "Filters") -> Figure:
    """Convolution filters `weights` (K, C, R, S) on one colour scale that is symmetric about 0.

    C = 1: a grid of K tiles. C = 3: a grid of K tiles in RGB, where mid-grey is 0.
    Other C: one row per filter, one column per input channel.
    """
    w = _array("weights", weights, 4, "(K, C, R, S)")
    count, channels, rows, columns = w.shape
    limit = float(np.abs(w).max()) or 1.0
    if channels in (1, 3):
        grid = _Grid(count, _grid_columns(count), rows / columns, tile=0.95, captioned=True)
    else:
        tile = min(max(7 / max(count, channels), 0.2), 0.95)
        grid = _Grid(count * channels, channels, rows / columns, tile, captioned=False)
    across, down = grid.inches
    figure = _figure(max(across + 1.3, 3.3), down + 1.0, title)
    axes = figure.add_subplot()
    if channels == 3:
        grid.draw(axes, 0.5 + 0.5 * w.transpose(0, 2, 3, 1) / limit)
        figure.supxlabel(f"per colour: dark {-limit:.2g}, mid-grey 0, bright {limit:.2g}", **SMALL)
        return figure
    image = grid.draw(axes, w.reshape(-1, rows, columns), cmap="RdBu_r", vmin=-limit, vmax=limit)
    if channels != 1:
        grid.number_rows_and_columns(axes, "filter", "input channel")
    grid.colour_bar(axes, image, "weight")
    return figure


def activation_maps(image: npt.ArrayLike, maps: npt.ArrayLike, title: str = "Activation maps") -> Figure:
    """One `image` (H, W) beside its `maps` (K, P, Q), which share one colour scale.

    The scale starts at 0 where no activation is negative and is symmetric about 0 otherwise.
    """
    picture = _array("image", image, 2, "(H, W)")
    activations = _array("maps", maps, 3, "(K, P, Q)")
    (height, width), (count, rows, columns) = picture.shape, activations.shape
    limit = float(np.abs(activations).max()) or 1.0
    colours = ("RdBu_r", -limit) if (activations < 0).any() else ("viridis", 0.0)
    whole = _Grid(1, 1, height / width, tile=2.0, captioned=False)
    grid = _Grid(count, _grid_columns(count), rows / columns, tile=0.95, captioned=True)
    widths = [whole.inches[0], grid.inches[0] + 0.9]
    figure = _figure(sum(widths) + 0.5, max(whole.inches[1], grid.inches[1]) + 1.0, title)
    left, right = figure.subplots(1, 2, width_ratios=widths)
    whole.draw(left, picture[None], cmap="gray_r")
    left.set_title(f"input, {height} {TIMES} {width}", **LABEL)
    drawn = grid.draw(right, activations, cmap=colours[0], vmin=colours[1], vmax=limit)
    right.set_title(f"{count} channel{'s' * (count > 1)}, {rows} {TIMES} {columns}", **LABEL)
    grid.colour_bar(right, drawn, "activation")
    return figure


def confusion(
    matrix: npt.ArrayLike, class_names: Sequence[str], mistakes: Sequence[Mistake] | None = None
) -> Figure:
    """Confusion `matrix` (n, n) of counts, rows the true class, columns the predicted one.

    `class_names` holds n names. `mistakes`, drawn beside the matrix in the order given, holds tuples
    (image (H, W), true class, predicted class, probability of the predicted class), classes as
    indices below n, images of one shape. None or an empty list leaves the panel out.
    """
    counts = _array("matrix", matrix, 2, "(n, n)")
    n, total, right = len(counts), counts.sum(), np.trace(counts)
    if counts.shape != (n, n) or (counts < 0).any() or (counts % 1 != 0).any() or total == 0:
        came = f"shape {counts.shape} and values from {counts.min():g} to {counts.max():g}"
        raise ValueError(f"matrix has {came}, wanted (n, n) whole counts >= 0, not all 0")
    names = [str(name) for name in class_names]
    if len(names) != n:
        raise ValueError(f"class_names has {len(names)} names, wanted {n}, one per row of matrix")
    images, captions = _check_mistakes(mistakes or [], names)
    side = max(n * (0.46 if n <= 12 else 0.36), 2.5) + 0.07 * max(map(len, names))
    widths = [side + 0.8]
    if images:
        down = max(1, round(side / 1.27))
        pitch = max(1.12, 0.08 * max(map(len, captions)))
        ratio = images[0].shape[0] / images[0].shape[1]
        grid = _Grid(len(images), -(-len(images) // down), ratio, 0.95, captioned=True, pitch=pitch)
        widths.append(max(grid.inches[0], 2.0) + 0.3)
    title = f"{right:.0f} of {total:.0f} right ({100 * right / total:.1f} %)"
    figure = _figure(sum(widths), side + 1.5, title)
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_counts(panels[0], counts, names)
    if images:
        grid.draw(panels[1], np.stack(images), captions, cmap="gray_r")
        panels[1].set_anchor("N")
        panels[1].set_title("Worst mistakes:\ntrue → predicted, probability", **LABEL)
    return figure


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
    figure = _figure(8.2, 1.35 + 0.165 * top, title)
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


def save(figure: Figure, path: str | os.PathLike[str], dpi: float = 150) -> None:
    """Write `figure` to `path` (must end in .png) at `dpi` pixels per inch, whole or not at all."""
    target = Path(path)
    if target.suffix.lower() != ".png":
        raise ValueError(f"path is {str(target)!r}, wanted a name that ends in .png")
    if not 0 < dpi < math.inf:
        raise ValueError(f"dpi is {dpi!r}, wanted a finite number above 0")
    # Written beside the target: only a rename within one file system is atomic.
    partial = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        figure.savefig(partial, format="png", dpi=dpi)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


@dataclass(frozen=True)
class _Grid:
    """`count` picture tiles, `across` in a row, `tile` inches wide and `ratio` times as high.

    All tiles share one axes, whose unit is a tile's width: an axes per tile would take seconds.
    """

    count: int
    across: int
    ratio: float
    tile: float
    captioned: bool
    pitch: float = 1.1

    @property
    def down(self) -> int:
        return -(-self.count // self.across)

    @property
    def above(self) -> float:
        return 0.2 if self.captioned else 0.0  # room for a caption, in tile widths

    @property
    def row_pitch(self) -> float:
        return self.above + self.ratio + 0.1

    @property
    def inches(self) -> tuple[float, float]:
        return self.tile * self.across * self.pitch, self.tile * self.down * self.row_pitch

    def draw(
        self, axes: Axes, tiles: npt.NDArray[Any], captions: Sequence[str] | None = None, **colours: Any
    ) -> AxesImage:
        """Draw `tiles` (count, H, W[, 3]) with their captions, or numbers; returns the last image."""
        from matplotlib.collections import PatchCollection
        from matplotlib.patches import Rectangle

        frames = []
        for k, tile in enumerate(tiles):
            left, top = (k % self.across) * self.pitch, (k // self.across) * self.row_pitch + self.above
            box = (left, left + 1, top + self.ratio, top)
            image = axes.imshow(tile, extent=box, interpolation="nearest", **colours)
            image.set_in_layout(False)  # inside the axes anyway, and thousands of them are slow
            frames.append(Rectangle((left, top), 1, self.ratio))
            if self.captioned:
                text = captions[k] if captions else str(k)
                axes.text(left + 0.5, top - 0.04, text, ha="center", va="bottom", **SMALL)
        axes.add_collection(PatchCollection(frames, facecolor="none", edgecolor=FRAME, linewidth=0.6))
        side = (self.pitch - 1) / 2
        axes.set_xlim(-side, self.across * self.pitch - side)
        axes.set_ylim(self.down * self.row_pitch - 0.05, -0.05)
        axes.set(aspect="equal", xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        return image

    def number_rows_and_columns(self, axes: Axes, row_name: str, column_name: str) -> None:
        """Number the rows and columns of uncaptioned tiles, leaving out numbers that would touch."""
        step = math.ceil(0.22 / self.tile)
        down, across = range(0, self.down, step), range(0, self.across, step)
        axes.set_yticks([k * self.row_pitch + self.ratio / 2 for k in down], [str(k) for k in down])
        axes.set_xticks([c * self.pitch + 0.5 for c in across], [str(c) for c in across])
        axes.tick_params(length=0, labelsize=8, labelcolor=INK)
        axes.set_ylabel(row_name, **LABEL)
        axes.set_xlabel(column_name, **LABEL)

    def colour_bar(self, axes: Axes, image: AxesImage, label: str) -> None:
        """A bar from the first tile's top to the last one's bottom, as an inset to follow the axes."""
        from matplotlib.ticker import MaxNLocator

        width, height = self.inches
        inset = axes.inset_axes((1 + 0.08 / width, 0, 0.13 / width, 1 - self.tile * self.above / height))
        ticks = MaxNLocator(min(max(int(4 * height), 1), 8), min_n_ticks=1)
        bar = axes.figure.colorbar(image, cax=inset, ticks=ticks)
        bar.set_label(label, **LABEL)
        inset.tick_params(labelsize=8, labelcolor=INK, color=FRAME)
        inset.spines[:].set_color(FRAME)


def _grid_columns(count: int) -> int:
    """Columns of a near-square grid; up to four tiles stand in one row."""
    return count if count <= 4 else math.ceil(math.sqrt(count))


def _figure(width: float, height: float, title: str = "") -> Figure:
    """An empty figure, `width` x `height` inches, with its own Agg canvas and a wrapped title."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    lines = textwrap.wrap(title, max(12, int(9 * width)))
    height += 0.2 * max(0, len(lines) - 1)
    layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1)
    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    FigureCanvasAgg(figure)
    if lines:
        figure.suptitle("\n".join(lines), fontsize=12, color=INK)
    return figure


def _tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(labelsize=9, labelcolor=INK, color=FRAME)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID_LINE, linewidth=0.8)


def _array(name: str, values: object, ndim: int, wanted: str, finite: bool = True) -> FloatArray:
    """`values` as float64 with `ndim` axes, none of them empty."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} is not an array of numbers, wanted {wanted}: {error}") from error
    if array.ndim != ndim or array.size == 0:
        raise ValueError(f"{name} has shape {array.shape}, wanted {wanted} with no axis of length 0")
    if finite and not np.isfinite(array).all():
        bad = np.count_nonzero(~np.isfinite(array))
        raise ValueError(f"{name} has {bad} of {array.size} elements NaN or infinite, wanted finite numbers")
    return array


def _is_index(value: object, end: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < end


def _is_finite(value: object) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)


def _history_curves(history: Mapping[str, Any]) -> dict[str, FloatArray]:
    """The curves of `history` that have values, all of one length."""
    keys = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    curves = {
        key: _array(f"history[{key!r}]", history[key], 1, "one number per epoch", finite=False)
        for key in keys
        if history.get(key) is not None and np.size(history[key]) > 0
    }
    if not curves:
        raise ValueError(f"history has no values under {', '.join(keys)}; it holds {sorted(history)}")
    lengths = {key: len(values) for key, values in curves.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"history has lists of lengths {lengths}, wanted one value per epoch in each")
    for key, values in curves.items():
        if key.endswith("accuracy") and ((values < 0) | (values > 1)).any():
            came = f"values from {np.nanmin(values):g} to {np.nanmax(values):g}"
            raise ValueError(f"history[{key!r}] has {came}, wanted fractions from 0 to 1")
    return curves


def _draw_curves(
    axes: Axes, kind: str, curves: Mapping[str, FloatArray], names: Mapping[str, str], best: int | None
) -> None:
    """Training and validation curve of `kind` ("loss" or "accuracy") with the best epoch marked."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    epochs = len(next(iter(curves.values())))
    for part, (colour, marker) in CURVES.items():
        values = curves.get(f"{part}_{kind}")
        if values is not None:
            style: dict[str, Any] = {"marker": marker if epochs <= 30 else "", "markersize": 3.5}
            axes.plot(range(1, epochs + 1), values, color=colour, linewidth=1.6, label=names[part], **style)
    if best is not None:
        axes.axvline(best, color=FAINT, linewidth=1, linestyle=":", label=f"best epoch ({best})")
    _tidy(axes, "y")
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", **LABEL)
    axes.set_ylabel(kind, **LABEL)
    if kind == "accuracy":
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.legend(frameon=False, fontsize=9)


def _check_mistakes(mistakes: Sequence[Mistake], names: list[str]) -> tuple[list[FloatArray], list[str]]:
    """The images of `mistakes` and their captions."""
    images: list[FloatArray] = []
    captions = []
    for k, mistake in enumerate(mistakes):
        name = f"mistakes[{k}]"
        if len(mistake) != 4:
            raise ValueError(f"{name} has {len(mistake)} parts, wanted image, true, predicted, probability")
        picture, true, predicted, probability = mistake
        images.append(_array(f"{name} image", picture, 2, "(H, W)"))
        if images[k].shape != images[0].shape:
            raise ValueError(
                f"{name} image has shape {images[k].shape}, wanted the first's {images[0].shape}"
            )
        for label in (true, predicted):
            if not _is_index(label, len(names)):
                raise ValueError(f"{name} has class {label!r}, wanted an int from 0 to {len(names) - 1}")
        if not (_is_finite(probability) and 0 <= probability <= 1):
            raise ValueError(f"{name} has probability {probability!r}, wanted a number from 0 to 1")
        captions.append(f"{names[true]} → {names[predicted]}, {100 * probability:.0f} %")
    return images, captions


def _draw_counts(axes: Axes, counts: FloatArray, names: list[str]) -> None:
    """The matrix with its counts: hits in blue, mistakes in orange, each on a scale of its own."""
    from matplotlib import colormaps

    n = len(counts)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    hit = np.eye(n, dtype=bool)
    # Mistakes are rare: on the scale of the hits all of them would look like 0.
    most = float(share[~hit].max(initial=0)) or 1.0
    blue, orange = colormaps["Blues"](0.1 + 0.75 * share), colormaps["Oranges"](0.1 + 0.55 * share / most)
    cells = np.where(hit[..., None], blue, orange)[..., :3]
    cells[counts == 0] = 1.0
    axes.imshow(cells, interpolation="nearest", aspect="auto")
    dark = cells @ [0.299, 0.587, 0.114] < 0.55  # perceived brightness
    for i, j in np.ndindex(n, n):
        colour = "white" if dark[i, j] else INK if counts[i, j] else FAINT
        axes.text(j, i, f"{counts[i, j]:.0f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(n), names)
    if max(map(len, names)) > 3:
        for text in axes.get_xticklabels():
            text.set(rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(n), names)
    axes.tick_params(length=0, labelsize=9, labelcolor=INK)
    axes.spines[:].set_color(FRAME)
    axes.set_xlabel("predicted class", **LABEL)
    axes.set_ylabel("true class", **LABEL)
    axes.set_title("Counts:\nright in blue, mistaken in orange", **LABEL)


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
            if not absent and not (_is_finite(value) and value > 0):
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
        label = f"{_short(speedup)}{TIMES}"
        place: dict[str, Any] = {"xytext": (5, 0), "textcoords": "offset points", "va": "center_baseline"}
        axes.annotate(label, (max(speedup, 1.0), y), **place, **SMALL)
    times = [_time(row["seconds"]) for row in rows]
    rates = ["" if row["gflops"] is None else _short(row["gflops"]) for row in rows]
    for offset, head, texts in ((56, "time", times), (112, "GFLOP/s", rates)):
        for y, text in zip([-1.1, *heights], [head if any(texts) else "", *texts], strict=True):
            place = {"xytext": (offset, 0), "textcoords": "offset points", "va": "center_baseline"}
            place |= {"xycoords": axes.get_yaxis_transform(), "ha": "right", "annotation_clip": False}
            axes.annotate(text, (1, y), **place, **SMALL)
    _tidy(axes, "x")
    decades = LogLocator(subs=(1.0, 2.0, 5.0) if span < 1.5 else (1.0,))
    axes.xaxis.set_major_locator(decades if span > 0.5 else MaxNLocator(5))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{_short(value)}{TIMES}"))
    axes.tick_params(axis="y", length=0)


def _short(value: float) -> str:
    """Three significant digits, never in e-notation."""
    if value >= 999.5:
        return f"{value:,.0f}"
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")


def _time(seconds: float) -> str:
    """Seconds in the largest unit that leaves a number of at least 1, or in nanoseconds."""
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("\N{MICRO SIGN}s", 1e-6)):
        if seconds >= 0.9995 * size:
            return f"{_short(seconds / size)} {unit}"
    return f"{_short(seconds / 1e-9)} ns"
