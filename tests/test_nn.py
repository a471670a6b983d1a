"""Modules, layers, losses, initial weights, LeNet-5, and what a user can do wrong with them."""

import math
import re
from importlib.util import find_spec

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.nn import init

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is the oracle here")


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


class Net(nn.Module):
    """Two layers, an activation, a parameter and a buffer of its own."""

    def __init__(self, rng=0):
        super().__init__()
        rng = np.random.default_rng(rng)
        self.first = nn.Linear(3, 4, rng=rng)
        self.act = nn.ReLU()
        self.rest = nn.Sequential(nn.Linear(4, 4, rng=rng), nn.Tanh(), nn.Linear(4, 2, bias=False, rng=rng))
        self.scale = nn.Parameter(np.float32([1.5]))
        self.register_buffer("shift", np.float32([0.25, -0.25]))

    def forward(self, x):
        return self.rest(self.act(self.first(x))) * self.scale + self.shift


NAMES = ["scale", "first.weight", "first.bias", "rest.0.weight", "rest.0.bias", "rest.2.weight"]


# ---------------------------------------------------------------- Module


def test_parameters_come_in_order_with_dotted_names():
    net = Net()
    assert [name for name, _ in net.named_parameters()] == NAMES
    assert [p.shape for p in net.parameters()] == [(1,), (4, 3), (4,), (4, 4), (4,), (2, 4)]
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in net.parameters())
    assert [name for name, _ in net.named_buffers()] == ["shift"]
    assert [n for n, _ in net.named_modules()] == ["", "first", "act", "rest", "rest.0", "rest.1", "rest.2"]
    assert list(net.children()) == [net.first, net.act, net.rest]


def test_a_shared_parameter_is_listed_once_and_learns_from_both_uses():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    assert [name for name, _ in net.named_parameters()] == ["0.weight"]
    w, x = net[0].weight, np.float32([[1.0, 2.0]])
    w.data[...] = [[1, 2], [3, 4]]
    net(x).sum().backward()
    # y = W W x: d sum(y) / dW = 1 (W x)^T + (W^T 1) x^T
    np.testing.assert_array_equal(w.grad.data, np.outer([1, 1], [5, 11]) + np.outer([4, 6], [1, 2]))


def test_reassigning_moves_a_name_from_kind_to_kind():
    net = nn.Linear(2, 2)
    net.bias = None
    assert [name for name, _ in net.named_parameters()] == ["weight"]
    assert net(np.ones((1, 2), np.float32)).shape == (1, 2)
    net.weight = nn.Linear(1, 1)
    assert [name for name, _ in net.named_parameters()] == ["weight.weight", "weight.bias"]
    del net.weight
    assert list(net.named_parameters()) == []


def test_a_buffer_computed_anew_stays_a_buffer():
    net = Net()
    net.shift = net.shift * 2
    assert net.state_dict()["shift"].tolist() == [0.5, -0.5]
    net.shift = None
    assert "shift" not in net.state_dict()


def test_train_and_eval_reach_every_module():
    net = Net()
    assert all(m.training for m in net.modules())
    assert net.eval() is net
    assert not any(m.training for m in net.modules())
    net.rest.train()
    assert [m.training for m in net.modules()] == [False, False, False, True, True, True, True]


def test_apply_visits_children_first_and_returns_the_module():
    net, seen = Net(), []
    assert net.apply(lambda m: seen.append(type(m).__name__)) is net
    assert seen == ["Linear", "ReLU", "Linear", "Tanh", "Linear", "Sequential", "Net"]


def test_the_repr_shows_the_tree():
    assert repr(Net()) == (
        "Net(\n"
        "  (first): Linear(3, 4, bias=True)\n"
        "  (act): ReLU()\n"
        "  (rest): Sequential(\n"
        "    (0): Linear(4, 4, bias=True)\n"
        "    (1): Tanh()\n"
        "    (2): Linear(4, 2, bias=False)\n"
        "  )\n"
        ")"
    )
    assert repr(nn.Conv1d(2, 4, 5, groups=2)) == (
        "Conv1d(2, 4, kernel_size=5, stride=1, padding=0, dilation=1, groups=2, bias=True)"
    )
    assert repr(nn.Conv2d(1, 6, 5, padding=2)) == (
        "Conv2d(1, 6, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2), bias=True)"
    )


def test_assigning_before_super_init_says_what_to_do():
    class Hasty(nn.Module):
        def __init__(self):
            self.layer = nn.Linear(1, 1)

    with pytest.raises(AttributeError, match=r"call super\(\).__init__\(\) before assigning Hasty.layer"):
        Hasty()


def test_a_module_without_forward_says_so():
    with pytest.raises(TypeError, match="Loose does not define forward"):
        type("Loose", (nn.Module,), {})()(1)


def test_zero_grad_forgets_all_gradients():
    net = Net()
    net(normal(5, 3)).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_forward_hooks_see_each_call_until_removed():
    net, seen = nn.ReLU(), []
    remove = net.register_forward_hook(lambda m, x, y: seen.append((m, x[0].tolist(), y.tolist())))
    net(np.float32([-1, 2]))
    remove()
    net(np.float32([-3, 4]))
    assert seen == [(net, [-1, 2], [0, 2])]


