"""Faults planted in the source of cuda bodies: each must be caught, and in the way that is said here."""

import numpy as np
import pytest

from nnkernels.ops import OPS
from nnkernels.ops.mutants import judged, judged_in_simulator, load
from nnkernels.ops.op import Mutant, Sample

pytestmark = pytest.mark.sim

RACE, WRONG, OUTSIDE = "a race", "largest error", "is outside of"
BARRIER = "cuda.syncthreads()"

# op, file, what stands there once, what takes its place, what the check or the simulator says
FAULTS = {
    "slope forgotten": (
        "relu", "elementwise.py", "dx[i] = dys[k] * df(xs[k], ys[k], a)", "dx[i] = dys[k]", WRONG),
    "last elements left out": (
        "tanh", "elementwise.py", "if i < at(y.size):", "if i < at(y.size - 1):", WRONG),
    "factors exchanged": (
        "sub", "binary_cuda.py", "y[i] = f(lefts[k], rights[k])", "y[i] = f(rights[k], lefts[k])", WRONG),
    "last element counted again": (
        "mul", "binary_cuda.py", "s += value if r < last else dy.dtype.type(0)", "s += value", WRONG),
    "row read beyond its end": (
        "softmax", "softmax_cuda.py", "value = x[at(start + min(k, n - 1) * step)]\n        values[j]",
        "value = x[at(start + k * step)]\n        values[j]", OUTSIDE),
    "mean of the slopes forgotten": (
        "layer_norm", "layer_norm_cuda.py", "((slopes[k] - along) - ", "(slopes[k] - ", WRONG),
    "barrier of the transpose": ("permute", "shape_cuda.py", BARRIER, "pass", RACE),
    "no bound before": (
        "pad", "assemble_cuda.py", "place >= 0 and place < sizes[axis]", "place < sizes[axis]", OUTSIDE),
    "only one lane's sum": (
        "mean", "reduce/cuda.py",
        "s = sum_over_lanes(s, scratch, width_bits, lane_bits)\n    if lane == 0 and",
        "if lane == 0 and", WRONG),
    "all lanes write": (
        "sum", "reduce/cuda.py", "if lane == 0 and o < outer and column < inner:\n        y[at((o * parts",
        "if o < outer and column < inner:\n        y[at((o * parts", RACE),
    "padding wins": (
        "max_pool2d", "pooling/cuda.py", "wins = counts & (beats(v, best)", "wins = (beats(v, best)", None),
    "barrier between tiles": ("matmul", "matmul/gemm_cuda.py", BARRIER, "pass", RACE),
    "bias of the first column": (
        "linear", "matmul/gemm_cuda.py", "bias[at(j)] if flags & BIAS", "bias[0] if flags & BIAS", WRONG),
    "smoothing forgotten": (
        "softmax_cross_entropy", "cross_entropy/cuda.py", "* of_class + part\n", "* of_class\n", WRONG),
    "filters beyond the last": (
        "conv2d", "conv2d/cuda_direct.py", "w[at(address)] if first + m < filters else zero",
        "w[at(address)]",
        OUTSIDE),
    "barrier behind the weights": (
        "conv2d", "conv2d/cuda_direct.py",
        "            cuda.syncthreads()\n            for row in range(rows):",
        "            for row in range(rows):", RACE),
    "barrier between tiles of pixels": (
        "conv2d", "conv2d/cuda_weights.py", "            cuda.syncthreads()\n\n        to =",
        "\n        to =", RACE),
    "rows begin with the same edge": (
        "spmm", "graph/cuda.py", "p = first + lane\n    while p < last:\n        for _ in range(AT_ONCE):\n"
        "            e = min(p, last - 1)\n            e = order",
        "p = first\n    while p < last:\n        for _ in range(AT_ONCE):\n"
        "            e = min(p, last - 1)\n            e = order", None),
    "first state in every step": (
        "lstm", "recurrent/cuda.py", "h = h0 if step == 0 else states  #", "h = h0  #", None),
    "moments not stored": (
        "adam_step", "steps/rules.py", "                put(i, new, a, b, c)", "                pass", WRONG),
}  # fmt: skip


def drawn(*shapes, **attributes):
    """Return a sample of float64 numbers: for kernels that the table's small samples do not take."""
    rng = np.random.default_rng(0)
    return Sample(f"{shapes}", tuple(rng.standard_normal(shape) for shape in shapes), attributes)


LARGER = {
    "permute": drawn((12, 20), dims=(1, 0)),
    "matmul": drawn((40, 20), (20, 50)),
    "conv2d": drawn((1, 4, 8, 8), (37, 4, 3, 3), (37,)),
}


def said_of(op):
    """Return what the checks say of an op's cuda body."""
    return judged_in_simulator(op, [LARGER[op.name]]) if op.name in LARGER else judged(op, "cuda")


@pytest.mark.parametrize("fault", FAULTS)
def test_the_fault_is_caught(fault):
    name, file, old, new, words = FAULTS[fault]
    said = said_of(load(OPS[name], Mutant(fault, "cuda", file, old, new)))
    assert said is not None, f"{name}: the fault {fault!r} lives"
    assert words is None or words in said


@pytest.mark.parametrize("name", sorted({name for name, *_ in FAULTS.values()}))
def test_without_a_fault_nothing_is_said(name):
    assert said_of(OPS[name]) is None
