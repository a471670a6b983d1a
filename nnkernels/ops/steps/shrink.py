"""Shrinking: what regularisers do to a parameter beside the loss.

    param = factor sign(param) max(|param| - threshold, 0)

The proximal step of an L1 penalty has threshold = lr strength and factor 1 (soft thresholding: small weights
become exactly 0); decoupled weight decay has factor = 1 - lr strength and threshold 0. Parikh and Boyd,
Proximal Algorithms, 2014, section 6.5.2.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.op import BadInput, Body, Op, Sample
from nnkernels.ops.steps.records import (
    check_arrays,
    check_options,
    frozen,
    make_bench_samples,
    plant,
    values,
)
from nnkernels.ops.steps.rules import SERIAL_BELOW_IF_CHEAP, Rule, make_bodies, make_rule


@inline
def shrink(p: Any, g: Any, state: Any, n: Any) -> Any:
    threshold, factor = n
    return factor * np.sign(p) * np.maximum(abs(p) - threshold, typed(0, p)), ()


SHRINK = make_rule(shrink, 0, 2, SERIAL_BELOW_IF_CHEAP, roots=False)


def plan(*, threshold: float = 0.0, factor: float = 1.0) -> tuple[Rule, tuple[()], tuple[float, float]]:
    return SHRINK, (), (threshold, factor)


BODIES = make_bodies(plan)


def without_gradient(body: Body) -> Body:
    """Return the body for a rule that looks at the parameter alone."""
    return Body(lambda param, **attributes: body.forward(param, param, **attributes))


# --- records ---

fault = plant("shrink.py")


def check(param: Array, **options: Any) -> None:
    check_arrays("shrink_step", param)
    check_options("shrink_step", plan, options)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape in ((), (1,), (7,), (3, 0), (2, 2, 3)):
        yield Sample(f"shape {shape}", values(rng, dtype, shape, "-"), {"threshold": 0.5})
    for attributes in ({"factor": 0.9}, {"threshold": 0.7, "factor": 0.5}, {}, {"threshold": 9.0}):
        yield Sample(str(attributes), values(rng, dtype, (4, 5), "-"), attributes)


def bad_inputs() -> Iterator[BadInput]:
    p = np.ones((2, 3))
    yield BadInput(TypeError, "param must be float32 or float64", (p.astype(int),))
    yield BadInput(ValueError, "threshold must be at least 0, got -0.5", (p,), {"threshold": -0.5})
    yield BadInput(ValueError, "factor must be finite, got inf", (p,), {"factor": np.inf})
    yield BadInput(ValueError, "input 0 is updated in place", (frozen(p),))


shrink_step = Op(
    "shrink_step",
    loops=without_gradient(BODIES["loops"]),
    vectorized=without_gradient(BODIES["vectorized"]),
    tuned=without_gradient(BODIES["tuned"]),
    cuda=without_gradient(BODIES["cuda"]),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=make_bench_samples("-", {"threshold": 0.1, "factor": 0.9}, (1 << 18) + 5),
    flops=lambda param, **attributes: param.size * 5,
    inplace=(0,),
    mutants=(
        fault("not cut at 0", "loops", "np.maximum(abs(p) - threshold, typed(0, p))",
               "(abs(p) - threshold)"),
        fault("sign forgotten", "loops", "factor * np.sign(p) *", "factor *"),
        fault("hard threshold", "tuned",
               "np.sign(p) * np.maximum(abs(p) - threshold, typed(0, p))", "p * (abs(p) > threshold)"),
        fault("factor forgotten", "tuned", "factor * np.sign(p) *", "np.sign(p) *"),
    ),
)  # fmt: skip
OPS_HERE = (shrink_step,)
