"""Losses beside PyTorch: values and gradients of functions and modules, every option, extremes, errors."""

import math

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.ops import OPS, checks, use_backend
from nnkernels.ops.op import CPU_BODIES

torch = pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
TF, tnn = torch.nn.functional, torch.nn

REDUCTIONS = ("mean", "sum", "none")
LOGITS_SHAPES = ((7,), (5, 7), (3, 4, 6), (2, 3, 4, 5), (1, 3, 2, 1, 2))


def rng(seed=0):
    return np.random.default_rng(seed)


def normal(*shape, seed=0):
    return np.asarray(rng(seed).standard_normal(shape), np.float32)


def uniform(low, high, *shape, seed=0):
    return np.asarray(rng(seed).uniform(low, high, shape), np.float32)


def labels_for(shape, seed=1):
    return np.asarray(
        rng(seed).integers(0, shape[1 if len(shape) > 1 else 0], shape[:1] * (len(shape) > 1) + shape[2:])
    )


def shares_for(shape, seed=1):
    powers = np.exp(normal(*shape, seed=seed))
    return powers / powers.sum(axis=1 if len(shape) > 1 else 0, keepdims=True)


def as_torch(value, grad):
    return torch.tensor(value, requires_grad=grad) if isinstance(value, np.ndarray) else value


def compare(ours, theirs, *arrays, learn=(0,), **options):
    """Compare values and the gradients by the arrays at ``learn``, for a random cotangent."""
    a = [nnk.tensor(x, requires_grad=True) if i in learn else x for i, x in enumerate(arrays)]
    b = [as_torch(x, i in learn) for i, x in enumerate(arrays)]
    y = ours(*a, **options)
    z = theirs(*b, **{name: as_torch(value, False) for name, value in options.items()})
    assert y.shape == tuple(z.shape)
    np.testing.assert_allclose(y.data, z.detach().numpy(), rtol=2e-5, atol=2e-6)
    g = normal(*z.shape, seed=9)
    y.backward(g)
    z.backward(torch.tensor(g))
    for i in learn:
        np.testing.assert_allclose(a[i].grad.data, b[i].grad.numpy(), rtol=3e-5, atol=2e-6)


