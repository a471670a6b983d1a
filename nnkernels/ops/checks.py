"""The table's checks: what every body of every op must pass. Tests, mutants and the command line share them.

Each check takes an op, the name of one of its bodies and a sample, and raises AssertionError saying what
differs and by how much.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numba
import numpy as np

from nnkernels.machine.gpu import current_device
from nnkernels.machine.gpu_array import GpuArray, shares_memory, to_device
from nnkernels.machine.memory import Array, poisoned
from nnkernels.ops.op import BodyName, Op, Sample

Arrays = tuple[Array | None, ...]
DIFFERENCES = 1e-7  # allowed between derivatives and central differences, of the largest element or 1
ADJOINT = 1e-10  # allowed between <dy, J v> and <J^T dy, v>, relative


def differentiable(op: Op, sample: Sample) -> tuple[bool, ...]:
    """Say for each input whether it is an array that has a gradient."""
    return tuple(
        a is not None and a.dtype.kind == "f" and i not in op.constants for i, a in enumerate(sample.arrays)
    )


def copies(arrays: Arrays) -> Arrays:
    """Return copies, so that a body that writes into its inputs is found out."""
    return tuple(None if a is None else a.copy() for a in arrays)


def placed(body: BodyName, arrays: Arrays) -> Any:
    """Return arrays where the body wants them: copies on the device that "cuda" means, or as they are."""
    if body != "cuda":
        return arrays
    device = current_device()
    return tuple(None if a is None else to_device(a, device) for a in arrays)


def fetched(arrays: Any) -> Arrays:
    """Return copies of arrays in host memory."""
    return tuple(None if a is None else a.numpy() if isinstance(a, GpuArray) else a.copy() for a in arrays)


def run(op: Op, body: BodyName, sample: Sample) -> Arrays:
    """Return the body's outputs; all but update steps must leave the inputs as they were."""
    there = placed(body, copies(sample.arrays))
    with poisoned():
        outputs = fetched(op.body(body).forward(*there, **sample.attributes))
    arrays = fetched(there) if body == "cuda" else there
    for i, (before, after) in enumerate(zip(sample.arrays, arrays)):
        if before is not None and after is not None and i not in op.inplace:
            assert np.array_equal(before, after, equal_nan=True), f"{op.name}/{body} wrote into input {i}"
    return outputs


def run_backward(
    op: Op, body: BodyName, sample: Sample, dy: Array, outputs: Arrays, needs: tuple[bool, ...] | None = None
) -> Arrays:
    """Return the body's gradients for the cotangent ``dy``."""
    backward = op.body(body).backward
    assert backward is not None
    kept = copies((dy, *outputs, *sample.arrays))
    given = placed(body, copies(kept))
    n = 1 + len(outputs)
    needs = needs or differentiable(op, sample)
    with poisoned():
        grads = backward(given[0], given[1:n], given[n:], needs, **sample.attributes)
    for i, grad in enumerate(grads):
        # The tape adopts a gradient that does not lie in dy: nobody else may have it.
        if grad is not None and not shares_memory(grad, given[0]):
            shared = any(a is not None and shares_memory(grad, a) for a in (*given, *grads[:i]))
            assert not shared, f"{op.name}/{body}: gradient {i} lies in memory of another array"
    grads = fetched(grads)
    for before, after in zip(kept, fetched(given) if body == "cuda" else given):
        if before is not None and after is not None:
            same = np.array_equal(before, after, equal_nan=before.dtype.kind == "f")
            assert same, f"{op.name}/{body}: backward wrote into its arguments"
    return grads


def cotangent(rng: np.random.Generator, outputs: Arrays) -> Array:
    """Return a random cotangent: a different weight on every element of the result."""
    y = outputs[0]
    assert y is not None
    return np.asarray(rng.standard_normal(y.shape), y.dtype)


