"""Pooling, unpooling and resizing as a user meets them: functions and layers beside PyTorch's."""

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.ops import OPS, checks
from nnkernels.ops.op import Sample

torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


SIGNAL, IMAGE = (2, 3, 11), (2, 3, 9, 11)
LAYERS = [  # name, arguments, shape of the input
    ("MaxPool1d", (3,), {}, SIGNAL),
    ("MaxPool1d", (3, 2, 1, 2), {"ceil_mode": True}, SIGNAL),
    ("AvgPool1d", (3,), {}, SIGNAL),
    ("AvgPool1d", (4, 3, 2, True, False), {}, SIGNAL),
    ("MaxPool2d", (3, 2, 1), {}, IMAGE),
    ("MaxPool2d", ((2, 3), (3, 2), (1, 0), (2, 1)), {"ceil_mode": True}, IMAGE),
    ("AvgPool2d", (2,), {"ceil_mode": True}, IMAGE),
    ("AvgPool2d", (3, 2, 1, True, False), {}, IMAGE),
    ("AvgPool2d", ((2, 3),), {"divisor_override": 5}, IMAGE),
    ("AdaptiveAvgPool1d", (4,), {}, SIGNAL),
    ("AdaptiveMaxPool1d", (4,), {}, SIGNAL),
    ("AdaptiveAvgPool2d", (1,), {}, IMAGE),
    ("AdaptiveAvgPool2d", ((None, 5),), {}, IMAGE),
    ("AdaptiveMaxPool2d", ((4, 3),), {}, IMAGE),
    ("Upsample", ((5, 20),), {}, IMAGE),
    ("Upsample", (), {"scale_factor": 2}, IMAGE),
    ("Upsample", (None, (1.7, 0.6)), {}, IMAGE),
    ("Upsample", (None, 2.0, "bilinear"), {}, IMAGE),
    ("Upsample", ((5, 20), None, "bilinear", True), {}, IMAGE),
    ("Upsample", (None, (1.7, 0.6), "bilinear"), {}, IMAGE),
    ("Upsample", (None, (1.7, 0.6), "bilinear", False, True), {}, IMAGE),
    ("Upsample", (None, (1.7, 0.6), "nearest", None, True), {}, IMAGE),
]


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), LAYERS, ids=str)
def test_layers_agree_with_torch_forward_and_backward(name, arguments, options, shape):
    ours, theirs = getattr(nn, name)(*arguments, **options), getattr(torch.nn, name)(*arguments, **options)
    x = normal(*shape)
    a, b = nnk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    y, z = ours(a), theirs(b)
    close = {"rtol": 2e-5, "atol": 2e-6}
    np.testing.assert_allclose(y.data, z.detach().numpy(), **close)
    g = normal(*z.shape, seed=1)
    y.backward(g)
    z.backward(torch.from_numpy(g))
    np.testing.assert_allclose(a.grad.data, b.grad.numpy(), **close)
    np.testing.assert_array_equal(ours(x), y.data)  # arrays give arrays
    assert list(ours.state_dict()) == list(theirs.state_dict()) == []


INDEXED = [
    ("max_pool1d", SIGNAL, (3, 2, 1, 2, True)),
    ("max_pool2d", IMAGE, (2,)),
    ("max_pool2d", IMAGE, ((3, 2), 2, 1, (1, 2), True)),
    ("max_pool2d", IMAGE, ((9, 11),)),
    ("adaptive_max_pool1d", SIGNAL, (4,)),
    ("adaptive_max_pool2d", IMAGE, ((4, 5),)),
    ("adaptive_max_pool2d", IMAGE, (1,)),
]


@pytest.mark.parametrize(("name", "shape", "arguments"), INDEXED, ids=str)
def test_indices_are_those_of_torch(name, shape, arguments):
    x = normal(*shape)
    wanted, places = getattr(torch.nn.functional, name)(torch.tensor(x), *arguments, return_indices=True)
    leaf, plain = nnk.tensor(x, requires_grad=True), nnk.tensor(x)
    for given in (x, plain, leaf):
        y, indices = getattr(F, name)(given, *arguments, return_indices=True)
        np.testing.assert_array_equal(np.asarray(y), wanted.numpy())
        np.testing.assert_array_equal(np.asarray(indices), places.numpy())
        assert indices.dtype == np.int64
        assert type(y) is type(indices) is type(given)
    assert y.requires_grad
    assert not indices.requires_grad
    y.sum().backward()
    hits = np.zeros(shape, np.float32)
    np.add.at(hits.reshape(6, -1), (np.arange(6)[:, None], places.numpy().reshape(6, -1)), 1)
    np.testing.assert_array_equal(leaf.grad.data, hits)
    with nnk.no_grad():
        y, indices = getattr(F, name)(leaf, *arguments, return_indices=True)
    assert not y.requires_grad
    np.testing.assert_array_equal(indices.data, places.numpy())