# --- labels: cross_entropy and nll_loss ---


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", LOGITS_SHAPES, ids=str)
def test_cross_entropy_takes_logits_and_targets_of_all_shapes(shape, weighted, smoothing, reduction):
    weight = uniform(0.2, 2, shape[1 if len(shape) > 1 else 0]) if weighted else None
    for target in (labels_for(shape), shares_for(shape)):
        compare(F.cross_entropy, TF.cross_entropy, normal(*shape), target,
                weight=weight, reduction=reduction, label_smoothing=smoothing)  # fmt: skip


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", LOGITS_SHAPES, ids=str)
def test_nll_loss_takes_log_probabilities_of_all_shapes(shape, weighted, reduction):
    weight = uniform(0.2, 2, shape[1 if len(shape) > 1 else 0]) if weighted else None
    logs = np.log(shares_for(shape, seed=3))
    compare(F.nll_loss, TF.nll_loss, logs, labels_for(shape), weight=weight, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("ignored", [-100, -1, 0, 2, 77])
def test_ignored_labels_do_not_count(ignored, smoothing, reduction):
    x, weight = normal(6, 4), np.float32([0.5, 0, 2, 1])
    labels = np.array([1, ignored, 3, ignored, 2, 1])
    how = {"ignore_index": ignored, "reduction": reduction}
    for w in (None, weight):
        compare(F.cross_entropy, TF.cross_entropy, x, labels, weight=w, label_smoothing=smoothing, **how)
        compare(F.nll_loss, TF.nll_loss, x, labels, weight=w, **how)


@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_a_batch_of_ignored_labels_has_the_mean_nan_and_no_gradient(name, reduction, body):
    x, labels = normal(3, 4), np.full(3, -100)
    a, b = nnk.tensor(x, requires_grad=True), torch.tensor(x, requires_grad=True)
    with use_backend(body):
        y = getattr(F, name)(a, labels, reduction=reduction)
        y.backward(np.ones(y.shape))
    z = getattr(TF, name)(b, torch.tensor(labels), reduction=reduction)
    z.backward(torch.ones_like(z))
    np.testing.assert_array_equal(y.data, z.detach().numpy())
    assert math.isnan(y.data) if reduction == "mean" else not y.data.any()
    np.testing.assert_array_equal(a.grad.data, np.zeros((3, 4)))
    np.testing.assert_array_equal(b.grad.numpy(), np.zeros((3, 4)))


@pytest.mark.parametrize("body", CPU_BODIES)
def test_an_ignored_row_may_hold_anything(body):
    x = normal(3, 4)
    x[1] = np.nan
    a, labels = nnk.tensor(x, requires_grad=True), np.array([0, -100, 3])
    with use_backend(body):
        y = F.nll_loss(a, labels)
        y.backward()
        wanted = -(x[0, 0] + x[2, 3]) / 2
        assert y.data == pytest.approx(wanted)
        assert np.isfinite(a.grad.data).all()
        if body == "tuned":
            b = nnk.tensor(x, requires_grad=True)
            F.cross_entropy(b, labels).backward()
            np.testing.assert_array_equal(b.grad.data[1], np.zeros(4))


@pytest.mark.parametrize("rows", [3, 5000])
@pytest.mark.parametrize("targets", ["labels", "probabilities"])
def test_options_on_several_chunks(rows, targets):
    x, weight = normal(rows, 101), uniform(0.1, 2, 101)
    t = labels_for(x.shape) if targets == "labels" else shares_for(x.shape)
    if targets == "labels":
        t[::7] = -100
    for reduction in ("mean", "none"):
        compare(
            F.cross_entropy, TF.cross_entropy, x, t, weight=weight, label_smoothing=0.1, reduction=reduction
        )
        if targets == "labels":
            compare(F.nll_loss, TF.nll_loss, x, t, weight=weight, reduction=reduction)


@pytest.mark.parametrize(
    "name", ["l1", "smooth_l1", "huber", "gaussian_nll", "hinge", "bce", "kl_div", "softmax_cross_entropy"]
)
def test_every_size_agrees_with_loops_on_any_number_of_threads(name):
    count = 0
    for sample in OPS[name].bench_samples(rng(), np.float32):
        if sample.arrays[0].size < 100_000:
            checks.check_agreement(OPS[name], "tuned", sample, rng())
            checks.check_threads(OPS[name], sample, rng())
            count += 1
    assert count >= 4


def test_cross_entropy_is_nll_loss_of_log_softmax():
    x, labels = normal(8, 5), labels_for((8, 5))
    np.testing.assert_allclose(F.nll_loss(F.log_softmax(x), labels), F.cross_entropy(x, labels), rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.uint64])
def test_labels_of_any_integer_type(dtype):
    x, labels = normal(5, 7), labels_for((5, 7))
    for function in (F.cross_entropy, F.nll_loss):
        np.testing.assert_array_equal(function(x, labels.astype(dtype)), function(x, labels))


# --- element by element ---

PAIRS = (
    (F.mse_loss, TF.mse_loss, [{}]),
    (F.l1_loss, TF.l1_loss, [{}]),
    (F.smooth_l1_loss, TF.smooth_l1_loss, [{}, {"beta": 0.5}, {"beta": 0.0}, {"beta": 3.0}]),
    (F.huber_loss, TF.huber_loss, [{}, {"delta": 0.5}, {"delta": 3.0}]),
)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("shape", [(), (9,), (4, 5), (70_001,)], ids=str)
@pytest.mark.parametrize(("ours", "theirs", "cases"), PAIRS, ids=[p[1].__name__ for p in PAIRS])
def test_regression_losses_and_the_gradients_of_both(ours, theirs, cases, shape, reduction):
    x, y = 2 * normal(*shape), normal(*shape, seed=1)
    for options in cases:
        compare(ours, theirs, np.asarray(x), y, learn=(0, 1), reduction=reduction, **options)


@pytest.mark.parametrize(("ours", "theirs", "cases"), PAIRS, ids=[p[1].__name__ for p in PAIRS])
def test_slopes_at_the_kinks(ours, theirs, cases):
    x = np.float32([0, 0.5, -0.5, 1, -1, 3, -3])
    for options in cases:
        compare(ours, theirs, x, np.zeros(7, np.float32), learn=(0, 1), reduction="none", **options)


