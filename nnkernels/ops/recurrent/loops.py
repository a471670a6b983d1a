"""The formula, one element after the other."""

from typing import Any

import numpy as np

from nnkernels.machine.jit import inline, jit
from nnkernels.machine.memory import Array
from nnkernels.ops.op import Body
from nnkernels.ops.recurrent.shapes import (
    GRU,
    KEPT,
    LSTM,
    TANH,
    Grads,
    Inputs,
    Outputs,
    as_states,
    call_of,
    gradients,
    results,
)

# --- one element of one step: a and z are what comes from x and from h, one block of H numbers per gate ---


@inline
def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


@inline
def rnn_step(cell: int, a: Array, z: Array, j: int, h_new: Array) -> None:
    s = a[j] + z[j]
    h_new[j] = np.tanh(s) if cell == TANH else max(s, 0)


@inline
def lstm_step(a: Array, z: Array, j: int, H: int, c: Array, h_new: Array, c_new: Array, kept: Array) -> None:
    i, f = sigmoid(a[j] + z[j]), sigmoid(a[H + j] + z[H + j])
    g, o = np.tanh(a[2 * H + j] + z[2 * H + j]), sigmoid(a[3 * H + j] + z[3 * H + j])
    c_new[j] = f * c[j] + i * g
    h_new[j] = o * np.tanh(c_new[j])
    kept[j], kept[H + j], kept[2 * H + j], kept[3 * H + j] = i, f, g, o


@inline
def gru_step(a: Array, z: Array, j: int, H: int, h: Array, h_new: Array, kept: Array) -> None:
    r, u = sigmoid(a[j] + z[j]), sigmoid(a[H + j] + z[H + j])
    n = np.tanh(a[2 * H + j] + r * z[2 * H + j])
    h_new[j] = (1 - u) * n + u * h[j]
    kept[j], kept[H + j], kept[2 * H + j], kept[3 * H + j] = r, u, n, z[2 * H + j]


# --- backwards: from dh (and dc) of the step to da and dz, and to what goes straight to the step before ---


@inline
def rnn_back(cell: int, j: int, h_new: Array, da: Array, dz: Array, dh: Array) -> None:
    slope = 1 - h_new[j] * h_new[j] if cell == TANH else 1.0 * (h_new[j] > 0)
    da[j] = dz[j] = dh[j] * slope
    dh[j] = 0


@inline
def lstm_back(
    j: int, H: int, c: Array, c_new: Array, kept: Array, da: Array, dz: Array, dh: Array, dc: Array
) -> None:
    i, f, g, o = kept[j], kept[H + j], kept[2 * H + j], kept[3 * H + j]
    tc = np.tanh(c_new[j])
    dc[j] += dh[j] * o * (1 - tc * tc)
    da[j] = dz[j] = dc[j] * g * i * (1 - i)
    da[H + j] = dz[H + j] = dc[j] * c[j] * f * (1 - f)
    da[2 * H + j] = dz[2 * H + j] = dc[j] * i * (1 - g * g)
    da[3 * H + j] = dz[3 * H + j] = dh[j] * tc * o * (1 - o)
    dh[j] = 0
    dc[j] *= f


@inline
def gru_back(j: int, H: int, h: Array, kept: Array, da: Array, dz: Array, dh: Array) -> None:
    r, u, n, hn = kept[j], kept[H + j], kept[2 * H + j], kept[3 * H + j]
    dn = dh[j] * (1 - u) * (1 - n * n)
    da[j] = dz[j] = dn * hn * r * (1 - r)
    da[H + j] = dz[H + j] = dh[j] * (h[j] - n) * u * (1 - u)
    da[2 * H + j] = dn
    dz[2 * H + j] = dn * r
    dh[j] *= u


# --- all steps of all sequences ---


@inline
def places(s: int, T: int, reverse: bool) -> tuple[int, int]:
    """Return where step s stands in the arrays, and where the step before does."""
    return (T - 1 - s, T - s) if reverse else (s, s - 1)


