"""Losses."""

import math

import numpy as np
from hypothesis import strategies as st

from oracles.common import REDUCTION, Draw, Oracle, functional, normal, reduced, shapes, wide

# --- plain ---


def softmax_cross_entropy_plain(
    logits, targets, weight=None, reduction="mean", ignore_index=-100, label_smoothing=0.0
):
    powers = np.exp(wide(logits))
    logs = np.log(powers / powers.sum(axis=1, keepdims=True))
    C = logits.shape[1]
    w = wide(np.ones(C) if weight is None else weight)
    losses, total = [], wide(0)
    for row, target in zip(logs, targets):
        if targets.ndim == 2:
            smoothed = wide(target) * (1 - wide(label_smoothing)) + wide(label_smoothing) / C
            losses.append(-(w * smoothed * row).sum())
            total += 1
        elif target == ignore_index:
            losses.append(wide(0))
        else:
            smooth = wide(label_smoothing) / C * (w * row).sum()
            losses.append(-(1 - wide(label_smoothing)) * w[target] * row[target] - smooth)
            total += w[target]
    return wide(losses).sum() / total if reduction == "mean" else reduced(wide(losses), reduction)


def nll_loss_plain(x, labels, weight=None, reduction="mean", ignore_index=-100):
    counted = [(i, int(label)) for i, label in enumerate(labels) if label != ignore_index]
    losses, total = wide(np.zeros(len(x))), wide(0)
    for i, label in counted:
        w = wide(1 if weight is None else weight[label])
        losses[i] = -w * wide(x[i, label])
        total += w
    return losses.sum() / total if reduction == "mean" else reduced(losses, reduction)


def bce_with_logits_plain(z, y, weight=None, pos_weight=None, reduction="mean"):
    y, p = wide(y), 1 / (1 + np.exp(-wide(z)))
    w, q = (wide(1 if a is None else a) for a in (weight, pos_weight))
    return reduced(-w * (q * y * np.log(p) + (1 - y) * np.log(1 - p)), reduction)


def bce_plain(p, y, weight=None, reduction="mean"):
    p, y, w = wide(p), wide(y), wide(1 if weight is None else weight)
    return reduced(-w * np.log(p**y * (1 - p) ** (1 - y)), reduction)


def hinge_plain(x, y, reduction="mean"):
    margin = wide(x) * wide(y)
    return reduced(np.where(margin >= 1, 0, 1 - margin), reduction)


def mse_plain(x, y, reduction="mean", half=False):
    return reduced((wide(x) - wide(y)) ** 2 / (2 if half else 1), reduction)


def smooth_l1_plain(x, y, reduction="mean", beta=1.0):
    d = wide(x) - wide(y)
    if beta == 0:
        return reduced(np.sqrt(d * d), reduction)
    pieces = [(d > -beta) & (d < beta), d >= beta]
    return reduced(
        np.select(pieces, [d**2 / (2 * wide(beta)), d - wide(beta) / 2], -d - wide(beta) / 2), reduction
    )


def huber_plain(x, y, reduction="mean", delta=1.0):
    from scipy.special import huber

    return reduced(huber(delta, x.astype(float) - y.astype(float)), reduction)


def gaussian_nll_plain(x, y, var, reduction="mean", full=False, eps=1e-6):
    from scipy.stats import norm

    deviation = np.sqrt(np.clip(var.astype(float), eps, None))
    losses = -norm.logpdf(y.astype(float), x.astype(float), deviation)
    return reduced(losses - (0 if full else math.log(2 * math.pi) / 2), reduction)


def kl_div_plain(x, t, reduction="mean", log_target=False):
    from scipy.special import rel_entr

    t = np.exp(t.astype(float)) if log_target else t.astype(float)
    losses = rel_entr(t, np.exp(x.astype(float)))
    return losses.sum() / len(x) if reduction == "batchmean" else reduced(losses, reduction)


PLAIN: dict[str, Oracle] = {
    "softmax_cross_entropy": softmax_cross_entropy_plain,
    "nll_loss": nll_loss_plain,
    "bce_with_logits": bce_with_logits_plain,
    "bce": bce_plain,
    "hinge": hinge_plain,
    "mse": mse_plain,
    "l1": lambda x, y, reduction="mean": reduced(abs(wide(x) - wide(y)), reduction),
    "smooth_l1": smooth_l1_plain,
    "huber": huber_plain,
    "gaussian_nll": gaussian_nll_plain,
    "kl_div": kl_div_plain,
}

# --- torch ---


def cross_entropy_torch(logits, targets, weight=None, **attributes):
    targets = targets if targets.is_floating_point() else targets.long()
    return functional().cross_entropy(logits, targets, weight, **attributes)


def hinge_torch(x, y, reduction="mean"):
    losses = (1 - x * y).clamp(min=0)
    return {"mean": losses.mean, "sum": losses.sum, "none": lambda: losses}[reduction]()


def mse_torch(x, y, reduction="mean", half=False):
    return functional().mse_loss(x, y, reduction=reduction) * (0.5 if half else 1.0)


def bce_with_logits_torch(z, y, weight=None, pos_weight=None, reduction="mean"):
    function = functional().binary_cross_entropy_with_logits
    return function(z, y, weight, pos_weight=pos_weight, reduction=reduction)


