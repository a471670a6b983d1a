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


PLAIN: dict[str, Oracle] = {
    "relu": lambda x: (wide(x) + abs(wide(x))) / 2,
    "leaky_relu": lambda x, negative_slope=0.01: np.where(x > 0, wide(x), negative_slope * wide(x)),
    "sigmoid": sigmoid_plain,
    "tanh": tanh_plain,
    "softmax": softmax_plain,
    "log_softmax": log_softmax_plain,
}

TORCH: dict[str, Oracle] = {
    "relu": lambda x: x.relu(),
    "leaky_relu": lambda x, negative_slope=0.01: functional().leaky_relu(x, negative_slope),
    "sigmoid": lambda x: x.sigmoid(),
    "tanh": lambda x: x.tanh(),
    "softmax": lambda x, dim=-1: x.softmax(dim),
    "log_softmax": lambda x, dim=-1: x.log_softmax(dim),
}


def one_array(draw, rng):
    return (away_from_zero(rng, draw(shapes())),), {}


def leaky(draw, rng):
    return (away_from_zero(rng, draw(shapes())),), {"negative_slope": draw(st.floats(-1, 2))}


def along_an_axis(draw, rng):
    x = away_from_zero(rng, draw(shapes(1)))
    return (x,), {"dim": draw(st.integers(-x.ndim, x.ndim - 1))}


DRAWS: dict[str, Draw] = {
    **dict.fromkeys(("relu", "sigmoid", "tanh"), one_array),
    "leaky_relu": leaky,
    **dict.fromkeys(("softmax", "log_softmax"), along_an_axis),
}
