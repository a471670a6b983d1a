"""The table of a network's layers: shapes, parameters, arithmetic, memory traffic."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.autograd.tape import Node, recording, topological_order
from nnkernels.nn.module import Module


@dataclass(frozen=True)
class Row:
    """One layer: FLOPs and bytes are those of one forward pass; bytes the least that must move."""

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class Summary:
    """The rows of a network and their totals; prints as a table."""

    rows: tuple[Row, ...]
    total: Row

    def __str__(self) -> str:
        head = ("layer", "kind", "output shape", "parameters", "FLOPs", "bytes")
        body = [
            (r.name, r.kind, str(r.output_shape), f"{r.parameters:,}", f"{r.flops:,}", f"{r.bytes:,}")
            for r in (*self.rows, self.total)
        ]
        widths = [max(len(line[i]) for line in (head, *body)) for i in range(len(head))]

        def line(cells: tuple[str, ...]) -> str:
            parts = [c.ljust(n) if i < 3 else c.rjust(n) for i, (c, n) in enumerate(zip(cells, widths))]
            return "  ".join(parts).rstrip()

        rule = "-" * (sum(widths) + 2 * len(widths) - 2)
        return "\n".join([line(head), rule, *map(line, body[:-1]), rule, line(body[-1])])

    __repr__ = __str__


def cost(nodes: list[Node]) -> tuple[int, int]:
    """Return (FLOPs, bytes) of recorded calls."""
    flops = moved = 0
    for node in nodes:
        assert node.arrays is not None
        flops += node.op.flops(*node.arrays, **node.attributes)
        moved += node.op.bytes(node.arrays, node.outputs[0])
    return flops, moved


def nodes_of(y: Any) -> dict[int, Node]:
    """Return the recorded calls that lead to y, a Tensor or tuples of them, by identity."""
    if isinstance(y, tuple):
        return {key: node for part in y for key, node in nodes_of(part).items()}
    tensors = topological_order(y) if isinstance(y, Tensor) else []
    return {id(t.node): t.node for t in tensors if t.node is not None}


def shape_of(y: Any) -> tuple[int, ...]:
    """Return the shape of a module's output, of the first one where there are several."""
    while isinstance(y, tuple):
        y = y[0]
    shape: tuple[int, ...] = y.shape
    return shape


def summary(model: Module, input_shape: tuple[int, ...]) -> Summary:
    """Run ``model`` on zeros of ``input_shape`` (batch axis included) and return the table of its layers.

    A layer is a module without modules below it; what the network computes outside of them (activations
    written as functions) is gathered in the row "(functions)".
    """
    rows: list[Row] = []
    counted: dict[int, Node] = {}

    def record(name: str, module: Module, inputs: tuple[Any, ...], y: Any) -> None:
        before = nodes_of(inputs)
        own = [node for key, node in nodes_of(y).items() if key not in before]
        counted.update((id(node), node) for node in own)
        parameters = sum(p.size for p in module.parameters())
        rows.append(Row(name, type(module).__name__, shape_of(y), parameters, *cost(own)))

    dtype = next((p.dtype for p in model.parameters()), np.dtype(np.float32))
    leaves = [(name, m) for name, m in model.named_modules() if not list(m.children())]
    removers = [
        m.register_forward_hook(lambda module, x, y, name=name: record(name, module, x, y))  # type: ignore[misc]
        for name, m in leaves
    ]
    modes = [(m, m.training) for m in model.modules()]
    try:
        with recording(True):  # inside no_grad() there would be nothing to count
            y = model.eval()(Tensor(np.zeros(input_shape, dtype), requires_grad=True))
    finally:
        for remove in removers:
            remove()
        for module, mode in modes:
            module.training = mode
    others = [node for key, node in nodes_of(y).items() if key not in counted]
    if others:
        rows.append(Row("(functions)", ", ".join(sorted({n.op.name for n in others})), (), 0, *cost(others)))
    parameters = sum(math.prod(p.shape) for p in model.parameters())
    total = Row("total", type(model).__name__, shape_of(y), parameters, *cost([*counted.values(), *others]))
    return Summary(tuple(rows), total)
