"""Ops that move elements."""

import math

import numpy as np
from hypothesis import strategies as st

from oracles.common import SIZE, Draw, Oracle, functional, normal, shapes


def pad_plain(x, padding, value=0.0):
    before, after = [0] * x.ndim, [0] * x.ndim
    for i, n in enumerate(padding):
        (after if i % 2 else before)[x.ndim - 1 - i // 2] = n
    y = np.full([b + n + a for b, n, a in zip(before, x.shape, after)], value, x.dtype)
    for at in np.ndindex(x.shape):
        y[tuple(i + b for i, b in zip(at, before))] = x[at]
    return y


def flatten_plain(x, start_dim=0, end_dim=-1):
    shape = x.shape or (1,)
    first, last = start_dim % len(shape), end_dim % len(shape)
    return x.ravel().reshape(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])


def concatenate_plain(*xs, dim=0):
    shape = list(xs[0].shape)
    shape[dim] = sum(x.shape[dim] for x in xs)
    rows = [row for x in xs for row in np.moveaxis(x, dim, 0)]
    moved = np.moveaxis(np.empty(shape, xs[0].dtype), dim, 0)
    for i, row in enumerate(rows):
        moved[i] = row
    return np.moveaxis(moved, 0, dim)


def slice_torch(x, index):
    # PyTorch refuses negative steps; a table of positions does what the index does to them.
    places = np.asarray(np.arange(x.numel()).reshape(tuple(x.shape))[index])
    return x.reshape(-1)[places.ravel().tolist()].reshape(places.shape)


PLAIN: dict[str, Oracle] = {
    "reshape": lambda x, shape: x.reshape(shape),
    "flatten": flatten_plain,
    "transpose": lambda x, dim0, dim1: np.swapaxes(x, dim0, dim1),
    "permute": lambda x, dims: np.moveaxis(x, dims, range(x.ndim)),
    "slice": lambda x, index: np.asarray(x[index]),
    "pad": pad_plain,
    "concatenate": concatenate_plain,
}


TORCH: dict[str, Oracle] = {
    "reshape": lambda x, shape: x.reshape(shape),
    "flatten": lambda x, start_dim=0, end_dim=-1: x.flatten(start_dim, end_dim),
    "transpose": lambda x, dim0, dim1: x.transpose(dim0, dim1),
    "permute": lambda x, dims: x.permute(dims),
    "slice": slice_torch,
    "pad": lambda x, padding, value=0.0: functional().pad(x, padding, value=value),
    "concatenate": lambda *xs, dim=0: functional().torch.cat(xs, dim=dim),
}


def reshape_draw(draw, rng):
    x = normal(rng, *draw(shapes()))
    wanted = (*draw(st.permutations(x.shape)), 1)
    return (x,), {"shape": wanted}


def flatten_draw(draw, rng):
    x = normal(rng, *draw(shapes(1)))
    first = draw(st.integers(0, x.ndim - 1))
    return (x,), {"start_dim": first, "end_dim": draw(st.integers(first, x.ndim - 1)) - x.ndim}


def transpose_draw(draw, rng):
    x = normal(rng, *draw(shapes(1)))
    axis = st.integers(-x.ndim, x.ndim - 1)
    return (x,), {"dim0": draw(axis), "dim1": draw(axis)}


def permute_draw(draw, rng):
    x = normal(rng, *draw(shapes(1)))
    return (x,), {"dims": tuple(draw(st.permutations(range(x.ndim))))}


def slice_draw(draw, rng):
    x = normal(rng, *draw(st.lists(SIZE, min_size=1, max_size=3)))
    index = [draw(st.integers(-n, n - 1) | st.slices(n)) for n in x.shape[: draw(st.integers(1, x.ndim))]]
    return (x,), {"index": tuple(index)}


def pad_draw(draw, rng):
    x = normal(rng, *draw(shapes(1)))
    sides = 2 * draw(st.integers(1, x.ndim))
    padding = draw(st.lists(st.integers(0, 3), min_size=sides, max_size=sides))
    return (x,), {"padding": tuple(padding), "value": draw(st.floats(-2, 2))}


def concatenate_draw(draw, rng):
    shape = draw(shapes(1))
    dim = draw(st.integers(0, len(shape) - 1))
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    return tuple(normal(rng, *shape[:dim], n, *shape[dim + 1 :]) for n in lengths), {"dim": dim}


DRAWS: dict[str, Draw] = {
    "reshape": reshape_draw,
    "flatten": flatten_draw,
    "transpose": transpose_draw,
    "permute": permute_draw,
    "slice": slice_draw,
    "pad": pad_draw,
    "concatenate": concatenate_draw,
}
