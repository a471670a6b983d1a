"""Functions of two arrays, element by element with broadcasting: y_i = f(x1_i, x2_i).

    add  x1 + x2    sub  x1 - x2    mul  x1 x2    div  x1 / x2    pow  x1^x2    maximum  max(x1, x2)

Shapes broadcast as NumPy's do. An input that was stretched along an axis gets, as its gradient, the sum over
that axis: dx1_j = sum of dy_i df1(x1_i, x2_i, y_i) over all i that read x1_j. The loops stand here once; the
members differ in f and its two partial derivatives.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine import elementary
from nnkernels.machine.jit import inline, inline_always, jit, typed
from nnkernels.machine.memory import Array
from nnkernels.machine.threads import SERIAL_BELOW, SERIAL_BELOW_IF_CHEAP
from nnkernels.ops.binary_cuda import make_cuda
from nnkernels.ops.binary_tuned import Scalar, make_tuned
from nnkernels.ops.folding import fold, source_index, strides_in
from nnkernels.ops.gradients import Gradient, linear, multilinear, piecewise_linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.unary import log
from nnkernels.ops.validate import floats

# --- loops ---


def make_loops(f: Scalar, df1: Scalar, df2: Scalar) -> Body:
    """Return the body that walks over the result and looks up both sources."""

    @jit
    def forward_kernel(x1: Array, x2: Array, shape: Array, steps1: Array, steps2: Array, y: Array) -> None:
        for i in range(y.size):
            y[i] = f(x1[source_index(i, shape, steps1)], x2[source_index(i, shape, steps2)])

    @jit
    def backward_kernel(
        dy: Array, x1: Array, x2: Array, y: Array, shape: Array, steps1: Array, steps2: Array,
        needs: tuple[bool, bool], dx1: Array, dx2: Array,
    ) -> None:  # fmt: skip
        for i in range(y.size):
            j1 = source_index(i, shape, steps1)
            j2 = source_index(i, shape, steps2)
            if needs[0]:
                dx1[j1] += dy[i] * df1(x1[j1], x2[j2], y[i])
            if needs[1]:
                dx2[j2] += dy[i] * df2(x1[j1], x2[j2], y[i])

    def forward(x1: Array, x2: Array) -> tuple[Array]:
        shape = np.broadcast_shapes(x1.shape, x2.shape)
        y = np.empty(shape, x1.dtype)
        sizes, steps1, steps2 = (
            np.array(shape, np.int64),
            strides_in(shape, x1.shape),
            strides_in(shape, x2.shape),
        )
        forward_kernel(x1.reshape(-1), x2.reshape(-1), sizes, steps1, steps2, y.reshape(-1))
        return (y,)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None]:
        (x1, x2), (y,) = inputs, outputs
        dx1, dx2 = np.zeros(x1.shape, x1.dtype), np.zeros(x2.shape, x2.dtype)
        sizes, steps1, steps2 = (
            np.array(y.shape, np.int64),
            strides_in(y.shape, x1.shape),
            strides_in(y.shape, x2.shape),
        )
        backward_kernel(
            dy.reshape(-1), x1.reshape(-1), x2.reshape(-1), y.reshape(-1), sizes, steps1, steps2,
            (bool(needs[0]), bool(needs[1])), dx1.reshape(-1), dx2.reshape(-1),
        )  # fmt: skip
        return (dx1 if needs[0] else None, dx2 if needs[1] else None)

    return Body(forward, backward)


# --- vectorized ---


def reduced(g: Array, shape: tuple[int, ...]) -> Array:
    """Return g summed over the axes along which ``shape`` was stretched."""
    if g.shape == shape:
        return g
    leading = g.ndim - len(shape)
    stretched = tuple(i for i in range(g.ndim) if i < leading or shape[i - leading] != g.shape[i])
    total: Array = g.sum(axis=stretched).reshape(shape)
    return total


def make_vectorized(f: Scalar, df1: Scalar, df2: Scalar) -> Body:
    """Return the body of NumPy expressions."""

    def forward(x1: Array, x2: Array) -> tuple[Array]:
        with np.errstate(all="ignore"):
            return (np.asarray(f(x1, x2)),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
    ) -> tuple[Array | None, Array | None]:
        (x1, x2), (y,) = inputs, outputs
        with np.errstate(all="ignore"):
            dx1 = reduced(np.asarray(dy * df1(x1, x2, y)), x1.shape) if needs[0] else None
            dx2 = reduced(np.asarray(dy * df2(x1, x2, y)), x2.shape) if needs[1] else None
        return dx1, dx2

    return Body(forward, backward)


# --- formulas: f(x1, x2), df1 and df2 of (x1, x2, y) ---


@inline
def add_f(x1: Any, x2: Any) -> Any:
    return x1 + x2


@inline
def add_df(x1: Any, x2: Any, y: Any) -> Any:
    return typed(1, y)


@inline
def sub_f(x1: Any, x2: Any) -> Any:
    return x1 - x2


@inline
def sub_df2(x1: Any, x2: Any, y: Any) -> Any:
    return typed(-1, y)


@inline
def mul_f(x1: Any, x2: Any) -> Any:
    return x1 * x2


@inline
def mul_df1(x1: Any, x2: Any, y: Any) -> Any:
    return x2


@inline
def mul_df2(x1: Any, x2: Any, y: Any) -> Any:
    return x1


@inline
def div_f(x1: Any, x2: Any) -> Any:
    return x1 / x2


@inline
def div_df1(x1: Any, x2: Any, y: Any) -> Any:
    return typed(1, x2) / x2


@inline
def div_df2(x1: Any, x2: Any, y: Any) -> Any:
    return -y / x2


@inline
def pow_f(x1: Any, x2: Any) -> Any:
    return x1**x2


@inline
def pow_df1(x1: Any, x2: Any, y: Any) -> Any:
    return x2 * x1 ** (x2 - typed(1, x2)) if x2 != 0 else x2  # x^0 is constant, also at x = 0


@inline
def pow_df2(x1: Any, x2: Any, y: Any) -> Any:
    return y * np.log(x1) if x1 != 0 or x2 < 0 else x1  # 0^b is constant for b >= 0


@inline_always
def pow_tuned(x1: Any, x2: Any) -> Any:
    return elementary.power(x1, x2)


def with_squares(general: Body, product: Body) -> Body:
    """Return pow's body with x1^2, by far the commonest power, as the product it is."""
    assert general.backward is not None
    pull_back = general.backward

    def squares(x1: Array, x2: Array) -> bool:
        return x2.size == 1 and x2.ndim <= x1.ndim and x2.item() == 2

    def forward(x1: Array, x2: Array) -> tuple[Array, ...]:
        return product.forward(x1, x1) if squares(x1, x2) else general.forward(x1, x2)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array], needs: tuple[bool, bool]
    ) -> tuple[Array | None, ...]:
        x1, x2 = inputs
        if not squares(x1, x2):
            return pull_back(dy, outputs, inputs, needs)
        dx1 = product.forward(product.forward(x1, x2)[0], dy)[0] if needs[0] else None
        return dx1, pull_back(dy, outputs, inputs, (False, needs[1]))[1]

    return Body(forward, backward)


