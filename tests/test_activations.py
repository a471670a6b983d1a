"""Activations as functions and layers beside PyTorch's; far values, ties, small sizes and large ones."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from test_tuned import COUNT_COMPILATIONS

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.ops import OPS, checks, use_backend
from nnkernels.ops.op import CPU_BODIES, Sample

SMOOTH = ("elu", "selu", "softplus", "log_sigmoid", "silu", "mish", "gelu")
NEW = (*SMOOTH, "hardtanh", "abs", "sqrt")
SPECIALS = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 30.0, -30.0, 100.0, -100.0, 1e4, -1e4]
both_dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=("f32", "f64"))


def torch():
    return pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def sprinkled(shape, dtype=np.float32):
    """Return numbers with a special one here and there, at every distance from a register's ends."""
    x = 3 * normal(*shape, dtype=dtype)
    x.reshape(-1)[::7] = np.resize(np.array(SPECIALS, dtype), x.reshape(-1)[::7].size)
    return x


# --- functions and layers beside PyTorch ---

FUNCTIONS = {  # our call, PyTorch's name and arguments
    "elu": (lambda x: F.elu(x, 0.7), "elu", {"alpha": 0.7}),
    "selu": (F.selu, "selu", {}),
    "softplus": (lambda x: F.softplus(x, 2.0, 5.0), "softplus", {"beta": 2.0, "threshold": 5.0}),
    "softplus by default": (F.softplus, "softplus", {}),
    "gelu": (F.gelu, "gelu", {}),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), "gelu", {"approximate": "tanh"}),
    "silu": (F.silu, "silu", {}),
    "mish": (F.mish, "mish", {}),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 2), "hardtanh", {"min_val": -0.5, "max_val": 2}),
    "logsigmoid": (F.logsigmoid, "logsigmoid", {}),
}


@both_dtypes
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_and_its_gradient_equal_torchs(name, dtype):
    ours, theirs, arguments = FUNCTIONS[name]
    x = nnk.tensor(4 * normal(40, 13, dtype=dtype), requires_grad=True)
    t = torch().tensor(x.data.astype(np.float64), requires_grad=True)
    y, wanted = ours(x), getattr(torch().nn.functional, theirs)(t, **arguments)
    assert y.dtype == dtype
    np.testing.assert_allclose(y.data, wanted.detach().numpy(), rtol=2e-5, atol=1e-6)
    dy = normal(40, 13, seed=1, dtype=dtype)
    y.backward(dy)
    wanted.backward(torch().tensor(dy))
    np.testing.assert_allclose(x.grad.data, t.grad.numpy(), rtol=2e-5, atol=1e-6)


LAYERS = {
    "ELU": {"alpha": 1.3}, "SELU": {}, "Softplus": {"beta": 3, "threshold": 4},
    "GELU": {"approximate": "tanh"}, "SiLU": {}, "Mish": {}, "Hardtanh": {"min_val": 0, "max_val": 6},
    "LogSigmoid": {}, "LogSoftmax": {"dim": 1}, "Softmax": {"dim": 0},
    "PReLU": {"num_parameters": 5, "init": 0.1},
    "Identity": {},
}  # fmt: skip


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_equals_torchs(name):
    layer, theirs = getattr(nn, name)(**LAYERS[name]), getattr(torch().nn, name)(**LAYERS[name])
    x = nnk.tensor(normal(3, 5, 7), requires_grad=True)
    t = torch().tensor(x.data, requires_grad=True)
    y, wanted = layer(x), theirs(t)
    np.testing.assert_allclose(y.data, wanted.detach().numpy(), rtol=2e-5, atol=1e-6)
    dy = normal(3, 5, 7, seed=1)
    y.backward(dy)
    wanted.backward(torch().tensor(dy))
    np.testing.assert_allclose(x.grad.data, t.grad.numpy(), rtol=2e-5, atol=1e-6)
    for p, q in zip(layer.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6), (2, 6, 3, 5), (300, 6, 20, 20)], ids=str)
def test_prelu_takes_torchs_weights_and_learns_as_torchs(shape):
    theirs = torch().nn.PReLU(6)
    theirs.weight.data = torch().tensor(normal(6, seed=2))
    layer = nn.PReLU(6)
    layer.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x, dy = normal(*shape), normal(*shape, seed=1)
    y, wanted = layer(x), theirs(torch().tensor(x))
    np.testing.assert_array_equal(y.data, wanted.detach().numpy())
    y.backward(dy)
    wanted.backward(torch().tensor(dy))
    np.testing.assert_allclose(layer.weight.grad.data, theirs.weight.grad.numpy(), rtol=1e-4, atol=1e-3)


def test_prelu_starts_with_one_slope_of_a_quarter():
    layer = nn.PReLU()
    assert {key: value.tolist() for key, value in layer.state_dict().items()} == {"weight": [0.25]}
    np.testing.assert_array_equal(layer(np.float32([[-4, 4], [8, -8]])).data, [[-1, 4], [8, -2]])
    assert nn.PReLU(3, dtype=np.float64).weight.dtype == np.float64


