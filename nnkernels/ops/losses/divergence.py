"""Kullback-Leibler divergence of a distribution t from one that is given by logarithms x = ln p.

    kl_div   t (ln t - x), or e^t (t - x) where t holds logarithms, too (``log_target=True``)

Both arrays have one shape and a gradient; a t of 0 costs nothing, whatever x (so that its gradient by t is
-inf there). ``reduction`` makes of these l_i their "sum", "mean" (over all elements), "none" or "batchmean",
the sum over the length N of the first axis, which is the mean divergence of N distributions. Kullback and
Leibler, On Information and Sufficiency, 1951.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.elementary import exp
from nnkernels.machine.elementary import log as ln
from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.losses.elementwise import OTHER, SLOPE, Family, Formula, Given
from nnkernels.ops.losses.records import check_arrays, make_op
from nnkernels.ops.losses.reduction import reduced
from nnkernels.ops.op import BadInput, Mutant
from nnkernels.ops.validate import fail_type


@inline
def kl_f(x: Any, t: Any, *_: Any) -> Any:
    return t * (np.log(t) - x) if t != 0 else typed(0, t)


@inline
def kl_tuned(x: Any, t: Any, *_: Any) -> Any:
    return t * (ln(t) - x) if t != 0 else typed(0, t)


@inline
def kl_dx(x: Any, t: Any, *_: Any) -> Any:
    return -t


@inline
def kl_dt(x: Any, t: Any, *_: Any) -> Any:
    return np.log(t) + typed(1, t) - x


@inline
def kl_dt_tuned(x: Any, t: Any, *_: Any) -> Any:
    return ln(t) + typed(1, t) - x


@inline
def log_kl_f(x: Any, t: Any, *_: Any) -> Any:
    return np.exp(t) * (t - x)


@inline
def log_kl_dx(x: Any, t: Any, *_: Any) -> Any:
    return -np.exp(t)


@inline
def log_kl_dt(x: Any, t: Any, *_: Any) -> Any:
    return np.exp(t) * (typed(1, t) + t - x)


@inline
def log_kl_tuned(x: Any, t: Any, *_: Any) -> Any:
    return exp(t) * (t - x)


@inline
def log_kl_dx_tuned(x: Any, t: Any, *_: Any) -> Any:
    return -exp(t)


@inline
def log_kl_dt_tuned(x: Any, t: Any, *_: Any) -> Any:
    return exp(t) * (typed(1, t) + t - x)


def kl_numpy(x: Array, t: Array, *_: Any) -> Array:
    return np.where(t != 0, t * (np.log(t) - x), 0 * t)


def kl_dt_numpy(x: Array, t: Array, *_: Any) -> Array:
    return np.asarray(np.log(t) + 1 - x)


def log_kl_dt_numpy(x: Array, t: Array, *_: Any) -> Array:
    return np.asarray(np.exp(t) * (1 + t - x))


def kl_given(x: Array, t: Array, log_target: bool = False) -> Given:
    return Given(1 if log_target else 0)


# --- in ops ---


def kl_formula(x: Any, t: Any, reduction: str = "mean", log_target: bool = False) -> Any:
    if log_target:
        return reduced(t.exp() * (t - x), reduction)
    return reduced(t * (t.log() - x), reduction)


# --- records ---


def check(x: Array, t: Array, reduction: Any = "mean", log_target: Any = False) -> None:
    check_arrays("kl_div", reduction, ("mean", "sum", "none", "batchmean"), x=x, t=t)
    if not isinstance(log_target, (bool, np.bool_)):
        fail_type("kl_div", "log_target", log_target, "a bool")


def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.uniform(-4, 0, shape), rng.uniform(0.05, 1, shape)


def bad() -> Iterator[BadInput]:
    x = np.ones((2, 3))
    yield BadInput(
        ValueError, "batchmean needs an axis", (x[0, 0, ...], x[0, 0, ...]), {"reduction": "batchmean"}
    )
    yield BadInput(ValueError, "mean over an empty batch", (x[:0], x[:0]), {"reduction": "batchmean"})
    yield BadInput(TypeError, "log_target must be a bool, got int 1", (x, x), {"log_target": 1})


def mutant(name: str, old: str, new: str, body: Any = "loops", file: str = "divergence") -> Mutant:
    """Return a fault planted in this file or a neighbour."""
    return Mutant(name, body, f"losses/{file}.py", old, new)


kl_div = make_op(
    "kl_div", Family(kl_given, ((SLOPE, 1), (OTHER, 1))), check, draw, names=("x", "t"), flops=20,
    cases=({"reduction": "batchmean"}, {"log_target": True}, {"log_target": True, "reduction": "none"},
           {"log_target": True, "reduction": "batchmean"}),
    bad=bad,
    loops=(Formula(kl_f, kl_dx, kl_dt), Formula(log_kl_f, log_kl_dx, log_kl_dt)),
    vectorized=(Formula(kl_numpy, kl_dx, kl_dt_numpy), Formula(log_kl_f, log_kl_dx, log_kl_dt_numpy)),
    tuned=(Formula(kl_tuned, kl_dx, kl_dt_tuned), Formula(log_kl_tuned, log_kl_dx_tuned, log_kl_dt_tuned)),
    gradient=by_formula(kl_formula),
    mutants=(
        mutant("ratio of p to t", "t * (np.log(t) - x) if t != 0 else typed",
               "t * (x - np.log(t)) if t != 0 else typed"),
        mutant("slope by t without its 1", "return np.log(t) + typed(1, t) - x", "return np.log(t) - x"),
        mutant("batchmean over the last axis", "1.0 / len(terms) if",
               "1.0 / terms.shape[-1] if", file="reduction"),
        mutant("logarithms taken for shares", "1 if log_target else 0", "0", "tuned"),
        mutant("slope of the other sign", "return -exp(t)", "return exp(t)", "tuned"),
        mutant("t for ln t", "t * (ln(t) - x)", "t * (t - x)", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (kl_div,)
