"""Convolutions as layers."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers.common import Size, activated, make_weights, positive
from nnkernels.nn.module import Module
from nnkernels.ops.activation import check_activation
from nnkernels.ops.validate import check_int, check_pair


class Conv1d(Module):
    """One-dimensional convolution of x (N, in_channels, L).

    ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are ints; weight has shape (out_channels,
    in_channels / groups, S), the output floor((L + 2 padding - dilation (S - 1) - 1) / stride) + 1 places.
    """

    fuses_relu = True

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

    def forward(self, x: Any, activation: str | None = None) -> Any:
        """Return (N, out_channels, Q)."""
        return F.conv1d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            activation=activation or self.activation,
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

    fuses_relu = True

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

    def forward(self, x: Any, activation: str | None = None) -> Any:
        """Return (N, out_channels, P, Q)."""
        return F.conv2d(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            activation=activation or self.activation,
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
