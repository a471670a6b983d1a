"""Smooth relatives of relu: y_i = f(x_i), dx_i = dy_i f'(x_i), element by element.

    softplus     ln(1 + e^(beta x)) / beta; x itself where beta x > threshold     Dugas et al. 2001
    log_sigmoid  ln(1 / (1 + e^-x)) = -ln(1 + e^-x)
    silu         x s(x), s(x) = 1 / (1 + e^-x)                                    Elfwing et al. 2018
    mish         x tanh(ln(1 + e^x))                                              Misra 2020
    gelu         x Phi(x), Phi(x) = (1 + erf(x / sqrt 2)) / 2                     Hendrycks and Gimpel 2016

With ``approximate="tanh"``, gelu's Phi is (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) / 2. By default beta = 1,
threshold = 20, approximate = "none". No power of e overflows: ln(1 + e^t) = max(t, 0) + ln(1 + e^-|t|). The
loops are those of ``elementwise.py``. Any shape, float32 or float64.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkernels.machine import elementary
from nnkernels.machine.erf import erf
from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.elementwise import Bodies, make_bodies, make_op, numbers
from nnkernels.ops.gradients import by_formula, by_slope
from nnkernels.ops.op import Body
from nnkernels.ops.unary import erf as erf_op
from nnkernels.ops.unary import erf_numpy, sigmoid, sigmoid_f, sigmoid_numpy, sigmoid_tuned, tanh
from nnkernels.ops.validate import choice

ROOT_HALF = math.sqrt(0.5)
DENSITY_AT_0 = 1 / math.sqrt(2 * math.pi)  # of the normal distribution
SLOPE, CUBIC = math.sqrt(2 / math.pi), 0.044715  # of gelu's approximation

# --- softplus, log_sigmoid ---


@inline
def ln_1_plus_exp(t: Any) -> Any:
    return max(t, 0) + np.log1p(np.exp(-abs(t)))


@inline
def ln_1_plus_exp_tuned(t: Any) -> Any:
    return (t if t > 0 else typed(0, t)) + elementary.log1p_up_to_1(elementary.exp(-abs(t)))


def ln_1_plus_exp_numpy(t: Array) -> Array:
    y: Array = np.maximum(t, 0) + np.log1p(np.exp(-np.abs(t)))
    return y


@inline
def softplus_f(x: Any, a: Any) -> Any:
    beta, threshold = a
    return x if beta * x > threshold else ln_1_plus_exp(beta * x) / beta


@inline
def softplus_df(x: Any, y: Any, a: Any) -> Any:
    beta, threshold = a
    return 1 if beta * x > threshold else sigmoid_f(beta * x, 0)


@inline
def softplus_tuned(x: Any, a: Any) -> Any:
    beta, threshold = a
    t = beta * x
    y = ln_1_plus_exp_tuned(t) / beta
    return x if t > threshold else y


@inline
def softplus_df_tuned(x: Any, y: Any, a: Any) -> Any:
    beta, threshold = a
    slope = sigmoid_tuned(beta * x, 0)
    return typed(1, x) if beta * x > threshold else slope


def softplus_numpy(x: Array, a: Any) -> Array:
    beta, threshold = a
    return np.where(beta * x > threshold, x, ln_1_plus_exp_numpy(beta * x) / beta)


def softplus_df_numpy(x: Array, y: Array, a: Any) -> Array:
    beta, threshold = a
    slope: Array = np.where(beta * x > threshold, x.dtype.type(1), sigmoid_numpy(beta * x, 0))
    return slope


@inline
def log_sigmoid_f(x: Any, a: Any) -> Any:
    return -ln_1_plus_exp(-x)


@inline
def log_sigmoid_df(x: Any, y: Any, a: Any) -> Any:
    return sigmoid_f(-x, 0)


@inline
def log_sigmoid_tuned(x: Any, a: Any) -> Any:
    return -ln_1_plus_exp_tuned(-x)


@inline
def log_sigmoid_df_tuned(x: Any, y: Any, a: Any) -> Any:
    return sigmoid_tuned(-x, 0)


def log_sigmoid_numpy(x: Array, a: Any) -> Array:
    return -ln_1_plus_exp_numpy(-x)


def log_sigmoid_df_numpy(x: Array, y: Array, a: Any) -> Array:
    return sigmoid_numpy(-x, 0)


# --- silu, mish ---


@inline
def silu_f(x: Any, a: Any) -> Any:
    return x * sigmoid_f(x, 0)


@inline
def silu_df(x: Any, y: Any, a: Any) -> Any:
    s = sigmoid_f(x, 0)
    return s * (1 + x * (1 - s))


@inline
def silu_tuned(x: Any, a: Any) -> Any:
    return x * sigmoid_tuned(x, 0)


@inline
def silu_df_tuned(x: Any, y: Any, a: Any) -> Any:
    s = sigmoid_tuned(x, 0)
    return s + x * s * (typed(1, x) - s)


def silu_numpy(x: Array, a: Any) -> Array:
    y: Array = x * sigmoid_numpy(x, 0)
    return y


def silu_df_numpy(x: Array, y: Array, a: Any) -> Array:
    s = sigmoid_numpy(x, 0)
    slope: Array = s * (1 + x * (1 - s))
    return slope


@inline
def mish_f(x: Any, a: Any) -> Any:
    return x * np.tanh(ln_1_plus_exp(x))


@inline
def mish_df(x: Any, y: Any, a: Any) -> Any:
    t = np.tanh(ln_1_plus_exp(x))
    return t + x * (1 - t * t) * sigmoid_f(x, 0)


@inline
def mish_parts(x: Any) -> Any:
    """Return e = e^-|x|, p and q with tanh(ln(1 + e^x)) = p / (p + q).

    It is ((1 + e^x)^2 - 1) / ((1 + e^x)^2 + 1); for positive x, both sides are multiplied by e^-2x.
    """
    e = elementary.exp(-abs(x))
    one, two = typed(1, x), typed(2, x)
    return e, (one + two * e if x > 0 else e * (e + two)), (two * e * e if x > 0 else two)


@inline
def mish_tuned(x: Any, a: Any) -> Any:
    _, p, q = mish_parts(x)
    return x * (p / (p + q))


@inline
def mish_df_tuned(x: Any, y: Any, a: Any) -> Any:
    e, p, q = mish_parts(x)
    d = p + q
    # 1 - (p/d)^2 = (d - p) (d + p) / d^2
    rest = q * (d + p) * (e if x < 0 else typed(1, x)) / (d * d * (typed(1, x) + e))
    return p / d + x * rest


def mish_numpy(x: Array, a: Any) -> Array:
    y: Array = x * np.tanh(ln_1_plus_exp_numpy(x))
    return y


def mish_df_numpy(x: Array, y: Array, a: Any) -> Array:
    t = np.tanh(ln_1_plus_exp_numpy(x))
    slope: Array = t + x * (1 - t * t) * sigmoid_numpy(x, 0)
    return slope


# --- gelu ---


@inline
def gelu_f(x: Any, a: Any) -> Any:
    return x * (1 + math.erf(x * ROOT_HALF)) / 2


@inline
def gelu_df(x: Any, y: Any, a: Any) -> Any:
    return (1 + math.erf(x * ROOT_HALF)) / 2 + x * np.exp(-x * x / 2) * DENSITY_AT_0


@inline
def gelu_tuned(x: Any, a: Any) -> Any:
    half = typed(0.5, x) * x
    return half + half * erf(x * typed(ROOT_HALF, x))


@inline
def gelu_df_tuned(x: Any, y: Any, a: Any) -> Any:
    half = typed(0.5, x)
    density = elementary.exp(-half * x * x) * typed(DENSITY_AT_0, x)
    return half + half * erf(x * typed(ROOT_HALF, x)) + x * density


@inline
def gelu_cuda(x: Any, a: Any) -> Any:
    half = typed(0.5, x) * x
    return half + half * math.erf(x * typed(ROOT_HALF, x))


@inline
def gelu_df_cuda(x: Any, y: Any, a: Any) -> Any:
    half = typed(0.5, x)
    density = np.exp(-half * x * x) * typed(DENSITY_AT_0, x)
    return half + half * math.erf(x * typed(ROOT_HALF, x)) + x * density


def gelu_numpy(x: Array, a: Any) -> Array:
    y: Array = x * (1 + erf_numpy(x * ROOT_HALF)) / 2
    return y


def gelu_df_numpy(x: Array, y: Array, a: Any) -> Array:
    slope: Array = (1 + erf_numpy(x * ROOT_HALF)) / 2 + x * np.exp(-x * x / 2) * DENSITY_AT_0
    return slope


@inline
def gelu_tanh_f(x: Any, a: Any) -> Any:
    return x * (1 + np.tanh(SLOPE * (x + CUBIC * x * x * x))) / 2


@inline
def gelu_tanh_df(x: Any, y: Any, a: Any) -> Any:
    t = np.tanh(SLOPE * (x + CUBIC * x * x * x))
    return (1 + t) / 2 + x * (1 - t * t) / 2 * SLOPE * (1 + 3 * CUBIC * x * x)


@inline
def gelu_tanh_tuned(x: Any, a: Any) -> Any:
    # (1 + tanh v) / 2 = 1 / (1 + e^-2v)
    return x * sigmoid_tuned(typed(2 * SLOPE, x) * x * (typed(1, x) + typed(CUBIC, x) * x * x), 0)


@inline
def gelu_tanh_df_tuned(x: Any, y: Any, a: Any) -> Any:
    one, u = typed(1, x), typed(CUBIC, x) * x * x
    s = sigmoid_tuned(typed(2 * SLOPE, x) * x * (one + u), 0)
    return s + x * s * (one - s) * typed(2 * SLOPE, x) * (one + typed(3, x) * u)


def by_name(name: str, default: str, choices: Mapping[str, Bodies]) -> Bodies:
    """Return bodies that pass each call on to the choice which the attribute ``name`` names."""

    def chosen(i: int) -> Body:
        bodies: dict[str, Any] = {key: choice[i] for key, choice in choices.items()}
        return Body(
            lambda x, **given: bodies[given.get(name, default)].forward(x),
            lambda *call, **given: bodies[given.get(name, default)].backward(*call),
        )

    return chosen(0), chosen(1), chosen(2), chosen(3)


# --- slopes and formulas in ops ---


def softplus_slope(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    above = (beta * np.asarray(x) > threshold).astype(x.dtype)
    return above + (1 - above) * sigmoid(beta * x)


def mish_formula(x: Any) -> Any:
    return x * tanh(softplus(x))


def gelu_formula(x: Any, approximate: str = "none") -> Any:
    if approximate == "tanh":
        return x * (1 + tanh(SLOPE * (x + CUBIC * x * x * x))) / 2
    return x * (1 + erf_op(x * ROOT_HALF)) / 2


# --- records ---

HERE = "smooth_rectifiers.py"
SIZES = ((64, 6, 14, 14), (8, 128, 3072))  # images, and the hidden layer of a transformer


def a_bend(op: str, attributes: Mapping[str, Any]) -> None:
    """Demand a beta that one can divide by."""
    numbers(op, attributes)
    if attributes.get("beta", 1) == 0:
        raise ValueError(f"{op}: beta must not be 0")


def an_approximation(op: str, attributes: Mapping[str, Any]) -> None:
    """Demand one of gelu's two formulas."""
    for name, value in attributes.items():
        choice(op, name, value, ("none", "tanh"))


