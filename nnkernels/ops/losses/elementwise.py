"""The loops of all losses l_i = f(x_i, y_i), once; ``reduction.py`` says what becomes of the l_i.

What differs between losses is a ``Formula`` of three functions of one element:

    f(x, y, a, b, u, w)      the loss          slope   df/dx          other   df/dy or df/du

x and y are the prediction and the target, a and b an op's numbers (0 where it has none), u and w elements of
up to two further arrays of the same shape (x again where there are none). f of most losses needs only the
first few of these. Where f depends on x - y alone, df/dy = -df/dx.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

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
from nnkernels.machine.threads import SERIAL_BELOW, share_of
from nnkernels.ops.losses.reduction import add_up, factor, gathered, spread
from nnkernels.ops.op import Body
from nnkernels.ops.reduce.tuned import row_sum

Scalar = Callable[..., Any]
Arrays = tuple[Array, ...]
Grads = tuple[Array | None, ...]

BLOCK = 2048  # l_i that are added up before the next are computed
SUM, TERMS, SLOPE, OTHER = range(4)  # what a kernel is to write: the sum of the l_i, the l_i, derivatives


class Formula(NamedTuple):
    """A loss of one element and its derivatives; all take (x, y, a, b, u, w)."""

    f: Scalar
    slope: Scalar
    other: Scalar


class Given(NamedTuple):
    """What one call gives to a formula besides x and y; ``variant`` says which of the op's formulas."""

    variant: int = 0
    a: float = 0.0
    b: float = 0.0
    u: Array | None = None
    w: Array | None = None


class Family(NamedTuple):
    """An op's formulas and how to call them.

    ``given(*arrays, **attributes)`` makes of a call's arguments, without its reduction, what the formula
    gets. ``derivatives`` holds for each input that has a gradient which derivative it is, and its sign;
    inputs beyond these, of ``inputs`` in all, are constants.
    """

    given: Callable[..., Given]
    derivatives: tuple[tuple[int, int], ...]
    inputs: int = 2


PLAIN = Given()
BY_X = ((SLOPE, 1),)
BY_DIFFERENCE = ((SLOPE, 1), (SLOPE, -1))


@inline
def no_other(x: Any, *_: Any) -> Any:
    return typed(0, x)


def make_body(family: Family, forward: Scalar, derivative: Scalar) -> Body:
    """Return the body that asks ``derivative`` for each gradient that is needed."""

    def backward(
        dy: Array, outputs: Arrays, inputs: Arrays, needs: tuple[bool, ...],
        reduction: str = "mean", **attributes: Any,
    ) -> Grads:  # fmt: skip
        given = family.given(*inputs, **attributes)
        grads: list[Array | None] = [None] * len(inputs)
        for i, (which, sign) in enumerate(family.derivatives):
            if needs[i]:
                grads[i] = derivative(dy, which, sign, inputs[0], inputs[1], given, reduction)
        return tuple(grads)

    def forward_given(*arrays: Array, reduction: str = "mean", **attributes: Any) -> tuple[Array]:
        given = family.given(*arrays, **attributes)
        return (forward(arrays[0], arrays[1], given, reduction),)

    return Body(forward_given, backward)


# --- loops ---


def make_loops(family: Family, formulas: tuple[Formula, ...]) -> Body:
    """Return the body that takes one element after the other."""
    kernels = [make_kernels(formula) for formula in formulas]

    def forward(x: Array, y: Array, given: Given, reduction: str) -> Array:
        terms = np.empty(x.shape, x.dtype)
        kernels[given.variant][TERMS](*flattened(x, y, given), terms.reshape(-1))
        if reduction == "none":
            return terms
        return np.asarray(add_up(terms.reshape(-1)) * factor(reduction, terms), x.dtype)

    def derivative(
        dy: Array, which: int, sign: int, x: Array, y: Array, given: Given, reduction: str
    ) -> Array:
        g, grad = spread(dy, reduction, x).reshape(-1), np.empty(x.shape, x.dtype)
        kernels[given.variant][which](g, sign, *flattened(x, y, given), grad.reshape(-1))
        return grad

    return make_body(family, forward, derivative)


def make_kernels(formula: Formula) -> dict[int, Scalar]:
    """Return the kernels that write the l_i and each derivative."""
    f, slope, other = formula

    @jit
    def terms_kernel(x: Array, y: Array, a: Any, b: Any, u: Array, w: Array, terms: Array) -> None:
        for i in range(x.size):
            terms[i] = f(x[i], y[i], a, b, u[i], w[i])

    @jit
    def slope_kernel(
        g: Array, sign: int, x: Array, y: Array, a: Any, b: Any, u: Array, w: Array, dx: Array
    ) -> None:
        for i in range(x.size):
            dx[i] = sign * g[i] * slope(x[i], y[i], a, b, u[i], w[i])

    @jit
    def other_kernel(
        g: Array, sign: int, x: Array, y: Array, a: Any, b: Any, u: Array, w: Array, grad: Array
    ) -> None:
        for i in range(x.size):
            grad[i] = sign * g[i] * other(x[i], y[i], a, b, u[i], w[i])

    return {TERMS: terms_kernel, SLOPE: slope_kernel, OTHER: other_kernel}


def flattened(x: Array, y: Array, given: Given) -> tuple[Any, ...]:
    """Return x, y, a, b, u, w for the kernels: one axis, numbers of x's type."""
    number, flat = x.dtype.type, x.ravel()
    u = flat if given.u is None else given.u.ravel()
    return flat, y.ravel(), number(given.a), number(given.b), u, flat if given.w is None else given.w.ravel()


# --- vectorized ---


