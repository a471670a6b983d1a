"""An ONNX graph while it is made: nodes in the order in which they run, and a name for every result."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from nnkernels.machine.memory import Array

FAR = 2**63 - 1  # an end of a Slice beyond any axis


class NoRuleError(ValueError):
    """What a rule cannot say in ONNX's operators."""


@dataclass(frozen=True)
class Operand:
    """An input of a call: a result, a parameter, or a constant ``array``.

    ``shape`` has -1 for the length that differs with the batch. A constant has no name until a node reads it:
    rules look at some and never write them.
    """

    name: str
    shape: tuple[int, ...]
    array: Array | None = None

    def length(self, axis: int) -> int:
        """Return the length of an axis that must not differ with the batch."""
        if self.shape[axis] < 0:
            raise NoRuleError(f"the axis {axis} of shape {self.shape} must have one length in all batches")
        return self.shape[axis]

    def lengths(self, start: int = 0) -> tuple[int, ...]:
        """Return the lengths of the axes from ``start`` on."""
        return tuple(self.length(axis) for axis in range(start, len(self.shape)))

    def is_zero(self) -> bool:
        """Return whether this is a constant of zeros."""
        return self.array is not None and not self.name and not self.array.any()


Pick = Callable[[Any], str]
Input = Operand | Array | str | None  # of a node; a str is the name of a result


class Graph:
    """Nodes, and the names in use. ``dtype`` is that of the network's numbers."""

    def __init__(self, helper: Any, dtype: np.dtype[Any], taken: Iterable[str]) -> None:
        self.helper, self.dtype = helper, dtype
        self.nodes: list[Any] = []
        self.taken = set(taken)
        self.constants: dict[Any, str] = {}
        self.indexed: dict[str, Pick] = {}

    def fresh(self, stem: str) -> str:
        """Return a name that nothing has yet."""
        name = f"{stem}_{len(self.nodes)}"
        while name in self.taken:
            name += "_"
        self.taken.add(name)
        return name

    def add(self, kind: str, *inputs: Input, **attributes: Any) -> str:
        """Add a node; return the name of its result. Attributes that are None are left out."""
        return self.add_several(kind, 1, *inputs, **attributes)[0]

    def add_several(self, kind: str, results: int, *inputs: Input, **attributes: Any) -> list[str]:
        """Add a node with several results."""
        names = [self.name_of(t) for t in inputs]
        while not names[-1]:  # optional inputs at the end
            names.pop()
        outputs = [self.fresh(kind.lower()) for _ in range(results)]
        given = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(self.helper.make_node(kind, names, outputs, name=outputs[0], **given))
        return outputs

    def name_of(self, t: Input) -> str:
        """Return an input's name, making constants known."""
        name = t.name or t.array if isinstance(t, Operand) else t
        if isinstance(name, np.ndarray):
            return self.constant(name)
        if name in self.indexed:
            raise NoRuleError("a result of which ONNX gives parts only")
        return name or ""

    def to_be_indexed(self, pick: Pick) -> str:
        """Return a name for what is no result itself; ``pick`` finds the name of x[index]."""
        name = self.fresh("parts")
        self.indexed[name] = pick
        return name

    def constant(self, array: Any) -> str:
        """Return the name of a constant's node; one node for all that are equal."""
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.constants:
            name = self.fresh("constant")
            tensor = self.tensor(name, array)
            self.nodes.append(self.helper.make_node("Constant", [], [name], name=name, value=tensor))
            self.constants[key] = name
        return self.constants[key]

    def tensor(self, name: str, array: Array) -> Any:
        """Return an array as a message of the file: its bytes as they are."""
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        kind = self.kind(array.dtype)
        return self.helper.make_tensor(name, kind, array.shape, little.tobytes(), raw=True)

    def kind(self, dtype: np.dtype[Any]) -> int:
        """Return ONNX's number for a dtype."""
        return int(self.helper.np_dtype_to_tensor_dtype(dtype.newbyteorder("=")))

    def number(self, value: float) -> Array:
        """Return a number of the network's dtype."""
        return np.asarray(value, self.dtype)


def ints(*values: int) -> Array:
    """Return a vector as ONNX wants axes and shapes."""
    return np.array(values, np.int64)


def spread(value: Any, axes: int) -> tuple[int, ...]:
    """Return an attribute, one number for all axes or one for each, as a tuple."""
    return tuple(map(int, value)) if isinstance(value, (tuple, list)) else (int(value),) * axes


Rule = Callable[..., str]  # of the graph, the result's shape, the inputs, and attributes by name
