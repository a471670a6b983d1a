"""Whole networks on images of 224 x 224 that peers.py times: training steps, evaluation, plain and optimised.

No PyTorch here, as in peers_rows. Dropout is switched off in both libraries, so that results can be compared.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from peers_steps import step

import nnkernels as nnk
import nnkernels.nn.functional as F
from nnkernels import nn, optim

NETWORKS = {"ResNet-18": "ResNet18", "GoogLeNet": "GoogLeNet"}
SIZES = (1, 8)
WAYS = ("step", "eval", "optimised")  # SGD with momentum; under no_grad; after nnk.optimize_for_inference
SIDE, CLASSES = 224, 1000
OPTIONS = {"lr": 1e-3, "momentum": 0.9}


@dataclass(frozen=True)
class NetworkRow:
    """One line of the table: a network at a batch size."""

    op: str
    batch: int
    way: str
    family: str = "network"
    quick: bool = False

    @property
    def label(self) -> str:
        return f"{SIDE} px, batch {self.batch}"

    @property
    def name(self) -> str:
        return f"{self.op} {self.label} {self.way}"

    def build(self) -> "NetworkCase":
        return NetworkCase(self)


class NetworkCase:
    """A network's input and weights, which both libraries start from."""

    def __init__(self, row: NetworkRow) -> None:
        rng = np.random.default_rng(0)
        self.row = row
        self.x = rng.standard_normal((row.batch, 3, SIDE, SIDE), np.float32)
        self.labels = rng.integers(0, CLASSES, row.batch)
        self.weights = our_network(row.op).state_dict()

    def call(self, body: str) -> Callable[[], Any]:
        """Return our call: a step returns the loss before it, the others the logits."""
        run = self.tuned_call()

        def with_body() -> Any:
            with nnk.use_backend(body):
                return run()

        return run if body == "tuned" else with_body

    def tuned_call(self) -> Callable[[], Any]:
        """Return the call with whatever body is in use."""
        model = our_network(self.row.op)
        if self.row.way == "step":
            optimizer = optim.SGD(model.parameters(), **OPTIONS)
            return lambda: step(model, optimizer, F.cross_entropy, self.x, self.labels)
        evaluate = model.eval() if self.row.way == "eval" else nnk.optimize_for_inference(model)

        def run() -> tuple[np.ndarray]:
            with nnk.no_grad():
                return (evaluate(self.x).data,)

        return run

    def work(self) -> tuple[int, int]:
        """Return (FLOPs, 0): backward counts twice forward, bytes are not counted."""
        return (3 if self.row.way == "step" else 1) * self.row.batch * forward_flops(self.row.op), 0


def our_network(name: str) -> Any:
    """Return our network, always with the same weights."""
    model = getattr(nn.models, NETWORKS[name])(CLASSES, rng=0)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


@cache
def forward_flops(name: str) -> int:
    """Return the FLOPs of evaluating one image."""
    return nn.summary(our_network(name), (1, 3, SIDE, SIDE)).total.flops


def network_rows() -> list[NetworkRow]:
    """Return the rows of all networks."""
    return [NetworkRow(name, n, way) for name in NETWORKS for n in SIZES for way in WAYS]
