"""All steps of a block of sequences by one thread: sequences do not wait for one another.

What depends on x alone is one matrix product over all steps. What remains of a step is the product of a few
rows of h with w_hh, which is packed once and stays in the L2 cache, and a row of gates, worked on while the
product is in the L1 cache. Backward is the same in the other direction; the weights' gradients are again
matrix products over all steps.

Bound: 2 T B G H (I + H) FLOPs forward and twice that backward; for few sequences, reading w_hh at each step.
"""

from typing import Any

import numpy as np

from nnkernels.machine.elementary import exp, tanh
from nnkernels.machine.jit import (
    flag,
    inline,
    jit_elementwise,
    jit_parallel,
    prange,
    signed,
    typed,
)
from nnkernels.machine.memory import Array, empty
from nnkernels.machine.simd import VECTORS, U, lanes, lanes_of
from nnkernels.ops.linear import set_rows, sum_rows
from nnkernels.ops.matmul.batches import as_rows
from nnkernels.ops.matmul.gemm import SERIAL_BELOW, gemm, row_offsets
from nnkernels.ops.matmul.micro import MR, block_product
from nnkernels.ops.matmul.packing import pack_b
from nnkernels.ops.op import Body
from nnkernels.ops.recurrent.loops import places
from nnkernels.ops.recurrent.shapes import (
    GATES,
    GRU,
    KEPT,
    LSTM,
    RELU,
    Call,
    Grads,
    Inputs,
    Outputs,
    as_states,
    call_of,
    gradients,
    results,
)

SEQUENCES = 2 * MR  # of a task: two rows of tiles share w_hh as it comes from L2

# --- one row of one step; each loop writes one array, so that LLVM can tell it apart from what is read ---


@inline
def sigmoid(x: Any) -> Any:
    return typed(1, x) / (typed(1, x) + exp(-x))


@jit_elementwise
def rnn_row(cell: int, a: Array, p: U, z: Array, q: U, H: int, h: Array, o: U) -> None:
    if cell == RELU:
        for j in range(U(H)):
            s = a[p + j] + z[q + j]
            h[o + j] = s if s > 0 else typed(0, s)
    else:
        for j in range(U(H)):
            h[o + j] = tanh(a[p + j] + z[q + j])


@jit_elementwise
def lstm_row(a: Array, p: U, z: Array, q: U, H: int, before: Array, i: U, states: Array, o: U, c: U) -> None:
    """Turn a into i, f, g, o; write h to states[o:] and c to states[c:]."""
    size = U(H)
    for j in range(size + size):
        a[p + j] = sigmoid(a[p + j] + z[q + j])
    for j in range(size + size, U(3 * H)):
        a[p + j] = tanh(a[p + j] + z[q + j])
    for j in range(U(3 * H), U(4 * H)):
        a[p + j] = sigmoid(a[p + j] + z[q + j])
    f, g, out = p + size, p + U(2 * H), p + U(3 * H)
    for j in range(size):
        states[c + j] = a[f + j] * before[i + j] + a[p + j] * a[g + j]
    for j in range(size):
        states[o + j] = a[out + j] * tanh(states[c + j])


@jit_elementwise
def gru_row(
    a: Array, p: U, z: Array, q: U, b_hn: Array, H: int, before: Array, i: U, states: Array, o: U,
    kept: Array, k: U,
) -> None:  # fmt: skip
    """Write r, u, n and the part of n that r multiplies to kept, h to states."""
    size = U(H)
    for j in range(size + size):
        kept[k + j] = sigmoid(a[p + j] + z[q + j])
    p, q, u, n, hn = p + U(2 * H), q + U(2 * H), k + size, k + U(2 * H), k + U(3 * H)
    for j in range(size):
        kept[hn + j] = z[q + j] + b_hn[j]
    for j in range(size):
        kept[n + j] = tanh(a[p + j] + kept[k + j] * kept[hn + j])
    for j in range(size):
        states[o + j] = kept[n + j] + kept[u + j] * (before[i + j] - kept[n + j])


