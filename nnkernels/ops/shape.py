"""Ops that look at the elements of x in another order: y_i = x_s(i), dx_s(i) = dy_i.

    reshape(shape=)                  the same elements in the same order; one length may be -1
    flatten(start_dim=0, end_dim=-1) the axes from start_dim to end_dim become one
    transpose(dim0=, dim1=)          two axes change places
    permute(dims=)                   axis i of y is axis dims[i] of x
    slice(index=)                    x[index] with ints, slices of any step, Ellipsis and None

The map s is the same in all: s(i) = offset + sum over y's axes of i_axis step_axis, a place in the flat x.
x has any shape, float32 or float64. ``loops`` shows the copy; ``vectorized`` and ``tuned``, which are one
body here, return views of x, and backward, but for slice, views of dy.
"""

import math
from builtins import slice as Slice
from collections.abc import Callable, Iterator
from functools import lru_cache
from numbers import Integral
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array, zeros
from nnkernels.ops.folding import source_index
from nnkernels.ops.gradients import linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.shape_cuda import Map, make_copies
from nnkernels.ops.validate import axis_index, fail_type, floats

Shape = tuple[int, ...]


def row_steps(shape: Shape) -> Shape:
    """Return the steps of a C-contiguous array, in elements."""
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


# --- loops, once for all ops ---


@jit
def gather_kernel(x: Array, offset: int, shape: Array, steps: Array, y: Array) -> None:
    for i in range(y.size):
        y[i] = x[offset + source_index(i, shape, steps)]


@jit
def scatter_kernel(dy: Array, offset: int, shape: Array, steps: Array, dx: Array) -> None:
    for i in range(dy.size):
        dx[offset + source_index(i, shape, steps)] = dy[i]


def gather(x: Array, where: Map) -> Array:
    """Return the elements of x at the map's places."""
    offset, shape, steps = where
    y = np.empty(shape, x.dtype)
    gather_kernel(x.reshape(-1), offset, np.array(shape, np.int64), np.array(steps, np.int64), y.reshape(-1))
    return y


def scatter(dy: Array, where: Map, dx: Array) -> None:
    """Write dy to the map's places in dx."""
    offset, shape, steps = where
    sizes = np.array(shape, np.int64)
    scatter_kernel(dy.reshape(-1), offset, sizes, np.array(steps, np.int64), dx.reshape(-1))


def make_loops(place: Callable[..., Map]) -> Body:
    """Return the body of a view op: an explicit copy, element by element."""

    def forward(x: Array, **attributes: Any) -> tuple[Array]:
        return (gather(x, place(x, **attributes)),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], **attributes: Any
    ) -> tuple[Array | None]:
        if not needs[0]:
            return (None,)
        dx = np.zeros(inputs[0].shape, inputs[0].dtype)
        scatter(dy, place(inputs[0], **attributes), dx)
        return (dx,)

    return Body(forward, backward)


# --- views: what `vectorized` and `tuned` do where the map is one that NumPy's strides can express ---


def make_views(view: Callable[..., Array], inverse: Callable[..., Array]) -> Body:
    """Return the body that copies nothing: y is a view of x, and dx one of dy if inverse(dy, x) is."""

    def forward(x: Array, **attributes: Any) -> tuple[Array]:
        return (view(x, **attributes),)

    def backward(
        dy: Array, outputs: tuple[Array], inputs: tuple[Array], needs: tuple[bool], **attributes: Any
    ) -> tuple[Array | None]:
        return (inverse(dy, inputs[0], **attributes) if needs[0] else None,)

    return Body(forward, backward)


def lengths(x: Array, shape: int | Shape) -> Shape:
    """Return ``shape`` with -1 replaced by what is left."""
    wanted = tuple(shape) if isinstance(shape, (tuple, list)) else (shape,)
    rest = math.prod(n for n in wanted if n != -1)
    return tuple(x.size // rest if n == -1 else n for n in wanted)


def reshape_place(x: Array, shape: int | Shape) -> Map:
    sizes = lengths(x, shape)
    return 0, sizes, row_steps(sizes)


def reshape_view(x: Array, shape: int | Shape) -> Array:
    return x.reshape(lengths(x, shape))


def reshape_inverse(dy: Array, x: Array, **attributes: Any) -> Array:
    return dy.reshape(x.shape)


@lru_cache(maxsize=256)
def flattened(shape: Shape, start_dim: int, end_dim: int) -> Shape:
    """Return the shape with the axes start_dim to end_dim multiplied together."""
    n = len(shape)
    if n == 0:
        return (1,)
    first, last = start_dim % n, end_dim % n
    return *shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]


