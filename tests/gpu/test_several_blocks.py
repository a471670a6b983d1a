"""Update steps and recurrent cells on a GPU where they take several blocks; the table's samples take one."""

import numpy as np
import pytest

from nnkernels.machine.gpu_kernel import THREADS
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops import OPS, checks
from nnkernels.ops.op import Sample
from nnkernels.ops.recurrent import cuda, sample
from nnkernels.ops.steps.rules import PER_THREAD

pytestmark = pytest.mark.sim


@pytest.mark.parametrize("n", [THREADS * PER_THREAD - 1, 2 * THREADS * PER_THREAD + 3])
def test_steps(n):
    rng = np.random.default_rng(0)
    arrays = tuple(np.float32(rng.uniform(0.1, 1, n)) for _ in range(5))  # amsgrad: three states
    with simulate_gpu():
        checks.check_agreement(OPS["adam_step"], "cuda", Sample(f"{n}", arrays, {"step": 2}), rng)


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("most_at_once", [0, cuda.MOST_AT_ONCE], ids=["launch per step", "one launch"])
def test_recurrent_cells(name, most_at_once, monkeypatch):
    monkeypatch.setattr(cuda, "MOST_AT_ONCE", most_at_once)
    rng = np.random.default_rng(0)
    many = sample(name, rng, np.float32, (1, 9, 1, 33))  # more units, and more sequences, than a block has
    for s in (*OPS[name].samples(rng, np.float32), many):
        with simulate_gpu(("forward",)):
            checks.check_agreement(OPS[name], "cuda", s, rng)
