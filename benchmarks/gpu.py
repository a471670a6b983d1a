"""Our GPU kernels beside cuBLAS, cuDNN and PyTorch's own: products, convolutions, rows, Adam, training.

    pip install "nnkernels[cuda]" torch
    python benchmarks/gpu.py [--only PATTERN] [--seconds S] [--out DIR] [--simulate]

In every row, ours and PyTorch's calls take turns between events on the GPU, in float32 and, where tensor
cores can multiply, with TF32. Percentages are of what this GPU was measured to do: multiply-adds in registers
(float32), or a copy. Results are compared first; a row that fails or differs is reported, and the exit status
is 1. Where time runs out, the rows that are left are listed as not measured.

Without a GPU nothing is measured; without PyTorch there are our numbers alone. Writes
benchmarks/results/gpu.json; with --only or --simulate, only where --out says. With --simulate, tiny arrays go
through the simulator: that tries the program out and measures nothing.
"""

import argparse
import datetime
import fnmatch
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gpu_rows
import numpy as np

import nnkernels
from nnkernels import io
from nnkernels.machine import info
from nnkernels.machine.gpu import the_gpu, why_not_available
from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_simulator import simulate_gpu

RESULTS = Path(__file__).parent / "results"
SECONDS = 200.0  # of the whole run: with the GPU lane of the tests it fits into eight minutes
ROW_SECONDS = 0.8  # of a row's turns, compilation excluded
LEAST, MOST = 3, 25  # turns of each call
BLOCK = 2e-3  # seconds: short calls are timed in blocks of about this length
MOST_DIFFERENT = 1e-3  # of the largest element, ours from PyTorch's in float32
HEAD = (
    f"{'':<40}{'ours':>9}{'':>15}{'peak':>6}{'torch':>9}{'ratio':>7}{'TF32':>9}{'torch':>9}{'ratio':>6}\n"
    f"{'':<40}{'ms':>9}{'':>15}{'':>6}{'ms':>9}{'':>7}{'ms':>9}{'ms':>9}"
)


class Contender:
    """A call, how it is timed, and the setting under which it runs."""

    def __init__(self, call: Callable[[], Any], timed: Any, setting: Any) -> None:
        self.call, self.timed, self.setting = call, timed, setting
        self.repeats, self.seconds = 1, []

    def block(self) -> None:
        for _ in range(self.repeats):
            self.call()

    def first(self, read: Callable[[Any], list[np.ndarray]]) -> list[np.ndarray]:
        """Call once and read the result; then decide how many calls are one turn."""
        with self.setting():
            result = read(self.call())  # before the next call, which may overwrite it
            once = self.timed(self.call)
        self.repeats = max(1, int(BLOCK / max(once, 1e-9)))
        return result

    def turn(self) -> None:
        with self.setting():
            self.seconds.append(self.timed(self.block) / self.repeats)


def contenders_of(case: Any, device: Any, torch: Any) -> dict[str, Contender]:
    """Return all calls for a row, ours first."""
    settings = {"": False} | ({" TF32": True} if case.tf32 else {})
    found = {}
    ours = case.ours()
    for suffix, tf32 in settings.items():
        found[f"ours{suffix}"] = Contender(ours, device.timed, lambda tf32=tf32: gpu_rows.precision(tf32))
    for name, call in torch.calls(case).items() if torch is not None else ():
        for suffix, tf32 in settings.items():
            setting = lambda tf32=tf32: torch.precision(tf32)  # noqa: E731
            found[f"{name}{suffix}"] = Contender(call, torch.timed, setting)
    return found


def measured(case: Any, device: Any, torch: Any) -> dict[str, Any]:
    """Compare, then time in turns; return the facts of a row."""
    contenders = contenders_of(case, device, torch)
    results = {}
    for name, contender in contenders.items():
        results[name] = contender.first(on_host if name.startswith("ours") else torch.results)
    facts: dict[str, Any] = {}
    if "torch" in results:
        facts["difference"] = difference(results["ours"], results["torch"])
    start, turns = time.perf_counter(), 0
    while turns < LEAST or (turns < MOST and time.perf_counter() - start < ROW_SECONDS):
        for contender in contenders.values():
            device.synchronize()
            contender.turn()
        turns += 1
    facts["flops"], facts["bytes"] = case.work()
    return facts | {
        "turns": turns,
        "seconds": {n: statistics.median(c.seconds) for n, c in contenders.items()},
    }


