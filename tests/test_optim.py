"""Optimizers against their formulas in float64, and against torch where it is installed."""

from importlib.util import find_spec

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.optim import SGD, Adam, Optimizer

needs_torch = pytest.mark.skipif(find_spec("torch") is None, reason="torch is the oracle here")

STEPS = 20
SHAPES = ((7, 5), (3,), (), (40_000,))  # the last one is updated by several threads
CASES = {
    "sgd": (SGD, {"lr": 0.1}),
    "sgd with weight decay": (SGD, {"lr": 0.1, "weight_decay": 0.3}),
    "momentum": (SGD, {"lr": 0.05, "momentum": 0.9}),
    "momentum, dampening": (SGD, {"lr": 0.05, "momentum": 0.9, "dampening": 0.25}),
    "momentum, dampening, weight decay": (
        SGD, {"lr": 0.05, "momentum": 0.8, "dampening": 0.5, "weight_decay": 0.1}
    ),
    "nesterov": (SGD, {"lr": 0.05, "momentum": 0.9, "nesterov": True}),
    "nesterov with weight decay": (
        SGD, {"lr": 0.05, "momentum": 0.7, "nesterov": True, "weight_decay": 0.2}
    ),
    "adam": (Adam, {"lr": 0.02}),
    "adam, other betas and eps": (Adam, {"lr": 0.05, "betas": (0.6, 0.95), "eps": 1e-2}),
    "adam with weight decay": (Adam, {"lr": 0.02, "weight_decay": 0.3}),
    "adam without memory": (Adam, {"lr": 0.02, "betas": (0.0, 0.0)}),
}  # fmt: skip


def starts(dtype):
    rng = np.random.default_rng(0)
    return [np.asarray(rng.standard_normal(shape), dtype) for shape in SHAPES]


def gradient(t, i, p):
    """The gradient at step t of parameter i; it depends on p, so an error of one step reaches the next."""
    return np.asarray(np.sin(3 * p + t + i) + 0.2 * p, p.dtype)


def sgd_by_hand(p, t, g, state, lr, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False):
    g = g + weight_decay * p
    if momentum == 0:
        return p - lr * g
    state["v"] = g if t == 0 else momentum * state["v"] + (1 - dampening) * g
    return p - lr * (g + momentum * state["v"] if nesterov else state["v"])


def adam_by_hand(p, t, g, state, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
    g = g + weight_decay * p
    state["m"] = betas[0] * state.get("m", 0) + (1 - betas[0]) * g
    state["v"] = betas[1] * state.get("v", 0) + (1 - betas[1]) * g * g
    m, v = state["m"] / (1 - betas[0] ** (t + 1)), state["v"] / (1 - betas[1] ** (t + 1))
    return p - lr * m / (np.sqrt(v) + eps)


def after_20_steps_by_hand(cls, options):
    formula, values = (sgd_by_hand if cls is SGD else adam_by_hand), starts(np.float64)
    for i, p in enumerate(values):
        state = {}
        for t in range(STEPS):
            p = formula(p, t, gradient(t, i, p), state, **options)
        values[i] = p
    return values


def after_20_steps(cls, options, dtype):
    params = [nn.Parameter(p) for p in starts(dtype)]
    optimizer = cls(params, **options)
    for t in range(STEPS):
        for i, p in enumerate(params):
            p.grad = nnk.tensor(gradient(t, i, p.data))
        optimizer.step()
    return [p.data for p in params]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 2e-5)])
def test_20_steps_follow_the_formulas(case, dtype, tolerance):
    cls, options = CASES[case]
    for got, wanted, start in zip(
        after_20_steps(cls, options, dtype), after_20_steps_by_hand(cls, options), starts(dtype), strict=True
    ):
        assert got.dtype == dtype
        assert got.size == 1 or np.abs(got - start).max() > 0.05  # it went somewhere
        if case == "adam without memory" and dtype == np.float32:
            continue  # the sign of the gradient: rounding decides where it passes through zero
        np.testing.assert_allclose(got, wanted, rtol=tolerance, atol=tolerance)


