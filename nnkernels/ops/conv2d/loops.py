"""conv2d as its definition: seven loops."""

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.shapes import Pair, Winograd, out_shape
from nnkernels.ops.validate import pair


@jit
def conv2d_forward_kernel(
    x: Array, w: Array, b: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    relu: bool, y: Array,
) -> None:  # fmt: skip
    """y[n, k, p, q] = b[k] + sum over c, r, s of x[n, c, sh p + dh r - ph, sw q + dw s - pw]
    w[k, c, r, s], or max(., 0) of it.
    """
    N, _, H, W = x.shape
    K, C, R, S = w.shape
    _, _, P, Q = y.shape
    for n in range(N):
        for k in range(K):
            first = k // (K // groups) * C  # the first channel that filter k reads
            for p in range(P):
                for q in range(Q):
                    total = b[k]
                    for c in range(C):
                        for r in range(R):
                            for s in range(S):
                                h = stride[0] * p + dilation[0] * r - padding[0]
                                v = stride[1] * q + dilation[1] * s - padding[1]
                                if 0 <= h < H and 0 <= v < W:  # outside lie zeros
                                    total += x[n, first + c, h, v] * w[k, c, r, s]
                    y[n, k, p, q] = max(total, 0) if relu else total


@jit
def conv2d_backward_kernel(
    dy: Array, y: Array, x: Array, w: Array, stride: Pair, padding: Pair, dilation: Pair, groups: int,
    relu: bool, dx: Array, dw: Array, db: Array,
) -> None:  # fmt: skip
    """Every product x w of the forward pass hands dy w to its dx and dy x to its dw."""
    N, _, H, W = x.shape
    K, C, R, S = w.shape
    _, _, P, Q = dy.shape
    for n in range(N):
        for k in range(K):
            first = k // (K // groups) * C
            for p in range(P):
                for q in range(Q):
                    if relu and y[n, k, p, q] <= 0:
                        continue  # max(total, 0) is flat there
                    db[k] += dy[n, k, p, q]
                    for c in range(C):
                        for r in range(R):
                            for s in range(S):
                                h = stride[0] * p + dilation[0] * r - padding[0]
                                v = stride[1] * q + dilation[1] * s - padding[1]
                                if 0 <= h < H and 0 <= v < W:
                                    dx[n, first + c, h, v] += dy[n, k, p, q] * w[k, c, r, s]
                                    dw[k, c, r, s] += dy[n, k, p, q] * x[n, first + c, h, v]


def conv2d_forward_loops(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0,
    dilation: int | Pair = 1, groups: int = 1, activation: str | None = None, winograd: Winograd = None,
) -> tuple[Array]:  # fmt: skip
    y = np.empty(out_shape(x, w, stride, padding, dilation), x.dtype)
    bias = np.zeros(len(w), x.dtype) if b is None else b
    relu = activation == "relu"
    conv2d_forward_kernel(x, w, bias, pair(stride), pair(padding), pair(dilation), groups, relu, y)
    return (y,)


def conv2d_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array, Array | None], needs: tuple[bool, ...],
    *, stride: int | Pair = 1, padding: int | Pair = 0, dilation: int | Pair = 1, groups: int = 1,
    activation: str | None = None, winograd: Winograd = None,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    x, w, _ = inputs
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(len(w), x.dtype)
    conv2d_backward_kernel(
        dy, outputs[0], x, w, pair(stride), pair(padding), pair(dilation), groups, activation == "relu",
        dx, dw, db,
    )  # fmt: skip
    return (dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None)
