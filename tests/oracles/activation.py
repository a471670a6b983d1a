"""Activations."""

import numpy as np
import scipy.special
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, away_from_zero, functional, shapes, wide


def sigmoid_plain(x):
    return 1 / (1 + np.exp(-wide(x)))


def tanh_plain(x):
    up, down = np.exp(wide(x)), np.exp(-wide(x))
    return (up - down) / (up + down)


def softmax_plain(x, dim=-1):
    return scipy.special.softmax(wide(x), axis=dim) if x.size else x


def log_softmax_plain(x, dim=-1):
    return scipy.special.log_softmax(wide(x), axis=dim) if x.size else x


def gelu_plain(x, approximate="none"):
    if approximate == "none":
        return wide(x) * scipy.special.ndtr(x)
    return wide(x) * scipy.special.expit(np.sqrt(8 / np.pi) * (wide(x) + 0.044715 * wide(x) ** 3))


def prelu_plain(x, weight):
    below = np.minimum(wide(x), 0)
    scaled = np.moveaxis(np.moveaxis(below, 1, -1) * weight, -1, 1) if x.ndim > 1 else below * weight[0]
    return np.maximum(x, 0) + scaled


def maxout_plain(x, pieces):
    return np.maximum.reduce([wide(x)[:, j::pieces] for j in range(pieces)])


PLAIN: dict[str, Oracle] = {
    "relu": lambda x: (wide(x) + abs(wide(x))) / 2,
    "leaky_relu": lambda x, negative_slope=0.01: np.where(x > 0, wide(x), negative_slope * wide(x)),
    "sigmoid": sigmoid_plain,
    "tanh": tanh_plain,
    "elu": lambda x, alpha=1.0: np.maximum(x, 0) + alpha * (np.exp(np.minimum(wide(x), 0)) - 1),
    "selu": lambda x: (
        1.0507009873554804934193349852946
        * (np.maximum(x, 0) + 1.6732632423543772848170429916717 * (np.exp(np.minimum(wide(x), 0)) - 1))
    ),
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0: np.minimum(np.maximum(x, min_val), max_val),
    "softplus": lambda x, beta=1.0, threshold=20.0: np.where(
        beta * x > threshold, x, np.log(1 + np.exp(beta * wide(x))) / beta
    ),
    "log_sigmoid": lambda x: np.log(sigmoid_plain(x)),
    "silu": lambda x: wide(x) * scipy.special.expit(x),
    "mish": lambda x: wide(x) * np.tanh(np.log(1 + np.exp(wide(x)))),
    "gelu": gelu_plain,
    "prelu": prelu_plain,
    "maxout": maxout_plain,
    "softmax": softmax_plain,
    "log_softmax": log_softmax_plain,
}

TORCH: dict[str, Oracle] = {
    "relu": lambda x: x.relu(),
    "leaky_relu": lambda x, negative_slope=0.01: functional().leaky_relu(x, negative_slope),
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": lambda x: x.tanh(),
    "elu": lambda x, alpha=1.0: functional().elu(x, alpha),
    "selu": lambda x: functional().selu(x),
    "hardtanh": lambda x, min_val=-1.0, max_val=1.0: functional().hardtanh(x, min_val, max_val),
    "softplus": lambda x, beta=1.0, threshold=20.0: functional().softplus(x, beta, threshold),
    "log_sigmoid": lambda x: functional().logsigmoid(x),
    "silu": lambda x: functional().silu(x),
    "mish": lambda x: functional().mish(x),
    "gelu": lambda x, approximate="none": functional().gelu(x, approximate=approximate),
    "prelu": lambda x, weight: functional().prelu(x, weight),
    "maxout": lambda x, pieces: x.reshape(len(x), x.shape[1] // pieces, pieces, *x.shape[2:]).amax(2),
    "softmax": lambda x, dim=-1: x.softmax(dim),
    "log_softmax": lambda x, dim=-1: x.log_softmax(dim),
}


def one_array(draw, rng):
    return (away_from_zero(rng, draw(shapes())),), {}


def leaky(draw, rng):
    return (away_from_zero(rng, draw(shapes())),), {"negative_slope": draw(st.floats(-1, 2))}


def with_alpha(draw, rng):
    return (away_from_zero(rng, draw(shapes())),), {"alpha": draw(st.floats(-2, 3))}


def with_an_interval(draw, rng):
    low = draw(st.floats(-2, 1.5))
    ends = {"min_val": low, "max_val": low + draw(st.floats(0.1, 3))}
    return (away_from_zero(rng, draw(shapes())),), ends


def with_a_bend(draw, rng):
    beta = draw(st.one_of(st.floats(0.1, 20), st.floats(-20, -0.1)))
    return (away_from_zero(rng, draw(shapes())),), {"beta": beta, "threshold": draw(st.floats(-1, 30))}


def with_an_approximation(draw, rng):
    return (away_from_zero(rng, draw(shapes())),), {"approximate": draw(st.sampled_from(["none", "tanh"]))}


def with_slopes(draw, rng):
    x = away_from_zero(rng, draw(shapes()))
    channels = x.shape[1] if x.ndim > 1 and x.shape[1] > 0 and draw(st.booleans()) else 1
    return (x, rng.uniform(-1, 2, channels)), {}


def in_pieces(draw, rng):
    pieces = draw(st.integers(1, 6))
    batch, *rest = draw(shapes(1, 3))
    return (rng.standard_normal((batch, pieces * draw(st.integers(0, 4)), *rest)),), {"pieces": pieces}


def along_an_axis(draw, rng):
    x = away_from_zero(rng, draw(shapes(1)))
    return (x,), {"dim": draw(st.integers(-x.ndim, x.ndim - 1))}


DRAWS: dict[str, Draw] = {
    **dict.fromkeys(("relu", "selu", "log_sigmoid", "silu", "mish", "sigmoid", "tanh"), one_array),
    "elu": with_alpha,
    "hardtanh": with_an_interval,
    "softplus": with_a_bend,
    "gelu": with_an_approximation,
    "prelu": with_slopes,
    "maxout": in_pieces,
    "leaky_relu": leaky,
    **dict.fromkeys(("softmax", "log_softmax"), along_an_axis),
}
