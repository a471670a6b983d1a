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
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, pairwise
from pathlib import Path
from signal import SIGINT, default_int_handler, getsignal, signal
from types import FrameType
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor, no_grad
from nnkernels.checkpoints import Checkpoints, demand_same, description, of_array, restore, state_of
from nnkernels.data import Batches
from nnkernels.machine.arrays import move, side
from nnkernels.machine.gpu import current_device
from nnkernels.machine.gpu_array import start_upload
from nnkernels.machine.memory import Array
from nnkernels.nn import functional as F
from nnkernels.nn.module import Module
from nnkernels.optim import Optimizer
from nnkernels.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from nnkernels.progress import Report, Score, reporting

logger = logging.getLogger("nnkernels")

Pair = tuple[Array, Array]
LossFunction = Callable[[Any, Any], Tensor]
History = dict[str, list[float]]
"""One list per measure, one number per epoch: train_loss, train_accuracy, val_loss, val_accuracy, seconds."""


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


def batches_on(where: str, batches: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, Any, Array]]:
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


@dataclass
class Run:
    """Where a training stands: what ``fit`` itself carries from one batch to the next."""

    epoch: int = 0  # epochs that are over
    batch: int = 0  # batches of the next one that are over
    order: Array | None = None  # of that epoch's examples, from its beginning on
    total: float = 0.0  # its losses, times the examples of each batch
    right: int | None = 0
    seen: int = 0
    seconds: float = 0.0
    history: History = field(default_factory=dict)
    best_loss: float = math.inf
    best_epoch: int = 0
    best_state: dict[str, Array] | None = None

    def count(self, loss: float, examples: int, hits: int | None) -> None:
        """Add a batch to the running epoch's scores."""
        self.total += loss * examples
        self.right = None if self.right is None or hits is None else self.right + hits
        self.seen += examples

    def score(self) -> Score:
        """Return the mean loss and accuracy of the batches seen in this epoch."""
        return Score(self.total / self.seen, None if self.right is None else self.right / self.seen)

    def end_epoch(self, scores: dict[str, Score], seconds: float) -> None:
        """Put the epoch's measures into the history and stand before the next one."""
        record(self.history, scores, seconds)
        self.epoch += 1
        self.batch, self.order = 0, None
        self.total, self.right, self.seen, self.seconds = 0.0, 0, 0, 0.0


@dataclass(frozen=True)
class Job:
    """What ``fit`` was asked to do."""

    model: Module
    batches: Batches
    validation: Pair | None
    optimizer: Optimizer
    schedule: LRScheduler | None
    loss: LossFunction
    epochs: int
    patience: int | None
    accumulate: int

    def is_over(self, run: Run) -> bool:
        """Return whether no epoch is left, or the validation loss has not fallen for too long."""
        tired = self.patience is not None and run.epoch - run.best_epoch >= self.patience
        return run.epoch >= self.epochs or tired

    def describe(self) -> dict[str, str]:
        """Return what must be the same when the training is resumed; epochs need not be."""
        found = description(self.model, self.optimizer, self.schedule, self.batches)
        found["accumulate"] = str(self.accumulate)
        found["early stopping"] = "no" if self.patience is None else "yes"
        for i, array in enumerate(self.validation or ()):
            found[f"validation data {i}"] = of_array(array)
        return found