@inline_always
def pow_df1_tuned(x1: Any, x2: Any, y: Any) -> Any:
    slope = x2 * elementary.power(x1, x2 - typed(1, x2))
    return slope if x2 != 0 else x2


@inline_always
def pow_df2_tuned(x1: Any, x2: Any, y: Any) -> Any:
    slope = y * elementary.log(x1)
    return slope if (x1 != 0) | (x2 < 0) else x1


@inline
def pow_cuda(x1: Any, x2: Any) -> Any:
    # The two powers that squares need: a number as exponent is the same for all threads, so no warp splits.
    y = x1 * x1 if x2 == typed(2, x2) else x1
    return y if x2 == typed(1, x2) or x2 == typed(2, x2) else x1**x2


@inline
def pow_df1_cuda(x1: Any, x2: Any, y: Any) -> Any:
    return x2 * pow_cuda(x1, x2 - typed(1, x2)) if x2 != typed(0, x2) else x2


@inline
def maximum_f(x1: Any, x2: Any) -> Any:
    return x1 if x1 >= x2 or x1 != x1 else x2  # NaN wins, on either side


@inline
def maximum_df1(x1: Any, x2: Any, y: Any) -> Any:
    return typed(1, y) if x1 > x2 else (typed(0.5, y) if x1 == x2 else typed(0, y))  # a tie is shared


