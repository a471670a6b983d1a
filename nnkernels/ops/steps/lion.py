"""Lion: a step of fixed length along the sign of a mean.

    param = (1 - lr weight_decay) param - lr sign(beta1 m + (1 - beta1) grad)
    m = beta2 m + (1 - beta2) grad

Chen et al., Symbolic Discovery of Optimization Algorithms, NeurIPS 2023. sign(0) = 0.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline
from nnkernels.machine.memory import Array
from nnkernels.ops.op import BadInput, Op
from nnkernels.ops.steps.records import (
    Betas,
    check_arrays,
    check_options,
    common_bad_inputs,
    make_bench_samples,
    make_samples,
    plant,
)
from nnkernels.ops.steps.rules import Rule, make_bodies, make_rule


@inline
def lion(p: Any, g: Any, state: Any, n: Any) -> Any:
    (m,), (lr, keep, beta1, gain1, beta2, gain2) = state, n
    u = np.sign(beta1 * m + gain1 * g)
    return keep * p - lr * u, (beta2 * m + gain2 * g,)


LION = make_rule(lion, 1, 6, roots=False)


def plan(
    m: Array, *, lr: float = 1e-4, betas: Betas = (0.9, 0.99), weight_decay: float = 0.0
) -> tuple[Rule, tuple[Array, ...], tuple[float, ...]]:
    beta1, beta2 = betas
    return LION, (m,), (lr, 1 - lr * weight_decay, beta1, 1 - beta1, beta2, 1 - beta2)


# --- records ---

fault = plant("lion.py")


def check(param: Array, grad: Array, m: Array, **options: Any) -> None:
    check_arrays("lion_step", param, grad=grad, m=m)
    check_options("lion_step", plan, options)


def bad_inputs() -> Iterator[BadInput]:
    p = np.ones((2, 3))
    three = (p, p, p.copy())
    yield from common_bad_inputs(("m",), {})
    yield BadInput(ValueError, "betas[0] must be in [0, 1), got 1.0", three, {"betas": (1.0, 0.9)})
    yield BadInput(TypeError, "betas must be a pair of numbers", three, {"betas": (0.9, 0.9, 0.9)})
    yield BadInput(ValueError, "weight_decay must be at least 0", three, {"weight_decay": -0.1})


lion_step = Op(
    "lion_step", **make_bodies(plan),
    check=check,
    samples=make_samples(
        "---", {"lr": 0.1}, ("---", {"lr": 0.1, "weight_decay": 0.5}), ("---", {"betas": (0.5, 0.75)}),
    ),
    bad_inputs=bad_inputs,
    bench_samples=make_bench_samples("---", {}),
    flops=lambda param, *others, **attributes: param.size * 10,
    inplace=(0, 2),
    mutants=(
        fault("betas swapped", "loops", "beta1, beta2 = betas", "beta2, beta1 = betas"),
        fault("sign forgotten", "tuned", "np.sign(beta1 * m + gain1 * g)",
               "beta1 * m + gain1 * g"),
        fault("sign of the gradient alone", "tuned", "np.sign(beta1 * m + gain1 * g)",
               "np.sign(g)"),
        fault("decay not scaled by lr", "loops", "1 - lr * weight_decay", "1 - weight_decay"),
        fault("mean not kept", "vectorized", "(beta2 * m + gain2 * g,)", "state"),
    ),
)  # fmt: skip
OPS_HERE = (lion_step,)
