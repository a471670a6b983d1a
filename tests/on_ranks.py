"""What test_parallel.py runs under mpiexec: ``on_ranks.py NAMES... --out FILE``; rank 0 writes the answers.

The cases of training stand here, for the ranks and for the single process that they are held against.
"""

import argparse
import hashlib
import json
import logging
import os
import signal
import sys
import time
from typing import NamedTuple

import numpy as np

import nnkernels.nn.functional as F
from nnkernels import nn, optim, parallel
from nnkernels.data import Batches
from nnkernels.machine.threads import get_num_threads
from nnkernels.nn.models import LeNet5
from nnkernels.optim.lr_scheduler import StepLR
from nnkernels.parallel.optimizer import flat_gradients

STEPS = 100


def sgd(params):
    return optim.SGD(params, lr=0.02, momentum=0.9)


def adam(params):
    return optim.Adam(params, lr=1e-3)


class Case(NamedTuple):
    """A training: 1 rank with batches of ``ranks`` times ``batch`` must do the same."""

    dtype: type
    optimizer: object
    ranks: int = 2
    batch: int = 32
    examples: int = 640
    lenet: bool = False
    accumulate: int = 1


CASES = {
    "lenet float64 momentum": Case(np.float64, sgd, lenet=True),
    "lenet float32 momentum": Case(np.float32, sgd, lenet=True),
    "float64 Adam": Case(np.float64, adam),
    "float32 Adam": Case(np.float32, adam),
    # global batches of 64, 64, 19: the last is 10 + 9
    "ragged": Case(np.float64, sgd, examples=147),
    "ragged, accumulated": Case(np.float64, sgd, examples=147, accumulate=2),
    # global batches of 12, 12, 7 (3 + 2 + 2) and 12, 12, 2 (every rank has both)
    "3 ranks, ragged": Case(np.float64, adam, ranks=3, batch=4, examples=31),
    "3 ranks, a tail of 2": Case(np.float64, adam, ranks=3, batch=4, examples=26),
}


def parts(case, seed=0):
    """Return a network, its optimizer and data."""
    rng = np.random.default_rng(7)
    if case.lenet:
        model = LeNet5(rng=seed)
        x = rng.standard_normal((case.examples, 1, 28, 28))
    else:
        rngs = np.random.default_rng(seed).spawn(2)
        model = nn.Sequential(nn.Linear(12, 16, rng=rngs[0]), nn.ReLU(), nn.Linear(16, 10, rng=rngs[1]))
        x = rng.standard_normal((case.examples, 12))
    for p in model.parameters():
        p.data = p.data.astype(case.dtype)
    labels = rng.integers(0, 10, case.examples)
    return model, case.optimizer(list(model.parameters())), (x.astype(case.dtype), labels)


