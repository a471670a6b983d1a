"""Layers: modules around one op each, with PyTorch's arguments, key names and initial weights."""

from nnkernels.nn.layers.activation import LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from nnkernels.nn.layers.convolution import Conv1d, Conv2d
from nnkernels.nn.layers.linear import Linear
from nnkernels.nn.layers.pooling import AvgPool2d, MaxPool2d
from nnkernels.nn.layers.shape import Flatten

__all__ = [
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "Flatten",
    "LeakyReLU",
    "Linear",
    "MaxPool2d",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
