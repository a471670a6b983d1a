"""Our ops and training steps beside PyTorch's: one command, the same arrays, the same number of threads.

    pip install torch==2.13.0
    python benchmarks/peers.py [--quick] [--only PATTERN] [--seconds S] [--threads 1 2] [--out DIR]

In every row, ``tuned`` and PyTorch's call take turns in one process, after their results were compared. There
are two such processes: PyTorch as a user gets it, and with glibc's malloc told to keep large blocks, which
spares PyTorch the page faults of every large output (ours come from a pool). ``loops`` and ``vectorized`` are
timed in processes of their own.

A full run takes about a quarter of an hour and writes benchmarks/results/peers.json and the pictures
docs/roofline.png and docs/peers.png. With --quick or --only, files are written only where --out says.
"""

import argparse
import datetime
import fnmatch
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import peers_plot
import peers_table
from peers_every import every_row

import nnkernels
from nnkernels import io
from nnkernels.machine import ceilings, info

HERE = Path(__file__).parent
SECONDS, QUICK_SECONDS = 0.7, 0.06  # of a comparison: one row, one number of threads, one setting
KEEP = str(4 * 2**30)  # bytes: malloc neither maps blocks up to this one by one nor gives them back
SETTINGS = {
    "as_installed": {},
    "allocation_tuned": {"MALLOC_MMAP_THRESHOLD_": KEEP, "MALLOC_TRIM_THRESHOLD_": KEEP},
}


def chosen_rows(quick: bool, pattern: str | None) -> list[Any]:
    """Return the rows asked for; a pattern without * may stand anywhere in a row's name."""
    rows = [r for r in every_row() if r.quick or not quick]
    if pattern is None:
        return rows
    if "*" not in pattern:
        pattern = f"*{pattern}*"
    return [r for r in rows if fnmatch.fnmatch(r.name, pattern)]


