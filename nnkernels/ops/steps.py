"""Update steps: one step of an optimizer, in place, on a parameter and its state. Any shape.

    sgd    g = grad + weight_decay param              (g = grad without weight decay)
           velocity = momentum velocity + (1 - dampening) g          (velocity = g on the first step)
           g = velocity, or g + momentum velocity with nesterov      (only with momentum)
           param = param - lr g

    adam   g = grad + weight_decay param
           m = beta1 m + (1 - beta1) g                v = beta2 v + (1 - beta2) g^2
           param = param - lr (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps)

The order of operations and the treatment of the first step are those of torch.optim.SGD and Adam. Without
dampening, a velocity that starts from zeros needs no ``first``. ``step`` counts from 1; what depends on it is
computed once per call, in float64. Sutskever et al., On the importance of initialization and momentum in deep
learning, ICML 2013; Kingma and Ba, Adam, ICLR 2015.
"""

import math
from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, jit, jit_elementwise, jit_parallel, prange, scalars
from nnkernels.machine.memory import Array
from nnkernels.machine.threads import CHUNK
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import fail_type, floats, given, number

# In a training step the other threads sleep by the time of the update: waking them takes longer than 20 us.
SGD_SERIAL_BELOW, ADAM_SERIAL_BELOW = 1 << 18, 1 << 17

Betas = tuple[float, float]
Coefficients = Array  # of the parameter's dtype: a float64 would widen the arithmetic


def sgd_coefficients(
    param: Array, lr: float, momentum: float, dampening: float, weight_decay: float
) -> Coefficients:
    """Return lr, momentum, 1 - dampening, weight_decay."""
    return np.array((lr, momentum, 1 - dampening, weight_decay), param.dtype)


def adam_coefficients(
    param: Array, step: int, lr: float, betas: Betas, eps: float, weight_decay: float
) -> Coefficients:
    """Return lr, beta1, 1 - beta1, beta2, 1 - beta2, 1 - beta1^step, 1 - beta2^step, eps, weight_decay."""
    beta1, beta2 = betas
    corrections = (1 - beta1**step, 1 - beta2**step)
    return np.array((lr, beta1, 1 - beta1, beta2, 1 - beta2, *corrections, eps, weight_decay), param.dtype)


# --- loops ---


@jit
def sgd_step_kernel(
    param: Array, grad: Array, velocity: Array, coefficients: Coefficients, nesterov: bool, first: bool
) -> None:
    lr, momentum, gain, weight_decay = scalars(coefficients, 4)
    for i in range(param.size):
        g = grad[i]
        if weight_decay != 0:
            g = g + weight_decay * param[i]
        if momentum != 0:
            velocity[i] = g if first else momentum * velocity[i] + gain * g
            g = g + momentum * velocity[i] if nesterov else velocity[i]
        param[i] = param[i] - lr * g


@jit
def adam_step_kernel(param: Array, grad: Array, m: Array, v: Array, coefficients: Coefficients) -> None:
    lr, beta1, gain1, beta2, gain2, correction1, correction2, eps, weight_decay = scalars(coefficients, 9)
    for i in range(param.size):
        g = grad[i]
        if weight_decay != 0:
            g = g + weight_decay * param[i]
        m[i] = beta1 * m[i] + gain1 * g
        v[i] = beta2 * v[i] + gain2 * g * g
        # m and v start from 0; dividing by 1 - beta^step makes each an average with weights of sum 1.
        mean = m[i] / correction1
        square = v[i] / correction2
        param[i] = param[i] - lr * mean / (np.sqrt(square) + eps)


# --- vectorized ---


def sgd_step_vectorized(
    param: Array, grad: Array, velocity: Array | None = None, *, lr: float, momentum: float = 0.0,
    dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, first: bool = False,
) -> tuple[Array, ...]:  # fmt: skip
    g = grad + weight_decay * param if weight_decay else grad
    if momentum and velocity is not None:
        if first:
            velocity[...] = g
        else:
            velocity *= momentum
            velocity += (1 - dampening) * g
        g = g + momentum * velocity if nesterov else velocity
    param -= lr * g
    return (param,) if velocity is None else (param, velocity)


