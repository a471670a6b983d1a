"""Parameters made equal once, gradients averaged before every step: so the ranks' models stay equal."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.machine.arrays import full, move, overwrite
from nnkernels.machine.gpu_array import GpuArray
from nnkernels.machine.memory import Array
from nnkernels.nn.module import Module, Parameter
from nnkernels.optim import Optimizer
from nnkernels.optim.base import Group
from nnkernels.parallel.ranks import Ranks
from nnkernels.parallel.start import started


def broadcast_parameters(model: Module, ranks: Ranks | None = None) -> None:
    """Overwrite the parameters and buffers of the model on every rank by rank 0's.

    Raises ValueError, on every rank, naming the first that has another name, shape or dtype than rank 0's;
    nothing is changed then.
    """
    ranks = started("broadcast_parameters") if ranks is None else ranks
    arrays = dict(model._named_arrays())
    ranks.agree("broadcast_parameters", [f"{name} {a.dtype} {a.shape}" for name, a in arrays.items()])
    if ranks.size == 1:
        return
    for array in arrays.values():
        ours = np.ascontiguousarray(move(array, "cpu"))
        ranks.broadcast_into(ours)
        overwrite(array, ours)
    for parameter in model.parameters():
        parameter.was_changed()


class DistributedOptimizer(Optimizer):
    """An optimizer that averages gradients over all ranks before each step of the one it is given.

    It is an Optimizer: ``param_groups`` are the inner one's own, so schedules can be made with either, and
    ``state_dict`` is the inner one's, which loads on any number of ranks.

    Gradients of one dtype lie in one flat buffer, for one Allreduce each: rank's gradient times the rank's
    number of samples, summed over ranks, divided by the number of all samples. What the ranks add up differs
    from what one process would in the order of the sum only. A NaN on one rank reaches all of them alike.

    Gradients on a GPU are copied to the host and back. With ``cuda_aware``, device memory is handed to MPI as
    it is; that needs an MPI library built for it, and has been tested only with one rank in the simulator.

    Raises TypeError unless ``optimizer`` is an Optimizer, ValueError, on every rank, where the ranks'
    parameters differ in number, shape or dtype.
    """

    def __init__(self, optimizer: Optimizer, ranks: Ranks | None = None, *, cuda_aware: bool = False) -> None:
        if not isinstance(optimizer, Optimizer) or isinstance(optimizer, DistributedOptimizer):
            name = type(optimizer).__name__
            raise TypeError(f"DistributedOptimizer: optimizer must be an Optimizer of one rank, got {name}")
        self.optimizer = optimizer
        self.ranks = started("DistributedOptimizer") if ranks is None else ranks
        self.cuda_aware = cuda_aware
        self.defaults, self.param_groups = optimizer.defaults, optimizer.param_groups
        self._buffers = optimizer._buffers
        self._flat: list[FlatGradients] = []
        self._kinds: list[Any] = []
        self.ranks.agree(
            "DistributedOptimizer", [f"parameter {i} {p.dtype} {p.shape}" for i, p in enumerate(self.params)]
        )

    def step(self, samples: float = 1) -> None:
        """Average the gradients, then step.

        ``samples`` is the number of examples whose mean loss this rank has differentiated; left out, all
        ranks count for the same. Raises ValueError unless it is a number above 0.
        """
        self.average_gradients(samples)
        self.optimizer.step()

    def average_gradients(self, samples: float = 1) -> None:
        """Make every gradient its mean over ranks, weighted by ``samples``: for clipping before ``step``.

        A parameter without a gradient counts as one of zeros where another rank has one.
        """
        if not (isinstance(samples, int | float | np.number) and 0 < samples < math.inf):
            raise ValueError(f"DistributedOptimizer: samples must be a number above 0, got {samples!r}")
        if self.ranks.size == 1:
            return
        kinds = [(id(p), p.shape, p.dtype, p.device) for p in self.params]
        if kinds != self._kinds:  # the first step, or the model has moved to another device
            self._kinds, self._flat = kinds, flat_gradients(self.params)
        for flat in self._flat:
            flat.average(self.ranks, float(samples), self.cuda_aware)

    def add_param_group(self, param_group: Group) -> None:
        """Add a group to the inner optimizer."""
        self.optimizer.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the inner optimizer's state."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Load a state into the inner optimizer."""
        self.optimizer.load_state_dict(state_dict)


def flat_gradients(params: list[Parameter]) -> "list[FlatGradients]":
    """Return one flat buffer for the parameters of each dtype and device."""
    kinds = dict.fromkeys((p.dtype, p.device) for p in params)
    return [FlatGradients([p for p in params if (p.dtype, p.device) == kind]) for kind in kinds]


class FlatGradients:
    """The gradients of parameters of one kind in one array, so that one message says everything.

    Behind them stand, for each parameter, whether it has a gradient, and then the number of samples.
    """

    def __init__(self, params: list[Parameter]) -> None:
        self.params = params
        sizes = [p.size for p in params]
        self.elements = sum(sizes)
        self.flat = full((self.elements + len(params) + 1,), 0, params[0].dtype, params[0].data)
        ends = np.cumsum(sizes)
        self.places = [
            self.flat[int(end) - n : int(end)].reshape(p.shape) for p, n, end in zip(params, sizes, ends)
        ]

    def average(self, ranks: Ranks, samples: float, cuda_aware: bool) -> None:
        """Replace the gradients by their means over ranks."""
        for p, place in zip(self.params, self.places):
            overwrite(place, full(p.shape, 0, p.dtype, p.data) if p.grad is None else p.grad.data)
        tail = np.array([*(p.grad is not None for p in self.params), samples], self.flat.dtype)
        if isinstance(self.flat, GpuArray) and cuda_aware:
            some = self.sum_on_device(ranks, samples, tail)
        else:
            some = self.sum_on_host(ranks, samples, tail)
        for p, place, count in zip(self.params, self.places, some):
            if count > 0:
                p.grad = Tensor(place.copy())  # not a view: the buffer belongs to the next step

    def sum_on_host(self, ranks: Ranks, samples: float, tail: Array) -> Array:
        """Leave the means in the flat buffer; return how many ranks have each gradient."""
        host: Array = move(self.flat, "cpu")
        gradients = host[: self.elements]
        gradients *= samples
        host[self.elements :] = tail
        ranks.sum_into(host)
        gradients /= host[-1]
        if host is not self.flat:
            overwrite(self.flat, host)
        return host[self.elements : -1]

    def sum_on_device(self, ranks: Ranks, samples: float, tail: Array) -> Array:
        """Do the same without copies to the host, but for the tail."""
        gradients = self.flat[: self.elements]
        overwrite(gradients, (Tensor(gradients) * samples).data)
        overwrite(self.flat[self.elements :], tail)
        self.flat.device.synchronize()  # MPI knows nothing of our stream
        ranks.sum_into(self.flat)
        counts: Array = move(self.flat[self.elements :], "cpu")
        overwrite(gradients, (Tensor(gradients) / float(counts[-1])).data)
        return counts[:-1]
