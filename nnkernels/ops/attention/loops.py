"""The formula, one query after the other."""

from typing import Any, cast

import numpy as np

from nnkernels.machine.jit import inline, jit
from nnkernels.machine.memory import Array
from nnkernels.ops.attention.shapes import Grads, Inputs, Needs, Outputs, call_of


@inline
def score(q: Array, k: Array, bias: Any, hidden: bool, scale: float) -> Any:
    """Return q . k scale + bias, -inf where the key is hidden from the query."""
    s = 0.0
    for e in range(q.size):
        s += q[e] * k[e]
    return -np.inf if hidden else s * scale + bias


@jit
def forward_kernel(
    q: Array, k: Array, v: Array, bias: Array, of: Array, keep: Array, causal: bool, scale: float,
    y: Array, lse: Array,
) -> None:  # fmt: skip
    N, L, _ = q.shape
    S, rows = k.shape[1], bias.shape[1]
    s = np.empty(S)
    for n in range(N):
        for i in range(L):
            y[n, i] = 0
            lse[n, i] = np.inf  # of a query that sees no key: then e^(s - lse) is 0
            top = -np.inf
            for j in range(S):
                s[j] = score(q[n, i], k[n, j], bias[of[n], i if rows > 1 else 0, j], causal and j > i, scale)
                top = max(top, s[j])
            if top == -np.inf:
                continue
            total = 0.0
            for j in range(S):
                total += np.exp(s[j] - top)
            lse[n, i] = top + np.log(total)
            for j in range(S):
                p = np.exp(s[j] - top) / total
                if keep.size > 0:
                    p *= keep[n, i, j]
                for f in range(v.shape[2]):
                    y[n, i, f] += p * v[n, j, f]


@jit
def backward_kernel(
    dy: Array, y: Array, lse: Array, q: Array, k: Array, v: Array, bias: Array, of: Array, keep: Array,
    causal: bool, scale: float, dq: Array, dk: Array, dv: Array,
) -> None:  # fmt: skip
    N, L, E = q.shape
    S, rows, F = k.shape[1], bias.shape[1], v.shape[2]
    for n in range(N):
        for i in range(L):
            mean = 0.0  # of dp, weighted by p: the sum over all keys of p dp, which is dy . y
            for f in range(F):
                mean += dy[n, i, f] * y[n, i, f]
            for j in range(S):
                b = bias[of[n], i if rows > 1 else 0, j]
                p = np.exp(score(q[n, i], k[n, j], b, causal and j > i, scale) - lse[n, i])
                kept = keep[n, i, j] if keep.size > 0 else 1.0
                dp = 0.0
                for f in range(F):
                    dp += dy[n, i, f] * v[n, j, f] * kept
                    dv[n, j, f] += p * kept * dy[n, i, f]
                ds = p * (dp - mean) * scale
                for e in range(E):
                    dq[n, i, e] += ds * k[n, j, e]
                    dk[n, j, e] += ds * q[n, i, e]


def attention_forward_loops(*inputs: Array | None, **attributes: Any) -> Outputs:
    q, _, v = cast(Inputs, inputs)[:3]
    call = call_of(*cast(Inputs, inputs), **attributes)
    y, lse = np.empty((*q.shape[:-1], v.shape[-1]), q.dtype), np.empty(q.shape[:-1], q.dtype)
    N, L = call.q.shape[:2]
    forward_kernel(*call, y.reshape(N, L, v.shape[-1]), lse.reshape(N, L))
    return y, lse


def attention_backward_loops(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, **attributes: Any
) -> Grads:
    call, (y, lse) = call_of(*inputs, **attributes), outputs
    N, L = call.q.shape[:2]
    rows = (N, L, y.shape[-1])
    grads = [np.zeros_like(a) for a in call[:3]]
    backward_kernel(dy.reshape(rows), y.reshape(rows), lse.reshape(N, L), *call, *grads)
    shaped = [g.reshape(a.shape) if need else None for g, a, need in zip(grads, inputs[:3], needs)]
    return (*shaped, *(None,) * (len(inputs) - 3))
