"""Pooling: one number for each window of an image plane, the largest or the average.

    max   y[n, c, p, q] = max over r, s of x[n, c, sh p + dh r - ph, sw q + dw s - pw]
    avg   y[n, c, p, q] = 1 / d  sum over r, s of x[n, c, sh p + r - ph, sw q + s - pw]

    x (N, C, H, W)   y (N, C, P, Q)   P = floor((H + 2 ph - dh (R - 1) - 1) / sh) + 1, Q likewise

with kernel_size (R, S), stride (sh, sw; the kernel's size unless given), padding (ph, pw) and, for max,
dilation (dh, dw). ``ceil_mode`` rounds P and Q up instead: a last window that starts in the image, or in the
padding before it, may hang over the end. Outside the image lies -inf for max, 0 for avg. avg divides by
d = R S, the padding counted in but not what lies beyond it; with count_include_pad=False by the number of
pixels inside the image; by ``divisor_override`` where given.
max keeps ``argmax`` (N, C, P, Q), int32: the position h W + w, inside its plane, of the window's first
maximum; NaN counts as larger than all. Backward sends dy there; avg spreads dy / d over the window.
Its neighbours: ``adaptive_pool`` places a wanted number of windows, ``pool1d`` pools signals, ``unpool`` puts
maxima back in their places.
Scherer, Müller and Behnke, Evaluation of Pooling Operations, ICANN 2010.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import linear, piecewise_linear
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.pooling.cuda import (
    avg_pool2d_backward_cuda,
    avg_pool2d_forward_cuda,
    max_pool2d_backward_cuda,
    max_pool2d_forward_cuda,
)
from nnkernels.ops.pooling.loops import (
    avg_pool2d_backward_loops,
    avg_pool2d_forward_loops,
    max_pool2d_backward_loops,
    max_pool2d_forward_loops,
)
from nnkernels.ops.pooling.shapes import NOWHERE, Size, geometry, out_length, out_shape
from nnkernels.ops.pooling.tuned import (
    avg_pool2d_backward_tuned,
    avg_pool2d_forward_tuned,
    max_pool2d_backward_tuned,
    max_pool2d_forward_tuned,
)
from nnkernels.ops.pooling.vectorized import (
    avg_pool2d_backward_vectorized,
    avg_pool2d_forward_vectorized,
    max_pool2d_backward_vectorized,
    max_pool2d_forward_vectorized,
)
from nnkernels.ops.validate import check_int, check_pair, fail_type, floats, output_size, rank

# --- records ---


def check_images(op: str, x: Array) -> None:
    """Demand images (N, C, H, W) with pixels, few enough for the places of maxima."""
    floats(op, x=x)
    rank(op, "x", x, 4, "(N, C, H, W)")
    if 0 in x.shape[2:] or x.shape[2] * x.shape[3] > NOWHERE:
        raise ValueError(f"{op}: the images of x must hold 1 to 2^31 - 1 elements, got shape {x.shape}")


def check_flag(op: str, name: str, value: Any) -> None:
    """Demand True or False."""
    if not isinstance(value, (bool, np.bool_)):
        fail_type(op, name, value, "a bool")


def check_windows(
    op: str, x: Array, kernel_size: Size, stride: Size | None, padding: Size, dilation: Size, ceil_mode: bool
) -> None:
    """Check what max and avg share."""
    check_images(op, x)
    R, S = check_pair(op, "kernel_size", kernel_size, 1)
    sh, sw = check_pair(op, "stride", kernel_size if stride is None else stride, 1)
    ph, pw = check_pair(op, "padding", padding, 0)
    dh, dw = check_pair(op, "dilation", dilation, 1)
    check_flag(op, "ceil_mode", ceil_mode)
    if 2 * ph > R or 2 * pw > S:
        raise ValueError(f"{op}: padding must be at most half of kernel_size, or windows would lie outside "
                         f"the image; got padding {padding} and kernel_size {kernel_size}")  # fmt: skip
    for size, k, s, p, d, axis in zip(x.shape[2:], (R, S), (sh, sw), (ph, pw), (dh, dw), "HW"):
        output_size(op, size, d * (k - 1) + 1, s, p, axis)
        starts = s * np.arange(out_length(size, k, s, p, d, ceil_mode)) - p
        if np.any(np.where(starts < 0, starts % d, starts) >= size):
            raise ValueError(f"{op}: for dilation {d} and padding {p}, a window would have no element inside "
                             f"the image, of size {size} along {axis}")  # fmt: skip


def check_max(
    op: str, x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
    dilation: Size = 1, ceil_mode: bool = False,
) -> None:  # fmt: skip
    check_windows(op, x, kernel_size, stride, padding, dilation, ceil_mode)


def check_avg(
    op: str, x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> None:  # fmt: skip
    check_windows(op, x, kernel_size, stride, padding, 1, ceil_mode)
    check_flag(op, "count_include_pad", count_include_pad)
    if divisor_override is not None:
        check_int(op, "divisor_override", divisor_override, -NOWHERE)
        if divisor_override == 0:
            raise ValueError(f"{op}: divisor_override must not be 0")


def sample(rng: np.random.Generator, dtype: Any, shape: tuple[int, ...], **attributes: Any) -> Sample:
    """Return distinct values, 0.01 apart: the steps of finite differences change no maximum."""
    values = rng.permutation(int(np.prod(shape))).reshape(shape) * 0.01 - 0.5
    return Sample(f"{shape} {attributes}", (np.asarray(values, dtype),), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (1, 1, 1, 1), kernel_size=1)
    yield sample(rng, dtype, (2, 3, 6, 8), kernel_size=2)
    yield sample(rng, dtype, (2, 1, 5, 7), kernel_size=2)
    yield sample(rng, dtype, (1, 2, 5, 6), kernel_size=3, stride=1, padding=1)
    yield sample(rng, dtype, (2, 2, 7, 8), kernel_size=3, stride=2, padding=1)
    yield sample(rng, dtype, (1, 2, 6, 9), kernel_size=(2, 3), stride=(1, 2))
    yield sample(rng, dtype, (2, 2, 4, 9), kernel_size=(2, 3), stride=2)
    yield sample(rng, dtype, (1, 2, 7, 5), kernel_size=(4, 2), stride=(3, 1), padding=(2, 0))
    yield sample(rng, dtype, (2, 1, 7, 8), kernel_size=2, stride=(3, 4), padding=(0, 1))
    yield sample(rng, dtype, (1, 1, 2, 1), kernel_size=(4, 3), stride=5, padding=(2, 1))
    yield sample(rng, dtype, (1, 3, 4, 5), kernel_size=(4, 5))
    yield sample(rng, dtype, (1, 1, 3, 4), kernel_size=(3, 4), stride=1, padding=1)
    yield sample(rng, dtype, (0, 2, 4, 4), kernel_size=2)
    yield sample(rng, dtype, (0, 2, 4, 4), kernel_size=4)
    # Last windows over the end, one of them dropped since it would start beyond the image (5 = 2 * 2 + 1).
    yield sample(rng, dtype, (1, 2, 6, 5), kernel_size=2, ceil_mode=True)
    yield sample(rng, dtype, (2, 1, 5, 8), kernel_size=(2, 3), stride=(3, 2), padding=(1, 0), ceil_mode=True)
    yield sample(rng, dtype, (1, 1, 5, 4), kernel_size=(2, 3), stride=3, padding=1, ceil_mode=True)


def max_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield from samples(rng, dtype)
    yield sample(rng, dtype, (2, 1, 7, 6), kernel_size=(3, 2), stride=1, padding=1, dilation=(2, 3))
    yield sample(rng, dtype, (1, 2, 6, 8), kernel_size=2, dilation=(3, 4), ceil_mode=True)
    yield sample(rng, dtype, (1, 2, 4, 7), kernel_size=(1, 2), dilation=(1, 2))
    yield sample(rng, dtype, (1, 1, 4, 7), kernel_size=(4, 3), stride=(3, 2), padding=(2, 1), dilation=(1, 2))


def avg_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield from samples(rng, dtype)
    inside = {"count_include_pad": False}
    yield sample(rng, dtype, (1, 2, 5, 6), kernel_size=3, stride=2, padding=1, **inside)
    yield sample(rng, dtype, (1, 1, 6, 5), kernel_size=(4, 2), stride=3, padding=1, ceil_mode=True, **inside)
    yield sample(rng, dtype, (1, 2, 4, 6), kernel_size=2, divisor_override=3)
    yield sample(rng, dtype, (1, 2, 3, 4), kernel_size=(3, 4), divisor_override=-2)
    yield sample(rng, dtype, (1, 1, 5, 4), kernel_size=3, stride=2, padding=1, divisor_override=5)


def bad_inputs() -> Iterator[BadInput]:
    x, two = np.ones((2, 3, 5, 4)), {"kernel_size": 2}
    yield BadInput(ValueError, "x must have 4 axes (N, C, H, W), got shape (3, 5, 4)", (x[0],), two)
    yield BadInput(ValueError, "the images of x must hold 1 to", (x[:, :, :0],), two)
    yield BadInput(
        ValueError,
        "kernel (5) is larger than the padded input (4 + 2*0 = 4) along W",
        (x,),
        {"kernel_size": 5},
    )
    yield BadInput(ValueError, "kernel_size must be at least 1, got 0", (x,), {"kernel_size": 0})
    yield BadInput(ValueError, "stride must be at least 1, got 0", (x,), {**two, "stride": 0})
    yield BadInput(ValueError, "stride must be at least 1, got (1, 0)", (x,), {**two, "stride": (1, 0)})
    yield BadInput(ValueError, "padding must be at least 0, got -1", (x,), {**two, "padding": -1})
    yield BadInput(
        ValueError, "padding must be at most half of kernel_size", (x,), {**two, "padding": (0, 2)}
    )
    yield BadInput(TypeError, "stride must be an int or a pair of ints", (x,), {**two, "stride": 1.5})
    yield BadInput(TypeError, "padding must be an int or a pair of ints", (x,), {**two, "padding": "same"})
    yield BadInput(TypeError, "kernel_size must be an int or a pair", (x,), {"kernel_size": (2, 2, 2)})
    yield BadInput(TypeError, "x must be float32 or float64, got uint8", (x.astype(np.uint8),), two)
    yield BadInput(TypeError, "x must be a NumPy array", ([[[[1.0]]]],), {"kernel_size": 1})
    yield BadInput(TypeError, "ceil_mode must be a bool, got int 1", (x,), {**two, "ceil_mode": 1})


def max_bad_inputs() -> Iterator[BadInput]:
    yield from bad_inputs()
    x, two = np.ones((2, 3, 5, 4)), {"kernel_size": 2}
    yield BadInput(ValueError, "dilation must be at least 1, got 0", (x,), {**two, "dilation": 0})
    yield BadInput(TypeError, "dilation must be an int or a pair", (x,), {**two, "dilation": None})
    yield BadInput(ValueError, "kernel (5) is larger than the padded", (x,), {**two, "dilation": (1, 4)})
    yield BadInput(ValueError, "a window would have no element inside the image, of size 4 along W", (x,),
                   {**two, "padding": 1, "dilation": (1, 5)})  # fmt: skip


def avg_bad_inputs() -> Iterator[BadInput]:
    yield from bad_inputs()
    x, two = np.ones((2, 3, 5, 4)), {"kernel_size": 2}
    yield BadInput(ValueError, "divisor_override must not be 0", (x,), {**two, "divisor_override": 0})
    yield BadInput(TypeError, "divisor_override must be an int", (x,), {**two, "divisor_override": 2.0})
    yield BadInput(TypeError, "count_include_pad must be a bool", (x,), {**two, "count_include_pad": None})
    yield BadInput(TypeError, "'dilation'", (x,), {**two, "dilation": 2})


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    """Rectified activations, as they come from a convolution: windows with ties are common."""
    for shape, attributes in (
        ((64, 6, 28, 28), {"kernel_size": 2}),
        ((64, 16, 10, 10), {"kernel_size": 2}),
        ((8, 64, 112, 112), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ):
        x = np.maximum(rng.standard_normal(shape), 0)
        yield Sample(f"{shape} {attributes}", (np.asarray(x, dtype),), attributes)


def flops(
    x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0, dilation: Size = 1,
    ceil_mode: bool = False, **attributes: Any,
) -> int:  # fmt: skip
    g = geometry(kernel_size, stride, padding, dilation)
    N, C, P, Q = out_shape(x.shape, g, ceil_mode)
    R, S = g[:2]
    return N * C * P * Q * R * S


def max_pool2d_jvp(
    tangents: tuple[Array], outputs: tuple[Array, Array], inputs: tuple[Array], **attributes: Any
) -> Array:
    """Return each window's tangent at the maximum."""
    argmax = outputs[1]
    N, C, P, Q = argmax.shape
    flat = tangents[0].reshape(N, C, inputs[0].shape[2] * inputs[0].shape[3])
    return np.take_along_axis(flat, argmax.reshape(N, C, P * Q), axis=-1).reshape(argmax.shape)


