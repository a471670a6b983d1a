"""Kernels compiled by tests are cached between runs, in a directory of the tests' own."""

import os
import tempfile
from pathlib import Path

import pytest

# Set before anything imports nnkernels; the package adds a hash of its sources, so an edit starts afresh.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"nnkernels-tests-{os.getuid()}"))


@pytest.fixture
def torch64(monkeypatch):
    """torch with float64 where it would take float32 (NAdam's product) or bfloat16 (Muon's products)."""
    torch = pytest.importorskip("torch", reason="PyTorch is the oracle here")
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.to(torch.float64, copy=True))
    yield torch
    torch.set_default_dtype(before)


def pytest_addoption(parser):
    parser.addoption("--draws", type=int, default=400, help="calls that test_draws.py draws over all ops")
