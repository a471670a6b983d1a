"""Functions of tensors and arrays under PyTorch's names: the ops, and what is written with them.

Called with NumPy arrays they return arrays; with a Tensor among the inputs, a Tensor that backward goes
through.
"""

from nnkernels.autograd.operators import matmul
from nnkernels.nn.functional.activation import (
    elu,
    gelu,
    hardtanh,
    leaky_relu,
    log_softmax,
    logsigmoid,
    maxout,
    mish,
    prelu,
    relu,
    selu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from nnkernels.nn.functional.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    correlate,
)
from nnkernels.nn.functional.dropout import dropout, dropout1d, dropout2d
from nnkernels.nn.functional.graph import (
    index_select,
    normalized_adjacency,
    scatter_max,
    scatter_mean,
    scatter_sum,
    spmm,
)
from nnkernels.nn.functional.linear import linear
from nnkernels.nn.functional.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    gaussian_nll_loss,
    hinge_loss,
    huber_loss,
    kl_div,
    l1_loss,
    mse_loss,
    nll_loss,
    smooth_l1_loss,
)
from nnkernels.nn.functional.normalization import (
    batch_norm,
    group_norm,
    layer_norm,
    local_response_norm,
    rms_norm,
)
from nnkernels.nn.functional.pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    avg_pool1d,
    avg_pool2d,
    interpolate,
    max_pool1d,
    max_pool2d,
    max_unpool2d,
)
from nnkernels.nn.functional.sequence import embedding, scaled_dot_product_attention
from nnkernels.nn.functional.shape import flatten, pad

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "avg_pool1d", "avg_pool2d", "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits",
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "correlate", "cross_entropy",
    "dropout", "dropout1d", "dropout2d", "elu", "embedding", "flatten", "gaussian_nll_loss", "gelu",
    "group_norm", "hardtanh", "hinge_loss", "huber_loss", "index_select", "interpolate", "kl_div",
    "l1_loss", "layer_norm", "leaky_relu", "linear", "local_response_norm", "log_softmax", "logsigmoid",
    "matmul", "max_pool1d", "max_pool2d", "max_unpool2d", "maxout", "mish", "mse_loss", "nll_loss",
    "normalized_adjacency", "pad", "prelu", "relu", "rms_norm", "scaled_dot_product_attention",
    "scatter_max", "scatter_mean", "scatter_sum", "selu", "sigmoid", "silu", "smooth_l1_loss", "softmax",
    "softplus", "spmm", "tanh",
]  # fmt: skip
