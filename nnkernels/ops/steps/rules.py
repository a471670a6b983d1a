"""One update rule, three bodies: the loop over elements stands here once, for all optimizers.

A rule says what one element of the parameter and its state become:

    formula(p, g, state, numbers) -> (new p, new state)

with ``state`` a tuple of up to three numbers (momentum, mean square, ...) and ``numbers`` the
hyper-parameters and what is computed from them once per call, in float64. ``loops`` and ``tuned`` apply the
formula to one element after the other, ``vectorized`` to whole arrays. Formulas call nothing but operators
and NumPy's functions of numbers.

Bound of ``tuned``: memory. Every array is read and written once, where expressions over whole arrays make a
pass for each operation: 12 bytes per float32 parameter without state, 8 more for each state.
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
    scalars,
)
from nnkernels.machine.memory import Array
from nnkernels.machine.threads import CHUNK
from nnkernels.ops.op import Body

# Elements from which threads share a step. In a training step the other threads sleep by the time of the
# update: waking them takes longer than 20 us. Roots and divisions take longer than reading and writing.
SERIAL_BELOW, SERIAL_BELOW_IF_CHEAP = 1 << 17, 1 << 18

Formula = Callable[..., Any]
Kernel = Callable[..., None]
"""kernel(param, grad, a, b, c, numbers), all flat; of the states a, b, c, the first few are looked at."""


class Rule(NamedTuple):
    """An update rule as one kernel per body."""

    loops: Kernel
    vectorized: Kernel
    tuned: Kernel


# --- what holds the state: none, one, two or three arrays ---


@inline
def get_none(i: int, a: Array, b: Array, c: Array) -> Any:
    return ()


@inline
def get_one(i: int, a: Array, b: Array, c: Array) -> Any:
    return (a[i],)


@inline
def get_two(i: int, a: Array, b: Array, c: Array) -> Any:
    return a[i], b[i]


@inline
def get_three(i: int, a: Array, b: Array, c: Array) -> Any:
    return a[i], b[i], c[i]


@inline
def put_none(i: int, new: Any, a: Array, b: Array, c: Array) -> None:
    pass


@inline
def put_one(i: int, new: Any, a: Array, b: Array, c: Array) -> None:
    a[i] = new[0]


@inline
def put_two(i: int, new: Any, a: Array, b: Array, c: Array) -> None:
    a[i] = new[0]
    b[i] = new[1]


@inline
def put_three(i: int, new: Any, a: Array, b: Array, c: Array) -> None:
    a[i] = new[0]
    b[i] = new[1]
    c[i] = new[2]


ACCESS = ((get_none, put_none), (get_one, put_one), (get_two, put_two), (get_three, put_three))


# --- the loops, once ---


def make_rule(formula: Formula, states: int, count: int, serial_below: int = SERIAL_BELOW) -> Rule:
    """Return the kernels of a formula with so many states and ``count`` numbers."""
    get, put = ACCESS[states]

    @jit
    def loops(param: Array, grad: Array, a: Array, b: Array, c: Array, numbers: Array) -> None:
        n = scalars(numbers, count)
        for i in range(param.size):
            p, new = formula(param[i], grad[i], get(i, a, b, c), n)
            param[i] = p
            put(i, new, a, b, c)

    def vectorized(param: Array, grad: Array, a: Array, b: Array, c: Array, numbers: Array) -> None:
        state = (a, b, c)[:states]
        with np.errstate(all="ignore"):
            p, new = formula(param, grad, state, tuple(numbers.tolist()))
        for old, fresh in zip((param, *state), (p, *new)):
            old[...] = fresh

    # Tests of numbers do not change along the loop: LLVM takes them out of it, or turns them into selects.
    @inline_elementwise
    def chunk(param: Array, grad: Array, a: Array, b: Array, c: Array, numbers: Array) -> None:
        n = scalars(numbers, count)
        for i in range(param.size):
            p, new = formula(param[i], grad[i], get(i, a, b, c), n)
            param[i] = p
            put(i, new, a, b, c)

    @jit_parallel
    def parallel(param: Array, grad: Array, a: Array, b: Array, c: Array, numbers: Array) -> None:
        for k in prange((param.size + CHUNK - 1) // CHUNK):
            i, j = k * CHUNK, (k + 1) * CHUNK
            chunk(param[i:j], grad[i:j], a[i:j], b[i:j], c[i:j], numbers)

    serial = jit_elementwise(chunk)

    def tuned(param: Array, grad: Array, a: Array, b: Array, c: Array, numbers: Array) -> None:
        kernel = serial if param.size < serial_below else parallel
        kernel(param, grad, a, b, c, numbers)

    return Rule(loops, vectorized, tuned)


def make_bodies(
    plan: Callable[..., tuple[Rule, tuple[Array, ...], tuple[float, ...]]],
) -> tuple[Body, Body, Body]:
    """Return the bodies of an update step: loops, vectorized, tuned.

    ``plan(*state, **attributes)`` returns the rule, the states it moves, and the numbers it wants.
    """

    def body(index: int) -> Body:
        def forward(param: Array, grad: Array, *state: Array | None, **attributes: Any) -> tuple[Array, ...]:
            rule, moved, numbers = plan(*state, **attributes)
            # Arrays of one axis, as optimizers have them, are taken as they are.
            p, g = (param, grad) if param.ndim == 1 else (param.reshape(-1), grad.reshape(-1))
            arrays = [s if s.ndim == 1 else s.reshape(-1) for s in moved]
            while len(arrays) < 3:  # where there is no state, g stands in
                arrays.append(g)
            # The numbers in param's dtype: a float64 would widen the arithmetic.
            rule[index](p, g, *arrays, np.array(numbers, param.dtype))
            return (param, *[s for s in state if s is not None])

        return Body(forward)

    return body(0), body(1), body(2)  # in the order of Rule


@inline
def decayed(g: Any, p: Any, weight_decay: Any) -> Any:
    """Return the gradient with weight decay: what the penalty weight_decay / 2 p^2 would make of it."""
    return g if weight_decay == 0 else g + weight_decay * p
