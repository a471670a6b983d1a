"""Everything that holds a parameter: modules, layers, losses, initial weights, networks."""

from nnkernels.nn import functional, init, utils
from nnkernels.nn.layers import (
    AvgPool2d,
    Conv1d,
    Conv2d,
    Flatten,
    LeakyReLU,
    Linear,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)  # fmt: skip
from nnkernels.nn.losses import BCEWithLogitsLoss, CrossEntropyLoss, MSELoss
from nnkernels.nn.module import Module, Parameter, Sequential
from nnkernels.nn.summary import summary

from nnkernels.nn import models  # isort: skip (its files use the layers above)

__all__ = [
    "AvgPool2d", "BCEWithLogitsLoss", "Conv1d", "Conv2d", "CrossEntropyLoss", "Flatten", "LeakyReLU",
    "Linear", "MSELoss", "MaxPool2d", "Module", "Parameter", "ReLU", "Sequential", "Sigmoid", "Softmax",
    "Tanh", "functional", "init", "models", "summary", "utils",
]  # fmt: skip
