"""Muon."""

from typing import Any

from nnkernels.machine.memory import Array
from nnkernels.nn.module import Parameter
from nnkernels.ops import OPS
from nnkernels.ops.steps.muon import COEFFICIENTS, Coefficients
from nnkernels.optim.base import Group, Optimizer, Params
from nnkernels.optim.buffers import Progress


class Muon(Optimizer):
    """Steps along the mean gradient of a matrix made orthogonal (Jordan et al., 2024).

    For the weight matrices of hidden layers; give biases, filters, embeddings and the last layer to another
    optimizer, say AdamW. The products are computed in the parameters' dtype, not in bfloat16.
    """

    flat = False

    def __init__(
        self, params: Params, lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95,
        nesterov: bool = True, ns_coefficients: Coefficients = COEFFICIENTS, eps: float = 1e-7,
        ns_steps: int = 5, adjust_lr_fn: str | None = None,
    ) -> None:  # fmt: skip
        options: dict[str, Any] = {
            "lr": lr,
            "weight_decay": weight_decay,
            "momentum": momentum,
            "nesterov": nesterov,
        }
        options |= {"ns_coefficients": ns_coefficients, "eps": eps, "ns_steps": ns_steps}
        super().__init__(params, {**options, "adjust_lr_fn": adjust_lr_fn})

    def check_params(self, params: list[Parameter]) -> None:
        """Raise ValueError unless all are matrices."""
        for p in params:
            if p.ndim != 2 or p.size == 0:
                raise ValueError(
                    f"Muon: params must be matrices (2 axes, not empty), got one of shape {p.shape}; give "
                    "biases and filters to another optimizer"
                )

    def states(self, group: Group) -> tuple[str, ...]:
        """Return the name of the mean."""
        return ("momentum_buffer",)

    def update(
        self, group: Group, param: Array, grad: Array, state: dict[str, Any], progress: Progress
    ) -> Progress:
        """Update the mean and the parameter."""
        OPS["muon_step"](
            param, grad, state["momentum_buffer"], **{name: group[name] for name in self.defaults}
        )
        return (progress[0] + 1,)
