"""What the bodies of attention share: heads in one row, the mask as numbers to add."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import DTypeLike

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


def added(mask: Array | None, lead: tuple[int, ...], L: int, S: int, dtype: DTypeLike) -> tuple[Array, Array]:
    """Return the matrices (m, 1 or L, S) to add to scores, -inf where a mask is False; whose is whose."""
    if mask is None:
        return np.zeros((1, 1, S), dtype), np.zeros(math.prod(lead), np.int64)
    outer, rows = mask.shape[:-2], mask.shape[-2] if mask.ndim > 1 else 1
    values = np.where(mask, 0, -np.inf) if mask.dtype.kind == "b" else mask
    values = np.broadcast_to(values, (*outer, rows, S)).astype(dtype).reshape(math.prod(outer), rows, S)
    of = np.broadcast_to(np.arange(len(values)).reshape(outer), lead)
    return np.ascontiguousarray(values), np.ascontiguousarray(of.reshape(-1), np.int64)
