"""Normalisation as layers."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.nn import functional as F
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module, Parameter
from nnkernels.ops.validate import check_int, number


def scale_and_shift(
    shape: tuple[int, ...], weight: bool, bias: bool, dtype: DTypeLike
) -> tuple[Parameter | None, Parameter | None]:
    """Return a weight of ones and a bias of zeros, None where not wanted."""
    return (
        Parameter(np.ones(shape, dtype)) if weight else None,
        Parameter(np.zeros(shape, dtype)) if bias else None,
    )


class BatchNorm(Module):
    """What batch normalisations share: statistics of the batch in training, running ones in evaluation.

    ``running_mean``, ``running_var`` and ``num_batches_tracked`` are buffers. In training, the first two move
    by ``momentum`` towards the batch's mean and unbiased variance; momentum=None averages over all batches.
    With track_running_stats=False there are none of them, and the batch's own statistics serve always.
    """

    axes: tuple[int, ...] = ()
    shapes = ""

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float | None = 0.1, affine: bool = True,
        track_running_stats: bool = True, *, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        name = type(self).__name__
        self.num_features = positive(name, "num_features", num_features)
        number(name, "eps", eps)
        if momentum is not None:
            number(name, "momentum", momentum)
        self.eps, self.momentum, self.affine = eps, momentum, affine
        self.track_running_stats = track_running_stats
        self.weight, self.bias = scale_and_shift((self.num_features,), affine, affine, dtype)
        self.running_mean: Any = None
        self.running_var: Any = None
        self.num_batches_tracked: Any = None
        if track_running_stats:
            self.register_buffer("running_mean", np.zeros(self.num_features, dtype))
            self.register_buffer("running_var", np.ones(self.num_features, dtype))
            self.register_buffer("num_batches_tracked", np.array(0, np.int64))

    def reset_running_stats(self) -> None:
        """Set the running mean to 0, the variance to 1, the count to 0."""
        if self.track_running_stats:
            self.running_mean[...], self.running_var[...], self.num_batches_tracked[...] = 0, 1, 0

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        if x.ndim not in self.axes or x.shape[1] != self.num_features:
            raise ValueError(
                f"{type(self).__name__}: x must be {self.shapes} with C = {self.num_features}, "
                f"got shape {x.shape}"
            )
        mean, var = self.running_mean, self.running_var
        momentum = self.momentum
        if self.training and self.track_running_stats:
            self.num_batches_tracked += 1
            momentum = 1 / int(self.num_batches_tracked) if momentum is None else momentum
        return F.batch_norm(
            x, mean, var, self.weight, self.bias, self.training or mean is None, momentum or 0.0, self.eps
        )

    def extra_repr(self) -> str:
        """Return the sizes."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"track_running_stats={self.track_running_stats}"
        )


class BatchNorm1d(BatchNorm):
    """Batch normalisation of x (N, C) or (N, C, L)."""

    axes, shapes = (2, 3), "(N, C) or (N, C, L)"


class BatchNorm2d(BatchNorm):
    """Batch normalisation of x (N, C, H, W)."""

    axes, shapes = (4,), "(N, C, H, W)"


class LayerNorm(Module):
    """Every example normalised over its trailing axes ``normalized_shape``, times weight, plus bias.

    Weight and bias have the shape ``normalized_shape``; elementwise_affine=False leaves out both.
    """

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float = 1e-5, elementwise_affine: bool = True,
        bias: bool = True, *, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        given = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        self.normalized_shape = tuple(positive("LayerNorm", "normalized_shape", n) for n in given)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        has_bias = elementwise_affine and bias
        self.weight, self.bias = scale_and_shift(self.normalized_shape, elementwise_affine, has_bias, dtype)

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """The channels of each image of x (N, num_channels, ...) normalised in ``num_groups`` groups."""

    def __init__(
        self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True,
        *, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        self.num_groups = positive("GroupNorm", "num_groups", num_groups)
        self.num_channels = positive("GroupNorm", "num_channels", num_channels)
        if self.num_channels % self.num_groups:
            raise ValueError(
                f"GroupNorm: num_groups must divide num_channels {num_channels}, got {num_groups}"
            )
        self.eps, self.affine = eps, affine
        self.weight, self.bias = scale_and_shift((self.num_channels,), affine, affine, dtype)

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            raise ValueError(f"GroupNorm: x must be (N, {self.num_channels}, ...), got shape {x.shape}")
        return F.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}"


class InstanceNorm2d(Module):
    """Each channel of each image of x (N, num_features, H, W) normalised by its own statistics, always.

    Running statistics are not kept: ``track_running_stats`` must be False, and ``momentum`` says nothing.
    """

    def __init__(
        self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = False,
        track_running_stats: bool = False, *, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        if track_running_stats:
            raise ValueError("InstanceNorm2d: track_running_stats must be False, got True")
        self.num_features = positive("InstanceNorm2d", "num_features", num_features)
        self.eps, self.momentum, self.affine = eps, momentum, affine
        self.track_running_stats = track_running_stats
        self.weight, self.bias = scale_and_shift((self.num_features,), affine, affine, dtype)

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        if x.ndim != 4 or x.shape[1] != self.num_features:
            raise ValueError(f"InstanceNorm2d: x must be (N, {self.num_features}, H, W), got shape {x.shape}")
        return F.group_norm(x, self.num_features, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.num_features}, eps={self.eps}, affine={self.affine}"


class RMSNorm(Module):
    """Every example over the root of the mean square of its trailing axes ``normalized_shape``, times weight.

    ``eps`` is added to the mean square; None stands for the rounding error of x's dtype.
    """

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float | None = None,
        elementwise_affine: bool = True, *, dtype: DTypeLike = np.float32,
    ) -> None:  # fmt: skip
        super().__init__()
        given = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        self.normalized_shape = tuple(positive("RMSNorm", "normalized_shape", n) for n in given)
        self.eps, self.elementwise_affine = eps, elementwise_affine
        self.weight, _ = scale_and_shift(self.normalized_shape, elementwise_affine, False, dtype)

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Return the sizes."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class LocalResponseNorm(Module):
    """Each pixel of x (N, C, ...) over (k + alpha m)^beta, m the mean square of ``size`` channels."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        super().__init__()
        check_int("LocalResponseNorm", "size", size, 1)
        for name, value in (("alpha", alpha), ("beta", beta), ("k", k)):
            number("LocalResponseNorm", name, value)
        self.size, self.alpha, self.beta, self.k = int(size), alpha, beta, k

    def forward(self, x: Any) -> Any:
        """Return an array of x's shape."""
        return F.local_response_norm(x, self.size, self.alpha, self.beta, self.k)

    def extra_repr(self) -> str:
        """Return the numbers."""
        return f"{self.size}, alpha={self.alpha}, beta={self.beta}, k={self.k}"
