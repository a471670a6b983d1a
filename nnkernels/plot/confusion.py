"""Confusion matrices, with the worst mistakes beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnkernels.plot.style import (
    FAINT,
    FRAME,
    INK,
    LABEL,
    FloatArray,
    as_array,
    is_finite,
    is_index,
    new_figure,
)
from nnkernels.plot.tiles import Grid

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    Mistake = tuple[npt.ArrayLike, int, int, float]


def confusion_matrix(
    matrix: npt.ArrayLike, class_names: Sequence[str], mistakes: Sequence[Mistake] | None = None
) -> Figure:
    """Confusion `matrix` (n, n) of counts, rows the true class, columns the predicted one.

    `class_names` holds n names. `mistakes`, drawn beside the matrix in the order given, holds tuples
    (image (H, W), true class, predicted class, probability of the predicted class), classes as
    indices below n, images of one shape. None or an empty list leaves the panel out.
    """
    counts = as_array("matrix", matrix, 2, "(n, n)")
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
        grid = Grid(len(images), -(-len(images) // down), ratio, 0.95, captioned=True, pitch=pitch)
        widths.append(max(grid.inches[0], 2.0) + 0.3)
    title = f"{right:.0f} of {total:.0f} right ({100 * right / total:.1f} %)"
    figure = new_figure(sum(widths), side + 1.5, title)
    panels = figure.subplots(1, len(widths), width_ratios=widths, squeeze=False)[0]
    _draw_counts(panels[0], counts, names)
    if images:
        grid.draw(panels[1], np.stack(images), captions, cmap="gray_r")
        panels[1].set_anchor("N")
        panels[1].set_title("Worst mistakes:\ntrue → predicted, probability", **LABEL)
    return figure


def _check_mistakes(mistakes: Sequence[Mistake], names: list[str]) -> tuple[list[FloatArray], list[str]]:
    """The images of `mistakes` and their captions."""
    images: list[FloatArray] = []
    captions = []
    for k, mistake in enumerate(mistakes):
        name = f"mistakes[{k}]"
        if len(mistake) != 4:
            raise ValueError(f"{name} has {len(mistake)} parts, wanted image, true, predicted, probability")
        picture, true, predicted, probability = mistake
        images.append(as_array(f"{name} image", picture, 2, "(H, W)"))
        if images[k].shape != images[0].shape:
            raise ValueError(
                f"{name} image has shape {images[k].shape}, wanted the first's {images[0].shape}"
            )
        for label in (true, predicted):
            if not is_index(label, len(names)):
                raise ValueError(f"{name} has class {label!r}, wanted an int from 0 to {len(names) - 1}")
        if not (is_finite(probability) and 0 <= probability <= 1):
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
    axes.grid(False)
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
