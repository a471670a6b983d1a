"""Functions of one array without attributes, element by element: y_i = f(x_i), dx_i = dy_i f'(x_i).

    neg   -x        exp   e^x     sin      sin x
    abs   |x|       log   ln x    sigmoid  1 / (1 + e^-x)
    sqrt  x^(1/2)                 tanh     (e^2x - 1) / (e^2x + 1)

The loops are those of ``elementwise.py``. Any shape, float32 or float64. `tuned` takes its exp, log, tanh,
sin and cos from ``machine/elementary.py``, which says how far each may be off.
"""

from typing import Any

import numpy as np

from nnkernels.machine import elementary
from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.elementwise import make_bodies, make_op

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


# --- records ---

HERE, SHARED = "unary.py", "elementwise.py"

neg = make_op(
    "neg",
    make_bodies(neg_f, neg_df, cheap=True),
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
    make_bodies(exp_f, exp_df, tuned=(exp_tuned, exp_df)),
    flops=16,
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
    make_bodies(log_f, log_df, tuned=(log_tuned, log_df)),
    positive=True,
    flops=16,
    faults=(
        ("ln'(x) = x", "loops", HERE, "return typed(1, x) / x", "return x"),
        ("ln(1 + x)", "loops", HERE, "return np.log(x)", "return np.log1p(x)"),
        ("slope by y", "tuned", HERE, "return typed(1, x) / x", "return typed(1, x) / y"),
        ("square of x", "tuned", HERE, "return elementary.log(x)", "return elementary.log(x * x)"),
    ),
)
sin = make_op(
    "sin",
    make_bodies(sin_f, sin_df, tuned=(sin_tuned, sin_df_tuned), far=(elementary.SIN_LIMIT, sin_f, sin_df)),
    far=elementary.SIN_LIMIT,
    flops=16,
    faults=(
        ("cosine's sign", "loops", HERE, "return np.cos(x)", "return -np.cos(x)"),
        ("sine's sign", "tuned", HERE, "return elementary.sin(x)", "return elementary.sin(-x)"),
        ("far elements forgotten", "tuned", SHARED, "y[i] = far_f(x[i], a)", "pass"),
        ("far elements forgotten backward", "tuned", SHARED, "dx[i] = dy[i] * far_df(x[i], y[i], a)", "pass"),
    ),
)
sigmoid = make_op(
    "sigmoid",
    make_bodies(sigmoid_f, sigmoid_df, tuned=(sigmoid_tuned, sigmoid_df), numpy=(sigmoid_numpy, sigmoid_df)),
    flops=20,
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
    make_bodies(tanh_f, tanh_df, tuned=(tanh_tuned, tanh_df)),
    flops=20,
    faults=(
        ("square forgotten", "loops", HERE, "return typed(1, y) - y * y", "return typed(1, y) - y"),
        ("half the argument", "loops", HERE, "return np.tanh(x)", "return np.tanh(x / 2)"),
        ("slope of the sigmoid", "tuned", HERE, "return typed(1, y) - y * y", "return y - y * y"),
        ("tanh of |x|", "tuned", HERE, "return elementary.tanh(x)", "return elementary.tanh(abs(x))"),
    ),
)
OPS_HERE = (neg, abs_op, sqrt, exp, log, sin, sigmoid, tanh)
