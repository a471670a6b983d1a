"""Layers on graphs: features (n, F) of n nodes, mixed along edges."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from nnkernels.machine.memory import Array
from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.functional.graph import Sparse, check_edges
from nnkernels.nn.layers.common import positive
from nnkernels.nn.layers.linear import Linear
from nnkernels.nn.module import Module, Parameter
from nnkernels.ops.validate import choice


class GraphConv(Module):
    """y = A x W^T + b: each node's transformed features, averaged over its neighbours with the weights A.

    weight is (out_features, in_features), bias (out_features); the weight starts as Glorot's, the bias at 0
    (Kipf and Welling, Semi-Supervised Classification with Graph Convolutional Networks, ICLR 2017).

    >>> edges = [[0, 1], [1, 2]]  # a path of three nodes
    >>> adjacency = F.normalized_adjacency(edges, 3)
    >>> GraphConv(4, 2, rng=0)(np.ones((3, 4), np.float32), adjacency).shape
    (3, 2)
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, rng: init.Rng = None,
        dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = positive("GraphConv", "in_features", in_features)
        self.out_features = positive("GraphConv", "out_features", out_features)
        self.weight = Parameter(np.empty((self.out_features, self.in_features), dtype))
        init.glorot_uniform_(self.weight, rng=rng)
        self.bias = Parameter(np.zeros(self.out_features, dtype)) if bias else None

    def forward(self, x: Any, adjacency: Sparse) -> Any:
        """Return (n, out_features) for x (n, in_features) and the sparse adjacency (n, n)."""
        # The narrower of the two products goes along the edges.
        if self.out_features <= self.in_features:
            y = F.spmm(adjacency, F.linear(x, self.weight))
            return y if self.bias is None else y + self.bias
        return F.linear(F.spmm(adjacency, x), self.weight, self.bias)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}"


class MessagePassing(Module):
    """Base of layers that send a message along every edge and gather the messages at its target.

    ``message(x, source, target)`` makes the messages (E, ...), the features of the sources unless overridden;
    ``aggregation`` "sum", "mean" or "max" gathers them; ``update(gathered, x)`` makes the result.
    """

    def __init__(self, aggregation: str = "sum") -> None:
        super().__init__()
        choice(type(self).__name__, "aggregation", aggregation, ("sum", "mean", "max"))
        self.aggregation = aggregation

    def message(self, x: Any, source: Array, target: Array) -> Any:
        """Return the message of each edge."""
        return F.index_select(x, 0, source)

    def update(self, gathered: Any, x: Any) -> Any:
        """Return the new features of each node."""
        return gathered

    def forward(self, x: Any, edges: ArrayLike) -> Any:
        """Return the new features of x (n, ...), for edges (2, E): sources, then targets."""
        n = x.shape[0]
        source, target = check_edges(type(self).__name__, edges, n)
        messages = self.message(x, source, target)
        gather = {"sum": F.scatter_sum, "mean": F.scatter_mean, "max": F.scatter_max}[self.aggregation]
        return self.update(gather(messages, target, n), x)


class SAGEConv(MessagePassing):
    """y_i = W_l aggregated(x_j of the edges j to i) + b + W_r x_i.

    Keys: lin_l.weight, lin_l.bias, lin_r.weight, each weight (out_features, in_features) (Hamilton, Ying and
    Leskovec, Inductive Representation Learning on Large Graphs, NIPS 2017).
    """

    def __init__(
        self, in_features: int, out_features: int, aggregation: str = "mean", bias: bool = True,
        *, rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(aggregation)
        rng = np.random.default_rng(rng)
        self.in_features = positive("SAGEConv", "in_features", in_features)
        self.out_features = positive("SAGEConv", "out_features", out_features)
        self.lin_l = Linear(self.in_features, self.out_features, bias, rng=rng, dtype=dtype)
        self.lin_r = Linear(self.in_features, self.out_features, False, rng=rng, dtype=dtype)

    def update(self, gathered: Any, x: Any) -> Any:
        """Return (n, out_features)."""
        return self.lin_l(gathered) + self.lin_r(x)