def test_sequential_takes_modules_only():
    net = nn.Sequential(nn.ReLU(), nn.Tanh())
    assert len(net) == 2
    assert net[-1] is list(net.children())[1]
    with pytest.raises(TypeError, match="argument 1 must be a Module, got function"):
        nn.Sequential(nn.ReLU(), F.tanh)


# ---------------------------------------------------------------- state


def test_state_dict_holds_copies_that_restore_the_model():
    net, x = Net(), normal(5, 3)
    state, before = net.state_dict(), net(x).data.copy()
    assert sorted(state) == sorted([*NAMES, "shift"])
    for p in net.parameters():
        p.data += 1
    net.shift += 1
    assert not np.array_equal(net(x).data, before)
    weight = net.first.weight
    net.load_state_dict(state)
    np.testing.assert_array_equal(net(x).data, before)
    assert net.first.weight is weight  # in place: optimizers keep their hold
    state["first.weight"][...] = 9
    np.testing.assert_array_equal(net(x).data, before)


def test_load_state_dict_names_every_fault_and_changes_nothing():
    net = Net()
    before = net.state_dict()
    state = {name: value + 1 for name, value in before.items()}
    del state["first.bias"], state["scale"]
    state["first.weight"] = np.zeros((3, 4), np.float32)
    state["shift"] = np.zeros(3, np.float32)
    state["extra.weight"] = np.zeros(1, np.float32)
    state["rest.0.bias"] = np.array(["a"] * 4)
    with pytest.raises(ValueError, match="load_state_dict") as caught:
        net.load_state_dict(state)
    assert str(caught.value).splitlines() == [
        "load_state_dict: the state does not fit Net:",
        "missing (2): scale, first.bias;",
        "unexpected (1): extra.weight;",
        "shapes (2): first.weight (3, 4) instead of (4, 3), shift (3,) instead of (2,);",
        "dtypes (1): rest.0.bias holds <U1",
    ]
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_load_state_dict_names_hundreds_of_keys_on_a_line_for_each_kind():
    deep = nn.Sequential(*(nn.Linear(2, 2) for _ in range(200)))
    state = {f"old.{i}": np.zeros(2) for i in range(300)}
    state |= {f"{i}.bias": np.zeros(3) for i in range(100)}
    with pytest.raises(ValueError, match="load_state_dict") as caught:
        deep.load_state_dict(state)
    missing, unexpected, shapes = str(caught.value).splitlines()[1:]
    missed = [f"{i}.weight" for i in range(100)]
    missed += [f"{i}.{name}" for i in range(100, 200) for name in ("weight", "bias")]
    assert missing == f"missing (300): {', '.join(missed)};"
    assert unexpected == f"unexpected (300): {', '.join(f'old.{i}' for i in range(300))};"
    assert shapes.split(": ")[1] == ", ".join(f"{i}.bias (3,) instead of (2,)" for i in range(100))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (None, TypeError, "scale is NoneType"),
        ("1.5", TypeError, "scale is str"),
        ({"data": [1.5]}, TypeError, "scale is dict"),
        ([[1.0], [2.0, 3.0]], TypeError, "scale cannot become a NumPy array"),
        (np.array([None]), ValueError, "scale holds object"),
        (np.array([1.5j]), ValueError, "scale holds complex128"),
        (np.array(["1.5"]), ValueError, "scale holds <U3"),
        (np.array([1e300]), ValueError, "scale holds numbers that float32 cannot hold"),
    ],
)
@pytest.mark.parametrize("strict", [True, False])
def test_load_state_dict_refuses_what_is_no_array_of_real_numbers(value, error, words, strict):
    net = Net()
    before = net.state_dict()
    state = {name: array + 1 for name, array in before.items()} | {"scale": value}
    with pytest.raises(error, match=re.escape(words)):
        net.load_state_dict(state, strict)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_load_state_dict_takes_nan_other_dtypes_and_lists():
    net = Net()
    state = {name: array.astype(np.float64) for name, array in net.state_dict().items()}
    state |= {"scale": [np.nan], "shift": np.array([np.inf, -1], np.float16)}
    net.load_state_dict(state)
    assert net.scale.data.dtype == net.shift.dtype == np.float32
    assert np.isnan(net.scale.data).all()
    assert net.shift.tolist() == [np.inf, -1]


def test_load_state_dict_takes_parameters_of_another_model():
    net, other = Net(rng=1), Net(rng=2)
    net.load_state_dict(dict(other.named_parameters()) | {"shift": other.shift})
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, other.state_dict()[name])


@pytest.mark.sim
def test_load_state_dict_takes_parameters_from_a_gpu():
    pytest.importorskip("greenlet", reason="the simulator comes with an extra")
    net, other = nn.Linear(3, 2, rng=1), nn.Linear(3, 2, rng=2)
    with nnk.simulate_gpu():
        other.cuda()
        net.load_state_dict(dict(other.named_parameters()))
        np.testing.assert_array_equal(net.weight.data, other.state_dict()["weight"])


