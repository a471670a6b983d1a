"""Normalisation and dropout layers beside PyTorch's, with weights copied by their keys."""

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.ops import OPS, checks
from nnkernels.ops.op import Sample


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")


def normal(*shape, seed=0, dtype=np.float32):
    return np.asarray(np.random.default_rng(seed).normal(1, 2, shape), dtype)


def arrays_of(module):
    return {name: value.detach().numpy() for name, value in module.state_dict().items()}


def copied(ours, theirs, torch):
    """Give their module random weights, and ours the same."""
    generator = torch.Generator().manual_seed(0)
    for p in theirs.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    ours.load_state_dict(arrays_of(theirs))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    return ours, theirs


def compare(ours, theirs, x, torch, seed=1):
    """Compare outputs, the gradients of x and of all parameters, and the whole state."""
    mine, yours = nnk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    for p in (*ours.parameters(), *theirs.parameters()):
        p.grad = None
    y, wanted = ours(mine), theirs(yours)
    dy = normal(*x.shape, seed=seed)
    y.backward(dy)
    wanted.backward(torch.tensor(dy))
    np.testing.assert_allclose(y.data, wanted.detach().numpy(), atol=2e-5, rtol=1e-5)
    np.testing.assert_allclose(mine.grad.data, yours.grad.numpy(), atol=2e-5, rtol=1e-4)
    for p, q in zip(ours.parameters(), theirs.parameters()):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), atol=1e-4, rtol=1e-4)
    for name, array in arrays_of(theirs).items():
        np.testing.assert_allclose(ours.state_dict()[name], array, atol=1e-6, rtol=1e-5, err_msg=name)


BATCH_NORMS = [
    ("BatchNorm1d", (6, 4), {}),
    ("BatchNorm1d", (6, 4, 5), {"momentum": 0.3}),
    ("BatchNorm1d", (6, 4), {"momentum": None}),
    ("BatchNorm2d", (3, 4, 5, 2), {}),
    ("BatchNorm2d", (3, 4, 5, 2), {"eps": 0.1, "affine": False}),
    ("BatchNorm2d", (3, 4, 5, 2), {"track_running_stats": False}),
    ("BatchNorm2d", (3, 4, 5, 2), {"momentum": 0.0}),
]


@pytest.mark.parametrize(("name", "shape", "how"), BATCH_NORMS, ids=str)
def test_batch_norm_trains_and_evaluates_as_torchs(name, shape, how, torch):
    ours, theirs = copied(getattr(nn, name)(4, **how), getattr(torch.nn, name)(4, **how), torch)
    for seed in range(4):
        compare(ours, theirs, normal(*shape, seed=seed), torch)
    ours.eval(), theirs.eval()
    compare(ours, theirs, normal(*shape, seed=9), torch)
    compare(
        ours, theirs, normal(1, *shape[1:], seed=9) if ours.track_running_stats else normal(*shape), torch
    )
    ours.train(), theirs.train()
    compare(ours, theirs, normal(*shape, seed=5), torch)


