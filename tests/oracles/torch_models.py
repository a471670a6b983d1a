"""The networks of nn/models/ in PyTorch, written apart from ours: one table per paper, same key names."""

import torch
import torch.nn.functional as TF
from torch import nn


def in_a_row(*layers):
    return nn.Sequential(*layers)


def alexnet(classes):
    return FeaturesFirst(
        in_a_row(
            nn.Conv2d(3, 64, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(64, 192, 5, 1, 2), nn.ReLU(),
            nn.MaxPool2d(3, 2), nn.Conv2d(192, 384, 3, 1, 1), nn.ReLU(), nn.Conv2d(384, 256, 3, 1, 1),
            nn.ReLU(), nn.Conv2d(256, 256, 3, 1, 1), nn.ReLU(), nn.MaxPool2d(3, 2),
        ),
        6,
        in_a_row(
            nn.Dropout(), nn.Linear(9216, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(),
            nn.Linear(4096, classes),
        ),
    )  # fmt: skip


def vgg(letter):
    """Return the maker of a column of the paper's table 1."""
    columns = {
        "A": "64 M 128 M 256 256 M 512 512 M 512 512 M",
        "D": "64 64 M 128 128 M 256 256 256 M 512 512 512 M 512 512 512 M",
    }

    def make(classes):
        layers, width = [], 3
        for entry in columns[letter].split():
            if entry == "M":
                layers.append(nn.MaxPool2d(2, 2))
            else:
                layers += [nn.Conv2d(width, int(entry), 3, padding=1), nn.ReLU()]
                width = int(entry)
        head = in_a_row(
            nn.Linear(25088, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, classes),
        )  # fmt: skip
        return FeaturesFirst(in_a_row(*layers), 7, head)

    return make


class FeaturesFirst(nn.Module):
    def __init__(self, features, size, classifier):
        super().__init__()
        self.features, self.avgpool, self.classifier = features, nn.AdaptiveAvgPool2d(size), classifier

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


# --- residual networks ---


class Residual(nn.Module):
    """A block given by the (width, size) of its convolutions; the first one of ``strided`` has the stride."""

    def __init__(self, width_in, convolutions, stride, strided, shortcut):
        super().__init__()
        self.n = len(convolutions)
        for i, (width, size) in enumerate(convolutions, 1):
            step = stride if i == strided else 1
            self.add_module(f"conv{i}", nn.Conv2d(width_in, width, size, step, size // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(width))
            width_in = width
        self.downsample = shortcut

    def forward(self, x):
        y = x
        for i in range(1, self.n + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = TF.relu(y) if i < self.n else y
        return TF.relu(y if self.downsample is None else y + self.downsample(x))


def resnet(depths, wide):
    """Return the maker of a residual network for large images; ``wide``: bottlenecks."""

    def make(classes):
        stages, before = [], 64
        for stage, depth in enumerate(depths):
            width, blocks = 64 << stage, []
            after = 4 * width if wide else width
            for i in range(depth):
                stride = 2 if stage and not i else 1
                project = None
                if stride > 1 or before != after:
                    project = in_a_row(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
                convolutions = [(width, 1), (width, 3), (after, 1)] if wide else [(width, 3), (width, 3)]
                blocks.append(
                    Residual(before, convolutions, stride, 2 if wide else 1, project or nn.Identity())
                )
                before = after
            stages.append(in_a_row(*blocks))
        return Stages(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.MaxPool2d(3, 2, 1), stages, before, classes)

    return make


def cifar_resnet(depth, skip=True):
    """Return the maker of a residual network for small images, or of its plain twin."""

    def make(classes, channels=3):
        stages, before = [], 16
        for width in (16, 32, 64):
            blocks = []
            for i in range((depth - 2) // 6):
                stride = 2 if width > 16 and i == 0 else 1
                shortcut = SubsampledAndPadded(stride, width - before) if skip else None
                blocks.append(Residual(before, [(width, 3), (width, 3)], stride, 1, shortcut))
                before = width
            stages.append(in_a_row(*blocks))
        return Stages(nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.Identity(), stages, 64, classes)

    return make


class SubsampledAndPadded(nn.Module):
    def __init__(self, stride, new_channels):
        super().__init__()
        self.stride, self.new_channels = stride, new_channels

    def forward(self, x):
        x = x[..., :: self.stride, :: self.stride]
        return torch.cat([x, x.new_zeros(len(x), self.new_channels, *x.shape[2:])], 1)


class Stages(nn.Module):
    def __init__(self, stem, maxpool, stages, width, classes):
        super().__init__()
        self.conv1, self.bn1, self.maxpool = stem, nn.BatchNorm2d(stem.out_channels), maxpool
        self.stages = len(stages)
        for i, stage in enumerate(stages, 1):
            self.add_module(f"layer{i}", stage)
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        x = self.maxpool(TF.relu(self.bn1(self.conv1(x))))
        for i in range(1, self.stages + 1):
            x = getattr(self, f"layer{i}")(x)
        return self.fc(x.mean((2, 3)))


# --- GoogLeNet ---

MODULES = {  # in, 1x1, 3x3 reduced, 3x3, second 3x3 reduced, second 3x3, projection of the pool
    "3a": (192, 64, 96, 128, 16, 32, 32), "3b": (256, 128, 128, 192, 32, 96, 64),
    "4a": (480, 192, 96, 208, 16, 48, 64), "4b": (512, 160, 112, 224, 24, 64, 64),
    "4c": (512, 128, 128, 256, 24, 64, 64), "4d": (512, 112, 144, 288, 32, 64, 64),
    "4e": (528, 256, 160, 320, 32, 128, 128), "5a": (832, 256, 160, 320, 32, 128, 128),
    "5b": (832, 384, 192, 384, 48, 128, 128),
}  # fmt: skip


class ConvBN(nn.Module):
    def __init__(self, before, after, size=1, stride=1):
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, stride, size // 2, bias=False)
        self.bn = nn.BatchNorm2d(after, eps=1e-3)

    def forward(self, x):
        return TF.relu(self.bn(self.conv(x)))


class Mixed(nn.Module):
    def __init__(self, before, a, b1, b3, c1, c3, d):
        super().__init__()
        self.branch1 = ConvBN(before, a)
        self.branch2 = in_a_row(ConvBN(before, b1), ConvBN(b1, b3, 3))
        self.branch3 = in_a_row(ConvBN(before, c1), ConvBN(c1, c3, 3))
        self.branch4 = in_a_row(nn.MaxPool2d(3, 1, 1, ceil_mode=True), ConvBN(before, d))

    def forward(self, x):
        return torch.cat([getattr(self, f"branch{i}")(x) for i in (1, 2, 3, 4)], 1)


class Head(nn.Module):
    def __init__(self, before, classes):
        super().__init__()
        self.conv, self.fc1, self.fc2 = ConvBN(before, 128), nn.Linear(2048, 1024), nn.Linear(1024, classes)
        self.dropout = nn.Dropout(0.7)

    def forward(self, x):
        x = self.conv(TF.adaptive_avg_pool2d(x, 4)).flatten(1)
        return self.fc2(self.dropout(TF.relu(self.fc1(x))))


class GoogLeNet(nn.Module):
    def __init__(self, classes, aux=False):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = ConvBN(3, 64, 7, 2), ConvBN(64, 64), ConvBN(64, 192, 3)
        for name, widths in MODULES.items():
            self.add_module(f"inception{name}", Mixed(*widths))
        self.aux1, self.aux2 = (Head(512, classes), Head(528, classes)) if aux else (None, None)
        self.dropout = nn.Dropout(0.2)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x):
        def pool(x, size=3):
            return TF.max_pool2d(x, size, 2, ceil_mode=True)

        x = pool(self.conv3(self.conv2(pool(self.conv1(x)))))
        kept = {}
        for name in MODULES:
            x = kept[name] = getattr(self, f"inception{name}")(x)
            x = pool(x) if name == "3b" else pool(x, 2) if name == "4e" else x
        y = self.fc(self.dropout(x.mean((2, 3))))
        if self.aux1 is None or not self.training:
            return y
        return y, self.aux2(kept["4d"]), self.aux1(kept["4a"])


MODELS = {
    "AlexNet": alexnet, "VGG11": vgg("A"), "VGG16": vgg("D"), "GoogLeNet": GoogLeNet,
    "ResNet18": resnet((2, 2, 2, 2), False), "ResNet34": resnet((3, 4, 6, 3), False),
    "ResNet50": resnet((3, 4, 6, 3), True), "ResNet101": resnet((3, 4, 23, 3), True),
    "ResNet152": resnet((3, 8, 36, 3), True), "ResNet20": cifar_resnet(20), "ResNet32": cifar_resnet(32),
    "ResNet56": cifar_resnet(56),
}  # fmt: skip
