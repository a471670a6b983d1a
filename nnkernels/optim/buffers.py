"""The arrays of one parameter group, in one flat buffer where that is faster.

The parameters of a small model move into one flat buffer, of which each parameter's ``data`` becomes a view;
a step is then one kernel call instead of one per parameter. State lies in the same order.
"""

from typing import Any

import numpy as np

from nnkernels.machine.arrays import full, move, overwrite
from nnkernels.machine.memory import Array
from nnkernels.nn.module import Parameter

# Elements in all. A larger model's gradients take longer to copy into one buffer than its calls take to make.
FLAT_MOST = 1 << 20

ALIGNED = 16  # elements: registers, cache lines and a GPU's vector loads want a parameter to begin at such

Progress = tuple[float, ...]
"""What changes with every step of a parameter and is no array: the number of steps first."""


def places_of(p: Parameter) -> int:
    """Return how many elements of a flat buffer belong to a parameter: the next one begins aligned."""
    return -(-p.size // ALIGNED) * ALIGNED


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
        self.device = self.params[0].device if self.params else "cpu"
        size = sum(places_of(p) for p in self.params)
        if flat and len({(p.dtype, p.device) for p in self.params}) == 1 and size <= FLAT_MOST:
            first = self.params[0]
            self.flat = full((size,), 0, first.dtype, first.data)
            self.data = self.views(self.flat)
            self.gradient = full((size,), 0, first.dtype, first.data)
            self.places = self.views(self.gradient)
            self.attach()

    def views(self, flat: Array) -> list[Array]:
        """Return one view of a flat array per parameter."""
        ends = np.cumsum([places_of(p) for p in self.params])
        starts = [int(end) - places_of(p) for p, end in zip(self.params, ends)]
        return [flat[at : at + p.size].reshape(p.shape) for p, at in zip(self.params, starts)]

    def attach(self) -> None:
        """Make every parameter's data its view of the flat buffer again, should someone have changed that."""
        for p, view in zip(self.params, self.data):
            if p.data is not view:
                overwrite(view, p.data)
                p.data = view

    def add(self, name: str, start: float) -> None:
        """Make the state of this name, filled with ``start``."""
        if self.flat is None:
            self.state[name] = None, [full(p.shape, start, p.dtype, p.data) for p in self.params]
        else:
            flat = full(self.flat.shape, start, self.flat.dtype, self.flat)
            self.state[name] = flat, self.views(flat)

    def gather(self) -> bool:
        """Copy all gradients into the flat one, where all parameters can step at once; return whether so."""
        if self.params and self.params[0].device != self.device:
            self.follow()
        if self.flat is None or self.progress.count(self.progress[0]) != len(self.progress):
            return False
        for p, place in zip(self.params, self.places):
            if p.grad is None or p.grad.data.shape != place.shape:  # what does not fit will be named
                return False
            if p.grad.device != p.device:
                raise ValueError(f"step: a parameter is on {p.device}, its gradient on {p.grad.device}")
            overwrite(place, p.grad.data)
        self.attach()
        return True

    def follow(self) -> None:
        """Move the state to the device that the parameters have been moved to."""
        states = [
            {name: views[i] for name, (_, views) in self.state.items()} for i in range(len(self.params))
        ]
        was_flat, self.flat = self.flat is not None, None
        self.adopt(was_flat)
        self.state.clear()
        self.take_over(states)

    def saved(self, names: tuple[str, ...]) -> list[dict[str, Any]]:
        """Return for each parameter its progress under ``names`` and copies of its state arrays."""
        return [
            dict(zip(names, progress))
            | {name: move(views[i], "cpu").copy() for name, (_, views) in self.state.items()}
            for i, progress in enumerate(self.progress)
        ]

    def restore(self, entries: list[dict[str, Any]], names: tuple[str, ...]) -> None:
        """Take over what ``saved`` has returned; the shapes have been checked."""
        self.state.clear()
        for i, entry in enumerate(entries):
            self.progress[i] = tuple(entry[name] for name in names)
        self.take_over([{k: v for k, v in entry.items() if k not in names} for entry in entries])

    def take_over(self, states: list[dict[str, Array]]) -> None:
        """Copy the state arrays of each parameter, from wherever they are."""
        for i, arrays in enumerate(states):
            for name, array in arrays.items():
                if name not in self.state:
                    self.add(name, 0.0)
                overwrite(self.state[name][1][i], move(array, "cpu"))