class Saver:
    """Says when a job is saved and when Ctrl-C stops it; without ``checkpoints`` it does neither."""

    def __init__(self, job: Job, checkpoints: Checkpoints | None, every: int | None) -> None:
        self.job, self.checkpoints, self.every = job, checkpoints, every
        self.stop = False  # whether Ctrl-C was pressed
        self.saved = 0  # the batches that the newest checkpoint counts
        self.described = job.describe() if checkpoints is not None else {}

    def begin(self, resume: bool) -> Run:
        """Return where to begin: with ``resume`` where the newest checkpoint ends, if there is one.

        A first checkpoint is written at once: what cannot be saved shall fail before the work, not after it.
        """
        run = Run()
        if self.checkpoints is None:
            return run
        if not resume:
            self.checkpoints.demand_none()
        elif (found := self.checkpoints.newest()) is not None:
            state, path = found
            try:
                job, run, parts = state["job"], Run(**state["run"]), state["parts"]
            except (KeyError, TypeError) as error:
                raise ValueError(f"{path} is no checkpoint of this version's fit: {error}") from error
            demand_same(job, self.described, path)
            restore(parts, *self.parts())
            self.saved = self.step(run)
            return run
        self.save(run)
        return run

    def parts(self) -> tuple[Module, Optimizer, LRScheduler | None, Batches]:
        """Return what has a state of its own."""
        return self.job.model, self.job.optimizer, self.job.schedule, self.job.batches

    def step(self, run: Run) -> int:
        """Return how many batches are over, those of all epochs together."""
        return run.epoch * len(self.job.batches) + run.batch

    def after_batch(self, run: Run) -> None:
        """Save where it is time to, between two steps of the optimizer; an epoch's end does so itself."""
        last = run.batch == len(self.job.batches)
        between_steps = last or run.batch % self.job.accumulate == 0
        due = self.every is not None and self.step(run) - self.saved >= self.every and not last
        if between_steps and (due or self.stop):
            self.save(run)

    def save(self, run: Run) -> None:
        """Write a checkpoint; raise Interrupted if Ctrl-C was pressed."""
        if self.checkpoints is None:
            return
        state = {"job": self.described, "run": vars(run), "parts": state_of(*self.parts())}
        path = self.checkpoints.save(state, self.step(run))
        self.saved = self.step(run)
        if self.stop:
            raise Interrupted(path)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Let Ctrl-C wait for ``save``; a second one interrupts at once.

        Only where Python would raise KeyboardInterrupt: other handlers are their owner's affair.
        """
        here = threading.current_thread() is threading.main_thread()
        if self.checkpoints is None or not here or getsignal(SIGINT) is not default_int_handler:
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            if self.stop:
                default_int_handler(number, frame)
            self.stop = True

        signal(SIGINT, note)
        try:
            yield
        finally:
            signal(SIGINT, default_int_handler)
        if self.stop:  # pressed after the last save
            raise Interrupted(self.checkpoints.paths()[-1])


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while ``fit`` kept checkpoints: all is saved in ``path``."""

    def __init__(self, path: Path) -> None:
        super().__init__(
            f"interrupted and saved in {path}: "
            f"fit(..., checkpoint={str(path.parent)!r}, resume=True) goes on from there"
        )
        self.path = path


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
    checkpoint: str | os.PathLike[str] | None = None,
    every: int | None = None,
    keep: int = 3,
    resume: bool = False,
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

    With ``checkpoint``, a directory, all state is saved there at the start, after every epoch and, with
    ``every``, after so many batches (with ``accumulate``, at the next step of the optimizer); the newest
    ``keep`` files stay. Ctrl-C then saves after the running batch and raises Interrupted; a second one
    interrupts at once. A save that fails (a full disk) raises OSError, and earlier checkpoints stay.

    With ``resume`` training goes on from the newest intact checkpoint, or begins where there is none, and
    ends with bitwise the weights and history (but for seconds) of one that was never interrupted. The call
    must be the same, and is compared with the checkpoint; only ``epochs`` may be more, and ``device`` and the
    length of ``patience`` others. Generators that are attributes of modules are saved, not others that a loss
    function draws from. Raises ValueError, with nothing changed, where the checkpoint is of another training,
    all are damaged, or there are some without ``resume``.
    """
    check_arguments(epochs, patience, validation, accumulate, schedule, optimizer)
    check_checkpoint(checkpoint, every, resume)
    batches = Batches(*train, batch_size, shuffle=True, rng=rng)
    job = Job(model, batches, validation, optimizer, schedule, loss, epochs, patience, accumulate)
    saver = Saver(job, None if checkpoint is None else Checkpoints(checkpoint, keep), every)
    run = saver.begin(resume)
    if device is not None:
        model.to(device)
    with reporting(epochs, len(batches), progress, saver.step(run)) as report, saver.listening():
        while not job.is_over(run):
            train_epoch(job, run, report, saver)
            scores = end_epoch(job, run)
            report.epoch(run.epoch, scores)
            saver.save(run)
    if run.best_state is None:
        return run.history
    if run.epoch < epochs:
        logger.info("no better validation loss since epoch %d: stopped", run.best_epoch)
    model.load_state_dict(run.best_state)
    return {**run.history, "best_epoch": [run.best_epoch]}


def check_arguments(
    epochs: int, patience: int | None, validation: Pair | None, accumulate: int,
    schedule: LRScheduler | None, optimizer: Optimizer,
) -> None:  # fmt: skip
    """Raise ValueError for arguments of ``fit`` that do not fit together."""
    if not isinstance(epochs, int) or epochs < 1:
        raise ValueError(f"fit: epochs must be an int of at least 1, got {epochs!r}")
    if patience is not None and (validation is None or patience < 1):
        raise ValueError(f"fit: patience ({patience!r}) must be at least 1 and needs validation data")
    if not isinstance(accumulate, int) or accumulate < 1:
        raise ValueError(f"fit: accumulate must be an int of at least 1, got {accumulate!r}")
    if schedule is not None and schedule.optimizer is not optimizer:
        raise ValueError("fit: schedule belongs to another optimizer")


def check_checkpoint(checkpoint: str | os.PathLike[str] | None, every: int | None, resume: bool) -> None:
    """Raise ValueError for arguments about checkpoints that do not fit together."""
    if checkpoint is None and (every is not None or resume):
        given = "resume" if resume else f"every ({every!r})"
        raise ValueError(f"fit: {given} needs checkpoint, the directory where checkpoints are kept")
    if every is not None and (not isinstance(every, int) or isinstance(every, bool) or every < 1):
        raise ValueError(f"fit: every must be an int of at least 1, got {every!r}")


def train_epoch(job: Job, run: Run, report: Report, saver: Saver) -> None:
    """Go through the batches of the epoch that are left."""
    model, count = job.model, len(job.batches)
    start = time.perf_counter() - run.seconds
    if run.order is None:
        model.train()
        run.order = job.batches.draw_order()
    for x, y, labels in batches_on(side_of(model), job.batches.in_order(run.order, run.batch)):
        run.batch += 1
        outputs = model(x)
        value = job.loss(outputs, y)
        if value.size != 1:
            raise ValueError(f"fit: loss must return a single number, got shape {value.shape}")
        mean = value.item()
        demand_finite("loss", mean, run, count, job.optimizer)
        descend(value, job.optimizer, run.batch, count, job.accumulate)
        run.count(mean, len(x), correct(move(outputs.data, "cpu"), labels))
        run.seconds = time.perf_counter() - start
        report.batch()
        saver.after_batch(run)


def end_epoch(job: Job, run: Run) -> dict[str, Score]:
    """Validate, step the schedule, note the best epoch; return the epoch's scores."""
    start = time.perf_counter() - run.seconds
    scores = {"train": run.score()}
    if job.validation is not None:
        scores["val"] = evaluate(job.model, *job.validation, job.loss)
        demand_finite("validation loss", scores["val"].loss, run, len(job.batches), job.optimizer)
    run.end_epoch(scores, time.perf_counter() - start)
    if isinstance(job.schedule, ReduceLROnPlateau):
        job.schedule.step(scores["val" if job.validation is not None else "train"].loss)
    elif job.schedule is not None:
        job.schedule.step()
    if job.patience is not None and scores["val"].loss < run.best_loss:
        run.best_loss, run.best_epoch = scores["val"].loss, run.epoch
        run.best_state = job.model.state_dict()
    return scores


def record(history: History, scores: dict[str, Score], seconds: float) -> None:
    """Append an epoch's measures to the history."""
    for name, score in scores.items():
        history.setdefault(f"{name}_loss", []).append(score.loss)
        if score.accuracy is not None:
            history.setdefault(f"{name}_accuracy", []).append(score.accuracy)
    history.setdefault("seconds", []).append(seconds)


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


def demand_finite(what: str, value: float, run: Run, count: int, optimizer: Optimizer) -> None:
    """Raise FloatingPointError for a loss that is NaN or infinite, saying where training had got to."""
    if not math.isfinite(value):
        rates = ", ".join(f"{group['lr']:g}" for group in optimizer.param_groups)
        raise FloatingPointError(
            f"the {what} became {value} in epoch {run.epoch + 1}, batch {run.batch} of {count}, with "
            f"learning rate {rates}: try a smaller one"
        )
