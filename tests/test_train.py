"""The training loop: what it does to the weights, what it reports, when it stops."""

import re

import numba
import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn, train
from nnkernels.data import Batches
from nnkernels.nn import functional as F
from nnkernels.optim import SGD, Adam


def blobs(n=90, seed=0, dtype=np.float32):
    """Three clouds in the plane: x (n, 2), labels (n)."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.standard_normal((n, 2)) * 0.5 + np.array([[0, 2], [2, -1], [-2, -1]])[y]
    return x.astype(dtype), y


def network(seed=0, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return nn.Sequential(
        nn.Linear(2, 8, rng=rng, dtype=dtype), nn.Tanh(), nn.Linear(8, 3, rng=rng, dtype=dtype)
    )


def scalar_model():
    model = nn.Linear(1, 1, bias=False, dtype=np.float64)
    model.weight.data[...] = 0
    return model


ONE = np.ones((4, 1))


# ---------------------------------------------------------------- learning


def test_fit_lowers_the_loss_and_fills_the_history():
    model, data, held_out = network(), blobs(), blobs(30, seed=1)
    before = train.evaluate(model, *held_out)
    history = train.fit(
        model, data, held_out, optimizer=SGD(model.parameters(), lr=0.2), epochs=8, batch_size=16
    )
    after = train.evaluate(model, *held_out)
    assert set(history) == {"train_loss", "train_accuracy", "val_loss", "val_accuracy", "seconds"}
    assert {len(values) for values in history.values()} == {8}
    assert history["train_loss"][-1] < 0.3 * history["train_loss"][0]
    assert after.loss < 0.3 * before.loss
    assert after.accuracy > 0.9
    assert history["val_loss"][-1] == after.loss
    assert history["val_accuracy"][-1] == after.accuracy


def test_every_sample_is_used_once_an_epoch_in_a_new_order_and_the_short_batch_counts_by_its_size():
    x, y = np.arange(10.0)[:, None], np.zeros((10, 1))
    model, seen = scalar_model(), []
    model.weight.data[...] = 1

    def loss(outputs, targets):
        seen.append(outputs.data.ravel().tolist())
        return F.mse_loss(outputs, targets)

    optimizer = SGD(model.parameters(), lr=0.0)
    history = train.fit(model, (x, y), optimizer=optimizer, loss=loss, epochs=2, batch_size=4)
    assert [len(batch) for batch in seen] == [4, 4, 2] * 2
    first, second = ([v for batch in part for v in batch] for part in (seen[:3], seen[3:]))
    assert sorted(first) == sorted(second) == x.ravel().tolist()
    assert first != second
    assert history["train_loss"] == pytest.approx([np.mean(x**2)] * 2, rel=1e-12)
    assert set(history) == {"train_loss", "seconds"}  # nothing to be right about


@pytest.mark.parametrize("batch_size", [1, 7, 16, 30, 31, 100])
def test_mini_batch_gradients_over_a_partition_average_to_the_full_gradient(batch_size):
    x, y = blobs(30, dtype=np.float64)
    model = network(dtype=np.float64)

    def gradients(x, y):
        model.zero_grad()
        F.cross_entropy(model(x), y).backward()
        return [p.grad.data for p in model.parameters()]

    full = gradients(x, y)
    total = [np.zeros_like(g) for g in full]
    for xb, yb in Batches(x, y, batch_size, shuffle=True, rng=3):
        for sum_, g in zip(total, gradients(xb, yb)):
            sum_ += g * len(xb) / len(x)
    for a, b in zip(total, full):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)


# ---------------------------------------------------------------- early stopping


def test_early_stopping_restores_the_best_epochs_weights():
    # Training pulls w from 0 to 2, validation is best at w = 1: its loss falls, then rises.
    model = scalar_model()
    weights = []

    def loss(outputs, targets):
        weights.append(model.weight.data.item())
        return F.mse_loss(outputs, targets)

    history = train.fit(
        model, (ONE, 2 * ONE), (ONE, 1.05 * ONE), optimizer=SGD(model.parameters(), lr=0.05), loss=loss,
        epochs=50, batch_size=4, patience=3,
    )  # fmt: skip
    val = history["val_loss"]
    best = int(np.argmin(val))
    assert 2 < best < 20
    assert history["best_epoch"] == [best + 1]
    assert len(val) == best + 1 + 3  # three epochs of patience
    assert val[best + 1] < val[best + 2] < val[best + 3]
    assert np.all(np.diff(history["train_loss"]) < 0)
    assert train.evaluate(model, ONE, 1.05 * ONE, F.mse_loss).loss == val[best]
    assert model.weight.data.item() in weights
    assert abs(model.weight.data.item() - 1.05) < 0.1


def test_patience_counts_from_the_best_epoch_and_a_late_best_is_kept():
    # The validation losses as told; the weights carry the number of the epoch.
    model, told = scalar_model(), iter([5.0, 4.0, 4.5, 4.5, 3.0, 3.5, 3.0, 3.5, 9.0])

    def loss(outputs, targets):
        if not isinstance(outputs, nnk.Tensor):  # validation
            return np.float64(next(told))
        return outputs.sum() * 0.0 - outputs.sum() / 4.0  # each epoch adds 1 to w

    history = train.fit(
        model, (ONE, ONE), (ONE, ONE), optimizer=SGD(model.parameters(), lr=1.0), loss=loss, epochs=9,
        batch_size=4, patience=3,
    )  # fmt: skip
    assert history["val_loss"] == [5.0, 4.0, 4.5, 4.5, 3.0, 3.5, 3.0, 3.5]  # an equal loss is no better one
    assert history["best_epoch"] == [5]
    assert model.weight.data.item() == 5.0


def test_without_patience_the_last_weights_stay():
    model = scalar_model()
    train.fit(
        model, (ONE, 2 * ONE), (ONE, ONE), loss=F.mse_loss, optimizer=SGD(model.parameters(), lr=0.25),
        epochs=30,
    )  # fmt: skip
    assert model.weight.data.item() == pytest.approx(2, abs=1e-6)


def test_buffers_are_restored_with_the_weights():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = scalar_model()
            self.register_buffer("epochs", np.zeros(1))

        def forward(self, x):
            if self.training:
                self.epochs += 1
            return self.layer(x)

    model = Counting()
    history = train.fit(
        model, (ONE, 2 * ONE), (ONE, ONE), optimizer=SGD(model.parameters(), lr=0.05), loss=F.mse_loss,
        epochs=30, patience=2,
    )  # fmt: skip
    assert len(history["val_loss"]) < 30
    assert model.epochs.tolist() == [float(v) for v in history["best_epoch"]]


# ---------------------------------------------------------------- what goes wrong


def test_a_loss_that_is_not_finite_names_epoch_batch_and_learning_rate_and_moves_no_weight():
    for bad in (np.nan, np.inf):
        model, calls, weights = scalar_model(), [], []

        def loss(outputs, targets, model=model, calls=calls, weights=weights, bad=bad):
            calls.append(1)
            weights.append(model.weight.data.item())
            return F.mse_loss(outputs, targets) * (bad if len(calls) == 5 else 1.0)

        with pytest.raises(FloatingPointError, match=r"epoch 2, batch 2 of 3, with learning rate 0\.125"):
            train.fit(
                model, (np.ones((10, 1)), np.ones((10, 1))), loss=loss, epochs=9, batch_size=4,
                optimizer=SGD(model.parameters(), lr=0.125),
            )  # fmt: skip
        assert model.weight.data.item() == weights[4] != weights[3]


def test_a_learning_rate_that_is_too_large_diverges_into_that_error():
    model = scalar_model()
    with pytest.raises(FloatingPointError, match=r"epoch \d+, batch 1 of 1, with learning rate 1000:"):
        train.fit(model, (ONE, ONE), loss=F.mse_loss, epochs=500, optimizer=SGD(model.parameters(), lr=1000))


def test_a_validation_loss_that_is_not_finite_is_an_error_too():
    model = scalar_model()
    with pytest.raises(FloatingPointError, match=r"validation.*epoch 1.*learning rate 1e\+200"):
        train.fit(  # one step of 1e200: its square is beyond float64
            model, (ONE, ONE), (ONE, ONE), loss=F.mse_loss, epochs=3,
            optimizer=SGD(model.parameters(), lr=1e200),
        )  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"epochs": 0}, "epochs must be an int of at least 1, got 0"),
        ({"epochs": 1.5}, "epochs must be an int of at least 1, got 1.5"),
        ({"patience": 2}, r"patience \(2\) must be at least 1 and needs validation data"),
        ({"patience": 0, "validation": (ONE, ONE)}, r"patience \(0\)"),
        ({"batch_size": 0}, "batch_size"),
        ({"train": (ONE, ONE[:3])}, r"\(4, 1\).*\(3, 1\)"),
        ({"train": (ONE[:0], ONE[:0])}, r"\(0, 1\)"),
        ({"loss": lambda outputs, targets: outputs - targets}, r"loss must return a single number.*\(4, 1\)"),
    ],
)
def test_arguments_that_do_not_fit_together_are_refused_before_any_step(options, words):
    model = scalar_model()
    options = {"train": (ONE, ONE), "loss": F.mse_loss} | options
    data = options.pop("train")
    with pytest.raises(ValueError, match=words):
        train.fit(model, data, optimizer=SGD(model.parameters(), lr=0.1), **options)
    assert model.weight.data.item() == 0


# ---------------------------------------------------------------- the same again


def lenet_weights(seed, threads):
    """Weights after two epochs on random images, large enough for several threads to share the work."""
    before = nnk.get_num_threads()
    nnk.set_num_threads(threads)
    try:
        rng = np.random.default_rng(9)
        x, y = rng.random((96, 1, 28, 28), np.float32), rng.integers(0, 10, 96)
        model = nn.models.LeNet5(rng=seed)
        train.fit(model, (x, y), optimizer=Adam(model.parameters()), epochs=2, batch_size=40, rng=seed)
        return model.state_dict()
    finally:
        nnk.set_num_threads(before)


def test_the_same_seed_gives_bitwise_the_same_weights_with_any_number_of_threads():
    once = lenet_weights(0, 1)
    for again in (lenet_weights(0, 1), lenet_weights(0, min(2, numba.config.NUMBA_NUM_THREADS))):
        for name, value in once.items():
            assert value.tobytes() == again[name].tobytes(), name
    other = lenet_weights(1, 1)
    assert all(not np.array_equal(once[name], other[name]) for name in once)


def test_the_order_of_batches_follows_rng():
    def weights(rng):
        model = network()
        train.fit(model, blobs(), optimizer=SGD(model.parameters(), lr=0.1), epochs=1, batch_size=8, rng=rng)
        return model[0].weight.data

    np.testing.assert_array_equal(weights(5), weights(np.random.default_rng(5)))
    assert not np.array_equal(weights(5), weights(6))


# ---------------------------------------------------------------- showing


def test_fit_is_silent_unless_asked(capfd):
    model = network()
    train.fit(model, blobs(), optimizer=SGD(model.parameters(), lr=0.1), epochs=2)
    assert capfd.readouterr() == ("", "")


def test_progress_prints_a_line_per_epoch_to_stderr(capsys):
    model = network()
    history = train.fit(
        model, blobs(), blobs(30, seed=1), optimizer=SGD(model.parameters(), lr=0.1), epochs=3, progress=True
    )
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert len(lines) == 3
    for i, line in enumerate(lines):
        assert re.match(rf"epoch +{i + 1}/3 ", line)
        assert f"train loss {history['train_loss'][i]:.4f}" in line
        assert f"accuracy {history['train_accuracy'][i]:.1%}" in line
        assert f"val loss {history['val_loss'][i]:.4f}" in line


# ---------------------------------------------------------------- predict, evaluate


def test_predict_goes_through_in_batches_without_recording_and_restores_modes():
    model, (x, _) = network(), blobs(23)
    model.train()
    model[1].eval()
    seen = []
    model.register_forward_hook(lambda m, inputs, y: seen.append((len(y), m.training, y.requires_grad)))
    outputs = train.predict(model, x, batch_size=10)
    assert seen == [(10, False, False), (10, False, False), (3, False, False)]
    assert [m.training for m in model.modules()] == [True, True, False, True]
    assert isinstance(outputs, np.ndarray)
    np.testing.assert_allclose(outputs, model(x).data, rtol=1e-6)
    with pytest.raises(ZeroDivisionError):
        train.predict(nn.Sequential(model, Failing()), x)
    assert [m.training for m in model.modules()] == [True, True, False, True]


class Failing(nn.Module):
    def forward(self, x):
        raise ZeroDivisionError


def test_evaluate_gives_the_mean_loss_and_the_share_of_right_answers():
    model, (x, y) = network(), blobs(23)
    logits = model(x).data.astype(np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    score = train.evaluate(model, x, y, batch_size=5)
    assert score.loss == pytest.approx(-np.log(p[np.arange(23), y]).mean(), rel=1e-6)
    assert score.accuracy == (logits.argmax(axis=1) == y).mean()
    targets = np.eye(3, dtype=np.float32)[y]
    assert train.evaluate(model, x, targets, F.mse_loss).accuracy is None


def test_predicting_nothing_is_refused():
    x = np.zeros((0, 2), np.float32)
    with pytest.raises(ValueError, match=r"x has no samples, shape \(0, 2\)"):
        train.predict(network(), x)
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            train.predict(network(), blobs()[0], batch_size)
