"""``nnkernels compare OP --body cuda``: an op's body for GPUs against ``loops``, on a GPU or simulated."""

import textwrap
import time
from typing import Any, NamedTuple

import numpy as np

import nnkernels
from nnkernels.commands import CommandError
from nnkernels.commands.measure import (
    Measurement,
    caller,
    gpu_seconds,
    interleaved,
    largest_error,
    results,
)
from nnkernels.commands.table import ERRORS, HEAD, duration, in_columns, number
from nnkernels.machine.gpu import the_gpu, why_not_available
from nnkernels.machine.gpu_simulator import ORDERS, SimulationError, simulate_gpu
from nnkernels.ops import Op
from nnkernels.ops.op import Sample

SIMULATED_HEAD = f"{'':<48}{'error/ULP':>11}{'relative':>11}{'launches':>10}{'time':>13}"
SIMULATED_NOTES = f"""\
no GPU has run anything: each kernel ran in the simulator, {len(ORDERS)} times, its threads in different
  orders, and no race, no index out of range and no barrier that a thread misses was found
{ERRORS}
launches: kernels started, for gradients those of the forward pass, too
time: of the simulation; it says nothing about a GPU"""
GPU_NOTES = f"""\
{ERRORS}
time: cuda's between events on the GPU, launches included, copies to and from it excluded; the others' on the
  processor; medians, compilation excluded; speed-up: over `loops`"""


# --- in the simulator ---


class Simulated(NamedTuple):
    """An op's cuda body on one sample in the simulator, against ``loops``."""

    sample: Sample
    ulp: float
    relative: float
    launches: int
    seconds: float


def run_simulated(ops: list[Op], dtype: Any, backward: bool) -> None:
    """Print a block of rows per op, one for each of its small samples."""
    direction = "backward" if backward else "forward"
    try:
        with simulate_gpu():
            pass
    except ImportError as error:
        raise CommandError(f"argument --simulate: {error}", status=1) from error
    title = f"{direction}, {dtype}, cuda bodies in the simulator, not on a GPU"
    print(f"nnkernels {nnkernels.__version__}: {title}\n\n{SIMULATED_HEAD}", flush=True)
    for op in ops:
        print(op.name, flush=True)
        for sample in op.samples(np.random.default_rng(0), dtype):
            print(in_simulated_columns(simulated(op, sample, backward)), flush=True)
        print(flush=True)
    print(SIMULATED_NOTES)


def simulated(op: Op, sample: Sample, backward: bool) -> Simulated:
    """Run the cuda body in the simulator; what it finds or refuses to run ends the command with status 1."""
    assert op.cuda is not None
    try:
        with simulate_gpu() as simulator:
            start = time.perf_counter()
            got = results(op, op.cuda, sample, backward, on_gpu=True)
            seconds = time.perf_counter() - start
    except (SimulationError, ValueError) as error:
        raise CommandError(f"{op.name} on {sample.label}: {error}", status=1) from error
    wanted = results(op, op.loops, sample, backward)
    return Simulated(sample, *largest_error(got, wanted), simulator.launches, seconds)


def in_simulated_columns(row: Simulated) -> str:
    """Return one line of the table."""
    label = textwrap.shorten(row.sample.label, 45, placeholder=" ...")
    return (
        f"  {label:<46}{number(row.ulp):>11}{number(row.relative):>11}{row.launches:>10}"
        f"{duration(row.seconds):>13}"
    )


# --- on a GPU ---


def run_on_gpu(ops: list[Op], dtype: Any, backward: bool) -> None:
    """Print rows for loops, tuned and cuda, on the sample that compare takes for the other bodies."""
    reason = why_not_available()
    if reason is not None:
        raise CommandError(f"argument --body: cuda: {reason}; --simulate needs none", status=1)
    direction = "backward" if backward else "forward"
    gpu = the_gpu().facts()["name"]
    print(f"nnkernels {nnkernels.__version__}: {direction}, {dtype}, {gpu}\n\n{HEAD}", flush=True)
    for op in ops:
        rows = measure_on_gpu(op, dtype, backward)
        print(textwrap.shorten(f"{op.name}  {rows[-1].sample.label}", 108, placeholder=" ..."))
        print("\n".join(map(in_columns, rows)) + "\n", flush=True)
    print(GPU_NOTES)


def measure_on_gpu(op: Op, dtype: Any, backward: bool) -> list[Measurement]:
    """Return the measurements of loops, tuned and cuda."""
    assert op.cuda is not None
    sample = next(op.bench_samples(np.random.default_rng(0), dtype))
    bodies = {"loops": op.loops, "tuned": op.tuned, "cuda": op.cuda}
    calls = {name: caller(op, body, sample, backward, name == "cuda") for name, body in bodies.items()}
    seconds = {"cuda": gpu_seconds(calls.pop("cuda")), **interleaved(calls)}
    wanted = results(op, op.loops, sample, backward)
    flops = 0 if backward else op.flops(*sample.arrays, **sample.attributes)
    rows = []
    for name, body in bodies.items():
        ulp, relative = largest_error(results(op, body, sample, backward, name == "cuda"), wanted)
        gflops = flops / seconds[name] / 1e9 if flops else None
        speedup = seconds["loops"] / seconds[name]
        rows.append(Measurement(op.name, name, sample, ulp, relative, seconds[name], gflops, speedup, False))
    return rows
