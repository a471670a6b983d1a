"""batch_norm as loops, like the formula: mean first, then variance; sums in float64 for either dtype."""

import numpy as np

from nnkernels.machine.jit import jit
from nnkernels.machine.memory import Array
from nnkernels.ops.batch_norm.shapes import Grads, Inputs, Needs, Outputs, as_planes, weights


@jit
def forward_kernel(x: Array, w: Array, b: Array, eps: float, y: Array, mean: Array, rstd: Array) -> None:
    N, C, S = x.shape
    for c in range(C):
        total = 0.0
        for n in range(N):
            for s in range(S):
                total += x[n, c, s]
        m = total / (N * S)
        squares = 0.0
        for n in range(N):
            for s in range(S):
                squares += (x[n, c, s] - m) ** 2
        r = 1 / np.sqrt(squares / (N * S) + eps)
        for n in range(N):
            for s in range(S):
                y[n, c, s] = w[c] * ((x[n, c, s] - m) * r) + b[c]
        mean[c], rstd[c] = m, r


@jit
def backward_kernel(
    dy: Array, x: Array, w: Array, mean: Array, rstd: Array, dx: Array, dw: Array, db: Array
) -> None:
    N, C, S = x.shape
    for c in range(C):
        m, r = mean[c], rstd[c]
        total, dot = 0.0, 0.0
        for n in range(N):
            for s in range(S):
                total += dy[n, c, s]
                dot += dy[n, c, s] * ((x[n, c, s] - m) * r)
        for n in range(N):
            for s in range(S):
                x_hat = (x[n, c, s] - m) * r
                dx[n, c, s] = w[c] * r * (dy[n, c, s] - total / (N * S) - x_hat * dot / (N * S))
        dw[c], db[c] = dot, total


def batch_norm_forward_loops(x: Array, w: Array | None, b: Array | None, *, eps: float = 1e-5) -> Outputs:
    y, mean, rstd = np.empty(x.shape, x.dtype), np.empty(x.shape[1], x.dtype), np.empty(x.shape[1], x.dtype)
    forward_kernel(as_planes(x), *weights(x, w, b), float(eps), as_planes(y), mean, rstd)
    return y, mean, rstd


def batch_norm_backward_loops(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, *, eps: float = 1e-5
) -> Grads:
    (x, w, b), (_, mean, rstd) = inputs, outputs
    dx, dw, db = np.empty(x.shape, x.dtype), np.empty_like(mean), np.empty_like(mean)
    backward_kernel(as_planes(dy), as_planes(x), weights(x, w, b)[0], mean, rstd, as_planes(dx), dw, db)
    return dx if needs[0] else None, dw if needs[1] else None, db if needs[2] else None
