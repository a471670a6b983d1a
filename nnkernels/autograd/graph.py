"""Drawings of computation graphs, as in lectures: inputs white, parameters red, operations blue.

Each node shows its value and the gradient that arrives there. Nodes stand in layers, an operation one layer
after the last operation it uses, inputs just before their first use; within a layer they are ordered so that
few edges cross.

Sugiyama, Tagawa, Toda, Methods for Visual Understanding of Hierarchical System Structures, 1981.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np

from nnkernels.autograd.steps import Step, in_words, norm, number, result_label, steps_to
from nnkernels.autograd.tensor import Tensor, carry_back
from nnkernels.machine.memory import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

MOST_NODES = 60  # of a drawing that one can still read
MOST_ACROSS = 6  # layers from left to right; deeper graphs run down the page
SWEEPS = 8

COLOURS = {"input": "#FFFFFF", "parameter": "#F5A69B", "operation": "#A8D0EE"}
INK, EDGE = "#222222", "#555555"

# In inches.
MARGIN, LINE, PADDING = 0.2, 0.185, 0.1
BETWEEN_LAYERS, BETWEEN_NODES, ARROW, LEGEND = 0.6, 0.22, 0.12, 0.3


@overload
def graph(
    z: Tensor,
    names: Mapping[str, Any] | None = None,
    *,
    parameters: Iterable[Any] = (),
    gradient: Any = None,
    format: Literal["figure"] = "figure",
) -> Figure: ...
@overload
def graph(
    z: Tensor,
    names: Mapping[str, Any] | None = None,
    *,
    parameters: Iterable[Any] = (),
    gradient: Any = None,
    format: Literal["dot"],
) -> str: ...
def graph(
    z: Tensor,
    names: Mapping[str, Any] | None = None,
    *,
    parameters: Iterable[Any] = (),
    gradient: Any = None,
    format: Literal["figure", "dot"] = "figure",  # noqa: A002
) -> Figure | str:
    """Draw the graph of the calls that led to z, with values and gradients; ``plot.save`` writes it as PNG.

    Red are the Parameters of modules and the tensors in ``parameters``. ``names`` gives tensors or arrays
    their names, as {"x1": x1} or dict(model.named_parameters()); else inputs are x1, x2 ..., parameters
    p1, p2 .... ``gradient`` is the cotangent of z, 1 for a single element. ``format="dot"`` returns the text
    that Graphviz draws. The graph is kept, and no tensor's ``grad`` is touched.

    Raises TypeError unless z is a Tensor, names a dict, parameters a list; ValueError where z recorded
    nothing, is no single number and no gradient is given, the graph has more than 60 nodes (as a figure) or
    lacks a tensor that is named; RuntimeError for a graph that was freed or whose arrays have been changed.

    >>> from nnkernels.autograd.tensor import tensor
    >>> x = tensor(3.0, requires_grad=True)
    >>> print(graph(x * x, format="dot"))
    digraph {
      rankdir=LR;
      node [shape=box, style="rounded,filled", fontname="sans-serif"];
      n1 [label="w1 = x1\\n3\\ndz/dw1 = 6", fillcolor="#FFFFFF"];
      n2 [label="w2 = w1·w1 = z\\n9\\ndz/dw2 = 1", fillcolor="#A8D0EE"];
      n1 -> n2;
      n1 -> n2;
    }
    """
    if not isinstance(z, Tensor):
        raise TypeError(f"graph: z must be a Tensor, got {type(z).__name__}")
    if names is not None and not isinstance(names, Mapping):
        raise TypeError(f"graph: names must be a dict from names to tensors, got {type(names).__name__}")
    if isinstance(parameters, Tensor):  # whose iteration would go over its rows
        raise TypeError("graph: parameters must be a list of tensors, got one Tensor")
    if format not in ("figure", "dot"):
        raise ValueError(f"graph: format must be figure or dot, got {format!r}")
    if z.node is None:
        raise ValueError(
            "graph: z recorded nothing that leads to it; give requires_grad=True to what it is made of, "
            "and compute outside of no_grad()"
        )
    boxes = boxes_of(z, names or {}, parameters, gradient)
    if format == "dot":
        return dot(boxes)
    if len(boxes) > MOST_NODES:
        raise ValueError(
            f"graph: z has a graph of {len(boxes)} nodes, more than {MOST_NODES} cannot be read; draw a part "
            "of it, as one layer's output, or give format='dot' to Graphviz"
        )
    return draw(boxes)


# --- what the nodes say ---


@dataclass(eq=False)
class Box:
    """A node of the drawing, or, without lines, a place where an edge passes a layer."""

    kind: str
    lines: tuple[str, ...] = ()
    layer: int = 0
    before: list[Box] = field(default_factory=list)  # in the layer before
    after: list[Box] = field(default_factory=list)
    uses: list[tuple[Box, list[Box]]] = field(default_factory=list)  # the inputs, and the bends on the way
    length: float = 0.0  # along the layers' order, in inches
    breadth: float = 0.0  # along a layer
    room: float = 0.0  # the layer's length
    along: float = 0.0  # the centre's place
    across: float = 0.0

    @property
    def hangs(self) -> bool:
        """Whether it is an input, or on the way of one: it gives way to operations."""
        source = self
        while not source.lines:
            source = source.before[0]
        return not source.uses

    def wanted(self) -> float:
        """Return where it would stand by its neighbours; operations in a line, whatever hangs on them."""
        near = self.before + self.after
        if not self.hangs:
            near = [box for box in near if not box.hangs] or near
        return mean([box.across for box in near], self.across)


def boxes_of(z: Tensor, names: Mapping[str, Any], parameters: Iterable[Any], gradient: Any) -> list[Box]:
    """Return the graph's nodes in the order of the calls, inputs first."""
    found = steps_to(z, [], "x")
    inputs = [step for step in found if not step.uses]
    labels = [(name, find(found, thing, f"names[{name!r}] is not in")) for name, thing in names.items()]
    red = [find(inputs, t, f"parameters[{i}] is not an input of") for i, t in enumerate(parameters)]
    steps = steps_to(z, labels, "x", red)
    result = next((name for name, thing in labels if thing is z), result_label([s.label for s in steps]))
    if gradient is None and z.size != 1:
        raise ValueError(
            f"graph: z has shape {z.shape} and so no single gradient; give gradient=, an array like it, "
            "or draw the graph of a number, as z.sum()"
        )
    if gradient is not None and np.shape(gradient) != z.shape:
        raise ValueError(f"graph: gradient must have the shape of z, {z.shape}, got {np.shape(gradient)}")
    active = [step.thing for step in steps if step.differentiated]
    gradients = carry_back(z, z.cotangent(gradient), active, retain_graph=True)
    arrived = {id(t): dx for t, dx in zip(active, gradients)}
    boxes: dict[int, Box] = {}
    for step in steps:
        kind = "operation" if step.uses else "parameter" if step.is_parameter else "input"
        box = Box(kind, lines_of(step, result, step.thing is z, arrived.get(id(step.thing))))
        box.uses = [(boxes[id(used)], []) for used in step.uses]
        boxes[id(step)] = box
    return list(boxes.values())


