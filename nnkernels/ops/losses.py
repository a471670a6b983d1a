"""Losses of two arrays of one shape, element by element.

    bce_with_logits  l_i = y_i ln(1 + e^-z_i) + (1 - y_i) ln(1 + e^z_i)     dz_i = g_i (1/(1 + e^-z_i) - y_i)
    mse              l_i = (x_i - y_i)^2, or half of it (``half=True``)     dx_i = 2 g_i (x_i - y_i) = -dy_i

``reduction`` makes of the n losses l_i their "mean" (g = cotangent / n), their "sum" (g = cotangent) or
"none", all of them (g_i = cotangent_i). With logits z and targets y from 0 to 1, bce_with_logits is the
negative log-likelihood of a coin that shows 1 with probability 1/(1 + e^-z); it is computed as
max(z, 0) - z y + ln(1 + e^-|z|), the same function, finite where e^z overflows. y has no gradient there.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine.elementary import exp
from nnkernels.machine.jit import inline, inline_elementwise, jit, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import CHUNK, SERIAL_BELOW
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.reduce.tuned import row_sum
from nnkernels.ops.unary import sigmoid_f, sigmoid_numpy, sigmoid_tuned
from nnkernels.ops.validate import choice, fail_type, floats

Scalar = Callable[..., Any]
Pair = tuple[Array, Array]
REDUCTIONS = ("mean", "sum", "none")


def weight(reduction: str, count: int, half: bool = False) -> float:
    """Return the factor between an l_i and what it adds to the result."""
    return (0.5 if half else 1.0) / (count if reduction == "mean" else 1)


def spread(dy: Array, reduction: str, shape: tuple[int, ...], half: bool = False) -> Array:
    """Return g, one factor for each l_i."""
    scale = weight(reduction, int(np.prod(shape)), half)
    return np.broadcast_to(dy * dy.dtype.type(scale), shape).copy()


def gathered(terms: Array, reduction: str, half: bool = False) -> Array:
    """Return the mean, the sum or all of the l_i."""
    scale = terms.dtype.type(weight(reduction, terms.size, half))
    return np.asarray(scale * (terms if reduction == "none" else terms.sum()))


@jit
def add_up(terms: Array) -> Any:
    total = 0.0  # float64: the yardstick for float32 sums in any order
    for i in range(terms.size):
        total += terms[i]
    return total


@jit_elementwise
def sum_into(terms: Array, scale: Any, y: Array) -> None:
    """Write scale * sum of terms to y[0]; partial sums of one chunk each keep float32 accurate."""
    y[0] = 0
    for c in range((terms.size + CHUNK - 1) // CHUNK):
        y[0] += row_sum(terms[c * CHUNK : (c + 1) * CHUNK])
    y[0] *= scale


# --- bce_with_logits and mse: the loops, once, over l = f(x, y) with dl/dx = df(x, y) ---


def make_loops(f: Scalar, df: Scalar) -> Body:
    """Return the body that takes one element after the other."""

    @jit
    def forward_kernel(x: Array, y: Array, terms: Array) -> None:
        for i in range(x.size):
            terms[i] = f(x[i], y[i])

    @jit
    def backward_kernel(g: Array, x: Array, y: Array, sign: int, dx: Array) -> None:
        for i in range(x.size):
            dx[i] = sign * g[i] * df(x[i], y[i])

    def forward(x: Array, y: Array, reduction: str = "mean", half: bool = False) -> tuple[Array]:
        terms = np.empty(x.shape, x.dtype)
        forward_kernel(x.reshape(-1), y.reshape(-1), terms.reshape(-1))
        if reduction == "none":
            return (gathered(terms, reduction, half),)
        scale = weight(reduction, terms.size, half)
        return (np.asarray(add_up(terms.reshape(-1)) * scale, x.dtype),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: Pair, needs: tuple[bool, bool],
        reduction: str = "mean", half: bool = False,
    ) -> tuple[Array | None, Array | None]:  # fmt: skip
        x, y = inputs
        g = spread(dy, reduction, x.shape, half).reshape(-1)
        grads: list[Array | None] = [None, None]
        for i, sign in enumerate((1, -1)):  # f depends on x - y where y has a gradient
            if needs[i]:
                grad = np.empty(x.shape, x.dtype)
                backward_kernel(g, x.reshape(-1), y.reshape(-1), sign, grad.reshape(-1))
                grads[i] = grad
        return grads[0], grads[1]

    return Body(forward, backward)


def make_vectorized(f: Scalar, df: Scalar) -> Body:
    """Return the body of NumPy expressions."""

    def forward(x: Array, y: Array, reduction: str = "mean", half: bool = False) -> tuple[Array]:
        return (gathered(np.asarray(f(x, y)), reduction, half),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: Pair, needs: tuple[bool, bool],
        reduction: str = "mean", half: bool = False,
    ) -> tuple[Array | None, Array | None]:  # fmt: skip
        dx = np.asarray(spread(dy, reduction, inputs[0].shape, half) * df(*inputs))
        return dx if needs[0] else None, np.asarray(-dx) if needs[1] else None

    return Body(forward, backward)


def make_tuned(f: Scalar, df: Scalar) -> Body:
    """Return the body in chunks of one L1 cache. Each chunk's l_i are added up while they are still there."""

    @inline_elementwise
    def forward_chunk(x: Array, y: Array, terms: Array) -> None:
        for i in range(x.size):
            terms[i] = f(x[i], y[i])

    @inline_elementwise
    def backward_chunk(dy: Array, scale: Any, x: Array, y: Array, dx: Array) -> None:
        # dy holds one number for all elements, or one for each.
        if dy.size == x.size:
            for i in range(x.size):
                dx[i] = scale * dy[i] * df(x[i], y[i])
        else:
            g = scale * dy[0]
            for i in range(x.size):
                dx[i] = g * df(x[i], y[i])

    @jit_parallel
    def forward_parallel(x: Array, y: Array, terms: Array, partial: Array) -> None:
        for c in prange(partial.size):
            i, j = c * CHUNK, (c + 1) * CHUNK
            forward_chunk(x[i:j], y[i:j], terms[i:j])
            partial[c] = row_sum(terms[i:j])

    @jit_parallel
    def backward_parallel(dy: Array, scale: Any, x: Array, y: Array, dx: Array) -> None:
        for c in prange((x.size + CHUNK - 1) // CHUNK):
            i, j = c * CHUNK, (c + 1) * CHUNK
            backward_chunk(dy[i:j] if dy.size > 1 else dy, scale, x[i:j], y[i:j], dx[i:j])

    forward_serial, backward_serial = jit_elementwise(forward_chunk), jit_elementwise(backward_chunk)

    def forward(x: Array, y: Array, reduction: str = "mean", half: bool = False) -> tuple[Array]:
        terms = partial = empty(x.shape, x.dtype)
        flat = x.reshape(-1), y.reshape(-1), terms.reshape(-1)
        if x.size < SERIAL_BELOW:
            forward_serial(*flat)
        else:
            partial = empty((-(-x.size // CHUNK),), x.dtype)
            forward_parallel(*flat, partial)
        if reduction == "none":
            return (gathered(terms, reduction, half) if half else terms,)
        loss = empty((1,), x.dtype)
        sum_into(partial.reshape(-1), x.dtype.type(weight(reduction, x.size, half)), loss)
        return (loss.reshape(()),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: Pair, needs: tuple[bool, bool],
        reduction: str = "mean", half: bool = False,
    ) -> tuple[Array | None, Array | None]:  # fmt: skip
        x, y = inputs
        scale = weight(reduction, x.size, half)
        kernel = backward_serial if x.size < SERIAL_BELOW else backward_parallel
        grads: list[Array | None] = [None, None]
        for i, sign in enumerate((1, -1)):
            if needs[i]:
                grad = empty(x.shape, x.dtype)
                signed = x.dtype.type(sign * scale)
                kernel(dy.reshape(-1), signed, x.reshape(-1), y.reshape(-1), grad.reshape(-1))
                grads[i] = grad
        return grads[0], grads[1]

    return Body(forward, backward)


@inline
def bce_f(z: Any, y: Any) -> Any:
    return max(z, z * 0) - z * y + np.log1p(np.exp(-abs(z)))


@inline
def bce_df(z: Any, y: Any) -> Any:
    return sigmoid_f(z, 0) - y


@inline
def log1p_up_to_1(u: Any) -> Any:
    """Return ln(1 + u) for 0 <= u <= 1 without a branch, so that loops over it vectorise.

    ln(1 + u) = 2 artanh(s) = 2 (s + s^3/3 + s^5/5 + ...) with s = u / (2 + u) <= 1/3: sixteen terms leave
    less than a rounding error of float64.
    """
    s = u / (u + 2.0)
    q = s * s
    p = ((((((q / 31 + 1 / 29) * q + 1 / 27) * q + 1 / 25) * q + 1 / 23) * q + 1 / 21) * q + 1 / 19) * q
    p = (
        ((((((p + 1 / 17) * q + 1 / 15) * q + 1 / 13) * q + 1 / 11) * q + 1 / 9) * q + 1 / 7) * q + 1 / 5
    ) * q
    return 2 * s * ((p + 1 / 3) * q + 1)


@inline
def bce_tuned(z: Any, y: Any) -> Any:
    return (z if z > 0 else z * 0) - z * y + log1p_up_to_1(exp(-abs(z)))


@inline
def bce_df_tuned(z: Any, y: Any) -> Any:
    return sigmoid_tuned(z, 0) - y


def bce_numpy(z: Array, y: Array) -> Array:
    loss: Array = np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    return loss


def bce_df_numpy(z: Array, y: Array) -> Array:
    return np.asarray(sigmoid_numpy(z, 0) - y)


@inline
def mse_f(x: Any, y: Any) -> Any:
    return (x - y) * (x - y)


@inline
def mse_df(x: Any, y: Any) -> Any:
    return (x - y) + (x - y)  # an integer 2 would make float32 wider


# --- records ---


def check(op: str, names: tuple[str, str], x: Array, y: Array, reduction: Any, half: Any = False) -> None:
    floats(op, **{names[0]: x, names[1]: y})
    if x.shape != y.shape:
        raise ValueError(f"{op}: {names[0]} and {names[1]} must have one shape, got {x.shape} and {y.shape}")
    choice(op, "reduction", reduction, REDUCTIONS)
    if not isinstance(half, (bool, np.bool_)):
        fail_type(op, "half", half, "a bool")
    if x.size == 0 and reduction == "mean":
        raise ValueError(
            f"{op}: the mean over an empty batch is undefined, got {names[0]} of shape {x.shape}"
        )


def check_bce(z: Array, y: Array, reduction: Any = "mean") -> None:
    check("bce_with_logits", ("z", "y"), z, y, reduction)
    if not (y.min(initial=0) >= 0 and y.max(initial=1) <= 1):  # a NaN fails every comparison
        flat = y.reshape(-1)
        i = int(np.argmin((flat >= 0) & (flat <= 1)))
        raise ValueError(f"bce_with_logits: y must be from 0 to 1, got {flat[i]} at flat position {i}")


def check_mse(x: Array, y: Array, reduction: Any = "mean", half: Any = False) -> None:
    check("mse", ("x", "y"), x, y, reduction, half)


def make_op(
    name: str, f: tuple[Scalar, ...], df: tuple[Scalar, ...], checker: Callable[..., None], *,
    flops: int, mutants: tuple[tuple[str, str, str, Any], ...],
) -> Op:  # fmt: skip
    """Return the record; f and df come as (loops, vectorized, tuned)."""
    bce = name == "bce_with_logits"

    def pair(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Pair:
        y = rng.uniform(0, 1, shape) if bce else rng.uniform(-2, 2, shape)
        return np.asarray(rng.uniform(-3, 3, shape), dtype), np.asarray(y, dtype)

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        for shape in ((), (1,), (7,), (64, 1), (2, 3, 4, 5)):
            for reduction in REDUCTIONS:
                yield Sample(f"{shape}, {reduction}", pair(rng, shape, dtype), {"reduction": reduction})
        for reduction in ("sum", "none"):
            yield Sample(f"empty, {reduction}", pair(rng, (0, 3), dtype), {"reduction": reduction})
        if not bce:
            for reduction in REDUCTIONS:
                attributes = {"reduction": reduction, "half": True}
                yield Sample(f"half, {reduction}", pair(rng, (3, 5), dtype), attributes)

    def bad_inputs() -> Iterator[BadInput]:
        x, y = np.ones((2, 3)), np.ones((2, 3))
        yield BadInput(ValueError, "must have one shape, got (2, 3) and (3,)", (x, y[0]))
        yield BadInput(TypeError, "y must be float32 or float64, got int64", (x, np.ones((2, 3), int)))
        yield BadInput(TypeError, "y must be float32 or float64, got bool", (x, np.ones((2, 3), bool)))
        yield BadInput(TypeError, "y must have one dtype", (x, y.astype(np.float32)))
        yield BadInput(ValueError, "empty batch", (x[:0], y[:0]))
        yield BadInput(ValueError, "reduction must be one of mean, sum, none", (x, y), {"reduction": None})
        if bce:
            yield BadInput(ValueError, "from 0 to 1, got 1.5 at flat position 4", (x, np.where(SPOT, 1.5, y)))
            yield BadInput(ValueError, "got -1.0 at flat position 4", (x, np.where(SPOT, -1.0, y)))
            yield BadInput(ValueError, "got nan at flat position 4", (x, np.where(SPOT, np.nan, y)))
        else:
            yield BadInput(TypeError, "half must be a bool, got float 0.5", (x, y), {"half": 0.5})

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        x, y = pair(rng, (411, 101), dtype)
        yield Sample("411x101", (x * x.dtype.type(3333 if bce else 1), y))  # bce: e^z alone overflows
        yield Sample("411x101, none", (x, y), {"reduction": "none"})
        yield Sample("64x1", pair(rng, (64, 1), dtype))
        yield Sample("64x300", pair(rng, (64, 300), dtype))
        yield Sample("4 Mi", pair(rng, (1 << 22,), dtype))

    def jvp(
        tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: Pair,
        reduction: str = "mean", half: bool = False,
    ) -> Array:  # fmt: skip
        v = sum(sign * t for sign, t in zip((1, -1), tangents) if t is not None)
        return gathered(np.asarray(df[1](*inputs) * v), reduction, half)

    return Op(
        name=name,
        loops=make_loops(f[0], df[0]),
        vectorized=make_vectorized(f[1], df[1]),
        tuned=make_tuned(f[2], df[2]),
        check=checker,
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=lambda x, y, **_: flops * int(x.size),
        jvp=jvp,
        constants=frozenset({1}) if bce else frozenset(),
        mutants=tuple(Mutant(title, body, "losses.py", old, new) for title, old, new, body in mutants),
        tolerance=512.0,  # one long sum in order against many short ones
    )


SPOT = np.array([[False, False, False], [False, True, False]])  # where bad inputs are bad

bce_with_logits = make_op(
    "bce_with_logits", (bce_f, bce_numpy, bce_tuned), (bce_df, bce_df_numpy, bce_df_tuned), check_bce,
    flops=50,
    mutants=(
        ("overflowing form", "np.log1p(np.exp(-abs(z)))\n\n\n@inline\ndef bce_df(",
         "np.log1p(np.exp(abs(z)))\n\n\n@inline\ndef bce_df(", "loops"),
        ("target added", "return sigmoid_f(z, 0) - y", "return sigmoid_f(z, 0) + y", "loops"),
        ("series cut short", "((p + 1 / 3) * q + 1)", "(p * q + 1)", "tuned"),
        ("partial sums of the first chunk", "partial[c] = row_sum(terms[i:j])",
         "partial[c] = row_sum(terms[:j])", "tuned"),
        ("every chunk with the first targets", "scale, x[i:j], y[i:j], dx[i:j])",
         "scale, x[i:j], y[:CHUNK], dx[i:j])", "tuned"),
    ),
)  # fmt: skip
mse = make_op(
    "mse", (mse_f, mse_f, mse_f), (mse_df, mse_df, mse_df), check_mse, flops=3,
    mutants=(
        ("factor 2 forgotten", "return (x - y) + (x - y)", "return x - y", "loops"),
        ("half ignored backward", "g = spread(dy, reduction, x.shape, half).reshape(-1)",
         "g = spread(dy, reduction, x.shape).reshape(-1)", "loops"),
        ("sign of dy", "signed = x.dtype.type(sign * scale)", "signed = x.dtype.type(scale)", "tuned"),
        ("half ignored without reduction", "(gathered(terms, reduction, half) if half else terms,)",
         "(terms,)", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (bce_with_logits, mse)
