"""Parameter groups, saved states, and Muon, whose groups hold matrices alone."""

import pickle

import numpy as np
import pytest
from test_optim import ALL, gradient, in_groups, starts

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F
from nnkernels.optim import L2, SGD, Adadelta, Adagrad, Adam, AdamW, Lion, Muon, NAdam, RAdam, RMSprop

# --- parameter groups ---


def test_groups_have_their_own_options_and_can_be_added_and_changed():
    p, q, r = (nn.Parameter(np.float64([1.0, 1.0])) for _ in range(3))
    optimizer = SGD([{"params": p}, {"params": [q], "lr": 0.5}], lr=0.25)
    optimizer.add_param_group({"params": [r], "lr": 1.0})
    assert [g["lr"] for g in optimizer.param_groups] == [0.25, 0.5, 1.0]
    assert optimizer.params == [p, q, r]
    for x in (p, q, r):
        x.grad = nnk.tensor(np.float64([1.0, 1.0]))
    optimizer.step()
    assert [x.data.tolist() for x in (p, q, r)] == [[0.75, 0.75], [0.5, 0.5], [0.0, 0.0]]
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert [x.data[0] for x in (p, q, r)] == [0.25, 0.0, -1.0]
    optimizer.zero_grad()
    assert p.grad is q.grad is r.grad is None


def test_lr_is_that_of_the_only_group():
    p, q = (nn.Parameter(np.ones(2)) for _ in range(2))
    optimizer = Adam([p], lr=0.5)
    assert optimizer.lr == 0.5
    optimizer.lr = 0.125
    assert optimizer.param_groups[0]["lr"] == 0.125
    optimizer.add_param_group({"params": [q]})
    for act in (lambda: optimizer.lr, lambda: setattr(optimizer, "lr", 1.0)):
        with pytest.raises(ValueError, match=r"lr is that of 2 groups; use param_groups\[i\]"):
            act()


def test_groups_that_make_no_sense_are_refused():
    p, q = (nn.Parameter(np.ones(2)) for _ in range(2))
    optimizer = SGD([p])
    with pytest.raises(ValueError, match="SGD: params holds the same Parameter more than once"):
        optimizer.add_param_group({"params": [q, p]})
    with pytest.raises(TypeError, match='SGD: a parameter group must be a dict with "params"'):
        optimizer.add_param_group({"lr": 0.1})
    with pytest.raises(TypeError, match="SGD: params must hold Parameters, got ndarray"):
        optimizer.add_param_group({"params": [np.ones(3)]})
    with pytest.raises(ValueError, match="SGD: lr must be at least 0"):
        optimizer.add_param_group({"params": [q], "lr": -1.0})
    with pytest.raises(TypeError, match=r"SGD: penalty must be a regulariser such as L2\(1e-4\), got 0.1"):
        optimizer.add_param_group({"params": [q], "penalty": 0.1})
    with pytest.raises(TypeError, match=r"SGD: after_step must be a regulariser .* got 3"):
        optimizer.add_param_group({"params": [q], "after_step": 3})
    assert len(optimizer.param_groups) == 1


def test_a_gradient_of_another_shape_is_named():
    p, q = nn.Parameter(np.ones((2, 3))), nn.Parameter(np.ones(4))
    optimizer = SGD([p, q])
    p.grad, q.grad = nnk.tensor(np.ones((2, 3))), nnk.tensor(np.ones(1))
    with pytest.raises(ValueError, match=r"grad must have param's shape \(4,\), got \(1,\)"):
        optimizer.step()
    assert q.data.tolist() == [1.0] * 4


# --- state ---


@pytest.mark.parametrize("case", ALL)
def test_a_run_continued_from_a_saved_state_is_bitwise_the_uninterrupted_one(case):
    cls, options = ALL[case]

    def new(values):
        params = [nn.Parameter(v.copy()) for v in values]
        return params, cls(in_groups(params, options), **options)

    def steps(params, optimizer, begin, end):
        for t in range(begin, end):
            for i, p in enumerate(params):
                late = i == 1 and t < 2  # the parameters have not all taken equally many steps
                p.grad = None if late else nnk.Tensor(gradient(t, i, p.data))
            optimizer.step()

    params, optimizer = new(starts(np.float64)[:3])
    steps(params, optimizer, 0, 4)
    optimizer.param_groups[1]["lr"] = 0.0123
    saved, values = optimizer.state_dict(), [p.data.copy() for p in params]
    kept = pickle.dumps(saved)
    steps(params, optimizer, 4, 9)
    assert pickle.dumps(saved) == kept  # a copy
    again, other = new(values)
    other.load_state_dict(pickle.loads(kept))
    assert other.param_groups[1]["lr"] == 0.0123
    steps(again, other, 4, 9)
    for p, q, v in zip(params, again, values, strict=True):
        assert p.data.tobytes() == q.data.tobytes() != v.tobytes()


