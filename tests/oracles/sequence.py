"""Sequences: table lookup, recurrent nets, attention."""

from functools import partial

import numpy as np
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, functional, normal, wide


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


PLAIN: dict[str, Oracle] = {
    "embedding": embedding_plain,
    "rnn": rnn_plain,
    "lstm": lstm_plain,
    "gru": gru_plain,
}
TORCH: dict[str, Oracle] = {
    "embedding": embedding_torch,
    "rnn": rnn_torch,
    "lstm": with_cell("lstm_cell", 2),
    "gru": with_cell("gru_cell", 1),
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


DRAWS: dict[str, Draw] = {
    "embedding": embedding_draw,
    "rnn": rnn_draw,
    "lstm": partial(recurrent_draw, 4, 2),
    "gru": partial(recurrent_draw, 3, 1),
}
