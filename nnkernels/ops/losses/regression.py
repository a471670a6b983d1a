"""Losses of a real prediction x and its target y, of one shape; both have gradients, with d = x - y.

    mse         d^2, or half of it (``half=True``)
    l1          |d|
    smooth_l1   d^2 / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere
    huber       d^2 / 2 where |d| <= delta, delta (|d| - delta / 2) elsewhere
    gaussian_nll   (ln v + d^2 / v) / 2, plus ln(2 pi) / 2 with ``full=True``

``reduction`` makes of these l_i their "mean", "sum" or "none" (all). huber is delta times smooth_l1 with
beta = delta (Huber, Robust Estimation of a Location Parameter, 1964). gaussian_nll is the negative
log-likelihood of y under a normal distribution of mean x and variance v, a third array of the same shape;
variances below ``eps`` count as eps, while the gradient passes as if they were (Nix and Weigend, Estimating
the Mean and Variance of the Target Probability Distribution, 1994).
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.elementary import log as ln
from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.losses.elementwise import (
    BY_DIFFERENCE,
    OTHER,
    PLAIN,
    Family,
    Formula,
    Given,
    no_other,
)
from nnkernels.ops.losses.records import check_arrays, demand, make_op
from nnkernels.ops.losses.reduction import reduced
from nnkernels.ops.op import BadInput, Mutant
from nnkernels.ops.validate import fail_type, number

# --- mse: a is 1, or 1/2 ---


@inline
def mse_f(x: Any, y: Any, a: Any, *_: Any) -> Any:
    return a * (x - y) * (x - y)


@inline
def mse_df(x: Any, y: Any, a: Any, *_: Any) -> Any:
    return a * ((x - y) + (x - y))  # an integer 2 would make float32 wider


def mse_given(x: Array, y: Array, half: bool = False) -> Given:
    return Given(0, 0.5 if half else 1.0)


# --- l1 ---


@inline
def l1_f(x: Any, y: Any, *_: Any) -> Any:
    return abs(x - y)


@inline
def sign(d: Any) -> Any:
    return typed(1, d) if d > 0 else (typed(-1, d) if d < 0 else typed(0, d))


@inline
def l1_df(x: Any, y: Any, *_: Any) -> Any:
    return sign(x - y)  # at the kink, 0


def l1_df_numpy(x: Array, y: Array, *_: Any) -> Array:
    return np.asarray(np.sign(x - y))


def l1_given(x: Array, y: Array) -> Given:
    return PLAIN


# --- smooth_l1 ---


@inline
def smooth_l1_f(x: Any, y: Any, beta: Any, *_: Any) -> Any:
    d, half = abs(x - y), typed(0.5, x)
    return half * d * d / beta if d < beta else d - half * beta


@inline
def smooth_l1_df(x: Any, y: Any, beta: Any, *_: Any) -> Any:
    d = x - y
    return d / beta if abs(d) < beta else sign(d)


def smooth_l1_numpy(x: Array, y: Array, beta: Any, *_: Any) -> Array:
    d = np.abs(x - y)
    return np.asarray(np.where(d < beta, 0.5 * d * d / beta, d - 0.5 * beta))


def smooth_l1_df_numpy(x: Array, y: Array, beta: Any, *_: Any) -> Array:
    d = x - y
    return np.asarray(np.where(np.abs(d) < beta, d / beta, np.sign(d)))


def smooth_l1_given(x: Array, y: Array, beta: float = 1.0) -> Given:
    return Given(0, beta)


# --- huber ---


@inline
def huber_f(x: Any, y: Any, delta: Any, *_: Any) -> Any:
    d, half = abs(x - y), typed(0.5, x)
    return half * d * d if d <= delta else delta * (d - half * delta)


@inline
def huber_df(x: Any, y: Any, delta: Any, *_: Any) -> Any:
    d = x - y
    return d if abs(d) <= delta else delta * sign(d)


def huber_numpy(x: Array, y: Array, delta: Any, *_: Any) -> Array:
    d = np.abs(x - y)
    return np.asarray(np.where(d <= delta, 0.5 * d * d, delta * (d - 0.5 * delta)))


def huber_df_numpy(x: Array, y: Array, delta: Any, *_: Any) -> Array:
    return np.asarray((x - y).clip(-delta, delta))


def huber_given(x: Array, y: Array, delta: float = 1.0) -> Given:
    return Given(0, delta)


# --- gaussian_nll: a is eps, b the constant ---

HALF_LN_2_PI = 0.5 * math.log(2 * math.pi)


@inline
def gaussian_f(x: Any, y: Any, eps: Any, constant: Any, v: Any, *_: Any) -> Any:
    s, d = max(v, eps), x - y
    return typed(0.5, x) * (np.log(s) + d * d / s) + constant


@inline
def gaussian_tuned(x: Any, y: Any, eps: Any, constant: Any, v: Any, *_: Any) -> Any:
    s, d = (eps if v < eps else v), x - y
    return typed(0.5, x) * (ln(s) + d * d / s) + constant


@inline
def gaussian_df(x: Any, y: Any, eps: Any, constant: Any, v: Any, *_: Any) -> Any:
    return (x - y) / (eps if v < eps else v)


@inline
def gaussian_dv(x: Any, y: Any, eps: Any, constant: Any, v: Any, *_: Any) -> Any:
    s, d = (eps if v < eps else v), x - y
    return typed(0.5, x) / s * (typed(1, x) - d * d / s)


def gaussian_numpy(x: Array, y: Array, eps: Any, constant: Any, v: Array, *_: Any) -> Array:
    s = np.maximum(v, eps)
    return np.asarray(0.5 * (np.log(s) + (x - y) ** 2 / s) + constant)


def gaussian_df_numpy(x: Array, y: Array, eps: Any, constant: Any, v: Array, *_: Any) -> Array:
    return np.asarray((x - y) / np.maximum(v, eps))


def gaussian_dv_numpy(x: Array, y: Array, eps: Any, constant: Any, v: Array, *_: Any) -> Array:
    s = np.maximum(v, eps)
    return np.asarray(0.5 / s - 0.5 * ((x - y) / s) ** 2)


def gaussian_given(x: Array, y: Array, var: Array, full: bool = False, eps: float = 1e-6) -> Given:
    return Given(0, eps, HALF_LN_2_PI if full else 0.0, var)


# --- in ops ---


def mse_formula(x: Any, y: Any, reduction: str = "mean", half: bool = False) -> Any:
    d = x - y
    return reduced(d * d / (2 if half else 1), reduction)


def l1_formula(x: Any, y: Any, reduction: str = "mean") -> Any:
    return reduced(abs(x - y), reduction)


def smooth_l1_formula(x: Any, y: Any, reduction: str = "mean", beta: float = 1.0) -> Any:
    d = abs(x - y)
    near = (d < beta).astype(d.dtype)
    return reduced(near * (d * d) * (0.5 / (beta or 1.0)) + (1 - near) * (d - 0.5 * beta), reduction)


def huber_formula(x: Any, y: Any, reduction: str = "mean", delta: float = 1.0) -> Any:
    d = abs(x - y)
    near = (d <= delta).astype(d.dtype)
    return reduced(near * (d * d) * 0.5 + (1 - near) * delta * (d - 0.5 * delta), reduction)


def gaussian_formula(
    x: Any, y: Any, var: Any, reduction: str = "mean", full: bool = False, eps: float = 1e-6
) -> Any:
    d, v = x - y, var + np.maximum(eps - var.data, 0)  # below eps it counts as eps, with its gradient
    return reduced((v.log() + d * d / v) * 0.5, reduction)


# --- records ---


def pair(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return rng.uniform(-3, 3, shape), rng.uniform(-2, 2, shape)


def triple(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, ...]:
    return *pair(rng, shape), rng.uniform(0.2, 2, shape)


def check_bool(op: str, name: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        fail_type(op, name, value, "a bool")


def above_zero(op: str, name: str, value: Any) -> None:
    number(op, name, value)
    if value <= 0:
        raise ValueError(f"{op}: {name} must be above 0, got {value!r}")


def check_mse(x: Array, y: Array, reduction: Any = "mean", half: Any = False) -> None:
    check_arrays("mse", reduction, x=x, y=y)
    check_bool("mse", "half", half)


def check_l1(x: Array, y: Array, reduction: Any = "mean") -> None:
    check_arrays("l1", reduction, x=x, y=y)


def check_smooth_l1(x: Array, y: Array, reduction: Any = "mean", beta: Any = 1.0) -> None:
    check_arrays("smooth_l1", reduction, x=x, y=y)
    number("smooth_l1", "beta", beta, least=0)


def check_huber(x: Array, y: Array, reduction: Any = "mean", delta: Any = 1.0) -> None:
    check_arrays("huber", reduction, x=x, y=y)
    above_zero("huber", "delta", delta)


def check_gaussian(
    x: Array, y: Array, var: Array, reduction: Any = "mean", full: Any = False, eps: Any = 1e-6
) -> None:
    check_arrays("gaussian_nll", reduction, x=x, y=y, var=var)
    check_bool("gaussian_nll", "full", full)
    above_zero("gaussian_nll", "eps", eps)


def check_variances(x: Array, y: Array, var: Array, **_: Any) -> None:
    if not var.min(initial=0) >= 0:
        demand("gaussian_nll", "var", var, var >= 0, "at least 0")


def bad_attribute(name: str, *cases: tuple[Any, str, Any], arrays: int = 2) -> Any:
    """Return what yields one bad input for each (error, words, value) of the attribute."""

    def bad() -> Iterator[BadInput]:
        for error, words, value in cases:
            yield BadInput(error, words, (np.ones((2, 3)),) * arrays, {name: value})

    return bad


def bad_gaussian() -> Iterator[BadInput]:
    x, v = np.ones((2, 3)), np.ones((2, 3))
    v[1, 1] = -0.5
    yield BadInput(ValueError, "var must be at least 0, got -0.5 at flat position 4", (x, x, v))
    yield BadInput(ValueError, "var must be at least 0, got nan", (x, x, np.full((2, 3), np.nan)))
    yield BadInput(ValueError, "x and var must have one shape, got (2, 3) and (2, 1)", (x, x, v[:, :1]))
    yield BadInput(TypeError, "var must be a NumPy array", (x, x, 0.5))
    yield BadInput(ValueError, "eps must be above 0, got 0", (x, x, x), {"eps": 0})
    yield BadInput(TypeError, "full must be a bool, got int 1", (x, x, x), {"full": 1})


def mutant(name: str, old: str, new: str, body: Any = "loops", file: str = "regression") -> Mutant:
    """Return a fault planted in this file or a neighbour."""
    return Mutant(name, body, f"losses/{file}.py", old, new)


MSE = (Formula(mse_f, mse_df, no_other),)
mse = make_op(
    "mse", Family(mse_given, BY_DIFFERENCE), check_mse, pair, loops=MSE, vectorized=MSE, tuned=MSE,
    names=("x", "y"), flops=3, cases=({"half": True}, {"half": True, "reduction": "none"}),
    bad=bad_attribute("half", (TypeError, "half must be a bool, got float 0.5", 0.5)),
    gradient=by_formula(mse_formula),
    mutants=(
        mutant("factor 2 forgotten", "a * ((x - y) + (x - y))", "a * (x - y)"),
        mutant("half ignored", "0.5 if half else 1.0", "1.0 if half else 1.0"),
        mutant("sign of dy", "g, sign, *flattened", "g, 1, *flattened", file="elementwise"),
        mutant("sign of dy, tuned", "x.dtype.type(sign * factor", "x.dtype.type(factor", "tuned",
               "elementwise"),
        mutant("every chunk with the first targets", "scale, x[i:j], y[i:j], a, b",
               "scale, x[i:j], y[:j], a, b",
               "tuned", "elementwise"),
    ),
)  # fmt: skip
l1 = make_op(
    "l1", Family(l1_given, BY_DIFFERENCE), check_l1, pair, names=("x", "y"), flops=2,
    loops=(Formula(l1_f, l1_df, no_other),), vectorized=(Formula(l1_f, l1_df_numpy, no_other),),
    tuned=(Formula(l1_f, l1_df, no_other),),
    gradient=by_formula(l1_formula),
    mutants=(
        mutant("not the size", "return abs(x - y)\n", "return x - y\n"),
        mutant("slope of the sum", "return sign(x - y)  #", "return sign(x + y)  #"),
        mutant("slope 0 below 0", "(typed(-1, d) if d < 0 else", "(typed(0, d) if d < 0 else", "tuned"),
        mutant("one partial sum forgotten", "total[0] = row_sum(out)", "total[0] = row_sum(out[1:])", "tuned",
               "elementwise"),
    ),
)  # fmt: skip
smooth_l1 = make_op(
    "smooth_l1", Family(smooth_l1_given, BY_DIFFERENCE), check_smooth_l1, pair, names=("x", "y"), flops=5,
    loops=(Formula(smooth_l1_f, smooth_l1_df, no_other),),
    vectorized=(Formula(smooth_l1_numpy, smooth_l1_df_numpy, no_other),),
    tuned=(Formula(smooth_l1_f, smooth_l1_df, no_other),),
    cases=({"beta": 0.7}, {"beta": 0, "reduction": "none"}, {"beta": 2.5, "reduction": "sum"}),
    bad=bad_attribute("beta", (ValueError, "beta must be at least 0, got -1.0", -1.0),
                      (TypeError, "beta must be a number", "1")),
    gradient=by_formula(smooth_l1_formula),
    mutants=(
        mutant("beta not divided by", "half * d * d / beta if", "half * d * d if"),
        mutant("slope not divided by beta", "return d / beta if abs(d) < beta", "return d if abs(d) < beta"),
        mutant("jump at beta", "else d - half * beta", "else d", "tuned"),
        mutant("branches by d and not |d|", "if abs(d) < beta else sign(d)", "if d < beta else sign(d)",
               "tuned"),
        mutant("beta ignored", "Given(0, beta)", "Given(0, 1.0)", "tuned"),
    ),
)  # fmt: skip
huber = make_op(
    "huber", Family(huber_given, BY_DIFFERENCE), check_huber, pair, names=("x", "y"), flops=5,
    loops=(Formula(huber_f, huber_df, no_other),),
    vectorized=(Formula(huber_numpy, huber_df_numpy, no_other),),
    tuned=(Formula(huber_f, huber_df, no_other),),
    cases=({"delta": 0.7}, {"delta": 1, "reduction": "none"}, {"delta": 2.5, "reduction": "sum"}),
    bad=bad_attribute("delta", (ValueError, "delta must be above 0, got 0.0", 0.0),
                      (ValueError, "delta must be finite, got inf", math.inf),
                      (TypeError, "delta must be a number", None)),
    gradient=by_formula(huber_formula),
    mutants=(
        mutant("half forgotten", "return half * d * d if d <=", "return d * d if d <="),
        mutant("slope 1 outside", "else delta * sign(d)", "else sign(d)"),
        mutant("jump at delta", "delta * (d - half * delta)", "delta * d", "tuned"),
        mutant("delta forgotten outside", "else delta * (d - half", "else (d - half", "tuned"),
    ),
)  # fmt: skip
gaussian_nll = make_op(
    "gaussian_nll", Family(gaussian_given, (*BY_DIFFERENCE, (OTHER, 1)), 3), check_gaussian, triple,
    check_values=check_variances, names=("x", "y"), flops=30,
    loops=(Formula(gaussian_f, gaussian_df, gaussian_dv),),
    vectorized=(Formula(gaussian_numpy, gaussian_df_numpy, gaussian_dv_numpy),),
    tuned=(Formula(gaussian_tuned, gaussian_df, gaussian_dv),),
    cases=({"full": True}, {"full": True, "reduction": "sum"}, {"eps": 0.1, "reduction": "none"}),
    bad=bad_gaussian,
    gradient=by_formula(gaussian_formula),
    mutants=(
        mutant("logarithm forgotten", "(np.log(s) + d * d / s) + constant", "(d * d / s) + constant"),
        mutant("constant forgotten", "HALF_LN_2_PI if full else 0.0", "0.0 if full else 0.0"),
        mutant("slope by v not divided by v twice", "typed(0.5, x) / s * (", "typed(0.5, x) * ("),
        mutant("deviation not squared", "(ln(s) + d * d / s)", "(ln(s) + d / s)", "tuned"),
        mutant("variance of the first elements for all", "u[i:j], w[i:j], here)",
               "u[:j], w[i:j], here)", "tuned", "elementwise"),
        mutant("slope by v by x", "out[i] = other(", "out[i] = slope(", "tuned", "elementwise"),
    ),
)  # fmt: skip
OPS_HERE = (mse, l1, smooth_l1, huber, gaussian_nll)
