"""Dropout as layers: active in training, the identity in evaluation."""

from typing import Any

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.module import Module
from nnkernels.ops.dropout import check_probability


class Dropout(Module):
    """Elements set to 0 with probability p, the others times 1 / (1 - p).

    Masks are drawn from the layer's own Generator, made of ``rng`` (a Generator is taken as it is, and may be
    shared): two layers made with one seed draw the same masks.
    """

    def __init__(self, p: float = 0.5, *, rng: init.Rng = None) -> None:
        super().__init__()
        check_probability(type(self).__name__, p)
        self.p = p
        self.rng = np.random.default_rng(rng)

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape; in evaluation x itself."""
        return F.dropout(x, self.p, self.training, self.rng)

    def extra_repr(self) -> str:
        """Return the probability."""
        return f"p={self.p}"


class Dropout1d(Dropout):
    """Whole channels of x (N, C, L) or (C, L) set to 0 with probability p."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape; in evaluation x itself."""
        return F.dropout1d(x, self.p, self.training, self.rng)


class Dropout2d(Dropout):
    """Whole channels of x (N, C, H, W) set to 0 with probability p."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape; in evaluation x itself."""
        return F.dropout2d(x, self.p, self.training, self.rng)
