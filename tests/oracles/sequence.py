"""Sequences: table lookup, recurrent nets, attention."""

import numpy as np
from hypothesis import strategies as st

from oracles.common import Draw, Oracle, functional, normal, wide


def embedding_plain(index, w, *, padding_idx=None):
    chosen = np.arange(len(w)) == np.asarray(index)[..., None]  # one row of the identity for each index
    return np.einsum("...v,vd->...d", wide(chosen), wide(w))


def embedding_torch(index, w, *, padding_idx=None):
    return functional().embedding(index, w, padding_idx)


PLAIN: dict[str, Oracle] = {"embedding": embedding_plain}
TORCH: dict[str, Oracle] = {"embedding": embedding_torch}


def embedding_draw(draw, rng):
    V, D = draw(st.integers(1, 9)), draw(st.integers(1, 20))
    shape = draw(st.lists(st.integers(0, 7), max_size=3))
    how = {"padding_idx": draw(st.none() | st.integers(-V, V - 1))}
    return (np.asarray(rng.integers(0, V, shape)), normal(rng, V, D)), how


DRAWS: dict[str, Draw] = {"embedding": embedding_draw}
