"""Learning-rate schedules beside PyTorch's: the same rates, epoch after epoch, in two parameter groups."""

import math
import pickle
import warnings

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn, train
from nnkernels.nn import functional as F
from nnkernels.optim import SGD, Adam, lr_scheduler

# name, arguments; a list of such pairs stands for several schedules stepped one after the other
CASES = {
    "step": ("StepLR", (7, 0.5)),
    "step, default gamma": ("StepLR", (40,)),
    "milestones": ("MultiStepLR", ([3, 10, 10, 50], 0.5)),
    "constant": ("ConstantLR", ()),
    "constant, other options": ("ConstantLR", (0.25, 30)),
    "linear": ("LinearLR", ()),
    "linear, down to 0": ("LinearLR", (0.5, 0.0, 20)),
    "exponential": ("ExponentialLR", (0.93,)),
    "cosine": ("CosineAnnealingLR", (20,)),
    "cosine, floor": ("CosineAnnealingLR", (33, 0.01)),
    "restarts": ("CosineAnnealingWarmRestarts", (10,)),
    "restarts, longer and longer": ("CosineAnnealingWarmRestarts", (6, 2, 0.02)),
    "lambda": ("LambdaLR", (lambda t: 0.9**t,)),
    "lambdas": ("LambdaLR", ([lambda t: 1 / (1 + t), lambda t: 1.0 + (t % 3)],)),
    "exponential times step": [("ExponentialLR", (0.95,)), ("StepLR", (10, 0.5))],
    "linear times cosine": [("LinearLR", (0.1, 1.0, 8)), ("CosineAnnealingLR", (30, 0.001))],
}
ONE_CYCLES = {
    "cos": {"max_lr": 0.5, "total_steps": 101},
    "linear": {"max_lr": [0.5, 0.1], "epochs": 10, "steps_per_epoch": 11, "anneal_strategy": "linear"},
    "three phases": {
        "max_lr": 0.5, "total_steps": 110, "three_phase": True, "pct_start": 0.4, "div_factor": 10.0,
        "final_div_factor": 100.0, "base_momentum": 0.7, "max_momentum": [0.9, 0.99],
    },
    "rates alone": {"max_lr": 0.5, "total_steps": 101, "cycle_momentum": False},
}  # fmt: skip
PLATEAUS = {
    "min": {"patience": 3},
    "max": {"mode": "max", "patience": 2, "factor": 0.5, "threshold": 0.05},
    "absolute": {"threshold_mode": "abs", "threshold": 0.2, "cooldown": 4, "patience": 1, "factor": 0.3},
    "least rates": {"mode": "max", "threshold_mode": "abs", "min_lr": [0.05, 0.001], "patience": 0},
    "small changes": {"patience": 0, "eps": 0.03, "factor": 0.7},
}


def optimizers(torch=None, cls="SGD", **options):
    """Return our optimizer with two groups, and PyTorch's if it is given."""
    made = []
    for library, parameter in ((nnk.optim, lambda: nn.Parameter(np.ones(2))), (torch and torch.optim, None)):
        if library is not None:
            make = parameter or (lambda: torch.nn.Parameter(torch.ones(2)))
            groups = [{"params": [make()], "lr": 0.4}, {"params": [make()]}]
            made.append(getattr(library, cls)(groups, lr=0.1, **options))
    return made if torch else made[0]


@pytest.fixture
def torch():
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer stepped, and that epochs may not be given
        yield torch


def made(library, optimizer, case):
    pairs = case if isinstance(case, list) else [case]
    return [getattr(library, name)(optimizer, *arguments) for name, arguments in pairs]


def rates(optimizer):
    return [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("case", CASES)
def test_100_epochs_have_torchs_rates(case, torch):
    a, b = optimizers(torch)
    ours, theirs = made(lr_scheduler, a, CASES[case]), made(torch.optim.lr_scheduler, b, CASES[case])
    seen = set()
    for _ in range(100):
        np.testing.assert_allclose(rates(a), rates(b), rtol=1e-9, atol=1e-15)
        assert ours[-1].get_last_lr() == rates(a)
        seen.add(rates(a)[1])
        for schedule in (*ours, *theirs):
            schedule.step()
    assert len(seen) > 1  # it went somewhere


@pytest.mark.parametrize("case", ONE_CYCLES)
@pytest.mark.parametrize(("cls", "option"), [("SGD", {"momentum": 0.9}), ("Adam", {"betas": (0.9, 0.99)})])
def test_one_cycle_has_torchs_rates_and_momenta(case, cls, option, torch):
    a, b = optimizers(torch, cls, **option)
    ours = lr_scheduler.OneCycleLR(a, **ONE_CYCLES[case])
    theirs = torch.optim.lr_scheduler.OneCycleLR(b, **ONE_CYCLES[case])
    name = next(iter(option))
    for _ in range(100):
        np.testing.assert_allclose(rates(a), rates(b), rtol=1e-9)
        for mine, other in zip(a.param_groups, b.param_groups):
            np.testing.assert_allclose(mine[name], other[name], rtol=1e-9)
        ours.step()
        theirs.step()
    assert max(rates(a)) < 0.1


def test_a_rise_of_no_length_begins_at_the_peak():
    optimizer = optimizers()
    lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=10, pct_start=0.1, cycle_momentum=False)
    assert rates(optimizer) == [0.5, 0.5]


