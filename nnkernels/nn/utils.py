"""Gradient clipping, between ``backward`` and the optimizer's step."""

import math
from collections.abc import Iterable

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.machine.memory import Array


def gradients_of(parameters: Iterable[Tensor] | Tensor) -> list[Array]:
    """Return the gradients that there are."""
    tensors = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    return [p.grad.data for p in tensors if p.grad is not None]


def clip_grad_norm_(
    parameters: Iterable[Tensor] | Tensor,
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients, in place, so that their norm as one vector is at most ``max_norm``.

    Returns the norm before, a Tensor with a single element. ``norm_type`` is p of the p-norm, math.inf for
    the largest magnitude. Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013.
    With ``error_if_nonfinite``, raises RuntimeError for a norm that is NaN or infinite.
    """
    gradients, norm_type = gradients_of(parameters), float(norm_type)
    if not gradients:
        return Tensor(np.zeros((), np.float32))
    # In float64: float32 squares overflow from 1e19 on.
    norms = [np.linalg.norm(g.reshape(-1).astype(np.float64), norm_type) for g in gradients]
    total = float(np.linalg.norm(norms, norm_type))
    if error_if_nonfinite and not math.isfinite(total):
        raise RuntimeError(
            f"clip_grad_norm_: the gradients' norm of order {norm_type:g} is {total}: they cannot be "
            "clipped; error_if_nonfinite=False scales them by it all the same"
        )
    factor = float(max_norm) / (total + 1e-6)
    if not factor >= 1:  # NaN goes on into the gradients
        with np.errstate(invalid="ignore"):
            for g in gradients:
                g *= factor
    return Tensor(np.asarray(total, gradients[0].dtype))


def clip_grad_value_(parameters: Iterable[Tensor] | Tensor, clip_value: float) -> None:
    """Bring every element of the gradients into [-clip_value, clip_value], in place."""
    limit = float(clip_value)
    for g in gradients_of(parameters):
        np.clip(g, -limit, limit, out=g)
