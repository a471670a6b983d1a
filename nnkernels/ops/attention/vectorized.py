"""NumPy, with the probabilities of all queries at once; and the derivative along tangents."""

import math
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.attention.shapes import Grads, Inputs, Needs, Outputs


def scores(
    q: Array, k: Array, mask: Array | None, is_causal: bool = False, scale: float | None = None
) -> Array:
    """Return (..., L, S), -inf where a key is hidden."""
    s = np.asarray(q @ k.swapaxes(-1, -2) * q.dtype.type(factor(q, scale)))
    if mask is not None:
        s = s + (np.where(mask, 0, -np.inf).astype(s.dtype) if mask.dtype.kind == "b" else mask)
    return np.where(np.tri(*s.shape[-2:]) > 0, s, s.dtype.type(-np.inf)) if is_causal else s


def factor(q: Array, scale: float | None) -> float:
    return 1 / math.sqrt(q.shape[-1]) if scale is None else scale


def attention_forward_vectorized(
    q: Array, k: Array, v: Array, mask: Array | None = None, keep: Array | None = None, **attributes: Any
) -> Outputs:
    s = scores(q, k, mask, **attributes)
    with np.errstate(invalid="ignore", divide="ignore"):
        top = s.max(axis=-1, initial=-np.inf)
        lse = np.where(top == -np.inf, np.inf, top + np.log(np.exp(s - top[..., None]).sum(axis=-1)))
    lse = lse.astype(q.dtype)
    p = np.exp(s - lse[..., None])
    return (p if keep is None else p * keep) @ v, lse


def attention_backward_vectorized(
    dy: Array, outputs: Outputs, inputs: Inputs, needs: Needs, **attributes: Any
) -> Grads:
    q, k, v, mask, keep = (*inputs, None, None)[:5]
    p = np.exp(scores(q, k, mask, **attributes) - outputs[1][..., None])
    kept = p if keep is None else p * keep
    dp = dy @ v.swapaxes(-1, -2) if keep is None else dy @ v.swapaxes(-1, -2) * keep
    mean = (dy * outputs[0]).sum(axis=-1, keepdims=True)
    ds = p * (dp - mean) * q.dtype.type(factor(q, attributes.get("scale")))
    grads: list[Array | None] = [None] * len(inputs)
    if needs[0]:
        grads[0] = ds @ k
    if needs[1]:
        grads[1] = ds.swapaxes(-1, -2) @ q
    if needs[2]:
        grads[2] = kept.swapaxes(-1, -2) @ dy
    return tuple(grads)


def jvp(tangents: tuple[Array | None, ...], outputs: Outputs, inputs: Inputs, **attributes: Any) -> Array:
    q, k, v, mask, keep = (*inputs, None, None)[:5]
    dq, dk, dv = (np.zeros_like(a) if d is None else d for d, a in zip(tangents[:3], (q, k, v)))
    p = np.exp(scores(q, k, mask, **attributes) - outputs[1][..., None])
    moved = (dq @ k.swapaxes(-1, -2) + q @ dk.swapaxes(-1, -2)) * factor(q, attributes.get("scale"))
    dp = p * (moved - (p * moved).sum(axis=-1, keepdims=True))
    kept = 1 if keep is None else keep
    return np.asarray((dp * kept) @ v + (p * kept) @ dv)