@pytest.mark.parametrize(
    ("size", "arguments", "output_size"),
    [
        ((8, 6), (2,), None),
        ((9, 7), (2,), (9, 7)),
        ((9, 11), (3, 2, 1), (2, 3, 9, 11)),
        ((9, 7), (3, 2), None),
    ],
)
def test_unpooling_puts_maxima_back_as_torch_does(size, arguments, output_size):
    x = normal(2, 3, *size)
    pools = nn.MaxPool2d(*arguments, return_indices=True), torch.nn.MaxPool2d(*arguments, return_indices=True)
    unpools = nn.MaxUnpool2d(*arguments), torch.nn.MaxUnpool2d(*arguments)
    a, b = nnk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    (y, at), (z, where) = pools[0](a), pools[1](b)
    up, wanted = unpools[0](y, at, output_size), unpools[1](z, where, output_size)
    np.testing.assert_array_equal(up.data, wanted.detach().numpy())
    g = normal(*wanted.shape, seed=1)
    up.backward(g)
    wanted.backward(torch.from_numpy(g))
    np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-6)


def test_a_network_of_pools_learns_through_all_of_them():
    x = nnk.tensor(normal(2, 3, 8, 8), requires_grad=True)
    y, at = F.max_pool2d(x, 2, return_indices=True)
    back = F.max_unpool2d(y, at, 2)
    total = F.adaptive_avg_pool2d(F.interpolate(back, scale_factor=2), 1).sum()
    total.backward()
    # Each maximum is one of 64 pixels of its plane, whatever happens to all of them alike.
    np.testing.assert_allclose(x.grad.data, (back.data != 0) / 64, rtol=1e-6)


def test_the_nearest_pixel_is_torchs_for_all_sizes():
    # Both round a quotient to float32, and some places fall short of a whole number by it.
    for n in range(1, 24):
        x = np.arange(n, dtype=np.float32).reshape(1, 1, 1, n)
        for count in range(1, 100):
            y = F.interpolate(x, size=(1, count))
            wanted = torch.nn.functional.interpolate(torch.tensor(x), size=(1, count))
            np.testing.assert_array_equal(y, wanted.numpy(), err_msg=f"{n} -> {count}")


def test_layers_describe_themselves():
    assert repr(nn.MaxPool2d(2)) == "MaxPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))"
    assert repr(nn.MaxPool1d(3, 2, 1, dilation=2, ceil_mode=True)) == (
        "MaxPool1d(kernel_size=3, stride=2, padding=1, dilation=2, ceil_mode=True)"
    )
    assert repr(nn.AvgPool2d(2, count_include_pad=False, divisor_override=3)) == (
        "AvgPool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0), count_include_pad=False, "
        "divisor_override=3)"
    )
    assert repr(nn.AdaptiveAvgPool2d((None, 3))) == "AdaptiveAvgPool2d(output_size=(None, 3))"
    assert repr(nn.MaxUnpool2d(2)) == "MaxUnpool2d(kernel_size=(2, 2), stride=(2, 2), padding=(0, 0))"
    assert repr(nn.Upsample(scale_factor=2)) == "Upsample(scale_factor=2, mode='nearest')"
    assert repr(nn.Upsample((4, 5), mode="bilinear")) == "Upsample(size=(4, 5), mode='bilinear')"


