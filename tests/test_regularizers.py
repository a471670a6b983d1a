"""Penalties, decoupled shrinking, max-norm, clipping and accumulation of gradients."""

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn, train
from nnkernels.nn import functional as F
from nnkernels.nn.utils import clip_grad_norm_, clip_grad_value_
from nnkernels.optim import L1, L2, SGD, Adam, AdamW, ElasticNet, MaxNorm


def parameters(*shapes, seed=0, dtype=np.float64):
    rng = np.random.default_rng(seed)
    return [nn.Parameter(np.asarray(rng.standard_normal(s), dtype)) for s in shapes]


SHAPES = ((4, 3), (5,), (2, 3, 2, 2))
PENALTIES = {
    "l1": (L1(0.3), lambda w: 0.3 * np.abs(w).sum(), lambda w: 0.3 * np.sign(w)),
    "l2": (L2(0.3), lambda w: 0.15 * (w**2).sum(), lambda w: 0.3 * w),
    "elastic net": (
        ElasticNet(0.2, 0.5),
        lambda w: 0.2 * np.abs(w).sum() + 0.25 * (w**2).sum(),
        lambda w: 0.2 * np.sign(w) + 0.5 * w,
    ),
    "nothing": (ElasticNet(0.0, 0.0), lambda w: 0.0, lambda w: 0.0 * w),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", PENALTIES)
def test_penalties_and_their_gradients_follow_the_formulas(case, dtype):
    penalty, value, slope = PENALTIES[case]
    params = parameters(*SHAPES, dtype=dtype)
    params[0].data[1, 1] = 0.0  # the kink of |w|
    got = penalty(params)
    assert got.dtype == dtype
    wanted = sum(value(p.data.astype(np.float64)) for p in params)
    assert got.item() == pytest.approx(wanted, rel=1e-5)
    got.backward()
    for p in params:
        np.testing.assert_allclose(p.grad.data, slope(p.data), rtol=1e-6)


def test_l2_in_the_loss_equals_weight_decay():
    (a,), (b,) = parameters((4, 3)), parameters((4, 3))
    one, other = SGD([a], lr=0.1), SGD([b], lr=0.1, weight_decay=0.3)
    for _ in range(10):
        for p, optimizer, extra in ((a, one, L2(0.3)(a)), (b, other, 0.0)):
            optimizer.zero_grad()
            ((p * p * p).sum() + extra).backward()
            optimizer.step()
    np.testing.assert_allclose(a.data, b.data, rtol=1e-12)


def test_decoupled_l2_equals_adamw():
    params = [parameters((4, 3))[0] for _ in range(2)]
    after = Adam([{"params": params[:1], "after_step": L2(0.5)}], lr=0.1)
    within = AdamW(params[1:], lr=0.1, weight_decay=0.5)
    before = params[0].data.copy()
    for p, optimizer in zip(params, (after, within)):
        p.grad = nnk.tensor(np.cos(p.data))
        optimizer.step()
    step = before - params[1].data - 0.05 * before  # AdamW shrinks what was there before its step
    np.testing.assert_allclose(params[0].data, 0.95 * (before - step), rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_proximal_step_of_l1_is_soft_thresholding(dtype):
    (p,) = parameters((50,), dtype=dtype)
    before = p.data.copy()
    L1(2.0).apply(p, lr=0.25)
    np.testing.assert_allclose(p.data, np.sign(before) * np.maximum(np.abs(before) - 0.5, 0), rtol=1e-6)
    assert 5 < (p.data == 0).sum() < 45


def sparse_problem():
    """10 inputs of which 2 matter: the other weights are noise."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 10))
    return x, x[:, :2] @ np.float64([[2.0], [-1.5]]) + 0.1 * rng.standard_normal((200, 1))


@pytest.mark.parametrize("way", ["penalty", "after_step", "none"])
def test_l1_drives_weights_that_do_not_matter_to_zero(way):
    x, y = sparse_problem()
    w = nn.Parameter(np.ones((1, 10)))
    group = {"params": [w]} if way == "none" else {"params": [w], way: L1(0.1)}
    optimizer = SGD([group], lr=0.05)
    for _ in range(600):
        optimizer.zero_grad()
        loss = F.mse_loss(F.linear(x, w), y) + optimizer.penalty()
        loss.backward()
        optimizer.step()
    noise = np.abs(w.data[0, 2:])
    assert np.abs(w.data[0, :2] - [2.0, -1.5]).max() < 0.15
    if way == "none":
        assert noise.max() > 5e-3
    elif way == "after_step":
        assert (noise == 0).all()
    else:  # the subgradient steps to and fro around 0
        assert noise.max() < 0.05 * 0.1 * 1.5


def test_each_group_has_its_own_penalty():
    p, q, r = parameters((3,), (3,), (3,))
    optimizer = SGD(
        [{"params": [p], "penalty": L1(1.0)}, {"params": [q], "penalty": L2(2.0)}, {"params": [r]}]
    )
    assert optimizer.penalty().item() == pytest.approx(np.abs(p.data).sum() + (q.data**2).sum())
    assert SGD([nn.Parameter(np.ones(2))]).penalty() == 0.0


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_max_norm_equals_torchs_renorm(dim):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    for p in parameters((6, 4), (3, 2, 3, 3), seed=1):
        wanted = torch.renorm(torch.tensor(p.data), 2, dim % p.ndim, 1.5).numpy()
        assert not np.allclose(wanted, p.data)
        array = p.data
        MaxNorm(1.5, dim).apply([p])
        assert p.data is array
        np.testing.assert_allclose(p.data, wanted, rtol=1e-6)


def test_max_norm_holds_after_every_step_and_leaves_biases_alone():
    w, b = nn.Parameter(np.zeros((3, 4), np.float32)), nn.Parameter(np.zeros(3, np.float32))
    optimizer = SGD([{"params": [w, b], "after_step": MaxNorm(0.5)}], lr=1.0)
    for _ in range(3):
        w.grad, b.grad = nnk.tensor(np.ones((3, 4), np.float32)), nnk.tensor(np.ones(3, np.float32))
        optimizer.step()
        np.testing.assert_allclose(np.linalg.norm(w.data, axis=1), 0.5, rtol=1e-6)
    assert b.data.tolist() == [-3.0] * 3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: L1(-0.1), "L1: strength must be a number of at least 0, got -0.1"),
        (lambda: L2(float("nan")), "L2: strength must be a number of at least 0, got nan"),
        (lambda: ElasticNet(1.0, "x"), "ElasticNet: l2 must be a number of at least 0, got 'x'"),
        (lambda: MaxNorm(-1), "MaxNorm: limit must be a number of at least 0, got -1"),
    ],
)
def test_strengths_that_make_no_sense_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("params", [[], [np.ones(3)], [nnk.tensor([1.0])]])
def test_what_is_no_parameter_is_refused(params):
    for use in (L1(0.1), lambda p: MaxNorm(1.0).apply(p)):
        with pytest.raises(TypeError, match="params must be Parameters, at least one"):
            use(params)


def test_regularisers_say_what_they_are():
    shown = [repr(r) for r in (L1(0.1), L2(1e-4), ElasticNet(0.1, 0.2), MaxNorm(3, 1))]
    assert shown == ["L1(0.1)", "L2(0.0001)", "ElasticNet(l1=0.1, l2=0.2)", "MaxNorm(3, dim=1)"]


# --- clipping ---


def with_gradients(torch, dtype=np.float64):
    ours = parameters(*SHAPES, (3,), dtype=dtype)
    theirs = [torch.nn.Parameter(torch.tensor(p.data)) for p in ours]
    for p, q in zip(ours[:-1], theirs):  # the last has none
        p.grad, q.grad = nnk.tensor(np.sin(5 * p.data)), torch.tensor(np.sin(5 * p.data))
    return ours, theirs


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm_type", [2.0, 1.0, 3.0, float("inf"), 2])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clipping_by_norm_is_torchs(max_norm, norm_type, dtype):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    ours, theirs = with_gradients(torch, dtype)
    arrays = [p.grad.data for p in ours[:-1]]
    before = [a.copy() for a in arrays]
    total = clip_grad_norm_(iter(ours), max_norm, norm_type)
    wanted = torch.nn.utils.clip_grad_norm_(theirs, max_norm, norm_type)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    assert total.item() == pytest.approx(wanted.item(), rel=tolerance)
    assert total.dtype == dtype
    for p, q, a, b in zip(ours, theirs, arrays, before):
        assert p.grad.data is a
        np.testing.assert_allclose(a, q.grad.numpy(), rtol=tolerance)
        assert np.array_equal(a, b) == (max_norm == 100.0)


def test_clipping_by_value_is_torchs():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    ours, theirs = with_gradients(torch)
    clip_grad_value_(ours, 0.3)
    torch.nn.utils.clip_grad_value_(theirs, 0.3)
    for p, q in zip(ours[:-1], theirs):
        np.testing.assert_array_equal(p.grad.data, q.grad.numpy())
        assert np.abs(p.grad.data).max() == 0.3


def test_one_parameter_may_be_given_alone_and_gradients_may_be_missing():
    p, q = parameters((3,), (2,))
    p.grad = nnk.tensor(np.float64([3.0, 4.0, 0.0]))
    assert clip_grad_norm_(p, 1.0).item() == 5.0
    np.testing.assert_allclose(p.grad.data, [0.6, 0.8, 0.0], rtol=1e-6)
    assert clip_grad_norm_([q], 1.0).item() == 0.0
    assert q.grad is None


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_gradients_that_are_not_finite_are_refused_if_asked(bad):
    (p,) = parameters((3,))
    p.grad = nnk.tensor(np.float64([1.0, bad, 2.0]))
    with pytest.raises(RuntimeError, match="clip_grad_norm_: the gradients' norm of order 2 is"):
        clip_grad_norm_([p], 1.0, error_if_nonfinite=True)
    assert p.grad.data[0] == 1.0
    total = clip_grad_norm_([p], 1.0).item()
    assert not np.isfinite(total)
    assert np.isnan(p.grad.data[1])


def test_the_norm_of_large_float32_gradients_does_not_overflow():
    p = nn.Parameter(np.ones(4, np.float32))
    p.grad = nnk.tensor(np.full(4, 1e30, np.float32))
    assert clip_grad_norm_([p], 1.0).item() == pytest.approx(2e30)
    np.testing.assert_allclose(p.grad.data, 0.5, rtol=1e-6)


# --- accumulation ---


def network():
    return nn.Sequential(nn.Linear(3, 4, rng=0), nn.Tanh(), nn.Linear(4, 1, rng=1))


def regression(n):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((n, 3)).astype(np.float32)
    return x, np.sin(x.sum(axis=1, keepdims=True))


def test_gradients_of_several_backward_calls_add_up():
    x, y = regression(12)
    models = [network(), network()]
    (F.mse_loss(models[0](x), y) * 3).backward()
    for i in range(0, 12, 4):
        F.mse_loss(models[1](x[i : i + 4]), y[i : i + 4]).backward()
    for p, q in zip(*(m.parameters() for m in models)):
        np.testing.assert_allclose(p.grad.data, q.grad.data, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("n", [24, 28])  # 28: the last step of an epoch has one batch
def test_fit_accumulates_batches_into_one_step(n):
    x, y = regression(n)
    models = [network(), network()]
    for model, size, accumulate in zip(models, (12, 4), (1, 3)):
        train.fit(
            model, (x, y), optimizer=Adam(model.parameters(), lr=0.01), loss=F.mse_loss, epochs=2,
            batch_size=size, accumulate=accumulate, rng=0,
        )  # fmt: skip
    start = network().state_dict()
    for (name, p), q in zip(models[0].named_parameters(), models[1].parameters()):
        assert np.abs(p.data - start[name]).max() > 1e-3
        np.testing.assert_allclose(p.data, q.data, atol=2e-5)


def test_fit_counts_the_steps_it_takes_and_refuses_accumulating_nothing():
    x, y = regression(20)
    model = network()
    optimizer = Adam(model.parameters())
    train.fit(model, (x, y), optimizer=optimizer, loss=F.mse_loss, epochs=2, batch_size=4, accumulate=3)
    assert optimizer.state_dict()["state"][0]["step"] == 4
    with pytest.raises(ValueError, match="fit: accumulate must be an int of at least 1, got 0"):
        train.fit(model, (x, y), optimizer=optimizer, loss=F.mse_loss, accumulate=0)


def test_fit_adds_the_groups_penalties_to_what_it_differentiates():
    x, y = regression(20)
    model = nn.Linear(3, 1, rng=0)
    groups = [{"params": [model.weight], "penalty": L2(1e3)}, {"params": [model.bias]}]
    history = train.fit(model, (x, y), optimizer=SGD(groups, lr=1e-3), loss=F.mse_loss, epochs=5)
    assert np.abs(model.weight.data).max() < 1e-2
    assert max(history["train_loss"]) < 10
