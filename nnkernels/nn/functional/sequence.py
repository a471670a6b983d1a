"""Sequences: table lookup, attention."""

from typing import Any

import numpy as np

from nnkernels.machine.arrays import full
from nnkernels.nn.functional.dropout import draw_mask
from nnkernels.nn.init import Rng
from nnkernels.ops import OPS
from nnkernels.ops.validate import number


def embedding(indices: Any, weight: Any, padding_idx: int | None = None) -> Any:
    """Return (..., D): for each index of ``indices`` (...), an int64 array, its row of weight (V, D).

    The row ``padding_idx`` gets no gradient.
    """
    return OPS["embedding"](indices, weight, padding_idx=padding_idx)


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
    scale: float | None = None, *, rng: Rng = None,
) -> Any:  # fmt: skip
    """Return softmax(scale query key^T + mask) value, (..., L, F).

    query (..., L, E), key (..., S, E), value (..., S, F); attn_mask broadcasts to (..., L, S) and is True
    where a key may be seen, or holds numbers to add; with is_causal, query i sees the keys 0 ... i. scale is
    1 / sqrt(E) unless given. Queries that see no key get 0. A part ``dropout_p`` of the weights, drawn by
    rng, is set to 0 and the others are divided by 1 - dropout_p: also outside of training.
    """
    if getattr(attn_mask, "requires_grad", False):
        raise ValueError("scaled_dot_product_attention: attn_mask has no gradient; detach it")
    number("scaled_dot_product_attention", "dropout_p", dropout_p, 0, np.nextafter(1, 2))
    keep = None
    if dropout_p > 0:
        mask = draw_mask((*query.shape[:-1], key.shape[-2]), dropout_p, rng, query)
        one = full(mask.shape, 1, query.dtype, mask)
        keep = OPS["dropout"](one, mask, p=dropout_p)
    return OPS["attention"](query, key, value, attn_mask, keep, is_causal=is_causal, scale=scale)
