"""Functions with a kink at 0 that let positive x pass: y_i = f(x_i), dx_i = dy_i f'(x_i), element by element.

                        x > 0         x <= 0
    relu                x             0                    Nair and Hinton 2010
    leaky_relu          x             negative_slope x     Maas et al. 2013
    elu                 x             alpha (e^x - 1)      Clevert et al. 2016, alpha = 1
    selu                l x           l A (e^x - 1)        Klambauer et al. 2017, l = 1.0507, A = 1.6733

    hardtanh            x between min_val and max_val, else the nearer of them, by default -1 and 1

At a kink the slope is that of the side on which f stays (relu, hardtanh: 0). The loops are those of
``elementwise.py``. Any shape, float32 or float64; NaN stays NaN.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkernels.machine import elementary
from nnkernels.machine.jit import inline, typed
from nnkernels.machine.memory import Array
from nnkernels.ops.elementwise import make_bodies, make_op, numbers
from nnkernels.ops.gradients import by_slope, piecewise_linear
from nnkernels.ops.unary import exp

# The fixed point that keeps mean 0 and variance 1 from layer to layer.
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772


@inline
def relu_f(x: Any, a: Any) -> Any:
    return x if x > 0 or x != x else a  # NaN stays NaN


@inline
def relu_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, x) if x > 0 else typed(0, x)  # at the kink, 0


@inline
def leaky_relu_f(x: Any, a: Any) -> Any:
    return x if x > 0 else a * x


@inline
def leaky_relu_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, x) if x > 0 else a


@inline
def elu_f(x: Any, a: Any) -> Any:
    return x if x > 0 else a * np.expm1(x)


@inline
def elu_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, x) if x > 0 else a * np.exp(x)


@inline
def elu_tuned(x: Any, a: Any) -> Any:
    below = a * elementary.expm1(x)
    return x if x > 0 else below


@inline
def elu_df_tuned(x: Any, y: Any, a: Any) -> Any:
    below = a * elementary.exp(x)  # or y + a; but reading y, too, takes longer once arrays outgrow the caches
    return typed(1, x) if x > 0 else below


@inline
def selu_f(x: Any, a: Any) -> Any:
    return typed(SELU_SCALE, x) * (x if x > 0 else SELU_ALPHA * np.expm1(x))


@inline
def selu_df(x: Any, y: Any, a: Any) -> Any:
    return typed(SELU_SCALE, x) * (typed(1, x) if x > 0 else SELU_ALPHA * np.exp(x))


@inline
def selu_tuned(x: Any, a: Any) -> Any:
    below = typed(SELU_SCALE * SELU_ALPHA, x) * elementary.expm1(x)
    return typed(SELU_SCALE, x) * x if x > 0 else below


@inline
def selu_df_tuned(x: Any, y: Any, a: Any) -> Any:
    return typed(SELU_SCALE, x) if y > 0 else y + typed(SELU_SCALE * SELU_ALPHA, x)  # y has x's sign


@inline
def hardtanh_f(x: Any, a: Any) -> Any:
    low, high = a
    return low if x < low else (high if x > high else x)


@inline
def hardtanh_df(x: Any, y: Any, a: Any) -> Any:
    low, high = a
    return typed(0, x) if (x <= low) | (x >= high) else typed(1, x)


def relu_numpy(x: Array, a: Any) -> Array:
    y: Array = np.maximum(x, a)
    return y


def leaky_relu_numpy(x: Array, a: Any) -> Array:
    return np.where(x > 0, x, a * x)


def step_numpy(x: Array, y: Array, a: Any) -> Array:
    slope: Array = np.where(x > 0, x.dtype.type(1), a)
    return slope


def elu_numpy(x: Array, a: Any) -> Array:
    return np.where(x > 0, x, a * np.expm1(x))


def elu_df_numpy(x: Array, y: Array, a: Any) -> Array:
    slope: Array = np.where(x > 0, x.dtype.type(1), y + a)
    return slope


def selu_numpy(x: Array, a: Any) -> Array:
    y: Array = SELU_SCALE * elu_numpy(x, SELU_ALPHA)
    return y


def selu_df_numpy(x: Array, y: Array, a: Any) -> Array:
    slope: Array = np.where(x > 0, x.dtype.type(SELU_SCALE), y + SELU_SCALE * SELU_ALPHA)
    return slope


def hardtanh_numpy(x: Array, a: Any) -> Array:
    y: Array = np.clip(x, *a)
    return y


def hardtanh_df_numpy(x: Array, y: Array, a: Any) -> Array:
    low, high = a
    slope: Array = ~((x <= low) | (x >= high))
    return slope.astype(x.dtype)


# --- slopes in ops ---


def elu_slope(x: Any, alpha: float = 1.0) -> Any:
    above = (np.asarray(x) > 0).astype(x.dtype)
    return above + (1 - above) * (alpha * exp(-relu(-x)))


# --- records ---

HERE, SHARED = "rectifiers.py", "elementwise.py"
SIZES = ((64, 6, 14, 14), (8, 128, 3072))


def an_interval(op: str, attributes: Mapping[str, Any]) -> None:
    """Demand min_val < max_val."""
    numbers(op, attributes)
    low, high = attributes.get("min_val", -1), attributes.get("max_val", 1)
    if low >= high:
        raise ValueError(f"{op}: min_val must be below max_val, got {low!r} and {high!r}")


relu = make_op(
    "relu",
    make_bodies(relu_f, relu_df, numpy=(relu_numpy, step_numpy), cheap=True),
    gradient=piecewise_linear,
    faults=(
        (
            "nothing passes, tuned",
            "tuned",
            HERE,
            "return x if x > 0 or x != x else a  # NaN",
            "return x if x < 0 else a  # NaN",
        ),
        (
            "gradient passes everywhere",
            "loops",
            HERE,
            "if x > 0 else typed(0, x)  # at",
            "if x > -9 else typed(0, x)  # at",
        ),
        (
            "cotangent ignored",
            "loops",
            SHARED,
            "dx[i] = dy[i] * df(x[i], y[i], a)\n\n    return",
            "dx[i] = df(x[i], y[i], a)\n\n    return",
        ),
        (
            "cotangent ignored, tuned",
            "tuned",
            SHARED,
            "dx[i] = dy[i] * df(x[i], y[i], a)\n            beyond",
            "dx[i] = df(x[i], y[i], a)\n            beyond",
        ),
    ),
)
leaky_relu = make_op(
    "leaky_relu",
    make_bodies(
        leaky_relu_f,
        leaky_relu_df,
        numpy=(leaky_relu_numpy, step_numpy),
        defaults={"negative_slope": 0.01},
        cheap=True,
    ),
    attributes={"negative_slope": (0.3,)},
    gradient=piecewise_linear,
    faults=(
        (
            "slope on the other side",
            "loops",
            HERE,
            "return x if x > 0 else a * x",
            "return a * x if x > 0 else x",
        ),
        (
            "slope forgotten, tuned",
            "tuned",
            HERE,
            "return x if x > 0 else a * x",
            "return x if x > 0 else a",
        ),
        (
            "slope forgotten backward",
            "loops",
            HERE,
            "if x > 0 else a\n\n\n@inline\ndef elu_f",
            "if x > 0 else a * 0\n\n\n@inline\ndef elu_f",
        ),
        ("attribute ignored", "loops", SHARED, "dtype(given.get(name, default))", "dtype(default)"),
    ),
)
elu = make_op(
    "elu",
    make_bodies(
        elu_f,
        elu_df,
        tuned=(elu_tuned, elu_df_tuned),
        numpy=(elu_numpy, elu_df_numpy),
        cuda=(elu_f, elu_df),
        defaults={"alpha": 1.0},
    ),
    attributes={"alpha": (0.3, -1.5)},
    flops=16,
    bench=SIZES,
    gradient=by_slope(elu_slope),
    faults=(
        (
            "1 not subtracted",
            "loops",
            HERE,
            "return x if x > 0 else a * np.expm1(x)",
            "return x if x > 0 else a * np.exp(x)",
        ),
        (
            "alpha forgotten backward",
            "loops",
            HERE,
            "typed(1, x) if x > 0 else a * np.exp(x)",
            "typed(1, x) if x > 0 else np.exp(x)",
        ),
        ("alpha forgotten", "tuned", HERE, "below = a * elementary.expm1(x)", "below = elementary.expm1(x)"),
        ("slope of e^x - 1", "tuned", HERE, "a * elementary.exp(x)", "a * elementary.expm1(x)"),
    ),
)
selu = make_op(
    "selu",
    make_bodies(selu_f, selu_df, tuned=(selu_tuned, selu_df_tuned), numpy=(selu_numpy, selu_df_numpy)),
    flops=16,
    bench=SIZES,
    gradient=by_slope(lambda x: SELU_SCALE * elu_slope(x, SELU_ALPHA)),
    faults=(
        (
            "alpha forgotten",
            "loops",
            HERE,
            "if x > 0 else SELU_ALPHA * np.expm1(x)",
            "if x > 0 else np.expm1(x)",
        ),
        (
            "scale forgotten backward",
            "loops",
            HERE,
            "typed(SELU_SCALE, x) * (typed(1, x) if x > 0",
            "(typed(1, x) if x > 0",
        ),
        (
            "scale forgotten where positive",
            "tuned",
            HERE,
            "return typed(SELU_SCALE, x) * x if x > 0",
            "return x if x > 0",
        ),
        (
            "slope without the scale",
            "tuned",
            HERE,
            "y + typed(SELU_SCALE * SELU_ALPHA, x)",
            "y + typed(SELU_ALPHA, x)",
        ),
    ),
)
hardtanh = make_op(
    "hardtanh",
    make_bodies(
        hardtanh_f,
        hardtanh_df,
        numpy=(hardtanh_numpy, hardtanh_df_numpy),
        defaults={"min_val": -1.0, "max_val": 1.0},
        cheap=True,
    ),
    attributes={"min_val": (-2.1, 0.3), "max_val": (2.2, -0.3)},
    demand=an_interval,
    wrong=(
        (ValueError, "min_val must be below max_val, got 2.0 and 1", {"min_val": 2.0}),
        (ValueError, "min_val must be below max_val, got 0.5 and 0.5", {"min_val": 0.5, "max_val": 0.5}),
        (TypeError, "max_val must be a number", {"max_val": "6"}),
    ),
    gradient=piecewise_linear,
    faults=(
        ("upper end forgotten", "loops", HERE, "(high if x > high else x)", "x"),
        ("gradient passes above", "loops", HERE, "if (x <= low) | (x >= high) else", "if x <= low else"),
        ("ends swapped", "tuned", HERE, "return low if x < low else", "return high if x < low else"),
        (
            "gradient inverted",
            "tuned",
            HERE,
            "typed(0, x) if (x <= low) | (x >= high) else typed(1, x)",
            "typed(1, x) if (x <= low) | (x >= high) else typed(0, x)",
        ),
    ),
)
OPS_HERE = (relu, leaky_relu, elu, selu, hardtanh)
