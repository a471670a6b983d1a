"""GoogLeNet: convolutions of several sizes side by side, their maps recombined by 1 x 1 convolutions.

Szegedy et al., Going Deeper with Convolutions, CVPR 2015, table 1 and figure 3; with batch normalisation
after every convolution in place of response normalisation. Layers and key names are torchvision's, whose
third branch has 3 x 3 filters where the paper has 5 x 5.
"""

from typing import Any, NamedTuple

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Dropout, Linear, MaxPool2d
from nnkernels.nn.module import Module, Sequential
from nnkernels.ops import OPS


class GoogLeNetOutputs(NamedTuple):
    """What GoogLeNet with auxiliary heads returns in training: its logits, the later head's, the first's."""

    logits: Any
    aux_logits2: Any
    aux_logits1: Any


class BasicConv2d(Module):
    """Convolution, batch normalisation, relu."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0, *,
        rng: init.Rng = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv = Conv2d(in_channels, out_channels, kernel_size, stride, padding, bias=False, rng=rng)
        self.bn = BatchNorm2d(out_channels, eps=0.001)

    def forward(self, x: Any) -> Any:
        """Return (N, out_channels, P, Q)."""
        return F.relu(self.bn(self.conv(x)))


class Inception(Module):
    """Four branches on the same x, their channels one after the other (figure 2b).

    ``ch1x1``; ``ch3x3red`` to ``ch3x3``; ``ch5x5red`` to ``ch5x5``; ``pool_proj`` channels after a pooling.
    """

    def __init__(
        self, in_channels: int, ch1x1: int, ch3x3red: int, ch3x3: int, ch5x5red: int, ch5x5: int,
        pool_proj: int, rng: init.Rng,
    ) -> None:  # fmt: skip
        super().__init__()
        self.branch1 = BasicConv2d(in_channels, ch1x1, 1, rng=rng)
        self.branch2 = Sequential(
            BasicConv2d(in_channels, ch3x3red, 1, rng=rng),
            BasicConv2d(ch3x3red, ch3x3, 3, padding=1, rng=rng),
        )
        self.branch3 = Sequential(
            BasicConv2d(in_channels, ch5x5red, 1, rng=rng),
            BasicConv2d(ch5x5red, ch5x5, 3, padding=1, rng=rng),
        )
        self.branch4 = Sequential(
            MaxPool2d(3, stride=1, padding=1, ceil_mode=True),
            BasicConv2d(in_channels, pool_proj, 1, rng=rng),
        )

    def forward(self, x: Any) -> Any:
        """Return (N, ch1x1 + ch3x3 + ch5x5 + pool_proj, H, W)."""
        branches = (self.branch1, self.branch2, self.branch3, self.branch4)
        return OPS["concatenate"](*(branch(x) for branch in branches), dim=1)


class InceptionAux(Module):
    """A classifier halfway: its loss brings gradients to the layers below."""

    def __init__(self, in_channels: int, num_classes: int, rng: init.Rng) -> None:
        super().__init__()
        self.avgpool = AdaptiveAvgPool2d(4)
        self.conv = BasicConv2d(in_channels, 128, 1, rng=rng)
        self.fc1 = Linear(128 * 4 * 4, 1024, activation="relu", rng=rng)
        self.dropout = Dropout(0.7, rng=rng)
        self.fc2 = Linear(1024, num_classes, rng=rng)

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        x = self.fc1(F.flatten(self.conv(self.avgpool(x)), 1))
        return self.fc2(self.dropout(x))


class GoogLeNet(Module):
    """Images (N, 3, 224, 224) to logits (N, num_classes); 6,624,904 parameters for 1000 classes.

    With ``aux_logits=True`` 13,004,888: in training the result is then ``GoogLeNetOutputs``, and the losses
    of both further heads count 0.3 in the paper. In evaluation the heads are not computed.
    """

    def __init__(self, num_classes: int = 1000, *, aux_logits: bool = False, rng: init.Rng = None) -> None:
        super().__init__()
        rng = np.random.default_rng(rng)
        self.conv1 = BasicConv2d(3, 64, 7, stride=2, padding=3, rng=rng)  # (N, 64, 112, 112)
        self.maxpool1 = MaxPool2d(3, stride=2, ceil_mode=True)  # (N, 64, 56, 56)
        self.conv2 = BasicConv2d(64, 64, 1, rng=rng)
        self.conv3 = BasicConv2d(64, 192, 3, padding=1, rng=rng)
        self.maxpool2 = MaxPool2d(3, stride=2, ceil_mode=True)  # (N, 192, 28, 28)

        self.inception3a = Inception(192, 64, 96, 128, 16, 32, 32, rng)
        self.inception3b = Inception(256, 128, 128, 192, 32, 96, 64, rng)
        self.maxpool3 = MaxPool2d(3, stride=2, ceil_mode=True)  # (N, 480, 14, 14)

        self.inception4a = Inception(480, 192, 96, 208, 16, 48, 64, rng)
        self.inception4b = Inception(512, 160, 112, 224, 24, 64, 64, rng)
        self.inception4c = Inception(512, 128, 128, 256, 24, 64, 64, rng)
        self.inception4d = Inception(512, 112, 144, 288, 32, 64, 64, rng)
        self.inception4e = Inception(528, 256, 160, 320, 32, 128, 128, rng)
        self.maxpool4 = MaxPool2d(2, stride=2, ceil_mode=True)  # (N, 832, 7, 7)

        self.inception5a = Inception(832, 256, 160, 320, 32, 128, 128, rng)
        self.inception5b = Inception(832, 384, 192, 384, 48, 128, 128, rng)

        self.aux1 = InceptionAux(512, num_classes, rng) if aux_logits else None
        self.aux2 = InceptionAux(528, num_classes, rng) if aux_logits else None
        self.avgpool = AdaptiveAvgPool2d(1)
        self.dropout = Dropout(0.2, rng=rng)
        self.fc = Linear(1024, num_classes, rng=rng)
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.he_normal_(module.weight, rng=rng)

    def forward(self, x: Any) -> Any:
        """Return the logits, with auxiliary heads in training GoogLeNetOutputs."""
        x = self.maxpool1(self.conv1(x))
        x = self.maxpool2(self.conv3(self.conv2(x)))
        x = self.maxpool3(self.inception3b(self.inception3a(x)))
        at_aux1 = self.inception4a(x)
        at_aux2 = self.inception4d(self.inception4c(self.inception4b(at_aux1)))
        x = self.maxpool4(self.inception4e(at_aux2))
        x = self.avgpool(self.inception5b(self.inception5a(x)))
        logits = self.fc(self.dropout(F.flatten(x, 1)))
        if self.aux1 is None or self.aux2 is None or not self.training:
            return logits
        return GoogLeNetOutputs(logits, self.aux2(at_aux2), self.aux1(at_aux1))
