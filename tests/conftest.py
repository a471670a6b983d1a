"""Kernels compiled by tests are cached between runs, in a directory of the tests' own."""

import os
import tempfile
from pathlib import Path

# Set before anything imports nnkernels; the package adds a hash of its sources, so an edit starts afresh.
os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"nnkernels-tests-{os.getuid()}"))
