"""The GPU's matrix product in all its ways: tiles, transposed, ragged, K shared, tensor cores."""

import sys

import numpy as np
import pytest
from launches import check_machine_code

from nnkernels.machine.gpu_array import empty, to_device
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops.matmul.form import ONE
from nnkernels.ops.matmul.gemm_cuda import Plan, gemm_cuda, plan
from nnkernels.ops.matmul.precision import get_matmul_precision, set_matmul_precision
from nnkernels.ops.matmul.tiles import BIG, SMALL

GEMM = sys.modules[gemm_cuda.__module__]


@pytest.fixture
def high():
    set_matmul_precision("high")
    yield
    set_matmul_precision("highest")


def force(monkeypatch, tile, splits):
    def forced(M, N, K, batch, repeats, itemsize):
        steps = -(-K // tile.depth) * repeats
        share = -(-steps // splits)
        return Plan(tile, -(-steps // share), share, steps)

    monkeypatch.setattr(GEMM, "plan", forced)


def rounded(x, precision):
    """Return x with the bits that a product at this precision looks at, as float64."""
    if precision == "highest":
        return x.astype(float)
    return ((x.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)).view(np.float32).astype(float)


def check(M, N, K, transpose_a, transpose_b, dtype=np.float32, bias=False, relu=False, offset=0):
    rng = np.random.default_rng(0)
    a = rng.standard_normal((K, M) if transpose_a else (M, K)).astype(dtype)
    b = rng.standard_normal((N, K) if transpose_b else (K, N)).astype(dtype)
    c = rng.standard_normal(N).astype(dtype) if bias else None
    with simulate_gpu(("forward", 1)) as device:
        there = to_device(np.concatenate([np.zeros(offset, dtype), a.ravel()]), device)[offset:].reshape(
            a.shape
        )
        y = empty((M, N), dtype, device)
        gemm_cuda(
            there, to_device(b, device), y, (M, N, K), transpose_a=transpose_a, transpose_b=transpose_b,
            bias=to_device(c, device) if bias else None, relu=relu,
        )  # fmt: skip
        y = y.numpy()
    a, b = rounded(a, get_matmul_precision()), rounded(b, get_matmul_precision())
    a, b = a.T if transpose_a else a, b.T if transpose_b else b
    wanted = a @ b + (c if bias else 0)
    wanted = np.maximum(wanted, 0) if relu else wanted
    bound = (K + 1) * np.finfo(dtype).eps * (np.abs(a) @ np.abs(b) + 1)
    assert (np.abs(y - wanted) <= bound).all()


@pytest.mark.sim
@pytest.mark.parametrize("transpose_b", [False, True])
@pytest.mark.parametrize("transpose_a", [False, True])
def test_small_tiles(transpose_a, transpose_b, monkeypatch):
    force(monkeypatch, SMALL, 1)
    check(33, 35, 19, transpose_a, transpose_b)
    check(20, 36, 12, transpose_a, transpose_b, np.float64, bias=True, relu=True)
    check(20, 36, 12, transpose_a, transpose_b, offset=1)  # not aligned


@pytest.mark.sim
@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (True, False), (False, True)])
def test_big_tiles(transpose_a, transpose_b, monkeypatch):
    force(monkeypatch, BIG, 2)
    check(136, 72, 40, transpose_a, transpose_b, bias=True, relu=True)


@pytest.mark.sim
def test_big_tiles_of_ragged_matrices(monkeypatch):
    force(monkeypatch, BIG, 1)
    check(67, 130, 17, True, True, bias=True)


@pytest.mark.sim
@pytest.mark.usefixtures("high")
@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, False), (True, False), (False, True)])
def test_tensor_cores(transpose_a, transpose_b, monkeypatch):
    force(monkeypatch, BIG, 2)
    check(136, 72, 40, transpose_a, transpose_b, bias=True, relu=True)


@pytest.mark.sim
def test_batches_are_paired_and_summed(monkeypatch):
    force(monkeypatch, SMALL, 3)
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 3, 20, 24)), rng.standard_normal((3, 24, 20))
    with simulate_gpu(("forward",)) as device:
        y, s = empty((2, 3, 20, 20), float, device), empty((3, 20, 20), float, device)
        there = to_device(a, device), to_device(b, device)
        gemm_cuda(*there, y, (20, 20, 24), outer=(3, 480, 480, 2, 1440, 0))
        gemm_cuda(*there, s, (20, 20, 24), outer=(3, 480, 480), summed=(2, 1440, 0))
        assert np.allclose(y.numpy(), a @ b, rtol=1e-12)
        assert np.allclose(s.numpy(), (a @ b).sum(0), rtol=1e-12)


def test_plans_give_every_multiprocessor_work():
    assert plan(4096, 4096, 4096, 1, 1, 4) == Plan(BIG, 1, 256, 256)
    assert plan(1024, 1024, 1024, 1, 1, 4).tile is BIG
    assert plan(1024, 1024, 1024, 1, 1, 4).splits == 4  # 64 tiles
    assert plan(120, 400, 64, 1, 1, 4).tile is SMALL
    assert plan(10, 84, 1 << 16, 1, 1, 4).splits > 100  # the gradient of a small layer's weights
    assert plan(4096, 4096, 4096, 1, 1, 8).tile is SMALL
    for M, N, K in ((1, 1, 65), (77, 300, 9999), (5000, 70, 513)):
        _, splits, share, steps = plan(M, N, K, 1, 1, 4)
        assert (splits - 1) * share < steps <= splits * share  # each block has steps, and none is left


def test_precision_is_one_of_two_words():
    assert get_matmul_precision() == "highest"
    with pytest.raises(ValueError, match="precision must be one of highest, high, got 'low'"):
        set_matmul_precision("low")
    assert get_matmul_precision() == "highest"


@pytest.mark.compile
@pytest.mark.usefixtures("high")
@pytest.mark.parametrize(("transpose_a", "transpose_b"), [(False, True), (True, False)])
def test_tensor_core_kernels_become_the_code_they_should(transpose_a, transpose_b):
    def launch(device):
        a, b, y = (empty((4096, 4096), np.float32, device) for _ in range(3))
        gemm_cuda(a, b, y, (4096,) * 3, transpose_a=transpose_a, transpose_b=transpose_b, outer=ONE)

    check_machine_code(launch)
