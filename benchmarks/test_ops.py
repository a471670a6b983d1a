"""Time every op: OPS x bodies x sizes x forward/backward, one test each.

    pytest benchmarks --benchmark-enable --benchmark-json=benchmarks/results/ops.json

Compilation happens before the clock starts and is reported apart, in ``extra_info["compile_seconds"]``.
"""

import time

import numpy as np
import pytest

import nnkernels as nnk
from nnkernels.ops import OPS, checks
from nnkernels.ops.op import CPU_BODIES

SECONDS = 0.3  # of measuring per case
LOOPS_MOST_FLOPS = 3e8  # a larger size would keep the plain loops busy for seconds


def sizes(name):
    return list(OPS[name].bench_samples(np.random.default_rng(0), np.float32))


CASES = [
    pytest.param(name, i, body, way, id=f"{name}-{body}-{way}-{sample.label}")
    for name in OPS
    for i, sample in enumerate(sizes(name))
    for body in CPU_BODIES
    for way in ("forward", "backward")
    if (way == "forward" or OPS[name].loops.backward)
    and not (body == "loops" and OPS[name].flops(*sample.arrays, **sample.attributes) > LOOPS_MOST_FLOPS)
]


@pytest.mark.parametrize(("name", "i", "body", "way"), CASES)
def test_op(benchmark, name, i, body, way):
    op, sample = OPS[name], sizes(name)[i]
    arrays, attributes = checks.copies(sample.arrays), sample.attributes
    start = time.perf_counter()
    outputs = op.body(body).forward(*arrays, **attributes)

    def forward():
        return op.body(body).forward(*arrays, **attributes)

    def backward():
        return op.body(body).backward(dy, outputs, arrays, needs, **attributes)

    run = forward
    if way == "backward":
        dy = checks.cotangent(np.random.default_rng(0), outputs)
        needs = checks.differentiable(op, sample)
        run = backward
        start = time.perf_counter()
    result = run()
    compile_seconds = time.perf_counter() - start
    start = time.perf_counter()
    run()
    once = time.perf_counter() - start
    benchmark.extra_info.update(
        op=name, body=body, way=way, size=sample.label, threads=nnk.get_num_threads(),
        compile_seconds=compile_seconds, flops=op.flops(*arrays, **attributes),
        bytes=op.bytes(arrays, outputs[0]),
    )  # fmt: skip
    rounds = int(min(200, max(5, SECONDS / once)))
    time.sleep(0.2)  # OpenBLAS's threads spin for about 0.1 s after the products of the case before
    benchmark.pedantic(run, rounds=rounds, iterations=max(1, int(1e-4 / once)), warmup_rounds=2)
    assert len(result) == (len(outputs) if way == "forward" else len(arrays))
