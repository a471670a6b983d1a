"""Convolutions, as correlations: the filter is not flipped.

Where a function takes ``padding``, it may be "valid", which is 0, or, with stride 1, "same": as many zeros
as keep the size of x, dilation (S - 1) along an axis, one more behind than in front where that is odd.
"""

from typing import Any

from nnkernels.ops import OPS
from nnkernels.ops.conv3d import check_triple
from nnkernels.ops.validate import check_int, check_pair


def per_axis(op: str, name: str, value: Any, least: int, axes: int) -> tuple[int, ...]:
    """Return an int of at least ``least``, or one for each of 2 or 3 axes, as a tuple."""
    if axes == 1:
        check_int(op, name, value, least)
        return (int(value),)
    return (check_pair if axes == 2 else check_triple)(op, name, value, least)


def named_padding(op: str, padding: str, stride: tuple[int, ...]) -> str:
    """Return ``padding``, which must be "valid" or, with stride 1, "same"."""
    if padding not in ("same", "valid"):
        raise ValueError(f"{op}: padding must be 'same', 'valid' or ints, got {padding!r}")
    if padding == "same" and max(stride) > 1:
        raise ValueError(f"{op}: padding 'same' needs stride 1, got {stride if stride[1:] else stride[0]}")
    return padding


def padded(op: str, axes: int, x: Any, weight: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """Return x and the op's padding in numbers: half of "same" on both sides, an odd zero appended to x."""
    if not isinstance(padding, str):
        return x, padding
    named_padding(op, padding, per_axis(op, "stride", stride, 1, axes))
    gaps = per_axis(op, "dilation", dilation, 1, axes)
    if padding == "valid" or len(x.shape) != axes + 2 or len(weight.shape) != axes + 2:  # the op says so
        return x, 0
    zeros = [gap * (length - 1) for gap, length in zip(gaps, weight.shape[2:])]
    if any(n % 2 for n in zeros):
        behind = [(0, n % 2) for n in reversed(zeros)]
        x = OPS["pad"](x, padding=tuple(n for pair in behind for n in pair))
    return x, zeros[0] // 2 if axes == 1 else tuple(n // 2 for n in zeros)


def conv1d(
    x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int | str = 0, dilation: int = 1,
    groups: int = 1, *, activation: str | None = None,
) -> Any:  # fmt: skip
    """Return x (N, C, L) correlated with weight (K, C / groups, S), plus bias (K).

    ``padding`` may be "same" or "valid". With activation="relu", max(., 0) of it.
    """
    x, padding = padded("conv1d", 1, x, weight, stride, padding, dilation)
    return OPS["conv1d"](
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation,
    )  # fmt: skip


def conv2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, activation: str | None = None, winograd: Any = None,
) -> Any:  # fmt: skip
    """Return x (N, C, H, W) correlated with weight (K, C / groups, R, S), plus bias (K).

    ``padding`` may be "same" or "valid". With activation="relu", max(., 0) of it in the same pass over
    memory. ``winograd`` False computes directly, 2 or 4 asks for that size of patch; None leaves it to the
    rule, which ``nnk.explain`` shows.
    """
    x, padding = padded("conv2d", 2, x, weight, stride, padding, dilation)
    return OPS["conv2d"](
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation, winograd=winograd,
    )  # fmt: skip


def conv3d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, dilation: Any = 1,
    groups: int = 1, *, activation: str | None = None,
) -> Any:  # fmt: skip
    """Return x (N, C, D, H, W) correlated with weight (K, C / groups, T, R, S), plus bias (K).

    ``padding`` may be "same" or "valid". With activation="relu", max(., 0) of it in the same pass over
    memory.
    """
    x, padding = padded("conv3d", 3, x, weight, stride, padding, dilation)
    return OPS["conv3d"](
        x, weight, bias, stride=stride, padding=padding, dilation=dilation, groups=groups,
        activation=activation,
    )  # fmt: skip


def conv_transpose1d(
    x: Any, weight: Any, bias: Any = None, stride: int = 1, padding: int = 0, output_padding: int = 0,
    groups: int = 1, dilation: int = 1,
) -> Any:  # fmt: skip
    """Return the transposed convolution of x (N, C, L) by weight (C, K / groups, S), plus bias (K).

    It has (L - 1) stride - 2 padding + dilation (S - 1) + output_padding + 1 places: conv1d with the same
    weight, stride, padding and dilation takes that many to L.
    """
    return OPS["conv_transpose1d"](
        x, weight, bias, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip


def conv_transpose2d(
    x: Any, weight: Any, bias: Any = None, stride: Any = 1, padding: Any = 0, output_padding: Any = 0,
    groups: int = 1, dilation: Any = 1,
) -> Any:  # fmt: skip
    """Return the transposed convolution of x (N, C, H, W) by weight (C, K / groups, R, S), plus bias (K).

    It has (H - 1) stride - 2 padding + dilation (R - 1) + output_padding + 1 rows: conv2d with the same
    weight, stride, padding and dilation takes that many to H.
    """
    return OPS["conv_transpose2d"](
        x, weight, bias, stride=stride, padding=padding, output_padding=output_padding, dilation=dilation,
        groups=groups,
    )  # fmt: skip


def correlate(x: Any, u: Any) -> Any:
    """Return the correlation x ⊛ u of a signal x (M) with a filter u (k): (x ⊛ u)_i = sum_b x_{i+b} u_b.

    It has M - k + 1 elements, one for each place where u lies inside x. This is conv1d of one signal, one
    channel and one filter, without padding. Raises ValueError unless both have one axis and 1 <= k <= M.

    >>> import numpy as np
    >>> x = np.array([0, 0, 0, 0, 1, 2, 3, 4, 4, 4, 4], np.float32)
    >>> correlate(x, np.array([-1, 1], np.float32))
    array([0., 0., 0., 1., 1., 1., 1., 0., 0., 0.], dtype=float32)
    """
    for name, a in (("x", x), ("u", u)):
        if len(a.shape) != 1:
            raise ValueError(f"correlate: {name} must have 1 axis, got shape {tuple(a.shape)}")
    if not 1 <= len(u) <= len(x):
        raise ValueError(f"correlate: u must have from 1 to {len(x)} elements, as many as x, got {len(u)}")
    return OPS["conv1d"](x.reshape(1, 1, -1), u.reshape(1, 1, -1), None).reshape(-1)
