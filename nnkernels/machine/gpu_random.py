"""Random bits on a GPU, without state: element i's bits are a function of a key and of i.

Philox4x32-10 (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, SC 2011): ten rounds of two 32-bit
products, whose halves are mixed with a key that grows by a constant. Any thread can compute any element, so
the numbers do not depend on blocks or threads.
"""

import math
from typing import Any

import numpy as np
from numba import uint32, uint64

from nnkernels.machine.gpu_array import Device, GpuArray, empty
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, device_function, kernel
from nnkernels.machine.memory import Array

ROUNDS = 10
M0, M1 = 0xD2511F53, 0xCD9E8D57
W0, W1 = 0x9E3779B9, 0xBB67AE85
LOW = 0xFFFFFFFF
KEYS = 2**31


@device_function
def philox(counter: int, key0: int, key1: int) -> Any:
    """Return four random 32-bit numbers, as uint64, for a counter and a key."""
    low, mask = uint64(LOW), uint64(32)
    a, b, c, d = uint64(uint32(counter)), uint64(0), uint64(0), uint64(0)
    k0, k1 = uint64(key0), uint64(key1)
    for _ in range(ROUNDS):
        p, q = uint64(M0) * a, uint64(M1) * c
        a, b, c, d = (q >> mask) ^ b ^ k0, q & low, (p >> mask) ^ d ^ k1, p & low
        k0, k1 = (k0 + uint64(W0)) & low, (k1 + uint64(W1)) & low
    return a, b, c, d


@kernel
def mask_kernel(key0: int, key1: int, dropped: int, mask: Array) -> None:
    """Write four elements: False with probability dropped / 2^31."""
    first = 4 * (cuda.blockIdx.x * THREADS + cuda.threadIdx.x)
    a, b, c, d = philox(first // 4, key0, key1)
    least, shift = uint64(dropped), uint64(1)
    if first < mask.size:
        mask[at(first)] = (a >> shift) >= least
    if first + 1 < mask.size:
        mask[at(first + 1)] = (b >> shift) >= least
    if first + 2 < mask.size:
        mask[at(first + 2)] = (c >> shift) >= least
    if first + 3 < mask.size:
        mask[at(first + 3)] = (d >> shift) >= least


def random_mask(shape: tuple[int, ...], p: float, rng: np.random.Generator, device: Device) -> GpuArray:
    """Return bools on ``device``, each False with probability p, by a key that ``rng`` draws."""
    mask = empty(shape, np.bool_, device)
    key0, key1 = (int(k) for k in rng.integers(0, KEYS, 2))
    dropped = min(round(p * KEYS), KEYS - 1)
    mask_kernel[blocks_for(math.prod(shape), 4 * THREADS), THREADS](key0, key1, dropped, mask)
    return mask
