"""Attention as a layer."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import move, side
from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers.common import positive
from nnkernels.nn.layers.linear import Linear
from nnkernels.nn.module import Module, Parameter
from nnkernels.ops import OPS
from nnkernels.ops.validate import number

NAME = "MultiheadAttention"


class MultiheadAttention(Module):
    """Attention of ``num_heads`` heads side by side, each on its own embed_dim / num_heads features.

    Query, key and value are mapped by in_proj_weight (3 embed_dim, embed_dim) and in_proj_bias, cut into
    heads, and what the heads return is mapped by out_proj. ``dropout`` sets that part of the attention
    weights to zero while training.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, dropout: float = 0.0, bias: bool = True,
        batch_first: bool = False, *, rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.embed_dim = positive(NAME, "embed_dim", embed_dim)
        self.num_heads = positive(NAME, "num_heads", num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"{NAME}: num_heads must divide embed_dim {embed_dim}, got {num_heads}")
        number(NAME, "dropout", dropout, 0, np.nextafter(1, 2))
        self.dropout, self.batch_first = float(dropout), bool(batch_first)
        self.rng = np.random.default_rng(rng)
        self.in_proj_weight = Parameter(np.empty((3 * embed_dim, embed_dim), dtype))
        init.xavier_uniform_(self.in_proj_weight, rng=self.rng)
        self.in_proj_bias = Parameter(np.zeros(3 * embed_dim, dtype)) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias, rng=self.rng, dtype=dtype)
        if self.out_proj.bias is not None:
            init.zeros_(self.out_proj.bias)

    def forward(
        self, query: Any, key: Any, value: Any, key_padding_mask: Any = None, need_weights: bool = True,
        attn_mask: Any = None, average_attn_weights: bool = True, is_causal: bool = False,
    ) -> tuple[Any, Any]:  # fmt: skip
        """Return (output, weights); weights is None unless ``need_weights``.

        query (L, B, E), key and value (S, B, E), output (L, B, E); axes 0 and 1 exchanged with batch_first,
        and no B for a single sequence. weights (B, L, S), the mean over the heads, or (B, heads, L, S) unless
        ``average_attn_weights``. Masks as in PyTorch, True where a key is hidden, or numbers to add:
        key_padding_mask (B, S), attn_mask (L, S) or (B heads, L, S). is_causal is a hint: it needs an
        attn_mask that hides the keys after the query, which is then not always read.

        A query that sees no key gets weights of NaN with ``need_weights``, 0 without, as in PyTorch.
        """
        self._check(query, key, value)
        if is_causal and attn_mask is None:
            raise ValueError(f"{NAME}: is_causal is a hint on attn_mask, which is missing")
        single = query.ndim == 2
        if single:
            query, key, value = (OPS["reshape"](x, shape=(1, *x.shape)) for x in (query, key, value))
        elif not self.batch_first:
            query, key, value = (OPS["transpose"](x, dim0=0, dim1=1) for x in (query, key, value))
        sizes = query.shape[0], query.shape[1], key.shape[1]
        mask = self._mask(key_padding_mask, attn_mask, sizes, single, query.dtype)
        q, k, v = (self._heads(x, i) for i, x in enumerate((query, key, value)))
        p = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            y, weights = self._weighted(q, k, v, mask, p)
            weights = OPS["mean"](weights, dim=1) if average_attn_weights else weights
        elif is_causal and key_padding_mask is None:
            y = F.scaled_dot_product_attention(q, k, v, None, p, is_causal=True, rng=self.rng)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, p, rng=self.rng)
        y = OPS["permute"](y, dims=(0, 2, 1, 3) if self.batch_first or single else (2, 0, 1, 3))
        y = self.out_proj(OPS["reshape"](y, shape=(*y.shape[:2], self.embed_dim)))
        if single:
            y = OPS["reshape"](y, shape=y.shape[1:])
            weights = None if weights is None else OPS["reshape"](weights, shape=weights.shape[1:])
        return y, weights

    def _check(self, query: Any, key: Any, value: Any) -> None:
        for name, x in (("query", query), ("key", key), ("value", value)):
            if x.ndim not in (2, 3) or x.ndim != query.ndim or x.shape[-1] != self.embed_dim:
                raise ValueError(
                    f"{NAME}: query, key and value must have 3 axes, or all of them 2, with {self.embed_dim} "
                    f"features, got {name} {x.shape}"
                )
        batch = 0 if self.batch_first else 1
        if key.shape != value.shape or (query.ndim == 3 and query.shape[batch] != key.shape[batch]):
            raise ValueError(
                f"{NAME}: key and value must have one shape and query's batch, got {query.shape}, "
                f"{key.shape} and {value.shape}"
            )

    def _heads(self, x: Any, i: int) -> Any:
        """Return x (B, T, E) mapped by the i-th of the three maps, as (B, heads, T, E / heads)."""
        part = slice(i * self.embed_dim, (i + 1) * self.embed_dim)
        bias = None if self.in_proj_bias is None else self.in_proj_bias[part]
        y = F.linear(x, self.in_proj_weight[part], bias)
        shape = (*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads)
        return OPS["permute"](OPS["reshape"](y, shape=shape), dims=(0, 2, 1, 3))

    def _mask(self, padding: Any, attn: Any, sizes: tuple[int, int, int], single: bool, dtype: Any) -> Any:
        """Return both masks as numbers to add, broadcasting to (B, heads, L, S); None if there is none."""
        B, L, S = sizes
        total = None
        for name, mask, shapes in (
            ("key_padding_mask", padding, ((S,) if single else (B, S),)),
            ("attn_mask", attn, ((L, S), (B * self.num_heads, L, S))),
        ):
            if mask is None:
                continue
            if getattr(mask, "requires_grad", False):
                raise ValueError(f"{NAME}: {name} has no gradient; detach it")
            mask = np.asarray(move(array_of(mask), "cpu"))
            if mask.shape not in shapes:
                raise ValueError(f"{NAME}: {name} must have shape {' or '.join(map(str, shapes))}, got "
                                 f"{mask.shape}")  # fmt: skip
            if mask.dtype.kind not in "bf":
                raise TypeError(f"{NAME}: {name} must hold bools or numbers to add, got {mask.dtype}")
            numbers = np.where(mask, -np.inf, 0) if mask.dtype.kind == "b" else mask
            if name == "key_padding_mask":
                numbers = numbers.reshape(B, 1, 1, S)
            elif numbers.ndim == 3:
                numbers = numbers.reshape(B, self.num_heads, L, S)
            total = numbers if total is None else total + numbers
        if total is None:
            return None
        there = side(self.in_proj_weight.data)
        return move(np.asarray(total, dtype), there)  # masks are small: they are put together on the host

    def _weighted(self, q: Any, k: Any, v: Any, mask: Any, p: float) -> tuple[Any, Any]:
        """Return the heads' outputs and their weights (B, heads, L, S), step by step."""
        scores = (q * (1 / math.sqrt(q.shape[-1]))) @ OPS["transpose"](k, dim0=2, dim1=3)
        weights = F.dropout(F.softmax(scores if mask is None else scores + mask), p, rng=self.rng)
        return weights @ v, weights

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.embed_dim}, {self.num_heads}, dropout={self.dropout}, batch_first={self.batch_first}"
