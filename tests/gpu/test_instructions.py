"""Machine instructions: their simulated forms against NumPy, their compiled forms by their opcodes."""

import numpy as np
import pytest
from launches import check_machine_code
from numba import float32, uint32

from nnkernels.machine.gpu_array import empty, to_device
from nnkernels.machine.gpu_instructions import (
    commit_copies,
    copy4,
    ldmatrix,
    load4,
    mma_bf16,
    mma_tf32,
    pack_bf16,
    store4,
    to_tf32,
    wait_for_copies,
)
from nnkernels.machine.gpu_kernel import Expected, at, cuda, kernel
from nnkernels.machine.gpu_simulator import RaceError, SimulationError, simulate_gpu

ALIGNMENT = 16


@kernel(expected=Expected(opcodes=("LDG.E.128", "STG.E.128", "LDS.128", "STS.128")))
def reverse_kernel(x, first, y):
    part = cuda.shared.array(128, x.dtype, ALIGNMENT)
    i = 4 * cuda.threadIdx.x
    a, b, c, d = load4(x, at(first + i))
    store4(part, at(i), a, b, c, d)
    cuda.syncthreads()
    a, b, c, d = load4(part, at(4 * (cuda.blockDim.x - 1) - i))
    store4(y, at(first + i), d, c, b, a)


@kernel(expected=Expected(opcodes=("LDGSTS.E.BYPASS.128", "LDGDEPBAR", "DEPBAR")))
def copy_kernel(x, n, y):
    part = cuda.shared.array(128, float32, ALIGNMENT)
    i = cuda.threadIdx.x
    copy4(part, at(4 * i), x, at(4 * i), n)
    commit_copies()
    wait_for_copies(0)
    cuda.syncthreads()
    for k in range(4):
        y[at(i + k * cuda.blockDim.x)] = part[at(i + k * cuda.blockDim.x)]


@kernel
def impatient_kernel(x, y):
    part = cuda.shared.array(128, float32, ALIGNMENT)
    i = cuda.threadIdx.x
    copy4(part, at(4 * i), x, at(4 * i), 4)
    commit_copies()
    y[at(i)] = part[at(4 * i)]
    wait_for_copies(0)


@kernel
def forgetful_kernel(x, y):
    part = cuda.shared.array(128, float32, ALIGNMENT)
    copy4(part, at(4 * cuda.threadIdx.x), x, at(4 * cuda.threadIdx.x), 4)
    y[at(cuda.threadIdx.x)] = x[at(cuda.threadIdx.x)]


@kernel
def overtaking_kernel(x, y):
    part = cuda.shared.array(128, float32, ALIGNMENT)
    i = cuda.threadIdx.x
    for step in range(2):
        copy4(part, at(4 * i), x, at(4 * i + 4 * step), 4)
        commit_copies()
        wait_for_copies(0)
        cuda.syncthreads()
        y[at(i)] = part[at(127 - i)]  # and no barrier before the next copy overwrites it


