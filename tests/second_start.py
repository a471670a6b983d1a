"""Run by test_cache.py: a small job of many kernels, then the hits and misses of Numba's on-disk cache."""

import gc
import json

import numpy as np
from numba.core.dispatcher import Dispatcher

from nnkernels.machine.cache import cache_directory
from nnkernels.ops import OPS, checks
from nnkernels.ops.conv2d import sample
from nnkernels.ops.op import Sample


def job():
    """Call every kind of kernel: serial, parallel, made in a factory, in place."""
    rng = np.random.default_rng(0)

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    cases = [
        *(("conv2d", sample(rng, np.float32, (2, 24, 12, 12), (24, 24, 3, 3), padding=1, winograd=m))
          for m in (False, 2, 4)),
        ("conv2d", sample(rng, np.float32, (4, 6, 28, 28), (16, 6, 5, 5), activation="relu")),
        *(("matmul", Sample("", (draw(M, K), draw(K, N)))) for M, N, K in (
            (1, 9, 9), (1, 1100, 600), (9, 9, 9), (90, 90, 90), (150, 300, 500))),
        *(("linear", Sample("", (draw(M, K), draw(N, K), draw(N)))) for M, N, K in (
            (2, 9, 9), (64, 120, 400), (200, 300, 300))),
        ("relu", Sample("", (draw(2, 3, 4, 4),))),
        ("relu", Sample("", (draw(1200, 1200),))),
        ("add", Sample("", (draw(1200, 1200), draw(1200)))),
        ("mse", Sample("", (draw(400, 400), draw(400, 400)))),
        ("max_pool2d", Sample("", (draw(2, 3, 8, 8),), {"kernel_size": 2})),
        ("softmax_cross_entropy", Sample("", (draw(8, 10), rng.integers(0, 10, 8)))),
        ("adam_step", next(iter(OPS["adam_step"].bench_samples(rng, np.float32)))),
    ]  # fmt: skip
    for name, s in cases:
        op = OPS[name]
        arrays = op.prepare(checks.copies(s.arrays), s.attributes)
        outputs = op.tuned.forward(*arrays, **s.attributes)
        if op.tuned.backward is not None:
            dy = checks.cotangent(rng, outputs)
            op.tuned.backward(dy, outputs, arrays, checks.differentiable(op, s), **s.attributes)


def counts():
    """Return the hits and misses of all dispatchers, those in closures included, and who missed."""
    hits, missed = 0, []
    for found in gc.get_objects():
        if issubclass(type(found), Dispatcher) and found.py_func.__module__.startswith("nnkernels"):
            hits += sum(found.stats.cache_hits.values())
            missed += [found.py_func.__qualname__] * sum(found.stats.cache_misses.values())
    return {"hits": hits, "missed": missed, "directory": str(cache_directory())}


if __name__ == "__main__":
    job()
    print(json.dumps(counts()))
