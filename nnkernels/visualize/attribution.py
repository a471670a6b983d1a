"""Which pixels make for a class: saliency, integrated gradients, Grad-CAM, occlusion."""

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from nnkernels.autograd import Tensor
from nnkernels.machine.arrays import move
from nnkernels.machine.memory import Array
from nnkernels.nn import functional as F
from nnkernels.nn.module import Module
from nnkernels.ops.validate import check_int, check_pair
from nnkernels.train import predict
from nnkernels.visualize.backward import GRADIENT, carried_back
from nnkernels.visualize.units import Channels, as_answer, as_images, chosen, one_hot, run

BATCH = 128  # images in memory at once


def targets(who: str, scores: Array, target: Channels) -> Array:
    """Return one class for each image: ``target``, or that of the highest score."""
    if scores.ndim != 2:
        raise ValueError(f"{who}: the network must return scores (N, K), got shape {scores.shape}")
    return chosen(who, scores, target, None, "target")[1]


def score_gradients(who: str, model: Module, x: Array, target: Channels) -> Array:
    """Return the derivatives of each image's score of its target by its pixels."""
    leaf, scores, _ = run(who, model, x, "")
    return carried_back(who, scores, one_of_each(who, scores, target), leaf, GRADIENT)


def one_of_each(who: str, scores: Tensor, target: Channels) -> Array:
    """Return 1 at each image's target, 0 at its other scores (N, K)."""
    labels = targets(who, move(scores.data, "cpu"), target)
    return one_hot(scores, (np.arange(len(labels)), labels))


def saliency(model: Module, x: Any, target: Channels = None) -> Array:
    """Return maps (N, H, W) of how much the score of ``target`` moves with each pixel: max_c |dS / dx_chw|.

    ``target`` is a class, or one for each image; None takes each image's highest score. Simonyan et al., Deep
    Inside Convolutional Networks, ICLR workshop 2014. Raises ValueError for a class that does not exist.
    """
    dx = score_gradients("saliency", model, as_images("saliency", x), target)
    largest: Array = np.abs(dx).max(axis=1)
    return largest


def integrated_gradients(
    model: Module, x: Any, target: Channels = None, baseline: ArrayLike = 0.0, steps: int = 64
) -> Array:
    """Return each pixel's share (N, C, H, W) in the score of ``target``: all together are S(x) - S(baseline).

        share = (x - x') * mean over 0 < a < 1 of dS / dx at x' + a (x - x')

    x' is ``baseline``, a number or an array that broadcasts to x. The mean is taken at the middles of
    ``steps`` equal parts, so that the shares add up but for an error that falls with their number.
    Sundararajan et al., Axiomatic Attribution for Deep Networks, ICML 2017. ``target`` as in ``saliency``.
    """
    who = "integrated_gradients"
    x = as_images(who, x)
    check_int(who, "steps", steps, 1)
    try:
        start = np.broadcast_to(np.asarray(baseline, x.dtype), x.shape)
    except ValueError:
        shape = np.shape(baseline)
        raise ValueError(f"{who}: baseline must broadcast to x {x.shape}, got shape {shape}") from None
    labels = targets(who, predict(model, x), target)
    total = np.zeros(x.shape)
    for part in batches(np.arange(steps), max(1, BATCH // len(x))):
        a = ((part + 0.5) / steps).astype(x.dtype).reshape(-1, 1, 1, 1, 1)
        points = start + a * (x - start)  # (parts, N, C, H, W)
        slopes = score_gradients(who, model, points.reshape(-1, *x.shape[1:]), np.tile(labels, len(part)))
        total += slopes.reshape(points.shape).sum(axis=0)
    share: Array = ((x - start) * total / steps).astype(x.dtype)
    return share


def grad_cam(model: Module, x: Any, layer: str, target: Channels = None) -> Array:
    """Return maps (N, H, W) of where the activations of ``layer`` speak for ``target``.

        map = max(0, sum_k a_k A_k)    a_k the mean over all places of dS / dA_k

    A (N, K, P, Q) are the layer's maps; the result is brought to the image's size by bilinear interpolation.
    Selvaraju et al., Grad-CAM, ICCV 2017. ``target`` as in ``saliency``.
    """
    who = "grad_cam"
    x = as_images(who, x)
    _, answer, output = run(who, model, x, layer)
    scores = as_answer(who, "the network", output)
    if answer.ndim != 4:
        raise ValueError(f"{who}: layer must have maps (N, K, P, Q), {layer!r} returns {answer.shape}")
    A = move(answer.data, "cpu")
    dA = carried_back(who, scores, one_of_each(who, scores, target), answer, GRADIENT)
    a = dA.mean(axis=(2, 3), keepdims=True)
    small = np.maximum((a * A).sum(axis=1, keepdims=True), 0)
    large: Array = F.interpolate(small, size=x.shape[2:], mode="bilinear")[:, 0]
    return large


def occlusion(
    model: Module,
    x: Any,
    target: Channels = None,
    size: int | tuple[int, int] = 8,
    stride: int | tuple[int, int] = 4,
    value: ArrayLike = 0.0,
) -> Array:
    """Return maps (N, H, W) of how far the score of ``target`` falls when that part of the image is hidden.

    A window of ``size`` pixels (height, width) moves by ``stride``, the last one to the border, and sets what
    it covers to ``value``, a number or one per channel. A pixel gets the mean fall of all windows over it.
    Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014. ``target`` as in
    ``saliency``. Raises ValueError for a window larger than the image, or a stride larger than the window.
    """
    who = "occlusion"
    x = as_images(who, x)
    size, stride = check_pair(who, "size", size, 1), check_pair(who, "stride", stride, 1)
    if size[0] > x.shape[2] or size[1] > x.shape[3]:
        raise ValueError(f"{who}: size must be at most that of the images {x.shape[2:]}, got {size}")
    if stride[0] > size[0] or stride[1] > size[1]:
        raise ValueError(f"{who}: stride must be at most size {size}, else pixels are left out, got {stride}")
    hidden = np.asarray(value, x.dtype)
    if hidden.shape not in ((), x.shape[1:2]):
        raise ValueError(f"{who}: value must be a number, or one for each of {x.shape[1]} channels")
    scores = predict(model, x, BATCH)
    labels = targets(who, scores, target)
    rows, columns = (starts(n, k, step) for n, k, step in zip(x.shape[2:], size, stride))
    windows = [(slice(i, i + size[0]), slice(j, j + size[1])) for i, j in product(rows, columns)]
    total, count = np.zeros((len(x), *x.shape[2:])), np.zeros(x.shape[2:])
    for window in windows:
        count[window] += 1
    for n, (image, label) in enumerate(zip(x, labels)):
        for part in batches(windows, BATCH):
            covered = np.repeat(image[None], len(part), axis=0)
            for copy, window in zip(covered, part):
                copy[:, *window] = hidden.reshape(-1, 1, 1)
            falls = scores[n, label] - predict(model, covered, BATCH)[:, label]
            for window, fall in zip(part, falls):
                total[n, *window] += fall
    return (total / count).astype(x.dtype)


def starts(length: int, size: int, stride: int) -> list[int]:
    """Return where windows begin: every ``stride``, and at the last place that fits."""
    last = length - size
    return [*range(0, last, stride), last]


def batches(items: Any, size: int) -> Iterator[Any]:
    """Yield the items, ``size`` at a time."""
    for i in range(0, len(items), size):
        yield items[i : i + size]
