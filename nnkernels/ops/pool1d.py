"""Pooling along the last axis, for signals and sequences:

    max_pool1d            y[n, c, q] = max over s of x[n, c, sw q + dw s - pw]
    avg_pool1d            y[n, c, q] = 1 / d  sum over s of x[n, c, sw q + s - pw]
    adaptive_max_pool1d   y[n, c, q] = max  of x[n, c, w]    w from floor(q L / Q) to ceil((q + 1) L / Q) - 1
    adaptive_avg_pool1d   y[n, c, q] = mean of x[n, c, w]

    x (N, C, L)   y (N, C, Q)

with ints for sizes and, else, the attributes of max_pool2d, avg_pool2d, adaptive_max_pool2d and
adaptive_avg_pool2d. Those do the work, on images of one row: with H = R = 1, p and r are 0 alone in their
formulas, and what is left is the above. An axis of length 1 moves no element, so the images are views.
``argmax`` is then a place in the signal. Waibel et al., Phoneme Recognition Using Time-Delay Neural Networks,
IEEE Trans. ASSP 37(3), 1989, average over time so.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops import adaptive_pool, pooling
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import check_int, floats, rank

# What the vertical axis of one row gets beside each attribute of the horizontal one.
VERTICAL = {"kernel_size": 1, "stride": 1, "padding": 0, "dilation": 1, "output_size": 1}


def as_image(a: Array) -> Array:
    """Return a (N, C, L) as images (N, C, 1, L) of one row."""
    N, C, L = a.shape
    return a.reshape(N, C, 1, L)


def as_signal(a: Array) -> Array:
    """Return images (N, C, 1, L) as (N, C, L)."""
    N, C, _, Q = a.shape
    return a.reshape(N, C, Q)


def for_images(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of the op on images; a stride of None stays the kernel's size."""
    return {
        name: (VERTICAL[name], value)
        if name in VERTICAL and not (name == "stride" and value is None)
        else value
        for name, value in attributes.items()
    }


def in_one_row(body: Body) -> Body:
    """Return a body for signals made of one for images."""

    def forward(x: Array, **attributes: Any) -> tuple[Array, ...]:
        return tuple(as_signal(a) for a in body.forward(as_image(x), **for_images(attributes)))

    def backward(
        dy: Array, outputs: tuple[Array, ...], inputs: tuple[Array], needs: tuple[bool], **attributes: Any
    ) -> tuple[Array | None]:
        assert body.backward is not None
        images, given = tuple(as_image(a) for a in outputs), (as_image(inputs[0]),)
        (dx,) = body.backward(as_image(dy), images, given, needs, **for_images(attributes))
        return (None if dx is None else as_signal(dx),)

    return Body(forward, backward)


# --- records ---


def check_signal(op: str, x: Array) -> None:
    floats(op, x=x)
    rank(op, "x", x, 3, "(N, C, L)")


def check_max(
    op: str, x: Array, *, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1,
    ceil_mode: bool = False,
) -> None:  # fmt: skip
    check_signal(op, x)
    check_int(op, "dilation", dilation, 1)
    check_sizes(op, kernel_size, stride, padding)
    windows = {"kernel_size": kernel_size, "stride": stride, "padding": padding, "dilation": dilation}
    pooling.check_max(op, as_image(x), **for_images(windows), ceil_mode=ceil_mode)


def check_avg(
    op: str, x: Array, *, kernel_size: int, stride: int | None = None, padding: int = 0,
    ceil_mode: bool = False, count_include_pad: bool = True,
) -> None:  # fmt: skip
    check_signal(op, x)
    check_sizes(op, kernel_size, stride, padding)
    windows = for_images({"kernel_size": kernel_size, "stride": stride, "padding": padding})
    pooling.check_avg(op, as_image(x), **windows, ceil_mode=ceil_mode, count_include_pad=count_include_pad)


def check_sizes(op: str, kernel_size: int, stride: int | None, padding: int) -> None:
    check_int(op, "kernel_size", kernel_size, 1)
    check_int(op, "stride", kernel_size if stride is None else stride, 1)
    check_int(op, "padding", padding, 0)


