"""Adam and its kin: a mean of the gradient over its root mean square.

    g = grad + weight_decay param       (decoupled: param = (1 - lr weight_decay) param instead)
    m = beta1 m + (1 - beta1) g         v = beta2 v + (1 - beta2) g^2
    m' = m / (1 - beta1^step)           v' = v / (1 - beta2^step)       averages with weights of sum 1

    adam    param = param - lr m' / (sqrt(v') + eps)
            with max_v (amsgrad): max_v = max(max_v, v) takes the place of v in v'
    nadam   param = param - lr ((1 - mu) g / (1 - P) + mu' m / (1 - P mu')) / (sqrt(v') + eps)
            mu = beta1 (1 - 0.96^(step momentum_decay) / 2), mu' that of the next step,
            P the product of all mu so far: mu_product, of the steps before, times mu
    radam   param = param - lr m' r sqrt(1 - beta2^step) / (sqrt(v) + eps)    if rho > 5, else - lr m'
            rho = rho_inf - 2 step beta2^step / (1 - beta2^step), rho_inf = 2 / (1 - beta2) - 1,
            r^2 = (rho - 4) (rho - 2) rho_inf / ((rho_inf - 4) (rho_inf - 2) rho)

``step`` counts from 1. Kingma and Ba, Adam, ICLR 2015; Loshchilov and Hutter, Decoupled Weight Decay
Regularization, ICLR 2019; Reddi et al., On the Convergence of Adam and Beyond, ICLR 2018; Dozat,
Incorporating Nesterov Momentum into Adam, 2016; Liu et al., On the Variance of the Adaptive Learning Rate,
ICLR 2020.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.op import BadInput, Op
from nnkernels.ops.steps.records import (
    Betas,
    check_arrays,
    check_options,
    check_step,
    common_bad_inputs,
    make_bench_samples,
    make_samples,
    plant,
)
from nnkernels.ops.steps.rules import Rule, decayed, make_bodies, make_rule
from nnkernels.ops.validate import given

Plan = tuple[Rule, tuple[Array, ...], tuple[float, ...]]

# In all formulas, keep = 1 - lr weight_decay if it is decoupled, else 1.


@inline
def moments(g: Any, m: Any, v: Any, beta1: Any, gain1: Any, beta2: Any, gain2: Any) -> Any:
    return beta1 * m + gain1 * g, beta2 * v + gain2 * g * g


@inline
def adam(p: Any, g: Any, state: Any, n: Any) -> Any:
    # rate = lr / (1 - beta1^step) and root = 1 / sqrt(1 - beta2^step) are the same for all elements.
    (m, v), (beta1, gain1, beta2, gain2, weight_decay, keep, rate, root, eps) = state, n
    g = decayed(g, p, weight_decay)
    m, v = moments(g, m, v, beta1, gain1, beta2, gain2)
    return keep * p - rate * m / (np.sqrt(v) * root + eps), (m, v)


@inline
def amsgrad(p: Any, g: Any, state: Any, n: Any) -> Any:
    (m, v, top), (beta1, gain1, beta2, gain2, weight_decay, keep, rate, root, eps) = state, n
    g = decayed(g, p, weight_decay)
    m, v = moments(g, m, v, beta1, gain1, beta2, gain2)
    top = np.maximum(top, v)
    return keep * p - rate * m / (np.sqrt(top) * root + eps), (m, v, top)


@inline
def nadam(p: Any, g: Any, state: Any, n: Any) -> Any:
    # now = lr (1 - mu) / (1 - P) and ahead = lr mu' / (1 - P mu').
    (m, v), (beta1, gain1, beta2, gain2, weight_decay, keep, now, ahead, root, eps) = state, n
    g = decayed(g, p, weight_decay)
    m, v = moments(g, m, v, beta1, gain1, beta2, gain2)
    return keep * p - (now * g + ahead * m) / (np.sqrt(v) * root + eps), (m, v)


@inline
def radam(p: Any, g: Any, state: Any, n: Any) -> Any:
    # rate = lr / (1 - beta1^step), times r sqrt(1 - beta2^step) where that is rectified.
    (m, v), (beta1, gain1, beta2, gain2, weight_decay, keep, rate, rectified, eps) = state, n
    g = decayed(g, p, weight_decay)
    m, v = moments(g, m, v, beta1, gain1, beta2, gain2)
    spread = np.sqrt(v) + eps if rectified != 0 else typed(1, p)
    return keep * p - rate * m / spread, (m, v)


ADAM, AMSGRAD = make_rule(adam, 2, 9), make_rule(amsgrad, 3, 9)
NADAM, RADAM = make_rule(nadam, 2, 10), make_rule(radam, 2, 9)


def common(lr: float, betas: Betas, weight_decay: float, decoupled: bool) -> tuple[float, ...]:
    """Return the numbers that all formulas begin with."""
    (beta1, beta2), inside, outside = betas, weight_decay, 1.0
    if decoupled:
        inside, outside = 0.0, 1 - lr * weight_decay
    return beta1, 1 - beta1, beta2, 1 - beta2, inside, outside


def plan_adam(
    m: Array, v: Array, max_v: Array | None = None, *, step: int, lr: float = 1e-3,
    betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    decoupled_weight_decay: bool = False,
) -> Plan:  # fmt: skip
    rate, root = lr / (1 - betas[0] ** step), 1 / math.sqrt(1 - betas[1] ** step)
    numbers = (*common(lr, betas, weight_decay, decoupled_weight_decay), rate, root, eps)
    return (ADAM, (m, v), numbers) if max_v is None else (AMSGRAD, (m, v, max_v), numbers)


def nadam_mu(step: int, beta1: float, momentum_decay: float) -> float:
    """Return NAdam's momentum of a step."""
    return float(beta1 * (1 - 0.5 * 0.96 ** (step * momentum_decay)))