def test_a_state_is_made_of_plain_things_under_pytorchs_names():
    p = nn.Parameter(np.float64([1.0, 2.0]))
    optimizer = Adam([{"params": [p], "penalty": L2(0.1)}], lr=0.5)
    p.grad = nnk.tensor(np.float64([1.0, -1.0]))
    optimizer.step()
    state = optimizer.state_dict()
    assert state["state"].keys() == {0}
    assert state["state"][0].keys() == {"step", "exp_avg", "exp_avg_sq"}
    assert state["state"][0]["step"] == 1
    np.testing.assert_allclose(state["state"][0]["exp_avg"], [0.1, -0.1])
    (group,) = state["param_groups"]
    assert group == {
        "params": [0], "lr": 0.5, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0, "amsgrad": False,
        "decoupled_weight_decay": False,
    }  # fmt: skip


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    def optimizer(*shapes, cls=SGD, **options):
        params = [nn.Parameter(np.ones(s)) for s in shapes]
        for p in params:
            p.grad = nnk.tensor(np.ones(p.shape))
        made = cls(params, lr=0.1, **options)
        made.step()
        return made

    mine = optimizer((2,), (3,), momentum=0.9)
    before = pickle.dumps(mine.state_dict())
    for other, words in (
        (optimizer((2,), momentum=0.5), r"groups of \[1\] parameters, the optimizer's have \[2\]"),
        (
            optimizer((2,), (4,), momentum=0.5),
            r"momentum_buffer of parameter 1 has shape \(4,\), wanted \(3,\)",
        ),
    ):
        with pytest.raises(ValueError, match=rf"SGD.load_state_dict: .*{words}"):
            mine.load_state_dict(other.state_dict())
    nadam = optimizer((2,), (3,), cls=NAdam)
    with pytest.raises(ValueError, match="parameter 0 has no mu_product: the state of another optimizer"):
        nadam.load_state_dict(mine.state_dict())
    assert pickle.dumps(mine.state_dict()) == before


# --- muon ---


@pytest.mark.parametrize(
    "options", [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.5}]
)
def test_muon_equals_torchs_as_far_as_bfloat16_goes(options):
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s) for s in ((5, 8), (9, 4))]
    params, theirs = (
        [nn.Parameter(v.copy()) for v in values],
        [torch.nn.Parameter(torch.tensor(v)) for v in values],
    )
    ours, other = Muon(params, lr=0.1, **options), torch.optim.Muon(theirs, lr=0.1, **options)
    for _ in range(10):
        for p, q in zip(params, theirs):
            g = rng.standard_normal(p.shape)
            p.grad, q.grad = nnk.tensor(g), torch.tensor(g)
        ours.step()
        other.step()
    for p, q, v in zip(params, theirs, values):
        moved = np.abs(p.data - v).max()
        assert np.abs(p.data - q.detach().numpy()).max() < 0.02 * moved


@pytest.mark.parametrize(
    "options",
    [{}, {"nesterov": False, "adjust_lr_fn": "match_rms_adamw", "weight_decay": 0.5}, {"momentum": 0.5}],
)
def test_100_steps_of_muon_equal_torchs_in_float64(options, torch64):
    rng = np.random.default_rng(0)
    values = [rng.standard_normal(s) for s in ((5, 8), (9, 4), (6, 6))]
    params = [nn.Parameter(v.copy()) for v in values]
    theirs = [torch64.nn.Parameter(torch64.tensor(v)) for v in values]
    ours, other = Muon(params, lr=0.1, **options), torch64.optim.Muon(theirs, lr=0.1, **options)
    for t in range(100):
        for p, q in zip(params, theirs):
            p.grad = nnk.tensor(np.sin(3 * p.data + t))
            q.grad = torch64.sin(3 * q.detach() + t)
        ours.step()
        other.step()
    for p, q in zip(params, theirs):
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-6, atol=1e-9)


def test_muon_takes_matrices_alone():
    with pytest.raises(ValueError, match=r"Muon: params must be matrices .* got one of shape \(3,\)"):
        Muon([nn.Parameter(np.ones((2, 2))), nn.Parameter(np.ones(3))])


def test_muon_moves_all_directions_about_equally_far():
    rng = np.random.default_rng(0)
    p = nn.Parameter(np.zeros((6, 6)))
    optimizer = Muon([p], lr=1.0, weight_decay=0.0)
    p.grad = nnk.tensor(rng.standard_normal((6, 6)) * np.logspace(0, -1, 6))
    optimizer.step()
    moved = np.linalg.svd(p.data, compute_uv=False)
    before = np.linalg.svd(p.grad.data, compute_uv=False)
    assert before.max() / before.min() > 20
    assert 0.5 < moved.min() <= moved.max() < 1.3


def test_optional_states_may_be_left_out_of_a_step():
    p, g = np.ones(3), np.ones(3)
    nnk.OPS["sgd_step"](p, g, lr=0.5)
    np.testing.assert_allclose(p, 0.5)
    nnk.OPS["rmsprop_step"](p, g, np.zeros(3), lr=0.5, alpha=0.0)
    np.testing.assert_allclose(p, 0.0, atol=1e-7)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (SGD, {"lr": 0.5}),
        (SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
        *[(cls, {"lr": 0.05}) for cls in (Adam, AdamW, NAdam, RAdam, RMSprop, Lion)],
        (Adagrad, {"lr": 0.2}),
        (Adadelta, {"lr": 20.0}),
        (Muon, {"lr": 0.05, "weight_decay": 0.0}),
    ],
)
def test_every_optimizer_learns_a_small_network(cls, options):
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 90)
    x = (rng.standard_normal((90, 4)) + 3 * np.eye(4)[y]).astype(np.float32)
    model = nn.Sequential(nn.Linear(4, 8, rng=0), nn.Tanh(), nn.Linear(8, 3, rng=1))
    params = [p for p in model.parameters() if p.ndim == 2 or cls is not Muon]
    optimizer = cls(params, **options)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]
