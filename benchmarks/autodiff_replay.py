"""A recorded step written out as straight-line code: the same kernels in the same order, without the tape.

``Replay`` reads the nodes that a forward pass has left and writes Python functions, a line for each call:

    by_hand      kernels of forward, then of backward, on arrays: gradients as one would write them by hand
    checked      forward through ``Op.__call__`` on arrays: checks, preparation of arrays
    recorded     forward by ops on Tensors, then ``backward``: the tape, but no layers and operators

Differences of their times are what each part costs. Gradients of intermediate results are freed where the
tape frees them. At the end stands an engine of the other extreme, a Python object for every number.
"""

import math
from collections.abc import Callable
from typing import Any

from nnkernels.autograd import Tensor
from nnkernels.autograd.tape import Node, topological_order
from nnkernels.machine.memory import as_kernel_array

Call = Callable[[], Any]


class Replay:
    """The functions written from the graph that leads to ``root``, for the cotangent ``dy``.

    ``forward[kind]`` and ``whole[kind]`` are the functions. ``whole["by_hand"]`` returns the gradients of
    ``leaves`` as arrays, ``whole["recorded"]`` leaves them there. Gradients must arrive C-contiguous at every
    op, since nothing here copies them.
    """

    def __init__(self, root: Tensor, dy: Any, leaves: list[Tensor]) -> None:
        self.leaves = leaves
        order = [t for t in topological_order(root) if t.node is not None]
        self.tensors = order[::-1]  # oldest first
        self.nodes: list[Node] = [t.node for t in self.tensors if t.node is not None]
        self.place = {id(t): k for k, t in enumerate(self.tensors)}
        self.names: dict[str, Any] = {"dy": dy, "as_kernel_array": as_kernel_array}
        self.name_everything()
        by_hand = self.calls("f", "o", "o{}[0]", "x")
        checked = self.calls("op", "y", "y{}", "x")
        recorded = [f"{self.leaf(t)}.grad = None" for t in leaves] + self.calls("op", "y", "y{}", "t")
        ways = {"by_hand": by_hand, "checked": checked, "recorded": recorded}
        self.forward = {kind: self.function(lines) for kind, lines in ways.items()}
        self.whole = {
            "by_hand": self.function(by_hand + self.back()),
            "recorded": self.function([*recorded, f"y{len(self.nodes) - 1}.backward({self.cotangent()})"]),
        }

    def name_everything(self) -> None:
        """Give bodies, ops, attributes, leaves and constant inputs the names that the lines use."""
        self.names |= {f"leaf{i}": leaf for i, leaf in enumerate(self.leaves)}
        for k, node in enumerate(self.nodes):
            self.names |= {f"op{k}": node.op, f"f{k}": node.body.forward, f"b{k}": node.body.backward}
            self.names |= {f"{key}_{k}": value for key, value in node.attributes.items()}
            for i, (given, array) in enumerate(zip(node.inputs, node.arrays or ())):
                if id(given) not in self.place:
                    self.names |= {f"x{k}_{i}": array, f"t{k}_{i}": given}

    def leaf(self, t: Tensor) -> str:
        return f"leaf{[id(leaf) for leaf in self.leaves].index(id(t))}"

    def arguments(self, k: int, result: str, constant: str) -> list[str]:
        """Return the names of node k's inputs: ``result`` with its number, or ``constant`` with both."""
        node, names = self.nodes[k], []
        for i, given in enumerate(node.inputs):
            maker = self.place.get(id(given))
            name = f"{constant}{k}_{i}" if maker is None else result.format(maker)
            if maker is not None and constant == "x":
                prepared = (node.arrays or ())[i] is not self.tensors[maker].data
                name = f"as_kernel_array({name})" if prepared else name
            names.append(name)
        return names

    def attributes(self, k: int) -> list[str]:
        return [f"{key}={key}_{k}" for key in self.nodes[k].attributes]

    def calls(self, callee: str, variable: str, result: str, constant: str) -> list[str]:
        """Return a line for each node that calls what is named ``callee`` with its number."""
        lines = []
        for k in range(len(self.nodes)):
            given = self.arguments(k, result, constant) + self.attributes(k)
            lines.append(f"{variable}{k} = {callee}{k}({', '.join(given)})")
        return lines

    def cotangent(self) -> str:
        return "dy" if self.tensors[-1].size > 1 else ""  # a loss needs none

    def back(self) -> list[str]:
        """Return the lines that call each body's backward and add up gradients."""
        arrived = {id(self.tensors[-1])}
        lines = [f"g{len(self.nodes) - 1} = dy"]
        for k in reversed(range(len(self.nodes))):
            node = self.nodes[k]
            inputs = "".join(f"{name}, " for name in self.arguments(k, "o{}[0]", "x"))
            given = [f"g{k}", f"o{k}", f"({inputs})", repr(node.needs), *self.attributes(k)]
            lines.append(f"d = b{k}({', '.join(given)})")
            for i, parent in enumerate(node.inputs):
                if node.needs[i]:
                    maker = self.place.get(id(parent))
                    name = f"g{maker}" if maker is not None else f"d{self.leaf(parent)}"
                    lines.append(f"{name} = {name} + d[{i}]" if id(parent) in arrived else f"{name} = d[{i}]")
                    arrived.add(id(parent))
            lines.append(f"g{k} = None")
        return [*lines, f"return ({''.join(f'd{self.leaf(t)}, ' for t in self.leaves)})"]

    def function(self, lines: list[str]) -> Call:
        """Compile the lines into a function, whose parameters are what they name: quicker than globals."""
        used = [name for name in self.names if any(name in line for line in lines)]
        head = ", ".join(f"{name}={name}" for name in used)
        namespace = dict(self.names)
        exec("\n    ".join([f"def step({head}):", *lines]), namespace)
        return namespace["step"]  # type: ignore[no-any-return]