def avg_pool2d_jvp(
    tangents: tuple[Array], outputs: tuple[Array], inputs: tuple[Array], **attributes: Any
) -> Array:
    """Return the average of the tangents: the op is linear."""
    return avg_pool2d_forward_tuned(tangents[0], **attributes)[0]


def named(name: str, check: Callable[..., None]) -> Callable[..., None]:
    """Return the check with the op's name given to it."""

    def check_named(*arrays: Any, **attributes: Any) -> None:
        check(name, *arrays, **attributes)

    return check_named


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    return Mutant(name, body, f"pooling/{body}.py", old, new)


max_pool2d = Op(
    name="max_pool2d",
    loops=Body(max_pool2d_forward_loops, max_pool2d_backward_loops),
    vectorized=Body(max_pool2d_forward_vectorized, max_pool2d_backward_vectorized),
    tuned=Body(max_pool2d_forward_tuned, max_pool2d_backward_tuned),
    cuda=Body(max_pool2d_forward_cuda, max_pool2d_backward_cuda),
    check=named("max_pool2d", check_max),
    samples=max_samples,
    bad_inputs=max_bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=max_pool2d_jvp,
    gradient=piecewise_linear,
    mutants=(
        mutant("last instead of first maximum", "loops", "or v > best or", "or v >= best or"),
        mutant("missing +=", "loops", "dx[n, c, h, w] += dy[n, c, p, q]  #",
               "dx[n, c, h, w] = dy[n, c, p, q]  #"),
        mutant("dilation taken for stride", "loops", "dh * r - ph", "sh * r - ph"),
        mutant("strides swapped", "vectorized", "::sh, ::sw, ::dh", "::sw, ::sh, ::dh"),
        mutant("later row wins a tie, 2x2", "tuned", "below = beats(low, top)", "below = low >= top"),
        mutant("off-by-one padding", "tuned", "bottom, dh)", "bottom - 1, dh)"),
        mutant("rows between taps read", "tuned", "bottom, dh)", "bottom)"),
        mutant("window starts at the edge", "tuned", "top %= dh", "top = 0"),
        mutant("columns not dilated", "tuned", "max_along(line[s * dw :]", "max_along(line[s:]"),
        mutant("dilated windows taken for disjoint", "tuned", "sw > dw * (S - 1)", "sw > S - 1"),
        mutant("window's last column left out", "tuned", "for s in range(1, S):\n                max_along",
               "for s in range(1, S - 1):\n                max_along"),
        mutant("place of the wrong row", "tuned", "inner_places[w] = top * W", "inner_places[w] = p * W"),
        mutant("missing +=", "tuned", "dx[i * m + np.uint64(argmax[j])] += dy[j]",
               "dx[i * m + np.uint64(argmax[j])] = dy[j]"),
        mutant("taken for disjoint", "tuned", "sh > dh * (R - 1) and", "sh > dh * (R - 1) or"),
        mutant("first plane of a block for all", "tuned", "dx[i * m + np.uint64(argmax[j])] = dy[j]",
               "dx[first * m + np.uint64(argmax[j])] = dy[j]"),
        mutant("planes not cleared", "tuned", "            dx[e] = 0\n", "            pass\n"),
        mutant("chunks overlap", "tuned", "max_planes_2x2(x[i:j], y[i:j], argmax[i:j])",
               "max_planes_2x2(x[i:j], y[i + 1:j], argmax[i + 1:j])"),
        mutant("padded image taken for whole", "tuned", "g[:2] == (H, W) and g[4:] == (0, 0, 1, 1)",
               "g[:2] == (H, W)"),
        mutant("hanging window has no room", "tuned",
               "return max(W + 2 * pw, sw * (Q - 1) + dw * (S - 1) + 1)", "return W + 2 * pw"),
        mutant("hanging 2x2 window taken for whole", "tuned", "2 * P <= H and 2 * Q <= W", "2 * P <= H"),
    ),
)  # fmt: skip
avg_pool2d = Op(
    name="avg_pool2d",
    loops=Body(avg_pool2d_forward_loops, avg_pool2d_backward_loops),
    vectorized=Body(avg_pool2d_forward_vectorized, avg_pool2d_backward_vectorized),
    tuned=Body(avg_pool2d_forward_tuned, avg_pool2d_backward_tuned),
    cuda=Body(avg_pool2d_forward_cuda, avg_pool2d_backward_cuda),
    check=named("avg_pool2d", check_avg),
    samples=avg_samples,
    bad_inputs=avg_bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=avg_pool2d_jvp,
    gradient=linear,
    mutants=(
        mutant("divisor forgotten backward", "loops", "+= dy[n, c, p, q] / divisor", "+= dy[n, c, p, q]"),
        mutant("windows overwrite each other", "loops", "dx[n, c, h, w] += dy[n, c, p, q] /",
               "dx[n, c, h, w] = dy[n, c, p, q] /"),
        mutant("overhang counted", "loops", "return min(start + kernel, size + padding) - start",
               "return kernel"),
        mutant("padding taken twice", "vectorized", "dx[:, :, ph : ph + H,", "dx[:, :, 2 * ph : 2 * ph + H,"),
        mutant("stride ignored", "tuned", "total[q * sw] * (down", "total[q] * (down"),
        mutant("window starts not spread", "tuned", "starts[q * sw] = dy", "starts[q] = dy"),
        mutant("odd last column kept", "tuned", "2 * Q if h < 2 * P else 0", "2 * Q + 1 if h < 2 * P else 0"),
        mutant("odd last row kept", "tuned", "2 * Q if h < 2 * P else 0", "2 * Q if h <= 2 * P else 0"),
        mutant("line kept from the row before", "tuned", "            clear(line)\n            for s",
               "            for s"),
        mutant("divisor of the rows forgotten", "tuned", "dy[i, p, q] * (down[p] * along[q])",
               "dy[i, p, q] * along[q]"),
        mutant("mean in spite of a divisor", "tuned",
               "if whole and divisor_override is None:\n        return mean",
               "if whole:\n        return mean"),
        mutant("last plane left out", "tuned", "avg_planes_2x2_transposed(dy[i:j], scale, dx[i:j])",
               "avg_planes_2x2_transposed(dy[i:j - 1], scale, dx[i:j - 1])"),
    ),
)  # fmt: skip
OPS_HERE = (max_pool2d, avg_pool2d)
