"""The graph convolutional network with two layers.

Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks, ICLR 2017, equation 9:
Z = A relu(A X W0) W1, with the normalised adjacency A = D^-1/2 (A' + I) D^-1/2 of the graph A'.
"""

from typing import Any

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.functional.graph import Sparse
from nnkernels.nn.layers import Dropout, GraphConv
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module


class GCN(Module):
    """Features (n, in_features) of a graph's nodes to logits (n, num_classes).

    23,063 parameters for the paper's citation graph Cora (1433 features, 16 hidden units, 7 classes).
    ``dropout`` acts before both layers while training.

    >>> adjacency = F.normalized_adjacency([[0, 1, 2], [1, 2, 0]], 4)  # a triangle and a node apart
    >>> GCN(4, 2, rng=0)(np.eye(4, dtype=np.float32), adjacency).shape
    (4, 2)
    """

    def __init__(
        self, in_features: int, num_classes: int, hidden_features: int = 16, dropout: float = 0.5, *,
        rng: init.Rng = None,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, value in (("num_classes", num_classes), ("hidden_features", hidden_features)):
            positive("GCN", name, value)
        rng = np.random.default_rng(rng)
        self.dropout = Dropout(dropout, rng=rng)
        self.conv1 = GraphConv(in_features, hidden_features, rng=rng)
        self.conv2 = GraphConv(hidden_features, num_classes, rng=rng)

    def forward(self, x: Any, adjacency: Sparse) -> Any:
        """Return the logits, for the adjacency that ``F.normalized_adjacency`` makes of edges."""
        h = F.relu(self.conv1(self.dropout(x), adjacency))
        return self.conv2(self.dropout(h), adjacency)
