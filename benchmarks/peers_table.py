"""The figures of peers.py in words: geometric means, rows where PyTorch is faster, tables."""

import statistics
from typing import Any

SETTINGS = ("as_installed", "allocation_tuned")
MOST_OTHERS = 0.1  # cores that other programs may use before times on all cores suffer
Row = dict[str, Any]


def name(row: Row) -> str:
    """Return what a row is called."""
    return f"{row['op']} {row['label']} {row['way']}"


def bound(flops: int, moved: int, seconds: float, limits: dict[str, float]) -> Row:
    """Return which ceiling limits a call of so many FLOPs and bytes, and the time it allows over seconds."""
    compute = flops / (limits["fma_gflops"] * 1e9)
    memory = moved / (limits["memory_gbytes"] * 1e9)
    return {
        "bound": "FMA" if compute >= memory else "memory",
        "of_bound": max(compute, memory) / seconds,
    }


def means(rows: list[Row], threads: list[int]) -> dict[str, Any]:
    """Return the geometric means of PyTorch's time over ours: setting -> threads -> all rows, each family."""
    result: dict[str, Any] = {}
    for setting in SETTINGS:
        for n in threads:
            ratios: dict[str, list[float]] = {}
            for row in rows:
                if row["threads"] == n:
                    for group in ("all", row["family"]):
                        ratios.setdefault(group, []).append(row[setting]["ratio"])
            of = {group: statistics.geometric_mean(values) for group, values in ratios.items()}
            result.setdefault(setting, {})[str(n)] = of
    return result


def below_one(rows: list[Row]) -> list[Row]:
    """Return the rows where PyTorch is faster under either setting, the worst first."""
    slow = [
        {"row": name(row), "threads": row["threads"], **{s: row[s]["ratio"] for s in SETTINGS}}
        for row in rows
        if min(row[s]["ratio"] for s in SETTINGS) < 1
    ]
    return sorted(slow, key=lambda row: min(row[s] for s in SETTINGS))


def duration(seconds: float | None) -> str:
    """Return seconds with three digits and a unit, "" for None.

    >>> duration(0.0001234), duration(0.0099999), duration(None)
    ('123 µs', '10 ms', '')
    """
    if seconds is None:
        return ""
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if seconds * scale >= 0.9995 or unit == "µs":
            return f"{seconds * scale:.3g} {unit}"
    raise AssertionError


def factor(ratio: float) -> str:
    """Return a ratio with two or three digits.

    >>> factor(0.6666), factor(1.234), factor(12.34)
    ('0.67x', '1.23x', '12.3x')
    """
    return f"{ratio:.2f}x" if ratio < 9.995 else f"{ratio:.3g}x"


def text(results: dict[str, Any]) -> str:
    """Return the whole report for a terminal, at most 110 columns wide."""
    machine, versions = results["machine"], results["versions"]
    lines = [
        f"{machine['processor']} ({machine['llvm']}), {machine['cores']} cores",
        f"PyTorch {versions['torch']}, Numba {versions['numba']}, float32, medians, {results['date']}",
    ]
    others = results["cores_others_used"]
    if others is not None and others > MOST_OTHERS:
        lines.append(f"other programs kept {others:.2f} cores busy meanwhile: do not believe these times")
    for n in results["threads"]:
        lines += ["", *table(results, n)]
    lines += ["", *NOTES, "", *slower(results["below_one"]), "", *mean_lines(results)]
    return "\n".join(lines)


NOTES = (
    "torch*: with glibc's malloc told to keep large blocks (MALLOC_MMAP_THRESHOLD_, MALLOC_TRIM_THRESHOLD_)",
    "x, x*: time of torch, torch* over that of `tuned` measured in turns with it; above 1 ours is faster",
    "of limit: of the FMA peak (F) or of the bandwidth of memory (M) for `tuned`; above 100 % lies in caches",
)  # fmt: skip


def table(results: dict[str, Any], threads: int) -> list[str]:
    """Return the table for one number of threads."""
    limits = results["ceilings"][str(threads)]
    lines = [
        f"{threads} thread{'s' * (threads > 1)}: FMA peak {limits['fma_gflops']:.0f} GFLOP/s, "
        f"memory {limits['memory_gbytes']:.0f} GB/s",
        f"{'':<38}{'loops':>9}{'vectorized':>11}{'tuned':>9}{'torch':>9}{'torch*':>9}{'x':>7}{'x*':>7}"
        f"{'of limit':>10}",
    ]
    for row in results["rows"]:
        if row["threads"] != threads:
            continue
        plain, tuned = (row[setting] for setting in SETTINGS)
        bound = f"{row['of_bound']:.0%} {row['bound'][0].upper()}"
        lines.append(
            f"{name(row):<38}{duration(row['loops']):>9}{duration(row['vectorized']):>11}"
            f"{duration(plain['ours']['median']):>9}{duration(plain['torch']['median']):>9}"
            f"{duration(tuned['torch']['median']):>9}{factor(plain['ratio']):>7}{factor(tuned['ratio']):>7}"
            f"{bound:>10}"
        )
        if "torch_fused" in plain:
            fused = [setting["torch_fused"]["median"] for setting in (plain, tuned)]
            ratios = [f / setting["ours"]["median"] for f, setting in zip(fused, (plain, tuned))]
            lines.append(
                f"{'  beside torch.optim with fused=True':<67}{duration(fused[0]):>9}{duration(fused[1]):>9}"
                f"{factor(ratios[0]):>7}{factor(ratios[1]):>7}"
            )
    return lines


def slower(rows: list[Row]) -> list[str]:
    """Return the list of rows below 1."""
    if not rows:
        return ["no row below 1x"]
    lines = [f"below 1x: {len(rows)} row{'s' * (len(rows) > 1)}"]
    for row in rows:
        ratios = f"{factor(row['as_installed']):>8}{factor(row['allocation_tuned']):>8}"
        lines.append(f"  {row['row']:<39}{row['threads']} thread{'s' if row['threads'] > 1 else ' '}{ratios}")
    return lines


def mean_lines(results: dict[str, Any]) -> list[str]:
    """Return the geometric means as a table: families down, settings and threads across."""
    columns = [(setting, n) for n in results["threads"] for setting in SETTINGS]
    heads = [f"{n} thread{'s' * (n > 1)}{'*' * (s != SETTINGS[0])}" for s, n in columns]
    lines = [f"{'geometric means of torch / ours':<37}" + "".join(f"{head:>12}" for head in heads)]
    groups = results["geometric_means"][SETTINGS[0]][str(results["threads"][0])]
    for group in sorted(groups, key=lambda g: g == "all"):
        cells = [results["geometric_means"][s][str(n)][group] for s, n in columns]
        lines.append(f"{group:<37}" + "".join(f"{factor(cell):>12}" for cell in cells))
    return lines
