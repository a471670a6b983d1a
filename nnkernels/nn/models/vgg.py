"""VGG: nothing but 3 x 3 convolutions, twice as many channels after every pooling.

Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition, ICLR 2015, table
1. Key names are torchvision's.
"""

from typing import Any

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import AdaptiveAvgPool2d, Conv2d, Dropout, Linear, MaxPool2d, ReLU
from nnkernels.nn.module import Module, Sequential


class VGG(Module):
    """Images (N, 3, 224, 224) to logits (N, num_classes).

    ``depths`` has the number of convolutions of each of the five stages, which end in a pooling. Any image of
    at least 32 pixels a side will do: ``avgpool`` brings the last maps to 7 x 7.
    """

    channels = (64, 128, 256, 512, 512)

    def __init__(
        self, depths: tuple[int, ...], num_classes: int = 1000, dropout: float = 0.5, *, rng: init.Rng = None
    ) -> None:
        super().__init__()
        rng = np.random.default_rng(rng)
        layers: list[Module] = []
        before = 3
        for depth, channels in zip(depths, self.channels):
            for _ in range(depth):
                layers += [Conv2d(before, channels, 3, padding=1, rng=rng), ReLU()]
                before = channels
            layers.append(MaxPool2d(2))
        self.features = Sequential(*layers)  # (N, 512, 7, 7)
        self.avgpool = AdaptiveAvgPool2d(7)
        self.classifier = Sequential(
            Linear(512 * 7 * 7, 4096, rng=rng),
            ReLU(),
            Dropout(dropout, rng=rng),
            Linear(4096, 4096, rng=rng),
            ReLU(),
            Dropout(dropout, rng=rng),
            Linear(4096, num_classes, rng=rng),
        )
        for module in self.features.children():
            if isinstance(module, Conv2d) and module.bias is not None:
                init.he_normal_(module.weight, rng=rng, mode="fan_out")
                init.zeros_(module.bias)

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        x = self.avgpool(self.features(x))
        return self.classifier(F.flatten(x, 1))


class VGG11(VGG):
    """Configuration A, 8 convolutions; 132,863,336 parameters for 1000 classes."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, *, rng: init.Rng = None) -> None:
        super().__init__((1, 1, 2, 2, 2), num_classes, dropout, rng=rng)


class VGG16(VGG):
    """Configuration D, 13 convolutions; 138,357,544 parameters for 1000 classes."""

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, *, rng: init.Rng = None) -> None:
        super().__init__((2, 2, 3, 3, 3), num_classes, dropout, rng=rng)
