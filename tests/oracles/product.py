"""Products of matrices."""

import numpy as np
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, activated, functional, normal, wide


def matmul_plain(a, b):
    return (wide(a)[..., :, :, None] * wide(b)[..., None, :, :]).sum(axis=-2)


def linear_plain(x, w, b=None):
    return np.einsum("...i,oi->...o", wide(x), wide(w)) + (0 if b is None else b)


PLAIN: dict[str, Oracle] = {
    "matmul": matmul_plain,
    "linear": activated(linear_plain),
}


TORCH: dict[str, Oracle] = {
    "matmul": lambda a, b: a.matmul(b),
    "linear": activated(lambda x, w, b=None: functional().linear(x, w, b)),
}


ROWS = st.integers(0, 40)


def matmul_draw(draw, rng):
    M, K, N = draw(ROWS), draw(ROWS), draw(ROWS)
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    many = draw(st.booleans())
    return (normal(rng, *batch, M, K), normal(rng, *(batch if many else ()), K, N)), {}


def linear_draw(draw, rng):
    inputs, outputs = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    x = normal(rng, *draw(st.lists(st.integers(0, 9), max_size=2)), inputs)
    b = normal(rng, outputs) if draw(st.booleans()) else None
    return (x, normal(rng, outputs, inputs), b), {"activation": draw(st.sampled_from([None, "relu"]))}


DRAWS: dict[str, Draw] = {"matmul": matmul_draw, "linear": linear_draw}
