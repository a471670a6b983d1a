"""Rules for layers of networks: products, convolutions, pooling, normalisation, graphs.

A rule is given the graph, the shape of the call's result, the call's inputs and its attributes, adds nodes
and returns the name of the last one's result.
"""

import math
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.onnx.graph import Graph, Input, NoRuleError, Operand, ints, spread
from nnkernels.ops.adaptive_pool import mean_matrix
from nnkernels.ops.pooling.shapes import extents
from nnkernels.ops.upsample.shapes import axes, bilinear_places, nearest_places

Shape = tuple[int, ...]

# --- products ---


def activated(g: Graph, y: str, activation: str | None) -> str:
    """Apply what a layer applies to its result itself: relu, or nothing."""
    return y if activation is None else g.add("Relu", y)


def linear(
    g: Graph, y: Shape, x: Operand, w: Operand, b: Operand | None = None, *, activation: str | None = None
) -> str:
    """x w^T + b, with w (out, in) as PyTorch has it: Gemm for matrices x."""
    if len(x.shape) == 2:
        return activated(g, g.add("Gemm", x, w, b, transB=1), activation)
    product = g.add("MatMul", x, g.add("Transpose", w, perm=[1, 0]))
    return activated(g, product if b is None else g.add("Add", product, b), activation)


def matmul(g: Graph, y: Shape, a: Operand, b: Operand) -> str:
    """Product of matrices, or of batches of them."""
    return g.add("MatMul", a, b)


def convolution(
    g: Graph, y: Shape, x: Operand, w: Operand, b: Operand | None = None, *, stride: Any = 1,
    padding: Any = 0, dilation: Any = 1, groups: int = 1, activation: str | None = None, winograd: Any = None,
) -> str:  # fmt: skip
    """In one, two and three dimensions. ``winograd`` is our own business."""
    n = len(x.shape) - 2
    result = g.add(
        "Conv", x, w, b, kernel_shape=w.shape[2:], strides=spread(stride, n), pads=2 * spread(padding, n),
        dilations=spread(dilation, n), group=groups,
    )  # fmt: skip
    return activated(g, result, activation)


def transposed_convolution(
    g: Graph, y: Shape, x: Operand, w: Operand, b: Operand | None = None, *, stride: Any = 1,
    padding: Any = 0, output_padding: Any = 0, dilation: Any = 1, groups: int = 1,
) -> str:  # fmt: skip
    """In one and two dimensions; weights have the same layout, (in, out / groups, ...)."""
    n = len(x.shape) - 2
    return g.add(
        "ConvTranspose", x, w, b, kernel_shape=w.shape[2:], strides=spread(stride, n),
        pads=2 * spread(padding, n), output_padding=spread(output_padding, n), dilations=spread(dilation, n),
        group=groups,
    )  # fmt: skip


def embedding(g: Graph, y: Shape, index: Operand, w: Operand, *, padding_idx: int | None = None) -> str:
    """Rows of the table w."""
    return g.add("Gather", w, index, axis=0)


# --- pooling ---


def overhang(x: Operand, y: Shape, kernel: Shape, stride: Shape, padding: Shape, dilation: Shape) -> Shape:
    """Return the padding after each axis with which all windows fit.

    So no rounding mode is needed: whether a last window that hangs over the end counts, ours and ONNX's
    ceil_mode once saw differently, and runtimes still may.
    """
    sizes = zip(x.lengths(2), y[2:], kernel, stride, padding, dilation)
    return tuple(max(p, (q - 1) * s + d * (k - 1) + 1 - n - p) for n, q, k, s, p, d in sizes)


def max_pool(
    g: Graph, y: Shape, x: Operand, *, kernel_size: Any, stride: Any = None, padding: Any = 0,
    dilation: Any = 1, ceil_mode: bool = False,
) -> str:  # fmt: skip
    """In one and two dimensions. What lies outside the image never is the maximum."""
    n = len(x.shape) - 2
    kernel, before, d = spread(kernel_size, n), spread(padding, n), spread(dilation, n)
    strides = kernel if stride is None else spread(stride, n)
    after = overhang(x, y, kernel, strides, before, d)
    return g.add("MaxPool", x, kernel_shape=kernel, strides=strides, pads=before + after, dilations=d)


def avg_pool(
    g: Graph, y: Shape, x: Operand, *, kernel_size: Any, stride: Any = None, padding: Any = 0,
    ceil_mode: bool = False, count_include_pad: bool = True, divisor_override: int | None = None,
) -> str:  # fmt: skip
    """In one and two dimensions; where our divisors are others than ONNX's, their quotient is multiplied."""
    n = len(x.shape) - 2
    kernel, before = spread(kernel_size, n), spread(padding, n)
    strides = kernel if stride is None else spread(stride, n)
    after = overhang(x, y, kernel, strides, before, (1,) * n)
    own = after == before and divisor_override is None  # the divisors that ONNX knows, too
    include = count_include_pad or not own
    result = g.add(
        "AveragePool", x, kernel_shape=kernel, strides=strides, pads=before + after,
        count_include_pad=int(include),
    )  # fmt: skip
    if own:
        return result
    counts = [
        extents(*sizes, count_include_pad) for sizes in zip(x.lengths(2), y[2:], kernel, strides, before)
    ]
    divisors = counts[0][:, None] * counts[1] if n == 2 else counts[0]
    wanted = divisors if divisor_override is None else divisor_override
    return g.add("Mul", result, np.broadcast_to(math.prod(kernel) / wanted, y[2:]).astype(g.dtype))


