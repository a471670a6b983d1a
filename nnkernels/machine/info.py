"""Facts about the machine and the compiler: what stands behind a measured time."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numba
import numpy as np

from nnkernels.machine.threads import get_num_threads

# Extensions that decide how fast our kernels can be, in the order in which processors got them.
SIMD_FEATURES = (
    "sse2", "sse4.2", "avx", "f16c", "fma", "avx2", "avx512f", "avx512dq", "avx512bw", "avx512vl",
    "avx512vnni", "avx512bf16", "avx512fp16", "amx-tile", "neon", "dotprod", "fullfp16", "bf16", "sve",
    "sve2",
)  # fmt: skip
REGISTER_BITS = {"avx512f": 512, "avx": 256, "sse2": 128, "neon": 128}
WORKQUEUE_ADVICE = (
    "workqueue starts threads slowly and breaks when two Python threads call kernels at once; for OpenMP "
    "install libgomp (Debian, Ubuntu: apt install libgomp1; Fedora: dnf install libgomp), or: pip install tbb"
)


@dataclass(frozen=True)
class Processor:
    """The host as LLVM sees it; ``register_bits`` is the width of the widest vector register, 0 if unknown.

    ``cores`` counts those this process may run on, ``machine_cores`` all that the system shows.
    """

    name: str
    simd: tuple[str, ...]
    register_bits: int
    cores: int
    machine_cores: int


@dataclass(frozen=True)
class Threads:
    """Numba's threads: how many kernels use, at most can use, and the layer that runs them.

    ``advice`` says what to do about a poor or missing layer; it is empty for a good one.
    """

    used: int
    most: int
    layer: str
    advice: str


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that turn loops into machine code."""
    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
    }


def processor() -> Processor:
    """Return what the host's processor can do."""
    features = {name for name, present in llvm.get_host_cpu_features().items() if present}
    every = os.cpu_count() or 1
    return Processor(
        name=llvm.get_host_cpu_name(),
        simd=tuple(name for name in SIMD_FEATURES if name in features),
        register_bits=max((bits for name, bits in REGISTER_BITS.items() if name in features), default=0),
        # Numba's own default: it knows the process's affinity where the system has one.
        cores=numba.config.NUMBA_DEFAULT_NUM_THREADS,
        machine_cores=every,
    )


def threads() -> Threads:
    """Start the threading layer, as a first parallel kernel would, and return which one it is."""
    most = numba.config.NUMBA_NUM_THREADS
    try:
        used = get_num_threads()
        layer = str(numba.threading_layer())
    except ValueError as error:  # NUMBA_THREADING_LAYER asks for one that is not there
        return Threads(1, most, "none", f"no threading layer could be started: {error}")
    return Threads(used, most, layer, WORKQUEUE_ADVICE if layer == "workqueue" else "")


def directory_size(directory: Path) -> tuple[int, int]:
    """Return (bytes, files) below ``directory``; (0, 0) where it does not exist."""
    total = files = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.stat(os.path.join(folder, name)).st_size
            except FileNotFoundError:  # another process is tidying up
                continue
            files += 1
    return total, files
