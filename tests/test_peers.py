"""The comparison with PyTorch runs, compares before it times, and writes what the README's table needs."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
needs_torch = pytest.mark.skipif(
    find_spec("torch") is None, reason="the comparison needs PyTorch: pip install torch==2.13.0"
)


def call(*arguments, script="peers.py"):
    command = [sys.executable, str(BENCHMARKS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


@pytest.fixture
def on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@needs_torch
def test_quick_run_of_one_op(tmp_path):
    done = call("--quick", "--only", "relu", "--threads", 1, "--seconds", 0.02, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "relu 4 Mi fwd" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 110
    results = json.loads((tmp_path / "peers.json").read_text(encoding="utf-8"))
    parts = {"machine", "versions", "threads", "settings", "ceilings", "geometric_means", "below_one"}
    assert parts <= set(results)
    assert {(row["op"], row["way"], row["threads"]) for row in results["rows"]} == {
        ("relu", "fwd", 1), ("relu", "bwd", 1),
    }  # fmt: skip
    for row in results["rows"]:
        assert min(row[key] for key in ("flops", "bytes", "loops", "vectorized", "of_bound")) > 0
        for setting in ("as_installed", "allocation_tuned"):
            assert row[setting]["ratio"] > 0
            for who in ("ours", "torch"):
                assert 0 < row[setting][who]["q1"] <= row[setting][who]["median"] <= row[setting][who]["q3"]
    faults = [results["settings"][s]["page_faults_of_64_MiB"] for s in ("as_installed", "allocation_tuned")]
    assert faults[1] <= faults[0]
    for picture in ("roofline.png", "peers.png"):
        assert (tmp_path / picture).read_bytes()[:4] == b"\x89PNG"


@needs_torch
def test_a_pattern_that_fits_nothing_is_an_error():
    done = call("--only", "xyzzy")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no row's name holds 'xyzzy'" in done.stderr


@needs_torch
def test_the_vocabulary_is_timed_op_by_op(tmp_path):
    out = tmp_path / "vocabulary.json"
    done = call("relu", "sgd_step", "--seconds", 0.01, "--out", out, script="vocabulary.py")
    assert done.returncode == 0, done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 110
    results = json.loads(out.read_text(encoding="utf-8"))
    ways = {(row["op"], row["way"]) for row in results["rows"]}
    assert ways == {("relu", "forward"), ("relu", "backward"), ("sgd_step", "step")}
    for other in ("vectorized", "torch"):
        ratios = [row[other] / row["tuned"] for row in results["rows"]]
        compared = results["compared"][other]
        assert compared["passes"] == len(ratios)
        assert [slow["ratio"] for slow in compared["slower"]] == sorted(r for r in ratios if r < 1)
        assert f"{other} over tuned, geometric mean of {len(ratios)} passes" in done.stdout
    assert all(row["of_bound"] > 0 for row in results["rows"])


@needs_torch
def test_an_unknown_op_is_an_error():
    done = call("xyzzy", script="vocabulary.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no such op: xyzzy" in done.stderr


def test_rows_are_named_once_and_build(on_path):
    from peers_every import every_row

    rows = every_row()
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    for row in rows:
        if row.op in ("conv2d", "softmax_cross_entropy", "adam_step") and row.quick:
            case = row.build()
            flops, least_bytes = case.work()
            assert flops > 0
            assert least_bytes > 0
            assert case.call("tuned")()[0 if row.way != "dw" else 1] is not None


@needs_torch
@pytest.mark.parametrize("way", ["step", "eval", "optimised"])
def test_networks_are_compared(on_path, monkeypatch, way):
    import peers_networks
    import peers_torch

    monkeypatch.setattr(peers_networks, "SIDE", 64)  # pixels, in place of 224
    case = peers_networks.NetworkRow("ResNet-18", 2, way).build()
    ours, others = case.call("tuned"), peers_torch.calls(case)
    assert case.work()[0] > 1e8
    peers_torch.compare(case, ours, others)
    wrong = (lambda: ours() + 1) if way == "step" else (lambda: (ours()[0] + 1,))
    with pytest.raises(AssertionError, match="ResNet-18 64 px, batch 2"):
        peers_torch.compare(case, wrong, others)


@needs_torch
def test_wrong_results_are_noticed(on_path):
    import peers_rows
    import peers_torch

    row = next(row for row in peers_rows.op_rows() if row.op == "softmax")
    case = row.build()
    ours, others = case.call("tuned"), peers_torch.calls(case)
    peers_torch.compare(case, ours, others)

    def wrong():
        (y,) = ours()
        y[-1, -1] += np.float32(1e-4)
        return (y,)

    with pytest.raises(AssertionError, match=r"softmax 64x10 fwd, result 0 and torch's: largest difference"):
        peers_torch.compare(case, wrong, others)
