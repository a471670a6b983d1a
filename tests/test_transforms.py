"""Derivatives of functions, by both modes and of any order: grad, vjp, jvp, jacobian, hessian, hvp."""

import math

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import OPS, nn
from nnkernels.autograd import Dual
from nnkernels.autograd.tensor import Tensor
from nnkernels.nn import functional as F
from nnkernels.nn.utils import functional_call


def normal(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def differences(f, x, eps=1e-4):
    """The Jacobian of f, from arrays to arrays, by differences of fourth order: f's axes, then x's."""
    columns = []
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = eps
        near, far = (np.asarray(f(x + k * step)) - np.asarray(f(x - k * step)) for k in (1, 2))
        columns.append((8 * near - far) / (12 * eps))
    return np.moveaxis(np.reshape(columns, x.shape + np.shape(columns[0])), range(x.ndim), range(-x.ndim, 0))


def z(x1, x2):
    return x1.sin() + x1 * x2


# ---------------------------------------------------------------- the lecture's example


def test_the_lectures_example_has_its_value_and_derivatives_by_both_modes():
    at = np.float64(2), np.float64(3)
    value, (d1, d2) = nnk.value_and_grad(z, (0, 1))(*at)
    assert value == pytest.approx(6.909297, abs=5e-7)
    assert (d1, d2) == (pytest.approx(2.583853, abs=5e-7), 2.0)
    first = math.cos(2) + 3
    for v, wanted in (((1.0, 0.0), first), ((0.0, 1.0), 2), ((0.5, -2.0), first / 2 - 4)):
        assert nnk.jvp(z, at, tuple(map(np.float64, v))) == (value, pytest.approx(wanted, rel=1e-14))
    assert nnk.jvp(z, at, (1.0, 0.0))[1] == pytest.approx(d1, rel=1e-15)


def test_python_numbers_are_float32_and_numbers_come_back():
    assert nnk.grad(z, (0, 1))(2.0, 3.0) == (np.float32(math.cos(2) + 3), np.float32(2))
    assert isinstance(nnk.grad(z)(2.0, 3.0), np.float32)


def test_the_directional_derivative_equals_the_measured_slope_along_the_direction():
    x, v = normal(4, 3), normal(4, 3, seed=1)

    def loss(t):
        return ((t * t).sum() * 0.5 + t.sin().sum()).tanh()

    slope = nnk.jvp(loss, x, v)[1]
    step = 1e-6
    measured = (loss(nnk.tensor(x + step * v)).item() - loss(nnk.tensor(x - step * v)).item()) / (2 * step)
    assert slope == pytest.approx(measured, rel=1e-7)
    assert slope == pytest.approx(np.sum(v * nnk.grad(loss)(x)), rel=1e-12)


# ---------------------------------------------------------------- forms of arguments


def test_gradients_come_back_in_the_form_of_the_arguments():
    x = normal(3)

    def f(p, scale):
        return ((p["w"] * p["more"][0]).sum() + p["more"][1].sum()) * scale

    given = {"w": x, "more": [x + 1, (x[:2])]}
    g = nnk.grad(f)(given, 2.0)
    np.testing.assert_allclose(g["w"], 2 * (x + 1))
    np.testing.assert_allclose(g["more"][0], 2 * x)
    np.testing.assert_allclose(g["more"][1], [2, 2])
    assert isinstance(g["w"], np.ndarray)
    by_both = nnk.grad(f, (0, 1))(given, np.float64(2))
    assert by_both[1] == pytest.approx(np.sum(x * (x + 1)) + x[:2].sum())
    last = nnk.grad(f, -1)(given, np.float64(2))
    assert last == by_both[1]


def test_tensors_give_tensors_and_arrays_arrays():
    x = normal(3)
    f = lambda t: (t * t).sum()  # noqa: E731
    assert isinstance(nnk.grad(f)(x), np.ndarray)
    assert isinstance(nnk.grad(f)(nnk.tensor(x)), nnk.Tensor)
    value, slope = nnk.jvp(f, nnk.tensor(x), nnk.tensor(x))
    assert (type(value), type(slope)) == (nnk.Tensor, nnk.Tensor)


def test_what_is_given_is_left_as_it_was():
    x = nnk.tensor(normal(3), requires_grad=True)
    before = x.data.copy()
    nnk.grad(lambda t: (t * t).sum(), create_graph=False)(x)
    nnk.jvp(lambda t: t * x, x, x)
    assert x.grad is None
    assert x.node is None
    np.testing.assert_array_equal(x.data, before)


def test_vjp_pulls_any_number_of_cotangents_through_a_value_of_several_arrays():
    x, w = normal(2, 3), normal(3, 4, seed=1)

    def f(x, w):
        return {"y": x @ w, "norm": (x * x).sum()}

    value, pull = nnk.vjp(f, x, w)
    np.testing.assert_allclose(value["y"], x @ w)
    for seed in range(3):
        dy = normal(2, 4, seed=seed)
        dx, dw = pull({"y": dy, "norm": np.float64(seed)})
        np.testing.assert_allclose(dx, dy @ w.T + 2 * seed * x, rtol=1e-12)
        np.testing.assert_allclose(dw, x.T @ dy, rtol=1e-12)


def test_what_the_value_does_not_depend_on_has_derivative_zero():
    x, y = normal(2), normal(3)
    dx, dy = nnk.grad(lambda x, y: (x * x).sum(), (0, 1))(x, y)
    np.testing.assert_array_equal(dy, np.zeros(3))
    np.testing.assert_allclose(dx, 2 * x)
    _, slope = nnk.jvp(lambda x: {"same": nnk.tensor(y), "moved": x * 2.0}, x, x)
    np.testing.assert_array_equal(slope["same"], np.zeros(3))
    np.testing.assert_allclose(slope["moved"], 2 * x)
    np.testing.assert_array_equal(nnk.hessian(lambda x: x.sum(), x), np.zeros((2, 2)))


def test_a_function_may_call_modules_losses_and_ops_in_both_modes():
    model = nn.Sequential(nn.Conv2d(1, 3, 3, rng=0, dtype=np.float64), nn.BatchNorm2d(3, dtype=np.float64),
                          nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
                          nn.Linear(12, 4, rng=1, dtype=np.float64))  # fmt: skip
    x, labels = normal(5, 1, 6, 6), np.array([0, 3, 1, 2, 0])

    def loss(p):
        return F.cross_entropy(functional_call(model, p, (x,)), labels)

    parameters = {name: p.data for name, p in model.named_parameters()}
    v = {name: normal(*a.shape, seed=i) for i, (name, a) in enumerate(parameters.items())}
    gradient = nnk.grad(loss)(parameters)
    slope = nnk.jvp(loss, parameters, v)[1]
    assert slope == pytest.approx(sum(np.sum(gradient[n] * v[n]) for n in v), rel=1e-11)
    for name, p in model.named_parameters():
        assert p.grad is None
        assert p.data is parameters[name]
    F.cross_entropy(model(x), labels).backward()
    for name, p in model.named_parameters():
        np.testing.assert_allclose(gradient[name], p.grad.data, rtol=1e-10, atol=1e-14)


def with_inputs_left_out():
    """Yield (op, sample) of all ops whose last inputs may be left out, without them."""
    for op in OPS.values():
        for sample in op.samples(np.random.default_rng(0), np.float64) if op.inputs else ():
            if sample.arrays[-1] is None:
                yield op, sample._replace(arrays=sample.arrays[:-1])
                break


CALLS = list(with_inputs_left_out())


@pytest.mark.parametrize(("op", "sample"), CALLS, ids=[op.name for op, _ in CALLS])
def test_inputs_left_out_at_the_end_are_none_in_both_modes(op, sample):
    f = lambda *x: (op(*x, **sample.attributes) ** 2).sum()  # noqa: E731
    g = lambda *x: (op(*x, None, **sample.attributes) ** 2).sum()  # noqa: E731
    given = tuple(sample.arrays)
    for derivative in (
        lambda f: nnk.grad(f, (0, 1))(*given),
        lambda f: nnk.jvp(f, given, given),
        lambda f: nnk.hvp(f, given, given),
    ):
        for left_out, spelled_out in zip(derivative(f), derivative(g)):
            np.testing.assert_array_equal(left_out, spelled_out)


def test_convolutions_and_linear_may_be_called_without_a_bias():
    assert {op.name for op, _ in CALLS} >= {"linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d"}


# ---------------------------------------------------------------- Jacobians


@pytest.mark.parametrize("mode", ["auto", "forward", "reverse"])
@pytest.mark.parametrize(("n", "m"), [(2, 5), (5, 2), (1, 1), (3, 3)])
def test_jacobians_equal_differences_by_either_mode(mode, n, m):
    a, x = normal(m, n), normal(n, seed=1)

    def f(t):
        return (nnk.tensor(a) @ t).tanh() * t.sum()

    wanted = differences(lambda v: np.tanh(a @ v) * v.sum(), x)
    np.testing.assert_allclose(nnk.jacobian(f, x, mode), wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("mode", ["forward", "reverse"])
def test_jacobians_of_several_arguments_and_values_have_the_form_of_both(mode):
    x, p = normal(2, 3), {"b": normal(3, seed=1), "s": np.float64(0.7)}

    def f(x, p):
        return (x + p["b"]).sin(), (x * p["s"]).sum(1)

    blocks = nnk.jacobian(f, (x, p), mode)
    assert len(blocks) == 2
    cos = np.cos(x + p["b"])
    np.testing.assert_allclose(blocks[0][0], np.einsum("ij,ik,jl->ijkl", cos, np.eye(2), np.eye(3)))
    np.testing.assert_allclose(blocks[0][1]["b"], np.einsum("ij,jl->ijl", cos, np.eye(3)))
    np.testing.assert_array_equal(blocks[0][1]["s"], np.zeros((2, 3)))
    np.testing.assert_allclose(blocks[1][0], 0.7 * np.einsum("ik,l->ikl", np.eye(2), np.ones(3)))
    np.testing.assert_allclose(blocks[1][1]["s"], x.sum(1))


def test_auto_takes_the_mode_with_fewer_passes():
    runs = []

    def f(t, m):
        runs.append(0)
        return nnk.tensor(normal(m, t.size)) @ t

    nnk.jacobian(lambda t: f(t, 6), normal(2))
    assert len(runs) == 1 + 2  # one to see, one for each input
    runs.clear()
    nnk.jacobian(lambda t: f(t, 2), normal(6))
    assert len(runs) == 1  # all rows from one tape


# ---------------------------------------------------------------- second derivatives

LAYERS = (
    lambda t, rng: nnk.tensor(rng.standard_normal((4, 4)) / 2) @ t,
    lambda t, rng: t.tanh(),
    lambda t, rng: t.sin() + t,
    lambda t, rng: F.softplus(t),
    lambda t, rng: F.gelu(t),
    lambda t, rng: F.silu(t) * t,
    lambda t, rng: t.softmax(0) * 3.0,
    lambda t, rng: F.layer_norm(t.reshape(1, 4), 4).reshape(4) + t,
    lambda t, rng: t / (1.0 + t * t),
    lambda t, rng: (t * t + 0.5).sqrt(),
    lambda t, rng: OPS["log_softmax"](t.reshape(2, 2)).reshape(4),
    lambda t, rng: F.conv1d(t.reshape(1, 1, 4), rng.standard_normal((1, 1, 3)), padding=1).reshape(4),
)  # fmt: skip


def composite(seed):
    rng = np.random.default_rng(seed)
    chosen = [LAYERS[i] for i in rng.integers(0, len(LAYERS), 4)]
    seeds = rng.integers(0, 1000, 4)

    def f(x):
        t = x
        for layer, s in zip(chosen, seeds):
            t = layer(t, np.random.default_rng(s))
        return (t * t.sin()).sum()

    return f, rng.uniform(0.2, 1, 4)


@pytest.mark.parametrize("seed", range(20))
def test_hessians_of_random_composite_functions_equal_double_differences(seed):
    f, x = composite(seed)

    def value(v):
        return f(nnk.tensor(v)).item()

    wanted = differences(lambda v: differences(value, v, 1e-3), x, 1e-3)
    found = nnk.hessian(f, x)
    scale = max(1.0, np.abs(wanted).max())
    np.testing.assert_allclose(found, wanted, atol=1e-6 * scale)
    np.testing.assert_allclose(found, found.T, atol=1e-11 * scale)


@pytest.mark.parametrize("seed", range(20))
def test_all_orders_of_the_modes_give_one_hessian(seed):
    f, x = composite(seed)
    forward_over_reverse = nnk.hessian(f, x)
    scale = max(1.0, np.abs(forward_over_reverse).max())
    for others in (
        nnk.jacobian(nnk.grad(f), x, "reverse"),
        nnk.jacobian(lambda t: nnk.jacobian(f, t, "forward"), x, "reverse"),
        nnk.jacobian(lambda t: nnk.jacobian(f, t, "forward"), x, "forward"),
    ):
        np.testing.assert_allclose(others, forward_over_reverse, atol=1e-10 * scale)
    v = normal(4, seed=seed)
    np.testing.assert_allclose(nnk.hvp(f, x, v), forward_over_reverse @ v, atol=1e-10 * scale)


def test_derivatives_of_any_order_nest():
    f = lambda x: x**5  # noqa: E731
    values = []
    for _ in range(5):
        f = nnk.grad(f)
        values.append(float(f(np.float64(2))))
    assert values == pytest.approx([80, 160, 240, 240, 120], rel=1e-12)


def test_an_inner_derivative_keeps_the_outer_variable_apart():
    # d/dx (x d/dy (x + y)) is 1; where the two perturbations are confused, it is 2.
    for inner in (
        lambda x: nnk.grad(lambda y: x + y)(nnk.tensor(np.float64(1))),
        lambda x: nnk.jvp(lambda y: x + y, nnk.tensor(np.float64(1)), nnk.tensor(np.float64(1)))[1],
        lambda x: nnk.grad(lambda y: x + y)(x),
        lambda x: nnk.jvp(lambda y: x + y, x, nnk.tensor(np.float64(1)))[1],
    ):
        outer = lambda x, inner=inner: x * inner(x)  # noqa: E731
        assert nnk.grad(outer)(np.float64(3)) == 1
        assert nnk.jvp(outer, np.float64(3), np.float64(1)) == (3, 1)


INNER = {
    "grad": lambda x, y: nnk.grad(lambda t: x * t * t)(y),
    "vjp": lambda x, y: nnk.vjp(lambda t: x * t * t, y)[1](np.float64(1))[0],
    "jvp": lambda x, y: nnk.jvp(lambda t: x * t * t, y, np.float64(1))[1],
    "jacobian": lambda x, y: nnk.jacobian(lambda t: x * t * t, y, "forward"),
    "hessian": lambda x, y: nnk.hessian(lambda t: x * t * t * t / 3.0, y),
}


@pytest.mark.parametrize("name", INNER)
@pytest.mark.parametrize("kind", [np.float64, lambda v: nnk.tensor(np.float64(v))], ids=["array", "tensor"])
def test_inner_derivatives_depend_on_what_their_function_captures(name, kind):
    inner = INNER[name]  # 2 x y at y = 1.5
    assert nnk.grad(lambda x: inner(x, kind(1.5)) * x)(np.float64(2)) == pytest.approx(2 * 2 * 1.5 * 2)
    assert nnk.jvp(lambda x: inner(x, kind(1.5)) * x, np.float64(2), np.float64(1))[1] == pytest.approx(12)
    w = nnk.tensor(np.float64(2), requires_grad=True)
    slope = inner(w, nnk.tensor(np.float64(1.5)))
    (slope * w).backward()
    assert w.grad.item() == pytest.approx(12)


def test_arrays_give_numbers_and_tensors_give_what_is_recorded_only_where_something_needs_it():
    w = nnk.tensor(normal(3), requires_grad=True)
    f = lambda t: (t * w).sin().sum()  # noqa: E731
    assert isinstance(nnk.grad(f)(normal(3)), np.ndarray)
    assert nnk.grad(f)(nnk.tensor(normal(3))).requires_grad
    assert not nnk.grad(f, create_graph=False)(nnk.tensor(normal(3))).requires_grad
    assert not nnk.grad(lambda t: t.sin().sum())(nnk.tensor(normal(3))).requires_grad
    with nnk.no_grad():
        assert not nnk.grad(f)(nnk.tensor(normal(3))).requires_grad
    assert w.grad is None


def test_arguments_are_independent_however_they_were_made():
    def outer(x):
        y = x * x  # an argument made from another one
        inner = nnk.grad(lambda a, b: a * b, (0, 1))(x, y)
        return inner[0] * 10.0 + inner[1]

    assert nnk.grad(outer)(np.float64(3)) == 2 * 3 * 10 + 1


def test_backward_with_create_graph_records_its_gradients():
    x = nnk.tensor(np.float64([1.0, 2.0]), requires_grad=True)
    y = (x**3).sum()
    y.backward(create_graph=True)
    first = x.grad
    assert first.requires_grad
    x.zero_grad()
    (first * first).sum().backward()  # the penalty on a gradient
    np.testing.assert_allclose(x.grad.data, 2 * 3 * np.array([1, 4]) * 6 * np.array([1.0, 2.0]))


def test_a_gradient_penalty_trains_through_a_network():
    rng = np.random.default_rng(0)
    model = nn.Sequential(nn.Linear(3, 8, rng=0, dtype=np.float64), nn.Tanh(),
                          nn.Linear(8, 1, rng=1, dtype=np.float64))  # fmt: skip
    x = rng.standard_normal((6, 3))

    def penalty(p):
        slope = nnk.grad(lambda t: functional_call(model, p, (t,)).sum())(nnk.tensor(x, requires_grad=True))
        return (slope * slope).sum()

    parameters = {name: p.data for name, p in model.named_parameters()}
    found = nnk.grad(penalty)(parameters)
    for name, a in parameters.items():

        def moved(v, name=name):
            return penalty({**{n: nnk.tensor(b) for n, b in parameters.items()}, name: nnk.tensor(v)}).item()

        np.testing.assert_allclose(found[name], differences(moved, a), atol=1e-7)


def test_hvp_of_a_convolutional_network_equals_differences_of_its_gradient():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, rng=0, dtype=np.float64), nn.Tanh(), nn.AvgPool2d(2),
                          nn.Flatten(), nn.Linear(8, 3, rng=1, dtype=np.float64))  # fmt: skip
    x, labels = normal(4, 1, 6, 6), np.array([0, 2, 1, 0])
    parameters = {name: p.data for name, p in model.named_parameters()}
    v = {name: normal(*a.shape, seed=9) for name, a in parameters.items()}

    def loss(p):
        return F.cross_entropy(functional_call(model, p, (x,)), labels)

    found = nnk.hvp(loss, parameters, v)
    ends = [nnk.grad(loss)({n: a + s * v[n] for n, a in parameters.items()}) for s in (1e-5, -1e-5)]
    for name in parameters:
        np.testing.assert_allclose(found[name], (ends[0][name] - ends[1][name]) / 2e-5, atol=1e-8)


