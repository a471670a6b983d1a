"""Calls drawn by Hypothesis beside PyTorch: any shapes and attributes, forward and backward, none skipped.

    pytest tests/test_draws.py --draws 10000

draws so many calls over all differentiable ops, and prints the number for each. Update steps have their tests
beside torch.optim's in test_optim.py.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import DRAWS
from test_oracles import narrowed, through_torch

from nnkernels.ops import OPS, checks
from nnkernels.ops.op import Sample

NAMES = sorted(name for name in OPS if OPS[name].loops.backward is not None)
drawn = Counter()


def compare(name, sample):
    """Compare the tuned body with PyTorch, in the arrays' dtype."""
    op = OPS[name]
    outputs = checks.run(op, "tuned", sample)
    dy = checks.cotangent(np.random.default_rng(1), outputs)
    y, wanted = through_torch(name, sample, dy)
    dtype = outputs[0].dtype
    checks.assert_close(outputs[0], narrowed(y, dtype), op.tolerance, f"{name}, {sample.label}")
    grads = checks.run_backward(op, "tuned", sample, dy, outputs)
    for i, (g, w) in enumerate(zip(grads, wanted)):
        what = f"{name}, {sample.label}, gradient of input {i}"
        checks.assert_close(g, None if w is None else narrowed(w, dtype), op.tolerance, what)


@pytest.mark.parametrize("name", NAMES)
def test_a_drawn_call_equals_torch(name, request):
    pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
    assert name in DRAWS, f"{name} has no draws: write them in tests/oracles"
    count = -(-request.config.getoption("--draws") // len(NAMES))

    @settings(max_examples=count, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(data=st.data())
    def run(data):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
        arrays, attributes = DRAWS[name](data.draw, rng)
        dtype = data.draw(st.sampled_from([np.float32, np.float64]))
        arrays = tuple(a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for a in arrays)
        label = f"{[None if a is None else a.shape for a in arrays]}, {attributes}"
        compare(name, Sample(label, arrays, attributes))
        drawn[name] += 1

    run()
    assert drawn[name] >= count, f"{name}: only {drawn[name]} of {count} calls were drawn"


def test_the_numbers_of_draws_are_printed(capsys):
    pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
    assert drawn.keys() <= DRAWS.keys() == set(NAMES)
    with capsys.disabled():
        print(f"\n{drawn.total()} calls drawn, all equal to PyTorch's:")
        print(", ".join(f"{name} {n}" for name, n in sorted(drawn.items())))
