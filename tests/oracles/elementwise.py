"""Arithmetic and plain functions, element by element."""

import numpy as np
import scipy.special
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, away_from_zero, shapes, wide

PLAIN: dict[str, Oracle] = {
    "add": lambda a, b: wide(a) + wide(b),
    "sub": lambda a, b: wide(a) - wide(b),
    "mul": lambda a, b: wide(a) * wide(b),
    "div": lambda a, b: wide(a) / wide(b),
    "pow": lambda a, b: np.exp(wide(b) * np.log(wide(a))),
    "maximum": lambda a, b: (wide(a) + wide(b) + abs(wide(a) - wide(b))) / 2,
    "neg": lambda x: 0 - wide(x),
    "abs": lambda x: np.maximum(wide(x), -wide(x)),
    "sqrt": lambda x: np.exp(np.log(wide(x)) / 2),
    "exp": lambda x: np.exp(wide(x)),
    "log": lambda x: np.log(wide(x)),
    "sin": lambda x: np.sin(wide(x)),
    "cos": lambda x: np.cos(wide(x)),
    "erf": lambda x: scipy.special.erf(np.asarray(x, np.float64)),
}

TORCH: dict[str, Oracle] = {
    "add": lambda a, b: a.add(b),
    "sub": lambda a, b: a.sub(b),
    "mul": lambda a, b: a.mul(b),
    "div": lambda a, b: a.div(b),
    "pow": lambda a, b: a.pow(b),
    "maximum": lambda a, b: a.maximum(b),
    "neg": lambda x: x.neg(),
    "abs": lambda x: x.abs(),
    "sqrt": lambda x: x.sqrt(),
    "exp": lambda x: x.exp(),
    "log": lambda x: x.log(),
    "sin": lambda x: x.sin(),
    "cos": lambda x: x.cos(),
    "erf": lambda x: x.erf(),
}


def stretched(draw, shape):
    """Return a shape that broadcasts with ``shape``: some axes 1, some in front left out."""
    ones = draw(st.lists(st.booleans(), min_size=len(shape), max_size=len(shape)))
    return tuple(1 if one else n for one, n in zip(ones, shape))[draw(st.integers(0, len(shape))) :]


def two_arrays(draw, rng):
    shape = draw(shapes())
    return (away_from_zero(rng, stretched(draw, shape)), away_from_zero(rng, shape)), {}


def power(draw, rng):
    (a, b), _ = two_arrays(draw, rng)
    return (abs(a), b), {}


def one_array(draw, rng):
    return (away_from_zero(rng, draw(shapes())),), {}


def one_positive(draw, rng):
    return (abs(away_from_zero(rng, draw(shapes()))),), {}


DRAWS: dict[str, Draw] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "maximum"), two_arrays),
    "pow": power,
    **dict.fromkeys(("neg", "abs", "exp", "sin", "cos", "erf"), one_array),
    **dict.fromkeys(("log", "sqrt"), one_positive),
}
