"""Optimizers against their formulas in float64, and against torch where it is installed."""

import inspect

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.optim import (
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)

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


ALL = {
    **CASES,
    "adam with amsgrad": (Adam, {"lr": 0.05, "amsgrad": True, "betas": (0.7, 0.8), "weight_decay": 0.1}),
    "adam with decoupled weight decay": (Adam, {"weight_decay": 0.5, "decoupled_weight_decay": True}),
    "adamw": (AdamW, {"lr": 0.02}),
    "adamw, strong, with amsgrad": (AdamW, {"lr": 0.05, "weight_decay": 0.5, "amsgrad": True}),
    "nadam": (NAdam, {"lr": 0.02}),
    "nadam, other options": (
        NAdam, {"lr": 0.05, "betas": (0.6, 0.9), "eps": 1e-3, "weight_decay": 0.1, "momentum_decay": 0.05}
    ),
    "nadam, decoupled": (NAdam, {"lr": 0.05, "weight_decay": 0.3, "decoupled_weight_decay": True}),
    "radam": (RAdam, {"lr": 0.02}),
    "radam, other options": (RAdam, {"lr": 0.05, "betas": (0.6, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    "radam, decoupled": (RAdam, {"lr": 0.05, "weight_decay": 0.3, "decoupled_weight_decay": True}),
    "rmsprop": (RMSprop, {"lr": 0.02}),
    "rmsprop, momentum": (RMSprop, {"lr": 0.01, "momentum": 0.8, "alpha": 0.9, "weight_decay": 0.1}),
    "rmsprop, centered": (RMSprop, {"lr": 0.01, "centered": True, "alpha": 0.9, "eps": 0.01}),
    "rmsprop, both": (RMSprop, {"lr": 0.01, "centered": True, "momentum": 0.5, "alpha": 0.8, "eps": 0.1}),
    "adagrad": (Adagrad, {"lr": 0.1}),
    "adagrad, other options": (
        Adagrad,
        {"lr": 0.3, "lr_decay": 0.05, "weight_decay": 0.1, "initial_accumulator_value": 0.5, "eps": 1e-3},
    ),
    "adadelta": (Adadelta, {"lr": 3.0}),
    "adadelta, other options": (Adadelta, {"lr": 0.5, "rho": 0.7, "eps": 1e-2, "weight_decay": 0.1}),
    "lion": (Lion, {"lr": 0.01}),
    "lion with weight decay": (Lion, {"lr": 0.01, "betas": (0.7, 0.9), "weight_decay": 0.3}),
}  # fmt: skip
IN_TORCH = [name for name, (cls, _) in ALL.items() if cls is not Lion and name != "adam without memory"]


def in_groups(params, options):
    """The last parameter in a group of its own, with options of its own."""
    other = {"lr": 0.5 * options.get("lr", 1e-3), "weight_decay": 0.05}
    return [{"params": params[:-1]}, {"params": params[-1:], **other}]


def run(cls, options, dtype, steps):
    params = [nn.Parameter(p) for p in starts(dtype)]
    optimizer = cls(in_groups(params, options), **options)
    for t in range(steps):
        for i, p in enumerate(params):
            p.grad = nnk.tensor(gradient(t, i, p.data))
        optimizer.step()
    return [p.data for p in params]


@pytest.mark.parametrize("case", IN_TORCH)
@pytest.mark.parametrize(("dtype", "steps", "tolerance"), [(np.float64, 100, 1e-9), (np.float32, 20, 3e-5)])
def test_steps_in_parameter_groups_equal_torchs(case, dtype, steps, tolerance, torch64):
    cls, options = ALL[case]
    params = [torch64.nn.Parameter(torch64.tensor(p)) for p in starts(dtype)]
    optimizer = getattr(torch64.optim, cls.__name__)(in_groups(params, options), **options)
    for t in range(steps):
        for i, p in enumerate(params):
            p.grad = torch64.tensor(gradient(t, i, p.detach().numpy()))
        optimizer.step()
    for got, wanted, start in zip(run(cls, options, dtype, steps), params, starts(dtype), strict=True):
        assert np.abs(got - start).max() > 1e-4  # it went somewhere
        np.testing.assert_allclose(got, wanted.detach().numpy(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("cls", [SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Adadelta, Muon])
def test_names_order_and_defaults_of_options_are_torchs(cls):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    theirs = inspect.signature(getattr(torch.optim, cls.__name__)).parameters
    ours = inspect.signature(cls).parameters
    positional = [n for n, p in ours.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == list(theirs)[: len(positional)]
    for name in list(ours)[1:]:
        assert ours[name].default == theirs[name].default, name


def lion_by_hand(p, t, g, state, lr, betas=(0.9, 0.99), weight_decay=0.0):
    m = state.get("m", 0)
    state["m"] = betas[1] * m + (1 - betas[1]) * g
    return p - lr * (np.sign(betas[0] * m + (1 - betas[0]) * g) + weight_decay * p)


@pytest.mark.parametrize("case", [name for name, (cls, _) in ALL.items() if cls is Lion])
def test_100_steps_of_lion_follow_the_formula(case):
    options = ALL[case][1]
    wanted = starts(np.float64)
    states = [{} for _ in wanted]
    for t in range(100):
        for i, p in enumerate(wanted):
            its = {**options, **(in_groups([0, 1], options)[1] if i == len(wanted) - 1 else {})}
            its.pop("params", None)
            wanted[i] = lion_by_hand(p, t, gradient(t, i, p), states[i], **its)
    for got, w in zip(run(Lion, options, np.float64, 100), wanted, strict=True):
        np.testing.assert_allclose(got, w, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("cls", [SGD, Adam])
def test_the_default_hyper_parameters_are_torchs(cls):
    p = nn.Parameter(np.float64([1.0]))
    optimizer = cls([p])
    assert optimizer.lr == 1e-3
    p.grad = nnk.tensor(np.float64([0.5]))
    optimizer.step()
    wanted = 1 - 1e-3 * (0.5 if cls is SGD else 0.5 / (0.5 + 1e-8))
    assert p.item() == pytest.approx(wanted, rel=1e-15)


@pytest.mark.parametrize("case", ["sgd", "nesterov with weight decay", "adam with weight decay", "nadam"])
def test_a_parameter_without_a_gradient_and_its_state_stay_untouched(case):
    cls, options = ALL[case]
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


@pytest.mark.parametrize("case", ALL)
def test_a_step_works_in_place_and_leaves_the_gradient_alone(case):
    cls, options = ALL[case]
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
        (NAdam, {"momentum_decay": -1.0}, "momentum_decay"),
        (RAdam, {"betas": (0.9, 1.0)}, "beta"),
        (RMSprop, {"alpha": -0.1}, "alpha"),
        (RMSprop, {"momentum": -0.1}, "momentum"),
        (Adagrad, {"lr_decay": -0.1}, "lr_decay"),
        (Adadelta, {"rho": 1.1}, "rho"),
        (Lion, {"betas": (0.9, 1.0)}, "beta"),
        (Muon, {"ns_steps": 100}, "ns_steps"),
        (Muon, {"adjust_lr_fn": "mine"}, "adjust_lr_fn"),
    ],
)
def test_hyper_parameters_that_make_no_sense_are_named_at_once(cls, options, words):
    p = nn.Parameter(np.float64([[1.0]]))
    with pytest.raises(ValueError, match=f"{cls.__name__}: .*{words}"):
        cls([p], **options)
    with pytest.raises(ValueError, match=f"{cls.__name__}: .*{words}"):
        cls([{"params": [p], **options}])
    optimizer = cls([p])
    p.grad = nnk.tensor(np.float64([[1.0]]))
    optimizer.param_groups[0].update(options)
    with pytest.raises(ValueError, match=words):
        optimizer.step()
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


@pytest.mark.parametrize("case", ALL)
def test_one_flat_call_equals_one_call_per_parameter(case):
    """Also when a parameter has missed a step, or was given another array."""
    cls, options = ALL[case]
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


def test_a_negative_start_of_adagrads_sums_is_refused():
    with pytest.raises(ValueError, match="Adagrad: initial_accumulator_value must be at least 0"):
        Adagrad([nn.Parameter(np.ones(2))], initial_accumulator_value=-0.1)