def flatten_place(x: Array, start_dim: int = 0, end_dim: int = -1) -> Map:
    return reshape_place(x, flattened(x.shape, start_dim, end_dim))


def flatten_view(x: Array, start_dim: int = 0, end_dim: int = -1) -> Array:
    return x.reshape(flattened(x.shape, start_dim, end_dim))


def permute_place(x: Array, dims: Shape) -> Map:
    steps = row_steps(x.shape)
    return 0, tuple(x.shape[d] for d in dims), tuple(steps[d] for d in dims)


def permute_view(x: Array, dims: Shape) -> Array:
    return x.transpose(dims)


def permute_inverse(dy: Array, x: Array, dims: Shape) -> Array:
    return dy.transpose(np.argsort([d % x.ndim for d in dims]))


def permute_place_back(dy: Array, dims: Shape) -> Map:
    return permute_place(dy, tuple(np.argsort([d % dy.ndim for d in dims]).tolist()))


def transpose_place(x: Array, dim0: int, dim1: int) -> Map:
    dims = list(range(x.ndim))
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return permute_place(x, tuple(dims))


def transpose_view(x: Array, dim0: int, dim1: int) -> Array:
    return x.swapaxes(dim0, dim1)


def transpose_inverse(dy: Array, x: Array, dim0: int, dim1: int) -> Array:
    return dy.swapaxes(dim0, dim1)


def index_items(index: Any) -> tuple[Any, ...]:
    """Return the index as a tuple."""
    return index if isinstance(index, tuple) else (index,)


def spelled_out(index: Any, ndim: int) -> list[Any]:
    """Return the index with an item for every axis: Ellipsis, or the end, stands for whole axes."""
    items = list(index_items(index))
    if Ellipsis not in items:
        items.append(Ellipsis)
    at = items.index(Ellipsis)
    missing = ndim - (len(items) - 1 - items.count(None))
    return items[:at] + [Slice(None)] * missing + items[at + 1 :]


def slice_place(x: Array, index: Any) -> Map:
    offset, axis = 0, 0
    shape: list[int] = []
    steps: list[int] = []
    for item in spelled_out(index, x.ndim):
        if item is None:
            shape.append(1)
            steps.append(0)
            continue
        n, step = x.shape[axis], row_steps(x.shape)[axis]
        if isinstance(item, Slice):
            start, stop, stride = item.indices(n)
            offset += start * step
            shape.append(len(range(start, stop, stride)))
            steps.append(stride * step)
        else:
            offset += (item % n) * step
        axis += 1
    return offset, tuple(shape), tuple(steps)


def slice_view(x: Array, index: Any) -> Array:
    items = index_items(index)
    # A trailing Ellipsis makes the result of all ints a view of no axes rather than a number.
    y: Array = x[items if Ellipsis in items else (*items, Ellipsis)]
    return y


def slice_inverse(dy: Array, x: Array, index: Any) -> Array:
    dx = zeros(x.shape, x.dtype)
    slice_view(dx, index)[...] = dy  # no element comes twice in a basic index
    return dx


# --- records ---


def axis(op: str, name: str, dim: Any, ndim: int) -> int:
    """Return axis ``dim`` counted from the front; the message calls it ``name``."""
    try:
        return axis_index(op, dim, ndim)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace(": dim must", f": {name} must", 1)) from None


def integers(op: str, name: str, values: Any, least: int | None = None) -> Shape:
    """Demand a tuple of ints, none below ``least``."""
    if not isinstance(values, (tuple, list)) or not all(
        isinstance(v, Integral) and not isinstance(v, bool) for v in values
    ):
        fail_type(op, name, values, "a tuple of ints")
    if least is not None and any(v < least for v in values):
        raise ValueError(f"{op}: {name} must be at least {least} each, got {values!r}")
    return tuple(values)


def check_reshape(x: Array, shape: Any) -> None:
    floats("reshape", x=x)
    sizes = integers("reshape", "shape", (shape,) if isinstance(shape, Integral) else shape, -1)
    known = math.prod(n for n in sizes if n != -1)
    if sizes.count(-1) > 1:
        raise ValueError(f"reshape: only one length may be -1, got shape={shape!r}")
    if -1 in sizes and known == 0:
        raise ValueError(f"reshape: -1 is ambiguous beside a length of 0, got shape={shape!r}")
    if known != x.size if -1 not in sizes else x.size % known:
        raise ValueError(f"reshape: x of shape {x.shape} has {x.size} elements, which do not fit {shape!r}")


