"""Normalisation."""

import numpy as np
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, functional, normal, wide


def normalised(values, eps):
    """Return (values - mean) / sqrt(variance + eps), as wide as can be."""
    values = wide(values)
    mean = values.sum() / values.size
    return (values - mean) / np.sqrt(((values - mean) ** 2).sum() / values.size + np.longdouble(eps))


def batch_norm_plain(x, w, b, *, eps=1e-5):
    y = np.empty(x.shape, np.longdouble)
    for c in range(x.shape[1]):
        y[:, c] = normalised(x[:, c], eps) * (1 if w is None else w[c]) + (0 if b is None else b[c])
    return y


def layer_norm_plain(x, w, b, *, normalized_shape, eps=1e-5):
    y = np.empty(x.shape, np.longdouble)
    for at in np.ndindex(x.shape[: x.ndim - np.size(normalized_shape)]):
        y[at] = normalised(x[at], eps) * (1 if w is None else w) + (0 if b is None else b)
    return y


def batch_norm_torch(x, w, b, *, eps=1e-5):
    return functional().batch_norm(x, None, None, w, b, training=True, eps=eps)


def layer_norm_torch(x, w, b, *, normalized_shape, eps=1e-5):
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
    return functional().layer_norm(x, shape, w, b, eps)


PLAIN: dict[str, Oracle] = {
    "batch_norm": batch_norm_plain,
    "layer_norm": layer_norm_plain,
}


TORCH: dict[str, Oracle] = {
    "batch_norm": batch_norm_torch,
    "layer_norm": layer_norm_torch,
}


def weight_and_bias(draw, rng, *shape):
    return [normal(rng, *shape) if draw(st.booleans()) else None for _ in range(2)]


def batch_norm_draw(draw, rng):
    N, C = draw(st.integers(2, 9)), draw(st.integers(1, 6))
    x = normal(rng, N, C, *draw(st.lists(st.integers(2, 9), max_size=2)))
    return (x, *weight_and_bias(draw, rng, C)), {"eps": draw(st.sampled_from([1e-5, 1e-2]))}


def layer_norm_draw(draw, rng):
    lead = draw(st.lists(st.integers(0, 9), max_size=2))
    shape = (2, *draw(st.lists(st.integers(2, 6), min_size=1, max_size=2)))
    how = {"normalized_shape": shape, "eps": draw(st.sampled_from([1e-5, 1e-2]))}
    return (normal(rng, *lead, *shape), *weight_and_bias(draw, rng, *shape)), how


DRAWS: dict[str, Draw] = {"batch_norm": batch_norm_draw, "layer_norm": layer_norm_draw}
