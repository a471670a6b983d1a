"""Every kernel that the ops launch, compiled to machine code and read: no GPU is needed for that."""

import numpy as np
import pytest

from nnkernels.machine.gpu import numba_cuda
from nnkernels.machine.gpu_array import empty
from nnkernels.machine.gpu_assembly import CAPABILITIES, examine, faults, recording
from nnkernels.ops import OPS, checks

pytestmark = pytest.mark.compile

NAMES = sorted(name for name in OPS if OPS[name].cuda is not None)


@pytest.fixture(scope="module", autouse=True)
def _extra():
    try:
        numba_cuda()
    except RuntimeError as error:
        pytest.skip(str(error))


def placed(a, dtype, recorder):
    """Return an array of a's shape on the recorder, in ``dtype`` where it holds floating-point numbers."""
    return None if a is None else empty(a.shape, dtype if a.dtype.kind == "f" else a.dtype, recorder)


def compilations(op):
    """Return every kernel that the op launches, small arrays or large, with the types of its arguments."""
    with recording() as recorder:
        for source in (op.samples, op.bench_samples):
            for sample in source(np.random.default_rng(0), np.float32):
                for dtype in (np.float32, np.float64):
                    arrays = tuple(placed(a, dtype, recorder) for a in sample.arrays)
                    outputs = op.cuda.forward(*arrays, **sample.attributes)
                    if op.cuda.backward is not None:
                        dy = empty(outputs[0].shape, outputs[0].dtype, recorder)
                        needs = checks.differentiable(op, sample)
                        op.cuda.backward(dy, outputs, arrays, needs, **sample.attributes)
    return list(recorder.compilations.values())


@pytest.mark.parametrize("name", NAMES)
def test_kernels_become_the_code_they_should(name):
    found = compilations(OPS[name])
    wrong = []
    for compilation in found:
        for capability in CAPABILITIES:
            wrong += faults(examine(compilation, capability), compilation)
    assert not wrong, "\n".join(wrong)
