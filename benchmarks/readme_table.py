"""Write the README's tables, and that of networks, between their marks from what benchmarks/results holds.

python benchmarks/readme_table.py
"""

import json
import statistics
from pathlib import Path

import peers_table
from peers_table import SETTINGS, duration, factor

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
PAGE = HERE.parent / "docs" / "benchmarks.md"
# op: which of its bench samples
SHOWN = {
    "matmul": 0, "linear": 0, "conv2d": 1, "max_pool2d": 0, "avg_pool2d": 0, "relu": 0, "sigmoid": 0,
    "tanh": 0, "add": 0, "sum": 3, "softmax": 3, "softmax_cross_entropy": 2, "adam_step": 1,
}  # fmt: skip
PEERS_SHOWN = (
    "conv2d 64x6x14x14 16 5x5 fwd", "conv2d 64x32x32x32 64 3x3 p1 fwd", "conv2d 64x32x32x32 64 3x3 p1 dx",
    "conv2d 64x32x32x32 64 3x3 p1 dw", "conv2d 8x3x224x224 64 7x7 s2 p3 fwd", "matmul 1024x1024x1024 fwd",
    "linear 64x784x128 fwd", "max_pool2d 64x6x28x28 k2 fwd", "tanh 4 Mi fwd", "batch_norm 64x32x28x28 fwd",
    "softmax_cross_entropy 4096x1000 fwd", "adam_step 61,706 params step", "MLP batch 64 step",
    "LeNet-5 batch 64 step", "CIFAR convnet batch 64 step",
)  # fmt: skip


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