def test_summary_counts_a_pooled_network():
    net = nn.Sequential(nn.Upsample(scale_factor=2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    rows = nn.summary(net, (1, 3, 5, 5)).rows
    assert [row.output_shape for row in rows] == [(1, 3, 10, 10), (1, 3, 1, 1), (1, 3)]


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (ValueError, "MaxPool1d: kernel_size must be at least 1", lambda x: nn.MaxPool1d(0)),
        (TypeError, "AvgPool1d: kernel_size must be an int", lambda x: nn.AvgPool1d((2, 2))),
        (ValueError, "MaxPool2d: dilation must be at least 1", lambda x: nn.MaxPool2d(2, dilation=(1, 0))),
        (ValueError, "max_pool2d: padding must be at most half", lambda x: nn.MaxPool2d(3, padding=2)(x)),
        (ValueError, "max_pool1d: x must have 3 axes", lambda x: F.max_pool1d(x, 2)),
        (ValueError, "adaptive_avg_pool2d: output_size", lambda x: nn.AdaptiveAvgPool2d((1, 2, 3))(x)),
        (ValueError, "mode must be one of nearest, bilinear", lambda x: F.interpolate(x, 3, mode="cubic")),
        (ValueError, "align_corners is for bilinear", lambda x: F.interpolate(x, 3, align_corners=True)),
        (ValueError, "give size or scale_factor", lambda x: nn.Upsample()(x)),
        (ValueError, "give size or scale_factor", lambda x: nn.Upsample(3, 2)(x)),
        (ValueError, "needs a scale_factor", lambda x: F.interpolate(x, 3, recompute_scale_factor=True)),
        (ValueError, "give size or", lambda x: F.interpolate(x, 3, 2, recompute_scale_factor=True)),
        (ValueError, "indices must be from 0 to 323", lambda x: F.max_unpool2d(x, np.full(x.shape, 400), 2)),
    ],
)
def test_wrong_calls_are_refused_by_name(error, words, call):
    with pytest.raises(error, match=words):
        call(normal(*IMAGE)[:, :, :9, :9])


# --- every class of shapes of the tuned bodies, as large as takes several threads ---

CLASSES = [
    ("max_pool2d", (9, 5, 31, 32), {"kernel_size": 3, "dilation": 2, "padding": 1}),
    ("max_pool2d", (9, 5, 31, 33), {"kernel_size": 2, "ceil_mode": True}),
    ("avg_pool2d", (9, 5, 31, 33), {"kernel_size": 2, "ceil_mode": True}),
    ("avg_pool2d", (9, 5, 31, 33), {"kernel_size": 3, "padding": 1, "count_include_pad": False}),
    ("max_pool1d", (30, 7, 301), {"kernel_size": 3, "stride": 2}),
    ("avg_pool1d", (30, 7, 301), {"kernel_size": 3, "stride": 2}),
    ("adaptive_max_pool2d", (9, 5, 31, 33), {"output_size": (7, 11)}),
    ("adaptive_avg_pool2d", (9, 5, 31, 33), {"output_size": (40, 8)}),
    ("adaptive_avg_pool2d", (70, 90, 7, 7), {"output_size": 1}),
    ("adaptive_max_pool1d", (30, 7, 301), {"output_size": 20}),
    ("adaptive_avg_pool1d", (30, 7, 301), {"output_size": 20}),
    ("upsample_nearest2d", (9, 5, 31, 33), {"scale_factor": 2}),
    ("upsample_nearest2d", (9, 5, 31, 33), {"size": (50, 20)}),
    ("upsample_bilinear2d", (9, 5, 31, 33), {"size": (50, 20)}),
    ("upsample_bilinear2d", (9, 5, 31, 33), {"size": (20, 70), "align_corners": True}),
]


@pytest.mark.parametrize(("name", "shape", "attributes"), CLASSES, ids=str)
def test_large_calls_agree_with_loops_on_any_number_of_threads(name, shape, attributes):
    rng, sample = np.random.default_rng(0), Sample("large", (normal(*shape),), attributes)
    checks.check_agreement(OPS[name], "tuned", sample, rng)
    checks.check_threads(OPS[name], sample, rng)


@pytest.mark.parametrize("body", ["loops", "vectorized", "tuned"])
@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("adaptive_max_pool2d", {"output_size": (4, 3)}),
        ("max_pool2d", {"kernel_size": 3, "dilation": 2, "padding": 1}),
        ("max_pool1d", {"kernel_size": 3, "stride": 2, "dilation": 2, "padding": 1}),
        ("max_pool1d", {"kernel_size": 5, "stride": 3, "padding": 2}),
        ("max_pool1d", {"kernel_size": 4, "stride": 1, "padding": 2, "ceil_mode": True}),
    ],
)
def test_maxima_of_ties_infinities_and_nan_are_the_first_largest(name, attributes, body):
    x = np.random.default_rng(0).integers(0, 3, (3, 2, 9, 11)).astype(np.float32)
    x[0, 1] = -np.inf
    x[1, :, 4, 5] = np.nan
    x = x[:, :, 4] if "1d" in name else x
    y, argmax = OPS[name].body(body).forward(x, **attributes)
    t, options = torch.tensor(x), {**attributes, "return_indices": True}
    wanted, places = getattr(torch.nn.functional, name)(t, **options)
    np.testing.assert_array_equal(y, wanted.numpy())
    np.testing.assert_array_equal(argmax, places.numpy())
