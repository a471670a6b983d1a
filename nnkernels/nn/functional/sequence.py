"""Sequences: table lookup."""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.nn.init import Rng
from nnkernels.ops import OPS


def embedding(indices: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Return (..., D): for each index of ``indices`` (...), an int64 array, its row of weight (V, D).

    The row ``padding_idx`` gets no gradient.
    """
    return OPS["embedding"](indices, weight, padding_idx=padding_idx)


def dropped(x: Any, p: float, rng: Rng = None) -> Any:
    """Return x with a part p of its elements, drawn by rng, set to 0, and the others divided by 1 - p."""
    return x if p == 0 else x * kept_by_chance(x.shape, p, rng, x.dtype)


def kept_by_chance(shape: tuple[int, ...], p: float, rng: Rng, dtype: Any) -> Array:
    """Return 0 with probability p and 1 / (1 - p) otherwise, for each element."""
    kept = np.random.default_rng(rng).random(shape) >= p
    return np.asarray(kept / (1 - p) if p < 1 else np.zeros(shape), dtype)