def plan_nadam(
    m: Array, v: Array, *, step: int, mu_product: float = 1.0, lr: float = 2e-3,
    betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False,
) -> Plan:  # fmt: skip
    mu, mu_next = (nadam_mu(s, betas[0], momentum_decay) for s in (step, step + 1))
    now = lr * (1 - mu) / (1 - mu_product * mu)
    ahead = lr * mu_next / (1 - mu_product * mu * mu_next)
    root = 1 / math.sqrt(1 - betas[1] ** step)
    return NADAM, (m, v), (*common(lr, betas, weight_decay, decoupled_weight_decay), now, ahead, root, eps)


def plan_radam(
    m: Array, v: Array, *, step: int, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
    weight_decay: float = 0.0, decoupled_weight_decay: bool = False,
) -> Plan:  # fmt: skip
    rate, power = lr / (1 - betas[0] ** step), betas[1] ** step
    rho_inf = 2 / (1 - betas[1]) - 1
    rho = rho_inf - 2 * step * power / (1 - power)
    if rho > 5:
        rate *= math.sqrt((rho - 4) * (rho - 2) * rho_inf / ((rho_inf - 4) * (rho_inf - 2) * rho))
        rate *= math.sqrt(1 - power)
    numbers = (*common(lr, betas, weight_decay, decoupled_weight_decay), rate, rho > 5, eps)
    return RADAM, (m, v), numbers


# --- records ---

fault, shared = plant("adam.py"), plant("rules.py")


def check_adam(
    param: Array, grad: Array, m: Array, v: Array, max_v: Array | None = None, **options: Any
) -> None:
    check_arrays("adam_step", param, grad=grad, m=m, v=v, **given(max_v=max_v))
    check_options("adam_step", plan_adam, options)


def check_nadam(param: Array, grad: Array, m: Array, v: Array, **options: Any) -> None:
    check_arrays("nadam_step", param, grad=grad, m=m, v=v)
    check_options("nadam_step", plan_nadam, options)


def check_radam(param: Array, grad: Array, m: Array, v: Array, **options: Any) -> None:
    check_arrays("radam_step", param, grad=grad, m=m, v=v)
    check_options("radam_step", plan_radam, options)


def bad_inputs() -> Iterator[BadInput]:
    p, one = np.ones((2, 3)), {"step": 1}
    four = (p, p, p.copy(), p.copy())
    yield from common_bad_inputs(("m", "v"), one)
    yield BadInput(ValueError, "step must be at least 1, got 0", four, {"step": 0})
    yield BadInput(TypeError, "step must be an int", four, {"step": 1.0})
    yield BadInput(TypeError, "missing 1 required keyword-only argument: 'step'", four)
    yield BadInput(ValueError, "betas[0] must be in [0, 1), got 1.0", four, {**one, "betas": (1.0, 0.9)})
    yield BadInput(ValueError, "betas[1] must be in [0, 1), got -0.1", four, {**one, "betas": (0.9, -0.1)})
    yield BadInput(TypeError, "betas must be a pair of numbers", four, {**one, "betas": 0.9})
    yield BadInput(ValueError, "eps must be at least 0", four, {**one, "eps": -1e-8})
    yield BadInput(ValueError, "weight_decay must be at least 0", four, {**one, "weight_decay": -0.1})
    wrong = {**one, "decoupled_weight_decay": "yes"}
    yield BadInput(TypeError, "decoupled_weight_decay must be a bool", four, wrong)


def bad_inputs_nadam() -> Iterator[BadInput]:
    p = np.ones((2, 3))
    yield from bad_inputs()
    options = {"step": 1, "momentum_decay": -1.0}
    yield BadInput(ValueError, "momentum_decay must be at least 0", (p, p, p.copy(), p.copy()), options)


def flops(param: Array, *others: Array, weight_decay: float = 0.0, **attributes: Any) -> int:
    return param.size * (14 + (2 if weight_decay else 0))


