"""Sequences: table lookup, recurrent nets, attention."""

from functools import partial

import numpy as np
from hypothesis import strategies as st

from oracles.common import SIZE, Draw, Oracle, functional, normal, wide


def embedding_plain(index, w, *, padding_idx=None):
    chosen = np.arange(len(w)) == np.asarray(index)[..., None]  # one row of the identity for each index
    return np.einsum("...v,vd->...d", wide(chosen), wide(w))


def embedding_torch(index, w, *, padding_idx=None):
    return functional().embedding(index, w, padding_idx)


def sigmoid_plain(x):
    return 1 / (1 + np.exp(-wide(x)))


def steps_of(x, reverse):
    """Return the steps' numbers in the order in which they are taken."""
    return range(len(x))[::-1] if reverse else range(len(x))


def affine(w, v, b):
    """Return v W^T + b."""
    return np.einsum("gk,bk->bg", wide(w), wide(v)) + (0 if b is None else b)


def rnn_plain(x, h, w_ih, w_hh, b_ih=None, b_hh=None, *, nonlinearity="tanh", reverse=False):
    y = {}
    for t in steps_of(x, reverse):
        s = affine(w_ih, x[t], b_ih) + affine(w_hh, h, b_hh)
        y[t] = h = np.tanh(s) if nonlinearity == "tanh" else np.where(s > 0, s, 0)
    return np.stack([y[t] for t in range(len(x))])


def lstm_plain(x, h, c, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False):
    y, H = {}, h.shape[1]
    for t in steps_of(x, reverse):
        s = affine(np.hstack([w_ih, w_hh]), np.hstack([x[t], h]), b_ih) + (0 if b_hh is None else b_hh)
        i, f, o = (sigmoid_plain(s[:, k * H : (k + 1) * H]) for k in (0, 1, 3))
        c = f * c + i * np.tanh(s[:, 2 * H : 3 * H])
        h = o * np.tanh(c)
        y[t] = np.stack([h, c])
    return np.stack([y[t] for t in range(len(x))], axis=1)


def gru_plain(x, h, w_ih, w_hh, b_ih=None, b_hh=None, *, reverse=False):
    y, H = {}, h.shape[1]
    for t in steps_of(x, reverse):
        from_x, from_h = affine(w_ih, x[t], b_ih), affine(w_hh, h, b_hh)
        r, z = np.hsplit(sigmoid_plain(from_x[:, : 2 * H] + from_h[:, : 2 * H]), 2)
        n = np.tanh(from_x[:, 2 * H :] + r * from_h[:, 2 * H :])
        y[t] = h = (1 - z) * n + z * h
    return np.stack([y[t] for t in range(len(x))])


def with_cell(cell, states):
    """Return PyTorch's cell, walked through the steps: it knows no direction and no c of all steps."""

    def run(x, *arrays, reverse=False, **attributes):
        import torch

        step = getattr(torch._VF, f"{cell}_{attributes['nonlinearity']}_cell" if attributes else cell)
        (w_ih, w_hh, b_ih, b_hh), state = (*arrays[states:], None, None)[:4], arrays[:states]
        y = {}
        for t in steps_of(x, reverse):
            if states == 2:
                state = step(x[t], state, w_ih, w_hh, b_ih, b_hh)
            else:
                state = (step(x[t], *state, w_ih, w_hh, b_ih, b_hh),)
            y[t] = torch.stack(state) if states == 2 else state[0]
        return torch.stack([y[t] for t in range(len(x))], dim=states - 1)

    return run


def rnn_torch(*arrays, nonlinearity="tanh", reverse=False):
    return with_cell("rnn", 1)(*arrays, nonlinearity=nonlinearity, reverse=reverse)


def attention_plain(q, k, v, mask=None, keep=None, *, is_causal=False, scale=None):
    shape = (*q.shape[:-1], k.shape[-2])
    scale = 1 / np.sqrt(wide(q.shape[-1])) if scale is None else scale
    s = np.einsum("...ie,...je->...ij", wide(q), wide(k)) * scale
    if is_causal:
        mask = np.subtract.outer(np.arange(shape[-2]), np.arange(shape[-1])) >= 0
    seen = np.ones(shape, bool)
    if mask is not None:
        seen = np.broadcast_to(mask if mask.dtype == bool else seen, shape)
        s = s + (0 if mask.dtype == bool else mask)
    powers = np.where(seen, np.exp(s), 0)
    total = powers.sum(axis=-1, keepdims=True)
    p = powers / np.where(total > 0, total, 1)
    return np.einsum("...ij,...jf->...if", p if keep is None else p * keep, wide(v))


