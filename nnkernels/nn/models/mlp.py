"""The multi-layer perceptron: full connections with an activation between them.

Rumelhart, Hinton and Williams, Learning Representations by Back-Propagating Errors, Nature 323, 1986. Weights
start as He's for ReLU (He et al., ICCV 2015), as Glorot's for tanh and sigmoid (Glorot and Bengio, AISTATS
2010), biases at 0.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import Linear, ReLU, Sigmoid, Tanh
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module, Sequential
from nnkernels.ops.validate import choice

ACTIVATIONS: dict[str, type[Module]] = {"relu": ReLU, "tanh": Tanh, "sigmoid": Sigmoid}


class MLP(Sequential):
    """x (N, ...), with sizes[0] numbers in each example, to (N, sizes[-1]).

    ``sizes`` are the numbers of units from the input to the output; the ``activation``, "relu", "tanh" or
    "sigmoid", stands after every layer but the last. 238,510 parameters for sizes (784, 300, 10). Keys are
    those of the Sequential that it is: 0.weight, 0.bias, 2.weight ...

    >>> MLP((2, 3, 1), "tanh")
    MLP(
      (0): Linear(2, 3, bias=True)
      (1): Tanh()
      (2): Linear(3, 1, bias=True)
    )
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu", *, rng: init.Rng = None) -> None:
        choice("MLP", "activation", activation, tuple(ACTIVATIONS))
        sizes, rng = check_sizes("MLP", sizes), np.random.default_rng(rng)
        layers: list[Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [Linear(inputs, outputs, rng=rng), ACTIVATIONS[activation]()]
        super().__init__(*layers[:-1])
        draw = init.he_uniform_ if activation == "relu" else init.glorot_uniform_
        for parameter in self.parameters():
            if parameter.ndim > 1:
                draw(parameter, rng=rng)
            else:
                init.zeros_(parameter)

    def forward(self, x: Any) -> Any:
        """Return the last layer's outputs."""
        return super().forward(F.flatten(x, 1) if x.ndim > 2 else x)


def check_sizes(model: str, sizes: Sequence[int]) -> tuple[int, ...]:
    """Return the sizes of two layers or more, each an int of at least 1."""
    if not isinstance(sizes, Sequence) or isinstance(sizes, str):
        raise TypeError(f"{model}: sizes must be a tuple of ints, got {type(sizes).__name__}")
    if len(sizes) < 2:
        raise ValueError(f"{model}: sizes must name at least 2 layers, input and output, got {sizes!r}")
    return tuple(positive(model, f"sizes[{i}]", size) for i, size in enumerate(sizes))
