"""Chain-rule bookkeeping: the tape of reverse mode."""

from nnkernels.autograd.tape import no_grad
from nnkernels.autograd.tensor import Tensor, tensor

__all__ = ["Tensor", "no_grad", "tensor"]