def test_load_state_dict_wants_a_dict():
    with pytest.raises(TypeError, match="state must be a dict of arrays, got str"):
        Net().load_state_dict("weights.npz")


def test_numbers_a_counter_cannot_hold_are_refused():
    norm = nn.BatchNorm1d(3)
    with pytest.raises(ValueError, match="num_batches_tracked holds numbers that int64 cannot hold"):
        norm.load_state_dict({"num_batches_tracked": np.float32(np.nan)}, strict=False)
    assert norm.num_batches_tracked == 0


def test_loading_without_strict_takes_what_fits_and_still_refuses_wrong_shapes():
    net = Net()
    net.load_state_dict({"scale": [7.0], "unknown": np.zeros(3)}, strict=False)
    assert net.scale.data.tolist() == [7.0]
    with pytest.raises(ValueError, match=re.escape("scale (2,) instead of (1,)")):
        net.load_state_dict({"scale": [1.0, 2.0], "first.bias": np.zeros(4)}, strict=False)
    assert net.first.bias.data.any()


def torch_net():
    import torch

    class TorchNet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first = torch.nn.Linear(3, 4)
            self.act = torch.nn.ReLU()
            self.rest = torch.nn.Sequential(
                torch.nn.Linear(4, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2, bias=False)
            )
            self.scale = torch.nn.Parameter(torch.tensor([1.5]))
            self.register_buffer("shift", torch.tensor([0.25, -0.25]))

        def forward(self, x):
            return self.rest(self.act(self.first(x))) * self.scale + self.shift

    return TorchNet()


@needs_torch
def test_state_goes_to_torch_and_back_under_the_same_keys_and_shapes():
    import torch

    theirs, net, x = torch_net(), Net(), normal(6, 3)
    state = theirs.state_dict()
    assert {k: tuple(v.shape) for k, v in state.items()} == {k: v.shape for k, v in net.state_dict().items()}
    assert [name for name, _ in theirs.named_parameters()] == NAMES
    net.load_state_dict(state)
    with torch.no_grad():
        wanted = theirs(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(net(x).data, wanted, rtol=1e-5, atol=1e-6)
    ours = {name: torch.from_numpy(value) for name, value in Net(rng=5).state_dict().items()}
    theirs.load_state_dict(ours)
    with torch.no_grad():
        np.testing.assert_allclose(
            Net(rng=5)(x).data, theirs(torch.from_numpy(x)).numpy(), rtol=1e-5, atol=1e-6
        )


@needs_torch
def test_torch_state_with_counters_and_half_precision_loads():
    import torch

    theirs, ours = torch.nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    theirs(torch.randn(4, 3))
    ours.load_state_dict(theirs.state_dict())
    assert ours.num_batches_tracked.shape == ()
    assert ours.num_batches_tracked == 1
    ours.load_state_dict(theirs.half().state_dict())
    np.testing.assert_array_equal(ours.running_mean, theirs.running_mean.numpy().astype(np.float32))


@needs_torch
def test_torch_tensors_numpy_cannot_read_are_named():
    theirs, net = torch_net(), Net()
    before = net.state_dict()
    for state, words in (
        (dict(theirs.named_parameters()), r"scale cannot .* requires grad"),
        (theirs.bfloat16().state_dict(), r"scale cannot .* BFloat16"),
    ):
        with pytest.raises(TypeError, match=words):
            net.load_state_dict(state, strict=False)
    for name, array in net.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@needs_torch
def test_a_shared_parameter_has_all_its_keys_in_the_state_as_in_torch():
    import torch

    theirs = torch.nn.Sequential(torch.nn.Linear(3, 3, bias=False), torch.nn.Linear(3, 3, bias=False))
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    theirs[1].weight, net[1].weight = theirs[0].weight, net[0].weight
    state = theirs.state_dict()
    assert list(net.state_dict()) == list(state)
    net.load_state_dict(state)
    np.testing.assert_array_equal(net[0].weight.data, state["0.weight"].numpy())


# ---------------------------------------------------------------- layers


def layer_pairs():
    """Pairs (label, our layer, torch's, input shape)."""
    import torch.nn as tnn

    yield "linear", nn.Linear(5, 3), tnn.Linear(5, 3), (4, 5)
    yield "linear no bias", nn.Linear(5, 3, bias=False), tnn.Linear(5, 3, bias=False), (4, 5)
    yield "linear, vectors", nn.Linear(5, 3), tnn.Linear(5, 3), (5,)
    yield "linear, sequences", nn.Linear(5, 3), tnn.Linear(5, 3), (2, 7, 5)
    yield "conv1d", nn.Conv1d(3, 4, 5), tnn.Conv1d(3, 4, 5), (2, 3, 9)
    row = 4, 6, 3, 2, 1, 2, 2
    yield "conv1d ragged", nn.Conv1d(*row, bias=False), tnn.Conv1d(*row, bias=False), (3, 4, 11)
    yield "conv", nn.Conv2d(3, 4, 3), tnn.Conv2d(3, 4, 3), (2, 3, 7, 6)
    conv = 2, 5, (3, 2), (2, 1), (1, 2)
    yield "conv ragged", nn.Conv2d(*conv, bias=False), tnn.Conv2d(*conv, bias=False), (3, 2, 8, 5)
    yield "max pool", nn.MaxPool2d(2), tnn.MaxPool2d(2), (2, 3, 6, 7)
    pool = (3, 2), (2, 3), (1, 1)
    yield "max pool ragged", nn.MaxPool2d(*pool), tnn.MaxPool2d(*pool), (2, 3, 8, 7)
    yield "avg pool", nn.AvgPool2d(2), tnn.AvgPool2d(2), (2, 3, 6, 7)
    yield "avg pool ragged", nn.AvgPool2d(*pool), tnn.AvgPool2d(*pool), (2, 3, 8, 7)
    yield "flatten", nn.Flatten(), tnn.Flatten(), (2, 3, 4)
    yield "flatten some", nn.Flatten(0, 1), tnn.Flatten(0, 1), (2, 3, 4)
    yield "relu", nn.ReLU(), tnn.ReLU(), (4, 5)
    yield "leaky relu", nn.LeakyReLU(0.2), tnn.LeakyReLU(0.2), (4, 5)
    yield "sigmoid", nn.Sigmoid(), tnn.Sigmoid(), (4, 5)
    yield "tanh", nn.Tanh(), tnn.Tanh(), (4, 5)
    yield "softmax", nn.Softmax(), tnn.Softmax(-1), (4, 5)
    yield "softmax, channels", nn.Softmax(1), tnn.Softmax(1), (2, 3, 4)


@needs_torch
def test_layers_agree_with_torch_forward_and_backward():
    import torch

    for label, ours, theirs, shape in layer_pairs():
        ours.load_state_dict(theirs.state_dict())
        x = normal(*shape)
        a, b = nnk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
        y, z = ours(a), theirs(b)
        g = normal(*z.shape, seed=1)
        y.backward(g)
        z.backward(torch.from_numpy(g))
        close = {"rtol": 2e-5, "atol": 2e-6, "err_msg": label}
        np.testing.assert_allclose(y.data, z.detach().numpy(), **close)
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), **close)
        for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
            np.testing.assert_allclose(
                p.grad.data, q.grad.numpy(), err_msg=f"{label} {name}", rtol=2e-5, atol=1e-5
            )