def test_a_cycle_that_is_over_says_so():
    schedule = lr_scheduler.OneCycleLR(optimizers(momentum=0.5), 0.5, total_steps=3)
    for _ in range(3):
        schedule.step()
    with pytest.raises(ValueError, match="OneCycleLR: step 4 of 3: the cycle is over"):
        schedule.step()


@pytest.mark.parametrize("case", PLATEAUS)
def test_plateaus_are_torchs(case, torch):
    a, b = optimizers(torch)
    ours = lr_scheduler.ReduceLROnPlateau(a, **PLATEAUS[case])
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(b, **PLATEAUS[case])
    rng, seen = np.random.default_rng(0), set()
    for t in range(100):
        measure = (1 if PLATEAUS[case].get("mode") == "max" else -1) * math.log(1 + t) + rng.normal()
        ours.step(measure)
        theirs.step(measure)
        np.testing.assert_allclose(rates(a), rates(b), rtol=1e-12)
        assert ours.get_last_lr() == rates(a)
        seen.add(rates(a)[0])
    assert len(seen) > 1


SEQUENCES = {
    "warm-up, then cosine": ([("LinearLR", (0.1, 1.0, 5)), ("CosineAnnealingLR", (45,))], [5]),
    "three": (
        [("ConstantLR", (0.5, 3)), ("ExponentialLR", (0.9,)), ("CosineAnnealingWarmRestarts", (10,))],
        [10, 40],
    ),
    "steps": ([("LambdaLR", (lambda t: 1 + t,)), ("StepLR", (4, 0.5)), ("MultiStepLR", ([2, 9],))], [7, 33]),
}  # fmt: skip


@pytest.mark.parametrize("case", SEQUENCES)
def test_sequences_have_torchs_rates(case, torch):
    pairs, milestones = SEQUENCES[case]
    a, b = optimizers(torch)
    ours = lr_scheduler.SequentialLR(a, made(lr_scheduler, a, pairs), milestones)
    library = torch.optim.lr_scheduler
    theirs = library.SequentialLR(b, made(library, b, pairs), milestones)
    for _ in range(100):
        np.testing.assert_allclose(rates(a), rates(b), rtol=1e-9, atol=1e-15)
        assert ours.get_last_lr() == rates(a)
        ours.step()
        theirs.step()


def sequence(optimizer):
    pairs, milestones = SEQUENCES["warm-up, then cosine"]
    return lr_scheduler.SequentialLR(optimizer, made(lr_scheduler, optimizer, pairs), milestones)


