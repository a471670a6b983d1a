"""Layers by name, what they answer, and which of their units is meant."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.autograd.tape import recording
from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import move
from nnkernels.machine.memory import Array
from nnkernels.nn.module import Module
from nnkernels.ops.validate import floats, rank
from nnkernels.train import evaluating, side_of

Channels = int | Sequence[int] | Array | None
Place = tuple[int, ...] | None


class Run(NamedTuple):
    """One recorded pass: the images, a leaf; what the layer answered; what the network returned."""

    x: Tensor
    answer: Tensor
    output: Any


def run(who: str, model: Module, x: Any, layer: str) -> Run:
    """Run ``model`` on images and record it, whatever the caller records."""
    module = module_named(who, model, layer)
    leaf = Tensor(move(x, side_of(model)), requires_grad=True)
    seen: list[Any] = []
    remove = module.register_forward_hook(lambda m, inputs, y: seen.append(y))
    try:
        with evaluating(model), recording(True):
            output = model(leaf)
    finally:
        remove()
    if not seen:
        raise ValueError(f"{who}: layer {layer!r} did not run in this pass of the network")
    return Run(leaf, as_answer(who, f"layer {layer!r}" if layer else "the network", seen[-1]), output)


def as_answer(who: str, name: str, y: Any) -> Tensor:
    """Return what a module has returned; TypeError unless it is a Tensor with channels."""
    if isinstance(y, Tensor) and y.ndim >= 2:
        return y
    got = f"one of shape {y.shape}" if isinstance(y, Tensor) else type(y).__name__
    raise TypeError(f"{who}: {name} must return a Tensor (N, K, ...), got {got}")


def module_named(who: str, model: Module, layer: str) -> Module:
    """Return the module of that dotted name; the error lists the names that exist."""
    if not isinstance(model, Module):
        raise TypeError(f"{who}: model must be a Module, got {type(model).__name__}")
    modules = dict(model.named_modules())
    if layer not in modules:
        names = ", ".join(name for name in modules if name)
        raise ValueError(f"{who}: layer must be one of {names}, or '' for the network, got {layer!r}")
    return modules[layer]


def as_images(who: str, x: Any) -> Array:
    """Return images (N, C, H, W) as an array in host memory; TypeError or ValueError for anything else."""
    array: Array = move(array_of(x), "cpu")
    floats(who, x=array)
    rank(who, "x", array, 4, "(N, C, H, W)")
    if 0 in array.shape:
        raise ValueError(f"{who}: x must hold images with pixels, got shape {array.shape}")
    return array


def is_int(value: Any) -> bool:
    """Return whether a value is an integer, bools left out."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def as_channels(who: str, name: str, channel: Channels, images: int, y: tuple[int, ...]) -> Array | None:
    """Return one channel of an answer (N, K, ...) for each image; None where the strongest is wanted."""
    if channel is None:
        return None
    array = np.asarray(channel)
    if array.dtype.kind not in "iu" or array.shape not in ((), (images,)):
        raise TypeError(
            f"{who}: {name} must be an int, one int for each of the {images} images, or None, got {channel!r}"
        )
    if array.size and not 0 <= array.min() <= array.max() < y[1]:
        raise ValueError(f"{who}: {name} must be from 0 to {y[1] - 1}, got {channel!r}")
    return np.broadcast_to(array, (images,)).astype(np.intp)


def check_place(who: str, place: Place, y: tuple[int, ...]) -> None:
    """Demand a place in an answer (N, K, ...), one int per axis behind the channels."""
    if not isinstance(place, tuple | list) or not all(map(is_int, place)):
        raise TypeError(f"{who}: place must be a tuple of ints, as (row, column), or None, got {place!r}")
    if len(place) != len(y) - 2 or not all(0 <= i < n for i, n in zip(place, y[2:])):
        raise ValueError(f"{who}: place must lie in {y[2:]}, the places of the layer, got {tuple(place)}")


def chosen(who: str, y: Array, channel: Channels, place: Place, name: str = "channel") -> tuple[Array, ...]:
    """Return the index (image, channel, row, column) of one unit per image, as arrays.

    Where ``channel`` or ``place`` is None, the strongest unit of those left is taken.
    """
    images = np.arange(len(y))
    channels = as_channels(who, name, channel, len(y), y.shape)
    index: tuple[Any, ...] = (images, slice(None) if channels is None else channels)
    if place is not None:
        check_place(who, place, y.shape)
        index += tuple(place)
    left = np.full(y.shape, -np.inf)
    left[index] = y[index]
    strongest = left.reshape(len(y), -1).argmax(axis=1)
    return (images, *np.unravel_index(strongest, y.shape[1:]))


def one_hot(y: Tensor, unit: tuple[Array, ...]) -> Array:
    """Return 1 at each image's unit and 0 elsewhere, on the device of ``y``."""
    seed = np.zeros(y.shape, y.dtype)
    seed[unit] = 1
    there: Array = move(seed, "cuda" if y.is_cuda else "cpu")
    return there


def feature_maps(model: Module, x: Any, layer: str) -> Array:
    """Return what ``layer`` answers to images x (N, C, H, W): its activation maps (N, K, P, Q).

    Any shape that the layer returns will do. ``plot.feature_maps`` draws them. Raises ValueError for a layer
    that does not exist or does not run.

    >>> from nnkernels import nn
    >>> feature_maps(nn.models.LeNet5(), np.zeros((1, 1, 28, 28), np.float32), "pool2").shape
    (1, 16, 5, 5)
    """
    answer = run("feature_maps", model, as_images("feature_maps", x), layer).answer
    return np.array(move(answer.data, "cpu"))


def filters(model: Module, layer: str) -> Array:
    """Return a copy of the filters (K, C, R, S) of a convolution layer. ``plot.filters`` draws them."""
    weight = getattr(module_named("filters", model, layer), "weight", None)
    if weight is None or weight.ndim != 4:
        has = "no weight" if weight is None else f"a weight of shape {weight.shape}"
        raise ValueError(f"filters: layer must hold filters (K, C, R, S), {layer!r} has {has}")
    return np.array(move(weight.data, "cpu"))
