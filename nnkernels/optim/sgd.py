"""Stochastic gradient descent."""

from typing import Any

from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.optim.base import Group, Optimizer, Params
from nnkernels.optim.buffers import Progress


class SGD(Optimizer):
    """Stochastic gradient descent with momentum: v = momentum v + g, p = p - lr v.

    ``nesterov=True`` steps along g + momentum v (Sutskever et al., ICML 2013); ``weight_decay`` adds
    weight_decay * p to the gradient.
    """

    def __init__(
        self, params: Params, lr: float = 1e-3, momentum: float = 0.0, dampening: float = 0.0,
        weight_decay: float = 0.0, nesterov: bool = False,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "momentum": momentum, "dampening": dampening, "weight_decay": weight_decay}
        super().__init__(params, {**options, "nesterov": nesterov})

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the velocity's name, under which PyTorch keeps it."""
        return ("momentum_buffer",) if group["momentum"] else ()

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Step along the velocity."""
        (steps,) = progress  # with momentum: the velocity starts as the first gradient
        OPS["sgd_step"](
            param, grad, state.get("momentum_buffer"), lr=group["lr"], momentum=group["momentum"],
            dampening=group["dampening"], weight_decay=group["weight_decay"], nesterov=group["nesterov"],
            first=steps == 0,
        )  # fmt: skip
        return (steps + 1 if group["momentum"] else steps,)
