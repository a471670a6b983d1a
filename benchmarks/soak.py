"""Training and inference for an hour: whether memory, threads or open files grow.

    python benchmarks/soak.py [--minutes 60] [--warm-up S] [--limit PERCENT] [--out DIR]

Without --minutes it takes two. One round after the other does what programs do: training steps of a LeNet-5
with dropout by Adam, in batches of a few sizes; evaluation, prediction, a network optimised for inference; a
small ResNet, a character model that also writes; weights saved and read again; a thread that calls ops and
ends. A first round, before the clock starts, compiles kernels.

About every second, after a round, six numbers are kept: the time, the process's resident memory, the bytes
that the buffer pool holds ready, threads, open file handles, and training steps a second. What comes before
--warm-up (a fifth of the time, at least 20 s) is left out. The rest is cut into fifths, and the last is held
against the first: the medians of memory and pool, which may grow by less than --limit (1 %), and the least
numbers of threads and handles, which may not grow at all. Else the exit code is 1. soak.json and soak.png are
written where --out says.
"""

import argparse
import datetime
import os
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from peers import machine

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import data, io, nn, optim, plot, train
from nnkernels.machine.memory import held_bytes

MINUTES, INTERVAL, SHARE, LEAST_WARM_UP = 2.0, 1.0, 0.2, 20.0  # the last three: seconds, of the time, seconds
MOMENT = 0.5  # seconds
MIB = 2**20
NAMES = {"memory": "resident memory", "pool": "buffer pool", "threads": "threads", "handles": "open files"}
PANELS = {  # titles and units
    "memory": ("Resident memory", "MiB"),
    "pool": ("Buffer pool", "MiB"),
    "threads": ("Threads and open files", "number"),
    "steps_per_second": ("Speed", "training steps a second"),
}
BATCHES = (64, 64, 64, 17, 64, 100)  # batch sizes, one a round
TEXT = "the quick brown fox jumps over the lazy dog. "


class Sample(NamedTuple):
    """What one second shows: bytes, counts, and training steps a second."""

    seconds: float
    memory: float
    pool: float
    threads: float
    handles: float
    steps_per_second: float


# --- what is counted ---


def status(field: str) -> int | None:
    """Return a number of /proc/self/status, None where there is no such file."""
    with suppress(FileNotFoundError), open("/proc/self/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith(f"{field}:"):
                return int(line.split()[1])
    return None


def resident_bytes() -> float:
    """Return the resident memory; without /proc the most there has been, NaN where nothing tells."""
    kib = status("VmRSS")
    if kib is not None:
        return kib * 1024.0
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most) if sys.platform == "darwin" else most * 1024.0


def thread_count(expected: float) -> float:
    """Return the threads of the process; without /proc those of Python.

    The threads that helped one that has ended end a little later: where there are more than ``expected``,
    they are given a moment.
    """
    until = time.perf_counter() + MOMENT
    while True:
        found = float(status("Threads") or threading.active_count())
        if found <= expected or time.perf_counter() > until:
            return found
        time.sleep(0.01)


def handle_count() -> float:
    """Return the open file handles, NaN where the system does not list them."""
    for directory in ("/proc/self/fd", "/dev/fd"):
        with suppress(OSError):
            return len(os.listdir(directory)) - 1.0  # less the one that reads the list
    return float("nan")


# --- what is done ---


