"""Images in another size, each pixel taken from the nearest one or from the four around its place:

    upsample_nearest2d    y[n, c, p, q] = x[n, c, h(p), w(q)]            h(p) = floor(p H / P)
    upsample_bilinear2d   y[n, c, p, q] = (1 - a) (1 - b) x[n, c, h, w] + (1 - a) b x[n, c, h, w + 1]
                                        + a (1 - b) x[n, c, h + 1, w] + a b x[n, c, h + 1, w + 1]

    x (N, C, H, W)   y (N, C, P, Q)   h + a = max((p + 1/2) H / P - 1/2, 0), a < 1, w + b likewise

``size`` (P, Q) says how large y is, or ``scale_factor`` does: P = floor(H s), and 1 / s stands for H / P if
P is not H (nor 2 H, for nearest). Of both, one number counts for both axes. With ``align_corners`` the corner
pixels of x become those of y: h + a = p (H - 1) / (P - 1). Beyond the last row stands the last row. h(p) is
computed in float32 as in PyTorch, where rounding may miss a whole number. Every y gives its dy to the pixels
that it was made of, with the weights it had. Keys, Cubic Convolution Interpolation for Digital Image
Processing, IEEE Trans. ASSP 29(6), 1981, compares the two with a third.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.pooling import check_flag, check_images, named
from nnkernels.ops.upsample.cuda import (
    bilinear_backward_cuda,
    bilinear_forward_cuda,
    nearest_backward_cuda,
    nearest_forward_cuda,
)
from nnkernels.ops.upsample.loops import (
    bilinear_backward_loops,
    bilinear_forward_loops,
    nearest_backward_loops,
    nearest_forward_loops,
)
from nnkernels.ops.upsample.shapes import Scale, Size, axes
from nnkernels.ops.upsample.tuned import (
    bilinear_backward_tuned,
    bilinear_forward_tuned,
    nearest_backward_tuned,
    nearest_forward_tuned,
)
from nnkernels.ops.upsample.vectorized import (
    bilinear_backward_vectorized,
    bilinear_forward_vectorized,
    nearest_backward_vectorized,
    nearest_forward_vectorized,
)
from nnkernels.ops.validate import check_pair, fail_type, number

# --- records ---


def check(op: str, x: Array, *, size: Size = None, scale_factor: Scale = None) -> None:
    check_images(op, x)
    if (size is None) == (scale_factor is None):
        raise ValueError(
            f"{op}: give size or scale_factor, one of the two; got {size!r} and {scale_factor!r}"
        )
    if scale_factor is None:
        check_pair(op, "size", size, 1)
        return
    both = scale_factor if isinstance(scale_factor, (tuple, list)) else (scale_factor, scale_factor)
    if len(both) != 2:
        fail_type(op, "scale_factor", scale_factor, "a number or a pair of numbers")
    for factor in both:
        number(op, "scale_factor", factor, 0)
    out = tuple(axis.out for axis in axes(x.shape, size, scale_factor)) if min(both) > 0 else (0, 0)
    if min(out) < 1:
        raise ValueError(f"{op}: scale_factor {scale_factor} leaves nothing of images of size {x.shape[2:]}")


def check_bilinear(
    op: str, x: Array, *, size: Size = None, scale_factor: Scale = None, align_corners: bool = False
) -> None:
    check(op, x, size=size, scale_factor=scale_factor)
    check_flag(op, "align_corners", align_corners)


def sample(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], **attributes: Any) -> Sample:
    return Sample(f"{shape} {attributes}", (np.asarray(rng.standard_normal(shape), dtype),), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1, 1, 1), size=1)
    yield sample(rng, dtype, (1, 1, 1, 1), size=(2, 3))
    yield sample(rng, dtype, (2, 2, 3, 2), scale_factor=2)
    yield sample(rng, dtype, (1, 2, 2, 3), size=(4, 7))
    yield sample(rng, dtype, (2, 1, 5, 4), size=(3, 2))
    yield sample(rng, dtype, (1, 2, 7, 3), size=(2, 8))
    yield sample(rng, dtype, (1, 2, 3, 4), scale_factor=(2.5, 0.75))
    yield sample(rng, dtype, (2, 1, 3, 3), scale_factor=3.0)
    yield sample(rng, dtype, (2, 2, 2, 3), size=(1, 6))
    yield sample(rng, dtype, (0, 2, 2, 2), scale_factor=2)


def bilinear_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield from samples(rng, dtype)
    corners = {"align_corners": True}
    yield sample(rng, dtype, (2, 2, 3, 2), scale_factor=2, **corners)
    yield sample(rng, dtype, (1, 2, 4, 3), size=(7, 2), **corners)
    yield sample(rng, dtype, (1, 1, 3, 5), size=(1, 4), **corners)


def bad_inputs() -> Iterator[BadInput]:
    x, twice = np.ones((1, 2, 3, 4)), {"scale_factor": 2}
    yield BadInput(ValueError, "x must have 4 axes (N, C, H, W), got shape (2, 3, 4)", (x[0],), twice)
    yield BadInput(ValueError, "the images of x must hold 1 to", (x[:, :, :0],), twice)
    yield BadInput(ValueError, "give size or scale_factor", (x,))
    yield BadInput(ValueError, "give size or scale_factor", (x,), {"size": 4, **twice})
    yield BadInput(ValueError, "size must be at least 1, got (0, 2)", (x,), {"size": (0, 2)})
    yield BadInput(TypeError, "size must be an int or a pair of ints", (x,), {"size": 2.5})
    yield BadInput(ValueError, "leaves nothing of images of size (3, 4)", (x,), {"scale_factor": 0.3})
    yield BadInput(ValueError, "leaves nothing", (x,), {"scale_factor": (1, 0)})
    yield BadInput(ValueError, "scale_factor must be at least 0, got -1", (x,), {"scale_factor": -1})
    yield BadInput(ValueError, "scale_factor must be finite", (x,), {"scale_factor": float("inf")})
    yield BadInput(TypeError, "scale_factor must be a number, got str '2'", (x,), {"scale_factor": "2"})
    yield BadInput(TypeError, "a number or a pair of numbers", (x,), {"scale_factor": (1, 2, 3)})
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8),), twice)


def bilinear_bad_inputs() -> Iterator[BadInput]:
    yield from bad_inputs()
    x, wrong = np.ones((1, 2, 3, 4)), {"size": 2, "align_corners": None}
    yield BadInput(TypeError, "align_corners must be a bool, got NoneType None", (x,), wrong)


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    """A ragged size, and a decoder's doubling."""
    yield sample(rng, dtype, (8, 4, 20, 21), size=(37, 50))
    yield sample(rng, dtype, (8, 64, 28, 28), scale_factor=2)


