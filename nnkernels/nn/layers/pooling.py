"""Pooling as layers."""

from typing import Any

from nnkernels.nn import functional as F
from nnkernels.nn.layers.common import Size
from nnkernels.nn.module import Module
from nnkernels.ops.validate import check_pair


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
