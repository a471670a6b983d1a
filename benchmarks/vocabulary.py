"""Every op's ``tuned`` body beside its ``vectorized`` body and PyTorch, in turns, on the op's bench samples.

    pip install -e ".[test]" torch==2.13.0
    python benchmarks/vocabulary.py [OP ...] [--seconds 0.3] [--threads 2] [--out FILE]

PyTorch is called as a user calls it: forward without gradients, backward through ``torch.autograd.grad``,
update steps through ``torch.optim``. The calls are those of the test suite's oracles: results are known to
be equal. A run over all ops writes benchmarks/results/vocabulary.json; the report ends with the passes in
which ``tuned`` is the slower one.
"""

import argparse
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

for variable in [v for v in os.environ if v.startswith("OPENBLAS_")]:
    del os.environ[variable]  # OPENBLAS_CORETYPE=Haswell would hold NumPy to AVX2
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import numpy as np  # noqa: E402
import peers  # noqa: E402
import peers_time  # noqa: E402
import torch  # noqa: E402
from oracles import TORCH  # noqa: E402
from peers_table import duration, factor  # noqa: E402

import nnkernels as nnk  # noqa: E402
from nnkernels import io  # noqa: E402
from nnkernels.machine import info  # noqa: E402
from nnkernels.ops import OPS, Op, checks  # noqa: E402
from nnkernels.ops.op import Sample  # noqa: E402

Call = Callable[[], Any]
BODIES = ("tuned", "vectorized")
OPTIMIZERS = {
    "sgd_step": "SGD", "adam_step": "Adam", "nadam_step": "NAdam", "radam_step": "RAdam",
    "rmsprop_step": "RMSprop", "adagrad_step": "Adagrad", "adadelta_step": "Adadelta", "muon_step": "Muon",
}  # fmt: skip


def passes(op: Op, sample: Sample) -> Iterator[tuple[str, dict[str, Call]]]:
    """Yield the name of each pass and its calls: tuned, vectorized, torch."""
    if op.inplace:
        yield "step", {**{body: step(op, sample, body) for body in BODIES}, **torch_step(op, sample)}
        return
    arrays, attributes = checks.copies(sample.arrays), sample.attributes
    needs = checks.differentiable(op, sample)
    tensors = [None if a is None else torch.tensor(a, requires_grad=need) for a, need in zip(arrays, needs)]
    oracle = TORCH[op.name]
    outputs = {body: op.body(body).forward(*arrays, **attributes) for body in BODIES}

    def torch_forward() -> Any:
        with torch.no_grad():
            return oracle(*tensors, **attributes)

    def forward(body: str) -> Call:
        return lambda: op.body(body).forward(*arrays, **attributes)

    def backward(body: str) -> Call:
        return lambda: op.body(body).backward(dy, outputs[body], arrays, needs, **attributes)

    yield "forward", {**{body: forward(body) for body in BODIES}, "torch": torch_forward}
    if not any(needs):
        return
    dy = checks.cotangent(np.random.default_rng(0), outputs["tuned"])
    y, t_dy = oracle(*tensors, **attributes), torch.tensor(dy)
    sources = [t for t in tensors if t is not None and t.requires_grad]
    yield (
        "backward",
        {
            **{body: backward(body) for body in BODIES},
            "torch": lambda: torch.autograd.grad(y, sources, t_dy, retain_graph=True, materialize_grads=True),
        },
    )


def step(op: Op, sample: Sample, body: str) -> Call:
    """Return an update step on arrays of its own."""
    arrays = checks.copies(sample.arrays)
    return lambda: op.body(body).forward(*arrays, **sample.attributes)


def torch_step(op: Op, sample: Sample) -> dict[str, Call]:
    """Return the step of torch.optim with those of the sample's attributes that it knows, if it has one."""
    if op.name not in OPTIMIZERS:
        return {}
    kind = getattr(torch.optim, OPTIMIZERS[op.name])
    known = inspect.signature(kind).parameters
    parameter = torch.nn.Parameter(torch.tensor(sample.arrays[0]))
    parameter.grad = torch.tensor(sample.arrays[1])
    optimizer = kind([parameter], **{k: v for k, v in sample.attributes.items() if k in known})
    return {"torch": optimizer.step}


def measured(names: list[str], seconds: float) -> Iterator[dict[str, Any]]:
    """Yield a row per op, bench sample and pass: medians in seconds."""
    for name in names:
        for sample in OPS[name].bench_samples(np.random.default_rng(0), np.float32):
            for way, calls in passes(OPS[name], sample):
                times = peers_time.interleaved(calls, seconds)
                medians = {
                    body: times[body]["median"] if body in times else None for body in (*BODIES, "torch")
                }
                yield {"op": name, "size": sample.label, "way": way, **medians}


def line(row: dict[str, Any]) -> str:
    """Return a row as text: times, and how many times ``tuned`` is as fast as the others."""
    over = [factor(row[other] / row["tuned"]) if row[other] else "" for other in ("vectorized", "torch")]
    times = [duration(row[body]) for body in (*BODIES, "torch")]
    what = f"{row['op']} {row['size']}"
    return (
        f"{what[:50]:<51}{row['way']:<9}"
        + "".join(f"{t:>9}" for t in times)
        + "".join(f"{o:>8}" for o in over)
    )


def slower(rows: list[dict[str, Any]], other: str) -> list[str]:
    """Return the rows in which ``tuned`` takes longer than ``other``, the worst first."""
    ratios = [(row[other] / row["tuned"], row) for row in rows if row[other]]
    found = sorted((r for r in ratios if r[0] < 1), key=lambda r: r[0])
    lines = [f"slower than {other}: {len(found)} of {len(ratios)} passes"]
    return lines + [f"  {factor(ratio)}  {row['op']} {row['size']} {row['way']}" for ratio, row in found]


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help="ops to time (default: all)")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each comparison (default: 0.3)")
    parser.add_argument("--threads", type=int, default=min(2, info.threads().most), help="for both libraries")
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.ops if name not in OPS]
    if unknown:
        parser.error(f"no such op: {', '.join(unknown)}")
    torch.set_num_threads(arguments.threads)
    nnk.set_num_threads(arguments.threads)
    head = "".join(f"{body:>9}" for body in ("tuned", "vector.", "torch"))
    print(f"{'':<60}{head}{'x':>8}{'x torch':>8}")
    rows = []
    for row in measured(arguments.ops or list(OPS), arguments.seconds):
        rows.append(row)
        print(line(row), flush=True)
    print("", *slower(rows, "vectorized"), *slower(rows, "torch"), sep="\n")
    out = arguments.out or (None if arguments.ops else HERE / "results" / "vocabulary.json")
    if out is not None:
        facts = {"machine": peers.machine(), "versions": info.versions() | {"torch": torch.__version__}}
        io.write_json(out, {**facts, "threads": arguments.threads, "dtype": "float32", "rows": rows})
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
