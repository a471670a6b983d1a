"""Table lookup as a layer."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module, Parameter


class Embedding(Module):
    """A learnt row for each index: weight (num_embeddings, embedding_dim), drawn from N(0, 1).

    The row ``padding_idx`` (from the end if negative) starts as zeros and gets no gradient.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_embeddings = positive("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = positive("Embedding", "embedding_dim", embedding_dim)
        self.padding_idx = padding_idx
        self.weight = Parameter(np.empty((num_embeddings, embedding_dim), dtype))
        init.normal_(self.weight, rng=rng)
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(
                    f"Embedding: padding_idx must be in [{-num_embeddings}, {num_embeddings}), "
                    f"got {padding_idx}"
                )
            self.padding_idx = int(padding_idx) % num_embeddings
            self.weight.data[self.padding_idx] = 0

    def forward(self, indices: Any) -> Any:
        """Return (..., embedding_dim) for indices (...)."""
        return F.embedding(indices, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """Return the sizes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