def find(steps: Sequence[Step], thing: Any, wrong: str) -> Any:
    """Return the tensor or array of the graph that ``thing`` is; ValueError where there is none."""
    for step in steps:
        if step.thing is thing or (isinstance(thing, np.ndarray) and step.value is thing):
            return step.thing
    raise ValueError(f"graph: {wrong} the graph of z; give the very tensor that z was computed from")


def lines_of(step: Step, result: str, last: bool, gradient: Tensor | None) -> tuple[str, ...]:
    """Return what stands in a node: its name, its value, its gradient."""
    ending = f" = {result}" if last else f" = {step.label}" if step.label and step.uses else ""
    title = "constant" if step.is_number else f"{step.name} = {step.formula()}{ending}"
    if gradient is None:
        return title, value_in_words(step.value), "no gradient"
    return title, value_in_words(step.value), gradient_in_words(f"d{result}/d{step.name}", gradient.data)


def value_in_words(array: Array) -> str:
    """Return a number, or an array's shape with its elements or norm."""
    words = in_words(array, most=4, decimals=4) if array.ndim else in_words(array)
    return words if array.ndim == 0 or words.startswith("shape") else f"shape {array.shape}: {words}"


def gradient_in_words(name: str, array: Array) -> str:
    """Return the same of a gradient, whose shape one knows."""
    if array.size > 4:
        return f"{name}: norm {number(norm(array))}"
    return f"{name} = {in_words(array, most=4, decimals=4) if array.ndim else in_words(array)}"


def dot(boxes: Sequence[Box]) -> str:
    """Return the graph in Graphviz's language."""
    number_of = {id(box): i for i, box in enumerate(boxes, 1)}
    assign_layers(boxes)
    lines = [
        f"rankdir={'TB' if runs_down(boxes) else 'LR'};",
        'node [shape=box, style="rounded,filled", fontname="sans-serif"];',
    ]
    for i, box in enumerate(boxes, 1):
        escaped = [line.replace("\\", "\\\\").replace('"', '\\"') for line in box.lines]
        label = "\\n".join(escaped)
        lines.append(f'n{i} [label="{label}", fillcolor="{COLOURS[box.kind]}"];')
    for i, box in enumerate(boxes, 1):
        lines += [f"n{number_of[id(used)]} -> n{i};" for used, _ in box.uses]
    return "\n".join(["digraph {", *[f"  {line}" for line in lines], "}"])


