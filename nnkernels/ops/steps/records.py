"""What the records of update steps share: checks of hyper-parameters, samples, sizes to time."""

import math
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.op import BadInput, Mutant, Sample
from nnkernels.ops.validate import check_int, fail_type, floats, number

Betas = tuple[float, float]
BenchSamples = Callable[[np.random.Generator, Any], Iterator[Sample]]


def check_arrays(op: str, param: Array, **others: Array) -> None:
    """Demand arrays of param's dtype and shape."""
    floats(op, param=param, **others)
    for name, a in others.items():
        if a.shape != param.shape:
            raise ValueError(f"{op}: {name} must have param's shape {param.shape}, got {a.shape}")


# --- hyper-parameters: one table, for the steps and for the optimizers ---


def check_betas(who: str, name: str, betas: Any) -> None:
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        fail_type(who, name, betas, "a pair of numbers")
    for i, beta in enumerate(betas):
        number(who, f"{name}[{i}]", beta, least=0, below=1)


def check_rho(who: str, name: str, rho: Any) -> None:
    number(who, name, rho, least=0)
    if rho > 1:
        raise ValueError(f"{who}: {name} must be in [0, 1], got {rho!r}")


def check_flag(who: str, name: str, value: Any) -> None:
    if not isinstance(value, (bool, np.bool_)):
        fail_type(who, name, value, "a bool")


def check_coefficients(who: str, name: str, value: Any) -> None:
    if not isinstance(value, (tuple, list)) or len(value) != 3:
        fail_type(who, name, value, "three numbers (a, b, c)")
    for i, c in enumerate(value):
        number(who, f"{name}[{i}]", c)


def check_ns_steps(who: str, name: str, value: Any) -> None:
    check_int(who, name, value, 1)
    if value >= 100:
        raise ValueError(f"{who}: {name} must be below 100, got {value}")


def check_adjustment(who: str, name: str, value: Any) -> None:
    if value not in (None, "original", "match_rms_adamw"):
        raise ValueError(f'{who}: {name} must be None, "original" or "match_rms_adamw", got {value!r}')


def not_negative(who: str, name: str, value: Any) -> None:
    number(who, name, value, least=0)


HYPER_PARAMETERS: dict[str, Callable[[str, str, Any], None]] = {
    **dict.fromkeys(
        ("lr", "lr_decay", "weight_decay", "momentum", "momentum_decay", "alpha", "eps", "threshold",
         "initial_accumulator_value"), not_negative,
    ),
    **dict.fromkeys(("dampening", "factor", "mu_product"), number),
    **dict.fromkeys(("nesterov", "centered", "amsgrad", "decoupled_weight_decay", "first"), check_flag),
    "betas": check_betas,
    "rho": check_rho,
    "ns_coefficients": check_coefficients,
    "ns_steps": check_ns_steps,
    "adjust_lr_fn": check_adjustment,
}  # fmt: skip


def check_hyper_parameters(who: str, values: dict[str, Any]) -> None:
    """Raise ValueError or TypeError, naming ``who`` and the hyper-parameter, for one that makes no sense."""
    for name, value in values.items():
        if name in HYPER_PARAMETERS:
            HYPER_PARAMETERS[name](who, name, value)
    # SGD's rule: Muon looks ahead without momentum, too.
    if "dampening" in values and values["nesterov"] and (values["momentum"] == 0 or values["dampening"] != 0):
        raise ValueError(
            f"{who}: nesterov needs momentum above 0 and dampening 0, got momentum {values['momentum']} and "
            f"dampening {values['dampening']}"
        )


def check_options(op: str, taker: Callable[..., Any], options: dict[str, Any]) -> None:
    """Check a step's attributes; which there are, and their defaults, are the taker's keyword arguments."""
    code, defaults = taker.__code__, dict(taker.__kwdefaults__ or {})
    known = code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]
    for name in options:
        if name not in known:
            raise TypeError(f"{op}() got an unexpected keyword argument {name!r}")
    for name in known:
        if name not in options and name not in defaults:
            raise TypeError(f"{op}() missing 1 required keyword-only argument: {name!r}")
    check_hyper_parameters(op, {**defaults, **options})


