"""Pictures of many small arrays side by side: filters and feature maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnkernels.plot.style import FRAME, INK, LABEL, SMALL, TIMES, as_array, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def filters(weights: npt.ArrayLike, title: str = "Filters") -> Figure:
    """Convolution filters `weights` (K, C, R, S) on one colour scale that is symmetric about 0.

    C = 1: a grid of K tiles. C = 3: a grid of K tiles in RGB, where mid-grey is 0.
    Other C: one row per filter, one column per input channel.
    """
    w = as_array("weights", weights, 4, "(K, C, R, S)")
    count, channels, rows, columns = w.shape
    limit = float(np.abs(w).max()) or 1.0
    if channels in (1, 3):
        grid = Grid(count, _grid_columns(count), rows / columns, tile=0.95, captioned=True)
    else:
        tile = min(max(7 / max(count, channels), 0.2), 0.95)
        grid = Grid(count * channels, channels, rows / columns, tile, captioned=False)
    across, down = grid.inches
    figure = new_figure(max(across + 1.3, 3.3), down + 1.0, title)
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


def feature_maps(image: npt.ArrayLike, maps: npt.ArrayLike, title: str = "Activation maps") -> Figure:
    """One `image` (H, W) beside its `maps` (K, P, Q), which share one colour scale.

    The scale starts at 0 where no activation is negative and is symmetric about 0 otherwise.
    """
    picture = as_array("image", image, 2, "(H, W)")
    activations = as_array("maps", maps, 3, "(K, P, Q)")
    (height, width), (count, rows, columns) = picture.shape, activations.shape
    limit = float(np.abs(activations).max()) or 1.0
    colours = ("RdBu_r", -limit) if (activations < 0).any() else ("viridis", 0.0)
    whole = Grid(1, 1, height / width, tile=2.0, captioned=False)
    grid = Grid(count, _grid_columns(count), rows / columns, tile=0.95, captioned=True)
    widths = [whole.inches[0], grid.inches[0] + 0.9]
    figure = new_figure(sum(widths) + 0.5, max(whole.inches[1], grid.inches[1]) + 1.0, title)
    left, right = figure.subplots(1, 2, width_ratios=widths)
    whole.draw(left, picture[None], cmap="gray_r")
    left.set_title(f"input, {height} {TIMES} {width}", **LABEL)
    drawn = grid.draw(right, activations, cmap=colours[0], vmin=colours[1], vmax=limit)
    right.set_title(f"{count} channel{'s' * (count > 1)}, {rows} {TIMES} {columns}", **LABEL)
    grid.colour_bar(right, drawn, "activation")
    return figure


@dataclass(frozen=True)
class Grid:
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
        """How many rows of tiles there are."""
        return -(-self.count // self.across)

    @property
    def above(self) -> float:
        """The room above a tile, in tile widths."""
        return 0.2 if self.captioned else 0.0

    @property
    def row_pitch(self) -> float:
        """From one row of tiles to the next, in tile widths."""
        return self.above + self.ratio + 0.1

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height of all tiles."""
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
        axes.grid(False)
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
