"""Learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nnkernels.plot.style import CURVES, FAINT, LABEL, FloatArray, as_array, is_index, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    if best is not None and not (is_index(best, epochs + 1) and best >= 1):
        raise ValueError(f"history['best_epoch'] is {best!r}, wanted an int from 1 to {epochs}")
    panels = [kind for kind in ("loss", "accuracy") if any(key.endswith(kind) for key in curves)]
    figure = new_figure(3.7 * len(panels), 3.2)
    for place, kind in enumerate(panels, start=1):
        names = {"train": "training", "val": validation_name}
        _draw_curves(figure.add_subplot(1, len(panels), place), kind, curves, names, best)
    return figure


def _history_curves(history: Mapping[str, Any]) -> dict[str, FloatArray]:
    """The curves of `history` that have values, all of one length."""
    keys = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")
    curves = {
        key: as_array(f"history[{key!r}]", history[key], 1, "one number per epoch", finite=False)
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
    tidy(axes, "y")
    axes.set_xlim(0.5, epochs + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch", **LABEL)
    axes.set_ylabel(kind, **LABEL)
    if kind == "accuracy":
        axes.set_ylim(top=min(axes.get_ylim()[1], 1.005))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g} %"))
    axes.legend(frameon=False, fontsize=9)
