"""Write the README's table between its marks from benchmarks/results/ops.json and lenet.json.

python benchmarks/readme_table.py
"""

import json
import statistics
from pathlib import Path

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"
# op: which of its bench samples
SHOWN = {
    "matmul": 0, "linear": 0, "conv2d": 0, "max_pool2d": 0, "avg_pool2d": 0, "relu": 0, "sigmoid": 0,
    "tanh": 0, "add": 0, "sum": 3, "softmax": 3, "softmax_cross_entropy": 2, "adam_step": 0,
}  # fmt: skip


def duration(seconds: float) -> str:
    """Return seconds with three digits and a unit.

    >>> duration(0.0001234)
    '123 µs'
    """
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 1 or unit == "µs":
            value = seconds * scale
            return f"{value:.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    raise AssertionError


def table(results: dict) -> str:
    """Return the Markdown table of medians, forward pass, first size of each op."""
    cases: dict[str, dict[str, dict[str, dict]]] = {}
    for case in results["benchmarks"]:
        info = case["extra_info"] | {"seconds": case["stats"]["median"]}
        if info["way"] == "forward":
            cases.setdefault(info["op"], {}).setdefault(info["size"], {})[info["body"]] = info
    lines = [
        "| op, size | loops | vectorized | tuned | tuned GFLOP/s | over loops | over vectorized |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name, i in SHOWN.items():
        size, bodies = list(cases[name].items())[i]
        seconds = {body: info["seconds"] for body, info in bodies.items()}
        flops = bodies["tuned"]["flops"] / seconds["tuned"] / 1e9
        lines.append(
            f"| `{name}` {size} | {duration(seconds['loops'])} | {duration(seconds['vectorized'])} "
            f"| {duration(seconds['tuned'])} | {flops:.3g} | {seconds['loops'] / seconds['tuned']:.3g}x "
            f"| {seconds['vectorized'] / seconds['tuned']:.3g}x |"
        )
    cpu = results["machine_info"]["cpu"]
    threads = results["benchmarks"][0]["extra_info"]["threads"]
    compiled = sum(c["extra_info"]["compile_seconds"] for c in results["benchmarks"])
    lines += [
        "",
        f"float32, forward pass, medians; {cpu.get('brand_raw', 'unknown CPU')}, {cpu['count']} cores, "
        f"`tuned` on {threads} threads, {results['datetime'][:10]}. Compiling or loading from the cache took "
        f"{compiled:.0f} s for all {len(results['benchmarks'])} cases and is not in the times.",
    ]
    return "\n".join(lines)


def lenet(results: dict) -> str:
    """Return a sentence on LeNet-5 here and in PyTorch."""
    step = results["step_ms"]["64"]
    seconds = {
        name: statistics.median(run[name][0] for run in results["runs_seconds_accuracy"])
        for name in ("ours", "torch")
    }
    return (
        f"LeNet-5 on the same machine, batch 64: a training step takes {step['ours']:.1f} ms, in PyTorch "
        f"{results['torch']} {step['torch']:.1f} ms (both on {results['threads']} threads, interleaved, "
        f"medians); {results['epochs']} epochs over 4000 digits with evaluation {seconds['ours']:.1f} s and "
        f"{seconds['torch']:.1f} s."
    )


def main() -> None:
    """Replace what stands between the marks."""
    results = json.loads((HERE / "results" / "ops.json").read_text(encoding="utf-8"))
    against_torch = json.loads((HERE / "results" / "lenet.json").read_text(encoding="utf-8"))
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(
        f"{before}{BEGIN}\n{table(results)}\n\n{lenet(against_torch)}\n{END}{after}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