@jit_elementwise
def rnn_row_back(cell: int, h: Array, o: U, H: int, dh: Array, d: U, da: Array, p: U) -> None:
    if cell == RELU:
        for j in range(U(H)):
            da[p + j] = dh[d + j] if h[o + j] > 0 else typed(0, dh[d + j])
    else:
        for j in range(U(H)):
            da[p + j] = dh[d + j] * (typed(1, dh[d + j]) - h[o + j] * h[o + j])


@jit_elementwise
def lstm_row_back(
    kept: Array, k: U, before: Array, i: U, states: Array, c: U, H: int, dh: Array, dc: Array, d: U,
    da: Array, p: U,
) -> None:  # fmt: skip
    """Write da; take dc one step back. dc comes without what h passes to it."""
    size, one = U(H), typed(1, dh[d])
    f, g, o = k + size, k + U(2 * H), k + U(3 * H)
    out = p + U(3 * H)
    for j in range(size):
        da[out + j] = tanh(states[c + j])
    for j in range(size):
        dc[d + j] += dh[d + j] * kept[o + j] * (one - da[out + j] * da[out + j])
    for j in range(size):
        da[out + j] *= dh[d + j] * kept[o + j] * (one - kept[o + j])
    for j in range(size):
        da[p + j] = dc[d + j] * kept[g + j] * kept[k + j] * (one - kept[k + j])
    p += size
    for j in range(size):
        da[p + j] = dc[d + j] * before[i + j] * kept[f + j] * (one - kept[f + j])
    p += size
    for j in range(size):
        da[p + j] = dc[d + j] * kept[k + j] * (one - kept[g + j] * kept[g + j])
    for j in range(size):
        dc[d + j] *= kept[f + j]


@jit_elementwise
def gru_row_back(
    kept: Array, k: U, before: Array, i: U, H: int, dh: Array, d: U, da: Array, dz: Array, p: U
) -> None:
    """Write da and dz; leave in dh what goes straight to the step before."""
    size, one = U(H), typed(1, dh[d])
    u, n, hn, pu, pn = k + size, k + U(2 * H), k + U(3 * H), p + size, p + U(2 * H)
    for j in range(size):
        da[pn + j] = dh[d + j] * (one - kept[u + j]) * (one - kept[n + j] * kept[n + j])
    for j in range(size):
        dz[pn + j] = da[pn + j] * kept[k + j]
    for j in range(size):
        da[p + j] = dz[pn + j] * kept[hn + j] * (one - kept[k + j])
    for j in range(size):
        da[pu + j] = dh[d + j] * (before[i + j] - kept[n + j]) * kept[u + j] * (one - kept[u + j])
    for j in range(size + size):
        dz[p + j] = da[p + j]
    for j in range(size):
        dh[d + j] *= kept[u + j]


# --- all steps of sequences first to first + n - 1; every array is flat ---


@jit_elementwise
def forward_rows(
    cell: int, reverse: bool, first: int, n: int, T: int, B: int, H: int, G: int, a: Array, h0: Array,
    c0: Array, w: Array, at: Array, b_hn: Array, states: Array, kept: Array,
) -> None:  # fmt: skip
    z, cells = np.empty(n * G * H, a.dtype), T * B * H
    for s in range(T):
        t, past = places(s, T, reverse)
        # The step before: in the states, or for the first step what came in.
        row = past * B + first if s > 0 else first
        h, c = states if s > 0 else h0, states if s > 0 else c0
        c_at = row * H + cells if s > 0 else row * H
        block_product(
            h, U(row * H), MR * H, U(H), U(1), n, w, U(0), VECTORS * lanes_of(w) * H, at, G * H, H,
            signed(1), U(0), U(0), z, U(0), U(G * H), flag(False),
        )  # fmt: skip
        for r in range(n):
            now = t * B + first + r
            p, q, o = U(now * G * H), U(r * G * H), U(now * H)
            if cell == LSTM:
                lstm_row(a, p, z, q, H, c, U(c_at + r * H), states, o, U(cells + now * H))
            elif cell == GRU:
                gru_row(a, p, z, q, b_hn, H, h, U((row + r) * H), states, o, kept, U(now * 4 * H))
            else:
                rnn_row(cell, a, p, z, q, H, states, o)


