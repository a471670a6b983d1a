"""Losses."""

import numpy as np
from hypothesis import strategies as st

from oracles.common import REDUCTION, Draw, Oracle, functional, normal, reduced, shapes, wide


def softmax_cross_entropy_plain(logits, targets, reduction="mean"):
    powers = np.exp(wide(logits))
    p = powers / powers.sum(axis=1, keepdims=True)
    if targets.ndim == 1:
        losses = wide([-np.log(p[i, int(label)]) for i, label in enumerate(targets)])
    else:
        losses = -(wide(targets) * np.log(p)).sum(axis=1)
    return reduced(losses, reduction)


def bce_with_logits_plain(z, y, reduction="mean"):
    y, p = wide(y), 1 / (1 + np.exp(-wide(z)))
    return reduced(-(y * np.log(p) + (1 - y) * np.log(1 - p)), reduction)


def mse_plain(x, y, reduction="mean", half=False):
    return reduced((wide(x) - wide(y)) ** 2 / (2 if half else 1), reduction)


def cross_entropy_torch(logits, targets, reduction="mean"):
    targets = targets if targets.is_floating_point() else targets.long()
    return functional().cross_entropy(logits, targets, reduction=reduction)


def mse_torch(x, y, reduction="mean", half=False):
    return functional().mse_loss(x, y, reduction=reduction) * (0.5 if half else 1.0)


PLAIN: dict[str, Oracle] = {
    "softmax_cross_entropy": softmax_cross_entropy_plain,
    "bce_with_logits": bce_with_logits_plain,
    "mse": mse_plain,
}


TORCH: dict[str, Oracle] = {
    "softmax_cross_entropy": cross_entropy_torch,
    "bce_with_logits": lambda z, y, reduction="mean": functional().binary_cross_entropy_with_logits(
        z, y, reduction=reduction
    ),
    "mse": mse_torch,
}


def cross_entropy_draw(draw, rng):
    N, C = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    labels = rng.integers(0, C, N) if draw(st.booleans()) else rng.dirichlet(np.ones(C), N)
    return (3 * normal(rng, N, C), labels), {"reduction": draw(REDUCTION)}


def bce_draw(draw, rng):
    shape = tuple(n or 1 for n in draw(shapes()))
    return (3 * normal(rng, *shape), rng.uniform(0, 1, shape)), {"reduction": draw(REDUCTION)}


def mse_draw(draw, rng):
    shape = tuple(n or 1 for n in draw(shapes()))
    how = {"reduction": draw(REDUCTION), "half": draw(st.booleans())}
    return (normal(rng, *shape), normal(rng, *shape)), how


DRAWS: dict[str, Draw] = {
    "softmax_cross_entropy": cross_entropy_draw,
    "bce_with_logits": bce_draw,
    "mse": mse_draw,
}