def assert_close(got: Array | None, wanted: Array | None, tolerance: float, what: str) -> None:
    """Demand the same shape and dtype, and values within ``tolerance`` rounding errors of the largest one.

    Integers must be equal; NaN and infinities must stand in the same places.
    """
    if wanted is None or got is None:
        assert got is wanted, f"{what}: one is None, the other an array"
        return
    assert got.shape == wanted.shape, f"{what}: shape {got.shape}, wanted {wanted.shape}"
    assert got.dtype == wanted.dtype, f"{what}: dtype {got.dtype}, wanted {wanted.dtype}"
    if wanted.dtype.kind != "f":
        assert np.array_equal(got, wanted), f"{what}: integers differ"
        return
    finite = np.isfinite(wanted)
    assert np.array_equal(got[~finite], wanted[~finite], equal_nan=True), f"{what}: NaN or infinities differ"
    if not finite.any():
        return
    scale = max(1.0, float(np.abs(wanted[finite]).max()))
    error = np.abs(got[finite] - wanted[finite])
    # A NaN error (the body made one where there is none) must fail, so the comparison is the positive one.
    bound = tolerance * float(np.finfo(wanted.dtype).eps) * scale
    assert bool((error <= bound).all()), f"{what}: largest error {error.max():.3g}, allowed {bound:.3g}"


def check_agreement(op: Op, body: BodyName, sample: Sample, rng: np.random.Generator) -> None:
    """Forward (everything kept included) and backward agree with ``loops``."""
    what = f"{op.name}/{body} on {sample.label}"
    wanted = run(op, "loops", sample)
    got = run(op, body, sample)
    assert len(got) == len(wanted), f"{what}: {len(got)} outputs, wanted {len(wanted)}"
    for i, (g, w) in enumerate(zip(got, wanted)):
        assert_close(g, w, op.tolerance, f"{what}, output {i}")
    if op.loops.backward is None:
        return
    dy = cotangent(rng, wanted)
    for i, (g, w) in enumerate(
        zip(run_backward(op, body, sample, dy, wanted), run_backward(op, "loops", sample, dy, wanted))
    ):
        assert_close(g, w, op.tolerance, f"{what}, gradient of input {i}")


def check_needs(op: Op, body: BodyName, sample: Sample, rng: np.random.Generator) -> None:
    """Each gradient asked for alone is the same as when all are, and the others are None."""
    outputs = run(op, body, sample)
    dy = cotangent(rng, outputs)
    can = differentiable(op, sample)
    every = run_backward(op, body, sample, dy, outputs)
    for i in range(len(sample.arrays)):
        needs = tuple(j == i and can[j] for j in range(len(can)))
        for j, grad in enumerate(run_backward(op, body, sample, dy, outputs, needs)):
            what = f"{op.name}/{body} on {sample.label}, gradient {j} when only {i} is needed"
            assert_close(grad, every[j] if needs[j] else None, 0.0, what)


def numeric_gradient(f: Callable[[], Array], x: Array, dy: Array, step: float) -> Array:
    """Return d<dy, f>/dx by central differences, moving one element of x at a time."""
    grad = np.empty_like(x)
    for i in np.ndindex(x.shape):
        old = x[i]
        x[i] = old + step
        above = f()
        x[i] = old - step
        below = f()
        x[i] = old
        grad[i] = np.sum(dy * (above - below)) / (2 * step)
    return grad


class Error(NamedTuple):
    """How far a result is from what it should be, and the size that this is to be judged by."""

    error: float
    scale: float

    @property
    def relative(self) -> float:
        """The error relative to the size."""
        return self.error / self.scale


def distance(got: Array, wanted: Array) -> Error:
    """Return the largest error of any element, beside the largest element or 1."""
    return Error(float(np.abs(got - wanted).max(initial=0)), max(1.0, float(np.abs(wanted).max(initial=0))))


def gradient_errors(op: Op, body: BodyName, sample: Sample, rng: np.random.Generator) -> dict[int, Error]:
    """Return for each differentiable input how far its gradient is from central differences."""
    outputs = run(op, body, sample)
    dy = cotangent(rng, outputs)
    grads = run_backward(op, body, sample, dy, outputs)
    arrays = copies(sample.arrays)
    needs = differentiable(op, sample)

    def result() -> Array:
        y: Array = op.body(body).forward(*arrays, **sample.attributes)[0].copy()
        return y

    assert len(grads) == len(needs), f"{op.name}/{body}: {len(grads)} gradients for {len(needs)} inputs"
    errors = {}
    for i, grad in enumerate(grads):
        assert (grad is not None) == needs[i], f"{op.name}/{body}: gradient {i} missing or not asked for"
        x = arrays[i]
        if grad is not None and x is not None:
            errors[i] = distance(grad, numeric_gradient(result, x, dy, 1e-6))
    return errors


