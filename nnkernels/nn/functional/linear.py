"""Products with weights."""

from typing import Any

from nnkernels.ops import OPS


def linear(x: Any, weight: Any, bias: Any = None, *, activation: str | None = None) -> Any:
    """Return x (..., I) times weight (O, I) transposed, plus bias (O); max(., 0) of it for "relu"."""
    return OPS["linear"](x, weight, bias, activation=activation)
