"""The table of a network's layers: shapes, parameters, arithmetic, memory traffic; on demand, times."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.autograd.tape import Node, recording, topological_order
from nnkernels.nn.measure import REST, Key, Measured, Whole, layers, left_alone, measured, shape_of
from nnkernels.nn.module import Module
from nnkernels.nn.roofline import NONE, Pass, Work, forward_work

WIDEST = 150  # columns of the table with times
NARROWEST = 12  # columns left to a name
MICROSECONDS_BELOW = 5e-3  # seconds of a whole pass


@dataclass(frozen=True)
class Row:
    """One layer: FLOPs and bytes are those of one forward pass; bytes the least that must move.

    ``forward`` (in evaluation) and ``backward`` (in training) are None where nothing was measured, or nothing
    ran: a ReLU that the layer before applies, a layer without gradients.
    """

    name: str
    kind: str
    output_shape: tuple[int, ...]
    parameters: int
    flops: int
    bytes: int
    forward: Pass | None = None
    backward: Pass | None = None


@dataclass(frozen=True)
class Summary:
    """The rows of a network and their totals, ``whole`` where it was measured; prints as a table."""

    rows: tuple[Row, ...]
    total: Row
    whole: Whole | None = None

    def __str__(self) -> str:
        if self.whole is not None:
            return with_times(self.rows, self.total, self.whole)
        head = ("layer", "kind", "output shape", "parameters", "FLOPs", "bytes")
        body = [
            (r.name, r.kind, str(r.output_shape), f"{r.parameters:,}", f"{r.flops:,}", f"{r.bytes:,}")
            for r in (*self.rows, self.total)
        ]
        return "\n".join(ruled([head], body))

    __repr__ = __str__


# --- printing ---


def ruled(heads: Sequence[Sequence[str]], body: Sequence[Sequence[str]]) -> list[str]:
    """Return lines of a table: heads and the last line apart; words to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in (*heads, *body)) for i in range(len(body[0]))]

    def line(cells: Sequence[str]) -> str:
        parts = [c.ljust(n) if i < 3 else c.rjust(n) for i, (c, n) in enumerate(zip(cells, widths))]
        return "  ".join(parts).rstrip()

    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    return [*map(line, heads), rule, *map(line, body[:-1]), rule, line(body[-1])]


def with_times(rows: Sequence[Row], total: Row, whole: Whole) -> str:
    """Return the table with each pass's time, rate and share of the roofline; below it the whole network."""
    unit, scale, digits = ("µs", 1e6, 1) if whole.inference_seconds < MICROSECONDS_BELOW else ("ms", 1e3, 2)
    passes = (unit, "GFLOP/s", "% roof")
    heads = [
        ("", "", "", "", "", "", "", "forward", "", "", "backward", ""),
        ("layer", "kind", "output shape", "parameters", "MFLOP", "MB", *passes, *passes),
    ]

    def line(r: Row) -> list[str]:
        numbers = [f"{r.parameters:,}", f"{r.flops / 1e6:,.3f}", f"{r.bytes / 1e6:,.3f}"]
        for p in (r.forward, r.backward):
            numbers += [
                "" if p is None else f"{p.seconds * scale:,.{digits}f}",
                "" if p is None or not p.flops else f"{p.gflops:,.1f}",
                "" if p is None or not p.least_seconds else f"{100 * p.share:.0f}",
            ]
        return [r.name, r.kind, str(r.output_shape), *numbers]

    body = [line(r) for r in (*rows, total)]
    for column in (1, 0):  # kinds, then names give way where the table is too wide
        excess = max(map(len, ruled(heads, body))) - WIDEST
        longest = max(max(len(cells[column]) for cells in body) - max(excess, 0), NARROWEST)
        for cells in body:
            if len(cells[column]) > longest:
                cells[column] = cells[column][: longest - 1] + "…"
    limits = whole.limits
    return "\n".join(
        [
            *ruled(heads, body),
            f"inference: {whole.inference_seconds * scale:,.{digits}f} {unit}, "
            f"at most {whole.inference_bytes / 1e6:,.2f} MB at once",
            f"training:  {whole.training_seconds * scale:,.{digits}f} {unit} forward and backward, "
            f"at most {whole.training_bytes / 1e6:,.2f} MB at once",
            f"roof:      {limits.gflops:.0f} GFLOP/s and {limits.gbytes:.0f} GB/s, measured on "
            f"{limits.threads} thread{'s' * (limits.threads > 1)}; above 100 % arrays stay in caches",
        ]
    )


# --- counting ---


