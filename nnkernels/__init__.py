"""Deep learning written as explicit loops a student can read.

>>> import nnkernels as nnk
>>> x = nnk.tensor([2.0, 3.0], requires_grad=True)
>>> z = x[0].sin() + x[0] * x[1]
>>> z.backward()
>>> x.grad
tensor([2.5838532, 2.       ])
"""

from nnkernels import autograd, cuda, data, io, nn, onnx, ops, optim, plot, train, visualize
from nnkernels.autograd import (
    Dual,
    GradcheckError,
    Tensor,
    checkpoint,
    detect_anomaly,
    grad,
    gradcheck,
    graph,
    hessian,
    hvp,
    jacobian,
    jvp,
    no_grad,
    tensor,
    trace,
    value_and_grad,
    vjp,
)
from nnkernels.machine.gpu_simulator import simulate_gpu
from nnkernels.machine.memory import empty_cache
from nnkernels.machine.threads import get_num_threads, set_num_threads
from nnkernels.nn import optimize_for_inference
from nnkernels.ops import OPS, use_backend
from nnkernels.ops.conv2d.methods import set_winograd
from nnkernels.ops.explain import explain
from nnkernels.ops.matmul.precision import get_matmul_precision, set_matmul_precision

__all__ = [
    "OPS", "Dual", "GradcheckError", "Tensor", "autograd", "checkpoint", "cuda", "data", "detect_anomaly",
    "empty_cache", "explain", "get_matmul_precision", "get_num_threads", "grad", "gradcheck", "graph",
    "hessian", "hvp", "io", "jacobian", "jvp", "nn", "no_grad", "onnx", "ops", "optim",
    "optimize_for_inference", "plot", "set_matmul_precision", "set_num_threads", "set_winograd",
    "simulate_gpu", "tensor", "trace", "train", "use_backend", "value_and_grad", "visualize", "vjp",
]  # fmt: skip

__version__ = "0.1.0"
