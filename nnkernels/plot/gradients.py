"""How large gradients are, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from nnkernels.plot.style import as_array, context, figure_of, subplots

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def gradient_histograms(
    gradients: Mapping[str, npt.ArrayLike], *, axes: Axes | None = None, title: str = "", bins: int = 60
) -> Figure:
    """How often the back-propagated `gradients` have which size: one curve per layer, in the order given.

    `gradients` holds an array of any shape under each layer's name. The axis is log10 of the size, since
    layers may lie orders apart; exact zeros, as of ReLUs that are off, are left out. Each curve is a density.
    """
    if not gradients:
        raise ValueError("gradients is empty, wanted one array per layer")
    sizes = {}
    for name, values in gradients.items():
        flat = np.abs(as_array(f"gradients[{name!r}]", np.ravel(values), 1, "an array of numbers"))
        sizes[name] = np.log10(flat[flat > 0])
    seen = [size for size in sizes.values() if len(size)]
    if not seen:
        raise ValueError("gradients are all 0, wanted some that are not")
    # A thousandth at the small end would stretch the axis by orders of magnitude.
    low = min(float(np.quantile(size, 0.005)) for size in seen)
    high = max(float(size.max()) for size in seen)
    edges = np.linspace(low - 0.1, high + 0.1, bins + 1)
    with context():
        from matplotlib import colormaps

        axes = subplots(size=(5.2, 3.6))[1] if axes is None else axes
        shades = colormaps["viridis"](np.linspace(0, 0.88, len(sizes)))
        for shade, (name, size) in zip(shades, sizes.items(), strict=True):
            if len(size):
                density, _ = np.histogram(size, edges, density=True)
                axes.plot((edges[1:] + edges[:-1]) / 2, density, color=shade, linewidth=1.5, label=name)
        axes.set(xlabel="log10 of the gradient's size", ylabel="density", title=title)
        axes.legend()
    return figure_of(axes)
