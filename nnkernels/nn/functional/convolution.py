"""Convolutions, as correlations: the filter is not flipped."""

from typing import Any

from nnkernels.ops import OPS


def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int = 0, dilation: int = 1,
    groups: int = 1, *, activation: str | None = None,
) -> Any:  # fmt: skip
    """Return x (N, C, L) correlated with weight (K, C / groups, S), plus bias (K).

    With activation="relu", max(., 0) of it.
    """
    return OPS["conv1d"](
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation,
    )  # fmt: skip


def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, activation: str | None = None, winograd: Any = None,
) -> Any:  # fmt: skip
    """Return x (N, C, H, W) correlated with weight (K, C / groups, R, S), plus bias (K).

    With activation="relu", max(., 0) of it in the same pass over memory. ``winograd`` False computes
    directly, 2 or 4 asks for that size of patch; None leaves it to the rule, which ``nnk.explain`` shows.
    """
    return OPS["conv2d"](
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation, winograd=winograd,
    )  # fmt: skip