@inline
def maximum_df2(x1: Any, x2: Any, y: Any) -> Any:
    return typed(1, y) if x1 < x2 else (typed(0.5, y) if x1 == x2 else typed(0, y))


def maximum_df1_numpy(x1: Array, x2: Array, y: Array) -> Array:
    slope: Array = (x1 > x2) + 0.5 * (x1 == x2)
    return slope.astype(y.dtype)


def maximum_df2_numpy(x1: Array, x2: Array, y: Array) -> Array:
    slope: Array = (x1 < x2) + 0.5 * (x1 == x2)
    return slope.astype(y.dtype)


def pow_df1_numpy(x1: Array, x2: Array, y: Array) -> Array:
    return np.where(x2 != 0, x2 * x1 ** (x2 - 1), x2)


def pow_df2_numpy(x1: Array, x2: Array, y: Array) -> Array:
    return np.where((x1 != 0) | (x2 < 0), y * np.log(x1), x1)


# --- gradients in ops ---


def summed_to(g: Any, x: Any) -> Any:
    """Return the gradient of a stretched operand: g summed over the axes along which x was stretched."""
    added = g.ndim - x.ndim
    stretched = [added + i for i, n in enumerate(x.shape) if n == 1 and g.shape[added + i] != 1]
    axes = (*range(added), *stretched)
    return g.sum(axes, keepdim=True).reshape(x.shape) if axes else g


def by_partials(df1: Scalar, df2: Scalar) -> Gradient:
    """Return the gradient dy df(x1, x2) for each operand."""

    def gradient(
        op: Op, dy: Any, outputs: tuple[Array], inputs: tuple[Any, Any], needs: tuple[bool, bool]
    ) -> tuple[Any, ...]:
        parts = zip(inputs, needs, (df1, df2))
        return tuple(summed_to(dy * df(*inputs), x) if need else None for x, need, df in parts)

    return gradient


def pow_partial1(x1: Any, x2: Any) -> Any:
    return x2 * x1 ** (x2 - (np.asarray(x2) != 0).astype(x2.dtype))  # x^0 is constant, also at x = 0


def pow_partial2(x1: Any, x2: Any) -> Any:
    base = x1 + (np.asarray(x1) == 0).astype(x1.dtype)
    return x1**x2 * log(base if hasattr(base, "apply_op") else np.asarray(base))  # 0^b is constant, too


# --- records ---


def check(op: str, x1: Array, x2: Array) -> None:
    floats(op, x1=x1, x2=x2)
    if x1.shape == x2.shape:
        return
    try:
        fold(x1.shape, x2.shape)
    except ValueError:
        raise ValueError(f"{op}: shapes of x1 and x2 do not broadcast: {x1.shape} and {x2.shape}") from None


