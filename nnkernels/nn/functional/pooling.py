"""Pooling, and images in another size."""

import math
from typing import Any

from nnkernels.autograd.tensor import Tensor, apply_keeping
from nnkernels.ops import OPS

MODES = {"nearest": "upsample_nearest2d", "bilinear": "upsample_bilinear2d"}


def with_indices(name: str, x: Any, attributes: dict[str, Any]) -> tuple[Any, Any]:
    """Return the result of a max pool, and the places of the maxima, int64 as PyTorch's."""
    y, (argmax,) = apply_keeping(OPS[name], (x,), attributes)
    indices = argmax.astype("int64")
    return y, Tensor(indices) if isinstance(x, Tensor) else indices


def pooled(name: str, x: Any, return_indices: bool, attributes: dict[str, Any]) -> Any:
    """Return the result of a max pool, with the places of the maxima where wanted."""
    return with_indices(name, x, attributes) if return_indices else OPS[name](x, **attributes)


def max_pool1d(
    x: Any, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Return the largest element of each window of x (N, C, L), (N, C, Q).

    ``stride`` is ``kernel_size`` unless given. With ``return_indices``, the places of the maxima come along.
    """
    windows = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    return pooled("max_pool1d", x, return_indices, windows | {"ceil_mode": ceil_mode})


def max_pool2d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
    ceil_mode: bool = False, return_indices: bool = False,
) -> Any:  # fmt: skip
    """Return the largest pixel of each window; ``stride`` is ``kernel_size`` unless given.

    x is (N, C, H, W), the result (N, C, P, Q). With ``ceil_mode`` a last window may hang over the end; with
    ``return_indices``, the places h W + w of the maxima in their planes come along, for max_unpool2d.
    """
    windows = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    return pooled("max_pool2d", x, return_indices, windows | {"ceil_mode": ceil_mode})


def avg_pool1d(
    x: Any, kernel_size: int, stride: int | None = None, padding: int = 0, ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Any:  # fmt: skip
    """Return the mean of each window of x (N, C, L), (N, C, Q).

    Zeros of the padding are counted in unless ``count_include_pad`` is False.
    """
    return OPS["avg_pool1d"](
        x, kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode,
        count_include_pad=count_include_pad,
    )  # fmt: skip


def avg_pool2d(
    x: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, ceil_mode: bool = False,
    count_include_pad: bool = True, divisor_override: int | None = None,
) -> Any:  # fmt: skip
    """Return the mean of each window of x (N, C, H, W), (N, C, P, Q).

    Zeros of the padding are counted in unless ``count_include_pad`` is False; ``divisor_override`` divides
    the sums in place of the number of pixels.
    """
    return OPS["avg_pool2d"](
        x, kernel_size=kernel_size, stride=stride, padding=padding, ceil_mode=ceil_mode,
        count_include_pad=count_include_pad, divisor_override=divisor_override,
    )  # fmt: skip


def adaptive_max_pool1d(x: Any, output_size: int | None, return_indices: bool = False) -> Any:
    """Return the maxima of ``output_size`` windows that cover x (N, C, L), and their places where wanted."""
    return pooled("adaptive_max_pool1d", x, return_indices, {"output_size": output_size})


def adaptive_max_pool2d(x: Any, output_size: Any, return_indices: bool = False) -> Any:
    """Return the maxima of P x Q windows that cover x (N, C, H, W), and their places where wanted.

    ``output_size`` is (P, Q), or one number for both; None stands for the size that x has.
    """
    return pooled("adaptive_max_pool2d", x, return_indices, {"output_size": output_size})


def adaptive_avg_pool1d(x: Any, output_size: int | None) -> Any:
    """Return the means of ``output_size`` windows that cover x (N, C, L)."""
    return OPS["adaptive_avg_pool1d"](x, output_size=output_size)


def adaptive_avg_pool2d(x: Any, output_size: Any) -> Any:
    """Return the means of P x Q windows that cover x (N, C, H, W); 1 gives the global average.

    ``output_size`` is (P, Q), or one number for both; None stands for the size that x has.
    """
    return OPS["adaptive_avg_pool2d"](x, output_size=output_size)


def max_unpool2d(
    x: Any, indices: Any, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Any:
    """Return x (N, C, P, Q) put back to the places that max_pool2d returned, zeros elsewhere.

    ``output_size``, (H, W) or (N, C, H, W), says which of the sizes that pool to (P, Q) was pooled; indices
    outside of it raise ValueError.
    """
    return OPS["max_unpool2d"](
        x, indices, kernel_size=kernel_size, stride=stride, padding=padding,
        output_size=None if output_size is None else tuple(output_size),
    )  # fmt: skip


def interpolate(
    x: Any, size: Any = None, scale_factor: Any = None, mode: str = "nearest",
    align_corners: bool | None = None, recompute_scale_factor: bool | None = None,
) -> Any:  # fmt: skip
    """Return images (N, C, H, W) in another size, by ``mode`` "nearest" or "bilinear".

    ``size`` is (P, Q), or ``scale_factor`` what H and W are multiplied by; one number stands for both. With
    ``align_corners`` bilinear keeps the corner pixels in the corners. ``recompute_scale_factor`` steps by
    H / P where P = floor(H scale_factor), instead of by 1 / scale_factor.
    """
    if mode not in MODES:
        raise ValueError(f"interpolate: mode must be one of {', '.join(MODES)}, got {mode!r}")
    given = {name: value if isinstance(value, (int, float, type(None))) else tuple(value)
             for name, value in (("size", size), ("scale_factor", scale_factor))}  # fmt: skip
    if recompute_scale_factor:
        if scale_factor is None:
            raise ValueError("interpolate: recompute_scale_factor needs a scale_factor")
        given = recomputed(x, given["size"], given["scale_factor"])
    if mode == "bilinear":
        given["align_corners"] = False if align_corners is None else align_corners
    elif align_corners is not None:
        raise ValueError(
            f"interpolate: align_corners is for bilinear, got {align_corners} with mode {mode!r}"
        )
    return OPS[MODES[mode]](x, **given)


def recomputed(x: Any, size: Any, scale_factor: Any) -> dict[str, Any]:
    """Return the size that the factors lead to, in their place."""
    factors = scale_factor if isinstance(scale_factor, tuple) else (scale_factor, scale_factor)
    if size is not None or x.ndim != 4 or len(factors) != 2:
        return {"size": size, "scale_factor": scale_factor}  # which the op refuses
    return {"size": tuple(math.floor(n * factor) for n, factor in zip(x.shape[2:], factors))}