def test_batch_norm_keeps_torchs_keys_and_kinds(torch):
    ours, theirs = nn.BatchNorm2d(3).state_dict(), torch.nn.BatchNorm2d(3).state_dict()
    assert {k: (v.shape, str(v.dtype)) for k, v in ours.items()} == {
        k: (tuple(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in theirs.items()
    }
    assert list(nn.BatchNorm1d(3, track_running_stats=False).state_dict()) == ["weight", "bias"]
    assert dict(nn.BatchNorm1d(3, affine=False).named_parameters()) == {}


@pytest.mark.parametrize("record", [True, False])
def test_running_statistics_move_whatever_is_given(record):
    """Tensors, recorded or not, and plain arrays: the same statistics, and the mean of all batches."""
    x = normal(8, 3, 4)
    layer, plain = (nn.BatchNorm1d(3, momentum=None, affine=record) for _ in range(2))
    for seed in range(3):
        x = normal(8, 3, 4, seed=seed)
        layer(nnk.tensor(x, requires_grad=record))
        with nnk.no_grad():
            plain(x)
    for name, array in layer.named_buffers():
        np.testing.assert_array_equal(array, dict(plain.named_buffers())[name])
    batches = [normal(8, 3, 4, seed=seed) for seed in range(3)]
    mean = np.mean([b.mean(axis=(0, 2)) for b in batches], axis=0)
    var = np.mean([b.var(axis=(0, 2), ddof=1) for b in batches], axis=0)
    np.testing.assert_allclose(layer.running_mean, mean, rtol=1e-5)
    np.testing.assert_allclose(layer.running_var, var, rtol=1e-5)
    assert layer.num_batches_tracked == 3
    layer.reset_running_stats()
    assert layer.num_batches_tracked == 0
    assert layer.running_mean.tolist() == [0] * 3
    assert layer.running_var.tolist() == [1] * 3


def test_a_tiny_variance_is_tracked_as_such():
    layer = nn.BatchNorm1d(2, momentum=1.0, affine=False)
    layer(np.float32([[1, 5], [1, 5], [1, 5]]))
    np.testing.assert_allclose(layer.running_var, 0, atol=1e-11)
    np.testing.assert_array_equal(layer.running_mean, [1, 5])
    y = layer.eval()(np.float32([[1, 5]]))
    np.testing.assert_array_equal(y, 0)


def test_evaluation_moves_nothing_and_examples_do_not_meet():
    layer = nn.BatchNorm1d(3)
    layer(normal(6, 3))
    before = layer.eval().state_dict()
    x = normal(5, 3, seed=2)
    y = layer(nnk.tensor(x)).data
    np.testing.assert_allclose(y[2:3], layer(nnk.tensor(x[2:3])).data, rtol=1e-6)
    assert all(np.array_equal(before[name], array) for name, array in layer.state_dict().items())
    assert layer(nnk.tensor(x[:0])).shape == (0, 3)


def test_functional_batch_norm_updates_in_place_as_torch(torch):
    x, w, b = normal(6, 3, 2), normal(3, seed=1), normal(3, seed=2)
    mean, var = normal(3, seed=3), np.abs(normal(3, seed=4)) + np.float32(0.5)
    t = torch.tensor
    their_mean, their_var = t(mean), t(var)
    for training in (True, False, True):
        got = F.batch_norm(x, mean, var, w, b, training, 0.2, 1e-3)
        tnn = torch.nn.functional
        wanted = tnn.batch_norm(t(x), their_mean, their_var, t(w), t(b), training, 0.2, 1e-3)
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-5)
        np.testing.assert_allclose(mean, their_mean.numpy(), rtol=1e-5)
        np.testing.assert_allclose(var, their_var.numpy(), rtol=1e-5)


OTHERS = [
    ("LayerNorm", (5,), {}, (3, 4, 5)),
    ("LayerNorm", ((4, 5),), {"eps": 0.1}, (3, 4, 5)),
    ("LayerNorm", ((4, 5), 1e-3, True, False), {}, (3, 4, 5)),
    ("LayerNorm", (5,), {"elementwise_affine": False}, (2, 5)),
    ("GroupNorm", (3, 6), {}, (2, 6, 4, 3)),
    ("GroupNorm", (2, 6, 0.1, False), {}, (3, 6, 5)),
    ("InstanceNorm2d", (4,), {}, (2, 4, 3, 5)),
    ("InstanceNorm2d", (4, 1e-2), {"affine": True}, (2, 4, 3, 5)),
    ("RMSNorm", (5,), {}, (3, 4, 5)),
    ("RMSNorm", ([4, 5], 0.1), {}, (3, 4, 5)),
    ("RMSNorm", (5,), {"elementwise_affine": False}, (2, 5)),
    ("LocalResponseNorm", (5,), {"alpha": 0.3}, (2, 8, 3, 3)),
    ("LocalResponseNorm", (2, 0.5, 0.5, 2.0), {}, (2, 3, 4)),
]


@pytest.mark.parametrize(("name", "arguments", "options", "shape"), OTHERS, ids=str)
def test_layer_equals_torchs(name, arguments, options, shape, torch):
    ours, theirs = (getattr(module, name)(*arguments, **options) for module in (nn, torch.nn))
    copied(ours, theirs, torch)
    compare(ours, theirs, normal(*shape), torch)
    assert all(word in repr(ours) for word in (name, "=" if options else "("))


def test_defaults_are_torchs(torch):
    for name, arguments in (
        ("BatchNorm1d", (3,)), ("BatchNorm2d", (3,)), ("GroupNorm", (1, 3)), ("LocalResponseNorm", (3,)),
        ("LayerNorm", (3,)), ("RMSNorm", (3,)), ("InstanceNorm2d", (3,)), ("Dropout", ()), ("Dropout2d", ()),
    ):  # fmt: skip
        ours, theirs = (getattr(module, name)(*arguments) for module in (nn, torch.nn))
        for attribute in ("eps", "momentum", "affine", "alpha", "beta", "k", "p", "track_running_stats",
                          "elementwise_affine", "normalized_shape", "training"):  # fmt: skip
            assert getattr(ours, attribute, None) == getattr(theirs, attribute, None), (name, attribute)


def test_normalising_nothing_gives_nothing():
    assert F.group_norm(normal(0, 4, 3), 2).shape == (0, 4, 3)
    leaf = nnk.tensor(normal(0, 4, 3), requires_grad=True)
    weight = nnk.tensor(normal(4), requires_grad=True)
    F.group_norm(leaf, 2, weight).sum().backward()
    assert leaf.grad.shape == (0, 4, 3)
    assert weight.grad.data.tolist() == [0] * 4


def raising(error, words, call):
    with pytest.raises(error, match=words):
        call()


def test_errors_of_the_layers():
    x = normal(4, 3)
    for call, error, words in (
        (lambda: nn.BatchNorm1d(0), ValueError, "num_features must be at least 1, got 0"),
        (lambda: nn.BatchNorm1d(3, momentum="0.1"), TypeError, "momentum must be a number, got str"),
        (lambda: nn.BatchNorm1d(4)(x), ValueError, r"with C = 4, got shape \(4, 3\)"),
        (lambda: nn.BatchNorm2d(3)(x), ValueError, r"must be \(N, C, H, W\)"),
        (lambda: nn.BatchNorm1d(3)(x[:1]), ValueError, "at least 2 values per channel"),
        (lambda: F.batch_norm(x, None, None), ValueError, "must be given unless training=True"),
        (lambda: F.batch_norm(x, x[0], None, training=True), ValueError, "given both, or neither"),
        (lambda: F.batch_norm(x, x[0], [1, 1, 1], training=True), TypeError, "running_var must be a float32"),
        (lambda: F.batch_norm(x, x[0], x[0, :2], training=True), ValueError, "running_var must have shape"),
        (lambda: nn.GroupNorm(2, 5), ValueError, "num_groups must divide num_channels 5, got 2"),
        (lambda: nn.GroupNorm(2, 4)(x), ValueError, r"x must be \(N, 4, ...\)"),
        (lambda: nn.InstanceNorm2d(3, track_running_stats=True), ValueError, "must be False, got True"),
        (lambda: nn.InstanceNorm2d(3)(x), ValueError, r"x must be \(N, 3, H, W\)"),
        (lambda: nn.LayerNorm(0), ValueError, "normalized_shape must be at least 1"),
        (lambda: nn.RMSNorm(2)(x), ValueError, "must be the trailing axes"),
        (lambda: nn.LocalResponseNorm(0), ValueError, "size must be at least 1, got 0"),
        (lambda: nn.Dropout(1.5), ValueError, r"Dropout: p must be in \[0, 1\], got 1.5"),
        (lambda: nn.Dropout2d(0.5)(x), ValueError, "x must have 4 axes"),
        (lambda: nn.Dropout1d(0.5)(x[0]), ValueError, "x must have 3 axes"),
        (lambda: F.dropout(x, -1), ValueError, "p must be at least 0, got -1"),
    ):
        raising(error, words, call)


# --- dropout ---


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_expectation_and_drops_as_often_as_p_says(p):
    x = np.ones((400, 500), np.float32)
    y = nn.Dropout(p, rng=0)(x)
    dropped = np.mean(y == 0)
    assert abs(dropped - p) < 5 * np.sqrt(p * (1 - p) / x.size)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)
    assert abs(y.mean() - 1) < 5 * np.sqrt(p / (1 - p) / x.size)


