"""Calls drawn by Hypothesis beside PyTorch: any shapes and attributes, forward and backward, none skipped.

    pytest tests/test_draws.py --draws 10000

draws so many calls over all ops, and prints the number for each. An update step is drawn as a few steps of
its optimizer in float64, since some rules (Adam's without memory) make a sign of a rounding error.
"""

from collections import Counter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles import DRAWS, OPTIMIZERS
from oracles.common import SIZE, shapes
from test_oracles import narrowed, through_torch

import nnkernels as nnk
from nnkernels import nn, optim
from nnkernels.ops import OPS, checks
from nnkernels.ops.op import Sample

FRACTION = st.sampled_from([0.0, 0.3, 0.9, 0.99])
MEMORY = st.sampled_from([0.3, 0.9, 0.99])  # without, a variance is all rounding error
EPS = st.sampled_from([1e-8, 1e-3])
BETAS = {"betas": st.tuples(FRACTION, FRACTION), "eps": EPS}
DECOUPLED = {"decoupled_weight_decay": st.booleans()}
# The options of each update step's optimizer, besides the rate and the weight decay.
UPDATES = {
    "sgd_step": {"momentum": FRACTION, "dampening": FRACTION, "nesterov": st.booleans()},
    "adam_step": {**BETAS, **DECOUPLED, "amsgrad": st.booleans()},
    "nadam_step": {**BETAS, **DECOUPLED, "momentum_decay": st.sampled_from([4e-3, 0.1])},
    "radam_step": {**BETAS, **DECOUPLED},
    "rmsprop_step": {"alpha": MEMORY, "eps": EPS, "momentum": FRACTION, "centered": st.booleans()},
    "adagrad_step": {"lr_decay": FRACTION, "initial_accumulator_value": FRACTION, "eps": EPS},
    "adadelta_step": {"rho": FRACTION, "eps": EPS},
    "muon_step": {"momentum": FRACTION, "nesterov": st.booleans(), "ns_steps": st.integers(1, 6)},
}
NOT_IN_TORCH = {"lion_step", "shrink_step"}  # test_optim.py and test_regularizers.py have their formulas
NAMES = sorted(OPS.keys() - UPDATES.keys() - NOT_IN_TORCH)
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


def compare_steps(torch, name, draw):
    """Compare a few steps of an optimizer with those of torch.optim."""
    kind = OPTIMIZERS[name]
    options = {option: draw(values, label=option) for option, values in UPDATES[name].items()}
    options |= {"lr": draw(st.sampled_from([1e-3, 0.05, 0.5])), "weight_decay": draw(FRACTION)}
    if name == "sgd_step" and options["nesterov"]:
        options |= {"dampening": 0.0, "momentum": max(options["momentum"], 0.1)}
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1), label="seed"))
    shape = st.lists(SIZE, min_size=2, max_size=2) if name == "muon_step" else shapes()
    values = [rng.standard_normal(s) for s in draw(st.lists(shape, min_size=1, max_size=3))]
    ours = [nn.Parameter(v.copy()) for v in values]
    theirs = [torch.nn.Parameter(torch.tensor(v)) for v in values]
    pair = getattr(optim, kind)(ours, **options), getattr(torch.optim, kind)(theirs, **options)
    for _ in range(draw(st.integers(1, 7), label="steps")):
        for p, q in zip(ours, theirs):
            g = rng.standard_normal(p.shape)
            p.grad, q.grad = nnk.tensor(g), torch.tensor(g)
        for optimizer in pair:
            optimizer.step()
    for p, q in zip(ours, theirs):
        what = f"{kind}, {options}"
        np.testing.assert_allclose(p.data, q.detach().numpy(), rtol=1e-8, atol=1e-8, err_msg=what)


def draw_calls(name, request, one):
    """Run ``one(data)`` for this op's share of all draws, and count."""
    count = -(-request.config.getoption("--draws") // (len(NAMES) + len(UPDATES)))

    @settings(max_examples=count, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(data=st.data())
    def run(data):
        one(data)
        drawn[name] += 1

    run()
    assert drawn[name] >= count, f"{name}: only {drawn[name]} of {count} calls were drawn"


@pytest.mark.parametrize("name", NAMES)
def test_a_drawn_call_equals_torch(name, request):
    pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
    assert name in DRAWS, f"{name} has no draws: write them in tests/oracles"

    def one(data):
        rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), label="seed"))
        arrays, attributes = DRAWS[name](data.draw, rng)
        dtype = data.draw(st.sampled_from([np.float32, np.float64]))
        arrays = tuple(a.astype(dtype) if a is not None and a.dtype.kind == "f" else a for a in arrays)
        label = f"{[None if a is None else a.shape for a in arrays]}, {attributes}"
        compare(name, Sample(label, arrays, attributes))

    draw_calls(name, request, one)


@pytest.mark.parametrize("name", UPDATES)
def test_drawn_steps_equal_torchs(name, request, torch64):
    draw_calls(name, request, lambda data: compare_steps(torch64, name, data.draw))


def test_the_numbers_of_draws_are_printed(capsys):
    pytest.importorskip("torch", reason="PyTorch, the second oracle, is not installed")
    assert DRAWS.keys() == set(NAMES)
    assert drawn.keys() <= {*NAMES, *UPDATES}
    assert UPDATES.keys() == OPTIMIZERS.keys()
    with capsys.disabled():
        print(f"\n{drawn.total()} calls drawn, all equal to PyTorch's:")
        print(", ".join(f"{name} {n}" for name, n in sorted(drawn.items())))
