"""ResNets of 20 and 56 layers beside the same networks without skips, on real digits: what depth is worth.

    python benchmarks/depth.py [--quick] [--seeds 3] [--epochs 6] [--out DIR]
    python benchmarks/depth.py --rates 0.003 0.01
    python benchmarks/depth.py --draw

He, Zhang, Ren and Sun, Deep Residual Learning for Image Recognition, CVPR 2016, section 4.2, in small: 4000
MNIST digits in place of 50,000 pictures, pooled to 14 x 14 pixels by the mean of 2 x 2, and 378
steps in place of 64,000. The recipe is one for all four networks: the paper's momentum, weight decay and
first weights; the rate rises for 30 steps and falls to 0 along half a cosine. The paper's rate of 0.1 is too
high for 56 layers without skips, hence 0.03; --rates trains these layers at other rates, for comparison. A
seed decides the first weights and the order of the digits. The 1000 digits held out are the same for all, and
choose nothing.

Twelve runs take about twenty minutes on two cores. A full run writes benchmarks/results/depth.json after
every network, docs/depth.png and the table of docs/benchmarks.md at the end; with --quick, files are written
only where --out says. --draw writes picture and table again from the file.
"""

import argparse
import dataclasses
import datetime
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from peers import machine
from readme_table import between

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import data, io, nn, optim, plot, train

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "benchmarks.md"
NETWORKS = {
    "ResNet-20": (20, True),
    "plain-20": (20, False),
    "ResNet-56": (56, True),
    "plain-56": (56, False),
}
QUICK_NETWORKS = {"ResNet-8": (8, True), "plain-8": (8, False)}
LR, MOMENTUM, WEIGHT_DECAY, BATCH, RAMP = 0.03, 0.9, 1e-4, 64, 30
WATCHED = 60  # first steps, of which the gradient's norm is kept
MEASURES = {
    "train_loss": "train loss",
    "train_accuracy": "train accuracy",
    "val_loss": "held-out loss",
    "val_accuracy": "held-out accuracy",
}


def digits(quick: bool) -> data.Split:
    """Return 4000 digits to train on and 1000 held out, (N, 1, 14, 14); with ``quick`` 256 and 128."""
    split = data.mnist_5k(rng=0)
    most = (256, 128) if quick else (len(split.x_train), len(split.x_test))
    x_train, x_test = (
        x[:n].reshape(-1, 1, 14, 2, 14, 2).mean(axis=(3, 5))
        for x, n in zip((split.x_train, split.x_test), most)
    )
    return dataclasses.replace(
        split,
        x_train=x_train,
        y_train=split.y_train[: most[0]],
        x_test=x_test,
        y_test=split.y_test[: most[1]],
    )


def rate(step: int, steps: int, highest: float = LR) -> float:
    """Return the learning rate of step 0 <= step < steps: a ramp, times half a cosine.

    >>> [round(rate(step, 100, 1.0), 2) for step in (0, 29, 50, 99)]
    [0.03, 0.81, 0.5, 0.0]
    """
    return highest * min((step + 1) / RAMP, 1) * (1 + math.cos(math.pi * step / steps)) / 2


def run(
    depth: int, skip: bool, split: data.Split, epochs: int, seed: int, highest: float = LR
) -> dict[str, Any]:
    """Train one network; return its curves, one number an epoch, and the first gradients' norms."""
    model = nn.models.CifarResNet(depth, in_channels=1, skip=skip, rng=seed)
    optimizer = optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    batches = data.Batches(split.x_train, split.y_train, BATCH, shuffle=True, rng=seed)
    curves: dict[str, list[float]] = {name: [] for name in MEASURES}
    norms: list[float] = []
    start, step = time.perf_counter(), 0
    for _ in range(epochs):
        total, right = 0.0, 0
        for x, y in batches:
            for group in optimizer.param_groups:
                group["lr"] = rate(step, epochs * len(batches), highest)
            outputs = model(x)
            loss = F.cross_entropy(outputs, y)
            optimizer.zero_grad()
            loss.backward()
            if step < WATCHED:
                norms.append(float(np.linalg.norm(model.conv1.weight.grad.data)))
            optimizer.step()
            step += 1
            total += loss.item() * len(x)
            right += int((outputs.data.argmax(axis=1) == y).sum())
        held_out = train.evaluate(model, split.x_test, split.y_test)
        n = len(split.x_train)
        for name, value in zip(MEASURES, (total / n, right / n, held_out.loss, held_out.accuracy)):
            curves[name].append(value)
    return {**curves, "gradient_norms": norms, "seconds": round(time.perf_counter() - start, 1)}


