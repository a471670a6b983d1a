"""Functions of one array, element by element: y_i = f(x_i), dx_i = dy_i f'(x_i).

    neg   -x         exp   e^x            log   ln x                sin   sin x
    relu  max(x, 0)  leaky_relu  x or a x    sigmoid  1 / (1 + e^-x)   tanh  (e^2x - 1) / (e^2x + 1)

The loops stand here once, for all of them. What differs is the pair f(x, a) and df(x, y, a) = f'(x), given
y = f(x) and the op's one attribute a (0 where there is none). Any shape, float32 or float64. `tuned` takes
its exp, log, tanh, sin and cos from ``machine/elementary.py``, which says how far each may be off.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine import elementary
from nnkernels.machine.jit import (
    inline,
    inline_elementwise,
    jit,
    jit_elementwise,
    jit_parallel,
    prange,
    typed,
)
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import floats, number

Scalar = Callable[..., Any]
Far = tuple[float, Scalar, Scalar]

# --- the loops, once ---


def make_loops(f: Scalar, df: Scalar, default: float) -> Body:
    """Return the body that takes one element after the other."""

    @jit
    def forward_kernel(x: Array, a: float, y: Array) -> None:
        for i in range(x.size):
            y[i] = f(x[i], a)

    @jit
    def backward_kernel(dy: Array, x: Array, y: Array, a: float, dx: Array) -> None:
        for i in range(x.size):
            dx[i] = dy[i] * df(x[i], y[i], a)

    return make_body(forward_kernel, backward_kernel, default)


def make_tuned(f: Scalar, df: Scalar, default: float, serial_below: int, far: Far | None = None) -> Body:
    """Return the body that cuts the array into chunks and shares them among threads.

    Bound: memory traffic; forward reads and writes every element once, backward reads up to three arrays.
    ``far`` = (limit, f, df) gives the pair for |x| > limit, where f and df do not hold: such elements are
    rare, and a test among the others would keep their loop from being vectorised.
    """
    limit, far_f, far_df = far or (math.inf, f, df)

    @inline_elementwise
    def forward_chunk(x: Array, a: float, y: Array) -> None:
        beyond = False
        for i in range(x.size):
            y[i] = f(x[i], a)
            beyond |= abs(x[i]) > limit
        if beyond:
            for i in range(x.size):
                if abs(x[i]) > limit:
                    y[i] = far_f(x[i], a)

    @inline_elementwise
    def backward_chunk(dy: Array, x: Array, y: Array, a: float, dx: Array) -> None:
        beyond = False
        for i in range(x.size):
            dx[i] = dy[i] * df(x[i], y[i], a)
            beyond |= abs(x[i]) > limit
        if beyond:
            for i in range(x.size):
                if abs(x[i]) > limit:
                    dx[i] = dy[i] * far_df(x[i], y[i], a)

    @jit_parallel
    def forward_parallel(x: Array, a: float, share: int, y: Array) -> None:
        for c in prange((x.size + share - 1) // share):
            i, j = c * share, (c + 1) * share
            forward_chunk(x[i:j], a, y[i:j])

    @jit_parallel
    def backward_parallel(dy: Array, x: Array, y: Array, a: float, share: int, dx: Array) -> None:
        for c in prange((x.size + share - 1) // share):
            i, j = c * share, (c + 1) * share
            backward_chunk(dy[i:j], x[i:j], y[i:j], a, dx[i:j])

    forward_serial, backward_serial = jit_elementwise(forward_chunk), jit_elementwise(backward_chunk)

    def forward_kernel(x: Array, a: float, y: Array) -> None:
        if x.size < serial_below:
            forward_serial(x, a, y)
        else:
            forward_parallel(x, a, share_of(x.size), y)

    def backward_kernel(dy: Array, x: Array, y: Array, a: float, dx: Array) -> None:
        if x.size < serial_below:
            backward_serial(dy, x, y, a, dx)
        else:
            backward_parallel(dy, x, y, a, share_of(x.size), dx)

    return make_body(forward_kernel, backward_kernel, default)


def make_vectorized(f: Scalar, df: Scalar, default: float) -> Body:
    """Return the body of NumPy expressions over whole arrays."""
    a_of = attribute_reader(default)

    def forward(x: Array, **attribute: float) -> tuple[Array]:
        with np.errstate(all="ignore"):
            return (np.asarray(f(x, a_of(x, attribute))),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], **attribute: float
    ) -> tuple[Array | None]:
        (x,), (y,) = inputs, outputs
        with np.errstate(all="ignore"):
            return (np.asarray(dy * df(x, y, a_of(x, attribute))) if needs[0] else None,)

    return Body(forward, backward)


def make_body(forward_kernel: Scalar, backward_kernel: Scalar, default: float) -> Body:
    """Wrap kernels over flat arrays: allocate the result and pass the attribute."""
    a_of = attribute_reader(default)

    def forward(x: Array, **attribute: float) -> tuple[Array]:
        y = empty(x.shape, x.dtype)
        forward_kernel(x.ravel(), a_of(x, attribute), y.ravel())
        return (y,)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], **attribute: float
    ) -> tuple[Array | None]:
        if not needs[0]:
            return (None,)
        (x,), (y,) = inputs, outputs
        dx = empty(x.shape, x.dtype)
        backward_kernel(dy.ravel(), x.ravel(), y.ravel(), a_of(x, attribute), dx.ravel())
        return (dx,)

    return Body(forward, backward)


def attribute_reader(default: float) -> Callable[[Array, dict[str, float]], Any]:
    """Return what reads an op's one attribute in x's dtype, as a float64 would widen the arithmetic."""
    defaults = {4: np.float32(default), 8: np.float64(default)}

    def read(x: Array, attribute: dict[str, float]) -> Any:
        for value in attribute.values():
            return x.dtype.type(value)
        return defaults[x.itemsize]

    return read


# --- the formulas: f(x, a) and df(x, y, a) ---


@inline
def neg_f(x: Any, a: Any) -> Any:
    return -x


@inline
def neg_df(x: Any, y: Any, a: Any) -> Any:
    return typed(-1, x)


@inline
def exp_f(x: Any, a: Any) -> Any:
    return np.exp(x)


@inline
def exp_tuned(x: Any, a: Any) -> Any:
    return elementary.exp(x)


@inline
def exp_df(x: Any, y: Any, a: Any) -> Any:
    return y


@inline
def log_f(x: Any, a: Any) -> Any:
    return np.log(x)


@inline
def log_tuned(x: Any, a: Any) -> Any:
    return elementary.log(x)


@inline
def log_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, x) / x


@inline
def sin_f(x: Any, a: Any) -> Any:
    return np.sin(x)


@inline
def sin_df(x: Any, y: Any, a: Any) -> Any:
    return np.cos(x)


@inline
def sin_tuned(x: Any, a: Any) -> Any:
    return elementary.sin(x)


@inline
def sin_df_tuned(x: Any, y: Any, a: Any) -> Any:
    return elementary.cos(x)


@inline
def relu_f(x: Any, a: Any) -> Any:
    return x if x > 0 or x != x else a  # NaN stays NaN


@inline
def relu_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, x) if x > 0 else typed(0, x)  # at the kink, 0


@inline
def leaky_relu_f(x: Any, a: Any) -> Any:
    return x if x > 0 else a * x


@inline
def leaky_relu_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, x) if x > 0 else a


@inline
def sigmoid_f(x: Any, a: Any) -> Any:
    # e^-|x| never overflows; both branches are the same function.
    e = np.exp(-abs(x))
    return 1 / (1 + e) if x >= 0 else e / (1 + e)


@inline
def sigmoid_tuned(x: Any, a: Any) -> Any:
    e = elementary.exp(-abs(x))
    one = typed(1, x)
    return (e if x < 0 else one) / (one + e)


@inline
def sigmoid_df(x: Any, y: Any, a: Any) -> Any:
    return y * (typed(1, y) - y)


@inline
def tanh_f(x: Any, a: Any) -> Any:
    return np.tanh(x)


@inline
def tanh_tuned(x: Any, a: Any) -> Any:
    return elementary.tanh(x)


@inline
def tanh_df(x: Any, y: Any, a: Any) -> Any:
    return typed(1, y) - y * y


def relu_numpy(x: Array, a: Any) -> Array:
    y: Array = np.maximum(x, a)
    return y


def leaky_relu_numpy(x: Array, a: Any) -> Array:
    return np.where(x > 0, x, a * x)


def sigmoid_numpy(x: Array, a: Any) -> Array:
    e = np.exp(-np.abs(x))
    y: Array = np.where(x < 0, e, 1) / (1 + e)
    return y


def step_numpy(x: Array, y: Array, a: Any) -> Array:
    slope: Array = np.where(x > 0, x.dtype.type(1), a)
    return slope


# --- records ---


def make_op(
    name: str,
    f: Scalar,
    df: Scalar,
    *,
    tuned: tuple[Scalar, Scalar] | None = None,
    far: Far | None = None,
    numpy: tuple[Scalar, Scalar] | None = None,
    attribute: str | None = None,
    default: float = 0.0,
    low: float = -3.0,
    flops: int = 1,
    mutants: tuple[Mutant, ...] = (),
) -> Op:
    """Return the record; sample values are at least 0.05 away from 0, the kink of relu."""

    def check(x: Array, **attributes: float) -> None:
        floats(name, x=x)
        for key, value in attributes.items():
            if key != attribute:
                takes = f"only {attribute}" if attribute else "no attributes"
                raise TypeError(f"{name}: unexpected attribute {key!r}; it takes {takes}")
            number(name, key, value)

    def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
        magnitude = rng.uniform(0.05, 3, shape)
        sign = 1 if low >= 0 else rng.choice([-1, 1], shape)
        return np.asarray(magnitude * sign, dtype)

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        for shape in ((), (1,), (7,), (3, 0, 2), (2, 3, 4, 5)):
            yield Sample(f"shape {shape}", (values(rng, shape, dtype),))
        if attribute:
            yield Sample(f"{attribute}=0.3", (values(rng, (3, 5), dtype),), {attribute: 0.3})

    def bad_inputs() -> Iterator[BadInput]:
        yield BadInput(TypeError, f"{name}: x must be float32 or float64, got int64", (np.arange(3),))
        yield BadInput(TypeError, f"{name}: x must be a NumPy array", ([1.0],))
        yield BadInput(TypeError, "unexpected attribute 'slope'", (np.ones(3),), {"slope": 1.0})
        if attribute:
            nan = {attribute: math.nan}
            yield BadInput(ValueError, f"{attribute} must be finite", (np.ones(3),), nan)

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        if far:  # not among `samples`: so far out, no difference quotient is exact
            x = values(rng, (33, 1001), dtype)
            x[::5] *= 1000 * far[0]
            yield Sample("33x1001, a fifth of it far", (x,))
        yield Sample("64x6x28x28", (values(rng, (64, 6, 28, 28), dtype),))
        yield Sample("16 Mi", (values(rng, (1 << 24,), dtype),))

    def jvp(
        tangents: tuple[Array], outputs: tuple[Array], inputs: tuple[Array], **attributes: float
    ) -> Array:
        # The Jacobian is diagonal, so pushing a tangent forward is pulling a cotangent back.
        (dx,) = op.loops.backward(tangents[0], outputs, inputs, (True,), **attributes)  # type: ignore[misc]
        assert dx is not None
        return dx

    numpy_f, numpy_df = numpy or (f, df)
    serial_below = SERIAL_BELOW if flops > 1 else SERIAL_BELOW_IF_CHEAP
    op = Op(
        name=name,
        loops=make_loops(f, df, default),
        vectorized=make_vectorized(numpy_f, numpy_df, default),
        tuned=make_tuned(*(tuned or (f, df)), default, serial_below, far),
        check=check,
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=lambda x, **_: flops * x.size,
        jvp=jvp,
        mutants=mutants,
    )
    return op


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "unary.py", old, new)


neg = make_op("neg", neg_f, neg_df, mutants=(mutant("sign lost", "return -x\n", "return x\n"),))
exp = make_op(
    "exp",
    exp_f,
    exp_df,
    tuned=(exp_tuned, exp_df),
    flops=16,
    mutants=(
        mutant(
            "derivative of exp is x",
            "    return y\n\n\n@inline\ndef log_f",
            "    return x\n\n\n@inline\ndef log_f",
        ),
        mutant(
            "chunks overlap",
            "i, j = c * share, (c + 1) * share\n            forward_chunk",
            "i, j = c * share + 1, (c + 1) * share\n            forward_chunk",
            "tuned",
        ),
    ),
)
log = make_op(
    "log",
    log_f,
    log_df,
    tuned=(log_tuned, log_df),
    low=0.0,
    flops=16,
    mutants=(mutant("ln'(x) = x", "return typed(1, x) / x", "return x"),),
)
sin = make_op(
    "sin",
    sin_f,
    sin_df,
    tuned=(sin_tuned, sin_df_tuned),
    far=(elementary.SIN_LIMIT, sin_f, sin_df),
    flops=16,
    mutants=(
        mutant("cosine's sign", "return np.cos(x)", "return -np.cos(x)"),
        mutant("far elements forgotten", "y[i] = far_f(x[i], a)", "pass", "tuned"),
        mutant("far elements forgotten backward", "dx[i] = dy[i] * far_df(x[i], y[i], a)", "pass", "tuned"),
    ),
)
relu = make_op(
    "relu",
    relu_f,
    relu_df,
    numpy=(relu_numpy, step_numpy),
    mutants=(
        mutant("gradient passes everywhere", "if x > 0 else typed(0, x)", "if x > -9 else typed(0, x)"),
        mutant(
            "cotangent ignored",
            "dx[i] = dy[i] * df(x[i], y[i], a)\n\n    return",
            "dx[i] = df(x[i], y[i], a)\n\n    return",
        ),
        mutant(
            "cotangent ignored, tuned",
            "dx[i] = dy[i] * df(x[i], y[i], a)\n            beyond",
            "dx[i] = df(x[i], y[i], a)\n            beyond",
            "tuned",
        ),
    ),
)
leaky_relu = make_op(
    "leaky_relu",
    leaky_relu_f,
    leaky_relu_df,
    numpy=(leaky_relu_numpy, step_numpy),
    attribute="negative_slope",
    default=0.01,
    mutants=(
        mutant(
            "slope forgotten backward",
            "if x > 0 else a\n\n\n@inline\ndef sigmoid_f",
            "if x > 0 else a * 0\n\n\n@inline\ndef sigmoid_f",
        ),
        mutant("attribute ignored", "return x.dtype.type(value)", "return x.dtype.type(default)"),
    ),
)
sigmoid = make_op(
    "sigmoid",
    sigmoid_f,
    sigmoid_df,
    tuned=(sigmoid_tuned, sigmoid_df),
    numpy=(sigmoid_numpy, sigmoid_df),
    flops=20,
    mutants=(
        mutant("missing factor 1 - y", "return y * (typed(1, y) - y)", "return y"),
        mutant("branches swapped", "return 1 / (1 + e) if x >= 0", "return 1 / (1 + e) if x < 0"),
    ),
)
tanh = make_op(
    "tanh",
    tanh_f,
    tanh_df,
    tuned=(tanh_tuned, tanh_df),
    flops=20,
    mutants=(
        mutant("square forgotten", "return typed(1, y) - y * y", "return typed(1, y) - y"),
        mutant("tanh of |x|", "return elementary.tanh(x)", "return elementary.tanh(abs(x))", "tuned"),
    ),
)
OPS_HERE = (neg, exp, log, sin, relu, leaky_relu, sigmoid, tanh)
