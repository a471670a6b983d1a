"""What the records of the elementwise losses share: checks, samples and bad inputs."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit_elementwise
from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import Gradient
from nnkernels.ops.losses.cuda import make_cuda
from nnkernels.ops.losses.elementwise import (
    Family,
    Formula,
    make_jvp,
    make_loops,
    make_tuned,
    make_vectorized,
)
from nnkernels.ops.losses.reduction import REDUCTIONS
from nnkernels.ops.op import BadInput, Mutant, Op, Sample
from nnkernels.ops.validate import choice, floats, given

Draw = Callable[[np.random.Generator, tuple[int, ...]], tuple[Array, ...]]
More = Callable[[np.random.Generator], Iterator[Sample]]
Bad = Callable[[], Iterator[BadInput]]
SPOT = np.array([[False, False, False], [False, True, False]])  # where bad inputs are bad
SHAPES: tuple[tuple[int, ...], ...] = ((), (1,), (7,), (16, 1), (2, 3, 5))


def check_arrays(
    op: str, reduction: Any, words: tuple[str, ...] = REDUCTIONS, **arrays: Array | None
) -> None:
    """Demand floats of one shape (None for what is left out) and a reduction of them that is defined."""
    there = given(**arrays)
    missing = [name for name in list(arrays)[:2] if name not in there]
    floats(op, **dict.fromkeys(missing), **there)
    (name, first), *rest = there.items()
    for other, array in rest:
        if array.shape != first.shape:
            raise ValueError(
                f"{op}: {name} and {other} must have one shape, got {first.shape} and {array.shape}"
            )
    choice(op, "reduction", reduction, words)
    if reduction == "batchmean" and first.ndim == 0:
        raise ValueError(f"{op}: batchmean needs an axis of examples, got {name} of shape ()")
    if first.size == 0 and reduction in ("mean", "batchmean"):
        raise ValueError(
            f"{op}: the mean over an empty batch is undefined, got {name} of shape {first.shape}"
        )


@jit_elementwise
def all_from_0_to_1(y: Array) -> bool:
    """Whether no element is outside or NaN; a few microseconds less than NumPy's min and max."""
    within = True
    for i in range(y.size):
        within &= (y[i] >= 0) & (y[i] <= 1)
    return within


def check_from_0_to_1(op: str, name: str, y: Array) -> None:
    if type(y) is np.ndarray and y.flags.carray and y.dtype.isnative and all_from_0_to_1(y.ravel()):
        return
    demand(op, name, y, (y >= 0) & (y <= 1), "from 0 to 1")


def demand(op: str, name: str, y: Array, fine: Array, wanted: str) -> None:
    """Raise a ValueError that names the first element of y that is not fine."""
    if not fine.all():
        i = int(np.argmin(fine))
        raise ValueError(f"{op}: {name} must be {wanted}, got {y.reshape(-1)[i]} at flat position {i}")


def of_type(arrays: tuple[Array | None, ...], dtype: Any) -> tuple[Any, ...]:
    return tuple(None if a is None else np.asarray(a, dtype) for a in arrays)


def make_samples(draw: Draw, cases: tuple[dict[str, Any], ...], more: More | None) -> Callable[..., Any]:
    """Return what yields samples with every reduction, with the attributes in ``cases``, and ``more``."""

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        for shape in SHAPES:
            for reduction in REDUCTIONS:
                arrays = of_type(draw(rng, shape), dtype)
                yield Sample(f"{shape}, {reduction}", arrays, {"reduction": reduction})
        for reduction in ("sum", "none"):
            yield Sample(f"empty, {reduction}", of_type(draw(rng, (0, 3)), dtype), {"reduction": reduction})
        for attributes in cases:
            yield Sample(str(attributes), of_type(draw(rng, (3, 5)), dtype), attributes)
        for label, some, attributes in more(rng) if more else ():
            yield Sample(label, of_type(some, dtype), attributes)

    return samples


def make_bad_inputs(draw: Draw, names: tuple[str, str], bad: Bad | None) -> Bad:
    """Return what yields the bad inputs of all losses, and ``bad``."""

    def bad_inputs() -> Iterator[BadInput]:
        x, y, *rest = (np.abs(a) for a in draw(np.random.default_rng(0), (2, 3)))
        first, second = names
        clash = f"{first} and {second} must have one shape, got (2, 3) and (3,)"
        yield BadInput(ValueError, clash, (x, y[0], *rest))
        for wrong in (y.astype(int), y > 0):
            words = f"{second} must be float32 or float64, got {wrong.dtype}"
            yield BadInput(TypeError, words, (x, wrong, *rest))
        yield BadInput(TypeError, f"{first} must be a NumPy array", ([1.0], y, *rest))
        yield BadInput(TypeError, f"{second} must have one dtype", (x, y.astype(np.float32), *rest))
        yield BadInput(ValueError, "empty batch", tuple(a[:0] for a in (x, y, *rest)))
        words = "reduction must be one of mean, sum, none"
        yield BadInput(ValueError, words, (x, y, *rest), {"reduction": None})
        yield from bad() if bad else ()

    return bad_inputs


def make_bench_samples(draw: Draw, spread: float) -> Callable[..., Any]:
    """Return what yields sizes worth timing; the first has x times ``spread``."""

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        x, *rest = draw(rng, (411, 101))
        yield Sample("411x101", of_type((x * spread, *rest), dtype))
        yield Sample("411x101, none", of_type((x, *rest), dtype), {"reduction": "none"})
        for shape in ((64, 1), (64, 300), (1 << 22,)):
            yield Sample("x".join(map(str, shape)), of_type(draw(rng, shape), dtype))

    return bench_samples


def make_op(
    name: str, family: Family, check: Callable[..., None], draw: Draw, *,
    loops: tuple[Formula, ...], vectorized: tuple[Formula, ...], tuned: tuple[Formula, ...],
    names: tuple[str, str], flops: int, mutants: tuple[Mutant, ...], cuda: tuple[Formula, ...] | None = None,
    check_values: Callable[..., None] | None = None, cases: tuple[dict[str, Any], ...] = (),
    more: More | None = None, bad: Bad | None = None, spread: float = 1.0, gradient: Gradient,
) -> Op:  # fmt: skip
    """Return the record; ``draw(rng, shape)`` makes the arrays of a call, the first two called ``names``."""
    return Op(
        name=name,
        loops=make_loops(family, loops),
        vectorized=make_vectorized(family, vectorized),
        tuned=make_tuned(family, tuned),
        cuda=make_cuda(family, cuda or loops),
        check=check,
        check_values=check_values,
        samples=make_samples(draw, cases, more),
        bad_inputs=make_bad_inputs(draw, names, bad),
        bench_samples=make_bench_samples(draw, spread),
        flops=lambda x, *_, **__: flops * int(x.size),
        jvp=make_jvp(family, vectorized),
        gradient=gradient,
        constants=frozenset(range(len(family.derivatives), family.inputs)),
        mutants=mutants,
        tolerance=512.0,  # one long sum in order against many short ones
    )