@needs_torch
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_losses_agree_with_torch(reduction):
    import torch

    tnn, logits = torch.nn, normal(6, 4)
    labels, shares = np.array([0, 3, 1, 1, 2, 0]), np.abs(normal(6, 4, seed=1))
    shares /= shares.sum(axis=1, keepdims=True)
    bits = (normal(6, 4, seed=2) > 0).astype(np.float32)
    for ours, theirs, target in (
        (nn.CrossEntropyLoss(reduction=reduction), tnn.CrossEntropyLoss(reduction=reduction), labels),
        (nn.CrossEntropyLoss(reduction=reduction), tnn.CrossEntropyLoss(reduction=reduction), shares),
        (nn.BCEWithLogitsLoss(reduction=reduction), tnn.BCEWithLogitsLoss(reduction=reduction), bits),
        (nn.MSELoss(reduction), tnn.MSELoss(reduction=reduction), bits),
    ):
        a, b = nnk.tensor(logits, requires_grad=True), torch.tensor(logits, requires_grad=True)
        y, z = ours(a, target), theirs(b, torch.from_numpy(target))
        assert y.shape == tuple(z.shape)
        g = normal(*z.shape, seed=3)
        y.backward(g)
        z.backward(torch.tensor(g))
        np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_half_the_squared_error_is_half():
    x, y = normal(3, 4), normal(3, 4, seed=1)
    whole, half = nn.MSELoss()(x, y), nn.MSELoss(half=True)(x, y)
    assert half == pytest.approx(whole / 2, rel=1e-6)
    assert whole == pytest.approx(((x - y).astype(float) ** 2).mean(), rel=1e-6)


def test_layers_default_weights_lie_within_one_over_root_fan_in_and_follow_rng():
    for layer, fan_in in ((nn.Linear(25, 400, rng=0), 25), (nn.Conv2d(4, 50, 5, rng=0), 100)):
        for p in (layer.weight, layer.bias):
            assert np.abs(p.data).max() <= 1 / math.sqrt(fan_in)
            assert np.abs(p.data).max() > 0.9 / math.sqrt(fan_in)
            assert p.dtype == np.float32
    same = [nn.Linear(3, 4, rng=7).weight.data for _ in range(2)]
    np.testing.assert_array_equal(*same)
    assert not np.array_equal(nn.Linear(3, 4, rng=8).weight.data, same[0])
    assert nn.Linear(3, 4, dtype=np.float64).weight.dtype == np.float64