def make_op(
    name: str,
    f: Scalar,
    df1: Scalar,
    df2: Scalar,
    *,
    numpy: tuple[Scalar, Scalar, Scalar] | None = None,
    tuned: tuple[Scalar, Scalar, Scalar] | None = None,
    cuda: tuple[Scalar, Scalar, Scalar] | None = None,
    passed_on: tuple[bool, bool] = (False, False),
    special: Callable[[Body], Body] | None = None,
    positive: bool = False,
    flops: int = 1,
    gradient: Gradient,
    mutants: tuple[Mutant, ...] = (),
) -> Op:
    """Return the record; sample values keep away from 0 and from ties."""

    def pair(rng: np.random.Generator, s1: tuple[int, ...], s2: tuple[int, ...], dtype: Any) -> Sample:
        signs = [rng.choice([1] if positive else [-1, 1], s) for s in (s1, s2)]
        x1 = np.asarray(rng.uniform(0.3, 1.4, s1) * signs[0], dtype)
        x2 = np.asarray(rng.uniform(1.5, 2.5, s2) * signs[1], dtype)
        return Sample(f"{s1} with {s2}", (x1, x2))

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        shapes: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
            ((), ()), ((5,), (5,)), ((3, 4), ()), ((), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 3)),
            ((2, 3, 4), (3, 1)), ((1, 3, 1, 2), (2, 1, 4, 1)), ((0, 3), (1, 3)), ((2, 1, 1), (2, 1, 1)),
        )  # fmt: skip
        for s1, s2 in shapes:
            yield pair(rng, s1, s2, dtype)
        if special:
            x = pair(rng, (3, 4), (3, 4), dtype).arrays[0]
            yield Sample("squares", (x, np.full((), 2, dtype)))
            yield Sample("squares, twos stretched", (x, np.full((1, 1, 1), 2, dtype)))

    def bad_inputs() -> Iterator[BadInput]:
        x = np.ones((2, 3))
        yield BadInput(ValueError, "do not broadcast: (2, 3) and (4,)", (x, np.ones(4)))
        yield BadInput(TypeError, "x2 must be float32 or float64, got int64", (x, np.arange(3)))
        yield BadInput(TypeError, "one dtype, got float64 and float32", (x, np.ones(3, np.float32)))

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        yield pair(rng, (64, 32, 28, 28), (64, 32, 28, 28), dtype)
        yield pair(rng, (64, 6, 28, 28), (6, 1, 1), dtype)

    def jvp(tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: tuple[Array, Array]) -> Array:
        (x1, x2), (y,) = inputs, outputs
        n1, n2 = numpy[1:] if numpy else (df1, df2)
        dy = np.zeros_like(y)
        if tangents[0] is not None:
            dy += n1(x1, x2, y) * tangents[0]
        if tangents[1] is not None:
            dy += n2(x1, x2, y) * tangents[1]
        return dy

    serial_below = SERIAL_BELOW if flops > 1 else SERIAL_BELOW_IF_CHEAP
    body = make_tuned(*(tuned or (f, df1, df2)), serial_below, passed_on)
    return Op(
        name=name,
        loops=make_loops(f, df1, df2),
        vectorized=make_vectorized(*(numpy or (f, df1, df2))),
        tuned=special(body) if special else body,
        cuda=make_cuda(*(cuda or (f, df1, df2)), passed_on),
        check=lambda x1, x2: check(name, x1, x2),
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=lambda x1, x2: flops * int(np.prod(np.broadcast_shapes(x1.shape, x2.shape))),
        jvp=jvp,
        gradient=gradient,
        mutants=mutants,
    )


def mutant(name: str, old: str, new: str, body: Any = "loops", file: str = "") -> Mutant:
    """Return a fault planted in the body's file."""
    return Mutant(name, body, file or ("binary_tuned.py" if body == "tuned" else "binary.py"), old, new)


