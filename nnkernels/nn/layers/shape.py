"""Layers that move elements."""

from typing import Any

from nnkernels.nn import functional as F
from nnkernels.nn.module import Module


class Flatten(Module):
    """All axes from ``start_dim`` on merged into one: (N, C, H, W) to (N, C H W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        """Return a view with fewer axes."""
        return F.flatten(x, self.start_dim, self.end_dim)