@jit
def forward_kernel(
    cell: int, reverse: bool, x: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array, b_ih: Array,
    b_hh: Array, h_all: Array, c_all: Array, kept: Array,
) -> None:  # fmt: skip
    T, B, I = x.shape  # noqa: E741
    H, a, z = h0.shape[1], np.empty_like(b_ih), np.empty_like(b_hh)
    for s in range(T):
        t, before = places(s, T, reverse)
        h, c = h0 if s == 0 else h_all[before], c0 if s == 0 else c_all[before]
        for b in range(B):
            for g in range(a.size):
                a[g], z[g] = b_ih[g], b_hh[g]
                for k in range(I):
                    a[g] += w_ih[g, k] * x[t, b, k]
                for k in range(H):
                    z[g] += w_hh[g, k] * h[b, k]
            for j in range(H):
                if cell == LSTM:
                    lstm_step(a, z, j, H, c[b], h_all[t, b], c_all[t, b], kept[t, b])
                elif cell == GRU:
                    gru_step(a, z, j, H, h[b], h_all[t, b], kept[t, b])
                else:
                    rnn_step(cell, a, z, j, h_all[t, b])


@jit
def backward_kernel(
    dy: Array, cell: int, reverse: bool, x: Array, h0: Array, c0: Array, w_ih: Array, w_hh: Array,
    h_all: Array, c_all: Array, kept: Array,
    dx: Array, dh: Array, dc: Array, dw_ih: Array, dw_hh: Array, db_ih: Array, db_hh: Array,
) -> None:  # fmt: skip
    """Add to gradients that are 0; dh and dc (B, H) are those of one step, in the end of h0 and c0."""
    T, B, I = x.shape  # noqa: E741
    H, da, dz = h0.shape[1], np.empty_like(db_ih), np.empty_like(db_hh)
    for s in range(T - 1, -1, -1):
        t, before = places(s, T, reverse)
        h, c = h0 if s == 0 else h_all[before], c0 if s == 0 else c_all[before]
        for b in range(B):
            for j in range(H):
                dh[b, j] += dy[0, t, b, j]
                if cell == LSTM:
                    dc[b, j] += dy[1, t, b, j]
                    lstm_back(j, H, c[b], c_all[t, b], kept[t, b], da, dz, dh[b], dc[b])
                elif cell == GRU:
                    gru_back(j, H, h[b], kept[t, b], da, dz, dh[b])
                else:
                    rnn_back(cell, j, h_all[t, b], da, dz, dh[b])
            for g in range(da.size):
                db_ih[g] += da[g]
                db_hh[g] += dz[g]
                for k in range(I):
                    dx[t, b, k] += da[g] * w_ih[g, k]
                    dw_ih[g, k] += da[g] * x[t, b, k]
                for k in range(H):
                    dh[b, k] += dz[g] * w_hh[g, k]
                    dw_hh[g, k] += dz[g] * h[b, k]


def make_loops(op: str) -> Body:
    """Return the body."""

    def forward(*inputs: Array | None, **attributes: Any) -> Outputs:
        call = call_of(op, inputs, attributes)
        T, B, H = call.sizes
        states = np.empty((call.states, T, B, H), call.x.dtype)
        kept = np.empty((T, B, KEPT[call.cell] * H), call.x.dtype)
        forward_kernel(*call, states[0], states[-1], kept)
        return results(call, states, kept)

    def backward(
        dy: Array, outputs: Outputs, inputs: Inputs, needs: tuple[bool, ...], **attributes: Any
    ) -> Grads:
        call, kept = call_of(op, inputs, attributes), outputs[1]
        states = as_states(call, outputs[0])
        arrays = call.x, call.h0, call.c0, call.w_ih, call.w_hh, call.b_ih, call.b_hh
        grads = [np.zeros_like(a) for a in arrays]
        backward_kernel(as_states(call, dy), *call[:7], states[0], states[-1], kept, *grads)
        return gradients(call, needs, *grads)

    return Body(forward, backward)