@needs_torch
@pytest.mark.parametrize("case", [c for c in CASES if c != "adam without memory"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-12), (np.float32, 1e-5)])
def test_20_steps_equal_torchs(case, dtype, tolerance):
    import torch

    cls, options = CASES[case]
    params = [torch.nn.Parameter(torch.tensor(p)) for p in starts(dtype)]
    optimizer = getattr(torch.optim, cls.__name__)(params, **options)
    for t in range(STEPS):
        for i, p in enumerate(params):
            p.grad = torch.tensor(gradient(t, i, p.detach().numpy()))
        optimizer.step()
    for got, wanted in zip(after_20_steps(cls, options, dtype), params, strict=True):
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cls", [SGD, Adam])
def test_the_default_hyper_parameters_are_torchs(cls):
    p = nn.Parameter(np.float64([1.0]))
    optimizer = cls([p])
    assert optimizer.lr == 1e-3
    p.grad = nnk.tensor(np.float64([0.5]))
    optimizer.step()
    wanted = 1 - 1e-3 * (0.5 if cls is SGD else 0.5 / (0.5 + 1e-8))
    assert p.item() == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize("case", ["sgd", "nesterov with weight decay", "adam with weight decay"])
def test_a_parameter_without_a_gradient_and_its_state_stay_untouched(case):
    cls, options = CASES[case]
    p, q = nn.Parameter(np.float64([1.0, 2.0])), nn.Parameter(np.float64([3.0]))
    both, alone = cls([p, q], **options), cls([twin := nn.Parameter(np.float64([3.0]))], **options)
    for t in range(3):  # q joins at the third step
        p.grad = nnk.tensor(np.float64([1.0, -1.0]))
        if t == 2:
            q.grad = nnk.tensor(np.float64([0.5]))
            twin.grad = nnk.tensor(np.float64([0.5]))
            alone.step()
        both.step()
        if t < 2:
            assert q.data.tolist() == [3.0]
    assert q.item() == twin.item() != 3.0


@pytest.mark.parametrize("case", CASES)
def test_a_step_works_in_place_and_leaves_the_gradient_alone(case):
    cls, options = CASES[case]
    p = nn.Parameter(np.ones((2, 3)))
    optimizer, g = cls([p], **options), np.asfortranarray(np.arange(6.0).reshape(2, 3) - 2)
    data, p.grad = p.data, nnk.Tensor(g)
    optimizer.step()
    assert p.data is data
    assert (data != 1).sum() >= 5
    np.testing.assert_array_equal(g, np.arange(6.0).reshape(2, 3) - 2)
    assert p.grad.data is g


def test_zero_grad_forgets_and_a_changed_lr_counts_from_the_next_step():
    p = nn.Parameter(np.float64([1.0]))
    optimizer = SGD([p], lr=0.5)
    p.grad = nnk.tensor(np.float64([1.0]))
    optimizer.step()
    optimizer.lr = 0.25
    optimizer.step()
    assert p.item() == 0.25
    optimizer.zero_grad()
    assert p.grad is None
    optimizer.step()
    assert p.item() == 0.25


def test_optimizers_of_one_model_each_keep_their_own_state():
    p = nn.Parameter(np.float64([0.0]))
    one, other = (SGD([p], lr=1.0, momentum=0.5) for _ in range(2))
    p.grad = nnk.tensor(np.float64([1.0]))
    for optimizer in (one, other, one):
        optimizer.step()
    assert p.item() == -(1 + 1 + 1.5)


def test_params_may_be_a_generator():
    model = nn.Linear(3, 2)
    assert Adam(model.parameters()).params == [model.weight, model.bias]


