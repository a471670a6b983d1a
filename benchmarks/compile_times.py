"""How long each op's ``tuned`` body takes to compile: the first call in a fresh process with an empty cache.

    python benchmarks/compile_times.py [OP ...] [--limit 4]

The first bench sample of each op, float32, forward and then backward. Most of a first call is compiling, and
one thread does that; so the table is sorted by the processor's seconds, which other programs disturb less
than the clock's. Ops above the limit are flagged, and then the exit code is 1.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from nnkernels.ops import OPS, checks


def first_call_seconds(name: str) -> tuple[float, float, float]:
    """Return the seconds of this process's first forward and first backward call of an op, and the CPU's."""
    rng = np.random.default_rng(0)
    op = OPS[name]
    sample = next(iter(op.bench_samples(rng, np.float32)))
    arrays = checks.copies(sample.arrays)
    start, busy = time.perf_counter(), time.process_time()
    outputs = op.tuned.forward(*arrays, **sample.attributes)
    forward = time.perf_counter() - start
    if op.tuned.backward is None:
        return forward, 0.0, time.process_time() - busy
    dy = checks.cotangent(rng, outputs)
    needs = checks.differentiable(op, sample)
    start = time.perf_counter()
    op.tuned.backward(dy, outputs, arrays, needs, **sample.attributes)
    return forward, time.perf_counter() - start, time.process_time() - busy


def in_a_fresh_process(name: str) -> tuple[float, float, float]:
    """Return the same, measured in a new process whose cache is empty."""
    with tempfile.TemporaryDirectory() as directory:
        environment = os.environ | {"NUMBA_CACHE_DIR": directory}
        command = [sys.executable, __file__, "--here", name]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    forward, backward, busy = json.loads(done.stdout)
    return forward, backward, busy


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help="ops to time (default: all)")
    parser.add_argument("--limit", type=float, default=4.0, help="seconds above which an op is flagged")
    parser.add_argument("--here", metavar="OP", help="time this op in this process and print JSON")
    arguments = parser.parse_args()
    if arguments.here:
        print(json.dumps(first_call_seconds(arguments.here)))
        return 0
    for name in arguments.ops:
        if name not in OPS:
            parser.error(f"there is no op {name!r}")
    rows = []
    for name in arguments.ops or OPS:
        print(f"{name} ...", file=sys.stderr, flush=True)
        forward, backward, busy = in_a_fresh_process(name)
        rows.append((busy, forward, backward, name))
    rows.sort(reverse=True)
    print(f"{'op':24} {'forward s':>9} {'backward s':>10} {'CPU s':>6}")
    for busy, forward, backward, name in rows:
        flag = "  above the limit" if busy > arguments.limit else ""
        print(f"{name:24} {forward:9.2f} {backward:10.2f} {busy:6.2f}{flag}")
    return int(rows[0][0] > arguments.limit)


if __name__ == "__main__":
    sys.exit(main())
