"""Functions of two variables: a classifier's decision boundary, a loss with the paths of descents on it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnkernels.plot.style import COLOURS, INK, FloatArray, as_array, context, figure_of, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP"


def decision_boundary(
    predict: Callable[[FloatArray], npt.ArrayLike],
    x: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    axes: Axes | None = None,
    title: str = "",
    resolution: int = 160,
) -> Figure:
    """The plane in the colours of predicted classes, with the points `x` (N, 2) of classes `y` (N,) on it.

    `predict` maps points (n, 2), float64, to the probability of class 1, shape (n,) or (n, 1), or to one
    score per class, shape (n, K); colours pale towards the boundary where probabilities are given. Draws into
    `axes`, or into a figure of its own.
    """
    points, labels = as_array("x", x, 2, "(N, 2)"), as_array("y", y, 1, "(N,)").astype(int)
    if points.shape[1] != 2 or len(points) != len(labels):
        raise ValueError(f"x has shape {points.shape} and y {labels.shape}, wanted (N, 2) and (N,)")
    with context():
        axes = subplots(size=(5.2, 4.4))[1] if axes is None else axes
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.08 * (high - low) + 1e-9
        low, high = low - margin, high + margin
        across, down = (np.linspace(low[k], high[k], resolution) for k in (0, 1))
        grid = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
        scores = np.asarray(predict(grid), dtype=np.float64).reshape(len(grid), -1)
        classes = max(2, scores.shape[1])
        if labels.min() < 0 or labels.max() >= classes or classes > len(COLOURS):
            came = f"labels from {labels.min()} to {labels.max()} and predictions of {classes} classes"
            raise ValueError(
                f"y and predict give {came}, wanted labels below the classes, at most {len(COLOURS)}"
            )
        box = low[0], high[0], low[1], high[1]
        picture = _class_colours(scores).reshape(resolution, resolution, 3)
        axes.imshow(picture, origin="lower", extent=box, interpolation="bilinear", aspect="auto")
        if scores.shape[1] == 1:
            level = scores.reshape(resolution, resolution)
            if level.min() < 0.5 < level.max():
                axes.contour(across, down, level, levels=[0.5], colors=INK, linewidths=1.4)
        for k in range(classes):
            at = points[labels == k]
            style: dict[str, Any] = {"color": COLOURS[k], "edgecolor": "white", "linewidth": 0.5, "s": 20}
            axes.scatter(at[:, 0], at[:, 1], marker=MARKERS[k % len(MARKERS)], label=f"class {k}", **style)
        axes.set(xlim=box[:2], ylim=box[2:], xlabel="$x_1$", ylabel="$x_2$", title=title)
        axes.grid(False)
    return figure_of(axes)


def _class_colours(scores: FloatArray) -> FloatArray:
    """A pale colour per row of scores: the winner's, paler the nearer the two best are."""
    from matplotlib.colors import to_rgb

    colours = np.array([to_rgb(colour) for colour in COLOURS])
    if scores.shape[1] == 1:
        scores = np.concatenate([1 - scores, scores], axis=1)
    best = scores.argmax(axis=1)
    ordered = np.sort(scores, axis=1)
    certain = np.ones(len(scores))
    if scores.min() >= 0 and scores.max() <= 1:
        certain = np.clip(ordered[:, -1] - ordered[:, -2], 0, 1)
    share = (0.10 + 0.28 * certain)[:, None]
    mixed: FloatArray = share * colours[best] + (1 - share)
    return mixed


def loss_surface(
    loss: Callable[[FloatArray, FloatArray], npt.ArrayLike],
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    *,
    paths: Mapping[str, npt.ArrayLike] | None = None,
    axes: Axes | None = None,
    title: str = "",
    names: tuple[str, str] = ("$w_1$", "$w_2$"),
    resolution: int = 120,
) -> Figure:
    """Contours of `loss`, dark where it is low, with `paths` of descents on it.

    `loss` maps two arrays of shape (resolution, resolution) to losses of the same shape; `paths` holds arrays
    (steps, 2) under the names that the legend shows. Levels lie close together near the lowest value.
    """
    for name, limits in (("x_range", x_range), ("y_range", y_range)):
        low, high = as_array(name, limits, 1, "(low, high)")
        if not low < high:
            raise ValueError(f"{name} is {limits!r}, wanted a low number and a higher one")
    with context():
        axes = subplots(size=(5.2, 4.4))[1] if axes is None else axes
        across, down = np.meshgrid(np.linspace(*x_range, resolution), np.linspace(*y_range, resolution))
        height = as_array("loss(x, y)", loss(across, down), 2, "(resolution, resolution)")
        low, span = height.min(), float(np.ptp(height)) or 1.0
        levels = low + span * np.linspace(0, 1, 16) ** 2.5
        axes.contourf(across, down, height, levels=levels, cmap="Blues_r", alpha=0.65)
        axes.contour(across, down, height, levels=levels, colors="white", linewidths=0.5)
        for k, (name, path) in enumerate((paths or {}).items()):
            steps = as_array(f"paths[{name!r}]", path, 2, "(steps, 2)")
            style: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "markersize": 3, "linewidth": 1.4}
            colour = COLOURS[1:][k % (len(COLOURS) - 1)]
            axes.plot(steps[:, 0], steps[:, 1], color=colour, label=name, **style)
        axes.set(xlim=x_range, ylim=y_range, xlabel=names[0], ylabel=names[1], title=title)
        axes.grid(False)
        if paths:
            axes.legend(loc="best", frameon=True, framealpha=0.9, edgecolor="none")
    return figure_of(axes)
