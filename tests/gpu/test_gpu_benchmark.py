"""The GPU benchmark: its control flow in the simulator, with a stand-in for PyTorch, and without a GPU."""

import json
import subprocess
import sys
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from nnkernels.machine.gpu import why_not_available
from nnkernels.machine.gpu_simulator import simulate_gpu

pytestmark = pytest.mark.sim

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def benchmark_of_gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import gpu

    monkeypatch.setattr(gpu, "ROW_SECONDS", 0.0)
    return gpu


@pytest.mark.skipif(why_not_available() is None, reason="there is a GPU")
def test_without_a_gpu_it_says_so_and_writes_nothing(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"nothing is measured: {why_not_available()}\n"
    assert not list(tmp_path.iterdir())


def test_a_simulated_run_says_that_it_is_one(benchmark_of_gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--simulate", "--out", str(tmp_path)])
    assert benchmark_of_gpu.main() == 0
    out = capsys.readouterr().out
    assert "SIMULATED: no GPU has run anything" in out
    assert max(map(len, out.replace(str(tmp_path), "").splitlines())) <= 110
    results = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert results["simulated"]
    assert {"matmul 8x8x8 fwd", "tiny ResNet batch 2 step", "adam_step 40 params step"} < {
        row["name"] for row in results["rows"]
    }
    for row in results["rows"]:
        assert "failed" not in row, row
        assert min(row["seconds"].values()) > 0
        assert row["flops"] > 0
        assert ("ours TF32" in row["seconds"]) == row["name"].startswith(("matmul", "conv2d", "tiny"))


class StandIn:
    """What gpu_torch offers, computed by our own body; ``off`` is what is wrong with it."""

    def __init__(self, off):
        self.off = off
        self.timed = SimpleNamespace(timed=None)

    def calls(self, case):
        ours = case.ours()
        return {"torch": lambda: [a.numpy() + np.float32(self.off) for a in ours() if a is not None]}

    def precision(self, tf32):
        return nullcontext()

    def results(self, found):
        return found


@pytest.mark.parametrize(("off", "words"), [(0.0, ""), (0.5, "  DIFFERS by "), (np.nan, "  DIFFERS by inf")])
def test_results_are_compared_with_pytorchs(benchmark_of_gpu, off, words, capsys):
    stand_in = StandIn(off)
    peaks = {"flops": 1e12, "bytes": 1e12}
    with simulate_gpu(("forward",)) as device:
        stand_in.timed = device.timed
        rows = benchmark_of_gpu.run(benchmark_of_gpu.cases(True, "softmax"), device, stand_in, 60.0, peaks)
    assert len(rows) == 2
    assert all(set(row["seconds"]) == {"ours", "torch"} for row in rows)
    for printed in capsys.readouterr().out.splitlines():
        assert (words in printed) if words else ("DIFFERS" not in printed)


def test_a_row_that_fails_leaves_the_others(benchmark_of_gpu, monkeypatch, capsys):
    chosen = benchmark_of_gpu.cases(True, "softmax")
    broken = (chosen[0][0], chosen[0][1], lambda row, device: 1 / 0)
    with simulate_gpu(("forward",)) as device:
        rows = benchmark_of_gpu.run([broken, chosen[1]], device, None, 60.0, {"flops": 1.0, "bytes": 1.0})
        late = benchmark_of_gpu.run(chosen, device, None, -1.0, {"flops": 1.0, "bytes": 1.0})
    assert "ZeroDivisionError" in rows[0]["failed"]
    assert "seconds" in rows[1]
    assert [row["not_measured"] for row in late] == ["out of time"] * 2
    assert "FAILED: ZeroDivisionError" in capsys.readouterr().out


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch's calls need PyTorch")
def test_pytorchs_calls_compute_the_same(benchmark_of_gpu, monkeypatch):
    """On the processor: what PyTorch's side would move to a GPU stays, and a clock stands in for events."""
    import gpu_torch
    import torch

    for moved in (torch.Tensor, torch.nn.Module):
        monkeypatch.setattr(moved, "cuda", lambda self: self)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    with simulate_gpu(("forward",)) as device:
        monkeypatch.setattr(gpu_torch, "timed", device.timed)
        rows = benchmark_of_gpu.run(
            benchmark_of_gpu.cases(True, None), device, gpu_torch, 600.0, {"flops": 1e9, "bytes": 1e9}
        )
    for row in rows:
        assert "failed" not in row, row
        assert row["difference"] < 1e-5, row
    fused = next(row for row in rows if row["name"].startswith("adam_step"))
    assert set(fused["seconds"]) == {"ours", "torch", "torch fused"}
