"""LeNet-5 on the 5000 digits here and in PyTorch: time of a training step, time and accuracy of a whole run.

    pip install torch==2.13.0
    python benchmarks/lenet_against_torch.py [--epochs 15] [--seeds 2]

Steps are interleaved in one process and compared by medians. Writes benchmarks/results/lenet.json.
"""

import argparse
import os
import platform
import statistics
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as TF

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import data, io, nn, optim, train

RESULTS = Path(__file__).parent / "results" / "lenet.json"


class TorchLeNet5(torch.nn.Module):
    """The same network, line for line."""

    def __init__(self):
        super().__init__()
        self.conv1 = torch.nn.Conv2d(1, 6, 5, padding=2)
        self.conv2 = torch.nn.Conv2d(6, 16, 5)
        self.fc1 = torch.nn.Linear(400, 120)
        self.fc2 = torch.nn.Linear(120, 84)
        self.fc3 = torch.nn.Linear(84, 10)

    def forward(self, x):
        x = TF.max_pool2d(TF.relu(self.conv1(x)), 2)
        x = TF.max_pool2d(TF.relu(self.conv2(x)), 2)
        x = TF.relu(self.fc1(x.flatten(1)))
        return self.fc3(TF.relu(self.fc2(x)))


def step(model, optimizer, cross_entropy, x, y):
    """Take one training step, the same lines for both libraries; return the loss."""
    loss = cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def time_steps(batch_size, rounds):
    """Return the median milliseconds of a step, ours and torch's."""
    rng = np.random.default_rng(0)
    x = rng.random((batch_size, 1, 28, 28), np.float32)
    y = rng.integers(0, 10, batch_size)
    ours, theirs = nn.models.LeNet5(rng=0), TorchLeNet5()
    a, b = optim.Adam(ours.parameters()), torch.optim.Adam(theirs.parameters())
    tx, ty = torch.from_numpy(x), torch.from_numpy(y)
    times = {"ours": [], "torch": []}
    for i in range(rounds + 10):
        for name, take in (
            ("ours", lambda: step(ours, a, F.cross_entropy, x, y)),
            ("torch", lambda: step(theirs, b, TF.cross_entropy, tx, ty)),
        ):
            start = time.perf_counter()
            for _ in range(5):  # several in a row: a switch of thread pools costs the first one
                take()
            if i >= 10:
                times[name].append((time.perf_counter() - start) / 5 * 1e3)
    return {name: statistics.median(t) for name, t in times.items()}


def torch_run(split, epochs, seed):
    """Train PyTorch's LeNet-5; return (seconds, held-out accuracy)."""
    torch.manual_seed(seed)
    model = TorchLeNet5()
    optimizer = torch.optim.Adam(model.parameters())
    x_test = torch.from_numpy(split.x_test)
    start = time.perf_counter()
    for _ in range(epochs):
        for x, y in batches(split, seed):
            step(model, optimizer, TF.cross_entropy, torch.from_numpy(x), torch.from_numpy(y))
        with torch.no_grad():
            predicted = model(x_test).argmax(1).numpy()
    return time.perf_counter() - start, float((predicted == split.y_test).mean())


def our_run(split, epochs, seed):
    """Train ours from the weights PyTorch starts from; return (seconds, held-out accuracy)."""
    torch.manual_seed(seed)
    model = nn.models.LeNet5()
    model.load_state_dict({name: w.numpy() for name, w in TorchLeNet5().state_dict().items()})
    optimizer = optim.Adam(model.parameters())
    start = time.perf_counter()
    for _ in range(epochs):
        for x, y in batches(split, seed):
            step(model, optimizer, F.cross_entropy, x, y)
        accuracy = train.evaluate(model, split.x_test, split.y_test).accuracy
    return time.perf_counter() - start, accuracy


def batches(split, seed):
    return data.Batches(split.x_train, split.y_train, 64, shuffle=True, rng=seed)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(nnk.get_num_threads())
    split = data.mnist_5k(rng=0)
    steps = {str(n): time_steps(n, 40) for n in (1, 8, 64, 256)}
    for n, t in steps.items():
        print(f"step of batch {n:>3}: ours {t['ours']:.2f} ms, torch {t['torch']:.2f} ms, "
              f"{t['torch'] / t['ours']:.1f}x")  # fmt: skip
    runs = []
    for seed in range(arguments.seeds):
        ours, theirs = our_run(split, arguments.epochs, seed), torch_run(split, arguments.epochs, seed)
        runs.append({"seed": seed, "ours": ours, "torch": theirs})
        print(f"{arguments.epochs} epochs, seed {seed}: ours {ours[0]:.1f} s, {ours[1]:.1%}; "
              f"torch {theirs[0]:.1f} s, {theirs[1]:.1%} of 1000 held-out digits")  # fmt: skip
    results = {
        "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": nnk.get_num_threads(),
        "torch": torch.__version__,
        "step_ms": steps,
        "epochs": arguments.epochs,
        "initial_weights": "PyTorch's, the same for both",
        "runs_seconds_accuracy": runs,
    }
    io.write_json(RESULTS, results)


if __name__ == "__main__":
    main()
