"""Checkpoints: the state of a training in files of one directory, of which the newest intact one counts.

``Checkpoints`` writes, finds and deletes the files; below it stands what ``train.fit`` puts into them.
"""

import contextlib
import errno
import logging
import os
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from nnkernels import io
from nnkernels.data import Batches
from nnkernels.machine.arrays import move
from nnkernels.machine.memory import Array
from nnkernels.nn.module import Module
from nnkernels.optim import Optimizer
from nnkernels.optim.lr_scheduler import LRScheduler, SequentialLR

logger = logging.getLogger("nnkernels")

NAME = re.compile(r"checkpoint-(\d{10,})\.npz")
TEMPORARY = re.compile(r"\.checkpoint-\d{10,}\.npz\..*\.tmp")  # what io leaves of a save that was killed


class Checkpoints:
    """The checkpoints of one training in ``directory``, which is made; the newest ``keep`` of them stay.

    A file appears under its name only when it is whole and on the disk, so a process may be killed at any
    moment. Two trainings cannot share a directory.

    >>> import tempfile
    >>> kept = Checkpoints(tempfile.mkdtemp(), keep=2)
    >>> for step in (10, 20, 30):
    ...     _ = kept.save({"epoch": step // 10}, step)
    >>> [path.name for path in kept.paths()]
    ['checkpoint-0000000020.npz', 'checkpoint-0000000030.npz']
    >>> kept.newest()[0]
    {'epoch': 3}
    """

    def __init__(self, directory: str | os.PathLike[str], keep: int = 3) -> None:
        if not isinstance(keep, int) or isinstance(keep, bool) or keep < 1:
            raise ValueError(f"checkpoints: keep must be an int of at least 1, got {keep!r}")
        self.directory, self.keep = Path(directory), keep

    def paths(self) -> list[Path]:
        """Return the checkpoints there are, damaged ones included, the oldest first."""
        with contextlib.suppress(FileNotFoundError):
            return sorted((p for p in self.directory.iterdir() if NAME.fullmatch(p.name)), key=step_of)
        return []

    def demand_none(self) -> None:
        """Raise ValueError where there are checkpoints, which a training from the beginning would replace."""
        if paths := self.paths():
            raise ValueError(
                f"{self.directory} holds checkpoints, the newest {paths[-1].name}: resume from it "
                "(resume=True, --resume) or give another directory"
            )

    def newest(self) -> tuple[Any, Path] | None:
        """Return the state of the newest intact checkpoint and its path; None where there are no checkpoints.

        A damaged one is reported as a warning, and the one before it taken. Raises ValueError where all are
        damaged: to begin again would cost what may yet be rescued.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                return io.load_tree(path), path
            except (OSError, ValueError) as error:  # of the disk, or of what lies on it
                logger.warning("skipped a damaged checkpoint: %s", error)
        if paths:
            names = ", ".join(path.name for path in paths)
            raise ValueError(f"{self.directory}: none of its checkpoints can be read ({names})")
        return None

    def save(self, state: object, step: int) -> Path:
        """Write the checkpoint of ``step``, read it back, then delete all but the newest ``keep``.

        Raises OSError naming the directory, and what is there to resume from, where the file cannot be
        written (a full disk) or does not read back as written; older checkpoints are untouched then. Raises
        what ``io.save_tree`` raises for a state that it cannot hold.
        """
        path = self.directory / f"checkpoint-{step:010d}.npz"
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._sweep()
            io.save_tree(path, state)
            self._read_back(path)
        except OSError as error:
            left = self.paths() if self.directory.is_dir() else []
            there = f"{left[-1].name} is there to resume from" if left else "there is none to resume from"
            message = f"cannot save step {step} in {self.directory}: {error.strerror or error}; {there}"
            raise OSError(error.errno, message) from error
        # Those of later steps were damaged, or this step would have begun at one of them.
        earlier = [p for p in self.paths() if step_of(p) <= step]
        for old in set(self.paths()) - set(earlier[-self.keep :]):
            old.unlink(missing_ok=True)
        return path

    def _sweep(self) -> None:
        """Delete what saves that were killed have left."""
        for path in self.directory.iterdir():
            if TEMPORARY.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def _read_back(self, path: Path) -> None:
        try:
            io.load_tree(path)
        except ValueError as error:
            path.unlink()
            raise OSError(errno.EIO, f"it does not read back as it was written ({error})") from error


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint."""
    return int(path.stem.removeprefix("checkpoint-"))


