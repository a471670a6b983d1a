"""Regularisers Omega(w): penalties to add to the loss, and what they do to the weights after a step.

    L1(strength)          strength sum |w|           makes weights exactly 0
    L2(strength)          strength / 2 sum w^2       keeps weights small; its gradient is strength w
    ElasticNet(l1, l2)    the sum of both
    MaxNorm(limit)        no penalty: weights of a unit are scaled down to a norm of at most limit

A penalty called with parameters returns a Tensor that backward goes through. ``apply(params, lr)`` is the
decoupled way: a proximal step for L1 (soft thresholding by lr strength), weight decay as AdamW's for L2. Both
can be chosen per parameter group:

    optimizer = Adam([{"params": hidden, "penalty": L2(1e-4)}, {"params": last, "after_step": L1(1e-3)}])
    loss = cross_entropy(model(x), y) + optimizer.penalty()

The gradient of |w| counts as 0 at w = 0.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from nnkernels.autograd import no_grad
from nnkernels.machine.arrays import full
from nnkernels.nn.module import Parameter
from nnkernels.ops import OPS


def strength_of(who: str, name: str, value: Any) -> float:
    """Return a number that must not be negative."""
    if not isinstance(value, (int, float, np.number)) or not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{who}: {name} must be a number of at least 0, got {value!r}")
    return float(value)


def parameters_of(who: str, params: Iterable[Parameter] | Parameter) -> list[Parameter]:
    """Return the parameters as a list that is not empty."""
    found = [params] if isinstance(params, Parameter) else list(params)
    if not found or not all(isinstance(p, Parameter) for p in found):
        raise TypeError(f"{who}: params must be Parameters, at least one")
    return found


class ElasticNet:
    """l1 sum |w| + l2 / 2 sum w^2 (Zou and Hastie, Journal of the Royal Statistical Society B 67, 2005)."""

    def __init__(self, l1: float, l2: float) -> None:
        self.l1 = strength_of(type(self).__name__, "l1", l1)
        self.l2 = strength_of(type(self).__name__, "l2", l2)

    def __call__(self, params: Iterable[Parameter] | Parameter) -> Any:
        """Return the penalty, a Tensor with a single element."""
        total: Any = None
        for p in parameters_of(type(self).__name__, params):
            terms = []
            if self.l1:
                terms.append(abs(p).sum() * self.l1)
            if self.l2 or not self.l1:
                terms.append((p * p).sum() * (self.l2 / 2))
            for term in terms:
                total = term if total is None else total + term
        return total

    def apply(self, params: Iterable[Parameter] | Parameter, lr: float) -> None:
        """Shrink the parameters in place, as a step of length ``lr`` along the penalty would."""
        for p in parameters_of(type(self).__name__, params):
            OPS["shrink_step"](p.data, threshold=lr * self.l1, factor=1 - lr * self.l2)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(l1={self.l1:g}, l2={self.l2:g})"


class L1(ElasticNet):
    """strength sum |w|."""

    def __init__(self, strength: float) -> None:
        super().__init__(strength_of("L1", "strength", strength), 0.0)

    def __repr__(self) -> str:
        return f"L1({self.l1:g})"


class L2(ElasticNet):
    """strength / 2 sum w^2: what ``weight_decay=strength`` adds to the gradient."""

    def __init__(self, strength: float) -> None:
        super().__init__(0.0, strength_of("L2", "strength", strength))

    def __repr__(self) -> str:
        return f"L2({self.l2:g})"


class MaxNorm:
    """Weights of each unit with a Euclidean norm of at most ``limit``.

    A unit's weights are what lies behind one index of the axis ``dim``: a row of Linear's weight, a filter of
    Conv2d's. Parameters of fewer than 2 axes (biases) are left alone. Srivastava et al., Dropout, JMLR 15,
    2014.
    """

    def __init__(self, limit: float, dim: int = 0) -> None:
        self.limit, self.dim = strength_of("MaxNorm", "limit", limit), dim

    def apply(self, params: Iterable[Parameter] | Parameter, lr: float | None = None) -> None:
        """Scale the weights of units beyond the limit down to it, in place; ``lr`` is not looked at."""
        for p in parameters_of("MaxNorm", params):
            if p.ndim < 2:
                continue
            rest = tuple(d for d in range(p.ndim) if d != self.dim % p.ndim)
            if p.is_cuda:
                with no_grad():
                    p.copy_(self.scaled_by_ops(p, rest))
                continue
            norms = np.sqrt(np.square(p.data, dtype=np.float64).sum(axis=rest, keepdims=True))
            beyond = norms > self.limit
            scale = np.divide(self.limit, norms, out=np.ones_like(norms), where=beyond)
            p.data *= scale.astype(p.dtype)

    def scaled_by_ops(self, p: Parameter, rest: tuple[int, ...]) -> Any:
        """Return the scaled weights, as a GPU computes them: in p's dtype, and without reading any number."""
        w = p.detach()
        norms = (w * w).sum(dim=rest, keepdim=True).sqrt()
        smallest = max(self.limit, float(np.finfo(p.dtype).tiny))
        top = OPS["maximum"](norms, full((), smallest, p.dtype, p.data))
        return w * (self.limit / top)  # a unit within the limit is multiplied by limit / limit

    def __repr__(self) -> str:
        return f"MaxNorm({self.limit:g}, dim={self.dim})"
