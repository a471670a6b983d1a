"""Ranks under a real mpiexec do what one process does, end together, and share the cores."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import types
from itertools import chain
from pathlib import Path

import numpy as np
import on_ranks
import pytest
from on_ranks import CASES

from nnkernels import nn, optim, parallel
from nnkernels.data import Batches
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.parallel import Ranks, Shard, start

SCRIPT = Path(on_ranks.__file__)
# Beside the interpreter, where wheels of MPI put it; else the system's.
MPIEXEC = shutil.which("mpiexec", path=Path(sys.executable).parent) or shutil.which("mpiexec")
EXACT = 1e-13  # relative, float64: sums of up to 64 numbers in another order, over 100 steps; found: 2e-16
WANTED = 1e-6  # relative, float32; found: 7e-8
SECONDS = 10  # within which a job must end once a rank has failed


def why_no_mpi():
    if MPIEXEC is None:
        return "no mpiexec: pip install mpich"
    tried = subprocess.run(
        [sys.executable, "-c", "from mpi4py import MPI"], capture_output=True, text=True, check=False
    )
    return tried.stderr.strip().rpartition("\n")[2] if tried.returncode else None


NO_MPI = why_no_mpi()
needs_mpi = pytest.mark.skipif(NO_MPI is not None, reason=str(NO_MPI))


def launch(ranks, *arguments, runner=True, limit=300):
    """Run on_ranks.py on so many ranks; return the finished process."""
    python = [sys.executable, *(["-m", "mpi4py"] if runner else [])]
    command = [MPIEXEC, "-n", str(ranks), *python, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit)


def answers_of(ranks, out, *arguments):
    job = launch(ranks, *arguments, "--out", out)
    assert job.returncode == 0, job.stderr
    return json.loads(out.read_text()), job.stderr


# --- equality with one process ---


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory with the weights of all cases, trained by as many ranks as each wants."""
    directory = tmp_path_factory.mktemp("trained")
    for size in sorted({case.ranks for case in CASES.values()}):
        names = [name for name, case in CASES.items() if case.ranks == size]
        answers_of(size, directory / f"{size}", *names)
    return directory


def flat(weights):
    return np.concatenate([weights[name].ravel() for name in sorted(weights)])


@needs_mpi
@pytest.mark.parametrize("name", CASES)
def test_ranks_take_the_steps_of_one_process(trained, name):
    case = CASES[name]
    together = flat(np.load(trained / f"{case.ranks}.{name}.npz"))
    alone = flat(on_ranks.train_alone(case))
    first = flat(on_ranks.parts(case)[0].state_dict())
    assert together.dtype == alone.dtype == case.dtype
    difference = np.linalg.norm(together - alone) / np.linalg.norm(alone)
    moved = np.linalg.norm(alone - first) / np.linalg.norm(first)
    print(f"{name}: weights differ by {difference:.1e}, training moved them by {moved:.1e}")
    assert moved > 0.05
    assert difference <= (EXACT if case.dtype == np.float64 else WANTED)


