"""Pooling: one number for each window of an image plane, the largest or the average.

    max   y[n, c, p, q] = max over r, s of x[n, c, sh p + r - ph, sw q + s - pw]
    avg   y[n, c, p, q] = 1 / (R S)  sum over r, s of x[n, c, sh p + r - ph, sw q + s - pw]

    x (N, C, H, W)   y (N, C, P, Q)   P = floor((H + 2 ph - R) / sh) + 1, Q likewise

with kernel_size (R, S), stride (sh, sw; the kernel's size unless given), padding (ph, pw). Outside the image
lies -inf for max, 0 for avg; avg divides by R S at the border too (PyTorch's count_include_pad=True).
max keeps ``argmax`` (N, C, P, Q), int32: the position h W + w, inside its plane, of the window's first
maximum; NaN counts as larger than all. Backward sends dy there; avg spreads dy / (R S) over the window.
Scherer, Müller and Behnke, Evaluation of Pooling Operations, ICANN 2010.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.pooling.loops import (
    avg_pool2d_backward_loops,
    avg_pool2d_forward_loops,
    max_pool2d_backward_loops,
    max_pool2d_forward_loops,
)
from nnkernels.ops.pooling.shapes import NOWHERE, Size, geometry, out_shape
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
from nnkernels.ops.validate import check_pair, floats, output_size, rank

# --- records ---


def check(op: str, x: Array, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
    floats(op, x=x)
    rank(op, "x", x, 4, "(N, C, H, W)")
    if 0 in x.shape[2:] or x.shape[2] * x.shape[3] > NOWHERE:
        raise ValueError(f"{op}: the images of x must hold 1 to 2^31 - 1 elements, got shape {x.shape}")
    R, S = check_pair(op, "kernel_size", kernel_size, 1)
    sh, sw = check_pair(op, "stride", kernel_size if stride is None else stride, 1)
    ph, pw = check_pair(op, "padding", padding, 0)
    if 2 * ph > R or 2 * pw > S:
        raise ValueError(f"{op}: padding must be at most half of kernel_size, or windows would lie outside "
                         f"the image; got padding {padding} and kernel_size {kernel_size}")  # fmt: skip
    output_size(op, x.shape[2], R, sh, ph, "H")
    output_size(op, x.shape[3], S, sw, pw, "W")


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


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    """Rectified activations, as they come from a convolution: windows with ties are common."""
    for shape, attributes in (
        ((64, 6, 28, 28), {"kernel_size": 2}),
        ((64, 16, 10, 10), {"kernel_size": 2}),
        ((8, 64, 112, 112), {"kernel_size": 3, "stride": 2, "padding": 1}),
    ):
        x = np.maximum(rng.standard_normal(shape), 0)
        yield Sample(f"{shape} {attributes}", (np.asarray(x, dtype),), attributes)


def flops(x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> int:
    g = geometry(kernel_size, stride, padding)
    N, C, P, Q = out_shape(x.shape, g)
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
    return avg_pool2d_forward_loops(tangents[0], **attributes)[0]


def make_op(
    name: str,
    loops: Body,
    vectorized: Body,
    tuned: Body,
    jvp: Callable[..., Array],
    mutants: tuple[Mutant, ...],
) -> Op:
    """Return the record: the two ops share everything but their arithmetic."""

    def check_named(x: Array, *, kernel_size: Size, stride: Size | None = None, padding: Size = 0) -> None:
        check(name, x, kernel_size, stride, padding)

    return Op(
        name=name,
        loops=loops,
        vectorized=vectorized,
        tuned=tuned,
        check=check_named,
        samples=samples,
        bad_inputs=bad_inputs,
        bench_samples=bench_samples,
        flops=flops,
        jvp=jvp,
        mutants=mutants,
    )


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    return Mutant(name, body, f"pooling/{body}.py", old, new)


max_pool2d = make_op(
    "max_pool2d",
    Body(max_pool2d_forward_loops, max_pool2d_backward_loops),
    Body(max_pool2d_forward_vectorized, max_pool2d_backward_vectorized),
    Body(max_pool2d_forward_tuned, max_pool2d_backward_tuned),
    max_pool2d_jvp,
    (
        mutant("last instead of first maximum", "loops", "or v > best or", "or v >= best or"),
        mutant("missing +=", "loops", "dx[n, c, h, w] += dy[n, c, p, q]  #",
               "dx[n, c, h, w] = dy[n, c, p, q]  #"),
        mutant("strides swapped", "vectorized", "[..., ::sh, ::sw, :, :]", "[..., ::sw, ::sh, :, :]"),
        mutant("later row wins a tie, 2x2", "tuned", "below = beats(low, top)", "below = low >= top"),
        mutant("off-by-one padding", "tuned", "for h in range(top + 1, bottom):\n                max_down",
               "for h in range(top + 1, bottom - 1):\n                max_down"),
        mutant("window's last column left out", "tuned", "for s in range(1, S):\n                max_along",
               "for s in range(1, S - 1):\n                max_along"),
        mutant("place of the wrong row", "tuned", "inner_places[w] = top * W", "inner_places[w] = p * W"),
        mutant("missing +=", "tuned", "dx[i * m + np.uint64(argmax[j])] += dy[j]",
               "dx[i * m + np.uint64(argmax[j])] = dy[j]"),
        mutant("taken for disjoint", "tuned", "sh >= R and sw >= S", "sh >= R or sw >= S"),
        mutant("first plane of a block for all", "tuned", "dx[i * m + np.uint64(argmax[j])] = dy[j]",
               "dx[first * m + np.uint64(argmax[j])] = dy[j]"),
        mutant("planes not cleared", "tuned", "            dx[e] = 0\n", "            pass\n"),
        mutant("chunks overlap", "tuned", "max_planes_2x2(x[i:j], y[i:j], argmax[i:j])",
               "max_planes_2x2(x[i:j], y[i + 1:j], argmax[i + 1:j])"),
        mutant("padded image taken for whole", "tuned", "g[:2] == (H, W) and g[4:] == (0, 0)",
               "g[:2] == (H, W)"),
    ),
)  # fmt: skip
avg_pool2d = make_op(
    "avg_pool2d",
    Body(avg_pool2d_forward_loops, avg_pool2d_backward_loops),
    Body(avg_pool2d_forward_vectorized, avg_pool2d_backward_vectorized),
    Body(avg_pool2d_forward_tuned, avg_pool2d_backward_tuned),
    avg_pool2d_jvp,
    (
        mutant("divisor forgotten backward", "loops", "+= dy[n, c, p, q] / (R * S)", "+= dy[n, c, p, q]"),
        mutant("windows overwrite each other", "loops", "dx[n, c, h, w] += dy[n, c, p, q] /",
               "dx[n, c, h, w] = dy[n, c, p, q] /"),
        mutant("padding taken twice", "vectorized", "dx[:, :, ph : ph + H,", "dx[:, :, 2 * ph : 2 * ph + H,"),
        mutant("stride ignored", "tuned", "total[q * sw] * scale", "total[q] * scale"),
        mutant("window starts not spread", "tuned", "starts[q * sw] = dy", "starts[q] = dy"),
        mutant("odd last column kept", "tuned", "2 * Q if h < 2 * P else 0", "2 * Q + 1 if h < 2 * P else 0"),
        mutant("odd last row kept", "tuned", "2 * Q if h < 2 * P else 0", "2 * Q if h <= 2 * P else 0"),
        mutant("line kept from the row before", "tuned", "            clear(line)\n            for s",
               "            for s"),
        mutant("last plane left out", "tuned", "avg_planes_2x2_transposed(dy[i:j], scale, dx[i:j])",
               "avg_planes_2x2_transposed(dy[i:j - 1], scale, dx[i:j - 1])"),
    ),
)  # fmt: skip
OPS_HERE = (max_pool2d, avg_pool2d)
