"""Convolutions as functions and layers, beside PyTorch's."""

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.ops.conv2d.methods import methods


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def through(f, arrays, tensor, numbers, dy=None):
    """Return f's result and gradients for the arrays, as arrays."""
    tensors = [tensor(a) for a in arrays]
    y = f(*tensors)
    dy = normal(*y.shape, seed=1) if dy is None else dy
    y.backward(tensor(dy, False))
    return [numbers(y), *(numbers(t.grad) for t in tensors)]


def ours(f, *arrays):
    return through(f, arrays, lambda a, grad=True: nnk.Tensor(a, requires_grad=grad), lambda t: np.array(
        getattr(t, "data", t)
    ))  # fmt: skip


def theirs(torch, f, *arrays):
    return through(
        f, arrays, lambda a, grad=True: torch.tensor(a, requires_grad=grad), lambda t: t.detach().numpy()
    )


def assert_alike(got, wanted):
    assert len(got) == len(wanted)
    for g, w in zip(got, wanted):
        assert g.shape == w.shape
        np.testing.assert_allclose(g, w, rtol=1e-10, atol=1e-10)


# ---------------------------------------------------------------- padding by name

SAME = [  # function, x, weight, attributes: even lengths and odd dilations have an odd number of zeros
    ("conv1d", (2, 3, 7), (4, 3, 3), {}),
    ("conv1d", (2, 3, 7), (4, 3, 4), {}),
    ("conv1d", (1, 4, 9), (6, 2, 2), {"dilation": 3, "groups": 2}),
    ("conv1d", (1, 1, 2), (1, 1, 6), {}),
    ("conv2d", (2, 3, 6, 5), (4, 3, 3, 3), {}),
    ("conv2d", (2, 3, 6, 5), (4, 3, 2, 3), {}),
    ("conv2d", (1, 2, 6, 5), (2, 1, 3, 4), {"groups": 2, "dilation": (2, 1)}),
    ("conv2d", (1, 2, 5, 7), (3, 2, 4, 2), {"dilation": (3, 5)}),
    ("conv3d", (1, 2, 4, 3, 5), (3, 2, 3, 3, 3), {}),
    ("conv3d", (1, 2, 4, 3, 5), (2, 2, 2, 3, 4), {"dilation": (1, 2, 1)}),
]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # of PyTorch's copy
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(("name", "x", "w", "attributes"), SAME, ids=str)
def test_padding_by_name(name, x, w, attributes, padding, torch):
    if padding == "valid":  # which wants x larger than the filter
        x = (*x[:2], *(n + 7 for n in x[2:]))
    arrays = normal(*x), normal(*w, seed=2), normal(w[0], seed=3)

    def call(functions):
        return lambda x, w, b: getattr(functions, name)(x, w, b, padding=padding, **attributes)

    got = ours(call(F), *arrays)
    assert_alike(got, theirs(torch, call(torch.nn.functional), *arrays))
    if padding == "same":
        assert got[0].shape[2:] == x[2:]


