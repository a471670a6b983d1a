"""Lion."""

from typing import Any

from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.optim.base import Group, Optimizer, Params
from nnkernels.optim.buffers import Progress


class Lion(Optimizer):
    """Steps of length lr along the sign of a mean gradient (Chen et al., NeurIPS 2023).

    Every element moves by lr, so lr is 3 to 10 times smaller than Adam's, and the decoupled ``weight_decay``
    larger by as much.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the name of the mean."""
        return ("exp_avg",)

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update the parameter, then the mean."""
        OPS["lion_step"](
            param, grad, state["exp_avg"], lr=group["lr"], betas=group["betas"],
            weight_decay=group["weight_decay"],
        )  # fmt: skip
        return (progress[0] + 1,)
