"""Where compiled kernels are kept between runs.

Numba's on-disk cache watches only the file a function stands in: after an edit of a callee in another file,
a cached caller would go on returning the old answer. So the directory is named after a hash of all sources
that hold kernels, of the compiler's version, and of the vector registers that kernels are written for: an
edit anywhere starts a fresh cache, and kernels of plain loops (``NNKERNELS_SIMD=0``) never meet the others.
(For which processor a kernel was compiled, Numba's own index knows.)
"""

import hashlib
import os
from functools import cache
from pathlib import Path

import numba

from nnkernels.machine import simd

PACKAGE = Path(__file__).resolve().parent.parent


@cache
def sources_digest() -> str:
    """Short hash of all sources in ``machine/`` and ``ops/``, Numba's version and the vector registers."""
    registers = f"{simd.ENABLED} {simd.BITS} {simd.ROWS}"
    digest = hashlib.sha256(f"{numba.__version__} {registers}".encode())
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
    """The directory in use by this version of the sources, in this mode."""
    return cache_root() / f"kernels-{sources_digest()}"
