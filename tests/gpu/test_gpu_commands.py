"""``nnkernels compare --body cuda``: in the simulator, and what it says where there is no GPU."""

import dataclasses
import re
from functools import partial

import numpy as np
import pytest

from nnkernels.__main__ import main
from nnkernels.commands import compare_cuda
from nnkernels.machine import gpu, gpu_simulator
from nnkernels.machine.gpu_array import empty_like
from nnkernels.machine.gpu_kernel import at, cuda, kernel
from nnkernels.machine.gpu_simulator import Simulator, simulate_gpu
from nnkernels.ops import OPS
from nnkernels.ops.op import Body, Sample

pytestmark = pytest.mark.sim


def refused(capsys, arguments, status, words):
    """Run the command, which must end with one line on stderr."""
    assert main(arguments.split()) == status
    printed = capsys.readouterr()
    assert printed.err.startswith("nnkernels: error: ")
    assert printed.err.count("\n") == 1
    assert words in printed.err
    return printed


@kernel
def copy_kernel(x, y):
    y[at(cuda.threadIdx.x)] = x[at(cuda.threadIdx.x + 1)]


def faulty_forward(x):
    y = empty_like(x)
    copy_kernel[1, x.size](x, y)
    return (y,)


@pytest.mark.parametrize("way", ["", "--backward"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_sample_in_the_simulator(capsys, way, dtype):
    assert main(f"compare relu --body cuda --simulate --dtype {dtype} {way}".split()) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = printed.out.splitlines()
    direction = "backward" if way else "forward"
    assert lines[0].endswith(f"{direction}, {dtype}, cuda bodies in the simulator, not on a GPU")
    assert lines[2].split() == ["error/ULP", "relative", "launches", "time"]
    samples = [s.label for s in OPS["relu"].samples(np.random.default_rng(0), dtype)]
    rows = lines[4 : 4 + len(samples)]
    assert [re.split(r"\s{2,}", row.strip())[0] for row in rows] == samples
    assert all(row.split()[-5:-3] == ["0", "0"] for row in rows)  # relu is exact
    empty = next(row for row in rows if "0" in row.split("(")[1].split(")")[0].split(", "))
    assert empty.split()[-3] == "0"  # launches
    assert "no GPU has run anything" in printed.out
    assert max(map(len, lines)) <= 110


def test_all_ops_have_a_row_or_no_cuda_body(capsys, monkeypatch):
    few = {name: OPS[name] for name in ("relu", "exp")} | {
        "tanh": dataclasses.replace(OPS["tanh"], cuda=None)
    }
    monkeypatch.setattr("nnkernels.commands.compare.OPS", few)
    assert main(["compare", "--all", "--body", "cuda", "--simulate"]) == 0
    out = capsys.readouterr().out
    assert "\nrelu\n" in out
    assert "\nexp\n" in out
    assert "tanh" not in out
    refused(capsys, "compare tanh --body cuda --simulate", 2, "argument --body: tanh has no cuda body")


def test_a_fault_that_the_simulator_finds_is_one_line(capsys, monkeypatch):
    op = dataclasses.replace(OPS["relu"], cuda=Body(faulty_forward))
    monkeypatch.setattr("nnkernels.commands.compare.OPS", {"relu": op})
    said = refused(capsys, "compare relu --body cuda --simulate", 1, "index 1 is outside of the array x")
    assert "relu on shape (): " in said.err


def test_a_shape_that_would_take_minutes_is_refused(capsys, monkeypatch):
    large = [Sample("large", (np.ones(1 << 20, np.float32),))]
    op = dataclasses.replace(OPS["relu"], samples=lambda rng, dtype: iter(large))
    monkeypatch.setattr("nnkernels.commands.compare.OPS", {"relu": op})
    monkeypatch.setattr(compare_cuda, "simulate_gpu", partial(simulate_gpu, most_seconds=0.5))
    refused(capsys, "compare relu --body cuda --simulate", 1, "s or more; use smaller arrays")


def test_wrong_arguments(capsys, monkeypatch):
    refused(capsys, "compare relu --simulate", 2, "argument --simulate: only with --body cuda")
    refused(
        capsys, "compare relu --body cuda --simulate --plot x.png", 2, "argument --plot: not with --body cuda"
    )
    refused(capsys, "compare rellu --body cuda --simulate", 2, "did you mean relu")
    refused(capsys, "compare adam_step --body cuda --simulate --backward", 2, "adam_step has no gradients")
    with pytest.raises(SystemExit, match="2"):
        main(["compare", "relu", "--body", "loops"])
    capsys.readouterr()
    monkeypatch.setattr(gpu_simulator, "greenlet", None)
    refused(capsys, "compare relu --body cuda --simulate", 1, 'pip install "nnkernels[simulator]"')


def test_without_a_gpu_it_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setattr(
        compare_cuda, "why_not_available", lambda: "no usable GPU: the CUDA driver found none"
    )
    words = "argument --body: cuda: no usable GPU: the CUDA driver found none; --simulate needs none"
    assert refused(capsys, "compare relu --body cuda", 1, words).out == ""


def test_the_table_of_times_on_a_stand_in_for_a_gpu(capsys, monkeypatch):
    """The control flow alone: the stand-in is the simulator."""
    op = OPS["relu"]
    small = dataclasses.replace(op, bench_samples=op.samples)
    monkeypatch.setattr("nnkernels.commands.compare.OPS", {"relu": small})
    monkeypatch.setattr(compare_cuda, "why_not_available", lambda: None)
    stand_in = Simulator(("forward",))
    stand_in.facts = lambda: {"name": "stand-in"}
    monkeypatch.setattr(compare_cuda, "the_gpu", lambda: stand_in)
    monkeypatch.setattr(gpu, "the_gpu", lambda: stand_in)
    assert main(["compare", "relu", "--body", "cuda"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("forward, float32, stand-in")
    assert [line.split()[0] for line in lines[4:7]] == ["loops", "tuned", "cuda"]
    assert lines[4].split()[-1] == "1x"
    assert max(map(len, lines)) <= 110