def test_huber_is_delta_times_smooth_l1():
    x, y = 3 * normal(50), normal(50, seed=1)
    for delta in (0.3, 1, 2.0):
        smooth = F.smooth_l1_loss(x, y, "none", beta=delta)
        np.testing.assert_allclose(
            F.huber_loss(x, y, "none", delta=delta), delta * smooth, rtol=1e-5, atol=1e-7
        )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, (), (5,), (4, 1), (4, 5)], ids=str)
@pytest.mark.parametrize("pos_weight", [None, (), (5,), (4, 5)], ids=str)
def test_binary_cross_entropy_with_weights(weight, pos_weight, reduction):
    w = None if weight is None else uniform(0.2, 2, *weight)
    q = None if pos_weight is None else uniform(0.2, 4, *pos_weight, seed=2)
    z, y = 3 * normal(4, 5), uniform(0, 1, 4, 5, seed=3)
    compare(F.binary_cross_entropy_with_logits, TF.binary_cross_entropy_with_logits, z, y,
            weight=w, pos_weight=q, reduction=reduction)  # fmt: skip
    if q is None:
        p = uniform(0.01, 0.99, 4, 5)
        compare(F.binary_cross_entropy, TF.binary_cross_entropy, p, y, weight=w, reduction=reduction)


def test_weights_on_several_chunks():
    z, y, w = normal(300, 301), uniform(0, 1, 300, 301), uniform(0.2, 2, 301)
    for reduction in ("mean", "none"):
        how = {"weight": w, "reduction": reduction}
        compare(F.binary_cross_entropy_with_logits, TF.binary_cross_entropy_with_logits, z, y, **how)
        compare(F.binary_cross_entropy, TF.binary_cross_entropy, uniform(0.01, 0.99, 300, 301), y, **how)


@pytest.mark.parametrize("body", CPU_BODIES)
def test_binary_cross_entropy_at_certainty_ends_at_100(body):
    p, y = np.float32([0, 0, 1, 1, 1e-45, 0]), np.float32([0, 1, 0, 1, 1, 0.5])
    with use_backend(body):
        compare(F.binary_cross_entropy, TF.binary_cross_entropy, p, y, reduction="none")
        np.testing.assert_array_equal(F.binary_cross_entropy(p, y, reduction="none")[:4], [0, 100, 100, 0])