BAD_ARGUMENTS = [
    (nn.Linear, (0, 3), {}, ValueError, "Linear: in_features must be at least 1, got 0"),
    (nn.Linear, (3, -1), {}, ValueError, "Linear: out_features must be at least 1"),
    (nn.Linear, (3.0, 1), {}, TypeError, "Linear: in_features must be an int, got float"),
    (nn.Linear, (True, 1), {}, TypeError, "in_features must be an int"),
    (nn.Linear, (3, 1), {"dtype": np.int64}, TypeError, "float32 or float64"),
    (nn.Conv1d, (1, 2, 0), {}, ValueError, "Conv1d: kernel_size must be at least 1, got 0"),
    (nn.Conv1d, (1, 2, (3,)), {}, TypeError, "Conv1d: kernel_size must be an int, got tuple"),
    (nn.Conv1d, (1, 2, 3), {"padding": -1}, ValueError, "Conv1d: padding must be at least 0, got -1"),
    (nn.Conv1d, (4, 6, 3), {"groups": 4}, ValueError, "Conv1d: groups must divide out_channels 6, got 4"),
    (nn.Conv2d, (1, 2, 0), {}, ValueError, "Conv2d: kernel_size must be at least 1, got 0"),
    (nn.Conv2d, (1, 2, (3, 3, 3)), {}, TypeError, "kernel_size must be an int or a pair of ints"),
    (nn.Conv2d, (1, 2, 3), {"stride": 0}, ValueError, "Conv2d: stride must be at least 1, got 0"),
    (nn.Conv2d, (1, 2, 3), {"stride": (1, 0)}, ValueError, "stride must be at least 1"),
    (nn.Conv2d, (1, 2, 3), {"padding": -1}, ValueError, "Conv2d: padding must be at least 0, got -1"),
    (
        nn.Conv2d,
        (1, 2, 3),
        {"padding": "full"},
        ValueError,
        "Conv2d: padding must be 'same', 'valid' or ints",
    ),
    (nn.Conv2d, ("a", 2, 3), {}, TypeError, "in_channels must be an int"),
    (nn.MaxPool2d, (0,), {}, ValueError, "MaxPool2d: kernel_size must be at least 1"),
    (nn.AvgPool2d, (2, 0), {}, ValueError, "AvgPool2d: stride must be at least 1"),
    (nn.CrossEntropyLoss, (), {"reduction": "average"}, ValueError, "reduction must be one of mean"),
]


@pytest.mark.parametrize(("layer", "arguments", "options", "error", "words"), BAD_ARGUMENTS)
def test_bad_layer_arguments_are_named_at_construction(layer, arguments, options, error, words):
    with pytest.raises(error, match="(?s)" + words.replace("(", r"\(")):
        layer(*arguments, **options)


# ---------------------------------------------------------------- initial weights


@pytest.mark.parametrize(
    ("name", "variance"),
    [("glorot", 2 / (240 + 200 * 6)), ("he", 2 / 240), ("lecun", 1 / 240)],
)
def test_initial_variances_are_those_of_the_papers(name, variance):
    shape = (200, 40, 2, 3)  # fan_in 240, fan_out 1200
    for kind in ("uniform", "normal"):
        w = nn.Parameter(np.zeros(shape, np.float64))
        assert getattr(init, f"{name}_{kind}_")(w, rng=0) is w
        # 48000 draws: the estimate's own spread is below 0.7 percent
        assert w.data.var() == pytest.approx(variance, rel=0.03)
        assert abs(w.data.mean()) < 5 * math.sqrt(variance / w.size)
        largest = np.abs(w.data).max() / math.sqrt(variance)
        if kind == "uniform":
            assert 1.7 < largest <= math.sqrt(3)
        else:
            assert 3.5 < largest < 6


def test_gain_scales_and_torch_names_do_the_same():
    a, b = (nn.Parameter(np.zeros((50, 60))) for _ in range(2))
    init.glorot_uniform_(a, rng=1)
    init.xavier_uniform_(b, gain=3.0, rng=1)
    np.testing.assert_allclose(b.data, 3 * a.data, rtol=1e-12)
    init.he_normal_(a, rng=1)
    init.kaiming_normal_(b, nonlinearity="linear", rng=1)
    np.testing.assert_allclose(a.data, math.sqrt(2) * b.data, rtol=1e-12)


def test_constants_fill_and_vectors_have_no_fans():
    w = nn.Parameter(np.ones(3))
    assert init.zeros_(w).data.tolist() == [0, 0, 0]
    assert init.constant_(w, 2.5).data.tolist() == [2.5] * 3
    with pytest.raises(ValueError, match=r"at least 2 axes.*\(3,\)"):
        init.glorot_uniform_(w)


# ---------------------------------------------------------------- LeNet-5


