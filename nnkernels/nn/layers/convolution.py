"""Convolutions as layers."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.functional.convolution import named_padding, per_axis
from nnkernels.nn.layers.common import Size, activated, make_weights, positive
from nnkernels.nn.module import Module, Parameter
from nnkernels.ops.activation import check_activation
from nnkernels.ops.conv3d import Size as Size3


class Convolution(Module):
    """What convolutions along ``axes`` axes share: sizes, ints for one axis and tuples for more."""

    axes = 0
    bias: Parameter | None

    def __init__(
        self, in_channels: Any, out_channels: Any, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
        groups: Any,
    ) -> None:  # fmt: skip
        super().__init__()
        self.in_channels = self.size("in_channels", in_channels)
        self.out_channels = self.size("out_channels", out_channels)
        self.kernel_size = self.sizes("kernel_size", kernel_size)
        self.stride = self.sizes("stride", stride)
        if isinstance(padding, str):
            steps = (self.stride,) if self.axes == 1 else self.stride
            self.padding: Any = named_padding(type(self).__name__, padding, steps)
        else:
            self.padding = self.sizes("padding", padding, 0)
        self.dilation = self.sizes("dilation", dilation)
        self.groups = self.size("groups", groups)
        for name in ("in_channels", "out_channels"):
            if getattr(self, name) % self.groups:
                raise ValueError(
                    f"{type(self).__name__}: groups must divide {name} {getattr(self, name)}, got {groups}"
                )

    def size(self, name: str, value: Any) -> int:
        """Return an int of at least 1."""
        return positive(type(self).__name__, name, value)

    def sizes(self, name: str, value: Any, least: int = 1) -> Any:
        """Return an int, or as many as there are axes, none below ``least``."""
        values = per_axis(type(self).__name__, name, value, least, self.axes)
        return values if self.axes > 1 else values[0]

    def kernel(self) -> tuple[int, ...]:
        """Return the filter's lengths."""
        return self.kernel_size if self.axes > 1 else (self.kernel_size,)

    def extra_repr(self) -> str:
        """Return the sizes."""
        always = self.axes == 1
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding!r}"
            + (f", dilation={self.dilation}" if always or set(self.dilation) != {1} else "")
            + (f", groups={self.groups}" if always or self.groups != 1 else "")
            + f", bias={self.bias is not None}"
        )


