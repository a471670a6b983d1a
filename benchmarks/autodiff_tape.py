"""What the tape costs per op: training steps with it, the same kernels by hand, PyTorch, a scalar engine.

A case is a chain of small ops or a training step of peers_steps without its optimizer. Its variants (see
autodiff_replay) take turns; what a part costs is the median over the rounds of the difference between two
variants timed in one round, per recorded op:

    kernels    forward and backward of every body, called by hand
    checks     of arguments, and arrays made ready for kernels, in forward
    record     Tensors and nodes, in forward
    walk       back along the nodes, gradients added up
    layers     modules, functional calls and operators: the model as one writes it, less its bare ops

``tape`` is record + walk. Its standard error counts every round as an independent measurement.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import peers_steps
from autodiff_replay import Replay, Scalar
from peers_time import timed

import nnkernels.nn.functional as F
from nnkernels import Tensor, tensor

Call = Callable[[], Any]
Row = dict[str, Any]
GOAL = 3.0  # microseconds of tape per op in a training step
LINKS, ELEMENTS = 20, 4  # of the chain: each link multiplies, adds and takes tanh
MULTIPLIER, OFFSET = 1.1, 0.1
TOGETHER = 2e-4  # seconds: calls shorter than this are timed several at once
ROUNDS = 9  # at least
MOST_ROUNDS = 4000


@dataclass(frozen=True)
class Case:
    """A step to differentiate: forward pass, cotangent (None for a loss), what to differentiate by."""

    name: str
    forward: Callable[[], Tensor]
    dy: Any
    leaves: list[Tensor]
    step: peers_steps.StepCase | None = None

    def whole(self) -> None:
        """Take a step as one writes it."""
        for leaf in self.leaves:
            leaf.grad = None
        self.forward().backward(self.dy)

    def gradients(self) -> list[Any]:
        """Return what the last step has left, as arrays."""
        return [leaf.grad.data for leaf in self.leaves if leaf.grad is not None]

    def replay(self) -> Replay:
        """Return the step as straight-line code."""
        root = self.forward()
        return Replay(root, np.ones(root.shape, root.dtype) if self.dy is None else self.dy, self.leaves)


# --- cases ---


def chain() -> Case:
    """Return LINKS times tanh(a x + b) of ELEMENTS numbers."""
    x = tensor(np.linspace(-1, 1, ELEMENTS, dtype=np.float32), requires_grad=True)
    a, b = (np.full(ELEMENTS, value, np.float32) for value in (MULTIPLIER, OFFSET))

    def forward() -> Tensor:
        y: Any = x
        for _ in range(LINKS):
            y = (y * a + b).tanh()
        return y  # type: ignore[no-any-return]

    return Case(f"chain of {3 * LINKS}", forward, np.ones(ELEMENTS, np.float32), [x])


def model_step(name: str, batch: int) -> Case:
    """Return a model's training step without its optimizer."""
    step = peers_steps.StepRow(name, batch).build()
    model = peers_steps.our_model(name)
    model.load_state_dict(step.weights)
    x, labels = step.batches[0]
    forward = lambda: F.cross_entropy(model(x), labels)  # noqa: E731
    return Case(f"{name} batch {batch}", forward, None, list(model.parameters()), step)


def cases(quick: bool) -> Iterator[Case]:
    """Yield the chain, then the MLP and LeNet at the batch sizes of peers_steps (with ``quick`` at one)."""
    yield chain()
    for name in ("MLP", "LeNet-5"):
        for batch in (1,) if quick else peers_steps.SIZES:
            yield model_step(name, batch)


def torch_calls(case: Case) -> dict[str, Call]:
    """Return PyTorch's step, and its forward pass alone with and without recording."""
    import torch

    if case.step is None:
        x = torch.tensor(case.leaves[0].data, requires_grad=True)
        a, b = (torch.full((ELEMENTS,), value) for value in (MULTIPLIER, OFFSET))
        dy, parameters = torch.tensor(case.dy), [x]

        def forward() -> Any:
            y = x
            for _ in range(LINKS):
                y = (y * a + b).tanh()
            return y
    else:
        from lenet_against_torch import TorchLeNet5

        makers: dict[str, Any] = {"MLP": lambda: peers_steps.mlp(torch.nn), "LeNet-5": TorchLeNet5}
        model = makers[case.step.row.op]()
        model.load_state_dict({name: torch.tensor(w) for name, w in case.step.weights.items()})
        images, labels = (torch.tensor(a) for a in case.step.batches[0])
        dy, parameters = None, list(model.parameters())

        def forward() -> Any:
            return torch.nn.functional.cross_entropy(model(images), labels)

    def whole() -> list[Any]:
        for parameter in parameters:
            parameter.grad = None
        forward().backward(dy)
        return parameters

    return {"torch": whole, "torch forward": forward, "torch no_grad": torch.no_grad()(forward)}


# --- times ---


def turns(calls: dict[str, Call], seconds: float) -> dict[str, Any]:
    """Return each call's seconds in every round. Calls of one round stand next to each other.

    All are timed with the same number of calls, after one that is not timed, in an order that turns round.
    """
    for call in calls.values():
        call()
    shortest = min(timed(call, 1) for _ in range(3) for call in calls.values())
    repeats = max(1, int(TOGETHER / shortest))
    times: dict[str, list[float]] = {name: [] for name in calls}
    order, rounds, start = list(calls), 0, time.perf_counter()
    while rounds < ROUNDS or (rounds < MOST_ROUNDS and time.perf_counter() - start < seconds):
        for name in order:
            calls[name]()
            times[name].append(timed(calls[name], repeats))
        order = order[::-1] if rounds % 2 else order[1:] + order[:1]
        rounds += 1
    return {name: np.array(values) for name, values in times.items()}