class TestLeNet5:
    def test_it_has_61706_parameters(self):
        assert sum(p.size for p in nn.models.LeNet5().parameters()) == 61_706

    def test_the_same_rng_gives_the_same_weights(self):
        a, b, c = (nn.models.LeNet5(rng=seed).state_dict() for seed in (3, 3, 4))
        assert all(np.array_equal(a[k], b[k]) for k in a)
        assert not any(np.array_equal(a[k], c[k]) for k in a if k.endswith("weight"))  # biases start at 0

    @needs_torch
    def test_logits_loss_and_gradients_equal_torchs(self):
        import torch

        tnn = torch.nn

        class TorchLeNet5(tnn.Module):
            def __init__(self):
                super().__init__()
                self.conv1, self.conv2 = tnn.Conv2d(1, 6, 5, padding=2), tnn.Conv2d(6, 16, 5)
                self.fc1, self.fc2, self.fc3 = tnn.Linear(400, 120), tnn.Linear(120, 84), tnn.Linear(84, 10)

            def forward(self, x):
                x = torch.max_pool2d(self.conv1(x).relu(), 2)
                x = torch.max_pool2d(self.conv2(x).relu(), 2).flatten(1)
                return self.fc3(self.fc2(self.fc1(x).relu()).relu())

        ours, theirs = nn.models.LeNet5(rng=0), TorchLeNet5()
        theirs.load_state_dict({k: torch.from_numpy(v) for k, v in ours.state_dict().items()})
        x, y = normal(9, 1, 28, 28), np.arange(9)
        logits, wanted = ours(x), theirs(torch.from_numpy(x))
        np.testing.assert_allclose(logits.data, wanted.detach().numpy(), rtol=1e-4, atol=1e-6)
        loss, wanted_loss = (
            F.cross_entropy(logits, y),
            tnn.functional.cross_entropy(wanted, torch.from_numpy(y)),
        )
        assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-6)
        loss.backward()
        wanted_loss.backward()
        grads = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
        for name, p in ours.named_parameters():
            scale = np.abs(grads[name]).max()
            np.testing.assert_allclose(p.grad.data, grads[name], atol=2e-5 * scale, rtol=0, err_msg=name)

    def test_the_summary_counts_what_one_counts_by_hand(self):
        table = nn.summary(nn.models.LeNet5(), (1, 1, 28, 28))
        rows = {row.name: row for row in table.rows}
        assert list(rows) == ["conv1", "pool1", "conv2", "pool2", "fc1", "fc2", "fc3", "(functions)"]
        for name, shape, parameters in (
            ("conv1", (1, 6, 28, 28), 156),
            ("pool1", (1, 6, 14, 14), 0),
            ("conv2", (1, 16, 10, 10), 2_416),
            ("pool2", (1, 16, 5, 5), 0),
            ("fc1", (1, 120), 48_120),
            ("fc2", (1, 84), 10_164),
            ("fc3", (1, 10), 850),
        ):
            assert (rows[name].output_shape, rows[name].parameters) == (shape, parameters)
        # a multiplication and an addition per weight and output, one addition of the bias, one comparison
        # for each relu
        flops = {
            "conv1": 6 * 28 * 28 * (2 * 25 + 2),
            "conv2": 16 * 10 * 10 * (2 * 150 + 2),
            "fc1": 120 * (2 * 400 + 2),
            "fc2": 84 * (2 * 120 + 2),
            "fc3": 10 * (2 * 84 + 1),
        }
        assert {name: rows[name].flops for name in flops} == flops
        assert rows["(functions)"].flops == 0
        # x, w, b read and y written once, 4 bytes each
        assert rows["conv1"].bytes == 4 * (784 + 156 + 6 * 784)
        assert rows["fc3"].bytes == 4 * (84 + 850 + 10)
        assert table.total.parameters == 61_706
        assert table.total.output_shape == (1, 10)
        assert table.total.flops == sum(row.flops for row in table.rows)
        assert table.total.bytes == sum(row.bytes for row in table.rows)

    def test_the_summary_grows_with_the_batch_and_leaves_the_model_alone(self):
        model = nn.models.LeNet5()
        model.train()
        model.conv2.eval()
        one, five = (nn.summary(model, (n, 1, 28, 28)) for n in (1, 5))
        assert five.total.flops == 5 * one.total.flops
        assert five.total.parameters == 61_706
        assert [m.training for m in model.modules()] == [True, True, True, False, True, True, True, True]
        assert not any(m._forward_hooks for m in model.modules())
        assert all(p.grad is None for p in model.parameters())
        with pytest.raises(ValueError, match="channels"):
            nn.summary(model, (1, 3, 28, 28))
        assert not any(m._forward_hooks for m in model.modules())

    def test_the_summary_counts_inside_no_grad_as_well(self):
        with nnk.no_grad():
            inside = nn.summary(nn.models.LeNet5(), (1, 1, 28, 28))
        assert inside == nn.summary(nn.models.LeNet5(), (1, 1, 28, 28))

    def test_the_summary_prints_one_line_per_layer_and_a_total(self):
        lines = str(nn.summary(nn.models.LeNet5(), (1, 1, 28, 28))).splitlines()
        assert lines[0].split() == ["layer", "kind", "output", "shape", "parameters", "FLOPs", "bytes"]
        assert len(lines) == 1 + 1 + 8 + 1 + 1
        assert "61,706" in lines[-1]
        assert "244,608" in lines[2]


# ---------------------------------------------------------------- what a user can do wrong


LENET = nn.models.LeNet5(rng=0)
IMAGES = normal(4, 1, 28, 28)
LABELS = np.array([3, 1, 4, 1])