# --- where the nodes stand ---


def assign_layers(boxes: Sequence[Box]) -> None:
    """Give each operation the layer after its inputs', each input the layer before its first use."""
    for box in boxes:  # an operation comes after what it uses
        if box.uses:
            box.layer = 1 + max(used.layer for used, _ in box.uses)
    first: dict[int, int] = {}
    for box in boxes:
        for used, _ in box.uses:
            first[id(used)] = min(first.get(id(used), box.layer), box.layer)
    for box in boxes:
        if not box.uses:
            box.layer = first[id(box)] - 1


def runs_down(boxes: Sequence[Box]) -> bool:
    """Return whether there are too many layers for a page's width."""
    return max(box.layer for box in boxes) >= MOST_ACROSS


def arrange(boxes: Sequence[Box]) -> None:
    """Give every box, whose sizes are known, its place."""
    layers = with_bends(boxes)
    best, fewest = [list(layer) for layer in layers], crossings(layers)
    for sweep in range(SWEEPS):
        forth = sweep % 2 == 0
        for layer in layers[1:] if forth else layers[-2::-1]:
            side = "before" if forth else "after"
            ranks = {id(box): i for other in layers for i, box in enumerate(other)}
            middle = [mean([ranks[id(b)] for b in getattr(box, side)], i) for i, box in enumerate(layer)]
            layer[:] = [layer[i] for i in sorted(range(len(layer)), key=middle.__getitem__)]
        if crossings(layers) < fewest:
            best, fewest = [list(layer) for layer in layers], crossings(layers)
    for layer in best:
        spread(layer, [0.0] * len(layer))
    for sweep in range(5 * SWEEPS):
        for layer in best if sweep % 2 == 0 else best[::-1]:
            spread(layer, [box.wanted() for box in layer])
    along = 0.0
    for layer in best:
        length = max(box.length for box in layer)
        for box in layer:
            box.along, box.room = along + length / 2, length
        along += length + BETWEEN_LAYERS


def with_bends(boxes: Sequence[Box]) -> list[list[Box]]:
    """Return the layers, in which edges that pass a layer have a place of their own there."""
    layers: list[list[Box]] = [[] for _ in range(1 + max(box.layer for box in boxes))]
    for i, boxes_here in enumerate(layers):
        operations = [box for box in boxes if box.layer == i and box.uses]
        inputs = [box for box in boxes if box.layer == i and not box.uses]
        half = len(inputs) // 2  # on both sides, so that operations can stand in a line
        boxes_here += inputs[:half] + operations + inputs[half:]
    for box in boxes:
        for used, bends in box.uses:
            last = used
            for layer in range(used.layer + 1, box.layer):
                bend = Box("bend", layer=layer)
                bends.append(bend)
                layers[layer].append(bend)
                last.after.append(bend)
                bend.before.append(last)
                last = bend
            last.after.append(box)
            box.before.append(last)
    return layers


def mean(values: Sequence[float], default: float) -> float:
    """Return the mean of the values, or what there is without any."""
    return sum(values) / len(values) if values else default


def crossings(layers: Sequence[Sequence[Box]]) -> int:
    """Return how many pairs of edges cross."""
    total = 0
    for layer, after in pairwise(layers):
        ranks = {id(box): i for i, box in enumerate(after)}
        ends = [(i, ranks[id(b)]) for i, box in enumerate(layer) for b in box.after]
        total += sum(a < c and b > d for a, b in ends for c, d in ends)
    return total


def spread(layer: Sequence[Box], wanted: Sequence[float]) -> None:
    """Put the boxes of a layer as near to the places wanted as they can be in this order without touching.

    Weighted least squares: neighbours that want to touch move as one block, to the mean of what they want.
    """
    offsets = [0.0]
    for one, other in pairwise(layer):
        offsets.append(offsets[-1] + (one.breadth + other.breadth) / 2 + BETWEEN_NODES)
    blocks: list[tuple[float, float, int]] = []  # (place less offset, weight, number of boxes)
    for box, want, offset in zip(layer, wanted, offsets):
        place, weight, size = want - offset, 0.05 if box.hangs else 1.0, 1
        while blocks and blocks[-1][0] > place:
            other_place, other_weight, other_size = blocks.pop()
            place = (place * weight + other_place * other_weight) / (weight + other_weight)
            weight, size = weight + other_weight, size + other_size
        blocks.append((place, weight, size))
    places = [place for place, _, size in blocks for _ in range(size)]
    for box, place, offset in zip(layer, places, offsets):
        box.across = place + offset


# --- drawing ---


