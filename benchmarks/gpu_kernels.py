"""What the compiler makes of every GPU kernel: registers, stack, shared memory and opcodes. No GPU is needed.

    pip install "nnkernels[cuda]"
    python benchmarks/gpu_kernels.py [OP ...] [--out DIR]

Compiles for each architecture in CAPABILITIES, with the types that the ops' samples lead to, and writes
benchmarks/results/gpu_kernels.json, where no OP is named or --out says where. Exits with status 1 where a
kernel is not what it should be; tests/gpu/test_compiled_kernels.py holds the same.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from nnkernels import io
from nnkernels.machine.gpu import numba_cuda
from nnkernels.ops import gpu_kernels

RESULTS = Path(__file__).parent / "results"
HEAD = f"{'kernel':<64}{'arch':>6}{'registers':>10}{'stack':>6}{'spills':>7}{'shared':>7}  opcodes"


def rows_of(verdicts: gpu_kernels.Verdicts) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the facts of each kernel and architecture, those of several types one after the other."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for name in verdicts.places:
        for verdict in verdicts.of(name):
            report = verdict.report
            facts = {"ops": [], "faults": verdict.faults}
            arch = "-"
            if report is not None:
                arch = f"sm_{report.capability[0]}{report.capability[1]}"
                facts |= {key: getattr(report, key) for key in ("registers", "stack", "spills", "shared")}
                facts["opcodes"] = verdict.opcodes
            row = rows.setdefault((verdict.kernel, arch), facts)
            if facts.get("registers", 0) > row.get("registers", 0):
                rows[verdict.kernel, arch] = row = facts | {"ops": row["ops"]}
            row["ops"] += [name] * (name not in row["ops"])
    return rows


def line(kernel: str, arch: str, row: dict[str, Any]) -> str:
    """Return a row of the table."""
    numbers = [row.get(key, "-") for key in ("registers", "stack", "spills", "shared")]
    widths = zip(numbers, (10, 6, 7, 7))
    opcodes = ", ".join(f"{n} {name}" for name, n in row.get("opcodes", {}).items())
    return f"{kernel:<64}{arch:>6}{''.join(f'{n:>{width}}' for n, width in widths)}  {opcodes}".rstrip()


def main() -> int:
    """Compile, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ops", nargs="*", metavar="OP", help="(default: all)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the JSON goes")
    arguments = parser.parse_args()
    if unknown := set(arguments.ops) - set(gpu_kernels.names()):
        parser.error(f"argument OP: no GPU kernels of {', '.join(sorted(unknown))}")
    try:
        numba_cuda()
    except RuntimeError as error:
        print(f"nothing is compiled: {error}")
        return 0
    with gpu_kernels.verdicts(arguments.ops or gpu_kernels.names()) as verdicts:
        rows = rows_of(verdicts)
    print(HEAD)
    faults = []
    for (kernel, arch), row in sorted(rows.items()):
        print(line(kernel, arch, row))
        faults += row["faults"]
    print("\n".join(["", *faults, f"{len(rows)} kernels and architectures, {len(faults)} faults"]))
    if arguments.out is not None or not arguments.ops:
        directory = arguments.out or RESULTS
        directory.mkdir(parents=True, exist_ok=True)
        found = [{"kernel": kernel, "arch": arch, **row} for (kernel, arch), row in sorted(rows.items())]
        io.write_json(directory / "gpu_kernels.json", {"kernels": found})
        print(f"wrote {directory / 'gpu_kernels.json'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