def adam_step_vectorized(
    param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
    betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
) -> tuple[Array, Array, Array]:  # fmt: skip
    beta1, beta2 = betas
    g = grad + weight_decay * param if weight_decay else grad
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    v += (1 - beta2) * g * g
    param -= lr / (1 - beta1**step) * m / (np.sqrt(v / (1 - beta2**step)) + eps)
    return param, m, v


# --- tuned ---
#
# One pass: every array is read and written once, where expressions over whole arrays make a pass for each
# operation. Bound: memory, 12 bytes per float32 parameter for sgd, 20 with momentum, 28 for adam; in the
# L1 cache the square root and division of adam bind instead.


@inline
def decayed(grad: Any, param: Any, weight_decay: Any) -> Any:
    return grad if weight_decay == 0 else grad + weight_decay * param


@jit_elementwise
def sgd_chunk(param: Array, grad: Array, coefficients: Coefficients) -> None:
    lr, _, _, weight_decay = scalars(coefficients, 4)
    for i in range(param.size):
        param[i] -= lr * decayed(grad[i], param[i], weight_decay)


@jit_elementwise
def momentum_chunk(
    param: Array, grad: Array, velocity: Array, coefficients: Coefficients, nesterov: bool, first: bool
) -> None:
    # The conditions do not change along the loop: LLVM takes them out of it, or turns them into selects.
    lr, momentum, gain, weight_decay = scalars(coefficients, 4)
    for i in range(param.size):
        p, old = param[i], velocity[i]
        g = decayed(grad[i], p, weight_decay)
        u = g if first else momentum * old + gain * g
        velocity[i] = u
        param[i] = p - lr * (g + momentum * u if nesterov else u)


@jit_elementwise
def adam_chunk(param: Array, grad: Array, m: Array, v: Array, coefficients: Coefficients) -> None:
    lr, beta1, gain1, beta2, gain2, correction1, correction2, eps, weight_decay = scalars(coefficients, 9)
    # Divisions by what is the same for all elements become multiplications; one division stays.
    rate, root = lr / correction1, 1 / np.sqrt(correction2)
    for i in range(param.size):
        p = param[i]
        g = decayed(grad[i], p, weight_decay)
        mean = beta1 * m[i] + gain1 * g
        square = beta2 * v[i] + gain2 * g * g
        m[i] = mean
        v[i] = square
        param[i] = p - rate * mean / (np.sqrt(square) * root + eps)


