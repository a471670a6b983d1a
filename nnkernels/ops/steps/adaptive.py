"""Steps that divide the gradient by a root mean square of its past.

    g = grad + weight_decay param

    rmsprop   s = alpha s + (1 - alpha) g^2
              with grad_avg (centered): a = alpha a + (1 - alpha) g, and s - a^2 takes the place of s below
              u = g / (sqrt(s) + eps), with momentum: b = momentum b + u takes the place of u
              param = param - lr u
    adagrad   sum = sum + g^2
              param = param - lr / (1 + (step - 1) lr_decay) g / (sqrt(sum) + eps)
    adadelta  s = rho s + (1 - rho) g^2
              u = sqrt(d + eps) / sqrt(s + eps) g,     d = rho d + (1 - rho) u^2
              param = param - lr u

Rounding may take s - a^2 below 0, where the gradient hardly changes; then it counts as 0. Tieleman and
Hinton, Lecture 6.5 of Neural Networks for Machine Learning, 2012; Graves, arXiv:1308.0850 (centered); Duchi
et al., Adaptive Subgradient Methods, JMLR 12, 2011; Zeiler, ADADELTA, arXiv:1212.5701.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.op import BadInput, Op
from nnkernels.ops.steps.records import (
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


@inline
def deviation(s: Any, a: Any) -> Any:
    return np.sqrt(np.maximum(s - a * a, typed(0, s)))


@inline
def rmsprop(p: Any, g: Any, state: Any, n: Any) -> Any:
    (s,), (lr, alpha, gain, eps, weight_decay, _) = state, n
    g = decayed(g, p, weight_decay)
    s = alpha * s + gain * g * g
    return p - lr * g / (np.sqrt(s) + eps), (s,)


@inline
def rmsprop_momentum(p: Any, g: Any, state: Any, n: Any) -> Any:
    (s, b), (lr, alpha, gain, eps, weight_decay, momentum) = state, n
    g = decayed(g, p, weight_decay)
    s = alpha * s + gain * g * g
    b = momentum * b + g / (np.sqrt(s) + eps)
    return p - lr * b, (s, b)


@inline
def rmsprop_centered(p: Any, g: Any, state: Any, n: Any) -> Any:
    (s, a), (lr, alpha, gain, eps, weight_decay, _) = state, n
    g = decayed(g, p, weight_decay)
    s, a = alpha * s + gain * g * g, alpha * a + gain * g
    return p - lr * g / (deviation(s, a) + eps), (s, a)


@inline
def rmsprop_both(p: Any, g: Any, state: Any, n: Any) -> Any:
    (s, a, b), (lr, alpha, gain, eps, weight_decay, momentum) = state, n
    g = decayed(g, p, weight_decay)
    s, a = alpha * s + gain * g * g, alpha * a + gain * g
    b = momentum * b + g / (deviation(s, a) + eps)
    return p - lr * b, (s, a, b)


@inline
def adagrad(p: Any, g: Any, state: Any, n: Any) -> Any:
    (total,), (rate, eps, weight_decay) = state, n
    g = decayed(g, p, weight_decay)
    total = total + g * g
    return p - rate * g / (np.sqrt(total) + eps), (total,)


@inline
def adadelta(p: Any, g: Any, state: Any, n: Any) -> Any:
    (s, d), (lr, rho, gain, eps, weight_decay) = state, n
    g = decayed(g, p, weight_decay)
    s = rho * s + gain * g * g
    u = np.sqrt((d + eps) / (s + eps)) * g  # one root and one division instead of two roots and one
    return p - lr * u, (s, rho * d + gain * u * u)


RMSPROP, RMSPROP_MOMENTUM = make_rule(rmsprop, 1, 6), make_rule(rmsprop_momentum, 2, 6)
RMSPROP_CENTERED, RMSPROP_BOTH = make_rule(rmsprop_centered, 2, 6), make_rule(rmsprop_both, 3, 6)
ADAGRAD, ADADELTA = make_rule(adagrad, 1, 3), make_rule(adadelta, 2, 5)


def plan_rmsprop(
    square_avg: Array, grad_avg: Array | None = None, momentum_buffer: Array | None = None, *,
    lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8, weight_decay: float = 0.0,
    momentum: float = 0.0,
) -> Plan:  # fmt: skip
    numbers = (lr, alpha, 1 - alpha, eps, weight_decay, momentum)
    if momentum == 0 or momentum_buffer is None:
        if grad_avg is None:
            return RMSPROP, (square_avg,), numbers
        return RMSPROP_CENTERED, (square_avg, grad_avg), numbers
    if grad_avg is None:
        return RMSPROP_MOMENTUM, (square_avg, momentum_buffer), numbers
    return RMSPROP_BOTH, (square_avg, grad_avg, momentum_buffer), numbers


def plan_adagrad(
    total: Array, *, step: int, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
    eps: float = 1e-10,
) -> Plan:  # fmt: skip
    return ADAGRAD, (total,), (lr / (1 + (step - 1) * lr_decay), eps, weight_decay)


def plan_adadelta(
    square_avg: Array, acc_delta: Array, *, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6,
    weight_decay: float = 0.0,
) -> Plan:  # fmt: skip
    return ADADELTA, (square_avg, acc_delta), (lr, rho, 1 - rho, eps, weight_decay)


# --- records ---

fault, shared = plant("adaptive.py"), plant("rules.py")


def check_rmsprop(
    param: Array, grad: Array, square_avg: Array, grad_avg: Array | None = None,
    momentum_buffer: Array | None = None, **options: Any,
) -> None:  # fmt: skip
    others = given(grad_avg=grad_avg, momentum_buffer=momentum_buffer)
    check_arrays("rmsprop_step", param, grad=grad, square_avg=square_avg, **others)
    check_options("rmsprop_step", plan_rmsprop, options)
    if options.get("momentum", 0) != 0 and momentum_buffer is None:
        raise ValueError(
            f"rmsprop_step: momentum {options['momentum']} needs momentum_buffer, an array of param's shape"
        )


def check_adagrad(param: Array, grad: Array, total: Array, **options: Any) -> None:
    check_arrays("adagrad_step", param, grad=grad, total=total)
    check_options("adagrad_step", plan_adagrad, options)


def check_adadelta(param: Array, grad: Array, square_avg: Array, acc_delta: Array, **options: Any) -> None:
    check_arrays("adadelta_step", param, grad=grad, square_avg=square_avg, acc_delta=acc_delta)
    check_options("adadelta_step", plan_adadelta, options)


def bad_inputs_rmsprop() -> Iterator[BadInput]:
    p = np.ones((2, 3))
    three = (p, p, p.copy())
    yield from common_bad_inputs(("square_avg",), {})
    yield BadInput(ValueError, "grad_avg must have param's shape (2, 3), got (3, 2)", (*three, p.T))
    yield BadInput(ValueError, "momentum_buffer must have param's shape", (*three, None, p[0]))
    yield BadInput(ValueError, "momentum 0.9 needs momentum_buffer", three, {"momentum": 0.9})
    for name in ("alpha", "eps", "weight_decay", "momentum"):
        yield BadInput(ValueError, f"{name} must be at least 0, got -0.5", three, {name: -0.5})


def bad_inputs_adagrad() -> Iterator[BadInput]:
    p, one = np.ones((2, 3)), {"step": 1}
    three = (p, p, p.copy())
    yield from common_bad_inputs(("total",), one)
    yield BadInput(ValueError, "step must be at least 1, got 0", three, {"step": 0})
    for name in ("lr_decay", "eps", "weight_decay"):
        yield BadInput(ValueError, f"{name} must be at least 0, got -0.5", three, {**one, name: -0.5})


def bad_inputs_adadelta() -> Iterator[BadInput]:
    p = np.ones((2, 3))
    four = (p, p, p.copy(), p.copy())
    yield from common_bad_inputs(("square_avg", "acc_delta"), {})
    yield BadInput(ValueError, "rho must be in [0, 1], got 1.5", four, {"rho": 1.5})
    for name in ("rho", "eps", "weight_decay"):
        yield BadInput(ValueError, f"{name} must be at least 0, got -0.5", four, {name: -0.5})


def flops_rmsprop(
    param: Array, grad: Array, square_avg: Array, grad_avg: Array | None = None,
    momentum_buffer: Array | None = None, *, weight_decay: float = 0.0, **attributes: Any,
) -> int:  # fmt: skip
    more = (0 if grad_avg is None else 5) + (0 if momentum_buffer is None else 2)
    return param.size * (9 + more + (2 if weight_decay else 0))


rmsprop_step = Op(
    "rmsprop_step", **make_bodies(plan_rmsprop),
    check=check_rmsprop,
    samples=make_samples(
        "--+..", {}, ("--+..", {"lr": 0.1, "alpha": 0.5, "eps": 0.1, "weight_decay": 0.1}),
        ("--+.-", {"momentum": 0.9, "weight_decay": 0.1}), ("--+-.", {"lr": 0.1, "eps": 0.1, "alpha": 0.6}),
        ("--+--", {"momentum": 0.5, "lr": 0.1, "weight_decay": 0.1, "eps": 0.1}),
    ),
    bad_inputs=bad_inputs_rmsprop,
    bench_samples=make_bench_samples("--+..", {}),
    flops=flops_rmsprop,
    inplace=(0, 2, 3, 4),
    mutants=(
        fault("mean not squared", "loops", "s - a * a", "s - a"),
        fault("eps under the root", "tuned", "p - lr * g / (np.sqrt(s) + eps)",
               "p - lr * g / np.sqrt(s + eps)"),
        fault("momentum added to the gradient alone", "loops",
               "b = momentum * b + g / (np.sqrt(s) + eps)", "b = (momentum * b + g) / (np.sqrt(s) + eps)"),
        fault("centred with momentum not centred", "tuned",
               "momentum * b + g / (deviation(s, a) + eps)", "momentum * b + g / (np.sqrt(s) + eps)"),
        fault("mean forgotten", "vectorized", "(deviation(s, a) + eps), (s, a)",
               "(deviation(s, a) + eps), (s, state[1])"),
        shared("mean and buffer mixed up", "tuned", "    c[i] = new[2]", "    c[i] = new[1]"),
    ),
)  # fmt: skip
adagrad_step = Op(
    "adagrad_step", **make_bodies(plan_adagrad),
    check=check_adagrad,
    counter="step",
    check_values=check_step("adagrad_step"),
    samples=make_samples(
        "--+", {"step": 1}, ("--+", {"step": 5, "lr_decay": 0.3, "lr": 0.1}),
        ("--+", {"step": 2, "weight_decay": 0.2, "eps": 0.1, "lr": 0.1}),
    ),
    bad_inputs=bad_inputs_adagrad,
    bench_samples=make_bench_samples("--+", {"step": 2}),
    flops=lambda param, *others, **options: param.size * (9 if options.get("weight_decay") else 7),
    inplace=(0, 2),
    mutants=(
        fault("sum forgotten", "loops", "total = total + g * g", "total = g * g"),
        fault("gradient not squared", "tuned", "total = total + g * g",
               "total = total + abs(g)"),
        fault("decay one step early", "loops", "(step - 1) * lr_decay", "step * lr_decay"),
        fault("root forgotten", "tuned", "(np.sqrt(total) + eps)", "(total + eps)"),
        shared("sum not kept", "tuned", "    a[i] = new[0]\n\n", "    pass\n\n"),
    ),
)  # fmt: skip
adadelta_step = Op(
    "adadelta_step", **make_bodies(plan_adadelta),
    check=check_adadelta,
    samples=make_samples(
        "--++", {}, ("--++", {"lr": 0.5, "rho": 0.5, "eps": 0.1, "weight_decay": 0.1}),
        ("--++", {"rho": 1.0}),
    ),
    bad_inputs=bad_inputs_adadelta,
    bench_samples=make_bench_samples("--++", {}),
    flops=lambda param, *others, **options: param.size * (17 if options.get("weight_decay") else 15),
    inplace=(0, 2, 3),
    mutants=(
        fault("learning rate in the memory", "loops", "p - lr * u, (s, rho * d + gain * u * u)",
               "p - lr * u, (s, rho * d + gain * lr * u * lr * u)"),
        fault("eps forgotten above", "loops", "(d + eps) / (s + eps)", "d / (s + eps)"),
        fault("ratio upside down", "tuned", "(d + eps) / (s + eps)", "(s + eps) / (d + eps)"),
        fault("root forgotten", "tuned", "np.sqrt((d + eps) / (s + eps))",
               "((d + eps) / (s + eps))"),
        fault("step without its gradient", "vectorized", "(s + eps)) * g", "(s + eps))"),
    ),
)  # fmt: skip
OPS_HERE = (rmsprop_step, adagrad_step, adadelta_step)
