"""What tests of GPU kernels share."""

import numpy as np
import pytest

from nnkernels.machine.gpu import numba_cuda
from nnkernels.machine.gpu_array import to_device
from nnkernels.machine.gpu_assembly import examine, faults, recording

N = 64  # threads of a block: two warps


def ramp(n, device):
    """Return 0, 1, 2 ... in float32 on the device."""
    return to_device(np.arange(n, dtype=np.float32), device)


def demand_the_compiler():
    """Skip the test, saying why, where GPU kernels cannot be compiled."""
    try:
        numba_cuda()
    except RuntimeError as error:
        pytest.skip(str(error))


def check_machine_code(launch):
    """Compile the one kernel that ``launch(recorder)`` launches; it must become the code it should."""
    demand_the_compiler()
    with recording() as recorder:
        launch(recorder)
    (compilation,) = recorder.compilations.values()
    report = examine(compilation, (9, 0))
    assert not faults(report, compilation), report


def fails(start, error, words):
    """Call ``start``, which must raise ``error`` with words that fit the pattern; return them."""
    with pytest.raises(error, match=words) as raised:
        start()
    return str(raised.value)