class Scalar:
    """A number that remembers how it was made: reverse mode with a Python object for every operation.

    ``parents`` are the numbers it was computed from, ``slopes`` its derivatives by them.

    >>> x = Scalar(3.0)
    >>> operations = (x * x + x).backward()
    >>> x.grad
    7.0
    """

    __slots__ = ("grad", "parents", "slopes", "value")

    def __init__(
        self, value: float, parents: tuple["Scalar", ...] = (), slopes: tuple[float, ...] = ()
    ) -> None:
        self.value, self.grad = value, 0.0
        self.parents, self.slopes = parents, slopes

    def __add__(self, other: "Scalar") -> "Scalar":
        return Scalar(self.value + other.value, (self, other), (1.0, 1.0))

    def __sub__(self, other: "Scalar") -> "Scalar":
        return Scalar(self.value - other.value, (self, other), (1.0, -1.0))

    def __mul__(self, other: "Scalar") -> "Scalar":
        return Scalar(self.value * other.value, (self, other), (other.value, self.value))

    def relu(self) -> "Scalar":
        """Return max(x, 0)."""
        return Scalar(self.value, (self,), (1.0,)) if self.value > 0 else Scalar(0.0, (self,), (0.0,))

    def tanh(self) -> "Scalar":
        """Return the hyperbolic tangent."""
        y = math.tanh(self.value)
        return Scalar(y, (self,), (1 - y * y,))

    def exp(self) -> "Scalar":
        """Return e to the power x."""
        y = math.exp(self.value)
        return Scalar(y, (self,), (y,))

    def log(self) -> "Scalar":
        """Return the natural logarithm."""
        return Scalar(math.log(self.value), (self,), (1 / self.value,))

    def backward(self, dy: float = 1.0) -> int:
        """Add dy d(self)/dx to ``grad`` of every x that self was made from; return how many operations."""
        order: list[Scalar] = []  # each after those it was made from
        seen: set[int] = set()
        todo = [(self, False)]  # a stack of our own: Python's would overflow
        while todo:
            x, parents_done = todo.pop()
            if parents_done:
                order.append(x)
            elif id(x) not in seen:
                seen.add(id(x))
                todo.append((x, True))
                todo += [(parent, False) for parent in x.parents]
        self.grad += dy
        for x in reversed(order):
            for parent, slope in zip(x.parents, x.slopes):
                parent.grad += slope * x.grad
        return sum(len(x.parents) > 0 for x in order)