def measured(
    networks: dict[str, tuple[int, bool]], split: data.Split, epochs: int, seeds: int,
    keep: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:  # fmt: skip
    """Return everything that goes into the JSON file; ``keep`` is given what there is after every run."""
    results: dict[str, Any] = {
        "machine": machine(), "threads": nnk.get_num_threads(), "version": nnk.__version__,
        "date": f"{datetime.date.today()}", "image": list(split.x_train.shape[1:]),
        "train_digits": len(split.x_train), "held_out_digits": len(split.x_test), "epochs": epochs,
        "batch_size": BATCH, "lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY, "ramp_steps": RAMP,
        "networks": {
            name: {"depth": depth, "skip": skip, "parameters": parameters(depth, skip)}
            for name, (depth, skip) in networks.items()
        },
        "runs": [],
    }  # fmt: skip
    for seed in range(seeds):
        for name, (depth, skip) in networks.items():
            found = run(depth, skip, split, epochs, seed)
            results["runs"].append({"network": name, "seed": seed, **found})
            results["final"] = final(results)
            keep(results)
            print(f"{name:<10} seed {seed}: {in_words(found)}, {found['seconds']:.0f} s", flush=True)
    return results


def with_rates(
    results: dict[str, Any], rates: list[float], split: data.Split, keep: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Add runs of the deepest network without skips at other rates, seed 0, to the results."""
    plain = {name: facts for name, facts in results["networks"].items() if not facts["skip"]}
    name = max(plain, key=lambda name: plain[name]["depth"])
    results["other_rates"] = []
    for highest in rates:
        found = run(plain[name]["depth"], False, split, results["epochs"], 0, highest)
        results["other_rates"].append({"network": name, "seed": 0, "lr": highest, **found})
        keep(results)
        print(f"{name:<10} rate {highest:g}: {in_words(found)}, {found['seconds']:.0f} s", flush=True)
    return results


def parameters(depth: int, skip: bool) -> int:
    """Return a network's number of parameters."""
    return sum(p.size for p in nn.models.CifarResNet(depth, in_channels=1, skip=skip, rng=0).parameters())


def in_words(found: dict[str, Any]) -> str:
    """Return the measures of a run's last epoch."""
    last = {name: found[name][-1] for name in MEASURES}
    return (
        f"train loss {last['train_loss']:.4f}, {last['train_accuracy']:.1%} right; "
        f"held-out loss {last['val_loss']:.4f}, {last['val_accuracy']:.1%} right"
    )


def curves_of(results: dict[str, Any], network: str, name: str) -> np.ndarray:
    """Return one measure of a network, (seeds, epochs or steps)."""
    return np.array([run[name] for run in results["runs"] if run["network"] == network])


def final(results: dict[str, Any]) -> dict[str, Any]:
    """Return mean, least and most over the seeds, of every measure after the last epoch."""
    found: dict[str, Any] = {}
    for network in dict.fromkeys(run["network"] for run in results["runs"]):
        last = {name: curves_of(results, network, name)[:, -1] for name in MEASURES}
        found[network] = {
            name: {"mean": float(v.mean()), "least": float(v.min()), "most": float(v.max())}
            for name, v in last.items()
        }
    return found


def table(results: dict[str, Any]) -> str:
    """Return the final measures as a Markdown table: mean, and least to most over the seeds."""
    lines = ["| network | " + " | ".join(MEASURES.values()) + " |", "|---" + "|---:" * len(MEASURES) + "|"]
    for network, found in results["final"].items():
        cells = [network]
        for name, value in found.items():
            as_text = "{:.1%}" if name.endswith("accuracy") else "{:.3f}"
            mean, least, most = (as_text.format(value[key]) for key in ("mean", "least", "most"))
            cells.append(f"{mean} ({least} to {most})")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def picture(results: dict[str, Any]) -> Figure:
    """Draw train and held-out curves over epochs, and the first gradients' norms over steps."""
    panels = (
        ("train_loss", "Training loss", "mean cross-entropy"),
        ("val_loss", "Held-out loss", "mean cross-entropy"),
        ("val_accuracy", "Held-out digits misread", "share, in %"),
        ("gradient_norms", "First convolution", "norm of the gradient"),
    )
    with plot.style.context():
        figure, axes = plot.subplots(2, 2, size=(7.4, 6.2))
        for panel, (name, title, beside) in zip(axes.flat, panels):
            for network, facts in results["networks"].items():
                draw(panel, curves_of(results, network, name), name, network, facts)
            below = "step" if name == "gradient_norms" else "epoch"
            panel.set(yscale="log", title=title, xlabel=below, ylabel=beside)
            panel.yaxis.set_major_formatter("{x:g}")
            panel.yaxis.set_minor_formatter(NullFormatter())
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw(panel: Axes, curves: np.ndarray, name: str, network: str, facts: dict[str, Any]) -> None:
    """Draw a network's mean over the seeds as a line, and the range as a band."""
    if name.endswith("accuracy"):
        curves = 100 * (1 - curves)
    x = np.arange(1, curves.shape[1] + 1)
    colour = plot.COLOURS[0 if facts["skip"] else 1]
    line = "-" if facts["depth"] > 20 else "--"
    panel.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    panel.plot(x, curves.mean(axis=0), line, color=colour, label=network)


def options() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="8 layers, 256 digits, 2 epochs: a trial run")
    parser.add_argument("--seeds", type=int, default=None, metavar="N", help="runs of each network (3)")
    parser.add_argument("--epochs", type=int, default=None, metavar="E", help="passes over the digits (6)")
    parser.add_argument("--out", type=Path, default=None, metavar="DIR", help="where files go")
    parser.add_argument("--rates", type=float, nargs="+", metavar="LR", help="add runs at other rates")
    parser.add_argument("--draw", action="store_true", help="only draw again, from the file")
    chosen = parser.parse_args()
    chosen.seeds = chosen.seeds or (1 if chosen.quick else 3)
    chosen.epochs = chosen.epochs or (2 if chosen.quick else 6)
    return chosen


def main() -> None:
    """Run what the command line asks for."""
    chosen = options()
    file = (chosen.out or HERE / "results") / "depth.json"
    drawing = (chosen.out or HERE.parent / "docs") / "depth.png"
    writes = chosen.out is not None or not chosen.quick
    if chosen.out is not None:
        chosen.out.mkdir(parents=True, exist_ok=True)

    def keep(found: dict[str, Any]) -> None:
        if writes:
            io.write_json(file, found)

    if chosen.draw or chosen.rates:
        results = json.loads(file.read_text(encoding="utf-8"))
        if chosen.rates:
            results = with_rates(results, chosen.rates, digits(chosen.quick), keep)
    else:
        networks = QUICK_NETWORKS if chosen.quick else NETWORKS
        results = measured(networks, digits(chosen.quick), chosen.epochs, chosen.seeds, keep)
    print(table(results))
    if writes:
        plot.save(picture(results), drawing, 150)
        print(f"wrote {file} and {drawing}")
    if writes and chosen.out is None:
        PAGE.write_text(between(PAGE.read_text(encoding="utf-8"), "depth", table(results)), encoding="utf-8")


if __name__ == "__main__":
    main()
