"""Sequences: table lookup."""

from typing import Any

from nnkernels.ops import OPS


def embedding(indices: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Return (..., D): for each index of ``indices`` (...), an int64 array, its row of weight (V, D).

    The row ``padding_idx`` gets no gradient.
    """
    return OPS["embedding"](indices, weight, padding_idx=padding_idx)
