"""The training loop, for when it is not the lesson: batches, epochs, validation, early stopping.

    for x, y in Batches(x_train, y_train, 64, shuffle=True):
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

``fit`` runs these lines and keeps a record.
"""

import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain, pairwise
from typing import Any, NamedTuple

import numpy as np

from nnkernels.autograd import Tensor, no_grad
from nnkernels.data import Batches
from nnkernels.machine.arrays import move, side
from nnkernels.machine.gpu import current_device
from nnkernels.machine.gpu_array import start_upload
from nnkernels.machine.memory import Array
from nnkernels.nn import functional as F
from nnkernels.nn.module import Module
from nnkernels.optim import Optimizer
from nnkernels.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

logger = logging.getLogger("nnkernels")

Pair = tuple[Array, Array]
LossFunction = Callable[[Any, Any], Tensor]
History = dict[str, list[float]]
"""One list per measure, one number per epoch: train_loss, train_accuracy, val_loss, val_accuracy, seconds."""


class Score(NamedTuple):
    """Mean loss per sample and, for integer labels, the share classified correctly (else None)."""

    loss: float
    accuracy: float | None


def correct(outputs: Array, targets: Array) -> int | None:
    """Return how many rows of logits (N, C) are largest at their integer label; None for other targets."""
    if outputs.ndim != 2 or targets.ndim != 1 or targets.dtype.kind not in "iu":
        return None
    return int((outputs.argmax(axis=1) == targets).sum())


def predict(model: Module, x: Array, batch_size: int = 256) -> Array:
    """Return the model's outputs for all of x, recording nothing, in evaluation mode."""
    if batch_size < 1:
        raise ValueError(f"predict: batch_size must be at least 1, got {batch_size}")
    where = side_of(model)
    starts = range(0, len(x), batch_size)
    with evaluating(model), no_grad():
        parts = [move(model(move(x[i : i + batch_size], where)).data, "cpu") for i in starts]
    if not parts:
        raise ValueError(f"predict: x has no samples, shape {x.shape}")
    return np.concatenate(parts)


def evaluate(
    model: Module, x: Array, y: Array, loss: LossFunction = F.cross_entropy, batch_size: int = 256
) -> Score:
    """Return the loss and accuracy over all samples."""
    outputs = predict(model, x, batch_size)
    right = correct(outputs, y)
    value = float(np.asarray(loss(outputs, y)))
    return Score(value, None if right is None else right / len(x))


def side_of(model: Module) -> str:
    """Return "cpu" or "cuda", where the model's parameters are."""
    first = next(model.parameters(), None)
    return "cpu" if first is None else side(first.data)


def batches_on(where: str, batches: Batches) -> Iterator[tuple[Any, Any, Array]]:
    """Yield (x, y, y in host memory); a GPU computes with one batch while the next is copied."""
    if where == "cpu":
        for x, y in batches:
            yield x, y, y
        return
    device = current_device()
    coming = ((start_upload(x, device), start_upload(y, device), y) for x, y in batches)
    for now, _ in pairwise(chain(coming, (None,))):  # the next one is on its way
        assert now is not None
        x_there, y_there, y = now
        yield x_there(), y_there(), y


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Put the model into evaluation mode inside the ``with`` block."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def fit(
    model: Module,
    train: Pair,
    validation: Pair | None = None,
    *,
    optimizer: Optimizer,
    loss: LossFunction = F.cross_entropy,
    epochs: int = 15,
    batch_size: int = 64,
    patience: int | None = None,
    schedule: LRScheduler | None = None,
    accumulate: int = 1,
    device: str | None = None,
    rng: np.random.Generator | int | None = None,
    progress: bool = False,
) -> History:
    """Train ``model`` on ``train`` = (x, y) and return the history.

    ``loss(outputs, targets)`` must return the mean over the batch. With ``patience``, training stops
    when the validation loss has not fallen for that many epochs, and the best epoch's weights are restored.
    ``schedule`` is stepped after each epoch (ReduceLROnPlateau with the validation loss, or the training loss
    where there is no validation data). With ``accumulate``, the optimizer steps after so many batches, along
    the mean of their gradients. Penalties of the optimizer's parameter groups are added to the loss that is
    differentiated, not to the one recorded. With ``device``, "cpu" or "cuda", the model is moved there first;
    batches follow it, and of each batch the loss and the outputs come back, to be recorded.
    Batches are shuffled by ``rng``. Raises FloatingPointError, naming epoch, batch and learning rate, when
    the loss is not finite; ValueError for arguments that do not fit together.
    """
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"fit: epochs must be an int of at least 1, got {epochs!r}")
    if patience is not None and (validation is None or patience < 1):
        raise ValueError(f"fit: patience ({patience!r}) must be at least 1 and needs validation data")
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"fit: accumulate must be an int of at least 1, got {accumulate!r}")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("fit: schedule belongs to another optimizer")
    batches = Batches(*train, batch_size, shuffle=True, rng=rng)
    if device is not None:
        model.to(device)
    history: History = {}
    best_loss, best_epoch, best_state = math.inf, 0, None
    with reporting(epochs, len(batches), progress) as report:
        for epoch in range(1, epochs + 1):
            start = time.perf_counter()
            scores = {"train": train_epoch(model, batches, loss, optimizer, epoch, report, accumulate)}
            if validation is not None:
                scores["val"] = evaluate(model, *validation, loss)
                demand_finite("validation loss", scores["val"].loss, epoch, len(batches), batches, optimizer)
            record(history, scores, time.perf_counter() - start)
            if isinstance(schedule, ReduceLROnPlateau):
                schedule.step(scores["val" if validation is not None else "train"].loss)
            elif schedule is not None:
                schedule.step()
            report.epoch(epoch, scores)
            if patience is not None:
                if scores["val"].loss < best_loss:
                    best_loss, best_epoch, best_state = scores["val"].loss, epoch, model.state_dict()
                elif epoch - best_epoch >= patience:
                    logger.info("no better validation loss since epoch %d: stopping", best_epoch)
                    break
    if best_state is not None:
        model.load_state_dict(best_state)
        history["best_epoch"] = [best_epoch]
    return history