@kernel(expected=Expected(opcodes=("HMMA.1688.F32.TF32", "LDSM.16.M88.4")))
def tf32_kernel(a, b, y):
    """y (16, 8) = a (16, 8) b (8, 8)."""
    a_tile, b_tile = cuda.shared.array(128, float32, ALIGNMENT), cuda.shared.array(64, float32, ALIGNMENT)
    lane = cuda.threadIdx.x
    g, t = lane // 4, lane % 4
    for i in range(4):
        a_tile[at(lane + 32 * i)] = to_tf32(a[at(lane + 32 * i)])
    for i in range(2):
        b_tile[at(lane + 32 * i)] = to_tf32(b[at(lane + 32 * i)])
    cuda.syncthreads()
    q, r = lane // 8, lane % 8
    of_a = ldmatrix(a_tile, at((q % 2 * 8 + r) * 8 + q // 2 * 4))
    of_b = b_tile[at(t * 8 + g)], b_tile[at((t + 4) * 8 + g)]
    zero = float32(0)
    sums = mma_tf32(of_a, of_b, (zero, zero, zero, zero))
    sums = mma_tf32(of_a, of_b, sums)
    for i in range(4):
        y[at((g + i // 2 * 8) * 8 + 2 * t + i % 2)] = sums[i]


@kernel(expected=Expected(opcodes=("HMMA.16816.F32.BF16", "LDSM.16.M88.4")))
def bf16_kernel(a, b, y):
    """y (16, 8) = a (16, 16) b (16, 8)."""
    a_tile = cuda.shared.array(128, uint32, ALIGNMENT)
    lane = cuda.threadIdx.x
    g, t = lane // 4, lane % 4
    for i in range(4):
        p = 2 * (lane + 32 * i)
        a_tile[at(lane + 32 * i)] = pack_bf16(a[at(p)], a[at(p + 1)])
    cuda.syncthreads()
    q, r = lane // 8, lane % 8
    of_a = ldmatrix(a_tile, at((q % 2 * 8 + r) * 8 + q // 2 * 4))
    of_b = (
        pack_bf16(b[at(2 * t * 8 + g)], b[at((2 * t + 1) * 8 + g)]),
        pack_bf16(b[at((2 * t + 8) * 8 + g)], b[at((2 * t + 9) * 8 + g)]),
    )
    zero = float32(0)
    sums = mma_bf16(of_a, of_b, (zero, zero, zero, zero))
    for i in range(4):
        y[at((g + i // 2 * 8) * 8 + 2 * t + i % 2)] = sums[i]


@kernel
def half_a_warp_kernel(x, y):
    if cuda.threadIdx.x < 16:
        a, _, _, _ = ldmatrix(x, at(4 * cuda.threadIdx.x))
        y[at(cuda.threadIdx.x)] = a


def run(kernel, n, *args, threads=32, dtype=np.float32):
    with simulate_gpu() as device:
        y = empty((n,), dtype, device)
        given = [to_device(a, device) if isinstance(a, np.ndarray) else a for a in args]
        kernel[1, threads](*given, y)
        return y.numpy()


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


@pytest.mark.sim
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_four_elements_at_once(dtype):
    x = numbers(128, dtype=dtype)
    assert (run(reverse_kernel, 128, x, 0, dtype=dtype) == x[::-1]).all()


@pytest.mark.sim
def test_alignment_is_demanded():
    with pytest.raises(SimulationError, match="load4: element 2 of the array x is not at a multiple of 16"):
        run(reverse_kernel, 132, numbers(132), 2)
    assert np.isfinite(run(reverse_kernel, 130, numbers(130, dtype=float), 2, dtype=float)[2:]).all()


@pytest.mark.sim
@pytest.mark.parametrize("n", [0, 1, 3, 4])
def test_copies_fill_up_with_zeros(n):
    x = numbers(128)
    wanted = np.where(np.arange(128) % 4 < n, x, 0)
    assert (run(copy_kernel, 128, x, n) == wanted).all()


@pytest.mark.sim
def test_copies_must_be_waited_for():
    assert np.isnan(run(impatient_kernel, 32, numbers(128))).all()
    with pytest.raises(SimulationError, match="never waited for"):
        run(forgetful_kernel, 32, numbers(128))
    with pytest.raises(RaceError):
        run(overtaking_kernel, 32, numbers(132))


def rounded(x, bits):
    """Return x with ``bits`` of mantissa, as float64."""
    mantissa, exponent = np.frexp(x.astype(float))
    return np.ldexp(np.round(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)


@pytest.mark.sim
def test_tensor_cores():
    a, b = numbers(16, 8), numbers(8, 8)[::-1].copy()
    wanted = 2 * rounded(a, 10) @ rounded(b, 10)
    assert np.abs(run(tf32_kernel, 128, a, b) - wanted.ravel()).max() < 1e-6
    a, b = numbers(16, 16), numbers(16, 8)[::-1].copy()
    assert np.abs(run(bf16_kernel, 128, a, b) - (rounded(a, 7) @ rounded(b, 7)).ravel()).max() < 1e-6


@pytest.mark.sim
def test_the_whole_warp_must_come():
    with pytest.raises(SimulationError, match="ldmatrix"):
        run(half_a_warp_kernel, 32, numbers(128))


@pytest.mark.compile
@pytest.mark.parametrize(
    ("kernel", "arguments"),
    [(reverse_kernel, "xny"), (copy_kernel, "xny"), (tf32_kernel, "xxy"), (bf16_kernel, "xxy")],
)
def test_instructions_become_opcodes(kernel, arguments):
    check_machine_code(
        lambda device: kernel[1, 32](
            *(1 if a == "n" else empty((256,), np.float32, device) for a in arguments)
        )
    )
