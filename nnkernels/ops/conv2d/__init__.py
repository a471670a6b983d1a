"""Two-dimensional convolution (a cross-correlation, as in every deep-learning library):

    y[n, k, p, q] = b[k] + sum over c, r, s of x[n, c, sh p + dh r - ph, sw q + dw s - pw] w[k, c, r, s]

    x (N, C, H, W)   w (K, C / groups, R, S)   b (K) or None   y (N, K, P, Q)
    P = floor((H + 2 ph - dh (R - 1) - 1) / sh) + 1, Q alike

with stride (sh, sw), padding (ph, pw), dilation (dh, dw), zeros outside. With groups, the K filters and C
channels fall into as many equal parts, and filters read the channels of their own part only. With
activation="relu", y is max(y, 0), in the same pass over memory. Every product x w of the sum gives dy w to dx
and dy x to dw. LeCun et al., Gradient-Based Learning Applied to Document Recognition, Proc. IEEE 86(11),
1998.
"""

from collections.abc import Callable, Iterator
from numbers import Integral
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.activation import before_relu, check_activation
from nnkernels.ops.conv2d.cuda import convolution_cuda
from nnkernels.ops.conv2d.loops import conv2d_backward_loops, conv2d_forward_loops
from nnkernels.ops.conv2d.methods import describe, no_winograd, prepared_patches
from nnkernels.ops.conv2d.shapes import Pair, Winograd, out_shape
from nnkernels.ops.conv2d.tuned import conv2d_backward_tuned, conv2d_forward_tuned
from nnkernels.ops.conv2d.vectorized import conv2d_backward_vectorized, conv2d_forward_vectorized
from nnkernels.ops.conv2d.winograd import forward as by_winograd
from nnkernels.ops.conv2d.winograd import prepare as winograd_filters
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.validate import check_pair, fail_type, floats, given, output_size, pair, rank

# --- records ---


def check(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1, activation: str | None = None, winograd: Winograd = None,
) -> None:  # fmt: skip
    check_arrays("conv2d", x, w, b, "H, W", "R, S", groups)
    check_activation("conv2d", activation)
    check_winograd(winograd, w, stride, padding, dilation, groups)
    (sh, sw), (ph, pw), (dh, dw) = (
        check_pair("conv2d", "stride", stride, 1),
        check_pair("conv2d", "padding", padding, 0),
        check_pair("conv2d", "dilation", dilation, 1),
    )
    output_size("conv2d", x.shape[2], dh * (w.shape[2] - 1) + 1, sh, ph, "H")
    output_size("conv2d", x.shape[3], dw * (w.shape[3] - 1) + 1, sw, pw, "W")


def check_arrays(op: str, x: Array, w: Array, b: Array | None, axes: str, taps: str, groups: int) -> None:
    """Check the arrays of a convolution over the axes of x named, by filters with the axes ``taps``."""
    floats(op, x=x, w=w, **given(b=b))
    dimensions = 2 + len(axes.split(", "))
    rank(op, "x", x, dimensions, f"(N, C, {axes})")
    rank(op, "w", w, dimensions, f"(out_channels, in_channels / groups, {taps})")
    if w.size == 0:
        raise ValueError(f"{op}: w must not be empty, got shape {w.shape}")
    check_groups(op, groups, x, w)
    if b is not None and b.shape != w.shape[:1]:
        raise ValueError(f"{op}: b must have shape {w.shape[:1]}, one value per filter, got {b.shape}")


def check_winograd(winograd: Winograd, w: Array, *how: Any) -> None:
    """Check that a method asked for by name is one for these filters."""
    if winograd is None or winograd is False:
        return
    if isinstance(winograd, bool) or winograd not in (2, 4):
        raise ValueError(f"conv2d: winograd must be None, False, 2 or 4, got {winograd!r}")
    stride, padding, dilation, groups = how
    if why := no_winograd(w.shape, pair(stride), pair(padding), pair(dilation), groups):
        raise ValueError(f"conv2d: winograd must be None or False here, got {winograd}: {why}")


