"""Pictures drawn over an image: which pixels matter, and which ones a unit can see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnkernels.plot.style import COLOURS, FRAME, LABEL, TIMES, FloatArray, as_array, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.4  # inches
STRONG = 99.0  # percent of a map's pixels that keep their shade; the others have the last one
FADED = 0.4  # of an image's contrast under a map, or outside a field
LUMINANCE = 0.299, 0.587, 0.114


def heat_maps(
    images: npt.ArrayLike,
    maps: Mapping[str, npt.ArrayLike],
    title: str = "",
    rows: Sequence[str] = (),
) -> Figure:
    """One row for each of `images` (N, C, H, W), C = 1 or 3: the image, and each of `maps` (N, H, W) over it.

    Red is positive, blue negative, no colour 0. Every map has a scale of its own, which ends at the magnitude
    that a hundredth of its pixels other than 0 exceed: what is compared is where maps are strong, not how
    strong. `rows` are names of the images.
    """
    shown = as_array("images", images, 4, "(N, C, H, W)")
    layers = {name: as_array(f"maps[{name!r}]", values, 3, "(N, H, W)") for name, values in maps.items()}
    wanted = (len(shown), *shown.shape[2:])
    for name, values in layers.items():
        if values.shape != wanted:
            raise ValueError(f"maps[{name!r}] has shape {values.shape}, wanted {wanted}, that of images")
    if not layers:
        raise ValueError("maps is empty, wanted at least one map")
    if rows and len(rows) != len(shown):
        raise ValueError(f"rows has {len(rows)} names, wanted {len(shown)}, one per image")
    figure, axes = _panels(len(shown), 1 + len(layers), shown.shape[2] / shown.shape[3], title, below=0.8)
    for n, panels in enumerate(axes):
        picture = _as_picture(shown[n])
        panels[0].imshow(picture)
        for panel, values in zip(panels[1:], layers.values()):
            value = values[n]
            sizes = np.abs(value[value != 0])
            strength = np.clip(value / (np.percentile(sizes, STRONG) if sizes.size else 1.0), -1, 1)
            panel.imshow(_faded(_grey(picture)))
            drawn = panel.imshow(strength, cmap="RdBu_r", vmin=-1, vmax=1, alpha=np.abs(strength) ** 0.5)
    for panel, name in zip(axes[0], ("image", *layers)):
        panel.set_title(name, **LABEL)
    for panel, name in zip(axes[:, 0], rows):
        panel.set_ylabel(name, **LABEL)
    bar = figure.colorbar(
        drawn, ax=axes, location="bottom", ticks=[-1, 0, 1], fraction=0.05, aspect=30, shrink=0.5
    )
    bar.set_label("each map on its own scale", **LABEL)
    bar.ax.tick_params(labelsize=9)
    return figure


def receptive_field(image: npt.ArrayLike, fields: Mapping[str, npt.ArrayLike], title: str = "") -> Figure:
    """One `image` (C, H, W), C = 1 or 3, for each of `fields`: masks (H, W) of the pixels that a unit sees.

    What it does not see is faded, and a frame is drawn around what it sees.
    """
    from matplotlib.patches import Rectangle

    picture = _as_picture(as_array("image", image, 3, "(C, H, W)"))
    masks = {name: as_array(f"fields[{name!r}]", values, 2, "(H, W)") for name, values in fields.items()}
    for name, mask in masks.items():
        if mask.shape != picture.shape[:2]:
            raise ValueError(f"fields[{name!r}] has shape {mask.shape}, wanted {picture.shape[:2]}")
    if not masks:
        raise ValueError("fields is empty, wanted at least one mask")
    columns = min(len(masks), 4)
    rows = -(-len(masks) // columns)
    figure, axes = _panels(rows, columns, picture.shape[0] / picture.shape[1], title)
    for panel in axes.flat[len(masks) :]:
        panel.set_visible(False)
    for panel, (name, mask) in zip(axes.flat, masks.items()):
        panel.imshow(np.where(mask[..., None] > 0, picture, _faded(picture)))
        seen_rows, seen_columns = (np.flatnonzero((mask > 0).any(axis=axis)) for axis in (1, 0))
        height, width = (int(np.ptp(seen)) + 1 if len(seen) else 0 for seen in (seen_rows, seen_columns))
        if height:
            corner = seen_columns[0] - 0.5, seen_rows[0] - 0.5
            frame = Rectangle(corner, width, height, facecolor="none", edgecolor=COLOURS[1], linewidth=1.8)
            panel.add_patch(frame)
        panel.set_title(f"{name}\n{height} {TIMES} {width} pixels", **LABEL)
    return figure


def _panels(
    rows: int, columns: int, ratio: float, title: str, below: float = 0.0
) -> tuple[Figure, npt.NDArray[Any]]:
    """A figure of panels `ratio` times as high as wide, without ticks, and its axes (rows, columns).

    `below` is the room left under the panels, in inches.
    """
    side = min(WIDTH / columns, 2.4)
    figure = new_figure(side * columns, rows * (side - 0.2) * ratio + 0.1 * rows + 0.6 + below, title)
    axes: npt.NDArray[Any] = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        _bare(panel)
    return figure, axes


def _bare(axes: Axes) -> None:
    """Leave a thin frame, no ticks and no grid."""
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set(visible=True, color=FRAME)


def _as_picture(image: FloatArray) -> FloatArray:
    """An image (C, H, W) as (H, W, 3) in [0, 1]: one channel as ink on paper, three as red, green, blue."""
    if len(image) not in (1, 3):
        raise ValueError(f"images have {len(image)} channels, wanted 1 or 3")
    low, high = float(image.min()), float(image.max())
    if low < 0 or high > 1:
        image = (image - low) / ((high - low) or 1.0)
    picture: FloatArray = np.repeat(1 - image, 3, axis=0) if len(image) == 1 else image
    return picture.transpose(1, 2, 0)


def _grey(picture: FloatArray) -> FloatArray:
    """A picture (H, W, 3) without its colours."""
    grey: FloatArray = np.repeat((picture @ np.array(LUMINANCE))[..., None], 3, axis=2)
    return grey


def _faded(picture: FloatArray) -> FloatArray:
    """A picture nearer to white."""
    return 1 - FADED * (1 - picture)