@pytest.mark.parametrize("cls", [SGD, Adam])
@pytest.mark.parametrize(
    ("params", "error", "words"),
    [
        ([], ValueError, r"params is empty; pass model.parameters\(\)"),
        ([np.ones(3)], TypeError, "params must hold Parameters, got ndarray"),
        ([nnk.tensor([1.0], requires_grad=True)], TypeError, "params must hold Parameters, got Tensor"),
        (nn.Parameter(np.ones(2)), TypeError, "params must hold Parameters, got Tensor"),
    ],
)
def test_what_is_no_list_of_parameters_is_refused(cls, params, error, words):
    with pytest.raises(error, match=f"{cls.__name__}: {words}"):
        cls(params)


@pytest.mark.parametrize(
    ("cls", "options", "words"),
    [
        (SGD, {"lr": -0.1}, "lr"),
        (SGD, {"lr": float("nan")}, "lr"),
        (SGD, {"momentum": -0.5}, "momentum"),
        (SGD, {"weight_decay": -1.0}, "weight_decay"),
        (SGD, {"nesterov": True}, "nesterov"),
        (SGD, {"nesterov": True, "momentum": 0.9, "dampening": 0.5}, "nesterov"),
        (Adam, {"lr": float("inf")}, "lr"),
        (Adam, {"betas": (1.0, 0.9)}, "beta"),
        (Adam, {"betas": (0.9, -0.1)}, "beta"),
        (Adam, {"eps": -1e-8}, "eps"),
        (Adam, {"weight_decay": -1.0}, "weight_decay"),
    ],
)
def test_hyper_parameters_that_make_no_sense_are_named_before_anything_moves(cls, options, words):
    p = nn.Parameter(np.float64([1.0]))
    p.grad = nnk.tensor(np.float64([1.0]))
    with pytest.raises(ValueError, match=words):
        cls([p], **options).step()
    assert p.item() == 1.0


def test_an_optimizer_must_define_update():
    p = nn.Parameter(np.float64([1.0]))
    p.grad = nnk.tensor(np.float64([1.0]))
    with pytest.raises(TypeError, match="Optimizer does not define update"):
        Optimizer([p], {"lr": 0.1}).step()


def test_momentum_gets_through_a_narrow_valley_in_fewer_steps():
    slopes = np.float64([100.0, 1.0])

    def remaining(optimizer_for):
        p = nn.Parameter(np.float64([1.0, 1.0]))
        optimizer = optimizer_for([p])
        for _ in range(100):
            p.grad = nnk.tensor(slopes * p.data)
            optimizer.step()
        return np.abs(p.data).max()

    # The best step sizes for curvatures 1 and 100: contraction 99/101 a step, against (9/11) with momentum.
    plain = remaining(lambda params: SGD(params, lr=2 / 101))
    heavy = remaining(lambda params: SGD(params, lr=4 / 121, momentum=(9 / 11) ** 2))
    assert plain == pytest.approx((99 / 101) ** 100, rel=1e-6)
    assert heavy < 1e-6 < plain


@pytest.mark.parametrize("case", CASES)
def test_one_flat_call_equals_one_call_per_parameter(case):
    """Also when a parameter has missed a step, or was given another array."""
    cls, options = CASES[case]
    rng = np.random.default_rng(0)
    shapes = [(3, 4), (5,), (2, 1, 3)]
    values = [rng.standard_normal(s) for s in shapes]
    together = [nn.Parameter(v.copy()) for v in values]
    alone = [nn.Parameter(v.copy()) for v in values]
    flat, single = cls(together, **options), [cls([p], **options) for p in alone]
    for step in range(6):
        for i, (p, q) in enumerate(zip(together, alone)):
            g = rng.standard_normal(p.shape)
            missing = step == 2 and i == 1
            p.grad, q.grad = (None, None) if missing else (nnk.Tensor(g), nnk.Tensor(g.copy()))
        if step == 4:
            together[0].data = together[0].data.copy()
        flat.step()
        for optimizer in single:
            optimizer.step()
        for p, q in zip(together, alone):
            np.testing.assert_array_equal(p.data, q.data)


def test_a_parameter_given_twice_is_refused():
    p = nn.Parameter(np.ones(3))
    with pytest.raises(ValueError, match="the same Parameter more than once"):
        SGD([p, p], lr=0.1)
