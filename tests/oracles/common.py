"""What the families of oracles share."""

from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import strategies as st

Oracle = Callable[..., Any]
Draw = Callable[[Any, np.random.Generator], tuple[tuple[Any, ...], dict[str, Any]]]


def wide(x):
    return np.asarray(x, np.longdouble)


def pair(value):
    return tuple(value) if isinstance(value, (tuple, list)) else (value, value)


def reduced(losses, reduction):
    return {"mean": np.mean, "sum": np.sum, "none": np.asarray}[reduction](losses)


def functional():
    """Return torch.nn.functional, imported at the first call: PyTorch is optional and slow to load."""
    import torch.nn.functional

    return torch.nn.functional


def activated(function):
    """Return ``function`` with the attribute ``activation``, for arrays and for tensors."""
    return lambda *inputs, activation=None, **attributes: (
        function(*inputs, **attributes).clip(0) if activation else function(*inputs, **attributes)
    )


# --- for DRAWS ---


SIZE = st.integers(1, 6)
REDUCTION = st.sampled_from(["mean", "sum", "none"])


def shapes(least=0, most=4):
    """Return the strategy of shapes of ``least`` to ``most`` axes, some of them empty."""
    return st.lists(st.sampled_from([1, 2, 3, 5, 8, 0]), min_size=least, max_size=most).map(tuple)


def normal(rng, *shape):
    """Return an array of normal draws."""
    return np.asarray(rng.standard_normal(shape))


def away_from_zero(rng, shape):
    """Return numbers at least 0.05 away from 0, where many activations have their kink."""
    return np.asarray(rng.uniform(0.05, 3, shape) * rng.choice([-1, 1], shape))
