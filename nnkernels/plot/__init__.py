"""Pictures: learning curves, filters, feature maps, confusion matrices, boundaries, losses, gradients, speed.

Every function takes arrays and plain dicts and returns a `matplotlib.figure.Figure`; `save` writes it as
PNG, and what `animate` makes as GIF. Bad input raises ValueError naming the argument, what came and what was
wanted. Matplotlib is imported inside the functions, so that importing this module stays cheap, and only
through its object interface, so that neither a backend nor pyplot's global state is touched. `style` is what
all of them look like.
"""

from nnkernels.plot import style
from nnkernels.plot.bars import compare_bars
from nnkernels.plot.confusion import confusion_matrix
from nnkernels.plot.curves import learning_curves
from nnkernels.plot.files import Animation, animate, save
from nnkernels.plot.gradients import gradient_histograms
from nnkernels.plot.layers import layer_times
from nnkernels.plot.overlays import heat_maps, receptive_field
from nnkernels.plot.rates import rate_search
from nnkernels.plot.style import BODY_COLOURS, COLOURS, subplots
from nnkernels.plot.surfaces import decision_boundary, loss_surface
from nnkernels.plot.tiles import feature_maps, filters

__all__ = [
    "BODY_COLOURS",
    "COLOURS",
    "Animation",
    "animate",
    "compare_bars",
    "confusion_matrix",
    "decision_boundary",
    "feature_maps",
    "filters",
    "gradient_histograms",
    "heat_maps",
    "layer_times",
    "learning_curves",
    "loss_surface",
    "rate_search",
    "receptive_field",
    "save",
    "style",
    "subplots",
]
