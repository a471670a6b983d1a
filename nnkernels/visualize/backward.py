"""From a unit back to the pixels: gradient, deconvnet and guided backpropagation.

All three walk the recorded tape back from one unit. A convolution passes on what arrives by its transposed
filters, a max-pooling puts it at the place of the maximum (the "switch"); these are their gradients. The
three differ in what a ReLU y = max(x, 0) lets through of the dy that arrives:

    gradient            dy where x > 0                   how the unit changes with the pixels
    deconvnet           dy where dy > 0                  Zeiler and Fergus, ECCV 2014
    guided_backprop     dy where x > 0 and dy > 0        Springenberg et al., ICLR workshop 2015, figure 1

A ReLU is the op relu, and what conv and linear layers apply themselves with activation="relu". Other
activations, and all other ops, pass on their gradient in each of the three.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.autograd.tape import Node, walk
from nnkernels.autograd.tensor import KERNELS
from nnkernels.machine.arrays import move
from nnkernels.machine.memory import Array
from nnkernels.nn.module import Module
from nnkernels.ops import OPS
from nnkernels.visualize.units import Channels, Place, as_images, chosen, one_hot, run

Needs = tuple[bool, ...]
PullBack = Callable[[Node, Any, Needs], tuple[Any, ...]]


def relu_lets_through(where_x: bool, where_dy: bool) -> PullBack:
    """Return the rule by which nodes pass dy on; a ReLU where x > 0, where dy > 0, or where both are."""

    def pull_back(node: Node, dy: Array, needs: Needs) -> tuple[Array | None, ...]:
        alone, inside = node.op is OPS["relu"], node.attributes.get("activation") == "relu"
        if not (alone or inside):
            return node.pull_back(dy, needs)
        if where_dy:
            dy = OPS["relu"](dy)
        if where_x:
            return node.pull_back(dy, needs)
        if alone:
            return (dy,)
        attributes = {**node.attributes, "activation": None}
        return node.body.backward(dy, node.outputs, node.arrays, needs, **attributes)  # type: ignore[misc]

    return pull_back


GRADIENT = relu_lets_through(where_x=True, where_dy=False)
DECONVNET = relu_lets_through(where_x=False, where_dy=True)
GUIDED = relu_lets_through(where_x=True, where_dy=True)


def carried_back(who: str, y: Tensor, seed: Array, to: Tensor, rule: PullBack) -> Array:
    """Return what arrives at the tensor ``to`` of ``seed``, a cotangent of y, in host memory."""
    (dx,) = walk(y, seed, KERNELS._replace(pull_back=rule), [to], retain_graph=False)
    if dx is None:
        raise ValueError(f"{who}: the unit does not depend on its images by recorded ops")
    return np.array(move(dx, "cpu"))


def from_unit(
    who: str, model: Module, x: Any, layer: str, channel: Channels, place: Place, rule: PullBack
) -> Array:
    """Return what arrives at the images of 1 at a unit of ``layer``."""
    leaf, answer, _ = run(who, model, as_images(who, x), layer)
    seed = one_hot(answer, chosen(who, move(answer.data, "cpu"), channel, place))
    return carried_back(who, answer, seed, leaf, rule)


def gradient(
    model: Module, x: Any, layer: str = "", channel: Channels = None, place: Place = None
) -> Array:  # fmt: skip
    """Return the derivatives (N, C, H, W) of one unit of ``layer`` by the pixels of x (N, C, H, W).

    ``channel`` is an int, or one for each image, ``place`` the unit's (row, column) in its map; where they
    are None, each image's strongest unit is taken. Raises ValueError naming an argument that does not fit.
    """
    return from_unit("gradient", model, x, layer, channel, place, GRADIENT)


def deconvnet(
    model: Module, x: Any, layer: str = "", channel: Channels = None, place: Place = None
) -> Array:  # fmt: skip
    """Return the pattern (N, C, H, W) in x that a unit answers to: its activation, 1, projected back.

    Maxima go back to where they were found, filters are transposed, and each ReLU lets through what is
    positive of what comes back (Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV
    2014; times the unit's activation it is theirs). Arguments and errors are those of ``gradient``.
    """
    return from_unit("deconvnet", model, x, layer, channel, place, DECONVNET)


def guided_backprop(
    model: Module, x: Any, layer: str = "", channel: Channels = None, place: Place = None
) -> Array:  # fmt: skip
    """Return the gradient (N, C, H, W) of a unit, without what would weaken it on the way.

    Each ReLU lets through what is positive where it was active itself (Springenberg et al., Striving for
    Simplicity, ICLR workshop 2015). Arguments and errors are those of ``gradient``.
    """
    return from_unit("guided_backprop", model, x, layer, channel, place, GUIDED)