@pytest.mark.parametrize("case", [*CASES, "one cycle", "plateau", "sequence"])
def test_a_schedule_continues_from_its_state(case):
    def start():
        optimizer = optimizers(momentum=0.9)
        if case == "one cycle":
            return optimizer, [lr_scheduler.OneCycleLR(optimizer, 0.5, total_steps=50)]
        if case == "plateau":
            return optimizer, [lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)]
        if case == "sequence":
            return optimizer, [sequence(optimizer)]
        return optimizer, made(lr_scheduler, optimizer, CASES[case])

    def step(schedules, t):
        for s in schedules:
            s.step(*([math.sin(t)] if case == "plateau" else []))

    (a, ours), (b, again) = start(), start()
    for t in range(11):
        step(ours, t)
    saved = pickle.dumps([a.state_dict(), *(s.state_dict() for s in ours)])
    wanted = []
    for t in range(11, 30):
        step(ours, t)
        wanted.append(rates(a))
    state, *states = pickle.loads(saved)
    b.load_state_dict(state)
    for s, kept in zip(again, states, strict=True):
        s.load_state_dict(kept)
    for t, w in zip(range(11, 30), wanted):
        step(again, t)
        assert rates(b) == w


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("StepLR", (0,), "step_size must be an int of at least 1, got 0"),
        ("ConstantLR", (1.5,), "factor must be from 0 to 1, got 1.5"),
        ("LinearLR", (0.0,), r"start_factor must be in \(0, 1\], got 0.0"),
        ("LinearLR", (0.5, 1.5), "end_factor must be from 0 to 1, got 1.5"),
        ("CosineAnnealingLR", (0,), "T_max must be an int of at least 1"),
        ("CosineAnnealingWarmRestarts", (5.0,), "T_0 must be an int of at least 1, got 5.0"),
        ("CosineAnnealingWarmRestarts", (5, 0), "T_mult must be an int of at least 1, got 0"),
        ("LambdaLR", ([abs],), "lr_lambda has 1 functions, wanted 2, one per group"),
        ("OneCycleLR", (0.1,), "give total_steps, or epochs and steps_per_epoch"),
        ("OneCycleLR", (0.1, 0), "total_steps must be an int of at least 1, got 0"),
        ("OneCycleLR", ([0.1], 9), "max_lr has 1 values, wanted 2, one per group"),
        ("OneCycleLR", (0.1, 9, None, None, 2.0), "pct_start must be from 0 to 1, got 2.0"),
        ("OneCycleLR", (0.1, 9, None, None, 0.3, "up"), 'anneal_strategy must be "cos" or "linear"'),
        ("ReduceLROnPlateau", ("mid",), 'mode must be "min" or "max", got \'mid\''),
        ("ReduceLROnPlateau", ("min", 1.0), "factor must be below 1, got 1.0"),
        ("ReduceLROnPlateau", ("min", 0.1, 1, 0, "x"), 'threshold_mode must be "rel" or "abs"'),
        ("SequentialLR", ([], []), "schedulers is empty"),
        ("SequentialLR", ([1], []), r"schedulers\[0\] must be a schedule of its epoch alone, got int"),
    ],
)  # fmt: skip
def test_arguments_that_make_no_sense_are_named(name, arguments, words):
    with pytest.raises(ValueError, match=f"{name}: {words}"):
        getattr(lr_scheduler, name)(optimizers(), *arguments)


def test_schedules_and_optimizers_that_do_not_belong_together_are_refused():
    a, b = optimizers(), nnk.optim.Adagrad([nn.Parameter(np.ones(2))])
    with pytest.raises(TypeError, match="StepLR: optimizer must be an Optimizer, got float"):
        lr_scheduler.StepLR(0.1, 3)
    with pytest.raises(ValueError, match="belongs to another optimizer"):
        lr_scheduler.SequentialLR(a, [lr_scheduler.StepLR(b, 3)], [])
    with pytest.raises(ValueError, match="2 schedulers need 1 milestones, got 2"):
        lr_scheduler.SequentialLR(a, [lr_scheduler.StepLR(a, 3), lr_scheduler.StepLR(a, 4)], [3, 6])
    with pytest.raises(ValueError, match="cycle_momentum needs momentum or betas"):
        lr_scheduler.OneCycleLR(b, 0.1, 9)


# --- in the training loop ---


def data():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((20, 3)).astype(np.float32)
    return x, (x @ np.float32([[1.0], [-2.0], [0.5]])).astype(np.float32)


def test_fit_steps_a_schedule_after_each_epoch():
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.5)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    train.fit(model, data(), optimizer=optimizer, loss=F.mse_loss, epochs=3, schedule=schedule)
    assert schedule.last_epoch == 3
    assert optimizer.lr == 0.5 * 0.5**3


@pytest.mark.parametrize("validation", [None, data()])
def test_fit_gives_a_plateau_the_validation_loss_or_the_training_loss(validation):
    model = nn.Linear(3, 1)
    optimizer = SGD(model.parameters(), lr=0.0)
    schedule = lr_scheduler.ReduceLROnPlateau(optimizer)
    history = train.fit(
        model, data(), validation, optimizer=optimizer, loss=F.mse_loss, epochs=2, schedule=schedule
    )
    name = "train_loss" if validation is None else "val_loss"
    assert schedule.best == pytest.approx(min(history[name]), rel=1e-3)
    assert schedule.last_epoch == 2


def test_fit_refuses_the_schedule_of_another_optimizer():
    model = nn.Linear(3, 1)
    one, other = (Adam(model.parameters()) for _ in range(2))
    schedule = lr_scheduler.StepLR(other, 3)
    with pytest.raises(ValueError, match="fit: schedule belongs to another optimizer"):
        train.fit(model, data(), optimizer=one, loss=F.mse_loss, schedule=schedule)
