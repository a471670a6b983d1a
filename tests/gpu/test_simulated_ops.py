"""The op table's cuda bodies in the simulator: every sample, forward, backward, what is kept, both dtypes."""

import numpy as np
import pytest

from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops import OPS, checks

pytestmark = pytest.mark.sim

NAMES = sorted(name for name in OPS if OPS[name].cuda is not None)
ORDERS = {np.float32: ("forward", "reversed", 1), np.float64: ("forward",)}


@pytest.mark.parametrize("dtype", list(ORDERS), ids=("f32", "f64"))
@pytest.mark.parametrize("name", NAMES)
def test_simulated_body_agrees_with_loops(name, dtype):
    for sample in OPS[name].samples(np.random.default_rng(0), dtype):
        with simulate_gpu(ORDERS[dtype]):
            checks.check_agreement(OPS[name], "cuda", sample, np.random.default_rng(0))


@pytest.mark.parametrize("name", [name for name in NAMES if OPS[name].loops.backward is not None])
def test_gradients_come_only_where_needed(name):
    for sample in OPS[name].samples(np.random.default_rng(0), np.float64):
        with simulate_gpu(("forward",)):
            checks.check_needs(OPS[name], "cuda", sample, np.random.default_rng(0))
