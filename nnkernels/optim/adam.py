"""Adam and its kin."""

from typing import Any

from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.ops.steps.adam import nadam_mu
from nnkernels.optim.base import Group, Optimizer, Params
from nnkernels.optim.buffers import Progress

Betas = tuple[float, float]
MOMENTS = ("exp_avg", "exp_avg_sq")


def common(group: Group) -> dict[str, Any]:
    """Return the options that all of them share."""
    return {
        "lr": group["lr"],
        "betas": group["betas"],
        "eps": group["eps"],
        "weight_decay": group["weight_decay"],
        "decoupled_weight_decay": group["decoupled_weight_decay"],
    }


class Adam(Optimizer):
    """Adam: steps of about lr along mean gradient over its root mean square (Kingma and Ba, ICLR 2015).

    ``weight_decay`` adds weight_decay * p to the gradient; decoupled, it shrinks p by lr * weight_decay
    instead. With ``amsgrad``, the largest mean square so far is taken.
    """

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, amsgrad: bool = False, *, decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "amsgrad": amsgrad}
        super().__init__(params, {**options, "decoupled_weight_decay": decoupled_weight_decay})

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the names of the moments."""
        return (*MOMENTS, "max_exp_avg_sq") if group["amsgrad"] else MOMENTS

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update the moments and the parameter."""
        step = int(progress[0]) + 1
        OPS["adam_step"](param, grad, *state.values(), step=step, **common(group))
        return (step,)


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, ICLR 2019)."""

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 1e-2, amsgrad: bool = False,
    ) -> None:  # fmt: skip
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True)


class NAdam(Optimizer):
    """Adam that looks ahead as Nesterov's momentum does (Dozat, 2016).

    The momentum of step t is beta1 (1 - 0.96^(t momentum_decay) / 2).
    """

    progress = ("step", "mu_product")
    start = (0, 1.0)

    def __init__(
        self, params: Params, lr: float = 2e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, momentum_decay: float = 4e-3, decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        options |= {"momentum_decay": momentum_decay, "decoupled_weight_decay": decoupled_weight_decay}
        super().__init__(params, options)

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the names of the moments."""
        return MOMENTS

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update the moments, the parameter, and the product of the steps' momenta."""
        step, product, decay = int(progress[0]) + 1, progress[1], group["momentum_decay"]
        OPS["nadam_step"](
            param, grad, *state.values(), step=step, mu_product=product, momentum_decay=decay, **common(group)
        )
        return step, product * nadam_mu(step, group["betas"][0], decay)


class RAdam(Optimizer):
    """Adam that takes steps of momentum until its mean square is reliable (Liu et al., ICLR 2020)."""

    def __init__(
        self, params: Params, lr: float = 1e-3, betas: Betas = (0.9, 0.999), eps: float = 1e-8,
        weight_decay: float = 0.0, decoupled_weight_decay: bool = False,
    ) -> None:  # fmt: skip
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**options, "decoupled_weight_decay": decoupled_weight_decay})

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the names of the moments."""
        return MOMENTS

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update the moments and the parameter."""
        step = int(progress[0]) + 1
        OPS["radam_step"](param, grad, *state.values(), step=step, **common(group))
        return (step,)