add = make_op(
    "add", add_f, add_df, add_df, passed_on=(True, True), gradient=linear,
    mutants=(
        mutant("missing +=", "dx2[j2] += dy", "dx2[j2] = dy"),
        mutant("stretched axis steps", "step if x_shape[axis] > 1 else 0", "step", file="folding.py"),
        mutant("axes merged too eagerly", "and b == s2[-1] * sizes[-1]", "", "tuned", "folding.py"),
        mutant("sum over the leading axes alone", "i < leading or shape[i - leading] != g.shape[i]",
               "i < leading", "tuned"),
    ),
)  # fmt: skip
sub = make_op(
    "sub", sub_f, add_df, sub_df2, passed_on=(True, False), gradient=linear,
    mutants=(
        mutant("sign lost", "return typed(-1, y)\n", "return typed(1, y)\n"),
        mutant("scalar on the wrong side", "f(x1[a + e], right)", "f(right, x1[a + e])", "tuned"),
        mutant("both gradients passed on", "dy if passed_on[1] else", "dy if passed_on[0] else", "tuned"),
        mutant("operands swapped", "return x1 - x2\n", "return x2 - x1\n"),
    ),
)  # fmt: skip
mul = make_op(
    "mul", mul_f, mul_df1, mul_df2, gradient=multilinear(0, 1),
    mutants=(
        mutant("factors swapped", "_df1(x1: Any, x2: Any, y: Any) -> Any:\n    return x2\n",
               "_df1(x1: Any, x2: Any, y: Any) -> Any:\n    return x1\n"),
        mutant("same row of the plane again", "i += int(end)\n                k, j = k + 1, 0",
               "i += int(end)\n                k, j = k, 0", "tuned"),
        mutant("row's scalar twice", "df1(left, x2[b + e], y[o + e])", "df1(left, left, y[o + e])", "tuned"),
        mutant("end of a part", "min((c + 1) * share, y.size), y)", "min((c + 1) * share, y.size - 1), y)",
               "tuned"),
    ),
)  # fmt: skip
div = make_op(
    "div", div_f, div_df1, div_df2,
    gradient=by_partials(lambda x1, x2: 1 / x2, lambda x1, x2: -x1 / (x2 * x2)),
    mutants=(
        mutant("square lost", "return -y / x2", "return -y"),
        mutant("slope of a product", "return typed(1, x2) / x2", "return x2"),
        mutant("first row's cotangent for all", "dy[o + e] * df2(x1[a + e], right, y[o + e])",
               "dy[e] * df2(x1[a + e], right, y[o + e])", "tuned"),
        mutant("same row again, backward", "if j == inner:\n                    k, j = k + 1, 0",
               "if j == inner:\n                    k, j = k, 0", "tuned"),
    ),
)  # fmt: skip
pow = make_op(  # noqa: A001 (NumPy's and PyTorch's name)
    "pow", pow_f, pow_df1, pow_df2, numpy=(pow_f, pow_df1_numpy, pow_df2_numpy),
    tuned=(pow_tuned, pow_df1_tuned, pow_df2_tuned), cuda=(pow_cuda, pow_df1_cuda, pow_df2),
    special=lambda body: with_squares(body, mul.tuned), positive=True, flops=32,
    gradient=by_partials(pow_partial1, pow_partial2),
    mutants=(
        mutant("exponent not lowered", "x2 * x1 ** (x2 - typed(1, x2)) if", "x2 * x1 ** x2 if"),
        mutant("logarithm forgotten", "return y * np.log(x1) if", "return y if"),
        mutant("any number a square", "and x2.item() == 2", "", "tuned", "binary.py"),
        mutant("factor 2 forgotten", "product.forward(product.forward(x1, x2)[0], dy)",
               "product.forward(x1, dy)", "tuned", "binary.py"),
        mutant("logarithm of the exponent", "y * elementary.log(x1)", "y * elementary.log(x2)", "tuned",
               "binary.py"),
    ),
)  # fmt: skip
maximum = make_op(
    "maximum", maximum_f, maximum_df1, maximum_df2, gradient=piecewise_linear,
    numpy=(np.maximum, maximum_df1_numpy, maximum_df2_numpy),
    mutants=(
        mutant("to the smaller", "return typed(1, y) if x1 > x2", "return typed(1, y) if x1 < x2"),
        mutant("missing +=, first input", "dx1[j1] += dy", "dx1[j1] = dy"),
        mutant("scalar of the row forgotten", "f(left, x2[b + e])", "f(x2[b + e], x2[b + e])", "tuned"),
        mutant("the smaller", "return x1 if x1 >= x2", "return x1 if x1 <= x2"),
    ),
)  # fmt: skip
OPS_HERE = (add, sub, mul, div, pow, maximum)
