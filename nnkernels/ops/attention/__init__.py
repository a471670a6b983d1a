"""Scaled dot-product attention: each query takes a mean of the values, weighted by its match with the keys.

    s[i, j] = scale sum over e of q[i, e] k[j, e] + mask[i, j]      p[i, :] = softmax of s[i, :]
    y[i, f] = sum over j of p[i, j] keep[i, j] v[j, f]

    q (..., L, E)   k (..., S, E)   v (..., S, F)   y (..., L, F), leading axes alike (batch, heads)
    mask, broadcast to (..., L, S): False or -inf where a key is hidden; other numbers are added to scores
    keep (..., L, S): 0 or 1 / (1 - dropout_p), or None

scale is 1 / sqrt(E) unless given; with is_causal, query i sees the keys 0 ... i. A query that sees no key
gets y = 0 and passes no gradient on, as in PyTorch. mask and keep have no gradients.

    dv = (p keep)^T dy     dp = dy v^T keep     ds = p (dp - dy . y) scale     dq = ds k     dk = ds^T q

Forward keeps the logarithm of each row's sum of e^s, from which backward finds p again.

Vaswani et al., Attention Is All You Need, NeurIPS 2017.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.ops.attention.cuda import attention_backward_cuda, attention_forward_cuda
from nnkernels.ops.attention.loops import attention_backward_loops, attention_forward_loops
from nnkernels.ops.attention.tuned import attention_backward_tuned, attention_forward_tuned
from nnkernels.ops.attention.vectorized import (
    attention_backward_vectorized,
    attention_forward_vectorized,
    factor,
    jvp,
    scores,
)
from nnkernels.ops.gradients import by_formula
from nnkernels.ops.matmul import matmul
from nnkernels.ops.op import BadInput, Body, Mutant, Op, Sample
from nnkernels.ops.softmax import softmax
from nnkernels.ops.validate import fail_type, floats, given, is_array, number

# --- in ops ---


def attention_formula(
    q: Any, k: Any, v: Any, mask: Any = None, keep: Any = None, *, is_causal: bool = False,
    scale: float | None = None,
) -> Any:  # fmt: skip
    hidden = scores(0 * q.data, 0 * k.data, None if mask is None else np.asarray(mask), is_causal)
    seeing = hidden.max(axis=-1, keepdims=True, initial=-np.inf) > -np.inf
    s = matmul(q, k.transpose(-1, -2)) * factor(q, scale) + np.where(seeing, hidden, 0)
    p = softmax(s, dim=-1) * seeing.astype(q.dtype)
    return matmul(p if keep is None else p * keep, v)


# --- records ---

NAME = "attention"


def check(
    q: Array, k: Array, v: Array, mask: Any = None, keep: Array | None = None, *, is_causal: Any = False,
    scale: Any = None,
) -> None:  # fmt: skip
    adds = is_array(mask) and mask.dtype.kind == "b" and not isinstance(mask, np.ma.MaskedArray)
    floats(NAME, q=q, k=k, v=v, **given(mask=None if adds else mask, keep=keep))
    for name, a in (("q", q), ("k", k), ("v", v)):
        if a.ndim < 2 or a.shape[-1] == 0:
            raise ValueError(f"{NAME}: {name} must have shape (..., length, features), got {a.shape}")
    if not q.shape[:-2] == k.shape[:-2] == v.shape[:-2]:
        raise ValueError(f"{NAME}: q, k and v must agree on all axes but the last two, got shapes {q.shape}, "
                         f"{k.shape} and {v.shape}")  # fmt: skip
    if q.shape[-1] != k.shape[-1]:
        raise ValueError(
            f"{NAME}: q and k must have equally many features, got shapes {q.shape} and {k.shape}"
        )
    if k.shape[-2] != v.shape[-2]:
        raise ValueError(f"{NAME}: k and v must be equally long, got shapes {k.shape} and {v.shape}")
    shape = (*q.shape[:-1], k.shape[-2])
    if mask is not None:
        try:
            fits = np.broadcast_shapes(mask.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"{NAME}: mask must broadcast to the scores' shape {shape}, got {mask.shape}")
    if keep is not None and keep.shape != shape:
        raise ValueError(f"{NAME}: keep must have the scores' shape {shape}, got {keep.shape}")
    if not isinstance(is_causal, bool):
        fail_type(NAME, "is_causal", is_causal, "a bool")
    if is_causal and mask is not None:
        raise ValueError(f"{NAME}: give either a mask or is_causal=True, got both")
    if scale is not None:
        number(NAME, "scale", scale)


def sample(
    rng: np.random.Generator, dtype: Any, lead: tuple[int, ...], sizes: tuple[int, int, int, int],
    mask: tuple[int, ...] | None = None, kind: str = "add", dropout: float = 0, **attributes: Any,
) -> Sample:  # fmt: skip
    """Return a sample of L queries, S keys, E and F features, with a mask of the given shape."""
    L, S, E, F = sizes
    q, k, v = (np.asarray(rng.standard_normal((*lead, *s)), dtype) for s in ((L, E), (S, E), (S, F)))
    hidden = None
    if mask is not None:
        hidden = (
            np.asarray(rng.random(mask) < 0.7) if kind == "hide" else rng.standard_normal(mask).astype(dtype)
        )
        if kind == "hide" and len(mask) > 1:
            hidden[..., 0, :] = False  # a query that sees no key
    keep = np.asarray((rng.random((*lead, L, S)) >= dropout) / (1 - dropout), dtype) if dropout else None
    label = f"{lead} x L {L}, S {S}, E {E}, F {F}" + (f", mask {mask} {kind}" if mask else "")
    label += (f", dropout {dropout}" if dropout else "") + (f" {attributes}" if attributes else "")
    return Sample(label, (q, k, v, hidden, keep), attributes)


def samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (), (1, 1, 1, 1))
    yield sample(rng, dtype, (2,), (3, 5, 2, 3), scale=0.7)
    yield sample(rng, dtype, (1, 2), (5, 4, 3, 2), is_causal=True)
    yield sample(rng, dtype, (), (33, 3, 1, 1), is_causal=True)  # more than one block of queries
    yield sample(rng, dtype, (2,), (3, 4, 2, 1), (3, 4), "hide")
    yield sample(rng, dtype, (2, 2), (2, 3, 1, 2), (2, 1, 1, 3), "hide", dropout=0.4)
    yield sample(rng, dtype, (1, 2), (2, 3, 2, 1), (2, 2, 1))
    yield sample(rng, dtype, (3,), (2, 3, 1, 1), (3,))
    yield sample(rng, dtype, (2,), (2, 0, 2, 2))
    yield sample(rng, dtype, (0,), (2, 3, 2, 2))


def bad_inputs() -> Iterator[BadInput]:
    q, k, v = np.ones((2, 3, 4)), np.ones((2, 5, 4)), np.ones((2, 5, 6))
    mask = np.ones((3, 5), bool)
    yield BadInput(ValueError, "q must have shape (..., length, features), got (4,)", (q[0, 0], k, v))
    yield BadInput(ValueError, "agree on all axes but the last two", (q[:1], k, v))
    yield BadInput(ValueError, "equally many features", (q, k[..., :3], v))
    yield BadInput(ValueError, "k and v must be equally long", (q, k, v[:, :4]))
    yield BadInput(ValueError, "mask must broadcast to the scores' shape (2, 3, 5)", (q, k, v, mask[:2]))
    yield BadInput(ValueError, "got (1, 2, 3, 5)", (q, k, v, np.ones((1, 2, 3, 5), bool)))
    yield BadInput(TypeError, "mask must be float32 or float64, got int64", (q, k, v, mask.astype(int)))
    yield BadInput(ValueError, "keep must have the scores' shape", (q, k, v, None, np.ones((3, 5))))
    yield BadInput(ValueError, "either a mask or is_causal", (q, k, v, mask), {"is_causal": True})
    yield BadInput(TypeError, "is_causal must be a bool", (q, k, v), {"is_causal": 1})
    yield BadInput(ValueError, "scale must be finite", (q, k, v), {"scale": np.inf})
    yield BadInput(TypeError, "one dtype", (q, k.astype(np.float32), v))


def bench_samples(rng: np.random.Generator, dtype: Any) -> Iterator[Sample]:
    yield sample(rng, dtype, (2, 2), (72, 72, 32, 32), (2, 1, 72, 72), "hide", dropout=0.1)
    yield sample(rng, dtype, (8, 8), (128, 128, 64, 64))
    yield sample(rng, dtype, (1, 8), (512, 512, 64, 64), is_causal=True)


def flops(q: Array, k: Array, v: Array, *rest: Any, **attributes: Any) -> int:
    scores = q.size // q.shape[-1] * k.shape[-2]
    return int(scores * (2 * (q.shape[-1] + v.shape[-1]) + 20))


def mutant(name: str, body: Any, old: str, new: str) -> Mutant:
    """Return a fault planted in one of the bodies' files."""
    return Mutant(name, body, f"attention/{body}.py", old, new)