DECAYED = {"step": 2, "weight_decay": 0.1}
DECOUPLED = {"step": 3, "weight_decay": 0.5, "lr": 0.1, "decoupled_weight_decay": True}
LATE = {"step": 1000, "lr": 0.1, "betas": (0.5, 0.9), "eps": 0.1}

adam_step = Op(
    "adam_step", **make_bodies(plan_adam),
    check=check_adam,
    counter="step",
    check_values=check_step("adam_step"),
    samples=make_samples(
        "---+.", {"step": 1}, ("---+.", DECAYED), ("---+.", LATE), ("---+.", DECOUPLED),
        ("---+.", {"step": 3, "betas": (0.0, 0.0)}), ("---++", {"step": 4}), ("---++", LATE),
        ("---++", DECOUPLED), ("---++", DECAYED),
    ),
    bad_inputs=bad_inputs,
    bench_samples=make_bench_samples("---+", {"step": 2}),
    flops=flops,
    inplace=(0, 2, 3, 4),
    mutants=(
        fault("bias of m not corrected", "loops", "rate, root = lr / (1 - betas[0] ** step)",
               "rate, root = lr"),
        fault("eps under the root", "loops", "rate * m / (np.sqrt(v) * root + eps)",
              "rate * m / np.sqrt(v * root * root + eps)"),
        fault("square forgotten", "vectorized", "gain2 * g * g", "gain2 * g"),
        fault("bias of v corrected twice", "tuned",
               "root = lr / (1 - betas[0] ** step), 1 / math.sqrt(1 - betas[1] ** step)",
               "root = lr / (1 - betas[0] ** step), 1 / (1 - betas[1] ** step)"),
        shared("moments swapped", "tuned", "    a[i] = new[0]\n    b[i] = new[1]\n\n",
              "    a[i] = new[1]\n    b[i] = new[0]\n\n"),
        shared("gradient shifted by one", "tuned", "chunk(param[i:j], grad[i:j],",
               "chunk(param[i:j], grad[i - 1:j - 1],"),
        fault("last mean instead of the largest", "loops", "np.maximum(top, v)", "v"),
        fault("decay counted twice", "tuned", "inside, outside = 0.0, 1",
               "inside, outside = weight_decay, 1"),
    ),
)  # fmt: skip
nadam_step = Op(
    "nadam_step", **make_bodies(plan_nadam),
    check=check_nadam,
    counter="step",
    check_values=check_step("nadam_step"),
    samples=make_samples(
        "---+", {"step": 1}, ("---+", {**DECAYED, "mu_product": 0.45}),
        ("---+", {**LATE, "mu_product": 0.01}),
        ("---+", {**DECOUPLED, "mu_product": 0.2, "momentum_decay": 0.1}),
    ),
    bad_inputs=bad_inputs_nadam,
    bench_samples=make_bench_samples("---+", {"step": 2, "mu_product": 0.45}),
    flops=lambda param, *others, **attributes: flops(param, **attributes) + 2 * param.size,
    inplace=(0, 2, 3),
    mutants=(
        fault("momentum of this step alone", "loops", "for s in (step, step + 1)",
               "for s in (step, step)"),
        fault("product one step behind", "tuned", "/ (1 - mu_product * mu)\n",
               "/ (1 - mu_product)\n"),
        fault("gradient left out", "tuned", "(now * g + ahead * m)", "(ahead * m)"),
        fault("half forgotten", "loops", "1 - 0.5 * 0.96", "1 - 0.96"),
        fault("next product too short", "vectorized", "mu_product * mu * mu_next",
               "mu_product * mu_next"),
    ),
)  # fmt: skip
radam_step = Op(
    "radam_step", **make_bodies(plan_radam),
    check=check_radam,
    counter="step",
    check_values=check_step("radam_step"),
    samples=make_samples(
        "---+", {"step": 1}, ("---+", DECAYED), ("---+", {**DECOUPLED, "step": 6}), ("---+", {"step": 5}),
        ("---+", {"step": 1000, "lr": 0.1, "betas": (0.5, 0.9), "eps": 0.1}),
        ("---+", {"step": 7, "lr": 0.3}),
    ),
    bad_inputs=bad_inputs,
    bench_samples=make_bench_samples("---+", {"step": 9}),
    flops=flops,
    inplace=(0, 2, 3),
    mutants=(
        fault("rectified from the start", "loops", "rate, rho > 5, eps", "rate, 1, eps"),
        fault("bound of 4", "tuned", "    if rho > 5:", "    if rho > 4:"),
        fault("root of v's bias forgotten", "tuned", "        rate *= math.sqrt(1 - power)\n", ""),
        fault("length one too long", "loops", "2 / (1 - betas[1]) - 1", "2 / (1 - betas[1])"),
        fault("twice forgotten", "vectorized", "rho_inf - 2 * step", "rho_inf - step"),
    ),
)  # fmt: skip
OPS_HERE = (adam_step, nadam_step, radam_step)
