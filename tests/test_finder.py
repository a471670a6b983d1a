"""The learning-rate range test, and its picture."""

import math
import pickle

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn, plot
from nnkernels.data import Batches
from nnkernels.nn import functional as F
from nnkernels.optim import Adam, lr_finder


class Quadratic(nn.Module):
    """curvature / 2 * w^2, whose gradient descent diverges from a rate of 2 / curvature on."""

    def __init__(self, curvature=4.0):
        super().__init__()
        self.w = nn.Parameter(np.float64([1.0]))
        self.curvature = curvature

    def forward(self, x):
        return self.w * self.w * np.float64([self.curvature / 2])


def mean(outputs, targets):
    return outputs.sum()


LOADER = [(np.zeros(1), np.zeros(1))] * 7


def test_rates_grow_exponentially_and_losses_are_those_of_the_batches():
    search = lr_finder(Quadratic(), mean, LOADER, start_lr=1e-4, end_lr=1e-1, num_iter=31, smoothing=0.0)
    np.testing.assert_allclose(search.rates, np.logspace(-4, -1, 31))
    w, losses = 1.0, []
    for rate in search.rates:
        losses.append(2 * w * w)
        w -= rate * 4 * w
    np.testing.assert_allclose(search.losses, losses)
    assert search.smoothed == pytest.approx(search.losses)


def test_it_stops_where_the_loss_diverges_and_suggests_a_rate_well_below():
    search = lr_finder(Quadratic(), mean, LOADER, start_lr=1e-3, end_lr=1e3, num_iter=200)
    assert len(search.rates) < 200
    assert search.rates[-1] > 2 / 4
    assert search.suggestion is not None
    assert 0.005 < search.suggestion < 0.5
    assert search.smoothed[-1] > 4 * min(search.smoothed)


def test_the_mean_of_losses_counts_the_first_fully():
    search = lr_finder(Quadratic(), mean, LOADER, start_lr=1e-9, end_lr=1e-8, num_iter=10, smoothing=0.9)
    np.testing.assert_allclose(search.smoothed, search.losses, rtol=1e-6)


def test_a_loss_that_never_falls_gives_no_suggestion():
    model = Quadratic()
    search = lr_finder(model, lambda y, t: -y.sum() * 1e3, LOADER, start_lr=1e-6, end_lr=1e-5, num_iter=5)
    falling = lr_finder(model, mean, LOADER, num_iter=5)
    assert search.suggestion is not None  # minus infinity is where it falls to
    assert falling.suggestion is not None
    constant = lr_finder(model, lambda y, t: (y * 0.0).sum(), LOADER, num_iter=5)
    assert constant.suggestion is None


def test_a_loss_that_is_not_finite_ends_the_search():
    def breaking(outputs, targets):
        breaking.calls += 1
        return outputs.sum() * (math.nan if breaking.calls > 4 else 1.0)

    breaking.calls = 0
    assert len(lr_finder(Quadratic(), breaking, LOADER).losses) == 4


def blobs():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 60)
    return (rng.standard_normal((60, 4)) + 2 * np.eye(4)[y]).astype(np.float32), y


@pytest.mark.parametrize("own", [False, True])
def test_model_and_optimizer_are_as_they_were(own):
    x, y = blobs()
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    model.register_buffer("note", np.float32([1.0]))
    optimizer = Adam(model.parameters(), lr=0.01)
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    model.eval()
    gradient = model[0].weight.grad
    before = pickle.dumps([model.state_dict(), optimizer.state_dict()])
    search = lr_finder(
        model, F.cross_entropy, Batches(x, y, 16, shuffle=True, rng=0), optimizer if own else None
    )
    assert min(search.losses) < 0.8 * search.losses[0]
    assert pickle.dumps([model.state_dict(), optimizer.state_dict()]) == before
    assert not model.training
    assert model[0].weight.grad is gradient
    optimizer.step()
    assert pickle.dumps([model.state_dict(), optimizer.state_dict()]) != before


def test_they_are_restored_when_the_loss_raises():
    model = Quadratic()

    def breaking(outputs, targets):
        if model.w.data[0] != 1.0:
            raise KeyError("broken")
        return outputs.sum()

    with pytest.raises(KeyError, match="broken"):
        lr_finder(model, breaking, LOADER)
    assert model.w.data.tolist() == [1.0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start_lr": 0.0}, "wanted 0 < start_lr < end_lr, got 0.0 and 10.0"),
        ({"end_lr": 1e-9}, "wanted 0 < start_lr < end_lr"),
        ({"num_iter": 1}, "num_iter must be at least 2"),
        ({"smoothing": 1.0}, r"smoothing in \[0, 1\)"),
        ({"diverge": 1.0}, "diverge above 1"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=f"lr_finder: .*{words}"):
        lr_finder(Quadratic(), mean, LOADER, **options)


def test_a_loader_that_is_used_up_is_found_out():
    with pytest.raises(ValueError, match="lr_finder: loader yields no batches"):
        lr_finder(Quadratic(), mean, iter(LOADER), num_iter=20)


# --- the picture ---


def test_the_picture_holds_rates_losses_and_the_suggestion():
    search = lr_finder(Quadratic(), mean, LOADER)
    (axes,) = plot.rate_search(*search).axes
    assert axes.get_xscale() == "log"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("learning rate", "training loss")
    points, line, suggestion = axes.lines
    np.testing.assert_array_equal(points.get_xydata(), np.transpose([search.rates, search.losses]))
    np.testing.assert_array_equal(line.get_xydata(), np.transpose([search.rates, search.smoothed]))
    assert list(suggestion.get_xdata()) == [search.suggestion] * 2
    low, high = axes.get_ylim()
    assert low < min(search.smoothed) <= search.smoothed[0] < high


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], [], []), "rates has shape"),
        (([1.0, 2.0], [1.0], [1.0]), "lengths 2, 1 and 1, wanted equal ones"),
        (([0.0, 1.0], [1.0, 1.0], [1.0, 1.0]), "rates has values down to 0, wanted positive ones"),
        (([1.0], [math.nan], [1.0]), "losses has 1 of 1 elements NaN"),
        (([1.0], [1.0], [1.0], -1.0), "suggestion is -1.0, wanted a positive number or None"),
    ],
)
def test_what_cannot_be_drawn_is_named(arguments, words):
    with pytest.raises(ValueError, match=words):
        plot.rate_search(*arguments)


def test_the_search_is_exported():
    assert nnk.optim.lr_finder is lr_finder
