"""Every op's ``tuned`` body beside PyTorch, in turns, and its ``vectorized`` body, on the op's bench samples.

    pip install -e ".[test]" torch==2.13.0
    python benchmarks/vocabulary.py [OP ...] [--seconds 0.3] [--threads 2] [--out FILE]

PyTorch is called as a user calls it: forward without gradients, backward through ``torch.autograd.grad``,
update steps through ``torch.optim``. The calls are those of the test suite's oracles: results are known to
be equal. ``vectorized`` has its turn by itself, since the threads of NumPy's BLAS spin for a while after each
product and would slow others down. A run over all ops writes benchmarks/results/vocabulary.json; the report
ends with the passes in which ``tuned`` is the slower one, each with its bound (FMA or memory) and how near
``tuned`` comes to it.
"""

import argparse
import datetime
import inspect
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

for variable in [v for v in os.environ if v.startswith("OPENBLAS_")]:
    del os.environ[variable]  # OPENBLAS_CORETYPE=Haswell would hold NumPy to AVX2
if find_spec("torch") is None:
    sys.exit("vocabulary.py: PyTorch is not installed: pip install torch==2.13.0")
HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

import numpy as np  # noqa: E402
import peers  # noqa: E402
import peers_time  # noqa: E402
import torch  # noqa: E402
from oracles import OPTIMIZERS, TORCH  # noqa: E402
from peers_table import bound, duration, factor  # noqa: E402

import nnkernels as nnk  # noqa: E402
from nnkernels import io  # noqa: E402
from nnkernels.machine import info  # noqa: E402
from nnkernels.ops import OPS, Op, checks  # noqa: E402
from nnkernels.ops.op import Sample  # noqa: E402

Call = Callable[[], Any]
Row = dict[str, Any]
BODIES = ("tuned", "vectorized")
SETTLE = 0.05  # seconds in which the clock and the threads of a body settle before it is timed by itself
REST = 0.3  # seconds after which NumPy's threads no longer spin


class Pass(NamedTuple):
    """A pass over a sample: its calls (tuned, vectorized, torch), its FLOPs and the fewest bytes it moves."""

    way: str
    calls: dict[str, Call]
    flops: int
    bytes: int


def passes(op: Op, sample: Sample) -> Iterator[Pass]:
    """Yield the passes that an op has.

    Counted for backward are FLOPs as in forward for each gradient, of two at most; as bytes, dy and the
    gradients: what every body must do, not what it reads besides.
    """
    flops = op.flops(*sample.arrays, **sample.attributes)
    if op.inplace:
        calls = {**{body: step(op, sample, body) for body in BODIES}, **torch_step(op, sample)}
        yield Pass("step", calls, flops, op.bytes(sample.arrays, sample.arrays[0]))
        return
    arrays, attributes = checks.copies(sample.arrays), sample.attributes
    needs = checks.differentiable(op, sample)
    tensors = [None if a is None else torch.tensor(a, requires_grad=need) for a, need in zip(arrays, needs)]
    oracle = TORCH[op.name]
    outputs = op.tuned.forward(*arrays, **attributes)

    def torch_forward() -> Any:
        with torch.no_grad():
            return oracle(*tensors, **attributes)

    def forward(body: str) -> Call:
        return lambda: op.body(body).forward(*arrays, **attributes)

    def backward(body: str) -> Call:
        return lambda: op.body(body).backward(dy, outputs, arrays, needs, **attributes)

    calls = {**{body: forward(body) for body in BODIES}, "torch": torch_forward}
    yield Pass("forward", calls, flops, op.bytes(arrays, outputs[0]))
    if not any(needs):
        return
    dy = checks.cotangent(np.random.default_rng(0), outputs)
    y, t_dy = oracle(*tensors, **attributes), torch.tensor(dy)
    sources = [t for t in tensors if t is not None and t.requires_grad]
    calls = {
        **{body: backward(body) for body in BODIES},
        "torch": lambda: torch.autograd.grad(y, sources, t_dy, retain_graph=True, materialize_grads=True),
    }
    moved = sum(a.nbytes for a in (dy, *calls["tuned"]()) if a is not None)
    yield Pass("backward", calls, flops * min(sum(needs), 2), moved)


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