def attention_torch(q, k, v, mask=None, keep=None, *, is_causal=False, scale=None):
    """With dropout as the product that PyTorch's documentation spells out, since its draws are its own."""
    import torch

    if keep is None:
        return functional().scaled_dot_product_attention(q, k, v, mask, is_causal=is_causal, scale=scale)
    s = q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        mask = torch.ones(s.shape[-2:], dtype=torch.bool).tril()
    if mask is not None:
        s = s.masked_fill(~mask, -np.inf) if mask.dtype == torch.bool else s + mask
    # A query that sees no key: NaN, which stops all gradients, becomes 0 before the softmax as well as after.
    blind = (s == -np.inf).all(dim=-1, keepdim=True)
    p = s.masked_fill(blind, 0).softmax(dim=-1).masked_fill(blind, 0)
    return (p * keep) @ v


PLAIN: dict[str, Oracle] = {
    "embedding": embedding_plain,
    "rnn": rnn_plain,
    "lstm": lstm_plain,
    "gru": gru_plain,
    "attention": attention_plain,
}
TORCH: dict[str, Oracle] = {
    "embedding": embedding_torch,
    "rnn": rnn_torch,
    "lstm": with_cell("lstm_cell", 2),
    "gru": with_cell("gru_cell", 1),
    "attention": attention_torch,
}


def embedding_draw(draw, rng):
    V, D = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    shape = draw(st.lists(st.integers(0, 7), max_size=3))
    how = {"padding_idx": draw(st.none() | st.integers(-V, V - 1))}
    return (np.asarray(rng.integers(0, V, shape)), normal(rng, V, D)), how


def recurrent_draw(gates, states, draw, rng):
    T, B = draw(st.integers(1, 5)), draw(st.integers(0, 20))
    I, H = draw(st.integers(1, 9)), draw(st.integers(1, 20))  # noqa: E741
    h0 = [normal(rng, B, H) for _ in range(states)]
    w = [normal(rng, gates * H, n) / np.sqrt(n) for n in (I, H)]
    b = [normal(rng, gates * H) for _ in range(2)] if draw(st.booleans()) else [None, None]
    return (normal(rng, T, B, I), *h0, *w, *b), {"reverse": draw(st.booleans())}


def rnn_draw(draw, rng):
    arrays, how = recurrent_draw(1, 1, draw, rng)
    return arrays, {**how, "nonlinearity": draw(st.sampled_from(["tanh", "relu"]))}


def attention_draw(draw, rng):
    lead = tuple(draw(st.lists(st.integers(0, 3), max_size=2)))
    L, S, E, F = draw(st.integers(0, 70)), draw(st.integers(0, 70)), draw(SIZE), draw(SIZE)
    kind = draw(st.sampled_from(["none", "causal", "hide", "add"]))
    mask, how = None, {"scale": draw(st.sampled_from([None, 0.5]))}
    if kind == "causal":
        how["is_causal"] = True
    elif kind != "none":
        full = (*lead, L, S)
        shape = [n if draw(st.booleans()) else 1 for n in full][draw(st.integers(0, len(lead))) :]
        mask = rng.random(shape) < 0.6 if kind == "hide" else normal(rng, *shape)
        mask = np.asarray(mask)
    keep = np.asarray(rng.random((*lead, L, S)) < 0.7) / 0.7 if draw(st.booleans()) else None
    return (normal(rng, *lead, L, E), normal(rng, *lead, S, E), normal(rng, *lead, S, F), mask, keep), how


DRAWS: dict[str, Draw] = {
    "embedding": embedding_draw,
    "rnn": rnn_draw,
    "lstm": partial(recurrent_draw, 4, 2),
    "gru": partial(recurrent_draw, 3, 1),
    "attention": attention_draw,
}
