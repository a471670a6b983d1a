"""Functions that move elements."""

from typing import Any

from nnkernels.ops import OPS


def flatten(x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    """Return x with the axes from ``start_dim`` to ``end_dim`` merged."""
    return OPS["flatten"](x, start_dim=start_dim, end_dim=end_dim)


def pad(x: Any, padding: tuple[int, ...], value: float = 0.0) -> Any:
    """Return x with a border of ``value``; ``padding`` lists (before, after) pairs, last axis first."""
    return OPS["pad"](x, padding=padding, value=value)