def test_padding_by_name_takes_arrays_and_relu():
    x, w = normal(2, 3, 6, 5), normal(4, 3, 2, 2)
    y = F.conv2d(x, w, padding="same", activation="relu")
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, F.conv2d(F.pad(x, (0, 1, 0, 1)), w).clip(0))


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: F.conv2d(normal(1, 2, 5, 5), normal(3, 2, 3, 3), padding="same", stride=(1, 2)),
         ValueError, r"conv2d: padding 'same' needs stride 1, got \(1, 2\)"),
        (lambda: F.conv1d(normal(1, 2, 5), normal(3, 2, 3), padding="same", stride=2),
         ValueError, "conv1d: padding 'same' needs stride 1, got 2"),
        (lambda: F.conv3d(normal(1, 2, 5, 5, 5), normal(3, 2, 3, 3, 3), padding="full"),
         ValueError, "conv3d: padding must be 'same', 'valid' or ints, got 'full'"),
        (lambda: F.conv2d(normal(2, 5, 5), normal(3, 2, 3, 3), padding="same"),
         ValueError, r"conv2d: x must have 4 axes \(N, C, H, W\), got shape \(2, 5, 5\)"),
        (lambda: F.conv2d(normal(1, 2, 5, 5), normal(3, 2, 3, 3), padding="same", dilation=0),
         ValueError, "conv2d: dilation must be at least 1, got 0"),
        (lambda: nn.Conv2d(1, 2, 3, stride=(2, 1), padding="same"),
         ValueError, r"Conv2d: padding 'same' needs stride 1, got \(2, 1\)"),
        (lambda: nn.Conv1d(1, 2, 3, stride=2, padding="same"),
         ValueError, "Conv1d: padding 'same' needs stride 1, got 2"),
        (lambda: nn.Conv3d(1, 2, 3, padding="half"),
         ValueError, "Conv3d: padding must be 'same', 'valid' or ints, got 'half'"),
        (lambda: nn.Conv3d(1, 2, (3, 3)), TypeError, "Conv3d: kernel_size must be an int or a triple"),
        (lambda: nn.Conv3d(4, 6, 3, groups=4), ValueError, "groups must divide out_channels 6, got 4"),
        (lambda: nn.Conv3d(4, 6, 3, activation="tanh"), ValueError, "Conv3d: activation must be"),
        (lambda: nn.ConvTranspose2d(1, 2, 3, padding="same"),
         TypeError, "ConvTranspose2d: padding must be in numbers, got 'same'"),
        (lambda: nn.ConvTranspose2d(1, 2, 3, stride=2, output_padding=(1, 2)),
         ValueError, "ConvTranspose2d: output_padding must be smaller than stride"),
        (lambda: nn.ConvTranspose1d(1, 2, 3, output_padding=1),
         ValueError, "ConvTranspose1d: output_padding must be smaller than stride 1 or dilation 1, got 1"),
        (lambda: nn.ConvTranspose1d(3, 2, 3, groups=2),
         ValueError, "ConvTranspose1d: groups must divide in_channels 3, got 2"),
        (lambda: nn.ConvTranspose1d(3, 2, 3, dilation=0), ValueError, "ConvTranspose1d: dilation must be"),
    ],
)  # fmt: skip
def test_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


# ---------------------------------------------------------------- layers

LAYERS = [  # name, arguments, attributes, x
    ("Conv1d", (3, 4, 4), {"padding": "same"}, (2, 3, 9)),
    ("Conv2d", (3, 4, (2, 3)), {"padding": "same", "dilation": (1, 2)}, (2, 3, 6, 7)),
    ("Conv2d", (4, 8, 3), {"padding": "valid", "groups": 4}, (2, 4, 6, 7)),
    ("Conv3d", (2, 3, 3), {}, (2, 2, 4, 5, 6)),
    ("Conv3d", (4, 6, (1, 2, 3), (1, 2, 1), (0, 1, 2), (1, 1, 2), 2, False), {}, (2, 4, 3, 5, 6)),
    ("Conv3d", (2, 3, 2), {"padding": "same"}, (1, 2, 4, 5, 3)),
    ("ConvTranspose1d", (3, 4, 5), {}, (2, 3, 6)),
    ("ConvTranspose1d", (4, 6, 3, 2, 1, 1, 2, False, 3), {}, (2, 4, 5)),
    ("ConvTranspose2d", (3, 2, 3), {}, (2, 3, 4, 5)),
    ("ConvTranspose2d", (4, 6, (2, 3), (2, 3), (0, 1), (1, 2), 2, False, (1, 2)), {}, (2, 4, 3, 4)),
    ("ConvTranspose2d", (3, 3, 4), {"stride": 2, "padding": 1, "groups": 3}, (2, 3, 5, 5)),
]


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # of PyTorch's copy
@pytest.mark.parametrize(("name", "arguments", "attributes", "shape"), LAYERS, ids=str)
def test_a_layer_with_torchs_weights_does_what_torchs_does(name, arguments, attributes, shape, torch):
    reference = getattr(torch.nn, name)(*arguments, **attributes).double()
    layer = getattr(nn, name)(*arguments, **attributes, dtype=np.float64)
    layer.load_state_dict({k: v.numpy() for k, v in reference.state_dict().items()})
    x = normal(*shape)
    assert_alike(ours(layer, x), theirs(torch, reference, x))
    wanted = dict(reference.named_parameters())
    got = dict(layer.named_parameters())
    assert list(got) == list(wanted)
    for key, parameter in got.items():
        np.testing.assert_allclose(np.array(getattr(parameter.grad, "data", parameter.grad)),
                                   wanted[key].grad.numpy(), rtol=1e-9, atol=1e-9)  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "attributes", "shape"), LAYERS, ids=str)
