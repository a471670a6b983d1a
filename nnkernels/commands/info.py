"""``nnkernels info``: versions, processor, threads, caches; with ``--measure`` the machine's ceilings."""

import argparse
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import nnkernels
from nnkernels.machine import ceilings, info, memory
from nnkernels.machine.cache import cache_directory, cache_root
from nnkernels.machine.gpu import the_gpu, why_not_available


def add_parser(commands: Any) -> None:
    """Declare the command."""
    text = "versions, cores, SIMD, threads, cache directory: what to add to a report"
    parser = commands.add_parser("info", help=text, description=text)
    parser.add_argument(
        "--measure", action="store_true", help="also measure multiply-adds and memory, about 3 seconds"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Print the facts, one a line."""
    for name, version in {"nnkernels": nnkernels.__version__, **info.versions()}.items():
        line(name, version)
    cpu, threads = info.processor(), info.threads()
    whole = f" of the machine's {cpu.machine_cores}" if cpu.cores != cpu.machine_cores else ""
    line("processor", f"{cpu.name}, {cpu.cores} core{'s' * (cpu.cores != 1)}{whole}")
    lanes = (
        f"{cpu.register_bits}-bit registers ({cpu.register_bits // 32} float32)" if cpu.register_bits else ""
    )
    line("SIMD", ", ".join(part for part in (lanes, " ".join(cpu.simd)) if part) or "unknown")
    line("threads", f"{threads.used} of at most {threads.most}, threading layer {threads.layer}")
    if threads.advice:
        line("", threads.advice)
    gpu = why_not_available()
    if gpu is None:
        facts = the_gpu().facts()
        capability = ".".join(map(str, facts["compute_capability"]))
        line(
            "GPU",
            f"{facts['name']}, compute capability {capability}, {facts['multiprocessors']} multiprocessors",
        )
    else:
        line("GPU", f"none: {gpu}")
    if arguments.measure:
        measured(threads.used)
    line("kernel cache", f"{cache_directory()}: {size(cache_directory())}")
    if others := [path for path in cache_root().glob("kernels-*") if path != cache_directory()]:
        total = sum(info.directory_size(path)[0] for path in others)
        line(
            "",
            f"of other versions of the sources, not needed: {len(others)} beside it, {total / 2**20:.1f} MiB",
        )
    line("buffer pool", f"{memory.held_bytes():,} bytes held, {memory.MAX_HELD_BYTES:,} at most")
    for extra, missing in sorted(extras().items()):
        line(f"extra {extra}", "installed" if not missing else f"missing: {', '.join(missing)}")
    if not extras():
        line("extras", "unknown: nnkernels runs from its sources, without having been installed by pip")


def measured(threads: int) -> None:
    """Print what one thread and all of them reach."""
    counts = sorted({1, threads})
    on = " and ".join(str(n) for n in counts) + f" thread{'s' * (threads > 1)}"
    for name, dtype in (("FMA peak", "float32"), ("", "float64")):
        rates = " and ".join(f"{ceilings.fma_peak(n, dtype):.0f}" for n in counts)
        line(name, f"{rates} GFLOP/s {dtype} on {on}")
    rates = " and ".join(f"{ceilings.memory_bandwidth(n):.0f}" for n in counts)
    line("memory", f"{rates} GB/s, copied (read and written) on {on}")


def line(name: str, value: str) -> None:
    """Print one fact."""
    print(f"{name:<14}{value}")


def size(directory: Path) -> str:
    """Return the size of a directory in words."""
    if not directory.exists():
        return "empty, kernels are compiled when first called"
    total, files = info.directory_size(directory)
    return f"{total / 2**20:.1f} MiB in {files:,} files"


def extras() -> dict[str, list[str]]:
    """Return for each extra of this package the packages that are missing; {} when it is not installed."""
    try:
        requirements = metadata.requires("nnkernels") or []
    except metadata.PackageNotFoundError:
        return {}
    wanted: dict[str, list[str]] = {}
    for requirement in requirements:
        name = re.match(r"[\w.-]+", requirement)
        extra = re.search(r"""extra\s*==\s*['"]([\w-]+)['"]""", requirement)
        if name and extra:
            wanted.setdefault(extra[1], []).append(name[0])
    return {extra: [name for name in names if not installed(name)] for extra, names in wanted.items()}


def installed(package: str) -> bool:
    """Say whether pip knows the package."""
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
