"""The small residual networks for images of 32 x 32, and their plain twins without skip connections.

He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2: three stages of
n blocks with 16, 32 and 64 channels, 6 n + 2 layers. Shortcuts have no parameters (option A): where the maps
halve, every other pixel, and zeros for the new channels.
"""

from typing import Any

import numpy as np

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Linear
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module, Sequential


class Block(Module):
    """Two 3 x 3 convolutions; y = relu(F(x) + shortcut(x)), or, with ``skip=False``, relu(F(x))."""

    def __init__(self, in_channels: int, channels: int, stride: int, skip: bool, rng: init.Rng) -> None:
        super().__init__()
        self.conv1 = Conv2d(in_channels, channels, 3, stride, padding=1, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(channels)
        self.conv2 = Conv2d(channels, channels, 3, padding=1, bias=False, rng=rng)
        self.bn2 = BatchNorm2d(channels)
        self.stride, self.skip, self.new_channels = stride, skip, channels - in_channels

    def shortcut(self, x: Any) -> Any:
        """Return x in the size of the block's result."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        return F.pad(x, (0, 0, 0, 0, 0, self.new_channels)) if self.new_channels else x

    def forward(self, x: Any) -> Any:
        """Return (N, channels, H / stride, W / stride), rounded up."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x) if self.skip else y)


class CifarResNet(Module):
    """Images (N, in_channels, 32, 32), or of another size, to logits (N, num_classes).

    ``depth`` is the number of layers with weights, 6 n + 2. With ``skip=False`` there are no shortcuts, and
    everything else, the number of parameters too, is the same. Raises ValueError for another depth.
    """

    def __init__(
        self, depth: int, num_classes: int = 10, *, in_channels: int = 3, skip: bool = True,
        rng: init.Rng = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if positive(type(self).__name__, "depth", depth) % 6 != 2 or depth < 8:
            raise ValueError(f"{type(self).__name__}: depth must be 6 n + 2 (8, 14, 20 ...), got {depth}")
        rng = np.random.default_rng(rng)
        self.conv1 = Conv2d(in_channels, 16, 3, padding=1, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(16)
        before = 16
        for stage, channels in enumerate((16, 32, 64), 1):
            blocks = []
            for i in range((depth - 2) // 6):
                blocks.append(Block(before, channels, 2 if stage > 1 and i == 0 else 1, skip, rng))
                before = channels
            setattr(self, f"layer{stage}", Sequential(*blocks))
        self.avgpool = AdaptiveAvgPool2d(1)
        self.fc = Linear(64, num_classes, rng=rng)
        for module in self.modules():
            if isinstance(module, Conv2d):
                init.he_normal_(module.weight, rng=rng)

    layer1: Sequential
    layer2: Sequential
    layer3: Sequential

    def forward(self, x: Any) -> Any:
        """Return the logits."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(F.flatten(self.avgpool(x), 1))


class ResNet20(CifarResNet):
    """20 layers; 269,722 parameters for 3 channels and 10 classes."""

    def __init__(self, num_classes: int = 10, **options: Any) -> None:
        super().__init__(20, num_classes, **options)


class ResNet32(CifarResNet):
    """32 layers; 464,154 parameters for 3 channels and 10 classes."""

    def __init__(self, num_classes: int = 10, **options: Any) -> None:
        super().__init__(32, num_classes, **options)


class ResNet56(CifarResNet):
    """56 layers; 853,018 parameters for 3 channels and 10 classes."""

    def __init__(self, num_classes: int = 10, **options: Any) -> None:
        super().__init__(56, num_classes, **options)
