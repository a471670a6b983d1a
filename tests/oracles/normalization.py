"""Normalisation and dropout."""

import numpy as np
from hypothesis import strategies as st

from oracles.common import SIZE, Draw, Oracle, functional, normal, shapes, wide


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


def batch_norm_inference_plain(x, mean, var, w, b, *, eps=1e-5):
    y = np.empty(x.shape, np.longdouble)
    for c in range(x.shape[1]):
        spread = np.sqrt(wide(var[c]) + np.longdouble(eps))
        y[:, c] = (x[:, c] - wide(mean[c])) / spread * (1 if w is None else w[c]) + (0 if b is None else b[c])
    return y


def layer_norm_plain(x, w, b, *, normalized_shape, eps=1e-5):
    y = np.empty(x.shape, np.longdouble)
    for at in np.ndindex(x.shape[: x.ndim - np.size(normalized_shape)]):
        y[at] = normalised(x[at], eps) * (1 if w is None else w) + (0 if b is None else b)
    return y


def group_norm_plain(x, w, b, *, num_groups, eps=1e-5):
    y, size = np.empty(x.shape, np.longdouble), x.shape[1] // num_groups
    for n in range(len(x)):
        for start in range(0, x.shape[1], size):
            y[n, start : start + size] = normalised(x[n, start : start + size], eps)
    for c in range(x.shape[1]):
        y[:, c] = y[:, c] * (1 if w is None else w[c]) + (0 if b is None else b[c])
    return y


def local_response_norm_plain(x, *, size, alpha=1e-4, beta=0.75, k=1.0):
    x, y = wide(x), np.empty(x.shape, np.longdouble)
    for c in range(x.shape[1]):
        near = [j for j in range(x.shape[1]) if c - size // 2 <= j <= c + (size - 1) // 2]
        d = wide(k) + wide(alpha) * (x[:, near] ** 2).sum(axis=1) / size
        y[:, c] = x[:, c] / np.exp(wide(beta) * np.log(d))
    return y


def dropout_plain(x, mask, *, p=0.5):
    factor = 0 if p == 1 else 1 / (1 - wide(p))
    return wide(x) * np.where(mask.reshape((*mask.shape, *(1,) * (x.ndim - mask.ndim))), factor, 0)


def batch_norm_torch(x, w, b, *, eps=1e-5):
    return functional().batch_norm(x, None, None, w, b, training=True, eps=eps)


def batch_norm_inference_torch(x, mean, var, w, b, *, eps=1e-5):
    return functional().batch_norm(x, mean, var, w, b, training=False, eps=eps)


def layer_norm_torch(x, w, b, *, normalized_shape, eps=1e-5):
    shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
    return functional().layer_norm(x, shape, w, b, eps)


def group_norm_torch(x, w, b, *, num_groups, eps=1e-5):
    ones = b if b is None else b.detach() * 0 + 1  # a bias without a weight fails in PyTorch's backward
    return functional().group_norm(x, num_groups, ones if w is None else w, b, eps)


def local_response_norm_torch(x, *, size, alpha=1e-4, beta=0.75, k=1.0):
    return functional().local_response_norm(x, size, alpha, beta, float(k))


def dropout_torch(x, mask, *, p=0.5):
    mask = mask.reshape((*mask.shape, *(1,) * (x.ndim - mask.ndim)))
    return x * mask * (0.0 if p == 1 else 1 / (1 - p))


PLAIN: dict[str, Oracle] = {
    "batch_norm": batch_norm_plain,
    "batch_norm_inference": batch_norm_inference_plain,
    "layer_norm": layer_norm_plain,
    "group_norm": group_norm_plain,
    "local_response_norm": local_response_norm_plain,
    "dropout": dropout_plain,
}


TORCH: dict[str, Oracle] = {
    "batch_norm": batch_norm_torch,
    "batch_norm_inference": batch_norm_inference_torch,
    "layer_norm": layer_norm_torch,
    "group_norm": group_norm_torch,
    "local_response_norm": local_response_norm_torch,
    "dropout": dropout_torch,
}


def apart(rng, axis, *shape):
    """Return random numbers at least 1/2 apart along an axis.

    Division by the deviation of numbers that nearly coincide magnifies rounding errors without bound.
    """
    places = np.indices(shape)[axis]
    return rng.permuted(places + rng.uniform(0, 0.5, shape), axis=axis)


def weight_and_bias(draw, rng, *shape):
    return [normal(rng, *shape) if draw(st.booleans()) else None for _ in range(2)]


def batch_norm_draw(draw, rng):
    N, C = draw(st.integers(2, 9)), draw(st.integers(1, 6))
    x = apart(rng, 0, N, C, *draw(st.lists(st.integers(2, 9), max_size=2)))
    return (x, *weight_and_bias(draw, rng, C)), {"eps": draw(st.sampled_from([1e-5, 1e-2]))}


def batch_norm_inference_draw(draw, rng):
    C = draw(st.integers(1, 6))
    x = normal(rng, draw(st.integers(0, 9)), C, *draw(st.lists(st.integers(1, 40), max_size=2)))
    how = {"eps": draw(st.sampled_from([1e-5, 1e-2]))}
    return (x, normal(rng, C), rng.uniform(0.1, 2, C), *weight_and_bias(draw, rng, C)), how


def layer_norm_draw(draw, rng):
    lead = draw(st.lists(st.integers(0, 9), max_size=2))
    shape = (2, *draw(st.lists(st.integers(2, 6), min_size=1, max_size=2)))
    how = {"normalized_shape": shape, "eps": draw(st.sampled_from([1e-5, 1e-2]))}
    return (apart(rng, -1, *lead, *shape), *weight_and_bias(draw, rng, *shape)), how


def group_norm_draw(draw, rng):
    G, K = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    shape = draw(st.lists(st.integers(2, 9), min_size=1, max_size=2))
    how = {"num_groups": G, "eps": draw(st.sampled_from([1e-5, 1e-2]))}
    return (apart(rng, -1, draw(st.integers(1, 5)), G * K, *shape), *weight_and_bias(draw, rng, G * K)), how


def local_response_norm_draw(draw, rng):
    shape = (draw(st.integers(1, 4)), draw(st.integers(1, 9)), *draw(st.lists(SIZE, min_size=1, max_size=2)))
    how = {"size": draw(st.integers(1, 9)), "alpha": draw(st.sampled_from([1e-4, 0.5, 2.0]))}
    how |= {"beta": draw(st.sampled_from([0.75, 0.5, 1.5])), "k": draw(st.sampled_from([1.0, 2]))}
    return (normal(rng, *shape),), how


def dropout_draw(draw, rng):
    shape, p = draw(shapes()), draw(st.sampled_from([0, 0.1, 0.5, 0.9, 1]))
    mask = rng.random(shape[: draw(st.integers(0, len(shape)))]) >= p
    return (normal(rng, *shape), np.asarray(mask)), {"p": p}


DRAWS: dict[str, Draw] = {
    "batch_norm": batch_norm_draw,
    "batch_norm_inference": batch_norm_inference_draw,
    "layer_norm": layer_norm_draw,
    "group_norm": group_norm_draw,
    "local_response_norm": local_response_norm_draw,
    "dropout": dropout_draw,
}
