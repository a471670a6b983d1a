"""Receptive fields: which pixels a unit can see, whatever the weights and the image.

The recorded tape is walked back from the unit with masks in place of numbers: of each op's output, which
elements lead to the unit; hence, of its inputs. Three ways give an op's answer, from its own backward pass:

- A sum of products (convolution, full connection) counts: with all factors 1, a pixel is seen where its
  gradient is at least 1.
- A maximum, whose gradient goes to one pixel of each window, is seen as all of the window.
- Any other op passes on NaN: NaN times a derivative is NaN, were the derivative 0, as behind a ReLU.

Araujo, Norris and Sim, Computing Receptive Fields of Convolutional Neural Networks, Distill 2019, do the same
by arithmetic of sizes and strides for chains of layers.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from nnkernels.autograd.tape import Arithmetic, Node, walk
from nnkernels.autograd.tensor import KERNELS
from nnkernels.machine.arrays import full, move, side
from nnkernels.machine.memory import Array
from nnkernels.nn.module import Module
from nnkernels.ops import OPS
from nnkernels.visualize.maximise import checked_shape
from nnkernels.visualize.units import Place, as_channels, check_place, run

Needs = tuple[bool, ...]
Masks = tuple[Array | None, ...]
Rule = Callable[[Node, Array, Needs], Masks]


def pulled(
    node: Node, seen: Array, value: float, needs: Needs, name: str = "", arrays: Any = None
) -> Masks:  # fmt: skip
    """Return the gradients, in host memory, for the cotangent ``value`` where ``seen``, 0 elsewhere.

    Of the node's op without its activation, or of the op ``name`` in its place; of other inputs ``arrays``.
    """
    assert node.arrays is not None
    y = node.outputs[0]
    dy = move(np.where(seen, value, 0).astype(y.dtype), side(y))
    attributes = {key: value for key, value in node.attributes.items() if key != "activation"}
    body = OPS[name].body_for((y,)) if name else node.body
    assert body.backward is not None
    found = body.backward(dy, node.outputs, arrays or node.arrays, needs, **attributes)
    return tuple(None if dx is None else move(dx, "cpu") for dx in found)


def where(masks: Masks, test: Callable[[Array], Array]) -> Masks:
    """Return ``test`` of each mask that is there."""
    return tuple(None if mask is None else test(mask) for mask in masks)


def by_nan(node: Node, seen: Array, needs: Needs) -> Masks:
    """Return what NaN reaches."""
    return where(pulled(node, seen, np.nan, needs), np.isnan)


def by_count(node: Node, seen: Array, needs: Needs) -> Masks:
    """Return what a sum of products reads. Not all methods of a convolution leave zeros exactly zero."""
    assert node.arrays is not None
    ones = tuple(None if a is None else full(a.shape, 1, a.dtype, a) for a in node.arrays)
    return where(pulled(node, seen, 1, needs, arrays=ones), lambda dx: dx > 0.5)


def by_weight(node: Node, seen: Array, needs: Needs) -> Masks:
    """Return what has a weight above 0."""
    return where(pulled(node, seen, 1, needs), lambda dx: dx > 0)


def as_all(name: str) -> Rule:
    """Return the rule of a maximum over what the op ``name`` adds up."""
    return lambda node, seen, needs: where(pulled(node, seen, 1, needs, name), lambda dx: dx > 0)


def by_window(node: Node, seen: Array, needs: Needs) -> Masks:
    """Return the windows of a max-pooling of signals or images."""
    (x,) = node.inputs
    sizes, places = x.shape[2:], seen.shape[2:]

    def per_axis(name: str, default: Any) -> tuple[int, ...]:
        value = node.attributes.get(name)
        value = default if value is None else value
        return tuple(value) if isinstance(value, tuple | list) else (value,) * len(sizes)

    kernel = per_axis("kernel_size", 1)
    stride, padding, dilation = (
        per_axis("stride", kernel), per_axis("padding", 0), per_axis("dilation", 1),
    )  # fmt: skip
    reached = np.zeros(x.shape, bool)
    for taps in product(*map(range, kernel)):
        at = [s * np.arange(n) + d * t - p for s, n, d, t, p in zip(stride, places, dilation, taps, padding)]
        inside = [(i >= 0) & (i < size) for i, size in zip(at, sizes)]
        images_and_channels = [np.arange(n) for n in seen.shape[:2]]
        source = np.ix_(*images_and_channels, *(np.flatnonzero(kept) for kept in inside))
        target = np.ix_(*images_and_channels, *(i[kept] for i, kept in zip(at, inside)))
        reached[target] |= seen[source]
    return (reached,)


def by_piece(node: Node, seen: Array, needs: Needs) -> Masks:
    """Return the channels that maxout chooses from."""
    return (np.repeat(seen, node.attributes["pieces"], axis=1),)


PRODUCTS = "matmul", "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"
RULES: dict[str, Rule] = {
    **dict.fromkeys(PRODUCTS, by_count),
    "upsample_bilinear2d": by_weight,  # which is 0 for some of the four neighbours
    "max_pool1d": by_window,
    "max_pool2d": by_window,
    "adaptive_max_pool1d": as_all("adaptive_avg_pool1d"),
    "adaptive_max_pool2d": as_all("adaptive_avg_pool2d"),
    "max": as_all("sum"),
    "maxout": by_piece,
}


def pull_back(node: Node, seen: Array, needs: Needs) -> Masks:
    """Return which elements of a node's inputs lead to those of its output that are ``seen``."""
    return RULES.get(node.op.name, by_nan)(node, seen, needs)


MASKS = Arithmetic(np.logical_or, lambda dx, dy: dx, lambda dy: dy, pull_back, KERNELS.accumulate)


def receptive_field(
    model: Module, layer: str, place: Place, image_shape: tuple[int, int, int], channel: int = 0
) -> Array:
    """Return which pixels of an image (C, H, W) a unit of ``layer`` can see: a mask (H, W) of bools.

    The unit stands at ``place``, (row, column), in map ``channel``; None is the middle of the map, () the
    place of a layer without rows and columns. Exact at borders, with any stride, padding and dilation, and
    along all branches of the network. ``plot.receptive_field`` draws it. Raises ValueError for a unit that
    does not exist.

    >>> from nnkernels import nn
    >>> field = receptive_field(nn.models.LeNet5(), "pool1", (1, 3), (1, 28, 28))
    >>> rows, columns = np.nonzero(field)  # 2 x 2 places of conv1, each 5 x 5 pixels, with padding 2
    >>> print(rows.min(), rows.max(), columns.min(), columns.max())
    0 5 4 9
    """
    who = "receptive_field"
    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    shape = checked_shape(who, image_shape)
    # Numbers without a meaning, but none is 0, where some derivatives are infinite.
    x = np.random.default_rng(0).standard_normal((1, *shape)).astype(dtype)
    leaf, answer, _ = run(who, model, x, layer)
    channels = as_channels(who, "channel", channel, 1, answer.shape)
    place = tuple(n // 2 for n in answer.shape[2:]) if place is None else place
    check_place(who, place, answer.shape)
    unit = np.zeros(answer.shape, bool)
    unit[0, channels, *place] = True
    (seen,) = walk(answer, unit, MASKS, [leaf], retain_graph=False)
    field: Array = np.zeros(shape[1:], bool) if seen is None else seen[0].any(axis=0)
    return field