@jit_elementwise
def backward_rows(
    cell: int, reverse: bool, first: int, n: int, T: int, B: int, H: int, G: int, dy: Array, h0: Array,
    c0: Array, w: Array, at: Array, states: Array, kept: Array, da: Array, dz: Array, dh: Array, dc: Array,
) -> None:  # fmt: skip
    """Write da and dz; dh and dc, zeros at first, end as the gradients of h0 and c0."""
    cells, width = T * B * H, G * H
    for s in range(T - 1, -1, -1):
        t, past = places(s, T, reverse)
        row = past * B + first if s > 0 else first
        h, c = states if s > 0 else h0, states if s > 0 else c0
        c_at = row * H + cells if s > 0 else row * H
        start, here = U(first * H), U((t * B + first) * H)
        for j in range(U(n * H)):
            dh[start + j] += dy[here + j]
        if cell == LSTM:
            for j in range(U(n * H)):
                dc[start + j] += dy[here + U(cells) + j]
        for r in range(n):
            now, d = t * B + first + r, U((first + r) * H)
            p, k, i = U(now * width), U(now * 4 * H), U(c_at + r * H)
            if cell == LSTM:
                lstm_row_back(kept, k, c, i, states, U(cells + now * H), H, dh, dc, d, da, p)
            elif cell == GRU:
                gru_row_back(kept, k, h, U((row + r) * H), H, dh, d, da, dz, p)
            else:
                rnn_row_back(cell, states, U(now * H), H, dh, d, da, p)
        block_product(
            dz, U((t * B + first) * width), MR * width, U(width), U(1), n,
            w, U(0), VECTORS * lanes_of(w) * width, at, H, width,
            signed(1), U(0), U(0), dh, start, U(H), flag(cell == GRU),
        )  # fmt: skip


