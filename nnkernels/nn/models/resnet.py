"""Residual networks: every block adds to what it was given, so that gradients have a way around it.

He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, table 1 and figure 5. The
stride of a bottleneck is in its 3 x 3 convolution, as in torchvision, whose key names these are.
"""

from typing import Any

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Linear, MaxPool2d, ReLU
from nnkernels.nn.module import Module, Sequential


class BasicBlock(Module):
    """Two 3 x 3 convolutions and a skip connection: relu(F(x) + x), with x projected where sizes differ."""

    expansion = 1  # channels of the result over those of the block

    def __init__(self, in_channels: int, channels: int, stride: int, rng: init.Rng) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(channels)
        self.relu = ReLU()
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False, rng=rng)
        self.bn2 = BatchNorm2d(channels)
        self.downsample = projection(in_channels, channels * self.expansion, stride, rng)

    def forward(self, x: Any) -> Any:
        """Return (N, channels, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


class Bottleneck(Module):
    """1 x 1 down to few channels, 3 x 3 on these, 1 x 1 up to four times as many; and a skip connection."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int, rng: init.Rng) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 1, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, stride, padding=1, bias=False, rng=rng)
        self.bn2 = BatchNorm2d(channels)
        self.conv3 = Conv2d(channels, channels * self.expansion, 1, bias=False, rng=rng)
        self.bn3 = BatchNorm2d(channels * self.expansion)
        self.relu = ReLU()
        self.downsample = projection(in_channels, channels * self.expansion, stride, rng)

    def forward(self, x: Any) -> Any:
        """Return (N, 4 channels, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + (x if self.downsample is None else self.downsample(x)))


def projection(in_channels: int, out_channels: int, stride: int, rng: init.Rng) -> Sequential | None:
    """Return what brings x to the block's sizes (option B of the paper), None where x has them."""
    if stride == 1 and in_channels == out_channels:
        return None
    return Sequential(
        Conv2d(in_channels, out_channels, 1, stride, bias=False, rng=rng), BatchNorm2d(out_channels)
    )


class ResNet(Module):
    """Images (N, 3, 224, 224) to logits (N, num_classes).

    ``depths`` has the number of blocks of each of the four stages, whose maps have 56, 28, 14 and 7 pixels a
    side.
    """

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, ...], num_classes: int = 1000, *,
        rng: init.Rng = None,
    ) -> None:  # fmt: skip
        super().__init__()
        rng = np.random.default_rng(rng)
        self.conv1 = Conv2d(3, 64, 7, stride=2, padding=3, bias=False, rng=rng)  # (N, 64, 112, 112)
        self.bn1 = BatchNorm2d(64)
        self.relu = ReLU()
        self.maxpool = MaxPool2d(3, stride=2, padding=1)  # (N, 64, 56, 56)
        before = 64
        for i, depth in enumerate(depths):
            channels = 64 * 2**i
            strides = (1 if i == 0 else 2, *(1,) * (depth - 1))
            blocks = []
            for stride in strides:
                blocks.append(block(before, channels, stride, rng))
                before = channels * block.expansion
            setattr(self, f"layer{i + 1}", Sequential(*blocks))
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(before, num_classes, rng=rng)
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.he_normal_(module.weight, rng=rng, mode="fan_out")

    layer1: Sequential
    layer2: Sequential
    layer3: Sequential
    layer4: Sequential

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(F.flatten(self.avgpool(x), 1))


class ResNet18(ResNet):
    """11,689,512 parameters for 1000 classes."""

    def __init__(self, num_classes: int = 1000, *, rng: init.Rng = None) -> None:
        super().__init__(BasicBlock, (2, 2, 2, 2), num_classes, rng=rng)


class ResNet34(ResNet):
    """21,797,672 parameters for 1000 classes."""

    def __init__(self, num_classes: int = 1000, *, rng: init.Rng = None) -> None:
        super().__init__(BasicBlock, (3, 4, 6, 3), num_classes, rng=rng)


class ResNet50(ResNet):
    """25,557,032 parameters for 1000 classes."""

    def __init__(self, num_classes: int = 1000, *, rng: init.Rng = None) -> None:
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes, rng=rng)


class ResNet101(ResNet):
    """44,549,160 parameters for 1000 classes."""

    def __init__(self, num_classes: int = 1000, *, rng: init.Rng = None) -> None:
        super().__init__(Bottleneck, (3, 4, 23, 3), num_classes, rng=rng)


class ResNet152(ResNet):
    """60,192,808 parameters for 1000 classes."""

    def __init__(self, num_classes: int = 1000, *, rng: init.Rng = None) -> None:
        super().__init__(Bottleneck, (3, 8, 36, 3), num_classes, rng=rng)