# --- what fit puts into them ---


def generators(model: Module, batches: Batches) -> dict[str, np.random.Generator]:
    """Return all generators that training draws from: the batches' own and those that modules hold.

    One that is shared comes once, under the first of its names.
    """
    found = {"batches": batches._rng}
    for prefix, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, np.random.Generator) and all(value is not g for g in found.values()):
                found[f"model.{prefix}.{name}" if prefix else f"model.{name}"] = value
    return found


def state_of(
    model: Module, optimizer: Optimizer, schedule: LRScheduler | None, batches: Batches
) -> dict[str, Any]:
    """Return the state of all that training changes, in dicts, numbers and arrays."""
    return {
        "model": model.state_dict(),
        "modes": [module.training for module in model.modules()],
        "optimizer": optimizer.state_dict(),
        "schedule": None if schedule is None else schedule.state_dict(),
        "generators": {name: g.bit_generator.state for name, g in generators(model, batches).items()},
    }


def restore(
    state: dict[str, Any], model: Module, optimizer: Optimizer, schedule: LRScheduler | None, batches: Batches
) -> None:
    """Put back what ``state_of`` has returned for objects of the same description."""
    optimizer.load_state_dict(state["optimizer"])
    model.load_state_dict(state["model"])
    for module, mode in zip(model.modules(), state["modes"], strict=True):
        module.training = mode
    if schedule is not None:
        schedule.load_state_dict(state["schedule"])
    for name, generator in generators(model, batches).items():
        generator.bit_generator.state = state["generators"][name]


def description(
    model: Module, optimizer: Optimizer, schedule: LRScheduler | None, batches: Batches
) -> dict[str, str]:
    """Return what must be the same of those four when training goes on, each under its name."""
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    found = {
        "model": type(model).__name__,
        "optimizer": f"{type(optimizer).__name__} of {' + '.join(map(str, sizes))} parameters",
        "options": ", ".join(f"{name}={value!r}" for name, value in optimizer.defaults.items()),
        "schedule": kind_of(schedule),
        "batch_size": str(batches.batch_size),
    }
    found |= {f"training data {i}": of_array(array) for i, array in enumerate(batches.arrays)}
    found |= {f"model.{name}": f"{a.dtype} {a.shape}" for name, a in model.state_dict().items()}
    for name, generator in generators(model, batches).items():
        found[f"generator {name}"] = type(generator.bit_generator).__name__
    return found


def kind_of(schedule: LRScheduler | None) -> str:
    """Return the name of a schedule's class, with those of the schedules that it is made of."""
    if isinstance(schedule, SequentialLR):
        return f"SequentialLR({', '.join(map(kind_of, schedule.schedulers))})"
    return "none" if schedule is None else type(schedule).__name__


def of_array(array: Array) -> str:
    """Return dtype, shape and checksum: another split of the same data is other data."""
    host = np.ascontiguousarray(move(array, "cpu"))
    raw = memoryview(host.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
    return f"{host.dtype} {array.shape} with CRC-32 {zlib.crc32(raw):08x}"


def demand_same(there: dict[str, str], here: dict[str, str], path: Path) -> None:
    """Raise ValueError naming what differs between a checkpoint's training and the one to resume."""
    names = [name for name in (*here, *(there.keys() - here.keys())) if there.get(name) != here.get(name)]
    if names:
        parts = [f"{name}: {there.get(name, 'none')} there, {here.get(name, 'none')} here" for name in names]
        more = f"; and {len(parts) - 4} more" if len(parts) > 4 else ""
        raise ValueError(f"{path} is of another training: {'; '.join(parts[:4])}{more}")