def check_flatten(x: Array, start_dim: Any = 0, end_dim: Any = -1) -> None:
    floats("flatten", x=x)
    ndim = x.ndim or 1
    first = axis("flatten", "start_dim", start_dim, ndim)
    if first > axis("flatten", "end_dim", end_dim, ndim):
        raise ValueError(f"flatten: start_dim ({start_dim}) lies behind end_dim ({end_dim}) in {x.ndim} axes")


def check_transpose(x: Array, dim0: Any, dim1: Any) -> None:
    floats("transpose", x=x)
    axis("transpose", "dim0", dim0, x.ndim)
    axis("transpose", "dim1", dim1, x.ndim)


def check_permute(x: Array, dims: Any) -> None:
    floats("permute", x=x)
    found = [axis("permute", "each of dims", d, x.ndim) for d in integers("permute", "dims", dims)]
    if sorted(found) != list(range(x.ndim)):
        raise ValueError(f"permute: dims must name each of {x.ndim} axes once, got {dims!r}")


def check_slice(x: Array, index: Any) -> None:
    floats("slice", x=x)
    items = index_items(index)
    at = 0
    for item in items:
        if not (item is None or item is Ellipsis or isinstance(item, (Slice, Integral))) or isinstance(
            item, bool
        ):
            fail_type("slice", "index", item, "made of ints, slices, Ellipsis and None")
    if items.count(Ellipsis) > 1:
        raise ValueError(f"slice: index may hold one Ellipsis, got {index!r}")
    if sum(isinstance(item, (Slice, Integral)) for item in items) > x.ndim:
        raise ValueError(f"slice: index {index!r} has too many items for x with shape {x.shape}")
    for item in spelled_out(index, x.ndim):
        if item is None:
            continue
        n = x.shape[at]
        if isinstance(item, Slice):
            try:
                item.indices(n)
            except (TypeError, ValueError) as error:
                raise type(error)(f"slice: {item!r} is no slice of an axis: {error}") from None
        elif not -n <= item < n:
            raise ValueError(f"slice: index {item} is out of range for axis {at} of x with shape {x.shape}")
        at += 1


Case = tuple[tuple[Shape, ...], dict[str, Any]]  # shapes of the inputs, attributes
Wrong = tuple[type[Exception], str, tuple[Shape, ...], dict[str, Any]]


def make_op(
    name: str, loops: Body, vectorized: Body, tuned: Body, cuda: Body, check: Callable[..., None],
    cases: tuple[Case, ...], large: Case, wrong: tuple[Wrong, ...], mutants: tuple[Mutant, ...],
) -> Op:  # fmt: skip
    """Return the record from shapes and attributes; ``large`` is the size worth timing."""

    def filled(rng: np.random.Generator, case: Case, dtype: Any) -> Sample:
        shapes, attributes = case
        arrays = tuple(np.asarray(rng.standard_normal(shape), dtype) for shape in shapes)
        return Sample(f"{', '.join(map(str, shapes))}, {attributes}", arrays, attributes)

    def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        for case in cases:
            yield filled(rng, case, dtype)

    def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
        yield filled(rng, large, dtype)

    def bad_inputs() -> Iterator[BadInput]:
        yield BadInput(
            TypeError, "must be float32 or float64, got int64", (np.ones((2, 3), int),), cases[0][1]
        )
        for error, words, shapes, attributes in wrong:
            yield BadInput(error, words, tuple(np.ones(shape) for shape in shapes), attributes)

    def jvp(
        tangents: tuple[Array | None, ...],
        outputs: tuple[Array],
        inputs: tuple[Array, ...],
        **attributes: Any,
    ) -> Array:
        if name == "pad":
            attributes = {**attributes, "value": 0.0}
        moved = tuple(np.zeros_like(x) if v is None else v for v, x in zip(tangents, inputs))
        y: Array = loops.forward(*moved, **attributes)[0]
        return y

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
        flops=lambda *_, **__: 0,
        jvp=jvp,
        gradient=linear,
        mutants=mutants,
    )


def mutant(name: str, old: str, new: str, body: Any = "loops") -> Mutant:
    """Return a fault planted in this file."""
    return Mutant(name, body, "shape.py", old, new)


