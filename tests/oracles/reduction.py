"""Reductions over axes."""

import math

from hypothesis import strategies as st

from oracles.common import Draw, Oracle, normal, shapes, wide


def over_axes(function):
    """Return the reduction that flattens the reduced axes and works on them row by row."""

    def oracle(x, dim=None, keepdim=False):
        dims = range(x.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
        dims = sorted(d % x.ndim for d in dims)
        kept = [d for d in range(x.ndim) if d not in dims]
        shape = [x.shape[d] for d in kept]
        n = math.prod(x.shape[d] for d in dims)
        rows = wide(x).transpose(*kept, *dims).reshape(math.prod(shape), n)
        if keepdim:
            shape = [1 if d in dims else n for d, n in enumerate(x.shape)]
        return wide([function(row) for row in rows]).reshape(shape)

    return oracle


def amax_torch(x, dim=None, keepdim=False):
    return x.amax(dim=tuple(range(x.ndim)) if dim is None else dim, keepdim=keepdim)


PLAIN: dict[str, Oracle] = {
    "sum": over_axes(math.fsum),
    "mean": over_axes(lambda row: math.fsum(row) / len(row)),
    "max": over_axes(lambda row: sorted(row)[-1]),
}


TORCH: dict[str, Oracle] = {
    "sum": lambda x, dim=None, keepdim=False: x.sum(dim=dim, keepdim=keepdim),
    "mean": lambda x, dim=None, keepdim=False: x.mean(dim=dim, keepdim=keepdim),
    "max": amax_torch,
}


def over_some_axes(draw, rng):
    shape = tuple(n or 1 for n in draw(shapes()))
    axes = st.integers(-len(shape), len(shape) - 1) if shape else st.none()
    some = st.sets(st.integers(0, len(shape) - 1), min_size=1).map(tuple) if shape else st.none()
    return (normal(rng, *shape),), {"dim": draw(st.none() | axes | some), "keepdim": draw(st.booleans())}


DRAWS: dict[str, Draw] = dict.fromkeys(("sum", "mean", "max"), over_some_axes)
