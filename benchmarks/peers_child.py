"""One process of peers.py: it reads what to time from a JSON file and writes the times into another.

    python benchmarks/peers_child.py REQUEST RESULT

A process times either our bodies ``loops`` and ``vectorized`` by themselves ("alone"), or ``tuned`` and
PyTorch in turns, under the allocation settings that its environment holds.
"""

import json
import sys
from pathlib import Path
from typing import Any

LOOPS_MOST_FLOPS = 3e8  # more would keep the plain loops busy for seconds
SETTLE = 0.05  # seconds: the clock and the threads of the body before settle
TRIAL_BYTES = 64 * 2**20


def alone(rows: list[Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return for each row its work and the seconds of our slower bodies; loops where not too many FLOPs."""
    import peers_time

    results = {}
    for row in progress(rows, request):
        case = row.build()
        flops, least_bytes = case.work()
        results[row.name] = {"flops": flops, "bytes": least_bytes}
        for body in request["bodies"]:
            if body == "vectorized" or flops <= LOOPS_MOST_FLOPS:
                results[row.name][body] = peers_time.alone(case.call(body), request["seconds"] / 4, SETTLE)
    return {"rows": results}


def against_torch(rows: list[Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return for each row and number of threads the times of ``tuned`` and of PyTorch, after comparing."""
    import torch  # before nnkernels, which would set the spin count of PyTorch's threads, too

    import nnkernels as nnk  # isort: skip
    import peers_time
    import peers_torch

    results = {}
    for row in progress(rows, request):
        case = row.build()
        ours, others = case.call("tuned"), peers_torch.calls(case)
        peers_torch.compare(case, ours, others)
        results[row.name] = {}
        for n in request["threads"]:
            torch.set_num_threads(n)
            nnk.set_num_threads(n)
            times = peers_time.interleaved({"ours": ours, **others}, request["seconds"])
            results[row.name][n] = {**times, "ratio": times["torch"]["median"] / times["ours"]["median"]}
    return {"rows": results, "torch": torch.__version__, "page_faults": page_faults()}


def page_faults() -> int:
    """Return how often PyTorch's second to fourth tensor of 64 MiB touched a new page, on average."""
    import resource

    import torch

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    torch.empty(TRIAL_BYTES, dtype=torch.uint8).fill_(1)
    before = faults()
    for _ in range(3):
        torch.empty(TRIAL_BYTES, dtype=torch.uint8).fill_(1)
    return (faults() - before) // 3


def progress(rows: list[Any], request: dict[str, Any]) -> Any:
    """Yield the rows, showing on a terminal which one is at work."""
    for i, row in enumerate(rows, start=1):
        if sys.stderr.isatty():
            line = f"{request['title']}: {i}/{len(rows)} {row.name}"
            print(f"\r\x1b[K{line[:100]}", end="", file=sys.stderr, flush=True)
        yield row
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def main() -> None:
    request_path, result_path = (Path(argument) for argument in sys.argv[1:])
    request = json.loads(request_path.read_text(encoding="utf-8"))
    if request["kind"] == "against torch":
        import torch  # noqa: F401 (first, see against_torch)

    from peers_every import every_row

    rows = [r for r in every_row() if r.name in request["rows"]]
    time_them = {"alone": alone, "against torch": against_torch}[request["kind"]]
    result_path.write_text(json.dumps(time_them(rows, request)), encoding="utf-8")


if __name__ == "__main__":
    main()
