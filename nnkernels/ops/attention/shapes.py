"""What the bodies of attention share: heads in one row, the mask as numbers to add."""

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from nnkernels.machine.memory import Array

Inputs = tuple[Array, Array, Array, Array | None, Array | None]
Outputs = tuple[Array, Array]
Needs = tuple[bool, ...]
Grads = tuple[Array | None, ...]


class Call(NamedTuple):
    """One call, with all leading axes as one, N.

    To the scores of head n, the matrix ``of[n]`` of ``bias`` (m, 1 or L, S) is added. ``keep`` is (N, L, S),
    or empty.
    """

    q: Array
    k: Array
    v: Array
    bias: Array
    of: Array
    keep: Array
    causal: bool
    scale: float


def call_of(
    q: Array, k: Array, v: Array, mask: Array | None = None, keep: Array | None = None, *,
    is_causal: bool = False, scale: float | None = None,
) -> Call:  # fmt: skip
    """Return the op's inputs and attributes as kernels want them."""
    lead, (L, E), S = q.shape[:-2], q.shape[-2:], k.shape[-2]
    N = math.prod(lead)
    bias, of = added(mask, lead, L, S, q.dtype)
    kept = np.empty((0, 0, 0), q.dtype) if keep is None else keep.reshape(N, L, S)
    heads = (q.reshape(N, L, E), k.reshape(N, S, E), v.reshape(N, S, v.shape[-1]))
    return Call(*heads, bias, of, kept, is_causal, 1 / math.sqrt(E) if scale is None else float(scale))


def added(mask: Array | None, lead: tuple[int, ...], L: int, S: int, dtype: Any) -> tuple[Array, Array]:
    """Return the matrices (m, 1 or L, S) to add to scores, -inf where a mask is False; whose is whose."""
    if mask is None:
        return np.zeros((1, 1, S), dtype), owners((), lead)
    outer, rows = mask.shape[:-2], mask.shape[-2] if mask.ndim > 1 else 1
    values = np.where(mask, dtype.type(0), dtype.type(-np.inf)) if mask.dtype.kind == "b" else mask
    values = np.broadcast_to(values, (*outer, rows, S)).reshape(math.prod(outer), rows, S)
    return np.ascontiguousarray(values), owners(outer, lead)


@lru_cache(maxsize=256)
def owners(outer: tuple[int, ...], lead: tuple[int, ...]) -> Array:
    """Return for each head the number of its matrix, where ``outer`` broadcasts to ``lead``."""
    numbers = np.broadcast_to(np.arange(math.prod(outer)).reshape(outer), lead)
    return np.ascontiguousarray(numbers.reshape(-1), np.int64)
