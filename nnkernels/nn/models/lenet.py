"""LeNet-5 with today's usual activations.

LeCun et al., Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 86(11), 1998, figure 2; with
ReLU and max-pooling in place of tanh and trainable averages, full connections from pool1 to conv2, and He's
initial weights, which go with ReLU (He et al., ICCV 2015).
"""

from typing import Any

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import Conv2d, Linear, MaxPool2d
from nnkernels.nn.module import Module


class LeNet5(Module):
    """Digits (N, 1, 28, 28) to logits (N, num_classes); 61,706 parameters for 10 classes."""

    def __init__(self, num_classes: int = 10, *, rng: init.Rng = None) -> None:
        super().__init__()
        rng = np.random.default_rng(rng)
        self.conv1 = Conv2d(1, 6, 5, padding=2, activation="relu", rng=rng)  # (N, 6, 28, 28)
        self.pool1 = MaxPool2d(2)  # (N, 6, 14, 14)
        self.conv2 = Conv2d(6, 16, 5, activation="relu", rng=rng)  # (N, 16, 10, 10)
        self.pool2 = MaxPool2d(2)  # (N, 16, 5, 5)
        self.fc1 = Linear(400, 120, activation="relu", rng=rng)
        self.fc2 = Linear(120, 84, activation="relu", rng=rng)
        self.fc3 = Linear(84, num_classes, rng=rng)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.he_uniform_(parameter, rng=rng)
            else:
                init.zeros_(parameter)

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        x = self.pool1(self.conv1(x))
        x = self.pool2(self.conv2(x))
        x = F.flatten(x, 1)
        return self.fc3(self.fc2(self.fc1(x)))