def check_adaptive(op: str, x: Array, *, output_size: int | None) -> None:
    check_signal(op, x)
    if output_size is not None:
        check_int(op, "output_size", output_size, 1)
    adaptive_pool.check(op, as_image(x), output_size=(1, output_size))


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield pooling.sample(rng, dtype, (1, 1, 1), kernel_size=1)
    yield pooling.sample(rng, dtype, (2, 3, 8), kernel_size=2)
    yield pooling.sample(rng, dtype, (2, 2, 9), kernel_size=4, stride=3, padding=2)
    yield pooling.sample(rng, dtype, (1, 3, 10), kernel_size=3, stride=2, padding=1, ceil_mode=True)
    yield pooling.sample(rng, dtype, (2, 2, 5), kernel_size=5)
    yield pooling.sample(rng, dtype, (0, 2, 4), kernel_size=2)


def max_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield from samples(rng, dtype)
    yield pooling.sample(rng, dtype, (2, 2, 9), kernel_size=3, stride=1, padding=1, dilation=2)


def avg_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield from samples(rng, dtype)
    outside = {"padding": 1, "count_include_pad": False}
    yield pooling.sample(rng, dtype, (2, 2, 6), kernel_size=3, stride=2, ceil_mode=True, **outside)


def adaptive_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    for shape, output_size in (
        ((1, 1, 1), 1), ((2, 3, 7), 3), ((2, 2, 8), 4), ((1, 2, 3), 5), ((2, 2, 6), 1), ((1, 2, 4), None),
        ((0, 2, 4), 3),
    ):  # fmt: skip
        yield pooling.sample(rng, dtype, shape, output_size=output_size)


def bad_inputs() -> Iterator[BadInput]:
    x, two = np.ones((2, 3, 5)), {"kernel_size": 2}
    yield BadInput(ValueError, "x must have 3 axes (N, C, L), got shape (3, 5)", (x[0],), two)
    yield BadInput(ValueError, "the images of x must hold 1 to", (x[:, :, :0],), two)
    yield BadInput(ValueError, "kernel (6) is larger than the padded input", (x,), {"kernel_size": 6})
    yield BadInput(ValueError, "kernel_size must be at least 1, got 0", (x,), {"kernel_size": 0})
    yield BadInput(TypeError, "kernel_size must be an int, got tuple (2, 2)", (x,), {"kernel_size": (2, 2)})
    yield BadInput(ValueError, "stride must be at least 1, got 0", (x,), {**two, "stride": 0})
    yield BadInput(TypeError, "padding must be an int, got str 'same'", (x,), {**two, "padding": "same"})
    yield BadInput(ValueError, "padding must be at most half of kernel_size", (x,), {**two, "padding": 2})
    yield BadInput(TypeError, "ceil_mode must be a bool", (x,), {**two, "ceil_mode": None})
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8),), two)


def max_bad_inputs() -> Iterator[BadInput]:
    yield from bad_inputs()
    x = np.ones((2, 3, 5))
    yield BadInput(ValueError, "dilation must be at least 1", (x,), {"kernel_size": 2, "dilation": 0})
    yield BadInput(TypeError, "dilation must be an int", (x,), {"kernel_size": 2, "dilation": (1, 2)})


def avg_bad_inputs() -> Iterator[BadInput]:
    yield from bad_inputs()
    x, wrong = np.ones((2, 3, 5)), {"kernel_size": 2, "count_include_pad": 1}
    yield BadInput(TypeError, "count_include_pad must be a bool, got int 1", (x,), wrong)
    yield BadInput(TypeError, "'divisor_override'", (x,), {"kernel_size": 2, "divisor_override": 2})


def adaptive_bad_inputs() -> Iterator[BadInput]:
    x, two = np.ones((2, 3, 5)), {"output_size": 2}
    yield BadInput(ValueError, "x must have 3 axes (N, C, L), got shape (3, 5)", (x[0],), two)
    yield BadInput(ValueError, "output_size must be at least 1, got 0", (x,), {"output_size": 0})
    yield BadInput(TypeError, "output_size must be an int, got tuple (1, 2)", (x,), {"output_size": (1, 2)})
    yield BadInput(TypeError, "'output_size'", (x,))
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8),), two)


