"""What a unit would like to see: gradient ascent on the pixels, kept close to pictures by regularisers."""

from typing import Any

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.machine.memory import Array
from nnkernels.nn import functional as F
from nnkernels.nn.init import Rng
from nnkernels.nn.module import Module
from nnkernels.ops.validate import check_int, fail_type, floats, number
from nnkernels.visualize.backward import GRADIENT, carried_back
from nnkernels.visualize.units import Channels, Place, as_channels, check_place, is_int, one_hot, run

SMALL = 1e-8  # below it a gradient counts as none


def total_variation(x: Any) -> Any:
    """Return the total variation of each image x (N, C, H, W), shape (N): the sum of |slope| over all pixels.

    The slope at a pixel is (difference to the next below, difference to the next on the right). Rudin, Osher
    and Fatemi, Nonlinear total variation based noise removal algorithms, Physica D 60, 1992.
    """
    down = x[:, :, 1:, :-1] - x[:, :, :-1, :-1]
    right = x[:, :, :-1, 1:] - x[:, :, :-1, :-1]
    return ((down * down + right * right + SMALL) ** 0.5).sum((1, 2, 3))


def blurred(x: Array, sigma: float) -> Array:
    """Return images under a Gaussian of ``sigma`` pixels, their borders continued."""
    reach = int(np.ceil(3 * sigma))
    g = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    g = (g / g.sum()).astype(x.dtype)
    wide = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="edge")
    planes = wide.reshape(-1, 1, *wide.shape[2:])
    smooth: Array = F.conv2d(F.conv2d(planes, g.reshape(1, 1, -1, 1)), g.reshape(1, 1, 1, -1))
    return smooth.reshape(x.shape)


def unit_gradient(model: Module, x: Array, layer: str, channels: Channels, place: Place) -> Array:
    """Return d(unit) / dx for image n's unit ``channels``[n], divided by its root mean square."""
    who = "activation_maximisation"
    leaf, answer, _ = run(who, model, x, layer)
    chosen = as_channels(who, "channels", channels, len(x), answer.shape)
    if place is None:
        place = tuple(n // 2 for n in answer.shape[2:])
    check_place(who, place, answer.shape)
    unit = (np.arange(len(x)), chosen, *(np.full(len(x), i) for i in place))
    dx = carried_back(who, answer, one_hot(answer, unit), leaf, GRADIENT)  # type: ignore[arg-type]
    size = np.sqrt((dx * dx).mean(axis=(1, 2, 3), keepdims=True))
    scaled: Array = dx / np.maximum(size, SMALL).astype(dx.dtype)
    return scaled


def activation_maximisation(
    model: Module,
    image_shape: tuple[int, int, int],
    layer: str = "",
    channels: Channels = 0,
    place: Place = None,
    *,
    steps: int = 200,
    lr: float = 0.1,
    l2: float = 0.01,
    variation: float = 0.0,
    blur: float = 0.0,
    jitter: int = 0,
    limits: tuple[float, float] | None = None,
    start: Array | None = None,
    rng: Rng = None,
) -> Array:
    """Return an image (C, H, W) for each of ``channels`` that excites that unit of ``layer``: (N, C, H, W).

        x <- x + lr (g / rms(g) - l2 x - variation dTV/dx)    g = d(unit) / dx

    ``place`` is the unit's (row, column) in its map, None the middle. The regularisers: ``l2`` (Simonyan et
    al., ICLR workshop 2014), the total ``variation`` (Mahendran and Vedaldi, CVPR 2015), a Gaussian ``blur``
    of so many pixels after each step (Yosinski et al., ICML workshop 2015), and ``jitter``: each gradient is
    taken with the image moved round by up to so many pixels, so that no pattern of single pixels can add up.
    ``limits`` (low, high) bound the pixels. ``start`` broadcasts to the result; None is noise of deviation
    0.1. A unit that nothing excites at the start, as a ReLU may be, leaves its image without a direction.
    Raises ValueError naming an argument that does not fit.
    """
    who = "activation_maximisation"
    x = first_images(who, model, image_shape, channels, start, rng := np.random.default_rng(rng))
    check_int(who, "steps", steps, 0)
    check_int(who, "jitter", jitter, 0)
    for name, value in (("lr", lr), ("l2", l2), ("variation", variation), ("blur", blur)):
        number(who, name, value, 0)
    if limits is not None and not limits[0] < limits[1]:
        raise ValueError(f"{who}: limits must be (low, high), got {limits!r}")
    for _ in range(steps):
        down, right = rng.integers(-jitter, jitter + 1, 2)
        moved = np.roll(x, (down, right), axis=(2, 3))
        g = np.roll(unit_gradient(model, moved, layer, channels, place), (-down, -right), axis=(2, 3))
        g -= l2 * x
        if variation:
            g -= variation * slope_of_variation(x)
        x = x + lr * g
        if blur:
            x = blurred(x, blur)
        if limits is not None:
            x = np.clip(x, *limits)
    return x


def first_images(
    who: str, model: Module, shape: Any, channels: Channels, start: Array | None, rng: np.random.Generator
) -> Array:
    """Return the images to begin with, one for each channel, in the parameters' dtype."""
    shape = checked_shape(who, shape)
    count = 1 if is_int(channels) else len(np.atleast_1d(channels))  # type: ignore[arg-type]
    if channels is None or not count:
        fail_type(who, "channels", channels, "an int or a sequence of ints")
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    if start is None:
        return (0.1 * rng.standard_normal((count, *shape))).astype(dtype)
    floats(who, start=start)
    if np.broadcast_shapes(start.shape, (count, *shape)) != (count, *shape):
        raise ValueError(f"{who}: start must broadcast to {(count, *shape)}, got shape {start.shape}")
    return np.array(np.broadcast_to(start, (count, *shape)), dtype)


def checked_shape(who: str, shape: Any) -> tuple[int, ...]:
    """Return the shape (C, H, W) of one image."""
    if not isinstance(shape, tuple | list) or len(shape) != 3 or not all(is_int(n) and n > 0 for n in shape):
        raise ValueError(f"{who}: image_shape must be (C, H, W), got {shape!r}")
    return tuple(shape)


def slope_of_variation(x: Array) -> Array:
    """Return the derivatives of each image's total variation."""
    leaf = Tensor(x, requires_grad=True)
    total_variation(leaf).sum().backward()
    assert leaf.grad is not None
    return leaf.grad.data