views = make_views(reshape_view, reshape_inverse)
reshape = make_op(
    "reshape", make_loops(reshape_place), views, views, views, check_reshape,
    cases=(
        (((2, 3),), {"shape": (3, 2)}), (((2, 3, 4),), {"shape": (4, -1)}), (((),), {"shape": (1, -1)}),
        (((7,),), {"shape": 7}), (((1,),), {"shape": ()}), (((0, 3),), {"shape": (5, 0)}),
        (((0, 3),), {"shape": (-1, 3)}),
    ),
    large=(((64, 16, 5, 5),), {"shape": (64, -1)}),
    wrong=(
        (ValueError, "x of shape (2, 3) has 6 elements, which do not fit (4, -1)", ((2, 3),),
         {"shape": (4, -1)}),
        (ValueError, "do not fit (7,)", ((2, 3),), {"shape": (7,)}),
        (ValueError, "only one length may be -1", ((2, 3),), {"shape": (-1, -1)}),
        (ValueError, "-1 is ambiguous beside a length of 0", ((0, 3),), {"shape": (0, -1)}),
        (ValueError, "shape must be at least -1 each", ((2, 3),), {"shape": (-2, -3)}),
        (TypeError, "shape must be a tuple of ints", ((2, 3),), {"shape": (3.0, 2)}),
    ),
    mutants=(
        mutant("first axis fastest", "return 0, sizes, row_steps(sizes)",
               "return 0, sizes, row_steps(sizes[::-1])[::-1]"),
        mutant("gradient overwritten", "] = dy[i]\n", "] = dy[0]\n"),
        mutant("-1 counts itself", "math.prod(n for n in wanted if n != -1)", "math.prod(wanted)"),
        mutant("last axis first", "return x.reshape(lengths(x, shape))",
               'return x.reshape(lengths(x, shape), order="F")', "tuned"),
    ),
)  # fmt: skip
views = make_views(flatten_view, reshape_inverse)
flatten = make_op(
    "flatten", make_loops(flatten_place), views, views, views, check_flatten,
    cases=(
        (((2, 3),), {}), (((),), {}), (((2, 3, 4, 5),), {"start_dim": 1}), (((5,),), {"end_dim": 0}),
        (((2, 3, 4, 5),), {"start_dim": -3, "end_dim": 2}), (((0, 2, 2),), {"start_dim": 1}),
    ),
    large=(((64, 16, 5, 5),), {"start_dim": 1}),
    wrong=(
        (ValueError, "start_dim (2) lies behind end_dim (1) in 3 axes", ((2, 3, 4),),
         {"start_dim": 2, "end_dim": 1}),
        (ValueError, "start_dim must be in [-2, 2)", ((2, 3),), {"start_dim": 2}),
        (TypeError, "end_dim must be an int", ((2, 3),), {"end_dim": 1.0}),
    ),
    mutants=(
        mutant("end_dim left out", "first : last + 1]), *", "first:last]), *"),
        mutant("start_dim ignored", "return x.reshape(flattened(x.shape, start_dim, end_dim))",
               "return x.reshape(flattened(x.shape, 0, end_dim))", "tuned"),
        mutant("end_dim ignored", "x.reshape(flattened(x.shape, start_dim, end_dim))",
               "x.reshape(flattened(x.shape, start_dim, -1))", "tuned"),
        mutant("axes behind end_dim lost", ", *shape[last + 1 :]", ""),
    ),
)  # fmt: skip
views, copies = make_views(permute_view, permute_inverse), make_copies(permute_place, permute_place_back)
permute = make_op(
    "permute", make_loops(permute_place), views, views, copies, check_permute,
    cases=(
        (((2, 3, 4),), {"dims": (2, 0, 1)}), (((2, 3),), {"dims": (-1, 0)}), (((),), {"dims": ()}),
        (((2, 3, 4, 5),), {"dims": (0, 2, 3, 1)}), (((0, 2),), {"dims": (1, 0)}),
    ),
    large=(((16, 3, 32, 32),), {"dims": (0, 2, 3, 1)}),
    wrong=(
        (ValueError, "dims must name each of 2 axes once, got (0, 0)", ((2, 3),), {"dims": (0, 0)}),
        (ValueError, "dims must name each of 2 axes once", ((2, 3),), {"dims": (1,)}),
        (ValueError, "each of dims must be in [-2, 2)", ((2, 3),), {"dims": (0, 2)}),
        (TypeError, "dims must be a tuple of ints", ((2, 3),), {"dims": 0}),
    ),
    mutants=(
        mutant("steps not permuted", "tuple(steps[d] for d in dims)", "steps"),
        mutant("permuted again backward", "dy.transpose(np.argsort([d % x.ndim for d in dims]))",
               "dy.transpose(dims)", "tuned"),
        mutant("lengths not permuted", "tuple(x.shape[d] for d in dims)", "x.shape"),
        mutant("axes turned around", "return x.transpose(dims)", "return x.transpose(dims[::-1])", "tuned"),
    ),
)  # fmt: skip
views, copies = make_views(transpose_view, transpose_inverse), make_copies(transpose_place, transpose_place)
transpose = make_op(
    "transpose", make_loops(transpose_place), views, views, copies, check_transpose,
    cases=(
        (((2, 3),), {"dim0": 0, "dim1": 1}), (((2, 3, 4),), {"dim0": -1, "dim1": 0}),
        (((2, 3, 4, 5),), {"dim0": 1, "dim1": 2}), (((3,),), {"dim0": 0, "dim1": -1}),
        (((2, 0),), {"dim0": 0, "dim1": 1}),
    ),
    large=(((300, 200),), {"dim0": 0, "dim1": 1}),
    wrong=(
        (ValueError, "dim1 must be in [-2, 2) for 2 axes, got 2", ((2, 3),), {"dim0": 0, "dim1": 2}),
        (TypeError, "dim0 must be an int", ((2, 3),), {"dim0": None, "dim1": 1}),
    ),
    mutants=(
        mutant("nothing swapped", "= dims[dim1], dims[dim0]", "= dims[dim0], dims[dim1]"),
        mutant("not swapped back", "return dy.swapaxes(dim0, dim1)", "return dy.reshape(x.shape)", "tuned"),
        mutant("swapped with the last", "return x.swapaxes(dim0, dim1)", "return x.swapaxes(dim0, -1)",
               "tuned"),
        mutant("gradient from the first place", "dx[offset + source_index(i, shape, steps)] = dy[i]",
               "dx[source_index(i, shape, steps[::-1])] = dy[i]"),
    ),
)  # fmt: skip
views, copies = make_views(slice_view, slice_inverse), make_copies(slice_place)
slice = make_op(  # noqa: A001 (Python's name for it)
    "slice", make_loops(slice_place), views, views, copies, check_slice,
    cases=(
        (((5,),), {"index": 2}), (((5,),), {"index": Slice(None, None, -2)}), (((),), {"index": ()}),
        (((4, 5),), {"index": (Slice(1, 3), -1)}), (((4, 5),), {"index": (1, 2)}),
        (((3, 4, 5),), {"index": (..., Slice(4, 0, -3))}), (((3, 4, 5),), {"index": (None, 1, ..., None, 2)}),
        (((3, 4),), {"index": Slice(2, 1)}), (((0, 4),), {"index": (Slice(None), Slice(1, -1))}),
        (((3, 4),), {"index": (Slice(-2, 99), Slice(-99, None, 3))}),
    ),
    large=(((64, 3, 32, 32),), {"index": (Slice(None), Slice(None), Slice(2, 30), Slice(None, None, -1))}),
    wrong=(
        (ValueError, "index 5 is out of range for axis 1 of x with shape (4, 5)", ((4, 5),),
         {"index": (0, 5)}),
        (ValueError, "too many items for x with shape (4, 5)", ((4, 5),), {"index": (0, 1, 2)}),
        (ValueError, "one Ellipsis", ((4, 5),), {"index": (..., 0, ...)}),
        (ValueError, "slice step cannot be zero", ((4, 5),), {"index": Slice(None, None, 0)}),
        (TypeError, "no slice of an axis", ((4, 5),), {"index": Slice(0.5, 2)}),
        (TypeError, "made of ints, slices, Ellipsis and None", ((4, 5),), {"index": [0, 1]}),
        (TypeError, "made of ints, slices, Ellipsis and None, got bool", ((4, 5),), {"index": True}),
    ),
    mutants=(
        mutant("start forgotten", "offset += start * step", "offset += 0 * step"),
        mutant("stride forgotten", "steps.append(stride * step)", "steps.append(step)"),
        mutant("Ellipsis always at the end", "missing + items[at + 1 :]", "(missing - 1) + items[at + 1 :]"),
        mutant("gradient not cleared elsewhere", "dx = zeros(x.shape, x.dtype)", "dx = x.copy()", "tuned"),
        mutant("written to the front", "slice_view(dx, index)[...] = dy",
               "dx.reshape(-1)[: dy.size] = dy.reshape(-1)", "tuned"),
    ),
)  # fmt: skip
OPS_HERE = (reshape, flatten, permute, transpose, slice)
VIEWS = frozenset(op.name for op in OPS_HERE)  # whose results lie in the memory of their inputs