BAD_IMAGES = {
    "wrong rank": (normal(1, 28, 28), ValueError, r"x must have 4 axes.*\(1, 28, 28\)"),
    "three channels": (normal(2, 3, 28, 28), ValueError, r"3 channels.*\(2, 3, 28, 28\)"),
    "no channels": (normal(2, 0, 28, 28), ValueError, r"0 channels"),
    "kernel larger than the padded image": (normal(1, 1, 28, 0), ValueError, "larger than the padded input"),
    "bytes": (np.zeros((2, 1, 28, 28), np.uint8), TypeError, "x must be float32 or float64, got uint8"),
    "float64 into float32": (normal(2, 1, 28, 28, dtype=np.float64), TypeError, "one dtype.*float64"),
    "complex": (np.zeros((2, 1, 28, 28), np.complex64), TypeError, "got complex64"),
    "objects": (np.full((2, 1, 28, 28), None), TypeError, "got object"),
    "a list": ([[1.0]], TypeError, "x must be a NumPy array or a Tensor, got list"),
    "too small for conv2": (normal(1, 1, 8, 8), ValueError, r"kernel \(5\) is larger"),
    "of another size": (normal(1, 1, 32, 32), ValueError, r"linear.*576"),
}


@pytest.mark.parametrize("fault", BAD_IMAGES)
def test_bad_images_are_refused_by_name(fault):
    x, error, words = BAD_IMAGES[fault]
    with pytest.raises(error, match=words):
        LENET(x)


def test_a_kernel_larger_than_the_padded_input_is_refused_by_every_window():
    x = normal(1, 2, 3, 3)
    for f in (
        lambda: F.conv2d(x, normal(1, 2, 6, 1), padding=1),
        lambda: F.max_pool2d(x, 4),
        lambda: F.avg_pool2d(x, (1, 6), padding=(0, 1)),
    ):
        with pytest.raises(ValueError, match=r"larger than the padded input \(3 \+ 2\*"):
            f()


def test_numpy_integers_serve_as_strides_sizes_and_paddings():
    x, w, two = normal(1, 2, 6, 6), normal(3, 2, 2, 2), np.int64(2)
    np.testing.assert_array_equal(
        F.conv2d(x, w, stride=two, padding=np.int32(1)), F.conv2d(x, w, stride=2, padding=1)
    )
    np.testing.assert_array_equal(F.max_pool2d(x, two), F.max_pool2d(x, 2))
    np.testing.assert_array_equal(nn.Conv2d(2, 3, two, stride=two, rng=0)(x).data,
                                  nn.Conv2d(2, 3, 2, stride=2, rng=0)(x).data)  # fmt: skip


@needs_torch
def test_functional_normalisation_equals_torchs():
    import torch

    x, w, b, v = normal(4, 3, 5, 2), normal(3), normal(3, seed=1), normal(5, 2)
    tnn, t = torch.nn.functional, torch.from_numpy
    for got, wanted in (
        (F.batch_norm(x, None, None, training=True), tnn.batch_norm(t(x), None, None, training=True)),
        (
            F.batch_norm(x, None, None, w, b, True, eps=0.1),
            tnn.batch_norm(t(x), None, None, t(w), t(b), True, eps=0.1),
        ),
        (F.layer_norm(x, 2), tnn.layer_norm(t(x), (2,))),
        (F.layer_norm(x, (5, 2), v), tnn.layer_norm(t(x), (5, 2), t(v))),
        (F.layer_norm(x, (5, 2), v, v, 0.1), tnn.layer_norm(t(x), (5, 2), t(v), t(v), 0.1)),
    ):
        np.testing.assert_allclose(got, wanted.numpy(), atol=1e-6, rtol=1e-5)
    leaf = nnk.tensor(x, requires_grad=True)
    F.batch_norm(leaf, None, None, training=True).sum().backward()
    np.testing.assert_allclose(leaf.grad.data, 0, atol=1e-5)  # what all add, the mean takes away