def descend(model, optimizer, batches, accumulate, step, weight=lambda number: 1.0):
    """Take STEPS steps; with ``accumulate``, along the mean of so many batches' gradients."""
    done = 0
    while done < STEPS:
        for number, (x, y) in enumerate(batches):
            if number % accumulate == 0:
                optimizer.zero_grad()
            together = min(accumulate, len(batches) - number // accumulate * accumulate)
            loss = F.cross_entropy(model(x), y)
            (loss * weight(number) / together).backward()
            if (number + 1) % accumulate == 0 or number + 1 == len(batches):
                step(len(x))
                done += 1
                if done == STEPS:
                    return


def train_alone(case):
    """Return the weights that plain batches and the plain optimizer give."""
    model, optimizer, data = parts(case)
    batches = Batches(*data, case.batch * case.ranks, shuffle=True, rng=3)
    descend(model, optimizer, batches, case.accumulate, lambda count: optimizer.step())
    return model.state_dict()


def train_together(ranks, case):
    """Return the weights of all ranks' training, begun with other weights and generators on each."""
    model, inner, data = parts(case, seed=ranks.rank)
    parallel.broadcast_parameters(model)
    optimizer = parallel.DistributedOptimizer(inner)
    batches = parallel.shard(Batches(*data, case.batch, shuffle=True, rng=3 + ranks.rank))
    if case.accumulate == 1:
        descend(model, optimizer, batches, 1, lambda count: optimizer.step(samples=count))
    else:
        descend(model, optimizer, batches, case.accumulate, lambda count: optimizer.step(), batches.weight)
    ranks.agree("weights", [f"{name} {digest(a)}" for name, a in model.state_dict().items()])  # bitwise
    return model.state_dict()


def digest(array):
    return hashlib.sha256(array.tobytes()).hexdigest()


# --- checks: what every rank answers, by the name of the function ---


def talk(ranks):
    """Every way of talking."""
    buffer = np.full(3, float(ranks.rank))
    ranks.broadcast_into(buffer)
    return {
        "sum": ranks.sum([1, ranks.rank]).tolist(),
        "any": [ranks.any(ranks.rank == 1), ranks.any(False)],
        "broadcast": ranks.broadcast({"rank": ranks.rank, "large": 2**100}),
        "broadcast_into": buffer.tolist(),
        "gather": ranks.gather("x" * ranks.rank),
        "scatter": ranks.scatter([{"for": i} for i in range(ranks.size)] if ranks.rank == 0 else None),
        "too few": error_of(lambda: ranks.scatter(["one"])),
        "again": parallel.init() is ranks,
        "rank": [parallel.rank(), parallel.size()],
        "threads": get_num_threads(),
    }


def error_of(call):
    try:
        call()
    except ValueError as error:
        return str(error)
    return None


def logs(ranks):
    """Levels that pass."""
    seen = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = logging.getLogger("nnkernels")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.info("epoch %d", 1)
    logger.warning("slow")
    logger.removeHandler(handler)
    logger.setLevel(level)
    return seen


def broadcasts(ranks):
    """Parameters and buffers; then models that differ in a shape, a dtype, and a name."""
    seed = 10 + ranks.rank
    model = nn.Sequential(nn.Linear(3, 4, rng=seed), nn.BatchNorm1d(4))
    model[1].running_mean[:] = seed
    before = model[0].weight.version[0]
    parallel.broadcast_parameters(model)
    faults = []
    for other in (
        nn.Linear(3, 4 + ranks.rank, rng=0),
        nn.Linear(3, 4, bias=ranks.rank == 0, rng=0),
        nn.Sequential(*[nn.Linear(2, 2, rng=0)] * (1 + ranks.rank)),
    ):
        kept = [p.data.copy() for p in other.parameters()]
        faults.append(error_of(lambda other=other: parallel.broadcast_parameters(other)))
        assert all((p.data == k).all() for p, k in zip(other.parameters(), kept))
    optimizer = sgd(list(nn.Linear(3, 4 + ranks.rank, rng=0).parameters()))
    faults.append(error_of(lambda: parallel.DistributedOptimizer(optimizer)))
    x = np.zeros((10 + ranks.rank, 2))
    faults.append(error_of(lambda: parallel.shard(Batches(x, 2))))
    faults.append(error_of(lambda: parallel.shard(Batches(np.zeros((3, 2)), 2, drop_last=True))))
    return {
        "weight": model[0].weight.data.tolist(),
        "mean": model[1].running_mean.tolist(),
        "version": model[0].weight.version[0] > before,
        "faults": faults,
    }


def missing(ranks):
    """Gradients that one rank has, both, or none; float32 and float64 in one optimizer; 3 and 1 samples."""
    params = [nn.Parameter(np.ones(2, t)) for t in (np.float32, np.float64, np.float32, np.float32)]
    both, wide, one, _ = params
    groups = [{"params": params[:2]}, {"params": params[2:]}]
    optimizer = parallel.DistributedOptimizer(optim.SGD(groups, lr=1))
    shared = nn.Parameter(np.ones(2, np.float32))
    twin = nn.Parameter(np.ones(2, np.float32))
    optimizer.add_param_group({"params": [shared, twin]})
    (both.sum() * float(ranks.rank + 1)).backward()
    (wide.sum() * float(ranks.rank + 1)).backward()
    (shared + twin).sum().backward()
    if ranks.rank == 0:
        one.sum().backward()
    optimizer.step(samples=3 if ranks.rank == 0 else 1)
    return {
        "grads": [None if p.grad is None else p.grad.data.tolist() for p in (*params, shared, twin)],
        "data": [p.data.tolist() for p in (*params, shared, twin)],
        "dtypes": [str(p.grad.dtype) for p in params if p.grad is not None],
        "buffers": len(flat_gradients(optimizer.params)),
    }


def kept(ranks):
    """A gradient kept from the first step, and that of the second; between them, nothing is forgotten."""
    p = nn.Parameter(np.ones(2, np.float32))
    optimizer = parallel.DistributedOptimizer(sgd([p]))
    (p.sum() * float(ranks.rank)).backward()
    optimizer.average_gradients()
    first = p.grad
    (p.sum() * 2.0).backward()
    optimizer.average_gradients()
    return [first.data.tolist(), p.grad.data.tolist()]


def nan(ranks):
    """A gradient that is NaN on rank 1."""
    p = nn.Parameter(np.ones(2, np.float32))
    optimizer = parallel.DistributedOptimizer(sgd([p]))
    (p.sum() * (np.nan if ranks.rank == 1 else 1.0)).backward()
    optimizer.step(samples=2)
    return np.isnan(p.data).tolist()


def schedules(ranks):
    """The rate after a step of a schedule that knows the inner optimizer, or the outer one."""
    rates = []
    for outer in (False, True):
        p = nn.Parameter(np.ones(2, np.float32))
        inner = sgd([p])
        optimizer = parallel.DistributedOptimizer(inner)
        schedule = StepLR(optimizer if outer else inner, step_size=1, gamma=0.5)
        p.sum().backward()
        optimizer.step()
        schedule.step()
        rates.append([inner.lr, optimizer.lr, float(p.data[0])])
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    return {"rates": rates, "step": state["state"][0]["step"]}


def fault(ranks, kind, out):
    """Train a little; then rank 1 fails, and notes when."""
    model, inner, data = parts(CASES["float64 Adam"])
    optimizer = parallel.DistributedOptimizer(inner)
    for number, (x, y) in enumerate(parallel.shard(Batches(*data, 32))):
        if number == 3 and ranks.rank == 1:
            with open(out, "w", encoding="utf-8") as file:
                json.dump({"time": time.time(), "pid": os.getpid()}, file)
            if kind == "raise":
                raise ArithmeticError("planted")
            if kind == "exit":
                sys.exit(3)
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step(samples=len(x))


CHECKS = {f.__name__: f for f in (talk, logs, broadcasts, missing, kept, nan, schedules)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", required=True)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--pin", type=int, nargs="*", default=[], help="ranks put on one core")
    parser.add_argument("--fault")
    arguments = parser.parse_args()
    if arguments.pin:
        from mpi4py import MPI

        if MPI.COMM_WORLD.Get_rank() in arguments.pin:
            os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    ranks = parallel.init(arguments.threads)
    if arguments.fault:
        fault(ranks, arguments.fault, arguments.out)
        return
    answers = {}
    for name in arguments.names:
        if name in CASES:
            start = time.perf_counter()
            weights = train_together(ranks, CASES[name])
            answers[name] = {"seconds": time.perf_counter() - start}
            if ranks.rank == 0:
                np.savez(f"{arguments.out}.{name}.npz", **weights)
        else:
            answers[name] = ranks.gather(CHECKS[name](ranks))
    if ranks.rank == 0:
        with open(arguments.out, "w", encoding="utf-8") as file:
            json.dump(answers, file)


if __name__ == "__main__":
    main()
