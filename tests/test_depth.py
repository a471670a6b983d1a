"""The depth experiment runs, and writes what its table and figure are made of."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent


def test_quick_run(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "depth.py"), "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "depth.json").read_text(encoding="utf-8"))
    assert [run["network"] for run in results["runs"]] == ["ResNet-8", "plain-8"]
    for run in results["runs"]:
        assert len(run["train_loss"]) == len(run["val_accuracy"]) == results["epochs"] == 2
        assert run["train_loss"][-1] < run["train_loss"][0]
        assert np.isfinite(run["gradient_norms"]).all()
        assert f"| {run['network']} |" in done.stdout
    assert (tmp_path / "depth.png").read_bytes()[:4] == b"\x89PNG"


def test_the_table_of_the_page_is_that_of_the_file():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import depth
    finally:
        sys.path.pop(0)
    results = json.loads((ROOT / "benchmarks" / "results" / "depth.json").read_text(encoding="utf-8"))
    assert len(results["runs"]) == 12
    assert depth.table(results) in (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
