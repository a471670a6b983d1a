"""Initial weights: what is promised of them, measured; gains and fans beside PyTorch's."""

import math

import numpy as np
import pytest

from nnkernels import nn
from nnkernels.nn import init


def weight(*shape):
    return nn.Parameter(np.full(shape, np.nan))


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")


@pytest.mark.parametrize("shape", [(30, 30), (20, 50), (50, 20), (8, 3, 2, 2), (40, 2, 3), (1, 5), (5, 1)])
def test_orthogonal_matrices_are_orthogonal(shape):
    w = weight(*shape)
    assert init.orthogonal_(w, gain=1.5, rng=0) is w
    q = w.data.reshape(shape[0], -1)
    gram = q @ q.T if q.shape[0] <= q.shape[1] else q.T @ q
    np.testing.assert_allclose(gram, 1.5**2 * np.eye(len(gram)), atol=1e-12)


def test_orthogonal_matrices_favour_no_direction():
    """Without the signs of R's diagonal, the trace of a 2 x 2 matrix would have a mean far from 0."""
    draws = np.array([init.orthogonal_(weight(2, 2), rng=seed).data for seed in range(4000)])
    assert np.abs(draws.mean(axis=0)).max() < 5 * math.sqrt(0.5 / 4000)
    np.testing.assert_allclose((draws**2).mean(axis=0), 0.5, atol=5 * math.sqrt(0.125 / 4000))
    assert abs((np.linalg.det(draws) > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(4000)


def test_sparse_matrices_have_as_many_zeros_in_every_column():
    w = init.sparse_(weight(50, 300), 0.31, std=0.2, rng=0).data
    np.testing.assert_array_equal((w == 0).sum(axis=0), math.ceil(0.31 * 50))
    assert w[w != 0].std() == pytest.approx(0.2, rel=0.03)
    assert (w == 0).mean(axis=1).min() > 0.2  # rows are chosen anew for each column
    assert (init.sparse_(weight(4, 3), 1, rng=0).data == 0).all()
    assert (init.sparse_(weight(4, 3), 0, rng=0).data != 0).all()


def test_truncated_normal_draws_stay_inside_and_keep_their_shape():
    w = init.trunc_normal_(weight(200, 300), 0.5, 2.0, -1.0, 3.0, rng=0).data
    assert w.min() >= -1
    assert w.max() <= 3
    from scipy import stats

    wanted = stats.truncnorm((-1 - 0.5) / 2, (3 - 0.5) / 2, 0.5, 2.0)
    assert w.mean() == pytest.approx(wanted.mean(), abs=5 * wanted.std() / math.sqrt(w.size))
    assert w.std() == pytest.approx(wanted.std(), rel=0.02)
    with pytest.raises(ValueError, match=r"got \[10, 11\]"):
        init.trunc_normal_(weight(3), a=10, b=11)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
@pytest.mark.parametrize(
    ("how", "variance"),
    [
        ({}, 2 / 240),
        ({"mode": "fan_out"}, 2 / 1200),
        ({"a": 0.5}, 2 / 1.25 / 240),
        ({"nonlinearity": "tanh", "mode": "fan_out"}, 25 / 9 / 1200),
    ],
    ids=str,
)
def test_variance_of_kaiming_draws(kind, how, variance):
    w = getattr(init, f"kaiming_{kind}_")(weight(200, 40, 2, 3), rng=0, **how).data
    assert w.var() == pytest.approx(variance, rel=0.03)  # 48000 draws
    assert abs(w.mean()) < 5 * math.sqrt(variance / w.size)


def test_he_takes_the_mode_as_well():
    a, b = weight(20, 30), weight(20, 30)
    init.he_normal_(a, rng=1)
    init.he_normal_(b, rng=1, mode="fan_out")
    np.testing.assert_allclose(b.data, a.data * math.sqrt(30 / 20), rtol=1e-12)


def test_gains_are_torchs(torch):
    names = ["linear", "sigmoid", "tanh", "relu", "selu", "leaky_relu", "conv1d", "conv2d", "conv3d",
             "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]  # fmt: skip
    for name in names:
        assert init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name), rel=1e-12)
    for slope in (0, 0.3, -1):
        wanted = torch.nn.init.calculate_gain("leaky_relu", slope)
        assert init.calculate_gain("leaky_relu", slope) == pytest.approx(wanted, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("Linear", (7, 5)),
        ("Conv1d", (4, 6, 3)),
        ("Conv2d", (4, 6, (3, 2), 1, 0, 1, 2)),
        ("Conv3d", (2, 3, 4)),
        ("ConvTranspose1d", (4, 6, 3)), ("ConvTranspose2d", (4, 6, 3)),
    ],
)  # fmt: skip
def test_fans_are_torchs_for_every_kind_of_layer(kind, arguments, torch):
    shape = tuple(getattr(torch.nn, kind)(*arguments).weight.shape)
    wanted = torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))
    assert init.fans(weight(*shape)) == wanted


def test_fixed_fillings(torch):
    assert init.ones_(weight(2, 3)).data.tolist() == [[1] * 3] * 2
    np.testing.assert_array_equal(init.eye_(weight(2, 3)).data, np.eye(2, 3))
    for shape, groups in (((6, 4, 3), 1), ((6, 2, 3, 4), 3), ((3, 5, 2, 2, 3), 1)):
        wanted = torch.nn.init.dirac_(torch.empty(shape), groups).numpy()
        np.testing.assert_array_equal(init.dirac_(weight(*shape), groups).data, wanted)


def test_a_dirac_filter_hands_its_input_on():
    layer = nn.Conv2d(3, 3, 3, padding=1, bias=False)
    init.dirac_(layer.weight)
    x = np.random.default_rng(0).standard_normal((2, 3, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(layer(x).data, x, atol=1e-6)


def test_signals_keep_their_size_through_eight_layers():
    x = np.random.default_rng(0).standard_normal((64, 512))
    size = {}
    for nonlinearity in ("relu", "linear"):
        y = x
        for i in range(8):
            w = init.kaiming_normal_(weight(512, 512), nonlinearity=nonlinearity, rng=9 + i).data
            y = np.maximum(y @ w.T, 0)
        size[nonlinearity] = (y**2).mean()
    assert 0.3 < size["relu"] < 3
    assert size["linear"] < 0.02  # each layer loses half


def test_errors_name_the_argument():
    for call, words in (
        (lambda: init.orthogonal_(weight(3)), r"at least 2 axes .*\(3,\)"),
        (lambda: init.sparse_(weight(3, 2, 1), 0.5), r"must have 2 axes, got shape \(3, 2, 1\)"),
        (lambda: init.sparse_(weight(3, 2), 1.5), r"sparsity must be in \[0, 1\], got 1.5"),
        (lambda: init.eye_(weight(3)), "must have 2 axes"),
        (lambda: init.dirac_(weight(3, 2)), "at least 3 axes"),
        (lambda: init.dirac_(weight(3, 2, 2), 2), "groups must divide"),
        (
            lambda: init.kaiming_normal_(weight(3, 2), mode="fan"),
            "mode must be one of fan_in, fan_out, got 'fan'",
        ),
        (lambda: init.calculate_gain("swish"), "nonlinearity must be one of .*tanh, got 'swish'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
    with pytest.raises(TypeError, match="param must be a number, got str"):
        init.calculate_gain("leaky_relu", "0.1")
