"""What functions of one array share: y_i = f(x_i), dx_i = dy_i f'(x_i), element by element, for any shape.

The loops stand here once. A member of the family is the pair f(x, a) and df(x, y, a) = f'(x), given y = f(x)
and the op's attribute a: one number, a tuple of numbers where the op has several, 0 where it has none.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nnkernels.machine.gpu_array import GpuArray, empty_like
from nnkernels.machine.gpu_kernel import THREADS, Expected, at, blocks_for, cuda, kernel
from nnkernels.machine.jit import inline_elementwise, jit, jit_elementwise, jit_parallel, prange
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.threads import SERIAL_BELOW, SERIAL_BELOW_IF_CHEAP, share_of
from nnkernels.ops.gradients import Gradient
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import floats, number

Scalar = Callable[..., Any]
Far = tuple[float, Scalar, Scalar]
Defaults = Mapping[str, float]
Bodies = tuple[Body, Body, Body, Body]  # loops, vectorized, tuned, cuda

PER_THREAD = 4  # elements of a GPU thread
LEAN = Expected(registers=32, registers64=64)  # as many threads at a time as a multiprocessor takes

# --- the loops, once ---


def make_loops(f: Scalar, df: Scalar, defaults: Defaults) -> Body:
    """Return the body that takes one element after the other."""

    @jit
    def forward_kernel(x: Array, a: Any, y: Array) -> None:
        for i in range(x.size):
            y[i] = f(x[i], a)

    @jit
    def backward_kernel(dy: Array, x: Array, y: Array, a: Any, dx: Array) -> None:
        for i in range(x.size):
            dx[i] = dy[i] * df(x[i], y[i], a)

    return make_body(forward_kernel, backward_kernel, defaults)


def make_tuned(f: Scalar, df: Scalar, defaults: Defaults, serial_below: int, far: Far | None = None) -> Body:
    """Return the body that cuts the array into chunks and shares them among threads.

    Bound: memory traffic; forward reads and writes every element once, backward reads up to three arrays.
    ``far`` = (limit, f, df) gives the pair for |x| > limit, where f and df do not hold: such elements are
    rare, and a test among the others would keep their loop from being vectorised.
    """
    limit, far_f, far_df = far or (math.inf, f, df)

    @inline_elementwise
    def forward_chunk(x: Array, a: Any, y: Array) -> None:
        beyond = False
        for i in range(x.size):
            y[i] = f(x[i], a)
            beyond |= abs(x[i]) > limit
        if beyond:
            for i in range(x.size):
                if abs(x[i]) > limit:
                    y[i] = far_f(x[i], a)

    @inline_elementwise
    def backward_chunk(dy: Array, x: Array, y: Array, a: Any, dx: Array) -> None:
        beyond = False
        for i in range(x.size):
            dx[i] = dy[i] * df(x[i], y[i], a)
            beyond |= abs(x[i]) > limit
        if beyond:
            for i in range(x.size):
                if abs(x[i]) > limit:
                    dx[i] = dy[i] * far_df(x[i], y[i], a)

    @jit_parallel
    def forward_parallel(x: Array, a: Any, share: int, y: Array) -> None:
        for c in prange((x.size + share - 1) // share):
            i, j = c * share, (c + 1) * share
            forward_chunk(x[i:j], a, y[i:j])

    @jit_parallel
    def backward_parallel(dy: Array, x: Array, y: Array, a: Any, share: int, dx: Array) -> None:
        for c in prange((x.size + share - 1) // share):
            i, j = c * share, (c + 1) * share
            backward_chunk(dy[i:j], x[i:j], y[i:j], a, dx[i:j])

    forward_serial, backward_serial = jit_elementwise(forward_chunk), jit_elementwise(backward_chunk)

    def forward_kernel(x: Array, a: Any, y: Array) -> None:
        if x.size < serial_below:
            forward_serial(x, a, y)
        else:
            forward_parallel(x, a, share_of(x.size), y)

    def backward_kernel(dy: Array, x: Array, y: Array, a: Any, dx: Array) -> None:
        if x.size < serial_below:
            backward_serial(dy, x, y, a, dx)
        else:
            backward_parallel(dy, x, y, a, share_of(x.size), dx)

    return make_body(forward_kernel, backward_kernel, defaults)


def make_vectorized(f: Scalar, df: Scalar, defaults: Defaults) -> Body:
    """Return the body of NumPy expressions over whole arrays."""
    a_of = attribute_reader(defaults)

    def forward(x: Array, **attributes: float) -> tuple[Array]:
        with np.errstate(all="ignore"):
            return (np.asarray(f(x, a_of(x, attributes))),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], **attributes: float
    ) -> tuple[Array | None]:
        (x,), (y,) = inputs, outputs
        with np.errstate(all="ignore"):
            return (np.asarray(dy * df(x, y, a_of(x, attributes))) if needs[0] else None,)

    return Body(forward, backward)


def make_body(forward_kernel: Scalar, backward_kernel: Scalar, defaults: Defaults) -> Body:
    """Wrap kernels over flat arrays: allocate the result and pass the attributes."""
    a_of = attribute_reader(defaults)

    def forward(x: Array, **attributes: float) -> tuple[Array]:
        y = empty(x.shape, x.dtype)
        forward_kernel(x.ravel(), a_of(x, attributes), y.ravel())
        return (y,)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], **attributes: float
    ) -> tuple[Array | None]:
        if not needs[0]:
            return (None,)
        (x,), (y,) = inputs, outputs
        dx = empty(x.shape, x.dtype)
        backward_kernel(dy.ravel(), x.ravel(), y.ravel(), a_of(x, attributes), dx.ravel())
        return (dx,)

    return Body(forward, backward)


def make_cuda(f: Scalar, df: Scalar, defaults: Defaults, expected: Expected) -> Body:
    """Return the body for a GPU: a thread takes PER_THREAD elements, a block's width apart.

    Bound: memory traffic, as ``tuned``. Neighbouring threads read neighbouring elements. A thread loads all
    its elements before it stores any: for all that the compiler knows, a store changes what the next load
    reads. Behind the end it loads the last element once more, and stores nothing.
    """

    @kernel(expected=expected)
    def forward_kernel(x: Array, a: Any, y: Array) -> None:
        xs = cuda.local.array(PER_THREAD, x.dtype)
        start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
        for k in range(PER_THREAD):
            xs[k] = x[min(at(start + k * THREADS), at(y.size - 1))]
        for k in range(PER_THREAD):
            i = at(start + k * THREADS)
            if i < at(y.size):
                y[i] = f(xs[k], a)

    @kernel(expected=expected)
    def backward_kernel(dy: Array, x: Array, y: Array, a: Any, dx: Array) -> None:
        dys = cuda.local.array(PER_THREAD, x.dtype)
        xs = cuda.local.array(PER_THREAD, x.dtype)
        ys = cuda.local.array(PER_THREAD, x.dtype)
        start = cuda.blockIdx.x * (THREADS * PER_THREAD) + cuda.threadIdx.x
        for k in range(PER_THREAD):
            i = min(at(start + k * THREADS), at(dx.size - 1))
            dys[k], xs[k], ys[k] = dy[i], x[i], y[i]
        for k in range(PER_THREAD):
            i = at(start + k * THREADS)
            if i < at(dx.size):
                dx[i] = dys[k] * df(xs[k], ys[k], a)

    a_of = attribute_reader(defaults)

    def forward(x: GpuArray, **attributes: float) -> tuple[GpuArray]:
        y = empty_like(x)
        forward_kernel[blocks_for(y.size, THREADS * PER_THREAD), THREADS](x, a_of(x, attributes), y)
        return (y,)

    def backward(
        dy: GpuArray,
        outputs: tuple[GpuArray],
        inputs: tuple[GpuArray],
        needs: tuple[bool],
        **attributes: float,
    ) -> tuple[GpuArray | None]:
        if not needs[0]:
            return (None,)
        (x,), (y,) = inputs, outputs
        dx = empty_like(x)
        blocks = blocks_for(dx.size, THREADS * PER_THREAD)
        backward_kernel[blocks, THREADS](dy, x, y, a_of(x, attributes), dx)
        return (dx,)

    return Body(forward, backward)


def attribute_reader(defaults: Defaults) -> Callable[[Any, Mapping[str, float]], Any]:
    """Return what reads an op's attributes in x's dtype, as a float64 would widen the arithmetic."""

    def typed_values(given: Mapping[str, float], dtype: Any) -> Any:
        values = tuple([dtype(given.get(name, default)) for name, default in defaults.items()])
        return values if len(values) > 1 else (*values, dtype(0))[0]

    ready = {4: typed_values({}, np.float32), 8: typed_values({}, np.float64)}

    def read(x: Any, given: Mapping[str, float]) -> Any:
        return typed_values(given, x.dtype.type) if given else ready[x.itemsize]

    return read


def make_bodies(
    f: Scalar,
    df: Scalar,
    *,
    tuned: tuple[Scalar, Scalar] | None = None,
    numpy: tuple[Scalar, Scalar] | None = None,
    cuda: tuple[Scalar, Scalar] | None = None,
    far: Far | None = None,
    defaults: Defaults | None = None,
    cheap: bool = False,
    expected: Expected = LEAN,
) -> Bodies:
    """Return all bodies: of f and df, or of pairs that NumPy, vector registers or a GPU prefer.

    A GPU takes the pair of vector registers where it has none of its own: that one avoids float64.
    ``defaults`` names the attributes and their values; ``cheap`` says that one core computes f at the speed
    of its cache; ``expected`` is what a GPU's compiler must make of it.
    """
    defaults = defaults or {}
    serial_below = SERIAL_BELOW_IF_CHEAP if cheap else SERIAL_BELOW
    return (
        make_loops(f, df, defaults),
        make_vectorized(*(numpy or (f, df)), defaults),
        make_tuned(*(tuned or (f, df)), defaults, serial_below, far),
        make_cuda(*(cuda or tuned or (f, df)), defaults, expected),
    )


# --- records ---

Faults = tuple[tuple[str, str, str, str, str], ...]  # name, body, file, old, new
Wrong = tuple[tuple[type[Exception], str, dict[str, Any]], ...]  # error, its words, attributes


def numbers(op: str, attributes: Mapping[str, Any]) -> None:
    """Demand that every attribute is a finite number."""
    for name, value in attributes.items():
        number(op, name, value)


def make_op(
    name: str,
    bodies: Bodies,
    *,
    attributes: Mapping[str, tuple[Any, ...]] | None = None,
    demand: Callable[[str, Mapping[str, Any]], None] = numbers,
    wrong: Wrong = (),
    positive: bool = False,
    far: float = 0.0,
    flops: int = 1,
    bench: tuple[tuple[int, ...], ...] = ((64, 6, 28, 28), (1 << 24,)),
    gradient: Gradient,
    faults: Faults = (),
) -> Op:
    """Return the record; the numbers of samples are at least 0.05 away from 0, the kink of many functions.

    ``attributes`` holds the values that samples give each attribute, ``demand`` checks them, ``wrong`` lists
    what must be refused; ``far`` is the limit beyond which the tuned body has formulas of its own.
    """
    known = attributes or {}

    def check(x: Array, **given: Any) -> None:
        floats(name, x=x)
        for key in given:
            if key not in known:
                takes = f"only {' and '.join(known)}" if known else "no attributes"
                raise TypeError(f"{name}: unexpected attribute {key!r}; it takes {takes}")
        demand(name, given)

    def values(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> Array:
        magnitude = rng.uniform(0.05, 3, shape)
        sign = 1 if positive else rng.choice([-1, 1], shape)
        return np.asarray(magnitude * sign, dtype)

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        for shape in ((), (1,), (7,), (3, 0, 2), (2, 3, 4, 5)):
            yield Sample(f"shape {shape}", (values(rng, shape, dtype),))
        for key, settings in known.items():
            for value in settings:
                yield Sample(f"{key}={value}", (values(rng, (3, 5), dtype),), {key: value})
        if len(known) > 1:
            every = {key: settings[0] for key, settings in known.items()}
            yield Sample(f"{every}", (values(rng, (3, 5), dtype),), every)

    def bad_inputs() -> Iterator[BadInput]:
        yield BadInput(TypeError, f"{name}: x must be float32 or float64, got int64", (np.arange(3),))
        yield BadInput(TypeError, f"{name}: x must be a NumPy array", ([1.0],))
        yield BadInput(TypeError, "unexpected attribute 'slope'", (np.ones(3),), {"slope": 1.0})
        for error, words, given in wrong:
            yield BadInput(error, words, (np.ones(3),), given)
        if demand is numbers:
            for key in known:
                yield BadInput(ValueError, f"{key} must be finite", (np.ones(3),), {key: math.nan})

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        if far:  # not among `samples`: so far out, no difference quotient is exact
            x = values(rng, (33, 1001), dtype)
            x[::5] *= 1000 * far
            yield Sample("33x1001, a fifth of it far", (x,))
        for shape in bench:
            label = "x".join(map(str, shape)) if len(shape) > 1 else f"{shape[0] >> 20} Mi"
            yield Sample(label, (values(rng, shape, dtype),))

    def jvp(tangents: tuple[Array], outputs: tuple[Array], inputs: tuple[Array], **given: Any) -> Array:
        # The Jacobian is diagonal, so pushing a tangent forward is pulling a cotangent back.
        assert bodies[0].backward is not None
        dx: Array = bodies[0].backward(tangents[0], outputs, inputs, (True,), **given)[0]
        return dx

    loops, vectorized, tuned, cuda = bodies
    return Op(
        name=name,
        loops=loops,
        vectorized=vectorized,
        tuned=tuned,
        cuda=cuda,
        check=check,
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=lambda x, **_: flops * x.size,
        jvp=jvp,
        gradient=gradient,
        mutants=tuple(
            Mutant(fault, body, file, old, new)  # type: ignore[arg-type]  # body is one of the names
            for fault, body, file, old, new in faults
        ),
    )