@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_keeps_its_digits_near_0(dtype, body):
    p = np.array([1e-30, 1e-12, 1e-8, 3e-8, 1e-7, 1e-4, 0.1, 0.4999, 0.5, 0.9], dtype)
    with use_backend(body):
        got = F.binary_cross_entropy(p, np.zeros_like(p), reduction="none")
    np.testing.assert_allclose(got, -np.log1p(-p.astype(np.longdouble)), rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_hinge_loss_by_its_formula(reduction):
    def hinge(x, y, reduction):
        losses = torch.clamp(1 - x * y, min=0)
        return losses if reduction == "none" else getattr(losses, reduction)()

    y = np.sign(normal(6, 5, seed=1))
    compare(F.hinge_loss, hinge, 2 * normal(6, 5), y, reduction=reduction)
    x = nnk.tensor(y, requires_grad=True)  # at the kink
    F.hinge_loss(x, y).backward()
    assert not x.grad.data.any()


@pytest.mark.filterwarnings("ignore:reduction. 'mean'")
@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.parametrize("shape", [(6,), (4, 5), (300, 301)], ids=str)
def test_kl_div_and_both_gradients(shape, log_target, reduction):
    x, t = np.log(uniform(0.05, 1, *shape)), uniform(0.05, 1, *shape, seed=1)
    t = np.log(t) if log_target else t
    compare(F.kl_div, TF.kl_div, x, t, learn=(0, 1), reduction=reduction, log_target=log_target)


@pytest.mark.parametrize("body", CPU_BODIES)
def test_kl_div_of_a_target_of_0_is_0(body):
    x, t = np.float32([-1, -2, -np.inf]), np.float32([0, 1, 0])
    with use_backend(body):
        np.testing.assert_array_equal(F.kl_div(x, t, "none"), np.float32([0, 2, 0]))
    compare(F.kl_div, TF.kl_div, x[:2], t[:2], reduction="sum")


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("var", [(4, 5), (4, 1), (4,)], ids=str)
def test_gaussian_nll_loss_and_all_gradients(var, full, reduction):
    compare(F.gaussian_nll_loss, TF.gaussian_nll_loss, normal(4, 5), normal(4, 5, seed=1),
            uniform(0.1, 2, *var), learn=(0, 1, 2), full=full, reduction=reduction)  # fmt: skip


@pytest.mark.parametrize("body", CPU_BODIES)
def test_variances_below_eps_count_as_eps(body):
    v = np.float32([0, 1e-9, 0.05, 0.1, 2])
    with use_backend(body):
        compare(F.gaussian_nll_loss, TF.gaussian_nll_loss, normal(5), normal(5, seed=1), v,
                learn=(0, 1, 2), eps=0.1, reduction="none")  # fmt: skip
    one = F.gaussian_nll_loss(normal(5), normal(5, seed=1), 0.5)
    assert one == F.gaussian_nll_loss(normal(5), normal(5, seed=1), np.full(5, 0.5, np.float32))


# --- extremes ---


@pytest.mark.parametrize("body", CPU_BODIES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_10000_have_finite_losses_and_gradients(dtype, body):
    z = np.array([[1e4, -1e4, 0], [-1e4, 1e4, 1e4], [0, 0, -1e4]], dtype)
    y, w = np.array([[0, 1, 0.5], [1, 0, 0.3], [0, 1, 0]], dtype), np.array([0.5, 2, 1], dtype)
    labels = np.array([1, 0, 2])
    calls = [
        (F.binary_cross_entropy_with_logits, TF.binary_cross_entropy_with_logits, y, {}),
        (
            F.binary_cross_entropy_with_logits,
            TF.binary_cross_entropy_with_logits,
            y,
            {"weight": w, "pos_weight": w},
        ),
        (F.cross_entropy, TF.cross_entropy, labels, {"weight": w}),
        (F.cross_entropy, TF.cross_entropy, labels, {"label_smoothing": 0.1}),
        (F.cross_entropy, TF.cross_entropy, y, {"weight": w, "label_smoothing": 0.1}),
        (F.hinge_loss, lambda x, y, reduction: (1 - x * y).clamp(min=0), np.sign(y - dtype(0.4)), {}),
        (F.huber_loss, TF.huber_loss, y, {}),
        (F.smooth_l1_loss, TF.smooth_l1_loss, y, {}),
    ]
    for ours, theirs, target, options in calls:
        a, b = nnk.tensor(z, requires_grad=True), torch.tensor(z, requires_grad=True)
        with use_backend(body):
            loss = ours(a, target, reduction="none", **options)
            loss.backward(np.ones(loss.shape))
        wanted = theirs(
            b, torch.tensor(target), reduction="none", **{k: as_torch(v, False) for k, v in options.items()}
        )
        wanted.backward(torch.ones_like(wanted))
        assert np.isfinite(loss.data).all()
        np.testing.assert_allclose(loss.data, wanted.detach().numpy(), rtol=1e-5)
        np.testing.assert_allclose(a.grad.data, b.grad.numpy(), rtol=1e-5, atol=1e-6)


def test_a_nan_stays_a_nan():
    x, one = np.float32([np.nan]), np.ones(1, np.float32)
    for body in CPU_BODIES:
        with use_backend(body):
            for name in ("mse", "l1", "smooth_l1", "huber", "hinge", "kl_div", "bce_with_logits"):
                assert np.isnan(OPS[name](x, one)), (name, body)
            assert np.isnan(F.gaussian_nll_loss(x, one, one))


# --- modules ---

PAIR = normal(6, 4), normal(6, 4, seed=1)
SHARES = uniform(0, 1, 6, 4), uniform(0, 1, 6, 4, seed=1)
LABELLED = normal(6, 4), labels_for((6, 4))
WEIGHT = uniform(0.2, 2, 4)
MODULES = [
    (nn.CrossEntropyLoss, tnn.CrossEntropyLoss, {}, LABELLED),
    (nn.CrossEntropyLoss, tnn.CrossEntropyLoss,
     {"weight": WEIGHT, "ignore_index": 1, "label_smoothing": 0.1}, (normal(6, 4, 3), labels_for((6, 4, 3)))),
    (nn.NLLLoss, tnn.NLLLoss, {"weight": WEIGHT, "ignore_index": 1}, LABELLED),
    (nn.BCELoss, tnn.BCELoss, {"weight": WEIGHT}, SHARES),
    (nn.BCEWithLogitsLoss, tnn.BCEWithLogitsLoss, {"weight": WEIGHT, "pos_weight": 2 * WEIGHT},
     (PAIR[0], SHARES[1])),
    (nn.MSELoss, tnn.MSELoss, {}, PAIR),
    (nn.L1Loss, tnn.L1Loss, {}, PAIR),
    (nn.SmoothL1Loss, tnn.SmoothL1Loss, {"beta": 0.5}, PAIR),
    (nn.HuberLoss, tnn.HuberLoss, {"delta": 0.5}, PAIR),
    (nn.KLDivLoss, tnn.KLDivLoss, {"log_target": True}, (-SHARES[0], -SHARES[1])),
    (nn.GaussianNLLLoss, tnn.GaussianNLLLoss, {"full": True, "eps": 0.5}, (*PAIR, uniform(0.1, 2, 6, 1))),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore:reduction. 'mean'")
@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("ours", "theirs", "options", "arrays"), MODULES)
def test_modules_and_their_state(ours, theirs, options, arrays, reduction):
    wanted = theirs(**{k: as_torch(v, False) for k, v in options.items()}, reduction=reduction)
    module = ours(**options, reduction=reduction)
    compare(module, wanted, *arrays)
    state = module.state_dict()
    assert list(state) == list(wanted.state_dict())
    for name, array in wanted.state_dict().items():
        np.testing.assert_array_equal(state[name], array.numpy())
    assert list(module.parameters()) == []
    fresh = ours(**{k: np.ones_like(v) if isinstance(v, np.ndarray) else v for k, v in options.items()},
                 reduction=reduction)  # fmt: skip
    fresh.load_state_dict({name: a.numpy() for name, a in wanted.state_dict().items()})
    compare(fresh, wanted, *arrays)


OPTIONS = ("reduction", "ignore_index", "label_smoothing", "beta", "delta", "log_target", "full", "eps")


def test_the_defaults_of_modules_are_those_of_torch():
    for ours, theirs, *_ in MODULES:
        a, b = ours(), theirs()
        for name in OPTIONS:
            assert getattr(a, name, None) == getattr(b, name, None), (ours, name)


def test_hinge_module():
    x, y = normal(6), np.sign(normal(6, seed=1))
    for reduction in REDUCTIONS:
        np.testing.assert_array_equal(nn.HingeLoss(reduction)(x, y), F.hinge_loss(x, y, reduction))
    assert nn.HingeLoss().reduction == "mean"


def test_options_are_shown():
    assert repr(nn.CrossEntropyLoss(ignore_index=3, label_smoothing=0.1)) == (
        "CrossEntropyLoss(ignore_index=3, reduction='mean', label_smoothing=0.1)"
    )
    assert repr(nn.NLLLoss()) == "NLLLoss(ignore_index=-100, reduction='mean')"
    assert repr(nn.HuberLoss("sum", 0.5)) == "HuberLoss(reduction='sum', delta=0.5)"
    assert repr(nn.SmoothL1Loss(beta=2.0)) == "SmoothL1Loss(reduction='mean', beta=2.0)"
    assert repr(nn.KLDivLoss("batchmean")) == "KLDivLoss(reduction='batchmean', log_target=False)"
    assert repr(nn.GaussianNLLLoss()) == "GaussianNLLLoss(full=False, eps=1e-06, reduction='mean')"
    assert repr(nn.L1Loss()) == "L1Loss(reduction='mean')"


# --- errors ---

X, Y = normal(3, 4), np.zeros(3, np.int64)
BAD_CALLS = [
    (lambda: F.cross_entropy(X, np.array([0, 4, 1])),
     ValueError, r"from 0 to 3 .* ignore_index -100, got 4 at position 1"),
    (lambda: F.cross_entropy(normal(2, 3, 2), np.array([[0, 1], [2, 3]])), ValueError, "got 3 at position 3"),
    (lambda: F.nll_loss(X, np.array([0, -1, 1])), ValueError, "nll_loss: targets .* got -1 at position 1"),
    (lambda: F.cross_entropy(X, np.array([0, -100, 1]), ignore_index=0),
     ValueError, "got -100 at position 1"),
    (lambda: F.cross_entropy(normal(2, 3, 4), np.zeros((2, 3), int)),
     ValueError, r"labels \(2, 4\) or probabilities"),
    (lambda: F.cross_entropy(normal(3), np.zeros(1, int)),
     ValueError, r"labels \(\) or probabilities \(3,\)"),
    (lambda: F.nll_loss(normal(2, 3, 4), normal(2, 3, 4)),
     ValueError, r"labels \(2, 4\) to go with x \(2, 3, 4\)"),
    (lambda: F.nll_loss(normal(2, 3, 4), [[1]]),
     TypeError, "target must be a NumPy array or a Tensor, got list"),
    (lambda: F.nll_loss(normal(), Y), ValueError, r"must have an axis of classes, got shape \(\)"),
    (lambda: F.cross_entropy(X, Y, "none"),
     TypeError, "weight must be a NumPy array or a Tensor, got str 'none'"),
    (lambda: F.cross_entropy(X, Y, np.ones(3, np.float32)), ValueError, r"weight must have shape \(4,\)"),
    (lambda: F.cross_entropy(X, Y, label_smoothing=-0.1), ValueError, "label_smoothing must be from 0 to 1"),
    (lambda: F.cross_entropy(X, shares_for((3, 4)), ignore_index=1), ValueError, "none among probabilities"),
    (lambda: F.binary_cross_entropy(X, X), ValueError, "bce: p must be from 0 to 1"),
    (lambda: F.binary_cross_entropy(abs(X) / 9, X), ValueError, "bce: y must be from 0 to 1"),
    (lambda: F.binary_cross_entropy_with_logits(X, abs(X) / 9, pos_weight=np.ones(3, np.float32)), ValueError,
     r"pos_weight must broadcast to shape \(3, 4\), got \(3,\)"),
    (lambda: F.binary_cross_entropy_with_logits(X, abs(X) / 9, "sum"),
     TypeError, "weight must be a NumPy array"),
    (lambda: F.l1_loss(X, X[:2]), ValueError, r"l1: x and y must have one shape, got \(3, 4\) and \(2, 4\)"),
    (lambda: F.smooth_l1_loss(X, X, beta=-1), ValueError, "beta must be at least 0, got -1"),
    (lambda: F.huber_loss(X, X, delta=0), ValueError, "delta must be above 0, got 0"),
    (lambda: F.hinge_loss(X, X), ValueError, "hinge: y must be -1 or 1, got"),
    (lambda: F.kl_div(X, X, "average"), ValueError, "reduction must be one of mean, sum, none, batchmean"),
    (lambda: F.gaussian_nll_loss(X, X, -abs(X)), ValueError, "var must be at least 0, got -"),
    (lambda: F.gaussian_nll_loss(X, X, X[:, :2]),
     ValueError, r"var must have x's shape \(3, 4\), or 1 or nothing"),
    (lambda: F.gaussian_nll_loss(X, X, True), TypeError, "var must be a NumPy array or a Tensor, got bool"),
    (lambda: nn.L1Loss("batchmean"),
     ValueError, "L1Loss: reduction must be one of mean, sum, none, got 'batchmean'"),
    (lambda: nn.CrossEntropyLoss("sum"),
     TypeError, "CrossEntropyLoss: weight must be a float array or a Tensor, got str"),
    (lambda: nn.BCELoss(np.ones(3, int)),
     TypeError, "BCELoss: weight must be a float array or a Tensor, got int64"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "words"), BAD_CALLS, ids=[words for _, _, words in BAD_CALLS])
def test_wrong_calls_are_told_what_was_wrong(call, error, words):
    with pytest.raises(error, match=words):
        call()
