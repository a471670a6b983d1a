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
    points, given = as_array("x", x, 2, "(N, 2)"), as_array("y", y, 1, "(N,)")
    if points.shape[1] != 2 or len(points) != len(given):
        raise ValueError(f"x has shape {points.shape} and y {given.shape}, wanted (N, 2) and (N,)")
    labels = given.astype(int)
    if (labels != given).any():
        raise ValueError(f"y holds {given[labels != given][0]:g}, wanted whole numbers, the classes")
    _check_resolution(resolution)
    with context():
        axes = subplots(size=(5.2, 4.4))[1] if axes is None else axes
        low, high = points.min(axis=0), points.max(axis=0)
        margin = 0.08 * (high - low) + 1e-9
        low, high = low - margin, high + margin
        across, down = (np.linspace(low[k], high[k], resolution) for k in (0, 1))
        grid = np.stack(np.meshgrid(across, down), axis=-1).reshape(-1, 2)
        scores = _checked_scores(predict(grid), len(grid))
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


def _check_resolution(resolution: int) -> None:
    if not isinstance(resolution, int) or resolution < 2:
        raise ValueError(f"resolution is {resolution!r}, wanted an int of at least 2")


def _checked_scores(predicted: npt.ArrayLike, count: int) -> FloatArray:
    """What `predict` returned for `count` points, as (count, K); K = 1 for probabilities of class 1."""
    wanted = f"({count},), ({count}, 1) or ({count}, K) for {count} points"
    array = np.asarray(predicted)
    scores = as_array("predict(points)", array[:, None] if array.ndim == 1 else array, 2, wanted)
    if len(scores) != count:
        raise ValueError(f"predict(points) has shape {array.shape}, wanted {wanted}")
    if scores.shape[1] > 1:
        return scores
    low, high = scores.min(), scores.max()
    if not -1e-6 <= low <= high <= 1 + 1e-6:
        came = f"values from {low:g} to {high:g}"
        raise ValueError(
            f"predict(points) has {came}, wanted probabilities from 0 to 1, or a column per class"
        )
    return np.clip(scores, 0, 1)


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
        ends = as_array(name, limits, 1, "(low, high)")
        if len(ends) != 2 or not ends[0] < ends[1]:
            raise ValueError(f"{name} is {limits!r}, wanted a low number and a higher one")
    _check_resolution(resolution)
    walks = {
        name: as_array(f"paths[{name!r}]", path, 2, "(steps, 2)") for name, path in (paths or {}).items()
    }
    for name, steps in walks.items():
        if steps.shape[1] != 2:
            raise ValueError(f"paths[{name!r}] has shape {steps.shape}, wanted (steps, 2)")
    across, down = np.meshgrid(np.linspace(*x_range, resolution), np.linspace(*y_range, resolution))
    height = as_array("loss(x, y)", loss(across, down), 2, f"{across.shape}, as x and y")
    if height.shape != across.shape:
        raise ValueError(f"loss(x, y) has shape {height.shape}, wanted {across.shape}, as x and y")
    with context():
        axes = subplots(size=(5.2, 4.4))[1] if axes is None else axes
        low, span = height.min(), float(np.ptp(height)) or 1.0
        levels = low + span * np.linspace(0, 1, 16) ** 2.5
        levels[-1] = max(levels[-1], height.max())  # which rounding may have missed
        axes.contourf(across, down, height, levels=levels, cmap="Blues_r", alpha=0.65)
        axes.contour(across, down, height, levels=levels, colors="white", linewidths=0.5)
        for k, (name, steps) in enumerate(walks.items()):
            style: dict[str, Any] = {"marker": MARKERS[k % len(MARKERS)], "markersize": 3, "linewidth": 1.4}
            colour = COLOURS[1:][k % (len(COLOURS) - 1)]
            axes.plot(steps[:, 0], steps[:, 1], color=colour, label=name, **style)
        axes.set(xlim=x_range, ylim=y_range, xlabel=names[0], ylabel=names[1], title=title)
        axes.grid(False)
        if paths:
            axes.legend(loc="best", frameon=True, framealpha=0.9, edgecolor="none")
    return figure_of(axes)
