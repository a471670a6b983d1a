"""Where compiled kernels are kept between runs.

Numba's on-disk cache watches only the file a function stands in: after an edit of a callee in another file,
a cached caller would go on returning the old answer. So the directory is named after a hash of all sources
that hold kernels, and of the compiler's version: an edit anywhere starts a fresh cache.
"""

import hashlib
import os
from functools import cache
from pathlib import Path

import numba

PACKAGE = Path(__file__).resolve().parent.parent


@cache
def sources_digest() -> str:
    """Short hash of every source file in ``machine/`` and ``ops/`` and of Numba's version."""
    digest = hashlib.sha256(numba.__version__.encode())
    for room in ("machine", "ops"):
        for path in sorted((PACKAGE / room).rglob("*.py")):
            digest.update(path.relative_to(PACKAGE).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def cache_root() -> Path:
    """The directory that holds this project's caches.

    ``$NUMBA_CACHE_DIR`` when set, else ``nnkernels`` in the user's cache directory.
    """
    if directory := os.environ.get("NUMBA_CACHE_DIR"):
        return Path(directory)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache) / "nnkernels"


@cache
def cache_directory() -> Path:
    """The directory in use by this version of the sources."""
    return cache_root() / f"kernels-{sources_digest()}"
