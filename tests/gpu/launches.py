"""What tests of the simulator share."""

import numpy as np
import pytest

from nnkernels.machine.gpu_array import to_device

N = 64  # threads of a block: two warps


def ramp(n, device):
    """Return 0, 1, 2 ... in float32 on the device."""
    return to_device(np.arange(n, dtype=np.float32), device)


def fails(start, error, words):
    """Call ``start``, which must raise ``error`` with words that fit the pattern; return them."""
    with pytest.raises(error, match=words) as raised:
        start()
    return str(raised.value)
