"""Functions of one array without attributes, element by element: y_i = f(x_i), dx_i = dy_i f'(x_i).

    neg   -x        exp   e^x     sin      sin x
    abs   |x|       log   ln x    sigmoid  1 / (1 + e^-x)
    sqrt  x^(1/2)   cos   cos x    tanh     (e^2x - 1) / (e^2x + 1)
                                   erf      2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x

The loops are those of ``elementwise.py``. Any shape, float32 or float64. `tuned` takes its exp, log, tanh,
sin and cos from ``machine/elementary.py``, which says how far each may be off.
"""

import math
from typing import Any

import numpy as np

from nnkernels.machine import elementary
from nnkernels.machine.erf import erf as erf_by_polynomials
from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.elementwise import LEAN, make_bodies, make_op
from nnkernels.ops.gradients import by_slope, linear, piecewise_linear

TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)

# For large x, beyond 1e5, NVIDIA's sine divides by pi/2 in integers, digit after digit kept on the stack, and
# multiplies the rest by pi/2 in float64: once for each element of a thread.
FAR_FROM_0 = LEAN._replace(stack=40, doubles=16)

# --- the formulas: f(x, a) and df(x, y, a) ---


@inline
def neg_f(x: Any, a: Any) -> Any:
    return -x


@inline
def neg_df(x: Any, y: Any, a: Any) -> Any:
    return typed(-1, x)


@inline
def abs_f(x: Any, a: Any) -> Any:
    return abs(x)


@inline
def abs_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, x) if x > 0 else (typed(-1, x) if x < 0 else typed(0, x))  # at the kink, 0


@inline
def sqrt_f(x: Any, a: Any) -> Any:
    return np.sqrt(x)


@inline
def sqrt_df(x: Any, y: Any, a: Any) -> Any:
    return typed(0.5, y) / y


@inline
def exp_f(x: Any, a: Any) -> Any:
    return np.exp(x)


@inline
def exp_tuned(x: Any, a: Any) -> Any:
    return elementary.exp(x)


@inline
def exp_df(x: Any, y: Any, a: Any) -> Any:
    return y


@inline
def log_f(x: Any, a: Any) -> Any:
    return np.log(x)


@inline
def log_tuned(x: Any, a: Any) -> Any:
    return elementary.log(x)


@inline
def log_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, x) / x


@inline
def sin_f(x: Any, a: Any) -> Any:
    return np.sin(x)


@inline
def sin_df(x: Any, y: Any, a: Any) -> Any:
    return np.cos(x)


@inline
def sin_tuned(x: Any, a: Any) -> Any:
    return elementary.sin(x)


@inline
def sin_df_tuned(x: Any, y: Any, a: Any) -> Any:
    return elementary.cos(x)


@inline
def cos_f(x: Any, a: Any) -> Any:
    return np.cos(x)


@inline
def cos_df(x: Any, y: Any, a: Any) -> Any:
    return -np.sin(x)


@inline
def cos_tuned(x: Any, a: Any) -> Any:
    return elementary.cos(x)


@inline
def cos_df_tuned(x: Any, y: Any, a: Any) -> Any:
    return -elementary.sin(x)


@inline
def sigmoid_f(x: Any, a: Any) -> Any:
    # e^-|x| never overflows; both branches are the same function.
    e = np.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else e / (1 + e)


@inline
def sigmoid_tuned(x: Any, a: Any) -> Any:
    e = elementary.exp(-abs(x))
    one = typed(1, x)
    return (e if x < 0 else one) / (one + e)


@inline
def sigmoid_df(x: Any, y: Any, a: Any) -> Any:
    return y * (typed(1, y) - y)


@inline
def tanh_f(x: Any, a: Any) -> Any:
    return np.tanh(x)


@inline
def tanh_tuned(x: Any, a: Any) -> Any:
    return elementary.tanh(x)


@inline
def tanh_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, y) - y * y


def sigmoid_numpy(x: Array, a: Any) -> Array:
    e = np.exp(-np.abs(x))
    y: Array = np.where(x < 0, e, 1) / (1 + e)
    return y


def sign_numpy(x: Array, y: Array, a: Any) -> Array:
    return np.sign(x)


@inline
def erf_f(x: Any, a: Any) -> Any:
    return math.erf(x)


@inline
def erf_df(x: Any, y: Any, a: Any) -> Any:
    return typed(TWO_OVER_ROOT_PI, x) * np.exp(-x * x)


@inline
def erf_tuned(x: Any, a: Any) -> Any:
    return erf_by_polynomials(x)


@inline
def erf_df_tuned(x: Any, y: Any, a: Any) -> Any:
    return typed(TWO_OVER_ROOT_PI, x) * elementary.exp(-x * x)


