"""conv2d as its definition: seven loops."""

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.conv2d.shapes import Pair, out_shape
from nnkernels.ops.validate import pair


@jit
def conv2d_forward_kernel(x: Array, w: Array, b: Array, stride: Pair, padding: Pair, y: Array) -> None:
    """y[n, k, p, q] = b[k] + sum over c, r, s of x[n, c, sh p + r - ph, sw q + s - pw] w[k, c, r, s]."""
    N, C, H, W = x.shape
    K, _, R, S = w.shape
    _, _, P, Q = y.shape
    for n in range(N):
        for k in range(K):
            for p in range(P):
                for q in range(Q):
                    total = b[k]
                    for c in range(C):
                        for r in range(R):
                            for s in range(S):
                                h = stride[0] * p + r - padding[0]
                                v = stride[1] * q + s - padding[1]
                                if 0 <= h < H and 0 <= v < W:  # outside lie zeros
                                    total += x[n, c, h, v] * w[k, c, r, s]
                    y[n, k, p, q] = total


@jit
def conv2d_backward_kernel(
    dy: Array, x: Array, w: Array, stride: Pair, padding: Pair, dx: Array, dw: Array, db: Array
) -> None:
    """Every product x w of the forward pass hands dy w to its dx and dy x to its dw."""
    N, C, H, W = x.shape
    K, _, R, S = w.shape
    _, _, P, Q = dy.shape
    for n in range(N):
        for k in range(K):
            for p in range(P):
                for q in range(Q):
                    db[k] += dy[n, k, p, q]
                    for c in range(C):
                        for r in range(R):
                            for s in range(S):
                                h = stride[0] * p + r - padding[0]
                                v = stride[1] * q + s - padding[1]
                                if 0 <= h < H and 0 <= v < W:
                                    dx[n, c, h, v] += dy[n, k, p, q] * w[k, c, r, s]
                                    dw[k, c, r, s] += dy[n, k, p, q] * x[n, c, h, v]


def conv2d_forward_loops(
    x: Array, w: Array, b: Array | None = None, *, stride: int | Pair = 1, padding: int | Pair = 0
) -> tuple[Array]:
    y = np.empty(out_shape(x, w, stride, padding), x.dtype)
    bias = np.zeros(len(w), x.dtype) if b is None else b
    conv2d_forward_kernel(x, w, bias, pair(stride), pair(padding), y)
    return (y,)


def conv2d_backward_loops(
    dy: Array, outputs: tuple[Array], inputs: tuple[Array, Array, Array | None], needs: tuple[bool, ...],
    *, stride: int | Pair = 1, padding: int | Pair = 0,
) -> tuple[Array | None, Array | None, Array | None]:  # fmt: skip
    x, w, _ = inputs
    dx, dw, db = np.zeros_like(x), np.zeros_like(w), np.zeros(len(w), x.dtype)
    conv2d_backward_kernel(dy, x, w, pair(stride), pair(padding), dx, dw, db)
    return (dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None)