def test_initial_weights_have_torchs_bounds(name, arguments, attributes, shape):
    layer = getattr(nn, name)(*arguments, **attributes, rng=0)
    again = getattr(nn, name)(*arguments, **attributes, rng=0)
    bound = 1 / np.sqrt(np.prod(layer.weight.shape[1:]))
    for one, other in zip(layer.parameters(), again.parameters()):
        assert one.data.tobytes() == other.data.tobytes()
        assert np.abs(one.data).max() <= bound
    assert np.abs(layer.weight.data).max() > 0.7 * bound
    if layer.bias is not None:
        assert layer.bias.shape == (arguments[1],)


def test_descriptions():
    assert repr(nn.Conv2d(1, 2, 3, padding="same", groups=1)) == (
        "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding='same', bias=True)"
    )
    assert repr(nn.Conv3d(2, 4, 3, dilation=2, groups=2, activation="relu")) == (
        "Conv3d(2, 4, kernel_size=(3, 3, 3), stride=(1, 1, 1), padding=(0, 0, 0), dilation=(2, 2, 2), "
        "groups=2, bias=True, activation='relu')"
    )
    assert repr(nn.ConvTranspose2d(4, 2, 3, 2, 1, 1, bias=False)) == (
        "ConvTranspose2d(4, 2, kernel_size=(3, 3), stride=(2, 2), padding=(1, 1), bias=False, "
        "output_padding=(1, 1))"
    )
    assert repr(nn.ConvTranspose1d(4, 2, 3)) == (
        "ConvTranspose1d(4, 2, kernel_size=3, stride=1, padding=0, dilation=1, groups=1, bias=True)"
    )


def test_conv3d_takes_over_the_relu_that_follows():
    net = nn.Sequential(nn.Conv3d(2, 3, 2, rng=0), nn.ReLU())
    x = normal(1, 2, 3, 4, 5).astype(np.float32)
    got = np.array(net(nnk.Tensor(x)).data)
    assert (got == 0).any()
    np.testing.assert_allclose(got, F.conv3d(x, net[0].weight.data, net[0].bias.data).clip(0), atol=1e-6)


# ---------------------------------------------------------------- transposition


@pytest.mark.parametrize("more", [0, 1])
def test_a_transposed_convolution_is_the_transpose_and_has_the_sizes_back(more):
    x, w = normal(2, 3, 8 + more, 9), normal(4, 3, 3, 3, seed=1)
    y = F.conv2d(x, w, stride=2, padding=1)
    z = normal(*y.shape, seed=2)
    back = F.conv_transpose2d(z, w, stride=2, padding=1, output_padding=(1 - more, 0))
    assert back.shape == x.shape
    assert np.sum(y * z) == pytest.approx(np.sum(x * back), rel=1e-12)


