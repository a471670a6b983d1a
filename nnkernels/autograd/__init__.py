"""Chain-rule bookkeeping: the tape of reverse mode, dual numbers for forward mode, derivatives of functions."""

from nnkernels.autograd.checkpoint import checkpoint
from nnkernels.autograd.dual import Dual
from nnkernels.autograd.tape import no_grad
from nnkernels.autograd.tensor import Tensor, tensor
from nnkernels.autograd.transforms import grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp

__all__ = [
    "Dual", "Tensor", "checkpoint", "grad", "hessian", "hvp", "jacobian", "jvp", "no_grad", "tensor",
    "value_and_grad", "vjp",
]  # fmt: skip