def kl_div_torch(x, t, reduction="mean", log_target=False):
    # Its own mean warns that it is not batchmean.
    losses = functional().kl_div(x, t, reduction="none", log_target=log_target)
    if reduction == "batchmean":
        return losses.sum() / len(x)
    return losses.mean() if reduction == "mean" else losses.sum() if reduction == "sum" else losses


TORCH: dict[str, Oracle] = {
    "softmax_cross_entropy": cross_entropy_torch,
    "nll_loss": lambda x, labels, *weight, **how: functional().nll_loss(x, labels.long(), *weight, **how),
    "bce_with_logits": bce_with_logits_torch,
    "bce": lambda *arrays, **how: functional().binary_cross_entropy(*arrays, **how),
    "hinge": hinge_torch,
    "mse": mse_torch,
    "l1": lambda x, y, **how: functional().l1_loss(x, y, **how),
    "smooth_l1": lambda x, y, **how: functional().smooth_l1_loss(x, y, **how),
    "huber": lambda x, y, **how: functional().huber_loss(x, y, **how),
    "gaussian_nll": lambda x, y, var, **how: functional().gaussian_nll_loss(x, y, var, **how),
    "kl_div": kl_div_torch,
}

# --- draws ---


def a_weight(draw, rng, *shape):
    """Draw an array of weights or None."""
    return rng.uniform(0.2, 3, shape) if draw(st.booleans()) else None


def some_labels(draw, rng, N, C):
    """Draw labels, and the label to ignore: one of them, or one that stands among them."""
    labels = rng.integers(0, C, N)
    ignored = draw(st.sampled_from([-100, -1, 0, C - 1]))
    if draw(st.booleans()) and N > 1:
        labels[rng.integers(1, N)] = ignored
    labels[0] = C - 1 if ignored != C - 1 else 0
    return labels, ignored


def cross_entropy_draw(draw, rng):
    N, C = draw(st.integers(1, 9)), draw(st.integers(2, 12))
    how = {"reduction": draw(REDUCTION), "label_smoothing": draw(st.sampled_from([0.0, 0.1, 0.7, 1.0]))}
    if draw(st.booleans()):
        targets, how["ignore_index"] = some_labels(draw, rng, N, C)
    else:
        targets = rng.dirichlet(np.ones(C), N)
    return (3 * normal(rng, N, C), targets, a_weight(draw, rng, C)), how


def nll_loss_draw(draw, rng):
    N, C = draw(st.integers(1, 9)), draw(st.integers(2, 12))
    labels, ignored = some_labels(draw, rng, N, C)
    how = {"reduction": draw(REDUCTION), "ignore_index": ignored}
    return (-np.abs(3 * normal(rng, N, C)), labels, a_weight(draw, rng, C)), how


def shape_of(draw):
    return tuple(n or 1 for n in draw(shapes()))


def bce_with_logits_draw(draw, rng):
    shape = shape_of(draw)
    weights = [a_weight(draw, rng, *shape) for _ in range(2)]
    return (3 * normal(rng, *shape), rng.uniform(0, 1, shape), *weights), {"reduction": draw(REDUCTION)}


def bce_draw(draw, rng):
    shape = shape_of(draw)
    arrays = rng.uniform(0.01, 0.99, shape), rng.uniform(0, 1, shape), a_weight(draw, rng, *shape)
    return arrays, {"reduction": draw(REDUCTION)}


def hinge_draw(draw, rng):
    shape = shape_of(draw)
    return (2 * normal(rng, *shape), rng.choice([-1.0, 1.0], shape)), {"reduction": draw(REDUCTION)}


def pair_draw(**attributes):
    """Return what draws two arrays of one shape, the reduction and the attributes."""

    def case(draw, rng):
        shape = shape_of(draw)
        how = {name: draw(values) for name, values in attributes.items()}
        return (normal(rng, *shape), normal(rng, *shape)), {"reduction": draw(REDUCTION), **how}

    return case


def gaussian_nll_draw(draw, rng):
    shape = shape_of(draw)
    how = {"full": draw(st.booleans()), "eps": draw(st.sampled_from([1e-6, 0.01, 1.0]))}
    arrays = normal(rng, *shape), normal(rng, *shape), rng.uniform(0.05, 3, shape)
    return arrays, {"reduction": draw(REDUCTION), **how}


def kl_div_draw(draw, rng):
    shape = shape_of(draw)
    words = ["mean", "sum", "none", *(["batchmean"] if shape else [])]
    how = {"reduction": draw(st.sampled_from(words)), "log_target": draw(st.booleans())}
    return (rng.uniform(-4, 0, shape), rng.uniform(0.02, 1, shape)), how


DRAWS: dict[str, Draw] = {
    "softmax_cross_entropy": cross_entropy_draw,
    "nll_loss": nll_loss_draw,
    "bce_with_logits": bce_with_logits_draw,
    "bce": bce_draw,
    "hinge": hinge_draw,
    "mse": pair_draw(half=st.booleans()),
    "l1": pair_draw(),
    "smooth_l1": pair_draw(beta=st.sampled_from([0.0, 0.3, 1.0, 2.5])),
    "huber": pair_draw(delta=st.sampled_from([0.3, 1.0, 2.5])),
    "gaussian_nll": gaussian_nll_draw,
    "kl_div": kl_div_draw,
}