def windows_bench(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield bench(rng, dtype, (64, 32, 256), kernel_size=2)
    yield bench(rng, dtype, (16, 64, 1024), kernel_size=3, stride=2, padding=1)


def adaptive_bench(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield bench(rng, dtype, (64, 32, 100), output_size=12)
    yield bench(rng, dtype, (16, 64, 1024), output_size=1)


def bench(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], **attributes: Any) -> Sample:
    x = np.maximum(rng.standard_normal(shape), 0)
    return Sample(f"{shape} {attributes}", (np.asarray(x, dtype),), attributes)


def jvp_of(op: Op) -> Callable[..., Array]:
    """Return the jvp of the op on images, for signals."""

    def jvp(tangents: Any, outputs: Any, inputs: Any, **attributes: Any) -> Array:
        assert op.jvp is not None
        images = (tuple(as_image(a) for a in arrays) for arrays in (tangents, outputs, inputs))
        return as_signal(op.jvp(*images, **for_images(attributes)))

    return jvp


def make_op(
    image: Op, check: Callable[..., None], samples: Any, bad_inputs: Any, bench: Any, *mutants: Mutant
) -> Op:
    """Return the op for signals: max_pool1d for max_pool2d."""
    name = image.name.replace("2d", "1d")

    def flops(x: Array, **attributes: Any) -> int:
        return image.flops(as_image(x), **for_images(attributes))

    return Op(
        name=name,
        loops=in_one_row(image.loops),
        vectorized=in_one_row(image.vectorized),
        tuned=in_one_row(image.tuned),
        cuda=None if image.cuda is None else in_one_row(image.cuda),
        check=pooling.named(name, check),
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench,
        flops=flops,
        jvp=jvp_of(image),
        gradient=image.gradient,
        mutants=mutants,
    )


def mutant(name: str, body: Any, old: str, new: str, file: str = "pool1d.py") -> Mutant:
    return Mutant(name, body, file, old, new)


WINDOWS = (  # for max_pool1d and avg_pool1d
    mutant("sizes on the wrong axis", "tuned", "(VERTICAL[name], value)", "(value, VERTICAL[name])"),
    mutant("padding above and below", "vectorized", "\"padding\": 0", "\"padding\": 1"),
    mutant("window of two rows", "loops", "\"kernel_size\": 1", "\"kernel_size\": 2"),
)  # fmt: skip
ADAPTIVE = (
    mutant("size on the wrong axis", "tuned", "(VERTICAL[name], value)", "(value, VERTICAL[name])"),
    mutant(
        "windows end too early",
        "loops",
        "return ((p + 1) * H + P - 1) // P",
        "return (p + 1) * H // P",
        "adaptive_pool.py",
    ),
    mutant("channels for rows", "tuned", "return a.reshape(N, C, 1, L)", "return a.reshape(N, 1, C, L)"),
)
max_pool1d = make_op(
    pooling.max_pool2d, check_max, max_samples, max_bad_inputs, windows_bench, *WINDOWS,
    mutant("dilation taken for stride", "loops", "dw * s - pw", "sw * s - pw", "pooling/loops.py"),
    mutant("columns not dilated", "tuned", "s * dw // sw :", "s // sw :", "pooling/tuned.py"),
    mutant("padded with 0", "tuned", "line[w] = -np.inf", "line[w] = 0", "pooling/tuned.py"),
)  # fmt: skip
avg_pool1d = make_op(
    pooling.avg_pool2d, check_avg, avg_samples, avg_bad_inputs, windows_bench, *WINDOWS,
    mutant("padding counted", "loops", "return min(start + kernel, size) - max(start, 0)", "return kernel",
           "pooling/loops.py"),
    mutant("stride ignored", "tuned", "total[q * sw] * (down", "total[q] * (down", "pooling/tuned.py"),
)  # fmt: skip
adaptive_max_pool1d = make_op(
    adaptive_pool.adaptive_max_pool2d, check_adaptive, adaptive_samples, adaptive_bad_inputs, adaptive_bench,
    *ADAPTIVE,
    mutant("last element left out", "tuned", "range(columns[0, q] + 1, columns[1, q])",
           "range(columns[0, q] + 1, columns[1, q] - 1)", "adaptive_pool.py"),
)  # fmt: skip
adaptive_avg_pool1d = make_op(
    adaptive_pool.adaptive_avg_pool2d, check_adaptive, adaptive_samples, adaptive_bad_inputs, adaptive_bench,
    *ADAPTIVE,
    mutant("missing +=", "tuned", "line[w] += v", "line[w] = v", "adaptive_pool.py"),
    mutant("divided by the rows", "loops", "/ (rows * columns)", "/ rows", "adaptive_pool.py"),
)  # fmt: skip
OPS_HERE = (max_pool1d, avg_pool1d, adaptive_max_pool1d, adaptive_avg_pool1d)
