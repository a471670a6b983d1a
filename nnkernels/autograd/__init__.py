"""Chain-rule bookkeeping: the tape of reverse mode."""

from nnkernels.autograd.tape import Tensor, no_grad, tensor

__all__ = ["Tensor", "no_grad", "tensor"]