class Work:
    """The models and their data; ``round`` does everything once. ``steps`` counts training steps."""

    def __init__(self, directory: Path) -> None:
        rng = np.random.default_rng(0)
        self.rng, self.directory, self.rounds, self.steps = rng, directory, 0, 0
        self.x = rng.random((600, 1, 28, 28), np.float32)
        self.y = rng.integers(0, 10, 600)
        self.lenet = nn.Sequential(
            nn.models.LeNet5(84, rng=rng), nn.ReLU(), nn.Dropout(0.5, rng=rng), nn.Linear(84, 10, rng=rng)
        )
        self.resnet = nn.models.CifarResNet(8, in_channels=1, rng=rng)
        self.writer = nn.models.CharRNN("".join(sorted(set(TEXT))), hidden_size=32, rng=rng)
        self.text = np.resize(self.writer.encode(TEXT), (8, 33))
        models = (self.lenet, self.resnet, self.writer)
        self.optimizers = {id(model): optim.Adam(model.parameters(), lr=1e-4) for model in models}

    def round(self) -> None:
        """Train, evaluate, predict, write, save, load, and start a thread."""
        size = BATCHES[self.rounds % len(BATCHES)]
        for x, y in data.Batches(self.x[:300], self.y[:300], size, shuffle=True, rng=self.rng):
            self.step(self.lenet, F.cross_entropy(self.lenet(x), y))
        small = self.x[:16, :, ::2, ::2]
        self.step(self.resnet, F.cross_entropy(self.resnet(small), self.y[:16]))
        self.step(self.writer, self.writer.loss(self.text))
        self.writer.sample("the ", 5, rng=self.rng)
        train.evaluate(self.lenet, self.x[300:], self.y[300:], batch_size=size)
        train.predict(self.resnet, small)
        fast = nnk.optimize_for_inference(self.resnet)
        fast(small)
        self.save_and_load()
        self.in_a_thread()
        self.rounds += 1

    def step(self, model: nn.Module, loss: nnk.Tensor) -> None:
        """Change the weights once."""
        optimizer = self.optimizers[id(model)]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if not np.isfinite(loss.item()):
            raise FloatingPointError(f"round {self.rounds}: {type(model).__name__}'s loss is {loss.item()}")
        self.steps += 1

    def save_and_load(self) -> None:
        """Write weights, replacing those of the round before, and read them."""
        ending = ".npz" if self.rounds % 2 else ".safetensors"
        path = self.directory / f"weights{ending}"
        io.save(path, self.lenet.state_dict())
        self.lenet.load_state_dict(io.load(path))

    def in_a_thread(self) -> None:
        """Call ops from a thread that ends."""
        found: list[nnk.Tensor] = []
        w = self.rng.standard_normal((256, 784)).astype(np.float32)
        x = self.x.reshape(600, 784)

        def call() -> None:
            leaf = nnk.tensor(w, requires_grad=True)
            F.linear(x, leaf).tanh().mean().backward()
            found.append(leaf.grad)

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        if len(found) != 1 or not np.isfinite(found[0].data).all():
            raise RuntimeError("a thread that called ops came back without its gradient")


def soaked(seconds: float) -> tuple[list[Sample], Work]:
    """Work for so long; return what was counted about every second, after a round."""
    samples: list[Sample] = []
    with tempfile.TemporaryDirectory() as directory:
        work = Work(Path(directory))
        work.round()
        start = before = time.perf_counter()
        steps = work.steps
        while before - start < seconds:
            work.round()
            now = time.perf_counter()
            if now - before >= INTERVAL:
                rate = (work.steps - steps) / (now - before)
                threads = thread_count(min((s.threads for s in samples), default=0))
                counted = resident_bytes(), float(held_bytes()), threads, handle_count()
                samples.append(Sample(now - start, *counted, rate))
                before, steps = time.perf_counter(), work.steps
    return samples, work


# --- what is made of it ---


def growths(samples: Sequence[Sample], warm_up: float, limit: float) -> dict[str, dict[str, Any]]:
    """Return for each measure what the first and the last fifth after warm-up say, and the verdict.

    ``limit`` is the share by which memory and pool may grow. What cannot be counted on this system is None.

    >>> calm = [Sample(t, 100, 10, 3, 7, 50) for t in range(20)]
    >>> growths(calm, 5, 0.01)["handles"]
    {'first': 7.0, 'last': 7.0, 'growth': 0.0, 'limit': 0, 'passed': True}
    >>> leaking = [Sample(t, 100 + t, 10, 3, 7, 50) for t in range(20)]
    >>> growths(leaking, 5, 0.01)["memory"]
    {'first': 106.0, 'last': 118.0, 'growth': 0.11320754716981132, 'limit': 0.01, 'passed': False}
    """
    kept = [sample for sample in samples if sample.seconds >= warm_up]
    if len(kept) < 5:
        raise SystemExit(f"{len(kept)} samples after {warm_up:g} s of warm-up: five are needed, take longer")
    fifth = len(kept) // 5
    found: dict[str, dict[str, Any]] = {}
    for name in ("memory", "pool", "threads", "handles"):
        values = np.array([getattr(sample, name) for sample in kept])
        if np.isnan(values).any():
            found[name] = {"first": None, "last": None, "growth": None, "limit": None, "passed": True}
            continue
        relative = name in ("memory", "pool")
        middle = np.median if relative else np.min
        first, last = float(middle(values[:fifth])), float(middle(values[-fifth:]))
        growth = (last - first) / max(first, 1.0) if relative else last - first
        passed = growth < limit if relative else growth <= 0
        found[name] = {
            "first": first, "last": last, "growth": growth, "limit": limit if relative else 0,
            "passed": passed,
        }  # fmt: skip
    return found