@contextmanager
def settled() -> Iterator[None]:
    """Keep what is alive by now out of Python's garbage collections: they would go through all of it."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def median_and_error(values: Any) -> tuple[float, float]:
    """Return the median and its standard error, from the quartiles as for a normal distribution."""
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return float(middle), float(1.2533 * (high - low) / 1.349 / len(values) ** 0.5)


def measured(case: Case, seconds: float) -> Row:
    """Return one row of the results: microseconds per recorded op, PyTorch's where it is installed."""
    replay = case.replay()
    others = torch_calls(case) if find_spec("torch") else {}
    demand_equal(case, replay, others)
    calls = {
        "kernels forward": replay.forward["by_hand"], "kernels": replay.whole["by_hand"],
        "checked": replay.forward["checked"],
        "recorded forward": replay.forward["recorded"], "recorded": replay.whole["recorded"],
        "step": case.whole, **others,
    }  # fmt: skip
    with settled():
        times = turns(calls, seconds)
    ops = len(replay.nodes)
    t = {name: values / ops * 1e6 for name, values in times.items()}
    record = t["recorded forward"] - t["checked"]
    walk = t["recorded"] - t["recorded forward"] - (t["kernels"] - t["kernels forward"])
    parts = {
        "kernels": t["kernels"], "checks": t["checked"] - t["kernels forward"], "record": record,
        "walk": walk, "tape": record + walk, "layers": t["step"] - t["recorded"], "step": t["step"],
    }  # fmt: skip
    row: Row = {"case": case.name, "ops": ops, "rounds": len(times["step"])}
    row |= {f"{name}_us": median_and_error(values)[0] for name, values in parts.items()}
    row["tape_error_us"] = median_and_error(parts["tape"])[1]
    if others:
        row["torch_step_us"] = median_and_error(t["torch"])[0]
        row["torch_record_us"] = median_and_error(t["torch forward"] - t["torch no_grad"])[0]
    return row


def demand_equal(case: Case, replay: Replay, others: dict[str, Call]) -> None:
    """Raise AssertionError unless all gradients are the same, bit for bit; PyTorch's to rounding."""
    case.whole()
    wanted = case.gradients()
    for kind, call in replay.whole.items():
        found = call() or case.gradients()
        if not all(np.array_equal(a, b) for a, b in zip(wanted, found, strict=True)):
            raise AssertionError(f"{case.name}: gradients {kind} are not those of the step")
    if others:
        for a, parameter in zip(wanted, others["torch"](), strict=True):
            np.testing.assert_allclose(a, parameter.grad.numpy(), rtol=1e-3, atol=1e-5, err_msg=case.name)


def measured_all(quick: bool, seconds: float) -> list[Row]:
    """Return the rows of all cases."""
    return [measured(case, seconds) for case in cases(quick)]


# --- a Python object for every number ---


def scalar_chain(ys: list[Scalar]) -> Scalar:
    """Return the sum of the chain's results."""
    a, b = Scalar(MULTIPLIER), Scalar(OFFSET)
    for _ in range(LINKS):
        ys = [(y * a + b).tanh() for y in ys]
    return sum_of(ys, Scalar(0.0))


def scalar_mlp(layers: list[tuple[Any, Any]], x: list[Scalar], label: int) -> Scalar:
    """Return the cross-entropy of an MLP with ReLU, of (weight, bias) as nested lists, for one input."""
    for w, b in layers:
        x = [sum_of(products(row, x), bias) for row, bias in zip(w, b)]
        x = x if w is layers[-1][0] else [value.relu() for value in x]
    powers = [value.exp() for value in x]
    return sum_of(powers[1:], powers[0]).log() - x[label]


def products(row: list[Scalar], x: list[Scalar]) -> list[Scalar]:
    return [a * b for a, b in zip(row, x)]


def sum_of(terms: list[Scalar], start: Scalar) -> Scalar:
    """Return start plus all terms."""
    for term in terms:
        start = start + term
    return start


def scalars(a: Any) -> Any:
    """Return an array as nested lists of Scalars."""
    return Scalar(float(a)) if np.ndim(a) == 0 else [scalars(part) for part in a]


def timed_scalars(quick: bool, seconds: float) -> list[Row]:
    """Return the scalar engine's rows: the chain, and one sample through the MLP."""
    step = peers_steps.StepRow("MLP", 1).build()
    x, label = step.batches[0][0][0], int(step.batches[0][1][0])
    values = [scalars(a) for a in step.weights.values()]
    layers, pixels = list(zip(values[::2], values[1::2])), scalars(x)

    def run_chain() -> int:
        return scalar_chain(scalars(np.linspace(-1, 1, ELEMENTS))).backward()

    def run_mlp() -> int:
        return scalar_mlp(layers, pixels, label).backward()

    rows: list[Row] = []
    for name, call, budget in (
        (chain().name, run_chain, seconds), ("MLP batch 1", run_mlp, 0 if quick else 3 * seconds),
    ):  # fmt: skip
        times: list[float] = []
        with settled():
            operations, start = call(), time.perf_counter()
            while not times or time.perf_counter() - start < budget:
                times.append(timed(call, 1))
        middle = median_and_error(times)[0]
        rows.append({"case": name, "ops": operations, "seconds": middle, "op_us": middle / operations * 1e6})
    return rows
