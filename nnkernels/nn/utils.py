"""Gradient clipping, between ``backward`` and the optimizer's step; modules as functions of parameters."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.machine.arrays import full
from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.memory import Array
from nnkernels.nn.module import Module
from nnkernels.ops import OPS


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
    if isinstance(gradients[0], GpuArray):
        return clip_on_gpu(gradients, float(max_norm), norm_type, error_if_nonfinite)
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
        if isinstance(g, GpuArray):
            top, bottom = (full((), value, g.dtype, g) for value in (limit, -limit))
            g.copy_from(at_most(OPS["maximum"](g, bottom), top))
        else:
            np.clip(g, -limit, limit, out=g)


def at_most(x: Any, top: Any) -> Any:
    """Return the smaller of each two elements."""
    return OPS["neg"](OPS["maximum"](OPS["neg"](x), OPS["neg"](top)))


def clip_on_gpu(gradients: list[Any], max_norm: float, norm_type: float, error_if_nonfinite: bool) -> Tensor:
    """Clip as ``clip_grad_norm_`` says, by ops: no number is read but for ``error_if_nonfinite``."""
    values = {"p": norm_type, "1/p": 1 / norm_type, "max": max_norm, "eps": 1e-6, "one": 1.0}
    number = {name: full((), value, gradients[0].dtype, gradients[0]) for name, value in values.items()}
    sizes = [OPS["abs"](g) for g in gradients]
    if math.isinf(norm_type):
        total = OPS["max"](sizes[0])
        for size in sizes[1:]:
            total = OPS["maximum"](total, OPS["max"](size))
    else:
        powers = [OPS["sum"](OPS["pow"](size, number["p"])) for size in sizes]
        total = powers[0]
        for power in powers[1:]:
            total = OPS["add"](total, power)
        total = OPS["pow"](total, number["1/p"])
    if error_if_nonfinite and not math.isfinite(total.item()):
        raise RuntimeError(
            f"clip_grad_norm_: the gradients' norm of order {norm_type:g} is {total.item()}: they cannot be "
            "clipped; error_if_nonfinite=False scales them by it all the same"
        )
    factor = at_most(OPS["div"](number["max"], OPS["add"](total, number["eps"])), number["one"])
    for g in gradients:
        g.copy_from(OPS["mul"](g, factor))
    return Tensor(total)


def functional_call(
    module: Module, parameters: Mapping[str, Any], args: Any = (), kwargs: Mapping[str, Any] | None = None
) -> Any:
    """Return ``module(*args, **kwargs)`` with other values in the place of its parameters.

    ``parameters`` maps names, as ``named_parameters`` gives them, to Tensors or arrays of the same shapes;
    the module keeps its own for what is left out, and afterwards. It makes a loss a function of all
    parameters, to be differentiated by them::

        parameters = {name: p.data for name, p in model.named_parameters()}
        nnk.grad(lambda p: loss(functional_call(model, p, (x,))))(parameters)

    ``args`` is a tuple, or one argument. Raises ValueError for a name that the module does not have, or
    another shape. PyTorch's ``torch.func.functional_call``.
    """
    if not isinstance(parameters, Mapping):
        raise TypeError(f"functional_call: parameters must be a dict, got {type(parameters).__name__}")
    own = dict(module.named_parameters())
    for name, value in parameters.items():
        if name not in own:
            names = ", ".join(own)
            raise ValueError(f"functional_call: the module has no parameter {name!r}; it has {names}")
        if np.shape(value) != own[name].shape:
            wanted = own[name].shape
            raise ValueError(f"functional_call: {name} must have shape {wanted}, got {np.shape(value)}")
    values = {id(own[name]): value for name, value in parameters.items()}
    places = [  # a shared parameter has several
        (owner, name, parameter, owner.__dict__[name])
        for owner in module.modules()
        for name, parameter in owner._parameters.items()
        if id(parameter) in values
    ]
    try:
        for owner, name, parameter, _ in places:
            value = values[id(parameter)]
            object.__setattr__(owner, name, value if isinstance(value, Tensor) else Tensor(np.asarray(value)))
        return module(*(args if isinstance(args, tuple) else (args,)), **(kwargs or {}))
    finally:
        for owner, name, _, before in places:
            object.__setattr__(owner, name, before)
