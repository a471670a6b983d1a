"""Stochastic gradient descent, with momentum.

    g = grad + weight_decay param
    velocity = momentum velocity + (1 - dampening) g          (velocity = g on the first step)
    g = velocity, or g + momentum velocity with nesterov      (only with momentum)
    param = param - lr g

Without dampening, a velocity that starts from zeros needs no ``first``. Sutskever et al., On the importance
of initialization and momentum in deep learning, ICML 2013.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline
from nnkernels.machine.memory import Array
from nnkernels.ops.op import BadInput, Op
from nnkernels.ops.steps.records import (
    check_arrays,
    check_options,
    common_bad_inputs,
    make_bench_samples,
    make_samples,
    plant,
)
from nnkernels.ops.steps.rules import SERIAL_BELOW_IF_CHEAP, Rule, decayed, make_bodies, make_rule
from nnkernels.ops.validate import given


@inline
def plain(p: Any, g: Any, state: Any, n: Any) -> Any:
    lr, weight_decay = n
    return p - lr * decayed(g, p, weight_decay), ()


@inline
def with_momentum(p: Any, g: Any, state: Any, n: Any) -> Any:
    (velocity,), (lr, momentum, gain, weight_decay, nesterov, first) = state, n
    g = decayed(g, p, weight_decay)
    velocity = g if first != 0 else momentum * velocity + gain * g
    u = g + momentum * velocity if nesterov != 0 else velocity
    return p - lr * u, (velocity,)


PLAIN = make_rule(plain, 0, 2, SERIAL_BELOW_IF_CHEAP, roots=False)
MOMENTUM = make_rule(with_momentum, 1, 6, SERIAL_BELOW_IF_CHEAP, roots=False)


def plan(
    velocity: Array | None = None, *, lr: float, momentum: float = 0.0, dampening: float = 0.0,
    weight_decay: float = 0.0, nesterov: bool = False, first: bool = False,
) -> tuple[Rule, tuple[Array, ...], tuple[float, ...]]:  # fmt: skip
    if momentum == 0 or velocity is None:
        return PLAIN, (), (lr, weight_decay)
    return MOMENTUM, (velocity,), (lr, momentum, 1 - dampening, weight_decay, nesterov, first)


# --- records ---

fault, shared = plant("sgd.py"), plant("rules.py")


def check(param: Array, grad: Array, velocity: Array | None = None, **options: Any) -> None:
    check_arrays("sgd_step", param, grad=grad, **given(velocity=velocity))
    check_options("sgd_step", plan, options)
    if options.get("momentum", 0) != 0 and velocity is None:
        raise ValueError(
            f"sgd_step: momentum {options['momentum']} needs velocity, an array of param's shape"
        )


def bad_inputs() -> Iterator[BadInput]:
    p, lr = np.ones((2, 3)), {"lr": 0.1}
    yield from common_bad_inputs((), lr)
    yield BadInput(ValueError, "velocity must have param's shape", (p, p, p.T), {**lr, "momentum": 0.9})
    yield BadInput(ValueError, "momentum 0.9 needs velocity", (p, p), {**lr, "momentum": 0.9})
    yield BadInput(ValueError, "weight_decay must be at least 0", (p, p), {**lr, "weight_decay": -1})
    yield BadInput(ValueError, "nesterov needs momentum above 0", (p, p), {**lr, "nesterov": True})
    options = {**lr, "momentum": 0.9, "dampening": 0.5, "nesterov": True}
    yield BadInput(ValueError, "and dampening 0.5", (p, p, p), options)
    yield BadInput(TypeError, "one dtype, got float64 and float32", (p, p.astype(np.float32)), lr)
    yield BadInput(TypeError, "param must be float32 or float64", (np.ones((2, 3), int), p), lr)
    yield BadInput(ValueError, "input 0 is updated in place", (p.T, p.T), lr)
    yield BadInput(TypeError, "missing 1 required keyword-only argument: 'lr'", (p, p))
    yield BadInput(TypeError, "nesterov must be a bool", (p, p), {**lr, "nesterov": 1})


def flops(
    param: Array, grad: Array, velocity: Array | None = None, *, lr: float, momentum: float = 0.0,
    dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, first: bool = False,
) -> int:  # fmt: skip
    averaging = 3 if momentum and not first else 0
    return param.size * (2 + averaging + (2 if weight_decay else 0) + (2 if nesterov else 0))


sgd_step = Op(
    "sgd_step", **make_bodies(plan),
    check=check,
    samples=make_samples(
        "--.", {"lr": 0.05},
        ("---", {"momentum": 0.9}),
        ("---", {"momentum": 0.9, "first": True, "dampening": 0.25}),
        ("---", {"momentum": 0.9, "dampening": 0.25, "weight_decay": 0.01}),
        ("---", {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}),
        ("---", {"momentum": 0.5, "nesterov": True, "first": True}),
        ("---", {"weight_decay": 0.1}),
    ),
    bad_inputs=bad_inputs,
    bench_samples=make_bench_samples("---", {"lr": 0.1, "momentum": 0.9}, (1 << 18) + 5),
    flops=flops,
    inplace=(0, 2),
    mutants=(
        fault("first step dampened", "loops", "g if first != 0", "gain * g if first != 0"),
        fault("nesterov looks back", "loops", "g + momentum * velocity if", "g + velocity if"),
        fault("dampening forgotten", "vectorized", "* velocity + gain * g", "* velocity + g"),
        fault("velocity not kept", "tuned", "p - lr * u, (velocity,)", "p - lr * u, state"),
        shared("weight decay has the wrong sign", "tuned", "g + weight_decay * p",
               "g - weight_decay * p"),
        shared("last chunk left out", "tuned", "k in prange((param.size + CHUNK - 1) // CHUNK)",
               "k in prange(param.size // CHUNK)"),
    ),
)  # fmt: skip
OPS_HERE = (sgd_step,)
