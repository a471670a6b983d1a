"""The counting sort on a GPU, of one digit and of several, against NumPy's stable sort."""

import numpy as np
import pytest

from nnkernels.machine.gpu_array import to_device
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.ops.graph import sorting

pytestmark = pytest.mark.sim


@pytest.mark.parametrize(
    ("n", "length", "largest"),
    [(7, 100, 1 << 22), (1, 40, 1 << 22), (300, 60, 1 << 22), (1000, 70, 16), (3, 1100, 1 << 22), (9, 0, 8)],
)
def test_sorted_by_is_stable(monkeypatch, n, length, largest):
    monkeypatch.setattr(sorting, "LARGEST_TABLE", largest)
    monkeypatch.setattr(sorting, "SHARE", 64)
    index = np.random.default_rng(0).integers(-1, n + 1, length)
    with simulate_gpu(("forward",) if length > sorting.CHUNK else ("forward", 1)) as device:
        indptr, order = (a.numpy() for a in sorting.sorted_by(to_device(index, device), n))
    place = np.where((index < 0) | (index >= n), n, index)  # what belongs nowhere comes last
    assert np.array_equal(order, np.argsort(place, kind="stable"))
    assert np.array_equal(indptr, np.searchsorted(np.sort(place), np.arange(n + 1)))
