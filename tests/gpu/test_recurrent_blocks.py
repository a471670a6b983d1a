"""rnn, lstm and gru on a GPU where they are cut into several blocks: more units or sequences than one has."""

import numpy as np
import pytest

from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops import OPS, checks
from nnkernels.ops.recurrent import cuda, sample

pytestmark = pytest.mark.sim


@pytest.mark.parametrize("name", ["rnn", "lstm", "gru"])
@pytest.mark.parametrize("most_at_once", [0, cuda.MOST_AT_ONCE], ids=["launch per step", "one launch"])
def test_blocks_agree_with_loops(name, most_at_once, monkeypatch):
    monkeypatch.setattr(cuda, "MOST_AT_ONCE", most_at_once)
    rng = np.random.default_rng(0)
    many = sample(name, rng, np.float32, (1, 9, 1, 33))
    for s in (*OPS[name].samples(rng, np.float32), many):
        with simulate_gpu(("forward",)):
            checks.check_agreement(OPS[name], "cuda", s, rng)
