"""Kernels compiled by tests are cached between runs, in a directory of the tests' own."""

import os
import tempfile
from pathlib import Path

# Set before anything imports nnkernels; the package adds a hash of its sources, so an edit starts afresh.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"nnkernels-tests-{os.getuid()}"))


def pytest_addoption(parser):
    parser.addoption("--draws", type=int, default=400, help="calls that test_draws.py draws over all ops")