def test_dropout_is_repeatable_and_every_call_draws_anew():
    x = normal(20, 30)
    first, second = nn.Dropout(0.5, rng=3), nn.Dropout(0.5, rng=3)
    a, b = first(x), first(x)
    assert not np.array_equal(a, b)
    np.testing.assert_array_equal(a, second(x))
    np.testing.assert_array_equal(b, second(x))
    np.testing.assert_array_equal(F.dropout(x, 0.5, rng=3), a)
    shared = np.random.default_rng(3)
    np.testing.assert_array_equal(nn.Dropout(0.5, rng=shared)(x), a)
    np.testing.assert_array_equal(nn.Dropout(0.5, rng=shared)(x), b)


def test_dropout_of_nothing_and_of_everything_is_exact():
    x = normal(50, 7)
    np.testing.assert_array_equal(nn.Dropout(0, rng=0)(x), x)
    np.testing.assert_array_equal(nn.Dropout(0.0, rng=0)(x), x)
    np.testing.assert_array_equal(nn.Dropout(1, rng=0)(x), 0 * x)
    leaf = nnk.tensor(x, requires_grad=True)
    F.dropout(leaf, 1.0).sum().backward()
    np.testing.assert_array_equal(leaf.grad.data, 0)


def test_dropout_in_evaluation_is_the_identity():
    x = nnk.tensor(normal(3, 4))
    for layer in (nn.Dropout(0.9), nn.Dropout(1.0)):
        assert layer.eval()(x) is x
    assert F.dropout(x, 0.9, training=False) is x