def measured(names: list[str], seconds: float, limits: dict[str, float]) -> Iterator[Row]:
    """Yield a row per op, bench sample and pass: medians in seconds, the bound, how near it is."""
    for name in names:
        for sample in OPS[name].bench_samples(np.random.default_rng(0), np.float32):
            for way, calls, flops, moved in passes(OPS[name], sample):
                slow = calls.pop("vectorized")
                times = peers_time.interleaved(calls, seconds)
                medians = {who: times[who]["median"] if who in times else None for who in ("tuned", "torch")}
                medians["vectorized"] = peers_time.alone(slow, seconds / 2, SETTLE)
                time.sleep(REST)
                share = bound(flops, moved, times["tuned"]["median"], limits)
                yield {"op": name, "size": sample.label, "way": way, **medians, **share}


def line(row: Row) -> str:
    """Return a row as text: times, how many times ``tuned`` is as fast as the others, share of its bound."""
    over = [factor(row[other] / row["tuned"]) if row[other] else "" for other in ("vectorized", "torch")]
    times = [duration(row[body]) for body in (*BODIES, "torch")]
    return (
        f"{row['op'] + ' ' + row['size']:.49}".ljust(50)
        + f"{row['way']:<9}"
        + "".join(f"{t:>9}" for t in times)
        + "".join(f"{o:>8}" for o in over)
        + f"{row['of_bound']:>6.0%} {row['bound'][0].upper()}"
    )


def called(row: Row) -> str:
    """Return what a row is called."""
    return f"{row['op']} {row['size']} {row['way']}"


def compared(rows: list[Row], other: str) -> dict[str, Any]:
    """Return the geometric mean of the other's time over ``tuned``'s, and the rows below one."""
    ratios = [(row[other] / row["tuned"], row) for row in rows if row[other]]
    slow = sorted((r for r in ratios if r[0] < 1), key=lambda r: r[0])
    return {
        "passes": len(ratios),
        "geometric_mean": statistics.geometric_mean(ratio for ratio, _ in ratios) if ratios else None,
        "slower": [
            {"row": called(row), "ratio": ratio, "bound": row["bound"], "of_bound": row["of_bound"]}
            for ratio, row in slow
        ],
    }


def report(other: str, result: dict[str, Any]) -> str:
    """Return ``compared`` as text, the slowest first."""
    if not result["passes"]:
        return f"{other} has none of these passes"
    lines = [
        f"{other} over tuned, geometric mean of {result['passes']} passes: "
        f"{factor(result['geometric_mean'])}; tuned is slower in {len(result['slower'])}"
        + ":"
        * bool(result["slower"])
    ]
    for slow in result["slower"]:
        lines.append(f"  {factor(slow['ratio'])}  {slow['of_bound']:4.0%} of {slow['bound']}  {slow['row']}")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help="ops to time (default: all)")
    parser.add_argument("--seconds", type=float, default=0.3, help="for each comparison (default: 0.3)")
    parser.add_argument(
        "--threads",
        type=int,
        choices=range(1, info.threads().most + 1),
        default=min(2, info.threads().most),
        help="for both libraries",
    )
    parser.add_argument("--out", type=Path, metavar="FILE", help="where the JSON goes")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.ops if name not in OPS]
    if unknown:
        parser.error(f"no such op: {', '.join(unknown)}")
    torch.set_num_threads(arguments.threads)
    nnk.set_num_threads(arguments.threads)
    limits = peers.rates([arguments.threads])[arguments.threads]
    head = "".join(f"{body:>9}" for body in ("tuned", "vector.", "torch"))
    print(f"{'':<59}{head}{'x':>8}{'x torch':>8}  limit")
    rows: list[Row] = []
    for row in measured(arguments.ops or list(OPS), arguments.seconds, limits):
        rows.append(row)
        print(line(row), flush=True)
    results = {other: compared(rows, other) for other in ("vectorized", "torch")}
    print("", *(report(other, result) for other, result in results.items()), sep="\n")
    out = arguments.out or (None if arguments.ops else HERE / "results" / "vocabulary.json")
    if out is not None:
        facts = {
            "machine": peers.machine(), "versions": info.versions() | {"torch": torch.__version__},
            "date": datetime.date.today().isoformat(), "threads": arguments.threads, "dtype": "float32",
            "ceilings": limits,
        }  # fmt: skip
        io.write_json(out, {**facts, "compared": results, "rows": rows})
        print(f"wrote {out}")


if __name__ == "__main__":
    main()