def on_host(result: Any) -> list[np.ndarray]:
    """Return what our call gave, in host memory."""
    found = result if isinstance(result, tuple) else (result,)
    return [a.numpy() if isinstance(a, GpuArray) else np.asarray(a) for a in found if a is not None]


def difference(ours: list[np.ndarray], theirs: list[np.ndarray]) -> float:
    """Return the largest difference, relative to the largest element of its array; inf where NaN."""
    worst = 0.0
    for a, b in zip(ours, theirs, strict=True):
        if a.shape != b.shape:
            raise ValueError(f"ours has shape {a.shape}, PyTorch's {b.shape}")
        error = np.abs(a.astype(np.float64) - b).max(initial=0.0) / max(
            float(np.abs(b).max(initial=0.0)), 1e-30
        )
        worst = max(worst, float(error)) if np.isfinite(error) else np.inf
    return worst


# --- the run ---


def cases(simulate: bool, pattern: str | None) -> list[tuple[str, Any, Any]]:
    """Return (name, row, kind of case) of what is asked for."""
    ops = gpu_rows.tiny_rows() if simulate else gpu_rows.op_rows()
    trainings = gpu_rows.TINY if simulate else gpu_rows.TRAININGS
    found = [(row.name, row, gpu_rows.OpCase) for row in ops]
    steps = [(f"{t.name} batch {t.batch} step", t, gpu_rows.TrainingCase) for t in trainings]
    after = next((i for i, (_, row, _) in enumerate(found) if row.op == "conv2d"), len(found))
    found[after:after] = steps  # before the many convolutions
    if pattern is None:
        return found
    return [case for case in found if fnmatch.fnmatch(case[0], f"*{pattern}*")]


def run(
    chosen: list[tuple[str, Any, Any]], device: Any, torch: Any, seconds: float, peaks: dict[str, float]
) -> Any:
    """Measure row after row and print each; return all."""
    start, rows = time.perf_counter(), []
    for name, row, kind in chosen:
        begun = time.perf_counter()
        if begun - start > seconds:
            rows.append({"name": name, "not_measured": "out of time"})
            print(f"{name:<40}  not measured: out of time")
            continue
        try:
            facts = measured(kind(row, device), device, torch)
        except Exception as error:  # the other rows are worth having
            facts = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
        facts |= {"name": name, "whole_seconds": time.perf_counter() - begun}
        rows.append(facts)
        print(line(facts, peaks), flush=True)
    return rows


def line(facts: dict[str, Any], peaks: dict[str, float]) -> str:
    """Return a row of the table."""
    if "failed" in facts:
        return f"{facts['name']:<40}  FAILED: {facts['failed']}"
    seconds = facts["seconds"]
    rate, of_peak = rate_of(facts, seconds["ours"], peaks)
    theirs = min((seconds[n] for n in ("torch", "torch fused") if n in seconds), default=None)
    ours = seconds["ours"]
    columns = f"{milliseconds(ours)}{rate:>15}{of_peak:>6}{milliseconds(theirs)}{ratio(theirs, ours):>7}"
    if "ours TF32" in seconds:
        ours, theirs = seconds["ours TF32"], seconds.get("torch TF32")
        columns += f"{milliseconds(ours)}{milliseconds(theirs)}{ratio(theirs, ours):>6}"
    wrong = facts.get("difference", 0.0) > MOST_DIFFERENT
    return f"{facts['name']:<40}{columns}" + (f"  DIFFERS by {facts['difference']:.1e}" if wrong else "")


def short(value: float) -> str:
    """Return three digits, or all before the point."""
    return f"{value:.0f}" if value >= 99.5 else f"{value:.3g}" if value >= 1e-3 else f"{value:.0e}"


