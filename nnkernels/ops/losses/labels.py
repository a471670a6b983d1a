"""Losses that look up labels: which are valid, which are ignored, and what each row of the batch weighs."""

from functools import lru_cache
from typing import Any

import numpy as np

from nnkernels.machine.jit import jit_elementwise
from nnkernels.machine.memory import Array
from nnkernels.ops.losses.reduction import REDUCTIONS
from nnkernels.ops.validate import check_int, choice, floats

IGNORE = -100  # PyTorch's default label of examples that do not count


def row_weights(labels: Array, weight: Array | None, ignore_index: int, dtype: Any) -> Array:
    """Return the weight of each row: its label's, 1 without weights; 0 for ignored rows."""
    counted = labels != ignore_index
    label = np.where(counted, labels, 0).astype(np.int64)
    return np.where(counted, 1 if weight is None else weight[label], 0).astype(dtype)


def row_factors(dy: Array, reduction: str, targets: Array, ignore_index: int, divisor: Any) -> Array:
    """Return g_i = dy / divisor, dy or dy_i of the rows; 0 for ignored rows, even if there are no others."""
    with np.errstate(all="ignore"):
        g = np.broadcast_to(dy / divisor if reduction == "mean" else dy, targets.shape[:1])
    g = g.astype(dy.dtype)
    return np.where(targets != ignore_index, g, dy.dtype.type(0)) if targets.ndim == 1 else g


def reduced_by_weight(terms: Any, reduction: str, of_row: Array) -> Any:
    """Return what becomes of the rows' losses, a Tensor; the mean is over the sum of their weights."""
    if reduction == "none":
        return terms
    return terms.sum() * (1 / of_row.sum() if reduction == "mean" else 1.0)


@jit_elementwise
def sum_of_weights(labels: Array, w: Array, ignore: int) -> float:
    """Return the sum of all rows' weights, in float64."""
    total = 0.0
    for i in range(labels.size):
        if labels[i] != ignore:
            total += w[labels[i]]
    return total


@lru_cache(maxsize=64)
def ones(n: int, dtype: Any) -> Array:
    """Return n ones, which nobody writes to."""
    return np.ones(n, dtype)


def as_int64(labels: Array) -> Array:
    """Return the labels in the one type that kernels are compiled for."""
    return labels if labels.dtype == np.int64 else labels.astype(np.int64)


# --- records ---


@jit_elementwise
def all_within(labels: Array, classes: int, ignore: int) -> bool:
    """Whether all labels are valid; a few microseconds less than NumPy's min and max."""
    within = True
    for i in range(labels.size):
        within &= ((labels[i] >= 0) & (labels[i] < classes)) | (labels[i] == ignore)
    return within


def check_labels(op: str, labels: Array, classes: int, ignore_index: int) -> None:
    """Demand labels from 0 to classes - 1, or ignore_index."""
    plain = labels.dtype == np.int64 and type(labels) is np.ndarray and labels.flags.carray
    if plain and all_within(labels, classes, ignore_index):
        return
    bad = ((labels < 0) | (labels >= classes)) & (labels != ignore_index)
    if bad.any():
        i = int(np.argmax(bad))
        raise ValueError(
            f"{op}: targets must be labels from 0 to {classes - 1} ({classes} classes) or ignore_index "
            f"{ignore_index}, got {labels[i]} at position {i}"
        )


def check_labels_shape(op: str, x: Array, labels: Array, name: str) -> None:
    """Demand one label for each row."""
    if labels.shape != x.shape[:1]:
        raise ValueError(
            f"{op}: integer targets are labels and must have shape ({len(x)},) to go with {name} {x.shape}, "
            f"got {labels.shape}"
        )


def check_options(
    op: str, name: str, x: Array, weight: Array | None, reduction: Any, ignore_index: Any
) -> None:
    """Demand a weight for each class, and a mean that is defined."""
    rows, classes = x.shape
    if weight is not None:
        floats(op, **{name: x, "weight": weight})
        if weight.shape != (classes,):
            raise ValueError(
                f"{op}: weight must have shape ({classes},), a number for each class, got {weight.shape}"
            )
    choice(op, "reduction", reduction, REDUCTIONS)
    check_int(op, "ignore_index", ignore_index, np.iinfo(np.int64).min)
    if classes == 0:
        raise ValueError(f"{op}: {name} must have at least one class, got shape {x.shape}")
    if rows == 0 and reduction == "mean":
        raise ValueError(f"{op}: the mean over an empty batch is undefined, got {name} of shape {x.shape}")
