"""The arrays of one parameter group, in one flat buffer where that is faster.

The parameters of a small model move into one flat buffer, of which each parameter's ``data`` becomes a view;
a step is then one kernel call instead of one per parameter. State lies in the same order.
"""

from typing import Any

import numpy as np

from nnkernels.machine.memory import Array
from nnkernels.nn.module import Parameter

# Elements in all. A larger model's gradients take longer to copy into one buffer than its calls take to make.
FLAT_MOST = 1 << 20

Progress = tuple[float, ...]
"""What changes with every step of a parameter and is no array: the number of steps first."""


class Buffers:
    """Parameters of one group, their state arrays by name, and how far each has got."""

    def __init__(self, params: list[Parameter], progress: Progress, flat: bool) -> None:
        self.params = params
        self.progress = [progress] * len(params)
        self.state: dict[str, tuple[Array | None, list[Array]]] = {}  # name: flat array and one view each
        self.flat: Any = None  # an array, or None
        self.adopt(flat)

    def adopt(self, flat: bool) -> None:
        """Move the parameters into the flat buffer, where all have one dtype and few elements."""
        if (
            flat
            and len({p.dtype for p in self.params}) == 1
            and sum(p.size for p in self.params) <= FLAT_MOST
        ):
            self.flat = np.zeros(sum(p.size for p in self.params), self.params[0].dtype)
            self.data = self.views(self.flat)
            self.gradient = np.zeros_like(self.flat)
            self.places = self.views(self.gradient)
            self.attach()

    def views(self, flat: Array) -> list[Array]:
        """Return one view of a flat array per parameter."""
        ends = np.cumsum([p.size for p in self.params])
        return [flat[end - p.size : end].reshape(p.shape) for p, end in zip(self.params, ends)]

    def attach(self) -> None:
        """Make every parameter's data its view of the flat buffer again, should someone have changed that."""
        for p, view in zip(self.params, self.data):
            if p.data is not view:
                view[...] = p.data
                p.data = view

    def add(self, name: str, start: float) -> None:
        """Make the state of this name, filled with ``start``."""
        if self.flat is None:
            self.state[name] = None, [np.full_like(p.data, start) for p in self.params]
        else:
            flat = np.full_like(self.flat, start)
            self.state[name] = flat, self.views(flat)

    def gather(self) -> bool:
        """Copy all gradients into the flat one, where all parameters can step at once; return whether so."""
        if self.flat is None or self.progress.count(self.progress[0]) != len(self.progress):
            return False
        for p, place in zip(self.params, self.places):
            if p.grad is None or p.grad.data.shape != place.shape:  # what does not fit will be named
                return False
            place[...] = p.grad.data
        self.attach()
        return True

    def saved(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return for each parameter its progress under ``names`` and copies of its state arrays."""
        return [
            dict(zip(names, progress)) | {name: views[i].copy() for name, (_, views) in self.state.items()}
            for i, progress in enumerate(self.progress)
        ]

    def restore(self, entries: list[dict[str, Any]], names: tuple[str, ...]) -> None:
        """Take over what ``saved`` has returned; the shapes have been checked."""
        self.state.clear()
        for i, entry in enumerate(entries):
            self.progress[i] = tuple(entry[name] for name in names)
            for name, value in entry.items():
                if name not in names:
                    if name not in self.state:
                        self.add(name, 0.0)
                    self.state[name][1][i][...] = value