def test_identity_returns_what_it_was_given():
    x = nnk.tensor([1.0, 2.0])
    assert nn.Identity(54, unused="argument")(x) is x


def test_a_maxout_unit_learns_as_reshape_and_amax_do():
    rng = np.random.default_rng(0)
    net = nn.Sequential(nn.Linear(4, 9, rng=rng), nn.Maxout(3), nn.Linear(3, 1, rng=rng))
    theirs = torch().nn.Sequential(torch().nn.Linear(4, 9), torch().nn.Linear(3, 1))
    for ours, layer in ((net[0], theirs[0]), (net[2], theirs[1])):
        layer.load_state_dict({key: torch().tensor(value) for key, value in ours.state_dict().items()})
    x = normal(8, 4)
    net(x).sum().backward()
    theirs[1](theirs[0](torch().tensor(x)).reshape(8, 3, 3).amax(2)).sum().backward()
    for p, q in zip(net.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(p.grad.data, q.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_size_and_root_of_a_tensor():
    x = nnk.tensor([4.0, -9.0, 0.0], requires_grad=True)
    (abs(x) + x.abs()).sum().backward()
    assert x.grad.data.tolist() == [2, -2, 0]
    y = nnk.tensor([4.0, 0.25], requires_grad=True)
    y.sqrt().sum().backward()
    assert y.grad.data.tolist() == [0.25, 1]


def test_layers_say_how_they_were_made():
    assert repr(nn.Sequential(nn.Identity(), nn.SELU(), nn.SiLU(), nn.Mish(), nn.LogSigmoid())) == (
        "Sequential(\n  (0): Identity()\n  (1): SELU()\n  (2): SiLU()\n  (3): Mish()\n  (4): LogSigmoid()\n)"
    )
    assert [repr(layer) for layer in (nn.ELU(0.5), nn.GELU("tanh"), nn.Softplus(), nn.Hardtanh(0, 6))] == [
        "ELU(alpha=0.5)", "GELU(approximate='tanh')", "Softplus(beta=1.0, threshold=20.0)",
        "Hardtanh(min_val=0, max_val=6)",
    ]  # fmt: skip
    assert [repr(layer) for layer in (nn.PReLU(7), nn.Maxout(2), nn.LogSoftmax(1), nn.Softmax())] == [
        "PReLU(num_parameters=7)", "Maxout(pieces=2)", "LogSoftmax(dim=1)", "Softmax(dim=-1)",
    ]  # fmt: skip


@pytest.mark.parametrize(("make", "error", "words"), [
    (lambda: nn.PReLU(0), ValueError, "PReLU: num_parameters must be at least 1, got 0"),
    (lambda: nn.PReLU(2.0), TypeError, "PReLU: num_parameters must be an int, got float 2.0"),
    (lambda: nn.PReLU(2, init="0"), TypeError, "PReLU: init must be a number, got str '0'"),
    (lambda: nn.Maxout(0), ValueError, "Maxout: pieces must be at least 1, got 0"),
    (lambda: nn.ELU(np.nan), ValueError, "ELU: alpha must be finite, got nan"),
    (lambda: nn.GELU("erf"), ValueError, "GELU: approximate must be one of none, tanh, got 'erf'"),
    (lambda: nn.Softplus(0), ValueError, "Softplus: beta must not be 0"),
    (lambda: nn.Softplus(threshold=None), TypeError, "Softplus: threshold must be a number"),
    (lambda: nn.Hardtanh(1, 1), ValueError, "Hardtanh: min_val must be below max_val, got 1 and 1"),
    (lambda: nn.PReLU(3)(normal(2, 4)), ValueError, "prelu: weight must have shape (1,) or (4,)"),
    (lambda: nn.Maxout(3)(normal(2, 4)), ValueError, "maxout: pieces must divide the 4 channels of x, got 3"),
])  # fmt: skip
def test_what_a_layer_cannot_be_is_said_at_once(make, error, words):
    with pytest.raises(error) as raised:
        make()
    assert words in str(raised.value)


# --- far from zero, near zero, specials ---


@both_dtypes
@pytest.mark.parametrize("name", NEW)
def test_specials_come_out_as_from_loops_and_as_from_torch(name, dtype):
    x = sprinkled((50, 41), dtype)
    sample = Sample("specials", (x,))
    with np.errstate(all="ignore"):
        wanted = checks.run(OPS[name], "loops", sample)
    for body in CPU_BODIES:
        (y,) = checks.run(OPS[name], body, sample)
        checks.assert_close(y, wanted[0], OPS[name].tolerance, f"{name}/{body}")
    ours = {"abs": torch().abs, "sqrt": torch().sqrt}
    function = ours.get(name) or getattr(torch().nn.functional, name.replace("log_", "log"))
    exact = function(torch().tensor(x.astype(np.float64))).numpy()
    checks.assert_close(wanted[0], exact.astype(dtype), 64, f"{name} and torch")


@pytest.mark.parametrize("body", CPU_BODIES)
def test_nothing_overflows_far_from_zero(body):
    x = np.float32([-1e30, -1000, 1000, 1e30])
    dy = np.ones_like(x)
    with use_backend(body):
        for name, y, dx in (
            ("softplus", [0, 0, 1000, 1e30], [0, 0, 1, 1]),
            ("log_sigmoid", [-1e30, -1000, 0, 0], [1, 1, 0, 0]),
            ("silu", [0, 0, 1000, 1e30], [0, 0, 1, 1]), ("mish", [0, 0, 1000, 1e30], [0, 0, 1, 1]),
            ("gelu", [0, 0, 1000, 1e30], [0, 0, 1, 1]), ("elu", [-1, -1, 1000, 1e30], [0, 0, 1, 1]),
        ):  # fmt: skip
            op = OPS[name]
            outputs = op.body(body).forward(x)
            np.testing.assert_array_equal(outputs[0], np.float32(y), name)
            (got,) = op.body(body).backward(dy, outputs, (x,), (True,))
            np.testing.assert_array_equal(got, dx, name)


@both_dtypes
@pytest.mark.parametrize("body", CPU_BODIES)
def test_small_results_keep_their_digits(body, dtype):
    rng = np.random.default_rng(0)
    near = np.asarray(-(10.0 ** rng.uniform(-30, -1, 500)), dtype)
    far = np.asarray(rng.uniform(5, 80, 500), dtype)
    wide, e = far.astype(np.longdouble), np.exp(-far.astype(np.longdouble))
    with use_backend(body):
        rtol = 4 * np.finfo(dtype).eps
        np.testing.assert_allclose(OPS["elu"](near), np.expm1(near.astype(np.longdouble)), rtol=rtol)
        np.testing.assert_allclose(OPS["log_sigmoid"](far), -np.log1p(e), rtol=rtol)
        np.testing.assert_allclose(OPS["softplus"](-far), np.log1p(e), rtol=rtol)
        np.testing.assert_allclose(OPS["silu"](-far), -wide * e / (1 + e), rtol=rtol)


@pytest.mark.parametrize("body", CPU_BODIES)
def test_slopes_at_the_kinks_are_torchs(body):
    x = np.float64([0.0, -0.0, -1.0, 1.0])
    for name, attributes in (("elu", {"alpha": 0.5}), ("selu", {}), ("hardtanh", {}), ("abs", {})):
        op = OPS[name].body(body)
        outputs = op.forward(x, **attributes)
        (dx,) = op.backward(np.ones(4), outputs, (x,), (True,), **attributes)
        t = torch().tensor(x, requires_grad=True)
        function = torch().abs if name == "abs" else getattr(torch().nn.functional, name)
        function(t, **attributes).sum().backward()
        np.testing.assert_allclose(dx, t.grad.numpy(), rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("body", CPU_BODIES)
def test_maxout_takes_the_first_of_equals_and_nan_above_all(body):
    x = np.float32([[1, 1, 0], [2, np.nan, 3], [-0.0, 0.0, -1], [np.nan, 0, np.nan], [-np.inf] * 3])
    for rest in ((), (2,)):
        stretched = np.ascontiguousarray(
            np.broadcast_to(x.reshape(*x.shape, *(1,) * len(rest)), (*x.shape, *rest))
        )
        y, piece = OPS["maxout"].body(body).forward(stretched, pieces=3)
        first = (slice(None), 0, *(0,) * len(rest))
        assert piece[first].tolist() == [0, 1, 0, 0, 0]
        np.testing.assert_array_equal(y[first], [1, np.nan, 0, np.nan, -np.inf])
        assert np.signbit(y[first][2])


# --- sizes at which the tuned bodies turn ---

LARGE = [
    *((name, [(70_001,)], {}) for name in SMOOTH), ("gelu", [(70_001,)], {"approximate": "tanh"}),
    *((name, [(300_001,)], {}) for name in ("hardtanh", "abs")),
    *(("prelu", shapes, {}) for shapes in (
        [(300_001,), (1,)], [(700, 501), (501,)], [(700, 501), (1,)], [(9, 30, 37, 31), (30,)],
    )),
    *(("maxout", [shape], {"pieces": pieces}) for shape, pieces in (
        ((1001, 300), 3), ((3, 120_000), 2), ((40, 12, 30, 31), 4), ((60_001, 5), 5), ((11_000, 15, 2), 3),
        ((7, 4, 10_001), 2),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "shapes", "attributes"), LARGE, ids=str)
def test_large_sizes_agree_with_loops_on_any_number_of_threads(name, shapes, attributes):
    op, rng = replace(OPS[name], tolerance=512.0), np.random.default_rng(0)  # long sums in another order
    sample = Sample("large", tuple(normal(*shape, seed=i) for i, shape in enumerate(shapes)), attributes)
    checks.check_agreement(op, "tuned", sample, rng)
    checks.check_threads(op, sample, rng)


def test_the_next_process_compiles_nothing():
    names = ["elu", "softplus", "gelu", "mish", "hardtanh", "sqrt", "prelu", "maxout"]
    for _ in range(2):
        command = [sys.executable, "-c", COUNT_COMPILATIONS, *names]
        result = subprocess.run(command, capture_output=True, text=True, check=True, env=dict(os.environ))
    assert result.stdout.strip() == "[]"
