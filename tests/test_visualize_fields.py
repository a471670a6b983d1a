"""Receptive fields: against arithmetic of sizes and strides, and against the pixels that change a unit."""

import numpy as np
import pytest

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, visualize
from nnkernels.ops import OPS


def chain_field(place, layers, size):
    """Return first and last row seen, by arithmetic: layers are (kernel, stride, padding), first to last."""
    first = last = place
    for kernel, stride, padding in reversed(layers):
        first, last = first * stride - padding, last * stride - padding + kernel - 1
    return max(first, 0), min(last, size - 1)


LENET = [("conv1", (5, 1, 2)), ("pool1", (2, 2, 0)), ("conv2", (5, 1, 0)), ("pool2", (2, 2, 0))]


@pytest.mark.parametrize("depth", range(1, 5))
def test_lenets_fields_are_those_of_the_formula(depth):
    model = nn.models.LeNet5(rng=0)
    layer, layers = LENET[depth - 1][0], [sizes for _, sizes in LENET[:depth]]
    places = visualize.feature_maps(model, np.zeros((1, 1, 28, 28), np.float32), layer).shape[2]
    for p, q in ((0, 0), (1, places - 2), (places - 1, places // 2)):
        field = visualize.receptive_field(model, layer, (p, q), (1, 28, 28))
        (top, bottom), (left, right) = (chain_field(i, layers, 28) for i in (p, q))
        wanted = np.zeros((28, 28), bool)
        wanted[top : bottom + 1, left : right + 1] = True
        np.testing.assert_array_equal(field, wanted)
    assert visualize.receptive_field(model, "fc1", (), (1, 28, 28)).all()


def test_the_middle_unit_of_pool2_sees_16_pixels_each_way():
    field = visualize.receptive_field(nn.models.LeNet5(rng=0), "pool2", None, (1, 28, 28))
    assert field.sum() == 16 * 16


class Branches(nn.Module):
    """A skip past two convolutions, one of them dilated, and a maximum of two branches."""

    def __init__(self, rng):
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, stride=2, padding=1, rng=rng, dtype=np.float64)
        self.norm = nn.BatchNorm2d(4, dtype=np.float64)
        self.one = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, rng=rng, dtype=np.float64)
        self.two = nn.Conv2d(4, 4, (1, 3), padding=(0, 1), activation="relu", rng=rng, dtype=np.float64)
        self.end = nn.MaxPool2d(3, 2, padding=1, ceil_mode=True)

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        return self.end(OPS["maximum"](x + self.two(F.relu(self.one(x))), x * 2.0))


class SideBySide(nn.Module):
    """Channels of two kinds: of one pixel, and of 3 x 3."""

    def __init__(self, rng):
        super().__init__()
        self.one = nn.Conv2d(2, 1, 1, rng=rng, dtype=np.float64)
        self.nine = nn.Conv2d(2, 1, 3, padding=1, rng=rng, dtype=np.float64)

    def forward(self, x):
        return OPS["concatenate"](self.one(x), self.nine(x), dim=1)


class Signals(nn.Module):
    """Rows of an image one behind the other, pooled as a signal."""

    def __init__(self, rng):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, stride=2, rng=rng, dtype=np.float64)

    def forward(self, x):
        x = F.flatten(self.conv(x), 2)
        x = F.max_pool1d(x, 3, stride=2, padding=1, dilation=2)
        return F.adaptive_max_pool1d(x, 6).reshape(len(x), 2, 3, 2)


def layers(*modules):
    return lambda rng: nn.Sequential(*[m if isinstance(m, nn.Module) else m(rng) for m in modules])


def conv(*sizes, **options):
    return lambda rng: nn.Conv2d(*sizes, **options, rng=rng, dtype=np.float64)


def transposed(*sizes, **options):
    return lambda rng: nn.ConvTranspose2d(*sizes, **options, rng=rng, dtype=np.float64)