def table(results: dict[str, Any]) -> str:
    """Return the growths as a Markdown table, with what it took to find them."""
    lines = ["| | first fifth | last fifth | growth | allowed |", "|---|---:|---:|---:|---:|"]
    for key, name in NAMES.items():
        facts = results["growth"][key]
        if facts["growth"] is None:
            cells = ["not counted on this system", "", "", ""]
        elif key in ("memory", "pool"):
            sizes = [f"{facts[side] / MIB:.1f} MiB" for side in ("first", "last")]
            cells = [*sizes, f"{facts['growth']:+.2%}", f"under {facts['limit']:.0%}"]
        else:
            cells = [f"{facts['first']:g}", f"{facts['last']:g}", f"{facts['growth']:+g}", "0"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    place = results["machine"]
    lines.append(
        f"\n{results['minutes']:g} minutes, of which {results['warm_up']:g} s to warm up; "
        f"{results['rounds']} rounds, {results['steps']} training steps; {results['threads']} threads; "
        f"{place['processor']} ({place['llvm']}), {place['cores']} cores, {results['date']}."
    )
    return "\n".join(lines)


def picture(results: dict[str, Any]) -> Figure:
    """Draw what was counted over time."""
    samples = {name: np.array(values, float) for name, values in results["samples"].items()}
    scale, unit = (60.0, "minutes") if results["minutes"] >= 5 else (1.0, "seconds")
    t = samples["seconds"] / scale
    with plot.style.context():
        figure, axes = plot.subplots(2, 2, size=(7.4, 5.4), sharex=True)
        for panel, (name, (title, beside)) in zip(axes.flat, PANELS.items()):
            growth = results["growth"].get(name, {}).get("growth") if beside == "MiB" else None
            values = samples[name] / (MIB if beside == "MiB" else 1)
            panel.plot(t, values, linewidth=1.2, color=plot.COLOURS[0], label="threads")
            if name == "threads":
                panel.plot(t, samples["handles"], linewidth=1.2, color=plot.COLOURS[1], label="open files")
            panel.axvspan(0, results["warm_up"] / scale, color=plot.style.FRAME, alpha=0.25, linewidth=0)
            panel.set(title=title if growth is None else f"{title}: {growth:+.2%}", ylabel=beside)
            # From zero: what matters is growth beside the whole.
            panel.set(xlim=(0, t[-1]), ylim=(0, 1.15 * panel.get_ylim()[1]))
        axes[1, 0].legend(loc="lower right")
        for panel in axes[1]:
            panel.set_xlabel(unit)
        axes[0, 0].text(0.02, 0.04, "grey: warm-up, left out", fontsize=9, transform=axes[0, 0].transAxes)
    return figure


def measured(minutes: float, warm_up: float, limit: float) -> dict[str, Any]:
    """Return everything that goes into the JSON file."""
    samples, work = soaked(60 * minutes)
    columns = {name: [round(getattr(s, name), 2) for s in samples] for name in Sample._fields}
    return {
        "machine": machine(), "threads": nnk.get_num_threads(), "version": nnk.__version__,
        "date": f"{datetime.date.today()}", "minutes": minutes, "warm_up": warm_up, "rounds": work.rounds,
        "steps": work.steps, "growth": growths(samples, warm_up, limit), "samples": columns,
    }  # fmt: skip


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=MINUTES, metavar="M", help="how long (2)")
    parser.add_argument("--warm-up", type=float, default=None, metavar="S", help="left out at the start")
    parser.add_argument("--limit", type=float, default=1.0, metavar="PERCENT", help="of memory's growth (1)")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="where files go")
    chosen = parser.parse_args(arguments)
    if not chosen.minutes > 0:
        parser.error(f"--minutes must be above 0, got {chosen.minutes:g}")
    if chosen.warm_up is None:
        chosen.warm_up = max(SHARE * 60 * chosen.minutes, LEAST_WARM_UP)
    if not 0 <= chosen.warm_up < 60 * chosen.minutes:
        parser.error(f"--warm-up must be from 0 to {60 * chosen.minutes:g} s, got {chosen.warm_up:g}")
    return chosen


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what the command line asks for; return 1 where something grew."""
    chosen = options(arguments)
    results = measured(chosen.minutes, chosen.warm_up, chosen.limit / 100)
    print(table(results))
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)
        io.write_json(chosen.out / "soak.json", results)
        plot.save(picture(results), chosen.out / "soak.png", 150)
        print(f"wrote {chosen.out / 'soak.json'} and {chosen.out / 'soak.png'}")
    grown = [name for name, facts in results["growth"].items() if not facts["passed"]]
    if grown:
        print(f"grew: {', '.join(grown)}", file=sys.stderr)
    return 1 if grown else 0


if __name__ == "__main__":
    sys.exit(main())
