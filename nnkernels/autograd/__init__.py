"""Chain-rule bookkeeping: the tape of reverse mode, dual numbers of forward mode, and what shows both."""

from nnkernels.autograd.anomaly import detect_anomaly
from nnkernels.autograd.check import GradcheckError, gradcheck
from nnkernels.autograd.checkpoint import checkpoint
from nnkernels.autograd.dual import Dual
from nnkernels.autograd.graph import graph
from nnkernels.autograd.tape import no_grad
from nnkernels.autograd.tensor import Tensor, tensor
from nnkernels.autograd.trace import trace
from nnkernels.autograd.transforms import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

__all__ = [
    "Dual", "GradcheckError", "Tensor", "checkpoint", "detect_anomaly", "grad", "gradcheck", "graph",
    "hessian", "hvp", "jacobian", "jvp", "no_grad", "tensor", "trace", "value_and_grad", "vjp",
]  # fmt: skip