NETWORKS = {
    "branches": Branches,
    "signals": Signals,
    "side by side": SideBySide,
    "larger of two": layers(SideBySide, nn.Maxout(2)),
    "dilated maximum": layers(conv(2, 3, 2, stride=3), nn.MaxPool2d(2, 1, padding=1, dilation=2)),
    "a maximum that hangs over": layers(conv(2, 2, 3), nn.MaxPool2d((2, 3), (3, 2), ceil_mode=True)),
    "averages": layers(nn.AvgPool2d(3, 2, padding=1), conv(2, 2, 2, padding=1), nn.AvgPool2d(2, 3)),
    "up and down": layers(conv(2, 3, 3, stride=4), nn.Upsample(None, 3, "bilinear"), conv(3, 1, 2)),
    "nearest": layers(conv(2, 3, 3, stride=4), nn.Upsample(scale_factor=2), nn.MaxPool2d(3)),
    "transposed": layers(conv(2, 3, 2, stride=4), transposed(3, 2, 3, stride=2, padding=1), nn.AvgPool2d(2)),
    "adaptive": layers(conv(2, 3, 2, stride=2), nn.AdaptiveMaxPool2d((2, 4)), nn.AdaptiveAvgPool2d((2, 3))),
    "maxout": layers(conv(2, 4, 3, stride=3, groups=2), nn.Maxout(2), conv(2, 2, 2, groups=2)),
    "many channels": layers(conv(2, 32, 3), conv(32, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(4)),
    "normalised": layers(conv(2, 4, 3, stride=3), nn.LocalResponseNorm(3), nn.Sigmoid(), conv(4, 1, 2)),
    "over the places": layers(conv(2, 4, 3, stride=4), nn.GroupNorm(2, 4, dtype=np.float64), conv(4, 1, 1)),
}  # fmt: skip


def seen_by_all_units(model, C, H, W):
    """Return (H, W, K, P, Q): which pixels change which units when they grow a thousandfold.

    With all weights positive nothing can cancel, and a maximum cannot help but notice. Loops add up in one
    order, so that what does not depend on a pixel keeps all its bits.
    """
    x = np.random.default_rng(1).uniform(1, 2, (C, H, W))
    changed = np.repeat(x[None], H * W + 1, axis=0)
    for n, (h, w) in enumerate(np.ndindex(H, W)):
        changed[n, :, h, w] *= 1000
    with nnk.use_backend("loops"), nnk.no_grad():
        y = model.eval()(changed).data
    return (y[:-1] != y[-1]).reshape(H, W, *y.shape[1:])


@pytest.mark.parametrize("name", NETWORKS)
def test_a_unit_sees_the_pixels_that_change_it(name):
    rng = np.random.default_rng(0)
    model = NETWORKS[name](rng)
    for parameter in model.parameters():
        parameter.data = rng.uniform(0.5, 1.5, parameter.shape) / 10
    wanted = seen_by_all_units(model, 2, 15, 13)
    K, P, Q = wanted.shape[2:]
    assert P > 1
    for channel, p, q in np.ndindex(min(K, 2), P, Q):
        field = visualize.receptive_field(model, "", (p, q), (2, 15, 13), channel)
        np.testing.assert_array_equal(field, wanted[:, :, channel, p, q], f"{name}: {channel}, {p}, {q}")


def test_weights_of_zero_and_units_at_rest_see_as_much():
    model = nn.models.LeNet5(rng=0)
    field = visualize.receptive_field(model, "pool2", (1, 2), (1, 28, 28))
    for parameter in model.parameters():
        parameter.data[...] = 0
    np.testing.assert_array_equal(visualize.receptive_field(model, "pool2", (1, 2), (1, 28, 28)), field)
    for parameter in model.parameters():
        parameter.data[...] = -1
    np.testing.assert_array_equal(visualize.receptive_field(model, "pool2", (1, 2), (1, 28, 28)), field)


def test_rounding_is_not_taken_for_sight(capsys):
    rng = np.random.default_rng(0)
    model = nn.Sequential(*[nn.Conv2d(c, 32, 3, padding=1, rng=rng) for c in (3, 32, 32)])
    nnk.explain("conv2d", (1, 32, 24, 24), (32, 32, 3, 3), None, padding=1)
    assert "dx       Winograd" in capsys.readouterr().out  # which computes zeros as differences
    assert visualize.receptive_field(model, "", (9, 9), (3, 24, 24)).sum() == 7 * 7


def test_a_unit_that_lies_in_the_padding_sees_nothing():
    model = nn.Sequential(nn.Conv2d(1, 1, 1, padding=3, rng=0))
    assert not visualize.receptive_field(model, "0", (1, 4), (1, 5, 5)).any()
    assert visualize.receptive_field(model, "0", (3, 4), (1, 5, 5)).sum() == 1


def test_a_maximum_over_places_sees_them_all():
    class Largest(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 2, 3, stride=3, rng=0)

        def forward(self, x):
            return self.conv(x).max(dim=(2, 3))

    field = visualize.receptive_field(Largest(), "", (), (1, 8, 9))
    assert field[:6].all()  # windows of 3 x 3 cover two thirds of 8 rows
    assert not field[6:].any()
