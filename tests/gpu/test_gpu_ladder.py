"""Every rung of the GPU's ladder is the whole product, and becomes the machine code that it is about."""

import numpy as np
import pytest
from launches import check_machine_code

from nnkernels.machine.gpu_array import empty, to_device
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops.matmul.cuda_ladder import RUNGS

SHAPES = ((1, 1, 1), (7, 13, 5), (18, 20, 36), (66, 17, 3), (3, 0, 5), (0, 2, 3))


@pytest.mark.sim
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_every_rung_is_the_product(rung):
    rng = np.random.default_rng(0)
    eps = 2.0**-10 if rung.name == "tensor cores" else np.finfo(np.float32).eps
    for M, K, N in SHAPES:
        a, b = rng.standard_normal((M, K)).astype(np.float32), rng.standard_normal((K, N)).astype(np.float32)
        with simulate_gpu() as device:
            y = empty((M, N), np.float32, device)
            rung.function(to_device(a, device), to_device(b, device), y)
            y = y.numpy()
        bound = (K + 1) * eps * (np.abs(a).astype(float) @ np.abs(b))
        assert (np.abs(y - a.astype(float) @ b) <= bound).all(), (rung.name, M, K, N)


def test_the_ladder_is_in_order():
    assert [rung.kernel.__doc__.partition(".")[0] for rung in RUNGS] == [str(i) for i in range(1, 8)]
    assert len({rung.name for rung in RUNGS}) == len(RUNGS)


@pytest.mark.compile
@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_every_rung_becomes_the_code_it_should(rung):
    check_machine_code(lambda device: rung.function(*(empty((4, 4), np.float32, device) for _ in range(3))))
