"""The steps of a computation, read off the tape: names, formulas and slopes in words.

trace.py makes tables of them, graph.py drawings.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import numpy as np

from nnkernels.autograd.tape import Node, topological_order
from nnkernels.autograd.tensor import Tensor
from nnkernels.machine.memory import Array

MOST_NAMES = 4  # of a call's inputs that are written out

# --- numbers and arrays in words ---


def number(value: Any, decimals: int = 6) -> str:
    """Return a number with so many decimals, or digits where that would lose it."""
    if isinstance(value, (bool, np.bool_, int, np.integer)):
        return str(value)
    size = abs(float(value))
    if size == 0:
        return "0"  # and not -0
    if not math.isfinite(size) or not 1e-3 <= size < 1e6:
        return f"{value:.{decimals}g}"
    return f"{value:.{decimals}f}".rstrip("0").rstrip(".")


def in_words(array: Array, most: int = 6, decimals: int = 6) -> str:
    """Return an array's numbers; of one with more than ``most`` elements, its shape and norm.

    >>> in_words(np.array([[1.0, 0.5]]))
    '[[1, 0.5]]'
    >>> in_words(np.ones((3, 3)))
    'shape (3, 3), norm 3'
    """
    if array.ndim == 0:
        return number(array[()], decimals)
    if array.size == 0:
        return f"shape {array.shape}"
    if array.size > most:
        return f"shape {array.shape}, norm {number(norm(array), decimals)}"
    return "[" + ", ".join([in_words(part, most, decimals) for part in array]) + "]"


def norm(array: Array) -> float:
    """Return the root of the sum of squares."""
    return float(np.linalg.norm(array.ravel().astype(np.float64)))


# --- the steps ---


@dataclass(eq=False)
class Step:
    """One named quantity: an input, or the result of a call that uses others."""

    thing: Any  # the Tensor, or an array
    label: str = ""  # what the caller calls it
    name: str = ""  # w1, w2 ...; of a plain number, the number
    uses: list["Step"] = field(default_factory=list)
    needs: list[bool] = field(default_factory=list)  # whether a gradient goes to each of uses
    is_parameter: bool = False

    @property
    def node(self) -> Node | None:
        """The call that made it, None for an input."""
        return self.thing.node if self.uses else None

    @property
    def value(self) -> Array:
        """Its array."""
        return self.thing.data if isinstance(self.thing, Tensor) else np.asarray(self.thing)

    @property
    def differentiated(self) -> bool:
        """Whether gradients go to it."""
        return isinstance(self.thing, Tensor) and self.thing.requires_grad

    @property
    def is_number(self) -> bool:
        """Whether it is a number in the program, as the 2 of 2 * x: it has no name."""
        plain = isinstance(self.thing, np.ndarray) and self.thing.ndim == 0
        return plain and not self.label and not self.uses

    def formula(self) -> str:
        """Return how it was computed, in the names of what it uses; of an input, its label."""
        node = self.node
        return self.label if node is None else call_in_words(node, [step.name for step in self.uses])


def steps_to(
    z: Tensor, labels: Sequence[tuple[str, Any]], stem: str, parameters: Sequence[Any] = ()
) -> list[Step]:
    """Return the steps that lead to ``z``: inputs, those with labels first, then calls in their order.

    ``labels`` are pairs of a name and a tensor or array. Other inputs are called by ``stem`` and a number, or
    p1, p2 ... where they are Parameters or among ``parameters``. Raises RuntimeError for a freed graph.
    """
    calls = [t for t in reversed(topological_order(z)) if t.node is not None]
    made, known = {id(t) for t in calls}, {id(t): label for label, t in labels}
    found = {id(t): Step(t, label) for label, t in labels if id(t) not in made}
    inputs = [s for t in calls if t.node for s in t.node.inputs if s is not None and id(s) not in made]
    for s in inputs:
        found.setdefault(id(s), Step(s))
    for t in calls:
        assert t.node is not None
        pairs = [(found[id(s)], need) for s, need in zip(t.node.inputs, t.node.needs) if s is not None]
        found[id(t)] = Step(t, known.get(id(t), ""), "", [s for s, _ in pairs], [need for _, need in pairs])
    steps = list(found.values())
    red = {id(t) for t in parameters}
    for step in steps:
        step.is_parameter = not step.uses and (id(step.thing) in red or is_parameter(step.thing))
    give_names(steps, stem)
    return steps


def give_names(steps: list[Step], stem: str) -> None:
    """Number the steps, and label the inputs that have none."""
    taken = {step.label for step in steps}
    # The lecture's w, unless that is what the caller calls something.
    letter = "v" if any(re.fullmatch(r"w\d+", label) for label in taken) else "w"
    numbers = {kind: count(1) for kind in (letter, stem, "p")}
    for step in steps:
        if step.is_number:
            step.name = in_brackets(number(step.thing[()]))
            continue
        step.name = f"{letter}{next(numbers[letter])}"
        kind = "p" if step.is_parameter else stem
        while not step.label and not step.uses:
            label = f"{kind}{next(numbers[kind])}"
            step.label = "" if label in taken else label


def is_parameter(thing: Any) -> bool:
    """Return whether a tensor is one that a module learns; by name, as autograd does not know nn."""
    return any(kind.__name__ == "Parameter" for kind in type(thing).__mro__)


def result_label(labels: Sequence[str]) -> str:
    """Return what the result is called: z, unless an input is."""
    return next(name for name in ("z", "y", "result", "f(x)") if name not in labels)


def call_in_words(node: Node, names: list[str]) -> str:
    """Return a call as one would write it.

    Long lists of inputs are cut: the drawing's edges, or the table's columns, say the rest.
    """
    symbols = {"add": " + ", "sub": " - ", "mul": "·", "div": "/", "pow": "^", "matmul": " @ "}
    name, attributes = node.op.name, node.attributes
    if name in symbols:
        return symbols[name].join(names)
    if name == "neg":
        return f"-{names[0]}"
    if name == "slice":
        return f"{names[0]}[{index_in_words(attributes['index'])}]"
    if len(names) > MOST_NAMES:
        names = [*names[:2], "...", names[-1]]
    along = [f"dim={attributes['dim']}"] if attributes.get("dim") is not None else []
    text = f"{name}({', '.join(names + along)})"
    fused = attributes.get("activation")  # a relu in the same pass over memory
    return f"{fused}({text})" if isinstance(fused, str) else text


def index_in_words(index: Any) -> str:
    """Return an index as it stands between the brackets."""
    if isinstance(index, tuple):
        return ", ".join(map(index_in_words, index))
    if isinstance(index, slice):
        parts = [index.start, index.stop] + ([] if index.step is None else [index.step])
        return ":".join("" if part is None else str(part) for part in parts)
    return "..." if index is Ellipsis or np.ndim(index) > 0 else str(index)


# --- slopes in words ---

# dy/da and dy/db of y = op(a, b), elementwise, in the names of a, b and y.
UNARY: dict[str, Callable[[str, str], str]] = {
    "neg": lambda a, y: "-1",
    "sin": lambda a, y: f"cos({a})",
    "cos": lambda a, y: f"-sin({a})",
    "exp": lambda a, y: y,
    "log": lambda a, y: f"1/{a}",
    "sqrt": lambda a, y: f"1/(2·{y})",
    "abs": lambda a, y: f"sign({a})",
    "sigmoid": lambda a, y: f"{y}·(1 - {y})",
    "tanh": lambda a, y: f"(1 - {y}²)",
    "relu": lambda a, y: f"[{a} > 0]",
}
BINARY: dict[str, Callable[[str, str, str], tuple[str, str]]] = {
    "add": lambda a, b, y: ("1", "1"),
    "sub": lambda a, b, y: ("1", "-1"),
    "mul": lambda a, b, y: (b, a),
    "div": lambda a, b, y: (f"1/{b}", f"-{a}/{b}²"),
    "pow": lambda a, b, y: (f"2·{a}" if b == "2" else f"{b}·{a}^({b} - 1)", f"{y}·log({a})"),
}


def slopes(step: Step) -> list[str] | None:
    """Return the derivatives of a step by what it uses as formulas, None where there is none as short."""
    node, names = step.node, [s.name for s in step.uses]
    if node is None:
        return None
    if node.op.name in UNARY:
        return [UNARY[node.op.name](names[0], step.name)]
    if node.op.name in BINARY:
        return list(BINARY[node.op.name](names[0], names[1], step.name))
    return None


def in_brackets(text: str) -> str:
    """Return a formula as a factor."""
    return f"({text})" if text.startswith("-") else text