# ---------------------------------------------------------------- nothing is lost without a word


def test_recorded_tangents_lead_through_checkpoints():
    f = lambda x: nnk.checkpoint(lambda t: t * t * t, x).sum()  # noqa: E731
    x = np.array([1.0, 2.0, 3.0])
    np.testing.assert_allclose(nnk.grad(lambda x: nnk.jvp(f, x, np.ones(3))[1])(x), 6 * x)


def test_a_checkpoint_may_return_what_it_captured():
    w = nnk.tensor(normal(3), requires_grad=True)
    nnk.checkpoint(lambda x: w, np.ones(3)).sum().backward()
    np.testing.assert_array_equal(w.grad.data, np.ones(3))


def scaled_in_place(x):
    y = x * 1.0
    y *= 3.0
    return y


def added_in_place(x):
    total = nnk.tensor(np.zeros(3))
    total += x
    return total * total


@pytest.mark.parametrize("f", [scaled_in_place, added_in_place])
def test_augmented_assignment_counts_in_both_modes(f):
    x = np.array([1.0, 2.0, 3.0])
    before = x.copy()
    np.testing.assert_allclose(nnk.jacobian(f, x, "forward"), nnk.jacobian(f, x, "reverse"))
    assert nnk.jacobian(f, x).any()
    np.testing.assert_array_equal(x, before)


