"""Optimizers: policy around the update steps of ``ops``. PyTorch's names, defaults and semantics."""

from collections.abc import Iterable

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.nn.module import Parameter
from nnkernels.ops import OPS


class Optimizer:
    """Base class: holds the parameters and one state per parameter.

    Raises TypeError unless ``params`` is an iterable of Parameters, ValueError when it is empty.
    """

    def __init__(self, params: Iterable[Parameter], lr: float) -> None:
        self.params = list(params)
        name = type(self).__name__
        if not self.params:
            raise ValueError(f"{name}: params is empty; pass model.parameters()")
        for p in self.params:
            if not isinstance(p, Parameter):
                raise TypeError(f"{name}: params must hold Parameters, got {type(p).__name__}")
        self.lr = lr

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient, in place."""
        for i, p in enumerate(self.params):
            if p.grad is not None:
                self.update(i, p.data, p.grad.data)

    def update(self, i: int, param: Array, grad: Array) -> None:
        """Update parameter number i; every optimizer defines it."""
        raise TypeError(f"{type(self).__name__} does not define update")


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum v + g, p = p - lr v.

    ``nesterov=True`` steps along g + momentum v (Sutskever et al., ICML 2013); ``weight_decay`` adds
    weight_decay * p to the gradient.
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, lr)
        self.momentum, self.dampening = momentum, dampening
        self.weight_decay, self.nesterov = weight_decay, nesterov
        self.velocity: list[Array | None] = [None] * len(self.params)

    def update(self, i: int, param: Array, grad: Array) -> None:
        """Step along the velocity, which starts as the first gradient."""
        first = self.momentum != 0 and self.velocity[i] is None
        if first:
            self.velocity[i] = np.zeros_like(param)
        OPS["sgd_step"](
            param, grad, self.velocity[i], lr=self.lr, momentum=self.momentum, dampening=self.dampening,
            weight_decay=self.weight_decay, nesterov=self.nesterov, first=first,
        )  # fmt: skip


class Adam(Optimizer):
    """Adam: steps of about lr along mean gradient over its root mean square (Kingma and Ba, ICLR 2015).

    ``weight_decay`` adds weight_decay * p to the gradient, as torch.optim.Adam does.
    """

    def __init__(
        self, params: Iterable[Parameter], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> None:  # fmt: skip
        super().__init__(params, lr)
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.steps = [0] * len(self.params)
        self.m = [np.zeros_like(p.data) for p in self.params]
        self.v = [np.zeros_like(p.data) for p in self.params]

    def update(self, i: int, param: Array, grad: Array) -> None:
        """Update the moments and the parameter."""
        self.steps[i] += 1
        OPS["adam_step"](
            param, grad, self.m[i], self.v[i], step=self.steps[i], lr=self.lr, betas=self.betas, eps=self.eps,
            weight_decay=self.weight_decay,
        )  # fmt: skip