def rate_of(facts: dict[str, Any], seconds: float, peaks: dict[str, float]) -> tuple[str, str]:
    """Return the rate of the resource that bounds a row from below, and its share of the peak."""
    needs = {"TFLOP/s": facts["flops"] / peaks["flops"], "GB/s": facts["bytes"] / peaks["bytes"]}
    unit = max(needs, key=needs.get)
    amount = facts["flops"] / 1e12 if unit == "TFLOP/s" else facts["bytes"] / 1e9
    return f"{short(amount / seconds)} {unit}", f"{needs[unit] / seconds:.0%}"


def milliseconds(seconds: float | None) -> str:
    """Return a column of the table."""
    return f"{'-' if seconds is None else short(seconds * 1e3):>9}"


def ratio(theirs: float | None, ours: float) -> str:
    """Return how many times faster ours is."""
    return "-" if theirs is None else f"{theirs / ours:.2f}"


def torch_side() -> tuple[Any, str]:
    """Return the module of PyTorch's calls, or None and why."""
    if find_spec("torch") is None:
        return None, "PyTorch is not installed: our numbers alone"
    import torch

    if not torch.cuda.is_available():
        return None, f"PyTorch {torch.__version__} has no GPU: our numbers alone"
    import gpu_torch

    return gpu_torch, ""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="PATTERN", help="rows whose name holds this")
    parser.add_argument("--seconds", type=float, metavar="S", default=SECONDS, help="(default: %(default)s)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where gpu.json goes")
    parser.add_argument(
        "--simulate", action="store_true", help="tiny arrays in the simulator: measures nothing"
    )
    arguments = parser.parse_args()
    chosen = cases(arguments.simulate, arguments.only)
    if not chosen:
        parser.error(f"argument --only: no row's name holds {arguments.only!r}")
    reason = None if arguments.simulate else why_not_available()
    if reason is not None:
        print(f"nothing is measured: {reason}")
        return 0
    with simulate_gpu(("forward",)) if arguments.simulate else nullcontext(None) as simulator:
        results = measure_all(chosen, simulator, arguments.seconds)
    if arguments.out is not None or not (arguments.only or arguments.simulate):
        directory = arguments.out or RESULTS
        directory.mkdir(parents=True, exist_ok=True)
        io.write_json(directory / "gpu.json", results)
        print(f"wrote {directory / 'gpu.json'}")
    bad = [row for row in results["rows"] if "failed" in row or row.get("difference", 0.0) > MOST_DIFFERENT]
    if bad:
        print(f"{len(bad)} of {len(results['rows'])} rows failed or differ")
    return 1 if bad else 0


def measure_all(chosen: list[tuple[str, Any, Any]], simulator: Any, seconds: float) -> dict[str, Any]:
    """Return everything that goes into the JSON file."""
    device = simulator or the_gpu()
    torch, why_no_torch = (None, "") if simulator else torch_side()
    facts = {"name": simulator.name} if simulator else device.facts()
    print(f"nnkernels {nnkernels.__version__} on {facts['name']}")
    print("SIMULATED: no GPU has run anything, the times are those of Python" if simulator else why_no_torch)
    tiny = simulator is not None
    peaks = {
        "flops": gpu_rows.fma_peak(device, *((2, 3) if tiny else (4096, 4096))),
        "bytes": gpu_rows.copy_bandwidth(device, 1000 if tiny else 2**28),
    }
    rates = f"{short(peaks['flops'] / 1e12)} TFLOP/s float32; copy: {peaks['bytes'] / 1e9:.4g} GB/s"
    print(f"multiply-adds: {rates}\n")
    print(HEAD, flush=True)
    rows = run(chosen, device, torch, seconds, peaks)
    versions = {"nnkernels": nnkernels.__version__, **info.versions()}
    return {
        "simulated": tiny,
        "gpu": facts,
        "versions": versions | (torch.prepare() if torch is not None else {}),
        "date": f"{datetime.datetime.now():%Y-%m-%d}",
        "dtype": "float32",
        "peaks": {"fma_flops_per_second": peaks["flops"], "copy_bytes_per_second": peaks["bytes"]},
        "rows": rows,
    }


if __name__ == "__main__":
    sys.exit(main())