def assigned(x):
    y = nnk.tensor(np.zeros(3))
    y[0] = x[0] * x[0]
    return (y * x).sum()


LOST = {
    "an element assigned": (assigned, RuntimeError, "derivative of value would be lost"),
    "NumPy's sine": (lambda x: (x * np.sin(x)).sum(), TypeError, "numpy.sin would lose the derivative"),
    "NumPy's maximum": (lambda x: (x * np.maximum(x, 0)).sum(), TypeError, "numpy.maximum would lose"),
    "NumPy's +=": (lambda x: np.zeros(3).__iadd__(x * x), TypeError, "numpy.add would lose"),
    "a target": (
        lambda x: F.binary_cross_entropy_with_logits(x, x.sigmoid()), TypeError,
        r"bce_with_logits: there is no derivative by input 1; give it without, as by detach\(\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LOST)
def test_what_would_lose_a_derivative_is_refused_in_both_modes(case):
    f, error, words = LOST[case]
    x = np.array([1.0, 2.0, 3.0])
    for derivative in (lambda: nnk.grad(f)(x), lambda: nnk.jvp(f, x, x)):
        with pytest.raises(error, match=words):
            derivative()
    t = nnk.tensor(x)
    np.testing.assert_array_equal(np.sin(t), np.sin(x))  # without derivatives, NumPy may have it
    np.testing.assert_array_equal(np.add(x, t).data, 2 * x)


def test_cotangents_can_be_differentiated_by():
    x = np.array([1.0, 2.0, 3.0])
    _, pull = nnk.vjp(lambda t: t * t * t, nnk.tensor(x))
    np.testing.assert_allclose(nnk.grad(lambda u: (pull(u)[0] * x).sum())(np.ones(3)), 3 * x**3)
    inside = lambda u: (nnk.vjp(lambda t: t * t * t, x)[1](u)[0] * x).sum()  # noqa: E731
    np.testing.assert_allclose(nnk.grad(inside)(np.ones(3)), 3 * x**3)


def test_trees_are_matched_by_their_keys():
    f = lambda p: p["a"] * p["a"] * p["b"]  # noqa: E731
    assert nnk.jvp(f, {"a": 2.0, "b": 3.0}, {"b": 0.0, "a": 1.0})[1] == 12
    with pytest.raises(ValueError, match=r"jvp: v must be a dict with the keys \['a', 'b'\], got the keys"):
        nnk.jvp(f, {"a": 2.0, "b": 3.0}, {"a": 1.0})
    with pytest.raises(ValueError, match=r"jvp: v must be a tuple of 2, got a tuple of 1"):
        nnk.jvp(lambda x, y: x * y, (1.0, 2.0), (1.0,))


def test_create_graph_inside_no_grad_leads_to_the_argument():
    x = nnk.tensor(np.array([1.0, 2.0]), requires_grad=True)
    with nnk.no_grad():
        slope = nnk.grad(lambda t: (t * t * t).sum(), create_graph=True)(x)
    slope.sum().backward()
    np.testing.assert_allclose(x.grad.data, 6 * x.data)


def test_a_jacobian_of_random_numbers_is_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="another value in every pass"):
        nnk.jacobian(lambda x: F.dropout(x, 0.5, rng=rng), np.ones(8), "forward")


def test_empty_arrays_have_empty_jacobians():
    empty, x = np.zeros(0), np.ones(3)
    assert nnk.hessian(lambda t: (t * t).sum(), empty).shape == (0, 0)
    for mode in ("forward", "reverse", "auto"):
        assert nnk.jacobian(lambda t: t * t, empty, mode).shape == (0, 0)
        assert nnk.jacobian(lambda t: t[:0], x, mode).shape == (0, 3)
        both = nnk.jacobian(lambda a, b: a.sum() + b, (np.zeros((0, 2)), x), mode)
        assert [j.shape for j in both] == [(3, 0, 2), (3, 3)]


def test_powers_of_a_number_have_second_derivatives():
    x = np.array([1.0, 2.0])
    np.testing.assert_allclose(nnk.hvp(lambda t: (2.0**t).sum(), x, x), np.log(2) ** 2 * 2**x * x)


def test_gradients_left_inside_a_forward_pass_keep_no_tangent():
    w = nnk.tensor(np.ones(2), requires_grad=True)

    def f(x):
        (x * w).sum().backward()
        return x * 2.0

    nnk.jvp(f, np.ones(2), np.ones(2))
    assert type(w.grad) is nnk.Tensor


def test_a_users_dual_and_jvp_keep_their_directions_apart():
    x = Dual(np.asarray(3.0), Tensor(np.asarray(1.0)))
    value, slope = nnk.jvp(lambda t: t * t, x, nnk.tensor(np.float64(1)))
    assert (slope.item(), slope.tangent.item()) == (6, 2)
    assert value.tangent.item() == 6


# ---------------------------------------------------------------- Duals


def test_a_dual_is_its_value_to_conditionals_and_prints_both_parts():
    x = Dual(np.asarray(2.0), Tensor(np.asarray(1.0)))
    y = x * x if x > 1 else x
    assert (y.item(), y.tangent.item()) == (4, 4)
    assert repr(y) == "dual(4.0 + e 4.0)"
    assert (2.0 / x).tangent.item() == -0.5
    assert y.detach().tangent is None


def test_a_dual_among_the_inputs_of_an_op_takes_over_wherever_it_stands():
    x, w = Dual(normal(2, 3), Tensor(normal(2, 3, seed=1))), nnk.tensor(normal(3, 2), requires_grad=True)
    for y in (w.T * x, x * w.T, OPS["add"](np.ones((2, 3)), x), x @ w):
        assert isinstance(y, Dual)
    label = OPS["index_select"](nnk.tensor(normal(4)), nnk.tensor(np.array([0, 2])))
    assert not isinstance(label, Dual)


# ---------------------------------------------------------------- wrong use

WRONG = {
    "integers": (
        lambda: nnk.grad(lambda x: x.sum())(np.arange(3)), TypeError,
        r"grad: argument 0 must be float32 or float64 .* got int64 array of shape \(3,\); convert it",
    ),
    "a Python int": (lambda: nnk.grad(z)(2, 3.0), TypeError, r"argument 0 .* got 2; convert.*with its point"),
    "an int in a tree": (
        lambda: nnk.jvp(lambda p: p["w"], {"w": 1.0, "n": 3}, {"w": 1.0, "n": 3}), TypeError,
        r"jvp: x\['n'\] must",
    ),
    "no Tensor returned": (
        lambda: nnk.grad(lambda x: float(x.sum()))(normal(3)), TypeError,
        r"grad: f must return a Tensor.*got float; compute with the Tensors",
    ),
    "an array returned": (
        lambda: nnk.jacobian(lambda x: x.data, normal(3), "forward"), TypeError,
        r"f must return a Tensor.*ndarray",
    ),
    "nothing returned": (lambda: nnk.vjp(lambda x: None, normal(3)), TypeError, "lack a return statement"),
    "many numbers": (
        lambda: nnk.grad(lambda x: x * 2.0)(normal(2, 3)), ValueError,
        r"grad: f must return a single number, got shape \(2, 3\); use vjp .* jacobian",
    ),
    "an argument twice": (lambda: nnk.grad(z, (0, -2))(2.0, 3.0), ValueError, "names an argument twice"),
    "a word for a number": (lambda: nnk.grad(z, "x1"), TypeError, "argnums must be an int or a tuple"),
    "no function": (lambda: nnk.grad(3.0), TypeError, "f must be a function of Tensors, got float"),
    "integers returned": (
        lambda: nnk.grad(lambda x: nnk.tensor(3))(1.0), TypeError,
        "must return floating-point numbers, got int64",
    ),
    "a tangent of another shape": (
        lambda: Dual(normal(3), Tensor(normal(2))), ValueError, r"shape of data, \(3,\), got \(2,\)"
    ),
    "a seed for a generator": (
        lambda: nnk.checkpoint(lambda x: x, normal(3), rng=3), TypeError,
        "rng must be a numpy.random.Generator",
    ),
    "a list of parameters": (
        lambda: functional_call(nn.Linear(2, 3), [1.0], (normal(1, 2),)), TypeError,
        "must be a dict, got list",
    ),
    "no such argument": (lambda: nnk.grad(z, 2)(2.0, 3.0), ValueError, "argument 2, but f was given 2"),
    "another shape of v": (
        lambda: nnk.jvp(lambda x: x, normal(3), normal(4)), ValueError,
        r"v must have the shapes of x, \(3,\), got",
    ),
    "another form of dy": (
        lambda: nnk.vjp(lambda x: x, normal(3))[1]((normal(3), normal(3))), ValueError,
        "dy must be an array, got a tuple of 2",
    ),
    "another shape of dy": (
        lambda: nnk.vjp(lambda x: x, normal(3))[1](normal(4)), ValueError, r"shape \(3,\), got \(4,\)"
    ),
    "no such mode": (lambda: nnk.jacobian(z, (1.0, 2.0), "backward"), ValueError, "auto, forward or reverse"),
    "nothing to differentiate by": (lambda: nnk.grad(lambda x: x)({}), TypeError, "holds no array"),
    "an unknown parameter": (
        lambda: functional_call(nn.Linear(2, 3), {"wait": normal(3, 2)}, (normal(1, 2),)), ValueError,
        "no parameter 'wait'; it has weight, bias",
    ),
    "a parameter of another shape": (
        lambda: functional_call(nn.Linear(2, 3), {"weight": normal(2, 3)}, (normal(1, 2),)), ValueError,
        r"weight must have shape \(3, 2\), got \(2, 3\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_says_what_to_do(case):
    call, error, words = WRONG[case]
    with pytest.raises(error, match=words):
        call()


def test_a_module_has_its_own_parameters_again_after_an_error():
    layer = nn.Linear(2, 3, rng=0)
    own = layer.weight
    with pytest.raises(ValueError, match="linear"):
        functional_call(layer, {"weight": np.zeros((3, 2), np.float32)}, (np.zeros((1, 5), np.float32),))
    assert layer.weight is own


class CallsItself(nn.Module):
    """A module whose forward pass calls its layer with other weights, and then as it is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False, rng=0)

    def forward(self, x):
        with_ones = functional_call(self.layer, {"weight": np.ones((2, 2), np.float32)}, (x,))
        return with_ones, self.layer(x)


def test_calls_with_other_parameters_nest():
    x = np.ones((1, 2), np.float32)
    inner, outer = functional_call(CallsItself(), {"layer.weight": np.zeros((2, 2), np.float32)}, (x,))
    np.testing.assert_array_equal(inner.data, [[2, 2]])
    np.testing.assert_array_equal(outer.data, [[0, 0]])


def test_a_shared_parameter_is_replaced_everywhere():
    model = nn.Sequential(nn.Linear(2, 2, bias=False, rng=0), nn.Linear(2, 2, bias=False, rng=1))
    model[1].weight = model[0].weight
    y = functional_call(model, {"0.weight": 2 * np.eye(2, dtype=np.float32)}, (np.ones((1, 2), np.float32),))
    np.testing.assert_array_equal(y.data, [[4, 4]])