def draw(boxes: Sequence[Box]) -> Figure:
    """Return the figure: one axes, whose unit is an inch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    assign_layers(boxes)
    down = runs_down(boxes)
    texts = [texts_of(axes, box, i) for i, box in enumerate(boxes, 1)]
    for box, parts in zip(boxes, texts):
        width = max(t.get_window_extent().width for t in parts) / figure.dpi + 2 * PADDING
        height = len(parts) * LINE + 2 * PADDING
        box.length, box.breadth = (height, width) if down else (width, height)
    arrange(boxes)
    top = min(box.across - box.breadth / 2 for box in every(boxes))
    bottom = max(box.across + box.breadth / 2 for box in every(boxes))
    end = max(box.along + box.length / 2 for box in boxes)
    width, height = (bottom - top, end) if down else (end, bottom - top)
    width = max(width, 3.4) + 2 * MARGIN  # room for the legend
    height += 2 * MARGIN + LEGEND
    figure.set_size_inches(width, height)
    axes.set(xlim=(0, width), ylim=(0, height))

    def place(along: float, across: float) -> tuple[float, float]:
        if down:
            return MARGIN + across - top, height - MARGIN - along
        return MARGIN + along, height - MARGIN - (across - top)

    for i, (box, parts) in enumerate(zip(boxes, texts), 1):
        draw_box(axes, box, parts, place(box.along, box.across), down, f"node {i}")
        draw_edges(axes, box, place)
    draw_legend(axes, boxes)
    return figure


def every(boxes: Sequence[Box]) -> list[Box]:
    """Return the boxes and the bends of their edges."""
    return [*boxes, *[bend for box in boxes for _, bends in box.uses for bend in bends]]


def texts_of(axes: Axes, box: Box, number: int) -> list[Text]:
    """Return the lines of a box as artists, which are to be moved to their place."""
    styles: list[dict[str, Any]] = [{"weight": "bold"}, {}, {"style": "italic"}]
    place: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": INK, "parse_math": False}
    return [
        axes.text(0, 0, line, gid=f"node {number}", zorder=3, **place, **style)
        for line, style in zip(box.lines, styles)
    ]


def draw_box(
    axes: Axes, box: Box, texts: Sequence[Text], centre: tuple[float, float], down: bool, name: str
) -> None:
    """Draw a box with its lines around ``centre``."""
    from matplotlib.patches import FancyBboxPatch

    width, height = (box.breadth, box.length) if down else (box.length, box.breadth)
    corner = (centre[0] - width / 2, centre[1] - height / 2)
    style: dict[str, Any] = {"facecolor": COLOURS[box.kind], "edgecolor": INK, "linewidth": 1, "zorder": 2}
    patch = FancyBboxPatch(corner, width, height, boxstyle="round,pad=0,rounding_size=0.12", **style)
    patch.set(gid=name, label=box.lines[0])
    axes.add_patch(patch)
    for i, text in enumerate(texts):
        text.set_position((centre[0], centre[1] + ((len(texts) - 1) / 2 - i) * LINE))


def draw_edges(axes: Axes, box: Box, place: Any) -> None:
    """Draw the edges that end at ``box``, side by side in the order in which they arrive.

    They turn between layers only, so that none crosses a box.
    """
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    arriving = sorted(box.uses, key=lambda edge: (edge[1][-1] if edge[1] else edge[0]).across)
    for i, (used, bends) in enumerate(arriving):
        port = box.across + ((i + 0.5) / len(arriving) - 0.5) * 0.6 * box.breadth
        levels = [used.across, *[bend.across for bend in bends], port]
        vertices, codes = [(used.along + used.length / 2, used.across)], [Path.MOVETO]
        for place_before, (a, b) in zip([used, *bends], pairwise(levels)):
            start = place_before.along + place_before.room / 2
            end = start + BETWEEN_LAYERS - ARROW
            middle = (start + end) / 2
            vertices += [(start, a), (middle, a), (middle, b), (end, b)]
            codes += [Path.LINETO, *[Path.CURVE4] * 3]
        vertices.append((box.along - box.length / 2, port))
        codes.append(Path.LINETO)
        path = Path([place(*point) for point in vertices], codes)
        arrow = FancyArrowPatch(path=path, arrowstyle="-|>", mutation_scale=10, color=EDGE, zorder=1)
        arrow.set(fill=True, linewidth=1, capstyle="butt")
        axes.add_patch(arrow)


def draw_legend(axes: Axes, boxes: Sequence[Box]) -> None:
    """Say what the colours mean, below the drawing."""
    from matplotlib.patches import Patch

    kinds = [kind for kind in COLOURS if any(box.kind == kind for box in boxes)]
    keys = [Patch(facecolor=COLOURS[kind], edgecolor=INK, label=kind) for kind in kinds]
    axes.legend(handles=keys, ncols=len(keys), loc="lower center", frameon=False, fontsize=9, labelcolor=INK)
