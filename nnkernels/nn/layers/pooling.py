"""Pooling, unpooling and resizing as layers."""

from typing import Any

from nnkernels.nn import functional as F
from nnkernels.nn.layers.common import Size
from nnkernels.nn.module import Module
from nnkernels.ops.validate import check_int, check_pair


class Pool(Module):
    """What the pooling layers share: a window, a stride (the window's size unless given), a padding."""

    dimensions = 2
    others: tuple[str, ...] = ()  # further arguments of the function

    def __init__(self, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        super().__init__()
        self.kernel_size = self.sizes("kernel_size", kernel_size, 1)
        self.stride = self.kernel_size if stride is None else self.sizes("stride", stride, 1)
        self.padding = self.sizes("padding", padding, 0)

    def sizes(self, argument: str, value: Any, least: int) -> Any:
        """Return an int for signals, a pair for images."""
        name = type(self).__name__
        if self.dimensions == 2:
            return check_pair(name, argument, value, least)
        check_int(name, argument, value, least)
        return int(value)

    def arguments(self) -> dict[str, Any]:
        """Return the further arguments of the function."""
        return {name: getattr(self, name) for name in self.others}

    def extra_repr(self) -> str:
        """Return the sizes, and of the other arguments those that are not the usual ones."""
        text = f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"
        usual = {"dilation": (1, (1, 1)), "count_include_pad": (True,)}
        said = {k: v for k, v in self.arguments().items() if v not in usual.get(k, (False, None))}
        return text + "".join(f", {name}={value}" for name, value in said.items())


class MaxPool(Pool):
    """Arguments of the two MaxPools."""

    others = ("dilation", "ceil_mode", "return_indices")

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
        return_indices: bool = False, ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding)
        self.dilation = self.sizes("dilation", dilation, 1)
        self.return_indices, self.ceil_mode = return_indices, ceil_mode


class MaxPool1d(MaxPool):
    """Largest element of each window of x (N, C, L); with ``return_indices`` also where it lies."""

    dimensions = 1

    def forward(self, x: Any) -> Any:
        """Return (N, C, Q), with ``return_indices`` a pair of such."""
        return F.max_pool1d(x, self.kernel_size, self.stride, self.padding, **self.arguments())


class MaxPool2d(MaxPool):
    """Largest pixel of each window of x (N, C, H, W); with ``return_indices`` also where it lies."""

    def forward(self, x: Any) -> Any:
        """Return (N, C, P, Q), with ``return_indices`` a pair of such."""
        return F.max_pool2d(x, self.kernel_size, self.stride, self.padding, **self.arguments())


class AvgPool1d(Pool):
    """Mean of each window of x (N, C, L), padding included unless ``count_include_pad`` is False."""

    dimensions = 1
    others = ("ceil_mode", "count_include_pad")

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad

    def forward(self, x: Any) -> Any:
        """Return (N, C, Q)."""
        return F.avg_pool1d(x, self.kernel_size, self.stride, self.padding, **self.arguments())


class AvgPool2d(Pool):
    """Mean of each window of x (N, C, H, W), padding included unless ``count_include_pad`` is False."""

    others = ("ceil_mode", "count_include_pad", "divisor_override")

    def __init__(
        self, kernel_size: Size, stride: Size | None = None, padding: Size = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        super().__init__(kernel_size, stride, padding)
        self.ceil_mode, self.count_include_pad = ceil_mode, count_include_pad
        self.divisor_override = divisor_override

    def forward(self, x: Any) -> Any:
        """Return (N, C, P, Q)."""
        return F.avg_pool2d(x, self.kernel_size, self.stride, self.padding, **self.arguments())


class AdaptivePool(Module):
    """What the adaptive layers share: the number of windows."""

    def __init__(self, output_size: Any) -> None:
        super().__init__()
        self.output_size = output_size

    def extra_repr(self) -> str:
        """Return the size."""
        return f"output_size={self.output_size}"


class AdaptiveAvgPool1d(AdaptivePool):
    """Means of ``output_size`` windows that cover x (N, C, L); None leaves L as it is."""

    def forward(self, x: Any) -> Any:
        """Return (N, C, output_size)."""
        return F.adaptive_avg_pool1d(x, self.output_size)


class AdaptiveAvgPool2d(AdaptivePool):
    """Means of P x Q windows that cover x (N, C, H, W); 1 gives the global average.

    ``output_size`` is (P, Q) or one number for both; None stands for the size that x has.
    """

    def forward(self, x: Any) -> Any:
        """Return (N, C, P, Q)."""
        return F.adaptive_avg_pool2d(x, self.output_size)


class AdaptiveMaxPool(AdaptivePool):
    """Arguments of the two AdaptiveMaxPools."""

    def __init__(self, output_size: Any, return_indices: bool = False) -> None:
        super().__init__(output_size)
        self.return_indices = return_indices


class AdaptiveMaxPool1d(AdaptiveMaxPool):
    """Maxima of ``output_size`` windows that cover x (N, C, L); with ``return_indices`` also their places."""

    def forward(self, x: Any) -> Any:
        """Return (N, C, output_size), with ``return_indices`` a pair of such."""
        return F.adaptive_max_pool1d(x, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(AdaptiveMaxPool):
    """Maxima of P x Q windows that cover x (N, C, H, W); with ``return_indices`` also their places."""

    def forward(self, x: Any) -> Any:
        """Return (N, C, P, Q), with ``return_indices`` a pair of such."""
        return F.adaptive_max_pool2d(x, self.output_size, self.return_indices)


class MaxUnpool2d(Pool):
    """Maxima put back to the places that MaxPool2d(return_indices=True) gave, zeros elsewhere."""

    def forward(self, x: Any, indices: Any, output_size: Any = None) -> Any:
        """Return (N, C, H, W) for x and indices (N, C, P, Q); ``output_size`` decides between sizes."""
        return F.max_unpool2d(x, indices, self.kernel_size, self.stride, self.padding, output_size)


class Upsample(Module):
    """Images (N, C, H, W) in another size: ``size`` (P, Q), or H and W times ``scale_factor``.

    ``mode`` is "nearest" or "bilinear"; ``align_corners`` and ``recompute_scale_factor`` as in
    ``functional.interpolate``.
    """

    def __init__(
        self, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
        align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.size, self.scale_factor, self.mode = size, scale_factor, mode
        self.align_corners, self.recompute_scale_factor = align_corners, recompute_scale_factor

    def extra_repr(self) -> str:
        """Return what was given of size and factor, and the mode."""
        how = f"scale_factor={self.scale_factor}" if self.size is None else f"size={self.size}"
        return f"{how}, mode={self.mode!r}"

    def forward(self, x: Any) -> Any:
        """Return (N, C, P, Q)."""
        return F.interpolate(
            x, self.size, self.scale_factor, self.mode, self.align_corners, self.recompute_scale_factor
        )