@jit_parallel
def forward_parallel(
    cell: int, reverse: bool, T: int, B: int, H: int, G: int, a: Array, h0: Array,
    c0: Array, w: Array, at: Array, b_hn: Array, states: Array, kept: Array,
) -> None:  # fmt: skip
    for task in prange((B + SEQUENCES - 1) // SEQUENCES):
        b = signed(task) * SEQUENCES
        n = min(SEQUENCES, B - b)
        forward_rows(cell, reverse, b, n, T, B, H, G, a, h0, c0, w, at, b_hn, states, kept)


@jit_parallel
def backward_parallel(
    cell: int, reverse: bool, T: int, B: int, H: int, G: int, dy: Array, h0: Array,
    c0: Array, w: Array, at: Array, states: Array, kept: Array, da: Array, dz: Array, dh: Array, dc: Array,
) -> None:  # fmt: skip
    for task in prange((B + SEQUENCES - 1) // SEQUENCES):
        b = signed(task) * SEQUENCES
        n = min(SEQUENCES, B - b)
        backward_rows(cell, reverse, b, n, T, B, H, G, dy, h0, c0, w, at, states, kept, da, dz, dh, dc)


def packed(w: Array, transposed: bool) -> tuple[Array, Array]:
    """Return w, or its transpose, in panels for the micro-kernel, and the offsets of their rows."""
    (N, K), (row, column) = (w.shape, (1, w.shape[1])) if transposed else (w.shape[::-1], (w.shape[1], 1))
    NR = VECTORS * lanes(w.dtype)
    panels = empty((-(-N // NR) * NR * K,), w.dtype)
    pack_b(w.reshape(-1), U(0), U(row), U(column), K, N, panels, U(0))
    return panels, row_offsets(K, NR)


def from_x(call: Call) -> Array:
    """Return x w_ih^T of all steps (T, B, G H), with every bias but the one that a GRU multiplies by r."""
    T, B, H = call.sizes
    width = len(call.w_ih)
    a = empty((T, B, width), call.x.dtype)
    bias = call.b_ih + call.b_hh
    if call.cell == GRU:
        bias[2 * H :] = call.b_ih[2 * H :]
    if a.size > 0:
        set_rows(bias, a.reshape(-1))
    gemm(as_rows(call.x), call.w_ih, a.reshape(T * B, width), transpose_b=True, add=True)
    return a


def weight_gradients(
    call: Call, needs: tuple[bool, ...], h: Array, da: Array, dz: Array
) -> list[Array | None]:  # fmt: skip
    """Return those of dx, dw_ih, dw_hh, db_ih and db_hh that are needed: products over all steps."""
    (T, B, H), width = call.sizes, len(call.w_ih)
    wanted = (needs[0], *needs[1 + call.states :], False, False)
    rows, x = da.reshape(T * B, width), as_rows(call.x)
    shapes = call.x.shape, call.w_ih.shape, call.w_hh.shape, (width,), (width,)
    grads = [empty(shape, da.dtype) if need else None for shape, need in zip(shapes, wanted)]
    dx, dw_ih, dw_hh, db_ih, db_hh = grads
    if dx is not None:
        gemm(rows, call.w_ih, as_rows(dx))
    if dw_ih is not None:
        gemm(rows, x, dw_ih, transpose_a=True)
    if dw_hh is not None:  # each step's dz meets h of the step before
        first, later, before = (T - 1, slice(0, T - 1), slice(1, T)) if call.reverse else (
            0, slice(1, T), slice(0, T - 1))  # fmt: skip
        gemm(dz[first], call.h0, dw_hh, transpose_a=True)
        gemm(dz[later].reshape(-1, width), h[before].reshape(-1, H), dw_hh, transpose_a=True, add=True)
    if db_ih is not None:
        sum_rows(da.reshape(-1), db_ih)
    if db_hh is not None:
        sum_rows(dz.reshape(-1), db_hh)
    return grads


def make_tuned(op: str) -> Body:
    """Return the body."""

    def forward(*inputs: Array | None, **attributes: Any) -> Outputs:
        call = call_of(op, inputs, attributes)
        cell, (T, B, H) = call.cell, call.sizes
        a, (w, at) = from_x(call), packed(call.w_hh, True)
        states = empty((call.states, T, B, H), a.dtype)
        kept = a if cell == LSTM else empty((T, B, KEPT[cell] * H), a.dtype)
        sizes = T, B, H, GATES[cell]
        arrays = (
            a.reshape(-1), call.h0.reshape(-1), call.c0.reshape(-1), w, at, call.b_hh[-H:],
            states.reshape(-1), kept.reshape(-1),
        )  # fmt: skip
        if a.size * H < SERIAL_BELOW:
            forward_rows(cell, call.reverse, 0, B, *sizes, *arrays)
        else:
            forward_parallel(cell, call.reverse, *sizes, *arrays)
        return results(call, states, kept)

    def backward(
        dy: Array, outputs: Outputs, inputs: Inputs, needs: tuple[bool, ...], **attributes: Any
    ) -> Grads:
        call = call_of(op, inputs, attributes)
        cell, (T, B, H), width = call.cell, call.sizes, len(call.w_ih)
        w, at = packed(call.w_hh, False)
        da = empty((T, B, width), dy.dtype)
        dz = empty((T, B, width), dy.dtype) if cell == GRU else da
        dh, dc = np.zeros_like(call.h0), np.zeros_like(call.c0)
        sizes = T, B, H, GATES[cell]
        arrays = (
            dy.reshape(-1), call.h0.reshape(-1), call.c0.reshape(-1), w, at, outputs[0].reshape(-1),
            outputs[1].reshape(-1), da.reshape(-1), dz.reshape(-1), dh.reshape(-1), dc.reshape(-1),
        )  # fmt: skip
        if da.size * H < SERIAL_BELOW:
            backward_rows(cell, call.reverse, 0, B, *sizes, *arrays)
        else:
            backward_parallel(cell, call.reverse, *sizes, *arrays)
        dx, *weights = weight_gradients(call, needs, as_states(call, outputs[0])[0], da, dz)
        return gradients(call, needs, dx, dh, dc, *weights)

    return Body(forward, backward)
