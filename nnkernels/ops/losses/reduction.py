"""What becomes of the n losses l_i: their "mean", their "sum", all of them ("none"), or their "batchmean".

The cotangent dy of the result reaches each l_i as g_i: dy / n, dy, dy_i, or dy / N with N the length of the
first axis.
"""

from typing import Any

import numpy as np

from nnkernels.machine.jit import jit, jit_elementwise
from nnkernels.machine.memory import Array
from nnkernels.machine.threads import CHUNK
from nnkernels.ops.reduce.tuned import row_sum

REDUCTIONS = ("mean", "sum", "none")


def factor(reduction: str, terms: Array) -> float:
    """Return the factor between an l_i and what it adds to the result; ``terms`` has the shape of all l_i."""
    if reduction == "mean":
        return 1.0 / terms.size
    return 1.0 / len(terms) if reduction == "batchmean" else 1.0


def gathered(terms: Array, reduction: str) -> Array:
    """Return the mean, the sum or all of the l_i."""
    if reduction == "none":
        return terms
    return np.asarray(terms.dtype.type(factor(reduction, terms)) * terms.sum())


def reduced(terms: Any, reduction: str = "mean") -> Any:
    """Return the same of terms that are a Tensor, in ops."""
    return terms if reduction == "none" else terms.sum() * factor(reduction, terms)


def spread(dy: Array, reduction: str, terms: Array) -> Array:
    """Return the g_i."""
    g: Array = np.broadcast_to(dy * dy.dtype.type(factor(reduction, terms)), terms.shape).copy()
    return g


@jit
def add_up(terms: Array) -> Any:
    total = 0.0  # float64: the yardstick for float32 sums in any order
    for i in range(terms.size):
        total += terms[i]
    return total


@jit_elementwise
def sum_into(terms: Array, scale: Any, y: Array) -> None:
    """Write scale * sum of terms to y[0]; partial sums of one chunk each keep float32 accurate."""
    y[0] = 0
    for c in range((terms.size + CHUNK - 1) // CHUNK):
        y[0] += row_sum(terms[c * CHUNK : (c + 1) * CHUNK])
    y[0] *= scale
