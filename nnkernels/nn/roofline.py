"""The roofline: what a pass through a layer has to do, and how long the machine needs for it at least.

F FLOPs and B bytes take at least max(F / peak, B / bandwidth) seconds, with the measured ceilings of
machine/ceilings.py.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from nnkernels.autograd.tape import Node
from nnkernels.machine import ceilings
from nnkernels.machine.gpu_array import shares_memory
from nnkernels.machine.memory import Array
from nnkernels.ops.gradients import linear, piecewise_linear


class Work(NamedTuple):
    """What a pass has to do: FLOPs, and the least bytes that it must move."""

    flops: int
    bytes: int


NONE = Work(0, 0)


@dataclass(frozen=True)
class Limits:
    """The roofline: the GFLOP/s and GB/s that ``threads`` threads reach."""

    threads: int
    gflops: float
    gbytes: float

    def least_seconds(self, work: Work) -> float:
        """Return the time that the work takes at least."""
        return max(work.flops / (self.gflops * 1e9), work.bytes / (self.gbytes * 1e9))


@dataclass(frozen=True)
class Pass:
    """One pass through a layer: its median time, its work, and the time that the roofline allows it."""

    seconds: float
    flops: int
    bytes: int
    least_seconds: float

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return self.flops / self.seconds / 1e9 if self.seconds else 0.0

    @property
    def share(self) -> float:
        """Share of the roofline: 1 is as fast as the machine can; more, where arrays stay in caches."""
        return self.least_seconds / self.seconds if self.seconds else 0.0


_best: dict[tuple[int, str], Limits] = {}


def limits(threads: int, dtype: str) -> Limits:
    """Measure the machine's ceilings, half a second long; return the best seen so far.

    Other programs can only lower them. Hence before and after what is compared with them.
    """
    gflops, gbytes = ceilings.fma_peak(threads, dtype), ceilings.memory_bandwidth(threads)
    before = _best.get((threads, dtype), Limits(threads, 0.0, 0.0))
    best = Limits(threads, max(gflops, before.gflops), max(gbytes, before.gbytes))
    _best[threads, dtype] = best
    return best


# --- what there is to do ---


def forward_work(nodes: Iterable[Node]) -> Work:
    """Return the work of recorded calls."""
    flops = moved = 0
    for node in nodes:
        assert node.arrays is not None
        flops += node.op.flops(*node.arrays, **node.attributes)
        moved += node.op.bytes(node.arrays, node.outputs[0])
    return Work(flops, moved)


def backward_work(node: Node, dy: Array, gradients: tuple[Array | None, ...]) -> Work:
    """Return the work of a node's share of backward.

    As many FLOPs as forward for each gradient (of a convolution, a product: multiply-adds), but for those of
    biases and other vectors beside the first input. What is passed on, dy or a view of it, is no work.
    """
    made = [(i, g) for i, g in enumerate(gradients) if g is not None and not shares_memory(g, dy)]
    if not made:
        return NONE
    assert node.arrays is not None
    flops = node.op.flops(*node.arrays, **node.attributes)
    moved = (dy, *(g for _, g in made), *read_by_backward(node))
    products = sum(i == 0 or g.ndim > 1 for i, g in made)
    return Work(products * flops, sum(a.nbytes for a in moved))


def read_by_backward(node: Node) -> list[Array]:
    """Return the arrays whose values backward needs beside dy: inputs, and what forward kept of them."""
    assert node.arrays is not None
    kept, inputs = list(node.outputs[1:]), [a for a in node.arrays if a is not None]
    if node.op.gradient is linear:
        return kept
    return kept if kept and node.op.gradient is piecewise_linear else kept + inputs
