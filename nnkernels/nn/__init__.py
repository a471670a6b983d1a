"""Everything that holds a parameter: modules, layers, losses, initial weights, networks."""

from nnkernels.nn import (
    functional,
    init,
    utils,
)
from nnkernels.nn.layers import (
    ELU,
    GELU,
    SELU,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Flatten,
    Hardtanh,
    Identity,
    LeakyReLU,
    Linear,
    LogSigmoid,
    LogSoftmax,
    Maxout,
    MaxPool2d,
    Mish,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from nnkernels.nn.losses import (
    BCEWithLogitsLoss,
    CrossEntropyLoss,
    MSELoss,
)
from nnkernels.nn.module import (
    Module,
    Parameter,
    Sequential,
)
from nnkernels.nn.summary import (
    summary,
)

from nnkernels.nn import models  # isort: skip (its files use the layers above)

__all__ = [
    "ELU",
    "GELU",
    "SELU",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "Conv1d",
    "Conv2d",
    "CrossEntropyLoss",
    "Flatten",
    "Hardtanh",
    "Identity",
    "LeakyReLU",
    "Linear",
    "LogSigmoid",
    "LogSoftmax",
    "MSELoss",
    "MaxPool2d",
    "Maxout",
    "Mish",
    "Module",
    "PReLU",
    "Parameter",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
    "functional",
    "init",
    "models",
    "summary",
    "utils",
]