def check_groups(op: str, groups: int, x: Array, w: Array) -> None:
    """Check that x (N, C, ...) and w (K, C / groups, ...) can be cut into ``groups``."""
    if not isinstance(groups, Integral) or isinstance(groups, bool):
        fail_type(op, "groups", groups, "an int")
    if groups < 1 or w.shape[0] % groups:
        raise ValueError(
            f"{op}: groups must be at least 1 and divide the {w.shape[0]} filters of w, got {groups}"
        )
    if x.shape[1] != w.shape[1] * groups:
        each = f" in each of {groups} groups" if groups > 1 else ""
        raise ValueError(
            f"{op}: x has {x.shape[1]} channels, w takes {w.shape[1]}{each}: shapes {x.shape} and {w.shape}"
        )


def sample(
    rng: np.random.Generator, dtype: Any, x: tuple[int, ...], w: tuple[int, ...], *,
    bias: bool = True, **attributes: Any,
) -> Sample:  # fmt: skip
    arrays = tuple(np.asarray(rng.standard_normal(s), dtype) for s in (x, w, w[:1]))
    label = f"{x} * {w}" + (f" {attributes}" if attributes else "")
    return Sample(label, arrays if bias else (*arrays[:2], None), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1, 1, 1), (1, 1, 1, 1))
    yield sample(rng, dtype, (2, 3, 5, 7), (4, 3, 3, 2))
    yield sample(rng, dtype, (3, 2, 6, 5), (5, 2, 3, 3), bias=False, padding=1)
    yield sample(rng, dtype, (2, 2, 7, 8), (3, 2, 3, 3), stride=2)
    yield sample(rng, dtype, (2, 1, 6, 7), (2, 1, 2, 3), stride=(2, 3), padding=(1, 2))
    yield sample(rng, dtype, (1, 2, 5, 5), (2, 2, 1, 1), stride=3)
    yield sample(rng, dtype, (1, 2, 2, 3), (2, 2, 4, 5), padding=(2, 1))
    yield sample(rng, dtype, (0, 2, 4, 4), (3, 2, 3, 3))
    yield sample(rng, dtype, (2, 3, 5, 6), (4, 3, 3, 3), padding=1, stride=(1, 2), activation="relu")
    yield sample(rng, dtype, (2, 2, 5, 4), (3, 2, 3, 3), padding=1, activation="relu", winograd=4)
    yield sample(rng, dtype, (1, 3, 4, 6), (2, 3, 3, 3), padding=(2, 0), winograd=4)
    yield sample(rng, dtype, (2, 2, 3, 5), (2, 2, 3, 3), padding=(0, 1), winograd=2)
    yield sample(rng, dtype, (1, 2, 1, 4), (3, 2, 1, 1), padding=1, stride=3)
    yield sample(rng, dtype, (2, 2, 9, 8), (3, 2, 3, 2), dilation=(2, 3), padding=(2, 1))
    yield sample(rng, dtype, (1, 2, 9, 9), (2, 2, 3, 3), stride=(2, 3), dilation=(3, 2), padding=2)
    yield sample(rng, dtype, (2, 4, 5, 6), (6, 2, 3, 3), groups=2, padding=1, stride=2)
    yield sample(rng, dtype, (2, 3, 5, 5), (6, 1, 3, 3), groups=3)
    yield sample(
        rng, dtype, (2, 2, 4, 5), (2, 1, 3, 2), groups=2, padding=(1, 2), stride=(3, 2), dilation=(1, 2)
    )
    yield sample(rng, dtype, (1, 3, 5, 4), (3, 1, 2, 3), groups=3, bias=False, activation="relu")
    yield sample(rng, dtype, (1, 17, 3, 4), (3, 17, 2, 3), padding=1)
    yield sample(rng, dtype, (1, 34, 3, 3), (2, 17, 2, 3), groups=2, stride=2, dilation=2, padding=1)