def check_step(op: str) -> Callable[..., None]:
    """Return the check of ``step``, which is another at every call."""

    def check(*arrays: Array, step: int, **attributes: Any) -> None:
        if type(step) is not int and (not isinstance(step, Integral) or isinstance(step, bool)):
            fail_type(op, "step", step, "an int")
        if step < 1:
            raise ValueError(f"{op}: step must be at least 1, got {step}; the first step is step 1")

    return check


# --- samples ---


def values(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], signs: str) -> tuple[Any, ...]:
    """Return one random array per sign: "-" for any, "+" for positive ones; None for "."."""
    arrays = (rng.standard_normal(shape) for _ in signs)
    return tuple(
        None if sign == "." else np.asarray(abs(a) if sign == "+" else a, dtype)
        for a, sign in zip(arrays, signs)
    )


SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (3, 0), (2, 2, 3))


def make_samples(
    signs: str, attributes: dict[str, Any], *variants: tuple[str, dict[str, Any]]
) -> Callable[[np.random.Generator, Any], Iterator[Sample]]:
    """Return samples of all kinds of shapes, and one of each variant (signs, attributes)."""

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        for shape in SHAPES:
            yield Sample(f"shape {shape}", values(rng, dtype, shape, signs), attributes)
        for other_signs, changed in variants:
            yield Sample(str(changed), values(rng, dtype, (4, 5), other_signs), {**attributes, **changed})

    return samples


def make_bench_samples(signs: str, attributes: dict[str, Any], first: int = (1 << 17) + 5) -> BenchSamples:
    """Return samples of a size that threads just share, of LeNet-5's size, and of 4 million parameters."""

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        for n in (first, 61_706, 1 << 22):
            yield Sample(f"{n} parameters", values(rng, dtype, (n,), signs), attributes)

    return bench_samples


def plant(file: str) -> Callable[[str, Any, str, str], Mutant]:
    """Return what makes a fault planted in a file of this room."""
    return lambda name, body, old, new: Mutant(name, body, f"steps/{file}", old, new)


def frozen(a: Array) -> Array:
    """Return a read-only copy."""
    a = a.copy()
    a.flags.writeable = False
    return a


def common_bad_inputs(states: tuple[str, ...], attributes: dict[str, Any]) -> Iterator[BadInput]:
    """Yield what every step refuses, given the names of the states that it demands."""
    p = np.ones((2, 3))
    count = 1 + len(states)
    yield BadInput(
        ValueError, "grad must have param's shape (2, 3), got (3,)", (p, p[0], *[p] * len(states)), attributes
    )
    yield BadInput(
        TypeError, "grad must be float32 or float64", (p, p.astype(int), *[p] * len(states)), attributes
    )
    for i, name in enumerate(states):
        arrays = [p] * (count + 1)
        arrays[2 + i] = p.T
        wanted = f"{name} must have param's shape (2, 3), got (3, 2)"
        yield BadInput(ValueError, wanted, tuple(arrays), attributes)
        arrays[2 + i] = frozen(p)
        yield BadInput(ValueError, f"input {2 + i} is updated in place", tuple(arrays), attributes)
    rest = [p.copy() for _ in range(count)]
    yield BadInput(
        ValueError, "input 0 is updated in place: it must be writable", (frozen(p), *rest), attributes
    )
    yield BadInput(ValueError, "lr must be at least 0, got -0.1", (p, *rest), {**attributes, "lr": -0.1})
    yield BadInput(ValueError, "lr must be finite, got nan", (p, *rest), {**attributes, "lr": math.nan})
    yield BadInput(TypeError, "lr must be a number", (p, *rest), {**attributes, "lr": "fast"})