def erf_numpy(x: Array, a: Any = None) -> Array:
    """Return erf of each element; NumPy has none, so this is a Python loop over C's."""
    return np.fromiter(map(math.erf, x.ravel().tolist()), x.dtype, x.size).reshape(x.shape)


# --- slopes in ops ---


def sqrt_slope(x: Any) -> Any:
    return 0.5 / sqrt(x)


def exp_slope(x: Any) -> Any:
    return exp(x)


def sin_slope(x: Any) -> Any:
    return cos(x)


def cos_slope(x: Any) -> Any:
    return -sin(x)


def sigmoid_slope(x: Any) -> Any:
    y = sigmoid(x)
    return y * (1 - y)


def tanh_slope(x: Any) -> Any:
    y = tanh(x)
    return 1 - y * y


# --- records ---

HERE, SHARED = "unary.py", "elementwise.py"

neg = make_op(
    "neg",
    make_bodies(neg_f, neg_df, cheap=True),
    gradient=linear,
    faults=(
        ("sign lost", "loops", HERE, "return -x\n", "return x\n"),
        ("sign lost, tuned", "tuned", HERE, "return -x\n", "return x\n"),
        (
            "sign of the slope lost",
            "loops",
            HERE,
            "def neg_df(x: Any, y: Any, a: Any) -> Any:\n    return typed(-1, x)",
            "def neg_df(x: Any, y: Any, a: Any) -> Any:\n    return typed(1, x)",
        ),
        (
            "part of another place",
            "tuned",
            SHARED,
            "forward_chunk(x[i:j], a, y[i:j])",
            "forward_chunk(x[i - 1 : j - 1], a, y[i:j])",
        ),
    ),
)
abs_op = make_op(
    "abs",
    make_bodies(abs_f, abs_df, numpy=(abs_f, sign_numpy), cheap=True),
    gradient=piecewise_linear,
    faults=(
        ("negative left as it is", "loops", HERE, "return abs(x)", "return x"),
        ("slope 1 on both sides", "loops", HERE, "(typed(-1, x) if x < 0", "(typed(1, x) if x < 0"),
        ("negative left as it is, tuned", "tuned", HERE, "return abs(x)", "return x"),
        (
            "slope of the negative side lost",
            "tuned",
            HERE,
            "(typed(-1, x) if x < 0",
            "(typed(-1, x) if x < -9",
        ),
    ),
)
sqrt = make_op(
    "sqrt",
    make_bodies(sqrt_f, sqrt_df, cheap=True),
    positive=True,
    gradient=by_slope(sqrt_slope),
    faults=(
        ("half forgotten", "loops", HERE, "return typed(0.5, y) / y", "return typed(1, y) / y"),
        ("root forgotten", "loops", HERE, "return np.sqrt(x)", "return x"),
        ("derivative by x", "tuned", HERE, "return typed(0.5, y) / y", "return typed(0.5, y) / x"),
        (
            "chunk's cotangent of another place",
            "tuned",
            SHARED,
            "backward_chunk(dy[i:j], x[i:j]",
            "backward_chunk(dy[i + 1 : j + 1], x[i:j]",
        ),
    ),
)
exp = make_op(
    "exp",
    make_bodies(exp_f, exp_df, tuned=(exp_tuned, exp_df), cuda=(exp_f, exp_df)),
    flops=16,
    gradient=by_slope(exp_slope),
    faults=(
        (
            "derivative of exp is x",
            "loops",
            HERE,
            "    return y\n\n\n@inline\ndef log_f",
            "    return x\n\n\n@inline\ndef log_f",
        ),
        (
            "chunks overlap",
            "tuned",
            SHARED,
            "i, j = c * share, (c + 1) * share\n            forward_chunk",
            "i, j = c * share + 1, (c + 1) * share\n            forward_chunk",
        ),
        ("power of -x", "tuned", HERE, "return elementary.exp(x)", "return elementary.exp(-x)"),
        (
            "cotangent forgotten",
            "tuned",
            SHARED,
            "dx[i] = dy[i] * df(x[i], y[i], a)\n            beyond",
            "dx[i] = df(x[i], y[i], a)\n            beyond",
        ),
    ),
)
log = make_op(
    "log",
    make_bodies(log_f, log_df, tuned=(log_tuned, log_df), cuda=(log_f, log_df)),
    positive=True,
    flops=16,
    gradient=by_slope(lambda x: 1 / x),
    faults=(
        ("ln'(x) = x", "loops", HERE, "return typed(1, x) / x", "return x"),
        ("ln(1 + x)", "loops", HERE, "return np.log(x)", "return np.log1p(x)"),
        ("slope by y", "tuned", HERE, "return typed(1, x) / x", "return typed(1, x) / y"),
        ("square of x", "tuned", HERE, "return elementary.log(x)", "return elementary.log(x * x)"),
    ),
)
sin = make_op(
    "sin",
    make_bodies(
        sin_f,
        sin_df,
        tuned=(sin_tuned, sin_df_tuned),
        cuda=(sin_f, sin_df),
        far=(elementary.SIN_LIMIT, sin_f, sin_df),
        expected=FAR_FROM_0,
    ),
    far=elementary.SIN_LIMIT,
    flops=16,
    gradient=by_slope(sin_slope),
    faults=(
        (
            "cosine's sign",
            "loops",
            HERE,
            "def sin_df(x: Any, y: Any, a: Any) -> Any:\n    return np.cos(x)",
            "def sin_df(x: Any, y: Any, a: Any) -> Any:\n    return -np.cos(x)",
        ),
        ("sine's sign", "tuned", HERE, "return elementary.sin(x)\n", "return elementary.sin(-x)\n"),
        ("far elements forgotten", "tuned", SHARED, "y[i] = far_f(x[i], a)", "pass"),
        ("far elements forgotten backward", "tuned", SHARED, "dx[i] = dy[i] * far_df(x[i], y[i], a)", "pass"),
    ),
)
cos = make_op(
    "cos",
    make_bodies(
        cos_f,
        cos_df,
        tuned=(cos_tuned, cos_df_tuned),
        cuda=(cos_f, cos_df),
        far=(elementary.SIN_LIMIT, cos_f, cos_df),
        expected=FAR_FROM_0,
    ),
    far=elementary.SIN_LIMIT,
    flops=16,
    gradient=by_slope(cos_slope),
    faults=(
        ("sine's sign", "loops", HERE, "return -np.sin(x)", "return np.sin(x)"),
        ("sine of x", "loops", HERE, "def cos_f(x: Any, a: Any) -> Any:\n    return np.cos(x)",
         "def cos_f(x: Any, a: Any) -> Any:\n    return np.sin(x)"),
        ("sine's sign, tuned", "tuned", HERE, "return -elementary.sin(x)", "return elementary.sin(x)"),
        ("far elements forgotten", "tuned", SHARED, "y[i] = far_f(x[i], a)", "pass"),
        ("far elements forgotten backward", "tuned", SHARED, "dx[i] = dy[i] * far_df(x[i], y[i], a)", "pass"),
    ),
)  # fmt: skip
erf = make_op(
    "erf",
    make_bodies(
        erf_f, erf_df, tuned=(erf_tuned, erf_df_tuned), numpy=(erf_numpy, erf_df), cuda=(erf_f, erf_df)
    ),
    flops=20,
    gradient=by_slope(lambda x: TWO_OVER_ROOT_PI * exp(-x * x)),
    faults=(
        ("square forgotten", "loops", HERE, "np.exp(-x * x)", "np.exp(-x)"),
        ("erf of x / 2", "loops", HERE, "return math.erf(x)\n", "return math.erf(x / 2)\n"),
        ("of |x|", "tuned", HERE, "return erf_by_polynomials(x)", "return erf_by_polynomials(abs(x))"),
        ("sign of the power lost", "tuned", HERE, "elementary.exp(-x * x)", "elementary.exp(x * x)"),
    ),
)  # fmt: skip
sigmoid = make_op(
    "sigmoid",
    make_bodies(sigmoid_f, sigmoid_df, tuned=(sigmoid_tuned, sigmoid_df), numpy=(sigmoid_numpy, sigmoid_df)),
    flops=20,
    gradient=by_slope(sigmoid_slope),
    faults=(
        ("missing factor 1 - y", "loops", HERE, "return y * (typed(1, y) - y)", "return y"),
        ("branches swapped", "loops", HERE, "return 1 / (1 + e) if x >= 0", "return 1 / (1 + e) if x < 0"),
        (
            "branches swapped, tuned",
            "tuned",
            HERE,
            "(e if x < 0 else one) / (one + e)",
            "(e if x > 0 else one) / (one + e)",
        ),
        ("missing factor y", "tuned", HERE, "return y * (typed(1, y) - y)", "return typed(1, y) - y"),
    ),
)
tanh = make_op(
    "tanh",
    make_bodies(tanh_f, tanh_df, tuned=(tanh_tuned, tanh_df), cuda=(tanh_f, tanh_df)),
    flops=20,
    gradient=by_slope(tanh_slope),
    faults=(
        ("square forgotten", "loops", HERE, "return typed(1, y) - y * y", "return typed(1, y) - y"),
        ("half the argument", "loops", HERE, "return np.tanh(x)", "return np.tanh(x / 2)"),
        ("slope of the sigmoid", "tuned", HERE, "return typed(1, y) - y * y", "return y - y * y"),
        ("tanh of |x|", "tuned", HERE, "return elementary.tanh(x)", "return elementary.tanh(abs(x))"),
    ),
)
OPS_HERE = (neg, abs_op, sqrt, exp, log, sin, cos, erf, sigmoid, tanh)
