"""Layers around a product with weights."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers.common import activated, make_weights, positive
from nnkernels.nn.module import Module
from nnkernels.ops.activation import check_activation


class Linear(Module):
    """y = x W^T + b for x (..., in_features): weight (out_features, in_features), bias (out_features).

    With ``activation="relu"``, max(y, 0), computed in the same pass over memory.
    """

    fuses_relu = True

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, activation: str | None = None,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = positive("Linear", "in_features", in_features)
        self.out_features = positive("Linear", "out_features", out_features)
        check_activation("Linear", activation)
        self.activation = activation
        self.weight, self.bias = make_weights((out_features, in_features), bias, rng, dtype)

    def forward(self, x: Any, activation: str | None = None) -> Any:
        """Return (..., out_features)."""
        return F.linear(x, self.weight, self.bias, activation=activation or self.activation)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}" + activated(self)
