"""NumPy, one step of all sequences at a time; and the derivative along tangents, which only tests need."""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.op import Body
from nnkernels.ops.recurrent.shapes import (
    GATES,
    GRU,
    KEPT,
    LSTM,
    TANH,
    Call,
    Grads,
    Inputs,
    Outputs,
    as_states,
    call_of,
    gradients,
    results,
)

Step = tuple[Array, Array, list[Array]]


def sigmoid(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-x)))


def blocks(a: Array, count: int) -> list[Array]:
    """Return the parts of the last axis, one per gate."""
    return np.split(a, count, axis=-1) if count else []


def times(call: Call) -> list[tuple[int, int]]:
    """Return for each step its place t in the arrays, and the place of the step before."""
    T = len(call.x)
    return [(t, t + 1) for t in reversed(range(T))] if call.reverse else [(t, t - 1) for t in range(T)]


def one_step(cell: int, a: list[Array], z: list[Array], h: Array, c: Array) -> Step:
    """Return h, c and what is kept of the step."""
    if cell == LSTM:
        i, f, g, o = (np.tanh(p + q) if k == 2 else sigmoid(p + q) for k, (p, q) in enumerate(zip(a, z)))
        c = f * c + i * g
        return o * np.tanh(c), c, [i, f, g, o]
    if cell == GRU:
        r, u = sigmoid(a[0] + z[0]), sigmoid(a[1] + z[1])
        n = np.tanh(a[2] + r * z[2])
        return (1 - u) * n + u * h, c, [r, u, n, z[2]]
    s = a[0] + z[0]
    return np.tanh(s) if cell == TANH else np.maximum(s, 0), c, []


def step_back(
    cell: int, dh: Array, dc: Array, kept: list[Array], h: Array, c: Array, h_new: Array, c_new: Array
) -> tuple[list[Array], list[Array], Array, Array]:
    """Return da, dz, and what goes to h and c of the step before by another way than z."""
    if cell == LSTM:
        i, f, g, o = kept
        tc = np.tanh(c_new)
        dc = dc + dh * o * (1 - tc * tc)
        slopes = [g * i * (1 - i), c * f * (1 - f), i * (1 - g * g)]
        da = [dc * slope for slope in slopes] + [dh * tc * o * (1 - o)]
        return da, da, np.zeros_like(dh), dc * f
    if cell == GRU:
        r, u, n, hn = kept
        dn = dh * (1 - u) * (1 - n * n)
        both = [dn * hn * r * (1 - r), dh * (h - n) * u * (1 - u)]
        return [*both, dn], [*both, dn * r], dh * u, dc
    da = [dh * (1 - h_new * h_new if cell == TANH else h_new > 0)]
    return da, da, np.zeros_like(dh), dc


def step_along(
    cell: int, da: list[Array], dz: list[Array], dh: Array, dc: Array, kept: list[Array], h: Array,
    c: Array, h_new: Array, c_new: Array,
) -> tuple[Array, Array]:  # fmt: skip
    """Return how h and c of the step move when a, z, h and c of the step before do."""
    if cell == LSTM:
        i, f, g, o = kept
        s, tc = [p + q for p, q in zip(da, dz)], np.tanh(c_new)
        dc = f * dc + c * f * (1 - f) * s[1] + g * i * (1 - i) * s[0] + i * (1 - g * g) * s[2]
        return tc * o * (1 - o) * s[3] + o * (1 - tc * tc) * dc, dc
    if cell == GRU:
        r, u, n, hn = kept
        dr, du = r * (1 - r) * (da[0] + dz[0]), u * (1 - u) * (da[1] + dz[1])
        dn = (1 - n * n) * (da[2] + dr * hn + r * dz[2])
        return (1 - u) * dn + u * dh + (h - n) * du, dc
    return (da[0] + dz[0]) * (1 - h_new * h_new if cell == TANH else h_new > 0), dc


def make_vectorized(op: str) -> Body:
    """Return the body."""

    def forward(*inputs: Array | None, **attributes: Any) -> Outputs:
        call = call_of(op, inputs, attributes)
        cell, (T, B, H) = call.cell, call.sizes
        states = np.empty((call.states, T, B, H), call.x.dtype)
        kept = np.empty((T, B, KEPT[cell] * H), call.x.dtype)
        a_all = call.x @ call.w_ih.T + call.b_ih
        h, c = call.h0, call.c0
        for t, _ in times(call):
            z = h @ call.w_hh.T + call.b_hh
            h, c, parts = one_step(cell, blocks(a_all[t], GATES[cell]), blocks(z, GATES[cell]), h, c)
            states[:, t] = (h, c)[: call.states]
            if parts:
                kept[t] = np.concatenate(parts, axis=1)
        return results(call, states, kept)

    def backward(
        dy: Array, outputs: Outputs, inputs: Inputs, needs: tuple[bool, ...], **attributes: Any
    ) -> Grads:
        call, kept = call_of(op, inputs, attributes), outputs[1]
        cell, states, dstates = call.cell, as_states(call, outputs[0]), as_states(call, dy)
        da_all = np.empty((*call.sizes[:2], GATES[cell] * call.sizes[2]), dy.dtype)
        dw_hh, db_hh = np.zeros_like(call.w_hh), np.zeros_like(call.b_hh)
        dh, dc = np.zeros_like(call.h0), np.zeros_like(call.c0)
        for s, (t, before) in reversed(list(enumerate(times(call)))):
            h, c = (states[0, before], states[-1, before]) if s else (call.h0, call.c0)
            dh = dh + dstates[0, t]
            dc = dc + dstates[1, t] if cell == LSTM else dc
            parts = blocks(kept[t], KEPT[cell])
            da, dz, dh, dc = step_back(cell, dh, dc, parts, h, c, states[0, t], states[-1, t])
            da_all[t], dz_all = np.concatenate(da, axis=1), np.concatenate(dz, axis=1)
            dh = dh + dz_all @ call.w_hh
            dw_hh += dz_all.T @ h
            db_hh += dz_all.sum(axis=0)
        rows, x_rows = da_all.reshape(-1, da_all.shape[-1]), call.x.reshape(-1, call.x.shape[-1])
        weights = rows.T @ x_rows, dw_hh, rows.sum(axis=0), db_hh
        return gradients(call, needs, da_all @ call.w_ih, dh, dc, *weights)

    return Body(forward, backward)


def jvp(op: str, tangents: Inputs, outputs: Outputs, inputs: Inputs, attributes: dict[str, Any]) -> Array:
    """Return the derivative of the result along the tangents, step by step."""
    call = call_of(op, inputs, attributes)
    v = call_of(op, tuple(np.zeros_like(a) if d is None and a is not None else d
                          for d, a in zip(tangents, inputs)), attributes)  # fmt: skip
    cell, states, moved = call.cell, as_states(call, outputs[0]), np.empty_like(outputs[0])
    da_all = v.x @ call.w_ih.T + call.x @ v.w_ih.T + v.b_ih
    dh, dc = v.h0, v.c0
    for s, (t, before) in enumerate(times(call)):
        h, c = (states[0, before], states[-1, before]) if s else (call.h0, call.c0)
        dz = blocks(dh @ call.w_hh.T + h @ v.w_hh.T + v.b_hh, GATES[cell])
        da, kept = blocks(da_all[t], GATES[cell]), blocks(outputs[1][t], KEPT[cell])
        dh, dc = step_along(cell, da, dz, dh, dc, kept, h, c, states[0, t], states[-1, t])
        as_states(call, moved)[:, t] = (dh, dc)[: call.states]
    return moved