class Forward(Convolution):
    """A convolution with filters, weight (out_channels, in_channels / groups, ...), and perhaps relu."""

    fuses_relu = True

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any, dilation: Any,
        groups: int, bias: bool, activation: str | None, rng: init.Rng, dtype: DTypeLike,
    ) -> None:  # fmt: skip
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        check_activation(type(self).__name__, activation)
        self.activation = activation
        shape = (out_channels, in_channels // groups, *self.kernel())
        self.weight, self.bias = make_weights(shape, bias, rng, dtype)

    def forward(self, x: Any, activation: str | None = None) -> Any:
        """Return (N, out_channels, ...)."""
        convolve = (F.conv1d, F.conv2d, F.conv3d)[self.axes - 1]
        return convolve(
            x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups,
            activation=activation or self.activation,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the sizes and the activation."""
        return super().extra_repr() + activated(self)


class Conv1d(Forward):
    """One-dimensional convolution of x (N, in_channels, L).

    ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are ints; weight has shape (out_channels,
    in_channels / groups, S), the output floor((L + 2 padding - dilation (S - 1) - 1) / stride) + 1 places.
    ``padding`` may be "valid", for 0, or, with stride 1, "same", for as many zeros as keep L.
    """

    axes = 1

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int | str = 0,
        dilation: int = 1, groups: int = 1, bias: bool = True, *, activation: str | None = None,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, activation, rng,
            dtype,
        )  # fmt: skip


class Conv2d(Forward):
    """Two-dimensional convolution of x (N, in_channels, H, W).

    ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are ints or (vertical, horizontal) pairs; weight
    has shape (out_channels, in_channels / groups, R, S), the output
    floor((H + 2 padding - dilation (R - 1) - 1) / stride) + 1 rows. ``padding`` may be "valid", for 0, or,
    with stride 1, "same", for as many zeros as keep H and W. With ``activation="relu"``, max(., 0) of it,
    computed in the same pass over memory.
    """

    axes = 2

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1,
        padding: Size | str = 0, dilation: Size = 1, groups: int = 1, bias: bool = True, *,
        activation: str | None = None, rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, activation, rng,
            dtype,
        )  # fmt: skip


class Conv3d(Forward):
    """Three-dimensional convolution of x (N, in_channels, D, H, W).

    ``kernel_size``, ``stride``, ``padding`` and ``dilation`` are ints or (depth, vertical, horizontal)
    triples; weight has shape (out_channels, in_channels / groups, T, R, S), and each length of the output is
    as Conv2d's. ``padding`` may be "valid" or "same", and there is ``activation``, as there.
    """

    axes = 3

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size3, stride: Size3 = 1,
        padding: Size3 | str = 0, dilation: Size3 = 1, groups: int = 1, bias: bool = True, *,
        activation: str | None = None, rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, activation, rng,
            dtype,
        )  # fmt: skip


class Transposed(Convolution):
    """A transposed convolution, weight (in_channels, out_channels / groups, ...)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Any, stride: Any, padding: Any,
        output_padding: Any, groups: int, bias: bool, dilation: Any, rng: init.Rng, dtype: DTypeLike,
    ) -> None:  # fmt: skip
        if isinstance(padding, str):
            raise TypeError(f"{type(self).__name__}: padding must be in numbers, got {padding!r}")
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups)
        self.output_padding = self.sizes("output_padding", output_padding, 0)
        for more, step, gap in zip(*map(np.atleast_1d, (self.output_padding, self.stride, self.dilation))):
            if more >= max(step, gap):
                raise ValueError(
                    f"{type(self).__name__}: output_padding must be smaller than stride {self.stride} or "
                    f"dilation {self.dilation}, got {self.output_padding}"
                )
        shape = (in_channels, out_channels // groups, *self.kernel())
        self.weight, self.bias = make_weights(shape, bias, rng, dtype, out_channels)

    def forward(self, x: Any) -> Any:
        """Return (N, out_channels, ...)."""
        spread = (F.conv_transpose1d, F.conv_transpose2d)[self.axes - 1]
        return spread(
            x, self.weight, self.bias, self.stride, self.padding, self.output_padding, self.groups,
            self.dilation,
        )  # fmt: skip

    def extra_repr(self) -> str:
        """Return the sizes."""
        more = f", output_padding={self.output_padding}" if np.any(self.output_padding) else ""
        return super().extra_repr() + more


class ConvTranspose1d(Transposed):
    """Transposed one-dimensional convolution of x (N, in_channels, L).

    ``kernel_size``, ``stride``, ``padding``, ``output_padding`` and ``dilation`` are ints; weight has shape
    (in_channels, out_channels / groups, S), the output (L - 1) stride - 2 padding + dilation (S - 1) +
    output_padding + 1 places: a Conv1d with the same sizes takes that many to L.
    """

    axes = 1

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0,
        output_padding: int = 0, groups: int = 1, bias: bool = True, dilation: int = 1, *,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            rng, dtype,
        )  # fmt: skip


class ConvTranspose2d(Transposed):
    """Transposed two-dimensional convolution of x (N, in_channels, H, W).

    ``kernel_size``, ``stride``, ``padding``, ``output_padding`` and ``dilation`` are ints or (vertical,
    horizontal) pairs; weight has shape (in_channels, out_channels / groups, R, S), the output (H - 1) stride
    - 2 padding + dilation (R - 1) + output_padding + 1 rows: a Conv2d with the same sizes takes that many to
    H. output_padding, smaller than the stride or the dilation, chooses among the sizes that shrink to H.
    """

    axes = 2

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: Size, stride: Size = 1, padding: Size = 0,
        output_padding: Size = 0, groups: int = 1, bias: bool = True, dilation: Size = 1, *,
        rng: init.Rng = None, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, output_padding, groups, bias, dilation,
            rng, dtype,
        )  # fmt: skip