def record(history: History, scores: dict[str, Score], seconds: float) -> None:
    """Append an epoch's measures to the history."""
    for name, score in scores.items():
        history.setdefault(f"{name}_loss", []).append(score.loss)
        if score.accuracy is not None:
            history.setdefault(f"{name}_accuracy", []).append(score.accuracy)
    history.setdefault("seconds", []).append(seconds)


def train_epoch(
    model: Module, batches: Batches, loss: LossFunction, optimizer: Optimizer, epoch: int, report: "Report",
    accumulate: int = 1,
) -> Score:  # fmt: skip
    """Go through the batches once; return the mean loss and accuracy seen on the way."""
    model.train()
    total, right, seen = 0.0, 0, 0
    for number, (x, y, labels) in enumerate(batches_on(side_of(model), batches), 1):
        outputs = model(x)
        value = loss(outputs, y)
        if value.size != 1:
            raise ValueError(f"fit: loss must return a single number, got shape {value.shape}")
        mean = value.item()
        demand_finite("loss", mean, epoch, number, batches, optimizer)
        descend(value, optimizer, number, len(batches), accumulate)
        hits = correct(move(outputs.data, "cpu"), labels)
        total += mean * len(x)
        right = right + hits if hits is not None else -1
        seen += len(x)
        report.batch()
    return Score(total / seen, right / seen if right >= 0 else None)


def descend(value: Tensor, optimizer: Optimizer, number: int, count: int, accumulate: int) -> None:
    """Take a step along the gradient of batch ``number``'s loss, or of ``accumulate`` batches at once.

    The last of the ``count`` batches may be fewer.
    """
    before = (number - 1) // accumulate * accumulate  # batches of earlier steps
    together = min(accumulate, count - before)
    if number == before + 1:
        optimizer.zero_grad()
    penalty = optimizer.penalty()
    objective = value + penalty if isinstance(penalty, Tensor) else value
    (objective / together if together > 1 else objective).backward()
    if number == before + together:
        optimizer.step()


def demand_finite(
    what: str, value: float, epoch: int, number: int, batches: Batches, optimizer: Optimizer
) -> None:
    """Raise FloatingPointError for a loss that is NaN or infinite, saying where training had got to."""
    if not math.isfinite(value):
        rates = ", ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
        raise FloatingPointError(
            f"the {what} became {value} in epoch {epoch}, batch {number} of {len(batches)}, with "
            f"learning rate {rates}: try a smaller one"
        )


class Report:
    """Shows nothing; the base of what shows progress."""

    def batch(self) -> None:
        """Note that a batch is done."""

    def epoch(self, epoch: int, scores: dict[str, Score]) -> None:
        """Note that an epoch is done."""


class Lines(Report):
    """One line per epoch on stderr."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def epoch(self, epoch: int, scores: dict[str, Score]) -> None:
        """Print the epoch's scores."""
        print(f"epoch {epoch:3d}/{self.epochs}  {in_words(scores)}", file=sys.stderr, flush=True)


class Bar(Report):
    """A tqdm bar over all batches, with a line per epoch above it."""

    def __init__(self, epochs: int, bar: Any) -> None:
        self.epochs, self.bar = epochs, bar

    def batch(self) -> None:
        """Move the bar."""
        self.bar.update()

    def epoch(self, epoch: int, scores: dict[str, Score]) -> None:
        """Write the epoch's scores above the bar."""
        self.bar.write(f"epoch {epoch:3d}/{self.epochs}  {in_words(scores)}", file=sys.stderr)


def in_words(scores: dict[str, Score]) -> str:
    """Return the scores of an epoch as text."""
    parts = []
    for name, score in scores.items():
        accuracy = "" if score.accuracy is None else f" accuracy {score.accuracy:.1%}"
        parts.append(f"{name} loss {score.loss:.4f}{accuracy}")
    return "   ".join(parts)


@contextmanager
def reporting(epochs: int, batches: int, progress: bool) -> Iterator[Report]:
    """Yield what shows progress: a bar on a terminal where tqdm is installed, else lines, else nothing."""
    if not progress:
        yield Report()
        return
    if sys.stderr.isatty():
        try:
            from tqdm import tqdm
        except ImportError:
            pass
        else:
            with tqdm(total=epochs * batches, unit="batch", leave=False) as bar:
                yield Bar(epochs, bar)
            return
    yield Lines(epochs)