def bad_inputs() -> Iterator[BadInput]:
    x, w = np.ones((2, 3, 5, 5)), np.ones((4, 3, 3, 3))
    yield BadInput(ValueError, "x must have 4 axes (N, C, H, W), got shape (3, 5, 5)", (x[0], w))
    yield BadInput(ValueError, "x has 3 channels, w takes 2", (x, w[:, :2]))
    yield BadInput(ValueError, "winograd must be None, False, 2 or 4, got 3", (x, w), {"winograd": 3})
    yield BadInput(ValueError, "Winograd is for 3 x 3", (x, w), {"winograd": 4, "stride": 2})
    yield BadInput(ValueError, "activation must be", (x, w), {"activation": "tanh"})
    yield BadInput(ValueError, "w takes 3 in each of 2 groups", (x, w), {"groups": 2})
    yield BadInput(ValueError, "divide the 4 filters", (x, w[:, :1]), {"groups": 3})
    yield BadInput(TypeError, "groups must be an int", (x, w), {"groups": 1.0})
    yield BadInput(ValueError, "dilation must be at least 1", (x, w), {"dilation": 0})
    yield BadInput(ValueError, "kernel (7) is larger than the padded input", (x, w), {"dilation": (1, 3)})
    yield BadInput(ValueError, "kernel (6) is larger than the padded input", (x, np.ones((4, 3, 6, 3))))
    yield BadInput(ValueError, "stride must be at least 1, got 0", (x, w), {"stride": 0})
    yield BadInput(ValueError, "padding must be at least 0", (x, w), {"padding": (1, -1)})
    yield BadInput(TypeError, "stride must be an int or a pair of ints", (x, w), {"stride": 1.5})
    yield BadInput(TypeError, "padding must be an int or a pair of ints", (x, w), {"padding": "same"})
    yield BadInput(ValueError, "b must have shape (4,)", (x, w, np.ones(3)))
    yield BadInput(ValueError, "w must not be empty", (x, w[:0]))
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8), w))
    yield BadInput(TypeError, "one dtype, got float64 and float32", (x, w.astype(np.float32)))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (4, 6, 30, 30), (8, 6, 5, 5))
    yield sample(rng, dtype, (64, 6, 14, 14), (16, 6, 5, 5))
    yield sample(rng, dtype, (64, 1, 28, 28), (6, 1, 5, 5), padding=2)
    yield sample(rng, dtype, (16, 32, 32, 32), (64, 32, 3, 3), padding=1)
    yield sample(rng, dtype, (16, 64, 16, 16), (128, 64, 3, 3), stride=2, padding=1)
    yield sample(rng, dtype, (8, 64, 56, 56), (64, 1, 3, 3), groups=64, padding=1)


def flops(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1, activation: str | None = None, winograd: Winograd = None,
) -> int:  # fmt: skip
    N, K, P, Q = out_shape(x, w, stride, padding, dilation)
    return N * K * P * Q * int(2 * w[0].size + (b is not None) + (activation is not None))


def explain(
    x: tuple[int, ...], w: tuple[int, ...], b: tuple[int, ...] | None = None, *, stride: int | Pair = 1,
    padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1, activation: str | None = None,
    winograd: Winograd = None,
) -> dict[str, str]:  # fmt: skip
    return describe(x, w, pair(stride), pair(padding), pair(dilation), groups, winograd)


def prepare_constants(
    shape: tuple[int, ...], w: Array, b: Array | None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1, activation: str | None = None, winograd: Winograd = None,
) -> Callable[[Array], Array] | None:  # fmt: skip
    how = pair(stride), pair(padding), pair(dilation), groups
    m = prepared_patches(shape, w.shape, *how, winograd)
    if m is None:
        return None
    u = winograd_filters(shape, w, how[1], m)
    return lambda x: by_winograd(x, w, b, how[1], m, activation == "relu", u)


def jvp(
    tangents: tuple[Array | None, ...], outputs: tuple[Array], inputs: tuple[Array, Array, Array | None],
    **attributes: Any,
) -> Array:  # fmt: skip
    (x, w, _), (dx, dw, db) = inputs, tangents
    dy = np.zeros_like(outputs[0])
    relu = attributes.pop("activation", None) == "relu"  # of the sum, not of its terms
    if dx is not None:
        dy += conv2d_forward_tuned(dx, w, **attributes)[0]
    if dw is not None:
        dy += conv2d_forward_tuned(x, dw, **attributes)[0]
    if db is not None:
        dy += db[:, None, None]
    return dy * (outputs[0] > 0) if relu else dy


