"""Layers: modules around one op each, with PyTorch's arguments, key names and initial weights."""

from nnkernels.nn.layers.activation import (
    ELU,
    GELU,
    SELU,
    Hardtanh,
    Identity,
    LeakyReLU,
    LogSigmoid,
    LogSoftmax,
    Maxout,
    Mish,
    PReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from nnkernels.nn.layers.attention import MultiheadAttention
from nnkernels.nn.layers.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d
from nnkernels.nn.layers.dropout import Dropout, Dropout1d, Dropout2d
from nnkernels.nn.layers.embedding import Embedding
from nnkernels.nn.layers.graph import GraphConv, MessagePassing, SAGEConv
from nnkernels.nn.layers.linear import Linear
from nnkernels.nn.layers.normalization import (
    BatchNorm1d,
    BatchNorm2d,
    GroupNorm,
    InstanceNorm2d,
    LayerNorm,
    LocalResponseNorm,
    RMSNorm,
)
from nnkernels.nn.layers.pooling import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    MaxPool1d,
    MaxPool2d,
    MaxUnpool2d,
    Upsample,
)
from nnkernels.nn.layers.recurrent import GRU, LSTM, RNN, GRUCell, LSTMCell, RNNCell
from nnkernels.nn.layers.shape import Flatten

__all__ = [
    "ELU", "GELU", "GRU", "LSTM", "RNN", "SELU", "AdaptiveAvgPool1d", "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d", "AdaptiveMaxPool2d", "AvgPool1d", "AvgPool2d", "BatchNorm1d", "BatchNorm2d",
    "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "Dropout", "Dropout1d",
    "Dropout2d", "Embedding", "Flatten", "GRUCell", "GraphConv", "GroupNorm", "Hardtanh", "Identity",
    "InstanceNorm2d", "LSTMCell", "LayerNorm", "LeakyReLU", "Linear", "LocalResponseNorm", "LogSigmoid",
    "LogSoftmax", "MaxPool1d", "MaxPool2d", "MaxUnpool2d", "Maxout", "MessagePassing", "Mish",
    "MultiheadAttention", "PReLU", "RMSNorm", "RNNCell", "ReLU", "SAGEConv", "SiLU", "Sigmoid", "Softmax",
    "Softplus", "Tanh", "Upsample",
]  # fmt: skip
