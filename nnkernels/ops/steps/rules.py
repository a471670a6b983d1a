"""One update rule, three bodies: the loop over elements stands here once, for all optimizers.

A rule says what one element of the parameter and its state become:

    formula(p, g, state, numbers) -> (new p, new state)

with ``state`` a tuple of up to three numbers (momentum, mean square, ...) and ``numbers`` the
hyper-parameters and what is computed from them once per call, in float64. ``loops`` and ``tuned`` apply the
formula to one element after the other, ``vectorized`` to whole arrays; ``cuda`` has a thread for PER_THREAD
elements. Formulas call nothing but operators and NumPy's functions of numbers.

Bound of ``tuned`` and ``cuda``: memory. Every array is read and written once, where expressions over whole
arrays make a pass for each operation: 12 bytes per float32 parameter without state, 8 more for each state.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypedDict

import numpy as np

from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.gpu_kernel import THREADS, at, blocks_for, cuda, kernel
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
from nnkernels.ops.op import Body, BodyName

# Elements from which threads share a step. In a training step the other threads sleep by the time of the
# update: waking them takes longer than 20 us. Roots and divisions take longer than reading and writing.
SERIAL_BELOW, SERIAL_BELOW_IF_CHEAP = 1 << 17, 1 << 18

PER_THREAD = 4  # elements of a GPU thread

Formula = Callable[..., Any]
Kernel = Callable[..., None]
"""kernel(param, grad, a, b, c, numbers), all flat; of the states a, b, c, the first few are looked at."""


class Rule(NamedTuple):
    """An update rule as one kernel per body."""

    loops: Kernel
    vectorized: Kernel
    tuned: Kernel
    cuda: Kernel


class Bodies(TypedDict):
    """The bodies of an update step, under the names that its record gives them."""

    loops: Body
    vectorized: Body
    tuned: Body
    cuda: Body


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


def make_rule(
    formula: Formula, states: int, count: int, serial_below: int = SERIAL_BELOW, roots: bool = True
) -> Rule:
    """Return the kernels of a formula with so many states and ``count`` numbers; ``roots`` if it has any."""
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

    return Rule(loops, vectorized, tuned, make_cuda(formula, states, roots))


def make_cuda(formula: Formula, states: int, roots: bool) -> Kernel:
    """Return what starts the GPU kernel of a formula.

    All of a thread's loads come before its first store: the compiler cannot know that the arrays lie apart,
    and would let each load wait for the stores written above it. Roots and divisions in float32 are the fast
    ones: 2 rounding errors, and what is below 1e-38 counts as 0. Correct ones take a dozen instructions each.
    """
    get, put = ACCESS[states]

    @kernel(fastmath=roots)
    def step_kernel(param: Array, grad: Array, a: Array, b: Array, c: Array, n: Any) -> None:
        start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
        p, g = cuda.local.array(PER_THREAD, param.dtype), cuda.local.array(PER_THREAD, param.dtype)
        u = cuda.local.array(PER_THREAD, param.dtype)
        v = cuda.local.array(PER_THREAD, param.dtype)
        w = cuda.local.array(PER_THREAD, param.dtype)
        for k in range(PER_THREAD):
            if start + k * THREADS < param.size:
                i = at(start + k * THREADS)
                p[k], g[k] = param[i], grad[i]
                put(k, get(i, a, b, c), u, v, w)
        for k in range(PER_THREAD):
            if start + k * THREADS < param.size:
                i = at(start + k * THREADS)
                fresh, new = formula(p[k], g[k], get(k, u, v, w), n)
                param[i] = fresh
                put(i, new, a, b, c)

    def start(param: GpuArray, grad: GpuArray, a: GpuArray, b: GpuArray, c: GpuArray, numbers: Array) -> None:
        blocks = blocks_for(param.size, THREADS * PER_THREAD)
        step_kernel[blocks, THREADS](param, grad, a, b, c, tuple(numbers))

    return start


def make_bodies(plan: Callable[..., tuple[Rule, tuple[Array, ...], tuple[float, ...]]]) -> Bodies:
    """Return the bodies of an update step.

    ``plan(*state, **attributes)`` returns the rule, the states it moves, and the numbers it wants.
    """

    def body(name: BodyName) -> Body:
        def forward(param: Array, grad: Array, *state: Array | None, **attributes: Any) -> tuple[Array, ...]:
            rule, moved, numbers = plan(*state, **attributes)
            # Arrays of one axis, as optimizers have them, are taken as they are.
            p, g = (param, grad) if param.ndim == 1 else (param.reshape(-1), grad.reshape(-1))
            arrays = [s if s.ndim == 1 else s.reshape(-1) for s in moved]
            while len(arrays) < 3:  # where there is no state, g stands in
                arrays.append(g)
            # The numbers in param's dtype: a float64 would widen the arithmetic.
            getattr(rule, name)(p, g, *arrays, np.array(numbers, param.dtype))
            return (param, *[s for s in state if s is not None])

        return Body(forward)

    return Bodies(loops=body("loops"), vectorized=body("vectorized"), tuned=body("tuned"), cuda=body("cuda"))


@inline
def decayed(g: Any, p: Any, weight_decay: Any) -> Any:
    """Return the gradient with weight decay: what the penalty weight_decay / 2 p^2 would make of it."""
    return g if weight_decay == 0 else g + weight_decay * p