# --- what ranks say to each other ---


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What two ranks answer to every check, and what they write on stderr."""
    return answers_of(2, tmp_path_factory.mktemp("answers") / "out", *on_ranks.CHECKS)


@needs_mpi
def test_ranks_talk(answers):
    first, second = answers[0]["talk"]
    assert first["sum"] == second["sum"] == [2, 1]
    assert first["any"] == second["any"] == [True, False]
    assert first["broadcast"] == second["broadcast"] == {"rank": 0, "large": 2**100}
    assert first["broadcast_into"] == second["broadcast_into"] == [0, 0, 0]
    assert (first["gather"], second["gather"]) == (["", "x"], None)
    assert (first["scatter"], second["scatter"]) == ({"for": 0}, {"for": 1})
    assert (
        first["too few"]
        == second["too few"]
        == "scatter: rank 0 must give one value for each of 2 ranks, got 1"
    )
    assert first["again"]
    assert (first["rank"], second["rank"]) == ([0, 2], [1, 2])


@needs_mpi
def test_ranks_share_the_cores(answers, tmp_path):
    cores = len(os.sched_getaffinity(0))
    assert [a["threads"] for a in answers[0]["talk"]] == [max(1, cores // 2)] * 2
    alone, _ = answers_of(1, tmp_path / "one", "talk")
    assert alone["talk"][0]["threads"] == cores
    chosen, _ = answers_of(1, tmp_path / "chosen", "talk", "--threads", 1)
    assert chosen["talk"][0]["threads"] == 1


@needs_mpi
def test_the_log_of_the_others_begins_at_warnings(answers):
    assert answers[0]["logs"] == [["rank 0: epoch 1", "rank 0: slow"], ["rank 1: slow"]]


@needs_mpi
def test_every_rank_begins_with_the_model_of_rank_0(answers):
    model = nn.Linear(3, 4, rng=10)
    for answer in answers[0]["broadcasts"]:
        np.testing.assert_array_equal(np.float32(answer["weight"]), model.weight.data)
        assert answer["mean"] == [10] * 4  # a buffer
        assert answer["version"]  # the tape knows of the change


@needs_mpi
def test_ranks_that_differ_are_told_where(answers):
    first, second = (answer["faults"] for answer in answers[0]["broadcasts"])
    assert first == second
    assert first == [
        "broadcast_parameters: rank 1 has weight float32 (5, 3) where rank 0 has weight float32 (4, 3)",
        "broadcast_parameters: rank 1 has nothing more where rank 0 has bias float32 (4,)",
        "broadcast_parameters: rank 1 has 1.weight float32 (2, 2) where rank 0 has nothing more",
        "DistributedOptimizer: rank 1 has parameter 0 float32 (5, 3) where rank 0 has "
        "parameter 0 float32 (4, 3)",
        "shard: rank 1 has arrays of float64 (11, 2) where rank 0 has arrays of float64 (10, 2)",
        "shard: 2 ranks with batches of 2 need 4 examples with drop_last, got 3",
    ]  # fmt: skip


@needs_mpi
def test_gradients_that_not_every_rank_has(answers):
    for answer in answers[0]["missing"]:
        # Of both ranks, (3 x 1 + 1 x 2) / 4, in either dtype; of rank 0 alone, 3 x 1 / 4; of none; shared.
        assert answer["grads"] == [[1.25] * 2, [1.25] * 2, [0.75] * 2, None, [1, 1], [1, 1]]
        assert answer["data"] == [[-0.25] * 2, [-0.25] * 2, [0.25] * 2, [1, 1], [0, 0], [0, 0]]
        assert answer["dtypes"] == ["float32", "float64", "float32"]
        assert answer["buffers"] == 2


@needs_mpi
def test_a_gradient_is_no_view_of_the_next_ones(answers):
    assert answers[0]["kept"] == [[[0.5] * 2, [2.5] * 2]] * 2


@needs_mpi
def test_nan_on_one_rank_reaches_all(answers):
    assert answers[0]["nan"] == [[True, True], [True, True]]


@needs_mpi
def test_schedules_and_state_are_the_inner_optimizers(answers):
    for answer in answers[0]["schedules"]:
        assert answer["step"] == 1
        for inner, outer, weight in answer["rates"]:
            assert inner == outer == 0.01
            assert weight == np.float32(0.98)


# --- ranks that fail ---


@needs_mpi
@pytest.mark.parametrize(
    ("kind", "runner"), [("raise", True), ("raise", False), ("exit", True), ("kill", True)]
)
def test_a_failing_rank_ends_the_job_and_is_named(tmp_path, kind, runner):
    out = tmp_path / "fault"
    job = launch(2, "--fault", kind, "--out", out, runner=runner, limit=60)
    fault = json.loads(out.read_text())
    took = time.time() - fault["time"]
    print(f"{kind}: the job ended {took:.1f} s after the fault, with {job.returncode}")
    assert took < SECONDS
    assert job.returncode != 0
    if kind == "raise":
        named = "rank 1 of 2 has failed and ends all:\nTraceback"
        assert named in job.stderr
        assert "ArithmeticError: planted" in job.stderr
    elif (
        kind == "kill"
    ):  # MPICH names the process, and init has said which rank that is; Open MPI names the rank
        said = re.search(r"nnkernels: rank 1 of 2 is process (\d+) on \S+, \d+ thread", job.stderr)
        assert said
        assert said[1] == str(fault["pid"])
        assert re.search(rf"PID\s+{said[1]}\b", job.stdout + job.stderr)


# --- pinning ---


@needs_mpi
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system pins nothing")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core cannot be unfair")
def test_pinning_is_noticed(answers, tmp_path):
    assert "too few cores" not in answers[1]
    _, told = answers_of(2, tmp_path / "one", "talk", "--pin", 1)
    assert told.count("too few cores for rank 1: pinned to 0.5 of") == 1
    assert "--bind-to none (Open MPI) or -bind-to none (MPICH)" in told
    _, told = answers_of(2, tmp_path / "both", "talk", "--pin", 0, 1)
    assert told.count("too few cores for rank 0, 1: pinned to 0.5 of") == 1


class Machine(Ranks):
    """Ranks of one machine with given masks; this is the first."""

    def __init__(self, masks):
        self.masks = masks

    def gather(self, value):
        return [[i, list(mask)] for i, mask in enumerate(self.masks)]


@pytest.mark.parametrize(
    ("machine", "masks", "given"),
    [
        (8, [range(8)], [8]),
        (8, [range(8)] * 2, [4, 4]),
        (8, [[0], [1]], [1, 1]),
        (8, [[0], [0]], [0.5, 0.5]),
        (2, [range(2)] * 3, [2 / 3] * 3),
        (4, [range(4), [0]], [3.5, 0.5]),
    ],
)
def test_cores_are_counted(monkeypatch, machine, masks, given):
    monkeypatch.setattr(start, "most_cores", lambda: machine)
    cores = start.count_cores(0, Machine(masks))
    assert cores.machine == machine
    assert list(cores.given.values()) == pytest.approx(given)
    assert cores.share == machine / len(masks)


# --- one process, without MPI ---


def rows_of(examples, batch, size, drop_last=False):
    """Return for each rank its list of batches, of indices."""
    found = []
    for rank in range(size):
        ranks = Ranks()
        ranks.rank, ranks.size = rank, size
        shard = Shard(Batches(np.arange(examples), batch, drop_last=drop_last), ranks)
        found.append(([x.tolist() for (x,) in shard], shard))
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("examples", range(1, 30, 4))
@pytest.mark.parametrize("batch", [1, 2, 4])
def test_shards_are_the_batches_of_one_process(size, examples, batch):
    found = rows_of(examples, batch, size)
    whole = [x.tolist() for (x,) in Batches(np.arange(examples), batch * size)]
    for number, wanted in enumerate(whole):
        parts = [mine[number] for mine, _ in found]
        counts = [len(part) for part in parts]
        if len(wanted) < size:
            assert parts == [wanted] * size
        else:
            assert list(chain(*parts)) == wanted
            assert max(counts) - min(counts) <= 1
        counted = [shard.counted(number) for _, shard in found]
        assert sum(counted) == len(wanted)
        assert counted == counts or (len(wanted) < size and counted[0] == len(wanted))
        weights = [shard.weight(number) for _, shard in found]
        assert np.mean(weights) == pytest.approx(1)
        np.testing.assert_allclose(weights, np.divide(counts, np.mean(counts)))
    for mine, shard in found:
        assert len(shard) == len(mine) == len(whole)


def test_full_batches_alone():
    assert [mine for mine, _ in rows_of(11, 2, 2, drop_last=True)] == [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]


def test_a_pass_can_go_on_in_its_order():
    shard = Shard(Batches(np.arange(10), 3, shuffle=True, rng=0), Ranks())
    order = shard.draw_order()
    assert sorted(order) == list(range(10))
    batches = [x.tolist() for (x,) in shard.in_order(order)]
    assert list(chain(*batches)) == order.tolist()
    assert [x.tolist() for (x,) in shard.in_order(order, first=2)] == batches[2:]
    assert shard.draw_order().tolist() != order.tolist()


def test_one_process_trains_without_mpi(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # import mpi4py raises
    case, ranks = CASES["ragged"], Ranks()
    model, inner, data = on_ranks.parts(case)
    parallel.broadcast_parameters(model, ranks)
    optimizer = parallel.DistributedOptimizer(inner, ranks)
    batches = parallel.shard(Batches(*data, 64, shuffle=True, rng=3), ranks)
    on_ranks.descend(model, optimizer, batches, 1, lambda count: optimizer.step(samples=count))
    np.testing.assert_array_equal(flat(model.state_dict()), flat(on_ranks.train_alone(case)))
    assert ranks.scatter([[1]]) == [1]
    with pytest.raises(ValueError, match="scatter: rank 0 must give one value for each of 1 ranks, got 2"):
        ranks.scatter([1, 2])


@pytest.mark.parametrize("missing", ["package", "library"])
def test_what_is_missing_is_named(monkeypatch, missing):
    class Broken(types.ModuleType):
        rc = types.SimpleNamespace()

        def __getattr__(self, name):
            raise RuntimeError("cannot load MPI library")

    monkeypatch.setitem(sys.modules, "mpi4py", None if missing == "package" else Broken("mpi4py"))
    with pytest.raises(RuntimeError, match=r'pip install "nnkernels\[mpi\]" and, .* pip install mpich'):
        parallel.init()
    assert (parallel.rank(), parallel.size()) == (0, 1)


def test_nothing_works_alone_by_accident():
    model = nn.Linear(2, 2, rng=0)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    for call in (
        lambda: parallel.shard(Batches(np.arange(4), 2)),
        lambda: parallel.broadcast_parameters(model),
        lambda: parallel.DistributedOptimizer(optimizer),
    ):
        with pytest.raises(RuntimeError, match=r"call parallel.init\(\) first"):
            call()


def test_bad_arguments():
    optimizer = optim.SGD(nn.Linear(2, 2, rng=0).parameters(), lr=0.1)
    for wrong in (nn.Linear(2, 2, rng=0), parallel.DistributedOptimizer(optimizer, Ranks())):
        with pytest.raises(TypeError, match=f"must be an Optimizer of one rank, got {type(wrong).__name__}"):
            parallel.DistributedOptimizer(wrong, Ranks())
    for samples in (0, -1, np.nan, np.inf, "3", None):
        with pytest.raises(ValueError, match="samples must be a number above 0, got"):
            parallel.DistributedOptimizer(optimizer, Ranks()).step(samples)


class Twins(Ranks):
    """Two ranks with the same gradients, of which this is one; memory on a device may be summed, too."""

    size = 2

    def __init__(self):
        self.summed = []

    def sum_into(self, buffer):
        self.summed.append(type(buffer).__name__)
        if isinstance(buffer, np.ndarray):
            buffer *= 2
        else:
            buffer.copy_from(2 * buffer.numpy())


@pytest.mark.sim
@pytest.mark.parametrize(("cuda_aware", "summed"), [(False, "ndarray"), (True, "GpuArray")])
def test_gradients_on_a_gpu(cuda_aware, summed):
    model = nn.Linear(3, 2, rng=0)
    with simulate_gpu():
        ranks = Twins()
        optimizer = parallel.DistributedOptimizer(
            optim.SGD(model.parameters(), lr=1.0), ranks, cuda_aware=cuda_aware
        )
        for _ in range(2):  # on the CPU; then the model has moved
            before = {name: a.copy() for name, a in model.state_dict().items()}
            optimizer.zero_grad()
            (model.weight * 3.0).sum().backward()
            optimizer.step(samples=5)
            after = model.state_dict()
            np.testing.assert_allclose(after["weight"], before["weight"] - 3, rtol=1e-6)
            np.testing.assert_array_equal(after["bias"], before["bias"])  # had no gradient
            model.cuda()
        assert ranks.summed == ["ndarray", summed]
        assert model.weight.grad.device == model.weight.device != "cpu"