attention = Op(
    name=NAME,
    loops=Body(attention_forward_loops, attention_backward_loops),
    vectorized=Body(attention_forward_vectorized, attention_backward_vectorized),
    tuned=Body(attention_forward_tuned, attention_backward_tuned),
    cuda=Body(attention_forward_cuda, attention_backward_cuda),
    check=check,
    samples=samples,
    bad_inputs=bad_inputs,
    bench_samples=bench_samples,
    flops=flops,
    jvp=jvp,
    gradient=by_formula(attention_formula),
    constants=frozenset({3, 4}),
    tolerance=256,
    mutants=(
        mutant("scale forgotten", "loops", "s * scale + bias", "s + bias"),
        mutant("mean not subtracted", "loops", "p * (dp - mean) * scale", "p * dp * scale"),
        mutant("dropout forgotten in dv", "loops", "p * kept * dy[n, i, f]", "p * dy[n, i, f]"),
        mutant("mask of another head", "loops", "b = bias[of[n], i if", "b = bias[0, i if"),
        mutant("query sees one key too many", "tuned", "first + r + 1, cols", "first + r + 2, cols"),
        mutant("keys behind the block's last query", "tuned",
               "cols = min(S, first + rows) if causal else S\n    s, total",
               "cols = min(S, rows) if causal else S\n    s, total"),
        mutant("mask's row of another block", "tuned", "(first + r) * pitch", "r * pitch"),
        mutant("sum not divided by", "tuned", "y[p + f] *= over", "y[p + f] *= 1"),
        mutant("query without keys", "tuned", "lse[r], total[r] = np.inf, 1", "lse[r], total[r] = 0, 1"),
        mutant("scale forgotten in ds", "tuned", "(ds[p + j] - m) * scale", "(ds[p + j] - m)"),
        mutant("dk: missing +=", "tuned", "rows, dk, at_k, flag(True)", "rows, dk, at_k, flag(False)"),
        mutant("dropout forgotten in dv, tuned", "tuned",
               "multiply(s, cols, keep, U(here * S), S)\n        if dq", "pass\n        if dq"),
        mutant("keys of the first head", "tuned", "panels, U(n * size * E), tables[0]",
               "panels, U(0), tables[0]"),
    ),
)  # fmt: skip