def make_vectorized(family: Family, formulas: tuple[Formula, ...]) -> Body:
    """Return the body of NumPy expressions."""

    def forward(x: Array, y: Array, given: Given, reduction: str) -> Array:
        return gathered(values(formulas, TERMS, x, y, given), reduction)

    def derivative(
        dy: Array, which: int, sign: int, x: Array, y: Array, given: Given, reduction: str
    ) -> Array:
        return np.asarray(spread(dy, reduction, x) * values(formulas, which, x, y, given) * sign)

    return make_body(family, forward, derivative)


def values(formulas: tuple[Formula, ...], which: int, x: Array, y: Array, given: Given) -> Array:
    """Return the l_i or a derivative, by NumPy."""
    function = formulas[given.variant][which - TERMS]
    number = x.dtype.type
    with np.errstate(all="ignore"):
        return np.asarray(function(x, y, number(given.a), number(given.b), given.u, given.w))


def make_jvp(family: Family, formulas: tuple[Formula, ...]) -> Callable[..., Array]:
    """Return the derivative along the tangents, by NumPy."""

    def jvp(
        tangents: Grads, outputs: Arrays, inputs: Arrays, reduction: str = "mean", **attributes: Any
    ) -> Array:
        given, moved = family.given(*inputs, **attributes), np.zeros_like(inputs[0])
        for (which, sign), tangent in zip(family.derivatives, tangents):
            if tangent is not None:
                moved += sign * tangent * values(formulas, which, inputs[0], inputs[1], given)
        return gathered(moved, reduction)

    return jvp


# --- tuned ---


def make_tuned(family: Family, formulas: tuple[Formula, ...]) -> Body:
    """Return the body. Bound: memory traffic; l_i that are only summed never leave the L1 cache."""
    kernels = [make_tuned_kernels(formula) for formula in formulas]

    def run(which: int, dy: Array, scale: Any, x: Array, y: Array, given: Given, out: Array) -> None:
        """Write to ``out`` scale times the sum of the l_i, the l_i, or scale dy times a derivative."""
        serial, parallel = kernels[given.variant]
        arguments = which, dy, scale, *flattened(x, y, given)
        if x.size < SERIAL_BELOW:
            serial(*arguments, out)
            return
        share = share_of(x.size)
        if which == SUM:
            parallel(*arguments, share, empty((-(-x.size // share),), x.dtype), out)
        else:
            parallel(*arguments, share, out, out)

    def forward(x: Array, y: Array, given: Given, reduction: str) -> Array:
        one = ONE[x.itemsize]
        if reduction == "none":
            terms = empty(x.shape, x.dtype)
            run(TERMS, one, one[0], x, y, given, terms.ravel())
            return terms
        loss = empty((), x.dtype)
        run(SUM, one, x.dtype.type(factor(reduction, x)), x, y, given, loss.ravel())
        return loss

    def derivative(
        dy: Array, which: int, sign: int, x: Array, y: Array, given: Given, reduction: str
    ) -> Array:
        grad = empty(x.shape, x.dtype)
        run(which, dy.ravel(), x.dtype.type(sign * factor(reduction, x)), x, y, given, grad.ravel())
        return grad

    return make_body(family, forward, derivative)


ONE: dict[int, Array] = {4: np.ones(1, np.float32), 8: np.ones(1, np.float64)}


def make_chunk(formula: Formula) -> Scalar:
    """Return the function that does a part of the elements, whatever is to be written."""
    f, slope, other = formula

    @inline_elementwise
    def write(which: int, x: Array, y: Array, a: Any, b: Any, u: Array, w: Array, out: Array) -> None:
        if which == SLOPE:
            for i in range(out.size):
                out[i] = slope(x[i], y[i], a, b, u[i], w[i])
        elif which == OTHER:
            for i in range(out.size):
                out[i] = other(x[i], y[i], a, b, u[i], w[i])
        else:
            for i in range(out.size):
                out[i] = f(x[i], y[i], a, b, u[i], w[i])

    @inline_elementwise
    def chunk(
        which: int, dy: Array, scale: Any, x: Array, y: Array, a: Any, b: Any, u: Array, w: Array, out: Array
    ) -> None:
        # dy holds one number for all elements, or one for each. A block stays in the L1 cache.
        terms = np.empty(min(x.size, BLOCK) if which == SUM else 0, x.dtype)
        total = typed(0, scale)
        for i in range(0, x.size, BLOCK):
            j = i + BLOCK
            part = terms[: x.size - i] if which == SUM else out[i:j]
            write(which, x[i:j], y[i:j], a, b, u[i:j], w[i:j], part)
            if which == SUM:
                total += row_sum(part)
            elif which != TERMS and dy.size > 1:
                g = dy[i:j]
                for k in range(part.size):
                    part[k] *= scale * g[k]
            elif which != TERMS:
                g_of_all = scale * dy[0]
                for k in range(part.size):
                    part[k] *= g_of_all
        if which == SUM:
            out[0] = scale * total

    return chunk


def make_tuned_kernels(formula: Formula) -> tuple[Scalar, Scalar]:
    """Return the kernel for one thread and for all: one of each, whatever is to be written."""
    chunk = make_chunk(formula)

    def parallel(
        which: int, dy: Array, scale: Any, x: Array, y: Array, a: Any, b: Any, u: Array, w: Array,
        share: int, out: Array, total: Array,
    ) -> None:  # fmt: skip
        for c in prange((x.size + share - 1) // share):
            i, j = c * share, (c + 1) * share
            here = out[c : c + 1] if which == SUM else out[i:j]
            g = dy[i:j] if dy.size > 1 else dy
            chunk(which, g, scale, x[i:j], y[i:j], a, b, u[i:j], w[i:j], here)
        if which == SUM:
            total[0] = row_sum(out)

    return jit_elementwise(chunk), jit_parallel(parallel)
