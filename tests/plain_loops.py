"""Run by test_simd.py with NNKERNELS_SIMD=0: gemm in all its ways and conv2d by all its methods.

In float64 without Winograd: such kernels take a minute to compile, and its sums are those of float32.
"""

import numpy as np

from nnkernels.machine import simd
from nnkernels.ops import OPS, checks
from nnkernels.ops.conv2d import sample
from nnkernels.ops.matmul.gemm import gemm

WAYS = (
    ("row", False, False), ("row", True, False), ("dot", False, True), ("direct", False, False),
    ("direct", True, False), ("packed", False, False), ("packed", True, True),
)  # fmt: skip


def check_gemm(rng, dtype):
    for way, transpose_a, transpose_b in WAYS:
        for add in (False, True):
            M, N, K = 2 if way == "row" else 11, 13, 7
            a, b, y = (rng.standard_normal(s).astype(dtype) for s in ((M, K), (K, N), (M, N)))
            wanted = a @ b + (y if add else 0)
            a = np.ascontiguousarray(a.T) if transpose_a else a
            b = np.ascontiguousarray(b.T) if transpose_b else b
            gemm(a, b, y, transpose_a=transpose_a, transpose_b=transpose_b, add=add, way=way)
            checks.assert_close(y, wanted, 64, f"gemm, {way}")


def check_conv2d(rng, dtype):
    op = OPS["conv2d"]
    for attributes in (
        {"stride": 2, "padding": 1}, {"winograd": False, "activation": "relu"}, {"winograd": 2},
        {"winograd": 4, "padding": 1, "activation": "relu"}, {"groups": 3, "stride": 2, "padding": 1},
    ):  # fmt: skip
        if dtype == np.float64 and attributes.get("winograd"):
            continue
        w = (6, 1, 3, 3) if "groups" in attributes else (5, 3, 3, 3)
        s = sample(rng, dtype, (2, 3, 7, 6), w, **attributes)
        wanted = checks.run(op, "vectorized", s)
        got = checks.run(op, "tuned", s)
        checks.assert_close(got[0], wanted[0], op.tolerance, s.label)
        dy = checks.cotangent(rng, wanted)
        grads = checks.run_backward(op, "vectorized", s, dy, wanted)
        for g, w in zip(checks.run_backward(op, "tuned", s, dy, wanted), grads):
            checks.assert_close(g, w, op.tolerance, s.label)


if __name__ == "__main__":
    assert not simd.ENABLED
    for dtype in (np.float32, np.float64):
        check_gemm(np.random.default_rng(0), dtype)
        check_conv2d(np.random.default_rng(0), dtype)
    print("OK")
