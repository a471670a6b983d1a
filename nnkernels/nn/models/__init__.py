"""Networks of the lecture, each written like the figure of its paper."""

from nnkernels.nn.models.lenet import LeNet5

__all__ = ["LeNet5"]