softplus = make_op(
    "softplus",
    make_bodies(
        softplus_f,
        softplus_df,
        tuned=(softplus_tuned, softplus_df_tuned),
        numpy=(softplus_numpy, softplus_df_numpy),
        defaults={"beta": 1.0, "threshold": 20.0},
    ),
    attributes={"beta": (3.0, -0.5), "threshold": (1.0,)},
    demand=a_bend,
    wrong=(
        (ValueError, "beta must not be 0", {"beta": 0}),
        (ValueError, "threshold must be finite", {"threshold": math.inf}),
        (TypeError, "beta must be a number", {"beta": None}),
    ),
    flops=32,
    bench=SIZES,
    gradient=by_slope(softplus_slope),
    faults=(
        (
            "not divided by beta",
            "loops",
            HERE,
            "ln_1_plus_exp(beta * x) / beta\n",
            "ln_1_plus_exp(beta * x)\n",
        ),
        (
            "slope of the other side",
            "loops",
            HERE,
            "1 if beta * x > threshold else sigmoid_f(beta * x, 0)",
            "1 if beta * x > threshold else sigmoid_f(-beta * x, 0)",
        ),
        (
            "threshold on x",
            "tuned",
            HERE,
            "return x if t > threshold else y",
            "return x if x > threshold else y",
        ),
        (
            "beta forgotten backward",
            "tuned",
            HERE,
            "slope = sigmoid_tuned(beta * x, 0)",
            "slope = sigmoid_tuned(x, 0)",
        ),
    ),
)
log_sigmoid = make_op(
    "log_sigmoid",
    make_bodies(
        log_sigmoid_f,
        log_sigmoid_df,
        tuned=(log_sigmoid_tuned, log_sigmoid_df_tuned),
        numpy=(log_sigmoid_numpy, log_sigmoid_df_numpy),
    ),
    flops=32,
    bench=SIZES,
    gradient=by_slope(lambda x: sigmoid(-x)),
    faults=(
        ("sign lost", "loops", HERE, "return -ln_1_plus_exp(-x)", "return ln_1_plus_exp(-x)"),
        ("slope 1 - f'", "loops", HERE, "return sigmoid_f(-x, 0)", "return sigmoid_f(x, 0)"),
        ("of -x", "tuned", HERE, "return -ln_1_plus_exp_tuned(-x)", "return -ln_1_plus_exp_tuned(x)"),
        ("slope 1 - f', tuned", "tuned", HERE, "return sigmoid_tuned(-x, 0)", "return sigmoid_tuned(x, 0)"),
    ),
)
silu = make_op(
    "silu",
    make_bodies(silu_f, silu_df, tuned=(silu_tuned, silu_df_tuned), numpy=(silu_numpy, silu_df_numpy)),
    flops=24,
    bench=SIZES,
    gradient=by_formula(lambda x: x * sigmoid(x)),
    faults=(
        (
            "product rule forgotten",
            "loops",
            HERE,
            "    s = sigmoid_f(x, 0)\n    return s * (1 + x * (1 - s))",
            "    s = sigmoid_f(x, 0)\n    return s",
        ),
        ("factor x forgotten", "loops", HERE, "return x * sigmoid_f(x, 0)", "return sigmoid_f(x, 0)"),
        (
            "factor x forgotten, tuned",
            "tuned",
            HERE,
            "return x * sigmoid_tuned(x, 0)",
            "return sigmoid_tuned(x, 0)",
        ),
        ("factor 1 - s forgotten", "tuned", HERE, "return s + x * s * (typed(1, x) - s)", "return s + x * s"),
    ),
)
mish = make_op(
    "mish",
    make_bodies(mish_f, mish_df, tuned=(mish_tuned, mish_df_tuned), numpy=(mish_numpy, mish_df_numpy)),
    flops=32,
    bench=SIZES,
    gradient=by_formula(mish_formula),
    faults=(
        ("tanh of x", "loops", HERE, "return x * np.tanh(ln_1_plus_exp(x))", "return x * np.tanh(x)"),
        ("inner slope forgotten", "loops", HERE, "x * (1 - t * t) * sigmoid_f(x, 0)", "x * (1 - t * t)"),
        (
            "square of e forgotten",
            "tuned",
            HERE,
            "(two * e * e if x > 0 else two)",
            "(two * e if x > 0 else two)",
        ),
        (
            "inner slope of the other side",
            "tuned",
            HERE,
            "(e if x < 0 else typed(1, x))",
            "(e if x > 0 else typed(1, x))",
        ),
    ),
)
gelu = make_op(
    "gelu",
    by_name("approximate", "none", {
        "none": make_bodies(
            gelu_f, gelu_df, tuned=(gelu_tuned, gelu_df_tuned), numpy=(gelu_numpy, gelu_df_numpy),
            cuda=(gelu_cuda, gelu_df_cuda),
        ),
        "tanh": make_bodies(gelu_tanh_f, gelu_tanh_df, tuned=(gelu_tanh_tuned, gelu_tanh_df_tuned)),
    }),
    attributes={"approximate": ("none", "tanh")},
    demand=an_approximation,
    wrong=(
        (ValueError, "approximate must be one of none, tanh, got 'erf'", {"approximate": "erf"}),
        (ValueError, "approximate must be one of none, tanh, got None", {"approximate": None}),
    ),
    flops=40,
    bench=SIZES,
    gradient=by_formula(gelu_formula),
    faults=(
        ("erf of x", "loops", HERE, "return x * (1 + math.erf(x * ROOT_HALF)) / 2",
         "return x * (1 + math.erf(x)) / 2"),
        ("density forgotten", "loops", HERE,
         "math.erf(x * ROOT_HALF)) / 2 + x * np.exp(-x * x / 2) * DENSITY_AT_0\n\n\n@inline",
         "math.erf(x * ROOT_HALF)) / 2\n\n\n@inline"),
        ("square in place of the cube", "loops", HERE,
         "return x * (1 + np.tanh(SLOPE * (x + CUBIC * x * x * x))) / 2",
         "return x * (1 + np.tanh(SLOPE * (x + CUBIC * x * x))) / 2"),
        ("half forgotten", "tuned", HERE, "return half + half * erf(x * typed(ROOT_HALF, x))\n",
         "return half + x * erf(x * typed(ROOT_HALF, x))\n"),
        ("density of x^2", "tuned", HERE, "elementary.exp(-half * x * x)", "elementary.exp(-x * x)"),
        ("cube's factor 3 forgotten", "tuned", HERE, "(one + typed(3, x) * u)", "(one + u)"),
        ("always exact", "tuned", HERE, "lambda x, **given: bodies[given.get(name, default)]",
         "lambda x, **given: bodies[default]"),
    ),
)  # fmt: skip
OPS_HERE = (softplus, log_sigmoid, silu, mish, gelu)