def child(request: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run one process of measurements; one that fails ends this one, too."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / name for name in ("request.json", "result.json")]
        paths[0].write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, str(HERE / "peers_child.py"), *map(str, paths)]
        # A variable like OPENBLAS_CORETYPE=Haswell would hold NumPy to AVX2.
        unwanted = ("MALLOC_", "OPENBLAS_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        if subprocess.run(command, env={**inherited, **environment}).returncode:
            raise SystemExit(f"peers: {request['title']} failed")
        return json.loads(paths[1].read_text(encoding="utf-8"))


def measured(rows: list[Any], threads: list[int], seconds: float) -> dict[str, Any]:
    """Return everything that goes into the JSON file."""
    start, before = datetime.datetime.now(), others_seconds()
    names = [row.name for row in rows]
    limits = [rates(threads)]
    alone = {n: timed_alone(names, n, n == threads[0], seconds) for n in threads}
    beside = {}
    for setting, environment in SETTINGS.items():
        request = {"kind": "against torch", "title": setting, "rows": names, "threads": threads}
        beside[setting] = child({**request, "seconds": seconds}, environment)
        limits.append(rates(threads))  # once more: a ceiling is the best that was ever seen
    best = {str(n): {key: max(limit[n][key] for limit in limits) for key in limits[0][n]} for n in threads}
    table = [joined(row, n, alone, beside, best[str(n)]) for n in threads for row in rows]
    versions = {"nnkernels": nnkernels.__version__, "torch": beside["as_installed"]["torch"]}
    run_seconds = (datetime.datetime.now() - start).total_seconds()
    return {
        "machine": machine(),
        "versions": {**versions, **info.versions()},
        "date": f"{start:%Y-%m-%d}",
        "run_seconds": round(run_seconds),
        "cores_others_used": None if before is None else (others_seconds() - before) / run_seconds,
        "dtype": "float32",
        "threads": threads,
        "seconds_per_comparison": seconds,
        "settings": {
            name: {"environment": environment, "page_faults_of_64_MiB": beside[name]["page_faults"]}
            for name, environment in SETTINGS.items()
        },
        "ceilings": best,
        "geometric_means": peers_table.means(table, threads),
        "below_one": peers_table.below_one(table),
        "rows": table,
    }


def timed_alone(names: list[str], threads: int, loops: bool, seconds: float) -> dict[str, Any]:
    """Return work and times of ``vectorized``, and of ``loops``, which has one thread in any case."""
    bodies = ["loops", "vectorized"] if loops else ["vectorized"]
    request = {"kind": "alone", "title": f"{', '.join(bodies)} on {threads}", "rows": names, "bodies": bodies}
    return child({**request, "seconds": seconds}, {"OPENBLAS_NUM_THREADS": str(threads)})["rows"]


def others_seconds() -> float | None:
    """Return the processor time that all other programs have had so far; None where /proc does not say."""
    if not Path("/proc/stat").exists():
        return None
    user, nice, system, _, _, interrupts, soft, stolen = map(
        int, Path("/proc/stat").read_text(encoding="utf-8").split(maxsplit=9)[1:9]
    )
    total = (user + nice + system + interrupts + soft + stolen) / os.sysconf("SC_CLK_TCK")
    return total - sum(os.times()[:4])  # ours and our children's


def rates(threads: list[int]) -> dict[int, dict[str, float]]:
    """Return the machine's ceilings for each number of threads."""
    return {
        n: {"fma_gflops": ceilings.fma_peak(n), "memory_gbytes": ceilings.memory_bandwidth(n)}
        for n in threads
    }  # fmt: skip


def machine() -> dict[str, Any]:
    """Return what the processor is called, by its maker and by LLVM, and its cores."""
    cpu = info.processor()
    name = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        lines = [line for line in facts.read_text(encoding="utf-8").splitlines() if "model name" in line]
        name = lines[0].partition(":")[2].strip() if lines else name
    return {"processor": name, "llvm": cpu.name, "cores": cpu.cores, "register_bits": cpu.register_bits}


def joined(
    row: Any, threads: int, alone: dict[int, Any], beside: dict[str, Any], limits: dict[str, float]
) -> dict[str, Any]:
    """Return one row of the JSON file, for one number of threads."""
    bodies = {"loops": None, **alone[min(alone)][row.name], **alone[threads][row.name]}
    settings = {name: result["rows"][row.name][str(threads)] for name, result in beside.items()}
    seconds = settings["as_installed"]["ours"]["median"]
    return {
        "op": row.op, "family": row.family, "label": row.label, "way": row.way, "threads": threads, **bodies,
        **settings, **peers_table.bound(bodies["flops"], bodies["bytes"], seconds, limits),
    }  # fmt: skip


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few rows, short: under a minute")
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name holds it; * stands for anything")
    parser.add_argument(
        "--seconds", type=float, metavar="S", help=f"for each comparison (default: {SECONDS}; "
        f"with --quick {QUICK_SECONDS})",
    )  # fmt: skip
    most = info.threads().most
    parser.add_argument(
        "--threads", type=int, nargs="+", metavar="N", choices=range(1, most + 1),
        default=sorted({1, min(2, most)}), help="numbers of threads, for both (default: 1 2)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, metavar="DIR", help="where JSON and pictures go")
    return parser


def main() -> None:
    """Measure, print, write."""
    parser = build_parser()
    arguments = parser.parse_args()
    if find_spec("torch") is None:
        parser.error("PyTorch is not installed: pip install torch==2.13.0")
    rows = chosen_rows(arguments.quick, arguments.only)
    if not rows:
        parser.error(f"argument --only: no row's name holds {arguments.only!r}")
    seconds = arguments.seconds or (QUICK_SECONDS if arguments.quick else SECONDS)
    results = measured(rows, sorted(set(arguments.threads)), seconds)
    print(peers_table.text(results))
    out = arguments.out
    if out is None and (arguments.quick or arguments.only):
        return
    for path in (out or HERE / "results", out or HERE.parent / "docs"):
        path.mkdir(parents=True, exist_ok=True)
    io.write_json((out or HERE / "results") / "peers.json", results)
    for path in peers_plot.draw(results, out or HERE.parent / "docs"):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
