"""A program turned into an ONNX model, call by call."""

import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from nnkernels.machine.arrays import move
from nnkernels.nn.module import Module
from nnkernels.nn.program import Call, Program, Value
from nnkernels.onnx.graph import Graph, NoRuleError, Operand
from nnkernels.onnx.rules import RULES
from nnkernels.ops.validate import is_array

OPSET, IR_VERSION = 17, 8  # of 2022: older than most runtimes in use, and with LayerNormalization
INPUTS = ("float32", "float64", "int32", "int64", "bool")


class Writer:
    """``longer`` is the program for one example more: where lengths differ, they belong to the batch.

    It is the program itself where the batch has one length.
    """

    def __init__(
        self, onnx: ModuleType, model: Module, arguments: list[Any], program: Program, longer: Program
    ) -> None:
        self.onnx, self.model = onnx, model
        self.name = type(model).__name__
        self.program, self.longer = program, longer
        self.arrays = dict(zip(program.inputs(), filter(is_array, arguments)))
        self.weights = dict(model._named_arrays())
        self.keys = {id(array): key for key, array in reversed(self.weights.items())}  # a shared one's first
        for i, a in enumerate(self.arrays.values()):
            if a.dtype.name not in INPUTS:
                raise TypeError(f"export: input {i} must be of {', '.join(INPUTS)}, got {a.dtype}")
        floats = [a.dtype for a in (*self.arrays.values(), *self.weights.values()) if a.dtype.kind == "f"]
        names = parameter_names(model)
        self.names = {v: free(next(names), self.weights) for v in self.arrays}
        self.results = self.result_names()
        taken = {*self.weights, *self.names.values(), *self.results}
        self.graph = Graph(onnx.helper, floats[0], taken)

    def result_names(self) -> dict[str, Value]:
        """Return the results' names: y, or y_0, y_1 ..."""
        values = self.program.results()
        stems = ["y"] if len(values) == 1 else [f"y_{i}" for i in range(len(values))]
        return {free(stem, {*self.weights, *self.names.values()}): v for stem, v in zip(stems, values)}

    def proto(self) -> Any:
        """Return the model."""
        helper, g = self.onnx.helper, self.graph
        for number, call in enumerate(self.program.calls, 1):
            self.names[Value(number)] = self.written(Value(number), call)
        self.rename_results()
        inputs = [self.info(self.names[v], v, a.dtype) for v, a in self.arrays.items()]
        outputs = [self.info(name, v, g.dtype) for name, v in self.results.items()]
        weights = [g.tensor(key, move(array, "cpu")) for key, array in self.weights.items()]
        graph = helper.make_graph(g.nodes, self.name, inputs, outputs, initializer=weights)
        opset = helper.make_opsetid("", OPSET)
        return helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="nnkernels"
        )

    def written(self, v: Value, call: Call) -> str:
        """Add the nodes of the call that makes v; return its result's name."""
        op = call.op.name
        if op not in RULES:
            raise ValueError(
                f"export: {self.name} has the op {op}, for which there is no rule; there are rules for "
                f"{', '.join(sorted(RULES))}"
            )
        try:
            return RULES[op](self.graph, self.shape(v), *map(self.operand, call.inputs), **call.attributes)
        except NoRuleError as error:
            raise ValueError(
                f"export: {self.name} has the op {op} in a form without a rule: {error}"
            ) from None

    def operand(self, t: Any) -> Operand | None:
        """Return a call's input as rules read it."""
        if isinstance(t, Value):
            return Operand(self.names[t], self.shape(t))
        return None if t is None else Operand(self.keys.get(id(t), ""), t.shape, move(t, "cpu"))

    def shape(self, v: Value) -> tuple[int, ...]:
        """Return the shape of a value, with -1 for a length that differs with the batch."""
        pairs = zip(self.program.shape_of(v), self.longer.shape_of(v))
        return tuple(m if m == n else -1 for m, n in pairs)

    def info(self, name: str, v: Value, dtype: Any) -> Any:
        """Return the declaration of an input or a result: lengths as numbers, "N" for that of the batch."""
        batch = self.program.shape[:1], self.longer.shape[:1]
        pairs = zip(self.program.shape_of(v), self.longer.shape_of(v))
        lengths = [m if m == n else "N" if ((m,), (n,)) == batch else None for m, n in pairs]
        return self.onnx.helper.make_tensor_value_info(name, self.graph.kind(dtype), lengths)

    def rename_results(self) -> None:
        """Give the nodes whose results are the model's the names of these."""
        g = self.graph
        new: dict[str, str] = {}
        for name, v in self.results.items():
            try:
                old = g.name_of(self.names[v])
            except NoRuleError as error:
                raise ValueError(f"export: {self.name} returns {error}") from None
            if old in new or old not in {output for node in g.nodes for output in node.output}:
                old = g.add("Identity", old)
            new[old] = name
        for node in g.nodes:
            node.input[:] = [new.get(name, name) for name in node.input]
            node.output[:] = [new.get(name, name) for name in node.output]


def free(stem: str, taken: Any) -> str:
    """Return the name, with underscores until it is free."""
    while stem in taken:
        stem += "_"
    return stem


def parameter_names(model: Module) -> Iterator[str]:
    """Yield names for inputs: those of forward's parameters, then x_1, x_2 ..."""
    given = inspect.signature(model.forward).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    yield from (p.name for p in given if p.kind in positional)
    number = 0
    while number := number + 1:
        yield f"x_{number}"