def check_gradient(op: Op, body: BodyName, sample: Sample, rng: np.random.Generator) -> None:
    """The body's gradients equal central differences of its own forward pass (float64 samples)."""
    for i, (error, scale) in gradient_errors(op, body, sample, rng).items():
        assert error <= DIFFERENCES * scale, (
            f"{op.name}/{body} on {sample.label}: gradient of input {i} differs from central differences by "
            f"{error:.3g} (allowed {DIFFERENCES * scale:.3g})"
        )


def jvp_errors(op: Op, body: BodyName, sample: Sample, rng: np.random.Generator) -> tuple[Error, Error]:
    """Return how far J v is from a central difference along a random v, and <dy, J v> from <J^T dy, v>."""
    assert op.jvp is not None
    needs = differentiable(op, sample)
    v = tuple(
        np.asarray(rng.standard_normal(a.shape), a.dtype) if need and a is not None else None
        for a, need in zip(sample.arrays, needs)
    )
    outputs = run(op, body, sample)
    jv = op.jvp(v, outputs, sample.arrays, **sample.attributes)

    def moved(step: float) -> Array:
        arrays = tuple(
            a if d is None or a is None else np.asarray(a + step * d) for a, d in zip(sample.arrays, v)
        )
        y: Array = op.body(body).forward(*arrays, **sample.attributes)[0].copy()
        return y

    wanted = (moved(1e-6) - moved(-1e-6)) / 2e-6
    what = f"{op.name}/{body} on {sample.label}"
    assert jv.shape == wanted.shape, f"{what}: jvp has shape {jv.shape}, wanted {wanted.shape}"
    dy = cotangent(rng, outputs)
    grads = run_backward(op, body, sample, dy, outputs)
    forward_side = float(np.sum(dy * jv))
    reverse_side = sum(float(np.sum(g * d)) for g, d in zip(grads, v) if g is not None and d is not None)
    adjoint = Error(abs(forward_side - reverse_side), max(1.0, abs(forward_side)))
    return distance(jv, np.asarray(wanted)), adjoint


def check_jvp(op: Op, body: BodyName, sample: Sample, rng: np.random.Generator) -> None:
    """jvp equals a central difference along a random direction v, and <dy, J v> = <J^T dy, v>."""
    what = f"{op.name}/{body} on {sample.label}"
    along, adjoint = jvp_errors(op, body, sample, rng)
    assert along.relative <= DIFFERENCES, (
        f"{what}: jvp differs from a central difference by {along.error:.3g}"
    )
    assert adjoint.relative <= ADJOINT, f"{what}: <dy, J v> and <J^T dy, v> differ by {adjoint.error:.3g}"


def check_bad_inputs(op: Op) -> int:
    """Every bad input raises the promised error and leaves its arrays as they were; return their number."""
    count = 0
    for bad in op.bad_inputs():
        before = [a.copy() if isinstance(a, np.ndarray) else a for a in bad.arrays]
        raised: Exception | None = None
        try:
            op(*bad.arrays, **bad.attributes)
        except Exception as error:
            raised = error
        assert type(raised) is bad.error, f"{op.name}: {raised!r} came where {bad.error} was promised"
        assert bad.words in str(raised), f"{op.name}: {raised!s} does not say {bad.words!r}"
        for a, b in zip(before, bad.arrays):
            assert not isinstance(b, np.ndarray) or np.array_equal(a, b, equal_nan=b.dtype.kind == "f"), (
                f"{op.name} changed a bad input"
            )
        count += 1
    return count


def check_threads(op: Op, sample: Sample, rng: np.random.Generator) -> None:
    """``tuned`` gives bitwise the same results with 1, 2, ... N threads and on repeated runs."""
    reference: list[Arrays] = []
    most = numba.config.NUMBA_NUM_THREADS
    before = numba.get_num_threads()
    dy: Any = None
    try:
        for n in (1, *range(1, most + 1)):
            numba.set_num_threads(n)
            outputs = run(op, "tuned", sample)
            results = outputs
            if op.tuned.backward is not None:
                dy = cotangent(rng, outputs) if dy is None else dy
                results += run_backward(op, "tuned", sample, dy, outputs)
            reference = reference or [results]
            for got, wanted in zip(results, reference[0]):
                bits = [None if a is None else a.tobytes() for a in (got, wanted)]
                assert bits[0] == bits[1], f"{op.name} on {sample.label}: differs with {n} threads"
    finally:
        numba.set_num_threads(before)