def flops(x: Array, *, size: Size = None, scale_factor: Scale = None) -> int:
    return 0


def bilinear_flops(
    x: Array, *, size: Size = None, scale_factor: Scale = None, align_corners: bool = False
) -> int:
    down, along = axes(x.shape, size, scale_factor)
    return int(9 * x.shape[0] * x.shape[1] * down.out * along.out)  # three weighted sums of two


def jvp_of(forward: Callable[..., tuple[Array]]) -> Callable[..., Array]:
    """Return the jvp of a linear op: the op itself."""

    def jvp(tangents: Any, outputs: Any, inputs: Any, **attributes: Any) -> Array:
        return forward(tangents[0], **attributes)[0]

    return jvp


def mutant(name: str, body: Any, old: str, new: str, file: str = "") -> Mutant:
    return Mutant(name, body, file or f"upsample/{body}.py", old, new)


upsample_nearest2d = Op(
    name="upsample_nearest2d",
    loops=Body(nearest_forward_loops, nearest_backward_loops),
    vectorized=Body(nearest_forward_vectorized, nearest_backward_vectorized),
    tuned=Body(nearest_forward_tuned, nearest_backward_tuned),
    cuda=Body(nearest_forward_cuda, nearest_backward_cuda),
    check=named("upsample_nearest2d", check),
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=jvp_of(nearest_forward_tuned),
    gradient=linear,
    mutants=(
        mutant("missing +=", "loops", "nearest(q, step_w, W)] += dy", "nearest(q, step_w, W)] = dy"),
        mutant("steps swapped", "loops", "y[n, c, p, q] = x[n, c, nearest(p, step_h",
               "y[n, c, p, q] = x[n, c, nearest(p, step_w"),
        mutant("rounded up", "loops", "np.floor(", "np.ceil("),
        mutant("rows and columns swapped", "tuned", "columns[q])]", "rows[q % len(rows)])]"),
        mutant("first row for all", "tuned", "rows[p] == rows[p - 1]", "rows[p] >= rows[p - 1]"),
        mutant("one axis decides", "tuned", "down.out == 2 * down.size and", "down.out == 2 * down.size or"),
        mutant("windows overlap", "tuned", "np.searchsorted(places, h, \"right\")",
               "np.searchsorted(places, h + 1, \"right\")", "upsample/shapes.py"),
        mutant("factor read upside down", "vectorized", "else 1 / axis.factor", "else axis.factor",
               "upsample/shapes.py"),
    ),
)  # fmt: skip
upsample_bilinear2d = Op(
    name="upsample_bilinear2d",
    loops=Body(bilinear_forward_loops, bilinear_backward_loops),
    vectorized=Body(bilinear_forward_vectorized, bilinear_backward_vectorized),
    tuned=Body(bilinear_forward_tuned, bilinear_backward_tuned),
    cuda=Body(bilinear_forward_cuda, bilinear_backward_cuda),
    check=named("upsample_bilinear2d", check_bilinear),
    samples=bilinear_samples,
    bad_inputs=bilinear_bad_inputs,
    bench_samples=bench_samples,
    flops=bilinear_flops,
    jvp=jvp_of(bilinear_forward_tuned),
    gradient=linear,
    mutants=(
        mutant("pixel centres forgotten", "loops", "max((p + 0.5) * step - 0.5, 0.0)", "p * step"),
        mutant("corner beyond the image", "loops", "max((p + 0.5) * step - 0.5, 0.0)",
               "(p + 0.5) * step - 0.5"),
        mutant("missing += at one corner", "loops", "dx[n, c, below, right] +=", "dx[n, c, below, right] ="),
        mutant("weights swapped", "loops", "(1 - a) * upper + a * lower", "a * upper + (1 - a) * lower"),
        mutant("corners not aligned", "tuned", "return (axis.size - 1) / (axis.out - 1) if",
               "return axis.size / axis.out if", "upsample/shapes.py"),
        mutant("row of the image before", "tuned", "held[0], held[1] = -1, -1\n        for p",
               "pass\n        for p"),
        mutant("lines not told apart", "tuned", "widen(x[i, h], columns, along, lines[h & 1])",
               "widen(x[i, h], columns, along, lines[0])"),
        mutant("line kept from the row before", "tuned", "                    clear(lines[h & 1])\n", ""),
        mutant("last rows never written", "tuned", "if held[k] >= 0:", "if held[k] < 0:"),
        mutant("missing +=", "tuned", "lines[h & 1, q] += weight", "lines[h & 1, q] = weight"),
        mutant("weights begin anew in each window", "tuned", "total = row.dtype.type(0)",
               "total = row.dtype.type(0); k = 0"),
        mutant("left weight forgotten", "tuned", "np.where(first == i, left, 0) + ", "",
               "upsample/shapes.py"),
    ),
)  # fmt: skip
OPS_HERE = (upsample_nearest2d, upsample_bilinear2d)