def mutant(name: str, body: Any, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, body, f"conv2d/{file}.py", old, new)


conv2d = Op(
    name="conv2d",
    loops=Body(conv2d_forward_loops, conv2d_backward_loops),
    vectorized=Body(conv2d_forward_vectorized, conv2d_backward_vectorized),
    tuned=Body(conv2d_forward_tuned, conv2d_backward_tuned),
    cuda=convolution_cuda,
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=jvp,
    gradient=before_relu,
    inputs=3,
    tolerance=512,
    explain=explain,
    prepare_constants=prepare_constants,
    mutants=(
        mutant("kernel flipped in dx", "loops", "loops",
               "* w[k, c, r, s]\n                                    dw",
               "* w[k, c, R - 1 - r, S - 1 - s]\n                                    dw"),
        mutant("missing += in dw", "loops", "loops", "dw[k, c, r, s] += dy", "dw[k, c, r, s] = dy"),
        mutant("bias forgotten", "loops", "loops", "total = b[k]", "total = 0 * b[k]"),
        mutant("strides swapped", "vectorized", "vectorized",
               ":: stride[0], :: stride[1], ::dh, ::dw", ":: stride[1], :: stride[0], ::dh, ::dw"),
        mutant("padding on one side", "vectorized", "vectorized",
               "(ph, ph), (pw, pw)", "(2 * ph, 0), (pw, pw)"),
        mutant("kernel flipped in dx", "tuned", "planes",
               "(far_h - dh * r // sh) * pitch + far_w - dw * s // sw",
               "(dh * r // sh) * pitch + dw * s // sw"),
        mutant("off-by-one padding", "tuned", "planes",
               "low * g.sw + b - g.left", "low * g.sw + b - g.left + 1"),
        mutant("phase forgotten", "tuned", "planes", "(c * fh + r % sh) * fw", "c * fh * fw"),
        mutant("rows of dx left out", "tuned", "planes",
               "(length - 1 + padding - a) // stride + 1", "(length - 1 + padding - a) // stride"),
        mutant("groups read the first channels", "tuned", "direct",
               "base + start + group * channels * g.plane", "base + start"),
        mutant("images overlap", "tuned", "weights", "range(slot, chunks, g.slots * g.terms)",
               "range(0, chunks, g.slots * g.terms)"),
        mutant("filter rows mixed up", "tuned", "weights",
               "places = ((r // together * (S // run_s)", "places = ((r // together"),
        mutant("db counts twice", "tuned", "weights", "    return total", "    return total + total"),
        mutant("slope of relu forgotten", "tuned", "tuned", "dy = through_relu(dy, outputs[0])", "pass"),
        mutant("depthwise: second filter takes the first's taps", "tuned", "depthwise",
               "w, U(filter_at + k * T)", "w, U(filter_at)"),
        mutant("depthwise: bias of channel 0", "tuned", "depthwise", "U(bias + k)", "U(k)"),
        mutant("depthwise: a tap twice", "tuned", "depthwise", "j + at[min(t + 1, last)]", "j + at[t]"),
        mutant("depthwise: columns kept apart mixed up", "tuned", "depthwise",
               "place = e % g.sw * apart + e // g.sw", "place = e // g.sw"),
        mutant("depthwise: dw of one image", "tuned", "depthwise",
               "range(channel, g.N, channels)", "range(channel, channels, channels)"),
        mutant("columns: a row of taps too low", "tuned", "columns", "row // g.S % g.R * g.dh - g.ph",
               "row // g.S % g.R * g.dh - g.ph + 1"),
        mutant("columns: the last pixel left out", "tuned", "columns", "(g.W - 1 - s) // g.sw + 1",
               "(g.W - 1 - s) // g.sw"),
        mutant("Winograd: wrong point", "tuned", "winograd", "store(d2 - d1,", "store(d1 - d2,"),
        mutant("Winograd: filter not turned around", "tuned", "winograd",
               "8 - taps if flip else", "taps if flip else"),
        mutant("Winograd: patches overlap", "tuned", "winograd",
               "U(q * g.m + j) * C", "U(q * g.n + j) * C"),
    ),
)  # fmt: skip
