"""AlexNet, in its one-column form.

Krizhevsky, Sutskever and Hinton, ImageNet Classification with Deep Convolutional Neural Networks, NIPS 2012;
the widths are those of Krizhevsky, One weird trick for parallelizing convolutional neural networks,
arXiv:1404.5997, which has one column of layers and no response normalisation. Key names are torchvision's.
"""

from typing import Any

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import AdaptiveAvgPool2d, Conv2d, Dropout, Linear, MaxPool2d, ReLU
from nnkernels.nn.module import Module, Sequential


class AlexNet(Module):
    """Images (N, 3, 224, 224) to logits (N, num_classes); 61,100,840 parameters for 1000 classes.

    Any image of at least 63 pixels a side will do: ``avgpool`` brings the last maps to 6 x 6.
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.5, *, rng: init.Rng = None) -> None:
        super().__init__()
        rng = np.random.default_rng(rng)
        self.features = Sequential(
            Conv2d(3, 64, 11, stride=4, padding=2, rng=rng),  # (N, 64, 55, 55)
            ReLU(),
            MaxPool2d(3, stride=2),  # (N, 64, 27, 27)
            Conv2d(64, 192, 5, padding=2, rng=rng),
            ReLU(),
            MaxPool2d(3, stride=2),  # (N, 192, 13, 13)
            Conv2d(192, 384, 3, padding=1, rng=rng),
            ReLU(),
            Conv2d(384, 256, 3, padding=1, rng=rng),
            ReLU(),
            Conv2d(256, 256, 3, padding=1, rng=rng),
            ReLU(),
            MaxPool2d(3, stride=2),  # (N, 256, 6, 6)
        )
        self.avgpool = AdaptiveAvgPool2d(6)
        self.classifier = Sequential(
            Dropout(dropout, rng=rng),
            Linear(256 * 6 * 6, 4096, rng=rng),
            ReLU(),
            Dropout(dropout, rng=rng),
            Linear(4096, 4096, rng=rng),
            ReLU(),
            Linear(4096, num_classes, rng=rng),
        )

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        x = self.avgpool(self.features(x))
        return self.classifier(F.flatten(x, 1))