def peers(results: dict) -> str:
    """Return a table of some rows beside PyTorch's on the most threads, and the geometric means of all."""
    n = max(results["threads"])
    rows = {peers_table.name(row): row for row in results["rows"] if row["threads"] == n}
    lines = [
        "| op, size, pass | tuned | of limit | PyTorch | over ours | allocation tuned | over ours |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in (rows[shown] for shown in PEERS_SHOWN if shown in rows):
        plain, tuned = (row[setting] for setting in SETTINGS)
        lines.append(
            f"| `{row['op']}` {row['label']} {row['way']} | {duration(plain['ours']['median'])} "
            f"| {row['of_bound']:.0%} {row['bound'][0].upper()} "
            f"| {duration(plain['torch']['median'])} | {factor(plain['ratio'])} "
            f"| {duration(tuned['torch']['median'])} | {factor(tuned['ratio'])} |"
        )
    machine, limits = results["machine"], results["ceilings"][str(n)]
    below = sum(row["threads"] == n for row in results["below_one"])
    lines += [
        "",
        f"float32, medians, both on {n} threads in one process, taking turns; {machine['processor']} "
        f"({machine['llvm']}), {machine['cores']} cores, PyTorch {results['versions']['torch']}, "
        f"{results['date']}. Of limit: of the measured FMA peak (F, {limits['fma_gflops']:.0f} GFLOP/s) or "
        f"memory bandwidth (M, {limits['memory_gbytes']:.0f} GB/s); above 100 % lies in caches. Allocation "
        "tuned: glibc's malloc keeps large blocks, which spares PyTorch the page faults of large outputs; a "
        "process of its own, with its own times of ours." + disturbed(results),
        "",
        f"Geometric mean of PyTorch's time over ours, all {len(rows)} rows: {mean_sentence(results)}. On {n} "
        f"threads PyTorch is faster in {below} of them, under at least one of the settings.",
    ]
    return "\n".join(lines)


def disturbed(results: dict) -> str:
    """Return a warning where other programs ran beside the measurement."""
    others = results["cores_others_used"]
    if others is None or others <= peers_table.MOST_OTHERS:
        return ""
    return f" **Preliminary: other programs kept {others:.1f} cores busy meanwhile.**"


def mean_sentence(results: dict) -> str:
    """Return the geometric means over all rows."""
    parts = []
    for n in results["threads"]:
        plain, tuned = (results["geometric_means"][setting][str(n)]["all"] for setting in SETTINGS)
        on = f"{n} thread{'s' * (n > 1)}"
        parts.append(f"{factor(plain)} on {on} ({factor(tuned)} with its allocation tuned)")
    return ", ".join(parts)


def vocabulary(results: dict) -> str:
    """Return in words how all ops compare."""
    ops, machine = len({row["op"] for row in results["rows"]}), results["machine"]
    vectorized, torch = (results["compared"][other] for other in ("vectorized", "torch"))
    return (
        f"{ops} ops at several sizes: the geometric mean of `vectorized`'s time over `tuned`'s is "
        f"{factor(vectorized['geometric_mean'])} in {vectorized['passes']} passes, of PyTorch's "
        f"{factor(torch['geometric_mean'])} in {torch['passes']}. `tuned` is slower than `vectorized` in "
        f"{len(vectorized['slower'])} of them, than PyTorch in {len(torch['slower'])}; the report and "
        "[vocabulary.json](benchmarks/results/vocabulary.json) name them with their bounds. float32, "
        f"{results['threads']} threads, medians, PyTorch in turns with `tuned`; {machine['processor']} "
        f"({machine['llvm']}), {machine['cores']} cores, PyTorch {results['versions']['torch']}, "
        f"{results['date']}."
    )


def autodiff(results: dict) -> str:
    """Return in words what both modes and the tape cost."""
    modes, machine = results["modes"], results["machine"]
    seconds, meeting = modes["pass_seconds"], modes["crossover_n"]
    deepest, n = results["memory"]["rows"][-1], modes["product"]
    tape = {row["case"]: row for row in results["tape"]}
    costs = ", ".join(
        f"{tape[case]['tape_us']:.1f} µs in {name}"
        for case, name in (
            (next(iter(tape)), "a chain of small ops"),
            ("MLP batch 1", "the step of an MLP of three ops"),
            ("LeNet-5 batch 1", "LeNet-5's"),
        )
    )
    return (
        f"A pass of forward mode costs {seconds['jvp'] / seconds['f']:.1f} evaluations of f, a pass back "
        f"{seconds['pull'] / seconds['f']:.1f}; a Jacobian takes a pass per input or one per output, so "
        f"with n · m = {n} both take the same time at n = {meeting['measured']:.1f} (predicted from single "
        f"passes: {meeting['predicted']:.1f}). Through {deepest['depth']} layers reverse mode holds "
        f"{deepest['reverse'] / 2**20:.1f} MiB, forward mode {deepest['forward'] / 2**20:.1f} at any depth. "
        f"Per op, forward and backward together, the tape adds {costs} (both with a batch of one); a Python "
        f"object per number costs {results['scalars'][0]['op_us']:.1f} µs per *number*. "
        f"{results['threads']} thread, medians; {machine['processor']} ({machine['llvm']}), "
        f"{results['date']}."
    )


def networks(results: dict) -> str:
    """Return the Markdown table of whole networks beside PyTorch."""
    ways = {"step": "training step", "eval": "inference", "optimised": "inference, ours optimised"}
    lines = ["| network, 224 x 224 | ours | PyTorch | times as fast |", "|---|---:|---:|---:|"]
    for row in results["rows"]:
        ours, torch = (row["as_installed"][who]["median"] for who in ("ours", "torch"))
        name = f"{row['op']}, {row['label'].split(', ')[1]}, {ways[row['way']]}"
        lines.append(f"| {name} | {duration(ours)} | {duration(torch)} | {factor(torch / ours)} |")
    others = results["cores_others_used"]
    machine = results["machine"]
    lines += [
        "",
        f"float32, medians, {results['threads'][0]} threads, taking turns in one process; "
        f"{machine['processor']} ({machine['llvm']}), {machine['cores']} cores, PyTorch "
        f"{results['versions']['torch']} as installed, {results['date']}."
        + (f" Other programs kept {others:.2f} cores busy." if others and others > 0.1 else ""),
    ]
    return "\n".join(lines)


def between(text: str, mark: str, content: str) -> str:
    """Return the text with what stands between a pair of marks replaced."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"README.md: marks {begin} and {end} are missing")
    return f"{before}{begin}\n{content}\n{end}{after}"


def main() -> None:
    """Replace what stands between the marks."""
    text = README.read_text(encoding="utf-8")
    results = json.loads((HERE / "results" / "ops.json").read_text(encoding="utf-8"))
    against_torch = json.loads((HERE / "results" / "lenet.json").read_text(encoding="utf-8"))
    beside_peers = json.loads((HERE / "results" / "peers.json").read_text(encoding="utf-8"))
    everything = json.loads((HERE / "results" / "vocabulary.json").read_text(encoding="utf-8"))
    text = between(text, "vocabulary", vocabulary(everything))
    modes = json.loads((HERE / "results" / "autodiff_modes.json").read_text(encoding="utf-8"))
    text = between(text, "autodiff", autodiff(modes))
    text = between(text, "table", f"{table(results)}\n\n{lenet(against_torch)}")
    text = between(text, "peers", peers(beside_peers))
    README.write_text(text, encoding="utf-8")
    beside = json.loads((HERE / "results" / "networks.json").read_text(encoding="utf-8"))
    page = between(PAGE.read_text(encoding="utf-8"), "networks", networks(beside))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