@jit_parallel
def sgd_parallel(param: Array, grad: Array, coefficients: Coefficients) -> None:
    for c in prange((param.size + CHUNK - 1) // CHUNK):
        i, j = c * CHUNK, (c + 1) * CHUNK
        sgd_chunk(param[i:j], grad[i:j], coefficients)


@jit_parallel
def momentum_parallel(
    param: Array, grad: Array, velocity: Array, coefficients: Coefficients, nesterov: bool, first: bool
) -> None:
    for c in prange((param.size + CHUNK - 1) // CHUNK):
        i, j = c * CHUNK, (c + 1) * CHUNK
        momentum_chunk(param[i:j], grad[i:j], velocity[i:j], coefficients, nesterov, first)


@jit_parallel
def adam_parallel(param: Array, grad: Array, m: Array, v: Array, coefficients: Coefficients) -> None:
    for c in prange((param.size + CHUNK - 1) // CHUNK):
        i, j = c * CHUNK, (c + 1) * CHUNK
        adam_chunk(param[i:j], grad[i:j], m[i:j], v[i:j], coefficients)


# --- bodies: the wrappers of loops and tuned differ in the kernels they call ---


def make_sgd_body(plain: Callable[..., None], with_momentum: Callable[..., None]) -> Body:
    """Return the body whose kernels these are."""

    def forward(
        param: Array, grad: Array, velocity: Array | None = None, *, lr: float, momentum: float = 0.0,
        dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, first: bool = False,
    ) -> tuple[Array, ...]:  # fmt: skip
        coefficients = sgd_coefficients(param, lr, momentum, dampening, weight_decay)
        flat, g = param.reshape(-1), grad.reshape(-1)
        if momentum == 0 or velocity is None:
            plain(flat, g, coefficients)
        else:
            with_momentum(flat, g, velocity.reshape(-1), coefficients, bool(nesterov), bool(first))
        return (param,) if velocity is None else (param, velocity)

    return Body(forward)


def make_adam_body(kernel: Callable[..., None]) -> Body:
    """Return the body whose kernel this is."""

    def forward(
        param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
        betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        coefficients = adam_coefficients(param, step, lr, betas, eps, weight_decay)
        kernel(param.reshape(-1), grad.reshape(-1), m.reshape(-1), v.reshape(-1), coefficients)
        return param, m, v

    return Body(forward)


def sgd_loops(param: Array, grad: Array, coefficients: Coefficients) -> None:
    sgd_step_kernel(param, grad, param, coefficients, False, False)  # no momentum: velocity is not looked at


def sgd_tuned(param: Array, grad: Array, coefficients: Coefficients) -> None:
    kernel = sgd_chunk if param.size < SGD_SERIAL_BELOW else sgd_parallel
    kernel(param, grad, coefficients)


def momentum_tuned(
    param: Array, grad: Array, velocity: Array, coefficients: Coefficients, nesterov: bool, first: bool
) -> None:
    kernel = momentum_chunk if param.size < SGD_SERIAL_BELOW else momentum_parallel
    kernel(param, grad, velocity, coefficients, nesterov, first)


def adam_tuned(param: Array, grad: Array, m: Array, v: Array, coefficients: Coefficients) -> None:
    kernel = adam_chunk if param.size < ADAM_SERIAL_BELOW else adam_parallel
    kernel(param, grad, m, v, coefficients)


# --- records ---


def check_arrays(op: str, param: Array, **others: Array) -> None:
    floats(op, param=param, **others)
    for name, a in others.items():
        if a.shape != param.shape:
            raise ValueError(f"{op}: {name} must have param's shape {param.shape}, got {a.shape}")


def check_sgd(
    param: Array, grad: Array, velocity: Array | None = None, *, lr: float, momentum: float = 0.0,
    dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, first: bool = False,
) -> None:  # fmt: skip
    check_arrays("sgd_step", param, grad=grad, **given(velocity=velocity))
    number("sgd_step", "lr", lr, least=0)
    number("sgd_step", "momentum", momentum, least=0)
    number("sgd_step", "dampening", dampening)
    number("sgd_step", "weight_decay", weight_decay, least=0)
    if momentum != 0 and velocity is None:
        raise ValueError(f"sgd_step: momentum {momentum} needs velocity, an array of param's shape")
    if nesterov and (momentum <= 0 or dampening != 0):
        raise ValueError(
            f"sgd_step: nesterov needs momentum above 0 and dampening 0, got momentum {momentum} and "
            f"dampening {dampening}"
        )


def check_adam(
    param: Array, grad: Array, m: Array, v: Array, *, step: int, lr: float = 1e-3,
    betas: Betas = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
) -> None:  # fmt: skip
    check_arrays("adam_step", param, grad=grad, m=m, v=v)
    number("adam_step", "lr", lr, least=0)
    if not isinstance(betas, (tuple, list)) or len(betas) != 2:
        fail_type("adam_step", "betas", betas, "a pair of numbers")
    for name, beta in zip(("betas[0]", "betas[1]"), betas):
        number("adam_step", name, beta, least=0, below=1)
    number("adam_step", "eps", eps, least=0)
    number("adam_step", "weight_decay", weight_decay, least=0)


def check_step(*arrays: Array, step: int, **attributes: Any) -> None:
    if type(step) is not int and (not isinstance(step, Integral) or isinstance(step, bool)):
        fail_type("adam_step", "step", step, "an int")
    if step < 1:
        raise ValueError(f"adam_step: step must be at least 1, got {step}; the first step is step 1")


def values(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], signs: str) -> tuple[Array, ...]:
    """Return one random array per sign: "-" for any, "+" for positive ones."""
    arrays = (rng.standard_normal(shape) for _ in signs)
    return tuple(np.asarray(abs(a) if sign == "+" else a, dtype) for a, sign in zip(arrays, signs))


def sgd_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape in ((), (1,), (7,), (3, 0), (5, 2, 3, 3)):
        yield Sample(f"shape {shape}", (*values(rng, dtype, shape, "--"), None), {"lr": 0.1})
    for attributes in (
        {"momentum": 0.9},
        {"momentum": 0.9, "first": True, "dampening": 0.25},
        {"momentum": 0.9, "dampening": 0.25, "weight_decay": 0.01},
        {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
        {"momentum": 0.5, "nesterov": True, "first": True},
        {"weight_decay": 0.1},
    ):
        yield Sample(str(attributes), values(rng, dtype, (4, 5), "---"), {"lr": 0.05, **attributes})


def adam_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape in ((), (1,), (7,), (3, 0), (5, 2, 3, 3)):
        param, grad = values(rng, dtype, shape, "--")
        yield Sample(f"shape {shape}", (param, grad, np.zeros_like(param), np.zeros_like(param)), {"step": 1})
    for attributes in (
        {"step": 2, "weight_decay": 0.1},
        {"step": 1000, "lr": 0.1, "betas": (0.5, 0.9), "eps": 0.1},
        {"step": 3, "betas": (0.0, 0.0)},
    ):
        yield Sample(str(attributes), values(rng, dtype, (4, 5), "---+"), attributes)


def frozen(a: Array) -> Array:
    """Return a read-only copy."""
    a = a.copy()
    a.flags.writeable = False
    return a


def sgd_bad_inputs() -> Iterator[BadInput]:
    p = np.ones((2, 3))
    yield BadInput(ValueError, "grad must have param's shape (2, 3), got (3,)", (p, p[0]), {"lr": 0.1})
    yield BadInput(ValueError, "velocity must have param's shape", (p, p, p.T), {"lr": 0.1, "momentum": 0.9})
    yield BadInput(ValueError, "momentum 0.9 needs velocity", (p, p), {"lr": 0.1, "momentum": 0.9})
    yield BadInput(ValueError, "lr must be at least 0, got -0.1", (p, p), {"lr": -0.1})
    yield BadInput(ValueError, "lr must be finite, got nan", (p, p), {"lr": math.nan})
    yield BadInput(TypeError, "lr must be a number", (p, p), {"lr": "fast"})
    yield BadInput(ValueError, "weight_decay must be at least 0", (p, p), {"lr": 0.1, "weight_decay": -1})
    yield BadInput(ValueError, "nesterov needs momentum above 0", (p, p), {"lr": 0.1, "nesterov": True})
    yield BadInput(
        ValueError, "and dampening 0.5", (p, p, p),
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "nesterov": True},
    )  # fmt: skip
    yield BadInput(TypeError, "one dtype, got float64 and float32", (p, p.astype(np.float32)), {"lr": 0.1})
    yield BadInput(TypeError, "param must be float32 or float64", (np.ones((2, 3), int), p), {"lr": 0.1})
    yield BadInput(
        ValueError, "input 0 is updated in place: it must be writable", (frozen(p), p), {"lr": 0.1}
    )
    yield BadInput(ValueError, "input 0 is updated in place", (p.T, p.T), {"lr": 0.1})


def adam_bad_inputs() -> Iterator[BadInput]:
    p = np.ones((2, 3))
    four, one = (p, p, p.copy(), p.copy()), {"step": 1}
    yield BadInput(ValueError, "m must have param's shape (2, 3), got (3,)", (p, p, p[0], p), one)
    yield BadInput(ValueError, "v must have param's shape (2, 3), got (3, 2)", (p, p, p, p.T), one)
    yield BadInput(ValueError, "step must be at least 1, got 0", four, {"step": 0})
    yield BadInput(TypeError, "step must be an int", four, {"step": 1.0})
    yield BadInput(ValueError, "lr must be finite", four, {**one, "lr": math.inf})
    yield BadInput(ValueError, "betas[0] must be in [0, 1), got 1.0", four, {**one, "betas": (1.0, 0.9)})
    yield BadInput(ValueError, "betas[1] must be in [0, 1), got -0.1", four, {**one, "betas": (0.9, -0.1)})
    yield BadInput(TypeError, "betas must be a pair of numbers", four, {**one, "betas": 0.9})
    yield BadInput(ValueError, "eps must be at least 0", four, {**one, "eps": -1e-8})
    yield BadInput(ValueError, "weight_decay must be at least 0", four, {**one, "weight_decay": -0.1})
    yield BadInput(TypeError, "grad must be float32 or float64", (p, p.astype(int), p, p), one)
    yield BadInput(ValueError, "input 3 is updated in place", (p, p, p, frozen(p)), one)


def sgd_bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for n in ((1 << 18) + 5, 61_706, 1 << 22):
        yield Sample(f"{n} parameters", values(rng, dtype, (n,), "---"), {"lr": 0.1, "momentum": 0.9})


def adam_bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for n in ((1 << 18) + 5, 61_706, 1 << 22):
        yield Sample(f"{n} parameters", values(rng, dtype, (n,), "---+"), {"step": 2})


def sgd_flops(
    param: Array, grad: Array, velocity: Array | None = None, *, lr: float, momentum: float = 0.0,
    dampening: float = 0.0, weight_decay: float = 0.0, nesterov: bool = False, first: bool = False,
) -> int:  # fmt: skip
    averaging = 3 if momentum and not first else 0
    return param.size * (2 + averaging + (2 if weight_decay else 0) + (2 if nesterov else 0))


def adam_flops(param: Array, *others: Array, weight_decay: float = 0.0, **attributes: Any) -> int:
    return param.size * (14 + (2 if weight_decay else 0))


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "steps.py", old, new)


sgd_step = Op(
    name="sgd_step",
    loops=make_sgd_body(sgd_loops, sgd_step_kernel),
    vectorized=Body(sgd_step_vectorized),
    tuned=make_sgd_body(sgd_tuned, momentum_tuned),
    check=check_sgd,
    samples=sgd_samples,
    bad_inputs=sgd_bad_inputs,
    bench_samples=sgd_bench_samples,
    flops=sgd_flops,
    inplace=(0, 2),
    mutants=(
        mutant("first step dampened", "loops", "velocity[i] = g if first else",
               "velocity[i] = gain * g if first else"),
        mutant("nesterov looks back", "loops", "g = g + momentum * velocity[i] if", "g = g + velocity[i] if"),
        mutant("dampening forgotten", "vectorized", "velocity += (1 - dampening) * g", "velocity += g"),
        mutant("weight decay has the wrong sign", "tuned", "else grad + weight_decay * param",
               "else grad - weight_decay * param"),
        mutant("velocity not kept", "tuned", "        velocity[i] = u\n", ""),
        mutant("last chunk left out", "tuned",
               "i, j = c * CHUNK, (c + 1) * CHUNK\n        momentum_chunk",
               "i, j = c * CHUNK, min((c + 1) * CHUNK, param.size // CHUNK * CHUNK)\n        momentum_chunk"),
    ),
)  # fmt: skip
adam_step = Op(
    name="adam_step",
    loops=make_adam_body(adam_step_kernel),
    vectorized=Body(adam_step_vectorized),
    tuned=make_adam_body(adam_tuned),
    check=check_adam,
    counter="step",
    check_values=check_step,
    samples=adam_samples,
    bad_inputs=adam_bad_inputs,
    bench_samples=adam_bench_samples,
    flops=adam_flops,
    inplace=(0, 2, 3),
    mutants=(
        mutant("bias of m not corrected", "loops", "mean = m[i] / correction1", "mean = m[i]"),
        mutant("eps under the root", "loops", "(np.sqrt(square) + eps)", "np.sqrt(square + eps)"),
        mutant("square forgotten", "vectorized", "v += (1 - beta2) * g * g", "v += (1 - beta2) * g"),
        mutant("bias of v corrected twice", "tuned", "1 / np.sqrt(correction2)", "1 / correction2"),
        mutant("moments swapped", "tuned", "        m[i] = mean\n        v[i] = square\n",
               "        m[i] = square\n        v[i] = mean\n"),
        mutant("gradient shifted by one", "tuned", "adam_chunk(param[i:j], grad[i:j],",
               "adam_chunk(param[i:j], grad[i - 1:j - 1],"),
    ),
)  # fmt: skip
OPS_HERE = (sgd_step, adam_step)
