"""Reductions over some axes: y_j = sum, mean or max of all x_i whose kept indices are j.

    sum   y_j = sum of x_i         dx_i = dy_j
    mean  y_j = 1/n sum of x_i     dx_i = dy_j / n             n elements fall on each y_j
    max   y_j = x_argmax(j)        dx_i = dy_j if i = argmax(j) else 0

``dim`` is an int, a tuple of ints or None (all axes); ``keepdim=True`` leaves reduced axes with size 1. Any
shape, float32 or float64. ``max`` keeps ``argmax``: the position in the flat x of the first largest element,
int64, in the shape of y; a NaN counts as largest. An empty sum is 0, an empty mean or maximum an error.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import linear, piecewise_linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.reduce.cuda import max_cuda, mean_cuda, sum_cuda
from nnkernels.ops.reduce.loops import (
    Shape,
    make_mean,
    max_backward_loops,
    max_forward_loops,
    sum_backward_loops,
    sum_forward_loops,
)
from nnkernels.ops.reduce.tuned import mean_tuned, sum_tuned
from nnkernels.ops.reduce.tuned_max import max_backward_tuned, max_forward_tuned
from nnkernels.ops.reduce.vectorized import (
    max_backward_vectorized,
    max_forward_vectorized,
    sum_backward_vectorized,
    sum_forward_vectorized,
)
from nnkernels.ops.validate import axis_index, fail_type, floats

# --- records ---


def check(op: str, x: Array, dim: Any = None, keepdim: Any = False) -> None:
    floats(op, x=x)
    if keepdim is not False and not isinstance(keepdim, (bool, np.bool_)):
        fail_type(op, "keepdim", keepdim, "a bool")
    if isinstance(dim, (tuple, list)):
        axes = [axis_index(op, d, x.ndim) for d in dim]
        if not axes:
            raise ValueError(f"{op}: dim must name at least one axis (None means all), got {dim!r}")
        if len(set(axes)) != len(axes):
            raise ValueError(f"{op}: dim names an axis twice: {dim!r} for {x.ndim} axes")
    else:
        axes = [] if dim is None else [axis_index(op, dim, x.ndim)]
    if op != "sum" and x.size == 0 and (dim is None or 0 in (x.shape[i] for i in axes)):
        raise ValueError(f"{op}: no elements along dim={dim!r} of x with shape {x.shape}")


Fault = tuple[str, str, str, str]  # name, file (which starts with the body's name), old, new


def fault(name: str, file: str, old: str, new: str) -> Mutant:
    body: Any = file.partition("_")[0]
    return Mutant(name, body, f"reduce/{file}.py", old, new)


def make_op(
    name: str, loops: Body, vectorized: Body, tuned: Body, cuda: Body, mutants: tuple[Fault, ...]
) -> Op:
    """Return the record; values are a shuffled grid, so that no two are within a difference step."""

    def values(rng: np.random.Generator, shape: Shape, dtype: Any) -> Array:
        grid = np.linspace(-2, 3, math.prod(shape))
        return np.asarray(rng.permutation(grid).reshape(shape), dtype)

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        cases: tuple[tuple[Shape, dict[str, Any]], ...] = (
            ((), {}), ((1,), {"dim": 0}), ((7,), {}), ((2, 3, 4, 5), {}), ((6, 41), {"dim": -1}),
            ((6, 41), {"dim": 0, "keepdim": True}), ((21, 5), {"dim": 0}), ((2, 3, 4, 5), {"dim": (0, 2, 3)}),
            ((2, 3, 4, 5), {"dim": (3, 1), "keepdim": True}), ((2, 3, 4, 5), {"dim": (1, 2)}),
            ((2, 1, 4), {"dim": (1,)}), ((2, 0, 3), {"dim": 0}), ((0, 3), {"dim": (1,), "keepdim": True}),
            *((((2, 0, 3), {"dim": 1}),) if name == "sum" else ()),
        )  # fmt: skip
        for shape, attributes in cases:
            yield Sample(f"shape {shape}, {attributes}", (values(rng, shape, dtype),), attributes)

    def bad_inputs() -> Iterator[BadInput]:
        x = np.ones((2, 3))
        yield BadInput(TypeError, f"{name}: x must be float32 or float64, got int64", (np.arange(3),))
        yield BadInput(ValueError, "dim must be in [-2, 2) for 2 axes, got 2", (x,), {"dim": 2})
        yield BadInput(ValueError, "names an axis twice: (0, -2)", (x,), {"dim": (0, -2)})
        yield BadInput(ValueError, "name at least one axis", (x,), {"dim": ()})
        yield BadInput(TypeError, "dim must be an int, got float 1.0", (x,), {"dim": 1.0})
        yield BadInput(TypeError, "keepdim must be a bool", (x,), {"dim": 1, "keepdim": 1})
        if name != "sum":
            yield BadInput(ValueError, "dim=1 of x with shape (2, 0)", (np.ones((2, 0)),), {"dim": 1})
            yield BadInput(ValueError, "no elements along dim=None", (np.ones((0, 3)),))

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        x = values(rng, (3, 100003), dtype)  # rows of several blocks
        if name == "max":  # ties and a NaN, which differences in `samples` could not stand
            x = np.round(x, 1)
            x[1, 29000] = np.nan
        yield Sample("3x100003 rows", (x,), {"dim": 1})
        yield Sample("1000x1000 rows", (values(rng, (1000, 1000), dtype),), {"dim": 1})
        yield Sample("1000x1000 columns", (values(rng, (1000, 1000), dtype),), {"dim": 0})
        yield Sample("4 Mi", (values(rng, (1 << 22,), dtype),))

    def jvp(
        tangents: tuple[Array], outputs: tuple[Array, ...], inputs: tuple[Array], **attributes: Any
    ) -> Any:
        if name == "max":
            return np.asarray(tangents[0].reshape(-1)[outputs[1]])
        return loops.forward(tangents[0], **attributes)[0]  # linear: its own derivative

    return Op(
        name=name,
        loops=loops,
        vectorized=vectorized,
        tuned=tuned,
        cuda=cuda,
        check=lambda x, dim=None, keepdim=False: check(name, x, dim, keepdim),
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=lambda x, **_: int(x.size),
        jvp=jvp,
        gradient=piecewise_linear if name == "max" else linear,
        mutants=tuple(fault(*words) for words in mutants),
        tolerance=512.0,  # one long sum in order against many short ones
    )


sum_loops = Body(sum_forward_loops, sum_backward_loops)
sum_vectorized = Body(sum_forward_vectorized, sum_backward_vectorized)

sum = make_op(  # noqa: A001 (NumPy's and PyTorch's name)
    "sum", sum_loops, sum_vectorized, sum_tuned, sum_cuda,
    (
        ("missing +=", "loops", "total[source_index(i, shape, steps)] += x[i]",
         "total[source_index(i, shape, steps)] = x[i]"),
        ("kept axes stepped over", "loops", "step *= kept[axis]", "step *= x.shape[axis]"),
        ("one of four rows forgotten", "tuned", "total[j] += (a[j] + b[j]) + (c[j] + d[j])",
         "total[j] += (a[j] + b[j]) + c[j]"),
        ("last rows forgotten", "tuned", "while k < rows:", "while k < rows - 1:"),
        ("ragged block", "tuned", "start = b // blocks * n + block * length\n", "start = b * length\n"),
        ("rest of short rows forgotten", "tuned", "wide[j] += rest[j]", "pass"),
        ("short row not written to its end", "tuned", "range(o * step, o * step + step)",
         "range(o * step, o * step + step - 1)"),
        ("last rows not written", "tuned", "min((c + 1) * share, units), dx)",
         "min((c + 1) * share, units) - 1, dx)"),
    ),
)  # fmt: skip
mean = make_op(
    "mean", make_mean(sum_loops), make_mean(sum_vectorized), mean_tuned, mean_cuda,
    (
        ("divided by the size of x", "loops", "y / x.dtype.type(count(x, dim))", "y / x.dtype.type(x.size)"),
        ("gradient not divided by n", "loops", "dy / dy.dtype.type(count(inputs[0], dim))", "dy / 1"),
        ("divided after every pass", "tuned", "sum_pass(flat, way, one, partial)",
         "sum_pass(flat, way, x.dtype.type(n), partial)"),
        ("gradient divided by the last pass's n alone", "tuned",
         "passes[0], x.dtype.type(n) if", "passes[0], x.dtype.type(passes[0].n) if"),
        ("blocks divided, too", "tuned", "one = divisor if blocks == 1 else y.dtype.type(1)",
         "one = divisor"),
        ("columns not divided", "tuned", "if divisor != 1:", "if divisor == 1:"),
        ("middle of an odd row", "tuned", "(x[x.size - 1] if", "(x[0] if"),
        ("a row of four divided twice", "tuned", "u / divisor, v / divisor",
         "u / divisor, v / divisor / divisor"),
    ),
)  # fmt: skip
max = make_op(  # noqa: A001
    "max", Body(max_forward_loops, max_backward_loops), Body(max_forward_vectorized, max_backward_vectorized),
    Body(max_forward_tuned, max_backward_tuned), max_cuda,
    (
        ("last element of a tie", "loops", "argmax[j] < 0 or x[i] > y[j]", "argmax[j] < 0 or x[i] >= y[j]"),
        ("argmax within the row", "loops", "argmax[j] = i\n", "argmax[j] = j\n"),
        ("fourth row overlooked", "tuned_max", "v = r if r > v else v", "v = v"),
        ("last of equals", "tuned_max", "here if here < place else place", "here if here < size else place"),
        ("position in the second pass", "tuned_max", "where[j] = source[where[j]]", "where[j] = where[j]"),
        ("NaN overlooked", "tuned_max", "(nan & (v != v))", "(nan & (v == np.inf))"),
        ("not cleared", "tuned_max", "        x[i] = 0\n", "        pass\n"),
        ("part not cleared", "tuned_max", "clear(dx[c * share : (c + 1) * share])",
         "clear(dx[c * share : (c + 1) * share - 1])"),
    ),
)  # fmt: skip
OPS_HERE = (sum, mean, max)
