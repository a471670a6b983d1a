"""The house style: colours, sizes, empty figures, and the checks that all pictures share.

`use()` makes it matplotlib's default for the rest of the program, `context()` inside a ``with`` block:

>>> from nnkernels import plot
>>> with plot.style.context():
...     figure, axes = plot.subplots(1, 2, title="Two panels")
"""

from __future__ import annotations

import math
import textwrap
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray: TypeAlias = npt.NDArray[np.float64]

# Okabe and Ito's palette: its colours stay apart with every common kind of colour blindness.
BODY_COLOURS = {
    "python": "#999999",
    "loops": "#E69F00",
    "vectorized": "#56B4E9",
    "tuned": "#0072B2",
    "cuda": "#009E73",
}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
CURVES = {"train": ("#0072B2", "o"), "val": ("#D55E00", "s")}
INK, FAINT, FRAME, GRID_LINE = "#222222", "#767676", "#B0B0B0", "#E5E5E5"
SMALL: dict[str, Any] = {"fontsize": 8, "color": INK}
LABEL: dict[str, Any] = {"fontsize": 9, "color": INK}
TIMES = "\N{MULTIPLICATION SIGN}"

SETTINGS: dict[str, Any] = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.titlesize": 12,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.color": FRAME,
    "ytick.color": FRAME,
    "axes.edgecolor": FRAME,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": GRID_LINE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "lines.markersize": 4.5,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}
"""matplotlib's rcParams in this style; `use` and `context` add the colour cycle COLOURS."""
PANEL = 3.6, 3.1  # inches
WIDEST = 7.4  # inches; text of 9 points is still read when 7.4 inches are shown 600 pixels wide


def settings() -> Any:
    """Return the style as rcParams."""
    from cycler import cycler

    return SETTINGS | {"axes.prop_cycle": cycler(color=COLOURS)}


def use() -> None:
    """Draw everything from here on in this style."""
    import matplotlib

    matplotlib.rcParams.update(settings())


def context() -> AbstractContextManager[None]:
    """Draw in this style inside the ``with`` block."""
    import matplotlib

    context: AbstractContextManager[None] = matplotlib.rc_context(settings())
    return context


def subplots(
    rows: int = 1,
    columns: int = 1,
    *,
    size: tuple[float, float] | None = None,
    title: str = "",
    **options: Any,
) -> tuple[Figure, Any]:
    """A figure and its axes, as `matplotlib.pyplot.subplots` gives them, without pyplot's window.

    `size` is width and height in inches (None: 5.2 x 3.1 for one panel; several are 3.6 wide each, at most
    7.4 together). `options` go to `Figure.subplots`. The axes are one Axes for one panel, else an array.
    """
    if size is None:
        size = min(PANEL[0] * columns if columns > 1 else 5.2, WIDEST), PANEL[1] * rows + 0.3 * bool(title)
    figure = new_figure(*size, title)
    return figure, figure.subplots(rows, columns, **options)


def figure_of(axes: Axes) -> Figure:
    """Return the figure that `axes` stand in."""
    from matplotlib.figure import Figure

    figure = axes.figure
    while not isinstance(figure, Figure):
        figure = figure.figure
    return figure


def new_figure(width: float, height: float, title: str = "") -> Figure:
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


def tidy(axes: Axes, grid: Literal["x", "y"]) -> None:
    """Leave two thin axes and grid lines across one of them."""
    axes.grid(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FRAME)
    axes.tick_params(labelsize=9, labelcolor=INK, color=FRAME)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color=GRID_LINE, linewidth=0.8)


def as_array(name: str, values: object, ndim: int, wanted: str, finite: bool = True) -> FloatArray:
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


def is_index(value: object, end: int) -> bool:
    """Whether `value` is an int from 0 to `end` - 1."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool) and 0 <= int(value) < end


def is_finite(value: object) -> bool:
    """Whether `value` is a number, neither NaN nor infinite."""
    return isinstance(value, int | float | np.integer | np.floating) and math.isfinite(value)