def even_windows(x: Operand, y: Shape) -> Shape | None:
    """Return the size of adaptive windows where all are of one size and lie side by side, else None."""
    sizes = list(zip(x.lengths(2), y[2:]))
    return tuple(n // q for n, q in sizes) if all(n % q == 0 for n, q in sizes) else None


def adaptive_avg_pool(g: Graph, y: Shape, x: Operand, *, output_size: Any) -> str:
    """Averages of windows of one size; of several, products with matrices of averages."""
    if set(y[2:]) == {1}:
        return g.add("GlobalAveragePool", x)
    if windows := even_windows(x, y):
        return g.add("AveragePool", x, kernel_shape=windows, strides=windows)
    return through(g, x, [mean_matrix(n, q, g.dtype) for n, q in zip(x.lengths(2), y[2:])])


def adaptive_max_pool(g: Graph, y: Shape, x: Operand, *, output_size: Any) -> str:
    """Maxima of windows of one size."""
    if windows := even_windows(x, y):
        return g.add("MaxPool", x, kernel_shape=windows, strides=windows)
    raise NoRuleError(f"windows of several sizes, from {x.shape[2:]} to {y[2:]}")


# --- images in another size ---


def through(g: Graph, x: Operand, matrices: list[Array]) -> str:
    """Return x with its last axes multiplied by matrices (out, in), one for each axis."""
    *rows, columns = (m.astype(g.dtype) for m in matrices)
    y = g.add("MatMul", x, np.ascontiguousarray(columns.T))
    return g.add("MatMul", rows[0], y) if rows else y


def upsample_nearest(g: Graph, y: Shape, x: Operand, *, size: Any = None, scale_factor: Any = None) -> str:
    """Rows and columns at the places that we compute: rounding is part of the op's definition."""
    result: Input = x
    for i, axis in enumerate(axes((1, 1, *x.lengths(2)), size, scale_factor), 2):
        result = g.add("Gather", result, nearest_places(axis), axis=i)
    return g.name_of(result)


def upsample_bilinear(
    g: Graph, y: Shape, x: Operand, *, size: Any = None, scale_factor: Any = None, align_corners: bool = False
) -> str:
    """Weighted means of two rows, then of two columns, as matrices."""
    matrices = []
    for axis in axes((1, 1, *x.lengths(2)), size, scale_factor):
        places, weights = bilinear_places(axis, align_corners, np.dtype(np.float64))
        matrix = np.zeros((axis.out, axis.size))
        for place, weight in zip(places, weights):
            np.add.at(matrix, (np.arange(axis.out), place), weight)
        matrices.append(matrix)
    return through(g, x, matrices)


# --- normalisation ---


def or_else(g: Graph, w: Operand | None, value: float, shape: Shape) -> Input:
    """Return a scale or a shift, or the constant that stands for a missing one."""
    return np.full(shape, value, g.dtype) if w is None else w


def batch_norm_inference(
    g: Graph, y: Shape, x: Operand, mean: Operand, var: Operand, w: Operand | None = None,
    b: Operand | None = None, *, eps: float = 1e-5,
) -> str:  # fmt: skip
    """With running statistics."""
    scale, shift = or_else(g, w, 1, mean.shape), or_else(g, b, 0, mean.shape)
    return g.add("BatchNormalization", x, scale, shift, mean, var, epsilon=eps)


def layer_norm(
    g: Graph, y: Shape, x: Operand, w: Operand | None = None, b: Operand | None = None, *,
    normalized_shape: Any, eps: float = 1e-5,
) -> str:  # fmt: skip
    """Over the last axes."""
    shape = spread(normalized_shape, 1)
    return g.add("LayerNormalization", x, or_else(g, w, 1, shape), b, axis=-len(shape), epsilon=eps)


def local_response_norm(
    g: Graph, y: Shape, x: Operand, *, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> str:
    """Of images. An even window reaches one channel further down with us, up with ONNX."""
    if size % 2 == 0 or len(x.shape) != 4:
        raise NoRuleError(f"size {size} and {len(x.shape)} axes, wanted an odd size and images (N, C, H, W)")
    return g.add("LRN", x, size=size, alpha=alpha, beta=beta, bias=k)


# --- graphs ---


def index_select(g: Graph, y: Shape, x: Operand, index: Operand, *, dim: int = 0) -> str:
    """Rows along an axis."""
    return g.add("Gather", x, index, axis=dim)


def spmm(g: Graph, y: Shape, indptr: Operand, indices: Operand, values: Operand, x: Operand) -> str:
    """Each edge's row of x times its value, added up where the edge leads: no dense matrix is made."""
    assert indptr.array is not None
    starts = indptr.array.astype(np.int64)
    target = np.repeat(np.arange(len(starts) - 1), np.diff(starts))[:, None]
    rows = g.add("Mul", g.add("Gather", x, indices, axis=0), g.add("Unsqueeze", values, ints(1)))
    zeros = g.add("ConstantOfShape", ints(*y), value=g.tensor("zero", np.zeros(1, g.dtype)))
    return g.add("ScatterND", zeros, target, rows, reduction="add")