def test_dropout_passes_gradients_where_it_passes_values():
    x = nnk.tensor(normal(8, 9), requires_grad=True)
    y = nn.Dropout(0.4, rng=1)(x)
    dy = normal(8, 9, seed=2)
    y.backward(dy)
    np.testing.assert_allclose(x.grad.data, np.where(y.data == 0, 0, dy / np.float32(0.6)), rtol=1e-6)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [(nn.Dropout2d, (30, 20, 3, 2)), (nn.Dropout1d, (30, 20, 5)), (nn.Dropout1d, (600, 5))],
)
def test_channels_are_dropped_whole(layer, shape):
    x = np.abs(normal(*shape)) + np.float32(1)
    y = layer(0.3, rng=0)(x)
    ratio = (y / x).reshape(600, -1)
    np.testing.assert_allclose(ratio, np.repeat(ratio[:, :1], ratio.shape[1], axis=1), rtol=1e-6)
    assert set(np.round(ratio[:, 0].astype(float), 4)) == {0, round(1 / 0.7, 4)}
    assert abs(np.mean(ratio[:, 0] == 0) - 0.3) < 0.1


LARGE = {
    "channels dropped": ("dropout", ((40, 30, 15, 17), None), {"p": 0.4}),
    "short rows": ("batch_norm_inference", ((3000, 37, 3), 37, 37, 37, 37), {}),
    "one position": ("batch_norm_inference", ((3000, 97), 97, 97, 97, 97), {}),
    "few large groups": ("group_norm", ((2, 4, 150, 130), 4, 4), {"num_groups": 2}),
    "many small groups": ("group_norm", ((700, 30, 4), 30, 30), {"num_groups": 15}),
    "strips": ("local_response_norm", ((3, 70, 31, 11),), {"size": 4, "alpha": 2.0, "beta": 0.6}),
    "more channels than a strip holds": ("local_response_norm", ((1, 5000, 9),), {"size": 3, "alpha": 2.0}),
}


@pytest.mark.parametrize(("op", "sizes", "how"), LARGE.values(), ids=LARGE)
def test_large_calls_agree_and_do_not_depend_on_threads(op, sizes, how):
    arrays = [normal(*np.atleast_1d(shape), seed=i) for i, shape in enumerate(sizes) if shape is not None]
    if op == "dropout":
        arrays.append(normal(*sizes[0][:2]) > 0)
    if op == "batch_norm_inference":
        arrays[2] = np.abs(arrays[2]) + np.float32(0.5)
    sample = Sample(op, tuple(arrays), how)
    checks.check_threads(OPS[op], sample, np.random.default_rng(1))
    checks.check_agreement(OPS[op], "tuned", sample, np.random.default_rng(1))


def test_a_summary_leaves_statistics_and_generators_alone():
    net = nn.Sequential(nn.Conv2d(1, 3, 3, rng=0), nn.BatchNorm2d(3), nn.ReLU(), nn.Dropout2d(0.5, rng=1))
    before = net.state_dict()
    table = nn.summary(net, (2, 1, 6, 6))
    assert [row.parameters for row in table.rows] == [30, 6, 0, 0]
    assert net.training
    assert all(np.array_equal(before[name], array) for name, array in net.state_dict().items())
    x = np.ones((2, 3, 4, 4), np.float32)
    np.testing.assert_array_equal(net[3](x), nn.Dropout2d(0.5, rng=1)(x))


def test_dropout_stands_in_a_network_and_follows_train_and_eval():
    net = nn.Sequential(nn.Linear(4, 50, rng=0), nn.ReLU(), nn.Dropout(0.5, rng=1), nn.Linear(50, 2, rng=2))
    x = normal(6, 4)
    assert not np.array_equal(net(x).data, net(x).data)
    net.eval()
    np.testing.assert_array_equal(net(x).data, net(x).data)
    assert list(net.state_dict()) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert "(2): Dropout(p=0.5)" in repr(net)
