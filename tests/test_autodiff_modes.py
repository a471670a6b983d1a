"""The benchmark of forward and reverse mode runs, counts passes, and replays a step's kernels bit for bit."""

import doctest
import importlib
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels import nn
from nnkernels.nn import functional as F

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
PARTS = ("kernels", "checks", "record", "walk", "tape", "tape_error", "layers", "step")


def call(*arguments):
    command = [sys.executable, str(BENCHMARKS / "autodiff_modes.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(autouse=True)
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_quick_run(tmp_path):
    out, picture = tmp_path / "results" / "modes.json", tmp_path / "modes.png"
    done = call("--quick", "--out", out, "--plot", picture)
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 110
    results = json.loads(out.read_text(encoding="utf-8"))
    assert {"machine", "versions", "date", "threads", "modes", "memory", "tape", "scalars", "goal"} <= set(
        results
    )
    rows = results["modes"]["rows"]
    product = results["modes"]["product"]
    assert {(row["n"], row["m"]) for row in rows} >= {(1, 1), (1, product), (product, 1), (4, product // 4)}
    for row in rows:
        assert row["passes"] == {"forward": row["n"], "reverse": row["m"]}
        assert row["difference"] < 1e-12
        assert min(row[kind][mode] for kind in ("predicted", "measured") for mode in row["passes"]) > 0
    ends = [row["measured"]["forward"] / row["measured"]["reverse"] for row in (rows[0], rows[-1])]
    assert (rows[-1]["n"], rows[-1]["m"]) == (product, 1)
    assert ends[1] > ends[0]
    assert picture.read_bytes()[:4] == b"\x89PNG"
    assert [row["case"] for row in results["tape"]] == ["chain of 60", "MLP batch 1", "LeNet-5 batch 1"]
    for row in results["tape"]:
        assert all(math.isfinite(row[f"{part}_us"]) for part in PARTS)
        assert row["step_us"] > row["kernels_us"] > 0
    worst = max(row["tape_us"] for row in results["tape"][1:])
    assert results["goal"] == {"us_per_op": 3.0, "worst_us_per_op": worst, "met": worst <= 3}
    assert f"{'met' if worst <= 3 else 'not met'}, at most {worst:.1f} µs" in done.stdout


def test_memory_of_reverse_mode_grows_with_depth_alone():
    import autodiff_modes

    shallow, deep = autodiff_modes.memory((8, 32))["rows"]
    kept = deep["predicted_reverse"] - shallow["predicted_reverse"]
    assert kept == 24 * 2 * 16 * 256 * 8
    assert kept <= deep["reverse"] - shallow["reverse"] <= 1.2 * kept  # nodes and Tensors, too
    assert abs(deep["forward"] - shallow["forward"]) < 0.02 * kept


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--threads", 100_000), "argument --threads: invalid choice: 100000"),
        (("--out", BENCHMARKS), "is a directory"),
        (("--out", BENCHMARKS / "peers.py" / "x.json"), "--out"),
        (("--plot", "picture.jpg"), "must end in .png"),
    ],
)
def test_wrong_arguments_are_noticed_before_the_work(arguments, words, monkeypatch, capsys):
    import autodiff_modes

    monkeypatch.setattr(sys, "argv", ["autodiff_modes.py", "--quick", *map(str, arguments)])
    monkeypatch.setattr(autodiff_modes, "measured", None)
    with pytest.raises(SystemExit) as end:
        autodiff_modes.main()
    assert end.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert words in printed.err


def test_without_torch_there_are_no_figures_of_torch(monkeypatch):
    import autodiff_tape

    monkeypatch.setattr(autodiff_tape, "find_spec", lambda name: None)
    row = autodiff_tape.measured(autodiff_tape.chain(), 0.01)
    assert not any("torch" in key for key in row)
    assert row["ops"] == 60


@pytest.mark.parametrize("module", ["autodiff_modes", "autodiff_replay"])
def test_examples_in_docstrings(module):
    result = doctest.testmod(importlib.import_module(module))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_crossover_is_interpolated():
    import autodiff_modes

    costs = {"jvp": 3.0, "record": 0.0, "pull": 2.0}
    rows = [
        {"n": n, "m": m, "t": autodiff_modes.predicted(n, m, costs)}
        for n, m in ((8, 1), (4, 2), (2, 4), (1, 8))
    ]
    assert autodiff_modes.crossover(rows, "t") == pytest.approx(math.sqrt(2 / 3 * 8))  # 3 n = 2 * 8 / n
    assert autodiff_modes.crossover(rows[:2], "t") is None


@pytest.mark.parametrize("case", ["MLP", "LeNet-5", "chain", "views and sums"])
def test_the_replay_has_the_gradients_of_the_tape_bit_for_bit(case):
    import autodiff_replay
    import autodiff_tape

    if case == "chain":
        step = autodiff_tape.chain()
    elif (
        case == "views and sums"
    ):  # a leaf used twice, a view that kernels want copied, attributes of many kinds
        rng = np.random.default_rng(0)
        x, w = (nnk.tensor(rng.standard_normal(shape), requires_grad=True) for shape in ((4, 6), (6, 6)))
        forward = lambda: ((x @ w).T.softmax(0) * (w * w).sum(dim=(1,), keepdim=True) + w[:, 1:5]).mean()  # noqa: E731
        step = autodiff_tape.Case(case, forward, None, [x, w])
    else:
        step = autodiff_tape.model_step(case, 3)
    replay = step.replay()
    assert isinstance(replay, autodiff_replay.Replay)
    step.whole()
    wanted = step.gradients()
    assert len(wanted) == len(step.leaves)
    for _ in range(2):  # nothing is used up
        for kind in ("by_hand", "recorded"):
            found = replay.whole[kind]() or step.gradients()
            assert all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_a_wrong_replay_is_noticed():
    import autodiff_tape

    case = autodiff_tape.chain()
    replay = case.replay()
    right = replay.whole["by_hand"]
    replay.whole["by_hand"] = lambda: (right()[0] * np.float32(1 + 2**-20),)
    with pytest.raises(AssertionError, match="gradients by_hand are not those of the step"):
        autodiff_tape.demand_equal(case, replay, {})


def test_scalar_engine_agrees_with_the_tape_on_the_chain():
    import autodiff_tape
    from autodiff_replay import Scalar

    case = autodiff_tape.chain()
    xs = [Scalar(float(v)) for v in case.leaves[0].data]
    assert autodiff_tape.scalar_chain(xs).backward() == 4 * 60 + 4
    case.whole()
    np.testing.assert_allclose([x.grad for x in xs], case.gradients()[0], rtol=1e-4)


def test_scalar_engine_agrees_with_the_tape_on_an_mlp():
    import autodiff_tape

    model = nn.Sequential(nn.Linear(5, 4, rng=0), nn.ReLU(), nn.Linear(4, 3, rng=1))
    x, label = np.random.default_rng(0).standard_normal(5).astype(np.float32), 2
    F.cross_entropy(model(x[None]), np.array([label])).backward()
    layers = [
        (autodiff_tape.scalars(p.weight.data), autodiff_tape.scalars(p.bias.data))
        for p in (model[0], model[2])
    ]
    autodiff_tape.scalar_mlp(layers, autodiff_tape.scalars(x), label).backward()
    for (w, b), layer in zip(layers, (model[0], model[2])):
        np.testing.assert_allclose(
            [[v.grad for v in row] for row in w], layer.weight.grad.data, rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose([v.grad for v in b], layer.bias.grad.data, rtol=1e-4, atol=1e-6)


def test_scalar_engine_adds_up_what_arrives_on_several_ways():
    from autodiff_replay import Scalar

    x, y = Scalar(3.0), Scalar(-2.0)
    a = x * y
    (a * a - x).backward(2.0)  # (x y)^2 - x
    assert (x.grad, y.grad) == (2 * (2 * 3 * 4 - 1), 2 * (2 * 9 * -2))
    z = Scalar(0.5)
    (z.exp() * z.log() + z.relu() + (z - Scalar(1.0)).relu()).backward()
    assert z.grad == pytest.approx(math.exp(0.5) * (math.log(0.5) + 2) + 1)
