"""Optimizers: policy around the update steps of ``ops``. PyTorch's names, defaults and semantics.

An optimizer moves the parameters of a small model into one flat buffer, of which each parameter's ``data``
becomes a view; a step is then one kernel call instead of one per parameter.
"""

from collections.abc import Iterable

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.nn.module import Parameter
from nnkernels.ops import OPS

# Elements in all. A larger model's gradients take longer to copy into one buffer than its calls take to make.
FLAT_MOST = 1 << 20


class Optimizer:
    """Base class: holds the parameters and their state.

    Raises TypeError unless ``params`` is an iterable of Parameters, ValueError when it is empty or holds one
    twice.
    """

    def __init__(self, params: Iterable[Parameter], lr: float) -> None:
        self.params = list(params)
        name = type(self).__name__
        if not self.params:
            raise ValueError(f"{name}: params is empty; pass model.parameters()")
        for p in self.params:
            if not isinstance(p, Parameter):
                raise TypeError(f"{name}: params must hold Parameters, got {type(p).__name__}")
        if len({id(p) for p in self.params}) < len(self.params):
            raise ValueError(f"{name}: params holds the same Parameter more than once")
        self.lr = lr
        self.steps = [0] * len(self.params)  # taken by each parameter
        self._flat = None
        if len({p.dtype for p in self.params}) == 1 and sum(p.size for p in self.params) <= FLAT_MOST:
            self._flat = self._zeros_flat()
            self._data = self._views(self._flat)
            self._gradient = np.zeros_like(self._flat)
            self._attach()

    def _zeros_flat(self) -> Array:
        return np.zeros(sum(p.size for p in self.params), self.params[0].dtype)

    def _views(self, flat: Array) -> list[Array]:
        """Return one view of a flat array per parameter."""
        ends = np.cumsum([p.size for p in self.params])
        return [flat[end - p.size : end].reshape(p.shape) for p, end in zip(self.params, ends)]

    def zeros(self) -> tuple[Array | None, list[Array]]:
        """Return state of the parameters' sizes: a flat array, if they have one, and one array each."""
        if self._flat is None:
            return None, [np.zeros_like(p.data) for p in self.params]
        flat = self._zeros_flat()
        return flat, self._views(flat)

    def _attach(self) -> None:
        """Make every parameter's data its view of the flat buffer again, should someone have changed that."""
        for p, view in zip(self.params, self._data):
            if p.data is not view:
                view[...] = p.data
                p.data = view

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for p in self.params:
            p.grad = None

    def step(self) -> None:
        """Update every parameter that has a gradient, in place."""
        gradients = [p.grad for p in self.params]
        first = self.steps[0]
        if self._flat is not None and None not in gradients and self.steps.count(first) == len(self.steps):
            self._attach()
            np.concatenate([g.data.reshape(-1) for g in gradients if g is not None], out=self._gradient)
            self.update(None, self._flat, self._gradient, first)
            self.steps = [first + 1] * len(self.params)
            return
        for i, (p, g) in enumerate(zip(self.params, gradients)):
            if g is not None:
                self.update(i, p.data, g.data, self.steps[i])
                self.steps[i] += 1

    def update(self, i: int | None, param: Array, grad: Array, steps: int) -> None:
        """Update parameter i, or all at once if None, after ``steps`` steps; every optimizer defines it."""
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
        self._all_velocity, self.velocity = self.zeros()

    def update(self, i: int | None, param: Array, grad: Array, steps: int) -> None:
        """Step along the velocity, which starts as the first gradient."""
        velocity = self._all_velocity if i is None else self.velocity[i]
        OPS["sgd_step"](
            param, grad, velocity if self.momentum else None, lr=self.lr, momentum=self.momentum,
            dampening=self.dampening, weight_decay=self.weight_decay, nesterov=self.nesterov,
            first=steps == 0,
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
        (self._all_m, self.m), (self._all_v, self.v) = self.zeros(), self.zeros()

    def update(self, i: int | None, param: Array, grad: Array, steps: int) -> None:
        """Update the moments and the parameter."""
        m, v = (self._all_m, self._all_v) if i is None else (self.m[i], self.v[i])
        OPS["adam_step"](
            param, grad, m, v, step=steps + 1, lr=self.lr, betas=self.betas, eps=self.eps,
            weight_decay=self.weight_decay,
        )  # fmt: skip