BAD_TARGETS = {
    "label too large": (np.array([0, 1, 10, 2]), ValueError, "10"),
    "label negative": (np.array([0, 1, -1, 2]), ValueError, "-1"),
    "labels as floats": (np.float32([0, 1, 2, 3]), (TypeError, ValueError), "targets|labels"),
    "one label short": (np.array([0, 1, 2]), ValueError, r"\(3,\)"),
    "labels in a column": (np.array([[0], [1], [2], [3]]), (TypeError, ValueError), "target"),
    "NaN among probabilities": (
        np.where(np.arange(40).reshape(4, 10) == 13, np.nan, 0.1).astype(np.float32), ValueError, "nan|NaN"
    ),
    "none": (None, (TypeError, ValueError), "target"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD_TARGETS)
def test_bad_targets_are_refused_by_name(fault):
    target, error, words = BAD_TARGETS[fault]
    logits = nnk.tensor(normal(4, 10), requires_grad=True)
    with pytest.raises(error, match=words):
        F.cross_entropy(logits, target)
    assert logits.grad is None


def test_bad_binary_targets_are_refused_by_name():
    z = normal(3)
    for y, words in ((np.float32([0, 2, 1]), "from 0 to 1, got 2"), (np.float32([0, np.nan, 1]), "nan")):
        with pytest.raises(ValueError, match=words):
            F.binary_cross_entropy_with_logits(z, y)
    with pytest.raises(ValueError, match=r"\(3,\) and \(2,\)"):
        F.binary_cross_entropy_with_logits(z, np.float32([0, 1]))


def test_an_empty_batch_gives_empty_logits_and_no_mean_loss():
    x = np.zeros((0, 1, 28, 28), np.float32)
    logits = LENET(x)
    assert logits.shape == (0, 10)
    with pytest.raises(ValueError, match="empty"):
        F.cross_entropy(logits, np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="empty"):
        F.mse_loss(x, x)
    for p in LENET.parameters():
        p.grad = None
    logits.backward(np.zeros((0, 10), np.float32))
    for p in LENET.parameters():
        assert not p.grad.data.any()
        p.grad = None


def test_nan_in_the_images_comes_out_as_nan_and_only_where_it_went_in():
    x = IMAGES.copy()
    x[2, 0, 14, 14] = np.nan
    logits = LENET(x).data
    assert np.isnan(logits[2]).all()
    np.testing.assert_array_equal(logits[[0, 1, 3]], LENET(IMAGES).data[[0, 1, 3]])


def frozen(a):
    a = a.copy()
    a.flags.writeable = False
    return a


AWKWARD = {
    "big-endian": lambda a: a.astype(a.dtype.newbyteorder(">")),
    "read-only": frozen,
    "every second": lambda a: np.repeat(a, 2, axis=0)[::2],
    "transposed": lambda a: np.ascontiguousarray(a.T).T,
    "backwards": lambda a: a[::-1].copy()[::-1],
    "unaligned": lambda a: np.frombuffer(b"x" + a.tobytes(), a.dtype, offset=1).reshape(a.shape),
}


@pytest.mark.parametrize("kind", AWKWARD)
def test_awkward_arrays_give_the_right_loss_and_gradients_and_stay_as_they_are(kind):
    def gradients(x, y):
        model = nn.models.LeNet5(rng=0)
        F.cross_entropy(model(x), y).backward()
        return [p.grad.data for p in model.parameters()]

    images, labels = (AWKWARD[kind](a) for a in (IMAGES, LABELS))
    fit_for_kernels = [a.flags.carray and a.dtype.isnative for a in (images, labels)]
    assert fit_for_kernels != [True, True]
    before = images.tobytes(), labels.tobytes()
    wanted = gradients(IMAGES, LABELS)
    for x in (images, nnk.tensor(images, requires_grad=True)):
        for a, b in zip(gradients(x, labels), wanted, strict=True):
            np.testing.assert_array_equal(a, b)
    assert (images.tobytes(), labels.tobytes()) == before


def test_every_cpu_backend_gives_the_same_logits_and_gradients():
    grads = {}
    for backend in ("loops", "vectorized", "tuned"):
        model = nn.models.LeNet5(rng=0)
        with nnk.use_backend(backend):
            F.cross_entropy(model(IMAGES), LABELS).backward()
        grads[backend] = [p.grad.data for p in model.parameters()]
    for backend in ("vectorized", "tuned"):
        for a, b in zip(grads[backend], grads["loops"]):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * np.abs(b).max())


def test_an_error_in_forward_leaves_inputs_and_gradients_untouched():
    model, x = nn.models.LeNet5(rng=0), normal(2, 1, 32, 32)
    before, state = x.copy(), model.state_dict()
    with pytest.raises(ValueError, match="linear"):
        model(x)
    np.testing.assert_array_equal(x, before)
    assert all(np.array_equal(v, state[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_a_plain_tensor_cannot_take_a_parameters_place():
    layer = nn.Linear(2, 3, rng=0)
    weight = layer.weight
    with pytest.raises(TypeError, match="weight is a Parameter of Linear; assign a Parameter"):
        layer.weight = nnk.Tensor(np.zeros((3, 2), np.float32))
    assert layer.weight is weight
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]


def test_forward_may_take_options():
    class Scaled(nn.Module):
        def forward(self, x, *, factor=1):
            return x * factor

    assert Scaled()(nnk.tensor([2.0]), factor=3).item() == 6


def test_sequential_lets_a_layer_apply_the_relu_that_follows():
    """The same numbers, one recorded op less; with a hook on either, both are called."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 3, 6, 6)).astype(np.float32)
    layers = [nn.Conv2d(3, 4, 3, rng=0), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5, rng=0), nn.ReLU()]
    model, alone = nn.Sequential(*layers), x
    for layer in layers:
        alone = layer(alone)
    y = model(x)
    np.testing.assert_array_equal(y.data, alone.data)
    assert (y.data == 0).any()
    assert y.node.op.name == "linear"
    g = rng.standard_normal(y.shape).astype(np.float32)
    gradients = []
    for result in (y, alone):
        model.zero_grad()
        result.backward(g)
        gradients.append([p.grad.data for p in model.parameters()])
    for one, other in zip(*gradients):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    seen = []
    layers[4].register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert model(x).node.op.name == "relu"
    assert len(seen) == 1
