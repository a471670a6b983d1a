"""Layers: modules around one op each, with PyTorch's arguments, key names and initial weights."""

import math
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.module import Module, Parameter
from nnkernels.ops.activation import check_activation
from nnkernels.ops.validate import check_int, check_pair

Size = int | tuple[int, int]


def positive(layer: str, name: str, value: Any) -> int:
    """Return ``value``, which must be an int of at least 1."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{layer}: {name} must be an int, got {type(value).__name__} {value!r}")
    if value < 1:
        raise ValueError(f"{layer}: {name} must be at least 1, got {value}")
    return int(value)


def make_weights(
    shape: tuple[int, ...], bias: bool, rng: init.Rng, dtype: DTypeLike
) -> tuple[Parameter, Parameter | None]:
    """Return weight and bias drawn from [-1/sqrt(fan_in), 1/sqrt(fan_in)], PyTorch's default."""
    rng = np.random.default_rng(rng)
    weight = Parameter(np.empty(shape, dtype))
    bound = 1 / math.sqrt(math.prod(shape[1:]))
    init.uniform_(weight, -bound, bound, rng)
    if not bias:
        return weight, None
    b = Parameter(np.empty(shape[0], dtype))
    init.uniform_(b, -bound, bound, rng)
    return weight, b


def activated(layer: Any) -> str:
    """Return the part of a layer's description that names its activation."""
    return "" if layer.activation is None else f", activation={layer.activation!r}"


class Linear(Module):
    """y = x W^T + b for x (..., in_features): weight (out_features, in_features), bias (out_features).

    With ``activation="relu"``, max(y, 0), computed in the same pass over memory.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, *, activation: str | None = None,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_features = positive("Linear", "in_features", in_features)
        self.out_features = positive("Linear", "out_features", out_features)
        check_activation("Linear", activation)
        self.activation = activation
        self.weight, self.bias = make_weights((out_features, in_features), bias, rng, dtype)

    def forward(self, x: Any) -> Any:
        """Return (..., out_features)."""
        return F.linear(x, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}" + activated(self)


class Conv1d(Module):
    """One-dimensional convolution of x (N, in_channels, L).

    ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are ints; weight has shape (out_channels,
    in_channels / groups, S), the output floor((L + 2 padding - dilation (S - 1) - 1) / stride) + 1 places.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
        dilation: int = 1, groups: int = 1, bias: bool = True, *, activation: str | None = None,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels = positive("Conv1d", "in_channels", in_channels)
        self.out_channels = positive("Conv1d", "out_channels", out_channels)
        self.kernel_size = positive("Conv1d", "kernel_size", kernel_size)
        self.stride = positive("Conv1d", "stride", stride)
        check_int("Conv1d", "padding", padding, 0)
        self.padding = int(padding)
        self.dilation = positive("Conv1d", "dilation", dilation)
        self.groups = positive("Conv1d", "groups", groups)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"Conv1d: groups must divide {name} {channels}, got {groups}")
        check_activation("Conv1d", activation)
        self.activation = activation
        shape = (out_channels, in_channels // groups, kernel_size)
        self.weight, self.bias = make_weights(shape, bias, rng, dtype)

    def forward(self, x: Any) -> Any:
        """Return (N, out_channels, Q)."""
        return F.conv1d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            activation=self.activation,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}, "
            f"bias={self.bias is not None}" + activated(self)
        )


class Conv2d(Module):
    """Two-dimensional convolution of x (N, in_channels, H, W).

    ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are ints or (vertical, horizontal) pairs; weight
    has shape (out_channels, in_channels / groups, R, S), the output
    floor((H + 2 padding - dilation (R - 1) - 1) / stride) + 1 rows. With ``activation="relu"``, max(., 0) of
    it, computed in the same pass over memory.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size = 0,
        dilation: Size = 1, groups: int = 1, bias: bool = True, *, activation: str | None = None,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels = positive("Conv2d", "in_channels", in_channels)
        self.out_channels = positive("Conv2d", "out_channels", out_channels)
        self.kernel_size = check_pair("Conv2d", "kernel_size", kernel_size, 1)
        self.stride = check_pair("Conv2d", "stride", stride, 1)
        self.padding = check_pair("Conv2d", "padding", padding, 0)
        self.dilation = check_pair("Conv2d", "dilation", dilation, 1)
        self.groups = positive("Conv2d", "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(
                f"Conv2d: groups must divide in_channels {in_channels} and out_channels {out_channels}, "
                f"got {groups}"
            )
        check_activation("Conv2d", activation)
        self.activation = activation
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight, self.bias = make_weights(shape, bias, rng, dtype)

    def forward(self, x: Any) -> Any:
        """Return (N, out_channels, P, Q)."""
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            activation=self.activation,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}"
            + (f", dilation={self.dilation}" if self.dilation != (1, 1) else "")
            + (f", groups={self.groups}" if self.groups != 1 else "")
            + f", bias={self.bias is not None}"
            + activated(self)
        )


class Pool2d(Module):
    """What the pooling layers share: a window, a stride (the window's size unless given), a padding."""

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        name = type(self).__name__
        self.kernel_size = check_pair(name, "kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else check_pair(name, "stride", stride, 1)
        self.padding = check_pair(name, "padding", padding, 0)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class MaxPool2d(Pool2d):
    """Largest pixel of each window of x (N, C, H, W)."""

    def forward(self, x: Any) -> Any:
        """Return (N, C, P, Q)."""
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(Pool2d):
    """Mean of each window of x (N, C, H, W), padding included."""

    def forward(self, x: Any) -> Any:
        """Return (N, C, P, Q)."""
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class Flatten(Module):
    """All axes from ``start_dim`` on merged into one: (N, C, H, W) to (N, C H W)."""

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, x: Any) -> Any:
        """Return a view with fewer axes."""
        return F.flatten(x, self.start_dim, self.end_dim)


class ReLU(Module):
    """max(x, 0), with slope 0 at 0."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.relu(x)


class LeakyReLU(Module):
    """x where positive, negative_slope * x elsewhere."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        super().__init__()
        self.negative_slope = negative_slope

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.leaky_relu(x, self.negative_slope)

    def extra_repr(self) -> str:
        """Return the slope."""
        return f"negative_slope={self.negative_slope}"


class Sigmoid(Module):
    """1 / (1 + e^-x)."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.sigmoid(x)


class Tanh(Module):
    """Hyperbolic tangent."""

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.tanh(x)


class Softmax(Module):
    """e^x over its sum along ``dim``."""

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape that sums to 1 along ``dim``."""
        return F.softmax(x, self.dim)