@pytest.mark.parametrize(
    ("w", "attributes", "way"),
    [
        ((32, 32, 3, 3), {"padding": (1, 1)}, "winograd4"),
        ((32, 16, 4, 4), {"stride": (2, 2), "padding": (1, 1)}, "direct"),
        ((32, 1, 3, 3), {"groups": 32, "padding": (1, 1)}, "depthwise"),
        ((32, 1, 4, 4), {"groups": 32, "stride": (2, 2)}, "depthwise"),
    ],
    ids=str,
)
def test_each_method_adds_the_bias_to_every_pixel(w, attributes, way, torch):
    x = normal(4, 32, 17, 19)
    b = normal(w[1] * attributes.get("groups", 1), seed=4)
    y = F.conv_transpose2d(x, normal(*w, seed=3), b, **attributes)
    how = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1} | attributes
    assert methods(y.shape, w, *how.values()).dx == way
    wanted = torch.nn.functional.conv_transpose2d(
        *map(torch.tensor, (x, normal(*w, seed=3), b)), **attributes
    )
    np.testing.assert_allclose(y, wanted.numpy(), atol=1e-10)


def test_pixels_that_no_filter_reaches_hold_the_bias():
    y = F.conv_transpose2d(normal(1, 2, 3, 3), normal(2, 2, 1, 1), np.array([5.0, 7.0]), stride=3)
    assert (y[0, 0, 1] == 5).all()
    assert (y[0, 1, :, 2] == 7).all()


# ---------------------------------------------------------------- what explain says


def test_explain_names_the_convolution_behind(capsys):
    def told(*arguments, **attributes):
        nnk.explain(*arguments, **attributes)
        return dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())

    lines = told("conv2d", (8, 64, 56, 56), (64, 1, 3, 3), groups=64)
    assert all(line.startswith("depthwise: with a channel to each group") for line in lines.values())
    lines = told("conv_transpose2d", (8, 64, 16, 16), (64, 32, 4, 4), stride=2, padding=1)
    assert lines["forward"].startswith("conv2d's dx, direct: ")
    assert lines["dx"].startswith("conv2d's forward, pixels x filters: ")
    assert lines["dw"].startswith("conv2d's dw, pixels x taps: ")
    lines = told("conv3d", (2, 16, 8, 28, 28), (32, 16, 3, 3, 3), padding=1)
    assert lines["forward"].startswith("Winograd: ")
    assert lines["dw"].startswith("pixels x taps: 48 channels")


# ---------------------------------------------------------------- the lecture's correlation


def test_correlate_is_the_sum_of_the_lecture():
    x, u = normal(11), normal(4, seed=1)
    wanted = [sum(x[i + b] * u[b] for b in range(4)) for i in range(8)]
    np.testing.assert_allclose(F.correlate(x, u), wanted, rtol=1e-12)
    np.testing.assert_allclose(F.correlate(x, x), [x @ x], rtol=1e-12)
    step = F.correlate(np.array([0.0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4]), np.array([-1.0, 1]))
    assert step.tolist() == [0, 0, 0, 1, 1, 1, 1, 0, 0, 0]


def test_correlate_has_gradients():
    x, u = nnk.Tensor(normal(6), requires_grad=True), nnk.Tensor(normal(3, seed=1), requires_grad=True)
    F.correlate(x, u).sum().backward()
    x_grad, u_grad = (np.array(getattr(t.grad, "data", t.grad)) for t in (x, u))
    np.testing.assert_allclose(x_grad, np.convolve(np.ones(4), u.data), rtol=1e-12)
    np.testing.assert_allclose(u_grad, [x.data[b : b + 4].sum() for b in range(3)], rtol=1e-12)


@pytest.mark.parametrize(
    ("x", "u", "words"),
    [
        ((2, 3), (2,), r"correlate: x must have 1 axis, got shape \(2, 3\)"),
        ((3,), (1, 2), r"correlate: u must have 1 axis, got shape \(1, 2\)"),
        ((3,), (4,), "u must have from 1 to 3 elements, as many as x, got 4"),
        ((3,), (0,), "u must have from 1 to 3 elements, as many as x, got 0"),
    ],
)
def test_correlate_refuses(x, u, words):
    with pytest.raises(ValueError, match=words):
        F.correlate(normal(*x), normal(*u))
