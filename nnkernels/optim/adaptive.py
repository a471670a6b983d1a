"""Optimizers that divide the gradient by a root mean square of its past."""

from typing import Any

from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.optim.base import Group, Optimizer, Params
from nnkernels.optim.buffers import Progress


class RMSprop(Optimizer):
    """The gradient over its root mean square (Tieleman and Hinton, 2012), with momentum.

    With ``centered``, the mean square is taken around the mean gradient (Graves, arXiv:1308.0850).
    """

    def __init__(
        self, params: Params, lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
        weight_decay: float = 0.0, momentum: float = 0.0, centered: bool = False,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "momentum": momentum, "centered": centered})

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the names of the averages and of the momentum."""
        more = ("grad_avg",) if group["centered"] else ()
        return ("square_avg", *more, "momentum_buffer") if group["momentum"] else ("square_avg", *more)

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update the averages, the momentum and the parameter."""
        OPS["rmsprop_step"](
            param, grad, state["square_avg"], state.get("grad_avg"), state.get("momentum_buffer"),
            lr=group["lr"], alpha=group["alpha"], eps=group["eps"], weight_decay=group["weight_decay"],
            momentum=group["momentum"],
        )  # fmt: skip
        return (progress[0] + 1,)


class Adagrad(Optimizer):
    """The gradient over the root of the sum of its squares so far (Duchi et al., JMLR 12, 2011).

    The learning rate falls as lr / (1 + steps * lr_decay).
    """

    def __init__(
        self, params: Params, lr: float = 1e-2, lr_decay: float = 0.0, weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0, eps: float = 1e-10,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "lr_decay": lr_decay, "weight_decay": weight_decay, "eps": eps}
        super().__init__(params, {**options, "initial_accumulator_value": initial_accumulator_value})

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the name of the sum of squares."""
        return ("sum",)

    def first(self, name: str, group: Group) -> float:
        """Return what the sums start from."""
        return float(group["initial_accumulator_value"])

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update the sum and the parameter."""
        step = int(progress[0]) + 1
        OPS["adagrad_step"](
            param, grad, state["sum"], step=step, lr=group["lr"], lr_decay=group["lr_decay"],
            weight_decay=group["weight_decay"], eps=group["eps"],
        )  # fmt: skip
        return (step,)


class Adadelta(Optimizer):
    """Steps as long as recent steps, in units of the recent gradient (Zeiler, arXiv:1212.5701)."""

    def __init__(
        self, params: Params, lr: float = 1.0, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay})

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the names of the mean squares of gradients and of steps."""
        return "square_avg", "acc_delta"

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update both mean squares and the parameter."""
        OPS["adadelta_step"](
            param, grad, state["square_avg"], state["acc_delta"], lr=group["lr"], rho=group["rho"],
            eps=group["eps"], weight_decay=group["weight_decay"],
        )  # fmt: skip
        return (progress[0] + 1,)