def nodes_of(y: Any) -> dict[int, Node]:
    """Return the recorded calls that lead to y, a Tensor or tuples of them, by identity."""
    if isinstance(y, tuple):
        return {key: node for part in y for key, node in nodes_of(part).items()}
    tensors = topological_order(y) if isinstance(y, Tensor) else []
    return {id(t.node): t.node for t in tensors if t.node is not None}


def summary(model: Module, input_shape: tuple[int, ...], measure: bool = False) -> Summary:
    """Run ``model`` on zeros of ``input_shape`` (batch axis included) and return the table of its layers.

    A layer is a module without modules below it; what the network computes outside of them (activations
    written as functions) is gathered in the row "(functions)".

    With ``measure``, the network also runs on random numbers, for some seconds. Each layer then has its
    median time, GFLOP/s and share of the roofline, forward in evaluation and backward in training; ``whole``
    has the times and the peak memory of an inference and of a training pass. Backward counts forward's FLOPs
    again for dx and for dw. The model is left as it was: modes, gradients, buffers, generators.

    >>> from nnkernels import nn
    >>> table = nn.summary(nn.Sequential(nn.Linear(400, 120, rng=0), nn.ReLU()), (8, 400), measure=True)
    >>> table.total.flops, table.whole.training_bytes > table.whole.inference_bytes
    (769920, True)
    """
    with left_alone(model):
        table = counted(model, input_shape)
        if not measure:
            return table
        x = np.random.default_rng(0).standard_normal(input_shape, dtype_of(model))
        return timed(table, model, measured(model, x))


def dtype_of(model: Module) -> np.dtype[Any]:
    """Return the dtype of a model's parameters, float32 where it has none."""
    return next((p.dtype for p in model.parameters()), np.dtype(np.float32))


def counted(model: Module, input_shape: tuple[int, ...]) -> Summary:
    """Return the table without times."""
    rows: list[Row] = []
    seen: dict[int, Node] = {}

    def record(name: str, module: Module, inputs: tuple[Any, ...], y: Any) -> None:
        before = nodes_of(inputs)
        own = [node for key, node in nodes_of(y).items() if key not in before]
        seen.update((id(node), node) for node in own)
        rows.append(Row(name, type(module).__name__, shape_of(y), size(module), *forward_work(own)))

    removers = [
        m.register_forward_hook(lambda module, x, y, name=name: record(name, module, x, y))  # type: ignore[misc]
        for m, name in layers(model).items()
    ]
    try:
        with recording(True):  # inside no_grad() there would be nothing to count
            y = model.eval()(Tensor(np.zeros(input_shape, dtype_of(model)), requires_grad=True))
    finally:
        for remove in removers:
            remove()
    others = [node for key, node in nodes_of(y).items() if key not in seen]
    if others:
        rows.append(
            Row(REST[0], ", ".join(sorted({n.op.name for n in others})), (), 0, *forward_work(others))
        )
    total = Row(
        "total", type(model).__name__, shape_of(y), size(model), *forward_work([*seen.values(), *others])
    )
    return Summary(tuple(rows), total)


def size(module: Module) -> int:
    """Return the number of parameters."""
    return sum(p.size for p in module.parameters())


# --- times ---


def timed(table: Summary, model: Module, found: Measured) -> Summary:
    """Return the table with what was measured; layers of the training pass alone have rows of their own."""
    seen: Counter[str] = Counter()
    rows: dict[Key, Row] = {}
    for row in table.rows:
        rows[row.name, seen[row.name]] = row
        seen[row.name] += 1
    rest = rows.pop(REST, Row(REST[0], "", (), 0, 0, 0))
    modules = dict(model.named_modules())
    for (name, i), shape in found.shapes.items():
        module = modules[name]
        rows.setdefault((name, i), Row(name, type(module).__name__, shape, size(module), 0, 0))
    rows[REST] = rest

    def passed(seconds: float | None, work: Work) -> Pass | None:
        return None if seconds is None else Pass(seconds, *work, found.whole.limits.least_seconds(work))

    for key, row in rows.items():
        forward = passed(found.forward.get(key), Work(row.flops, row.bytes))
        backward = passed(found.backward.get(key), found.backward_work.get(key, NONE))
        rows[key] = replace(row, forward=forward, backward=backward)
    total = replace(
        table.total,
        forward=together([row.forward for row in rows.values()], found.whole.inference_seconds),
        backward=together([row.backward for row in rows.values()], found.backward_seconds),
    )
    return Summary(tuple(rows.values()), total, found.whole)


def together(passes: list[Pass | None], seconds: float) -> Pass | None:
    """Return a pass through all layers, one after the other, that took ``seconds``."""
    ran = [p for p in passes if p is not None]
    if not ran:
        return None
    flops, moved = sum(p.flops for p in ran), sum(p.bytes for p in ran)
    return Pass(seconds, flops, moved, sum(p.least_seconds for p in ran))
