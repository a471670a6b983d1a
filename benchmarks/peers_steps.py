"""Whole training steps that peers.py times: three models through the public API, at three batch sizes.

No PyTorch here, as in peers_rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, optim

BATCHES = 8  # different ones in turn: one alone would soon be learnt by heart


@dataclass(frozen=True)
class Recipe:
    """A model's input, its optimizer, and the multiply-adds of one sample's forward pass."""

    image: tuple[int, ...]
    optimizer: str
    options: dict[str, Any]
    multiply_adds: int


RECIPES = {
    "MLP": Recipe((784,), "SGD", {"lr": 0.1}, 784 * 128 + 128 * 10),
    "LeNet-5": Recipe((1, 28, 28), "Adam", {}, 416_520),
    "CIFAR convnet": Recipe((3, 32, 32), "SGD", {"lr": 0.01, "momentum": 0.9}, 38_633_472),
}
SIZES = (1, 8, 64)


def mlp(nn: Any) -> Any:
    """Return 784-128-10 with ReLU; ``nn`` is ours or PyTorch's."""
    return nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def convnet(nn: Any) -> Any:
    """Return three blocks of conv3x3, ReLU, conv3x3, ReLU, max-pooling, then a linear layer."""
    layers = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(after, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4 * 4, 10))


def our_model(name: str) -> Any:
    """Return our model of that name."""
    models = {"MLP": mlp, "CIFAR convnet": convnet, "LeNet-5": lambda nn: nn.models.LeNet5(rng=0)}
    return models[name](nn)


@dataclass(frozen=True)
class StepRow:
    """One line of the table: a training step of a model at a batch size."""

    op: str
    batch: int
    family: str = "training step"
    way: str = "step"

    @property
    def label(self) -> str:
        return f"batch {self.batch}"

    @property
    def name(self) -> str:
        return f"{self.op} {self.label} {self.way}"

    @property
    def quick(self) -> bool:
        return self.op != "CIFAR convnet" and self.batch == 64

    def build(self) -> "StepCase":
        return StepCase(self)


class StepCase:
    """A training step with its batches and first weights, which both libraries start from."""

    def __init__(self, row: StepRow) -> None:
        rng = np.random.default_rng(0)
        self.row, self.recipe = row, RECIPES[row.op]
        shape = (row.batch, *self.recipe.image)
        self.batches = [
            (rng.random(shape, np.float32), rng.integers(0, 10, row.batch)) for _ in range(BATCHES)
        ]
        self.weights = {name: w.copy() for name, w in our_model(row.op).state_dict().items()}

    def call(self, body: str) -> Callable[[], float]:
        """Return our step; each call returns the loss before the step."""
        model = our_model(self.row.op)
        model.load_state_dict(self.weights)
        optimizer = getattr(optim, self.recipe.optimizer)(model.parameters(), **self.recipe.options)
        batches = cycle(self.batches)

        def run() -> float:
            with nnk.use_backend(body):
                return step(model, optimizer, F.cross_entropy, *next(batches))

        return run if body != "tuned" else lambda: step(model, optimizer, F.cross_entropy, *next(batches))

    def work(self) -> tuple[int, int]:
        """Return (FLOPs, 0): backward counts twice forward, bytes are not counted."""
        return 3 * 2 * self.recipe.multiply_adds * self.row.batch, 0


def step(model: Any, optimizer: Any, cross_entropy: Any, x: Any, y: Any) -> float:
    """Take one training step, the same lines for both libraries; return the loss."""
    loss = cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


def step_rows() -> list[StepRow]:
    """Return the rows of all models."""
    return [StepRow(name, n) for name in RECIPES for n in SIZES]
