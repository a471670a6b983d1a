"""The picture of a learning-rate search: the loss over the rate, on a logarithmic axis."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nnkernels.plot.style import CURVES, FAINT, LABEL, as_array, is_finite, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def rate_search(
    rates: npt.ArrayLike,
    losses: npt.ArrayLike,
    smoothed: npt.ArrayLike,
    suggestion: float | None = None,
    title: str = "Learning-rate search",
) -> Figure:
    """What `optim.lr_finder` has seen: `rate_search(*lr_finder(...))`.

    `losses` of single batches are points, `smoothed` a line, `suggestion` (if any) a vertical line. What lies
    far above the first loss, where training diverged, is left out.
    """
    x = as_array("rates", rates, 1, "(n,)")
    points, line = as_array("losses", losses, 1, "(n,)"), as_array("smoothed", smoothed, 1, "(n,)")
    if not len(x) == len(points) == len(line):
        came = f"lengths {len(x)}, {len(points)} and {len(line)}"
        raise ValueError(f"rates, losses and smoothed have {came}, wanted equal ones")
    if (x <= 0).any():
        raise ValueError(f"rates has values down to {x.min():g}, wanted positive ones")
    if suggestion is not None and not (is_finite(suggestion) and suggestion > 0):
        raise ValueError(f"suggestion is {suggestion!r}, wanted a positive number or None")
    figure = new_figure(5.6, 3.6, title)
    axes = figure.add_subplot()
    axes.plot(x, points, ".", color=FAINT, markersize=3.5, label="one batch")
    axes.plot(x, line, color=CURVES["train"][0], linewidth=1.6, label="smoothed")
    if suggestion is not None:
        style: dict[str, Any] = {"color": CURVES["val"][0], "linewidth": 1.2, "linestyle": "--"}
        axes.axvline(suggestion, label=f"steepest: {suggestion:.2g}", **style)
    axes.set_xscale("log")
    span = float(np.ptp(line[: 1 + int(line.argmin())])) or 1.0
    low, top = float(min(line.min(), points.min())), float(line[0] + span)
    axes.set_ylim(low - 0.08 * (top - low), top)
    tidy(axes, "y")
    axes.set_xlabel("learning rate", **LABEL)
    axes.set_ylabel("training loss", **LABEL)
    axes.legend(frameon=False, fontsize=9)
    return figure
