"""Networks for inference: batch normalisation folded into convolutions, relu into the same pass over memory.

In evaluation a batch normalisation is y_k = s_k (x_k - m_k) + b_k with fixed s_k = w_k / sqrt(v_k + eps). A
convolution before it can do that by itself, with filters s_k w[k] and bias s_k (c_k - m_k) + b_k.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from nnkernels.autograd.tape import no_grad
from nnkernels.autograd.tensor import array_of
from nnkernels.machine.arrays import move, side
from nnkernels.machine.memory import Array
from nnkernels.nn.module import Module
from nnkernels.nn.program import Call, Program, Value, program_of
from nnkernels.ops.validate import is_array

LAYERS = ("conv1d", "conv2d", "conv3d", "linear")  # of (x, weight (out, ...), bias), with activation="relu"
Join = Callable[[Call, Call], Call | None]


class Inference:
    """A network's programs, one for each shape and dtype of input, made when such an input first comes.

    Call it like the network. ``programs`` are the lists of calls.
    """

    def __init__(self, model: Module) -> None:
        self.model = copy.deepcopy(model).eval()
        self.programs: dict[tuple[tuple[int, ...], np.dtype[Any]], Program] = {}

    def __call__(self, x: Any) -> Any:
        """Return what the network returns in evaluation, for an array or a Tensor."""
        x = array_of(x)
        if not is_array(x):
            raise TypeError(f"optimize_for_inference: x must be an array or a Tensor, got {type(x).__name__}")
        key = x.shape, x.dtype
        if key not in self.programs:
            self.programs[key] = prepare(fuse_relu(fold_batch_norm(program_of(self.model, x))))
        with no_grad():
            return self.programs[key](x)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{shape}: {len(p.calls)} calls" for (shape, _), p in self.programs.items())
        return f"Inference({type(self.model).__name__}{', ' + sizes if sizes else ''})"


def optimize_for_inference(model: Module) -> Inference:
    """Return a function that computes what ``model`` does in evaluation, faster, without gradients.

    Batch normalisation is folded into the convolution or linear layer before it, relu is computed by the
    layer before it, and filters are brought into the form that their method wants. The weights are those of
    this moment: training the model further does not change what is returned here. A network is recorded on
    its first input of each shape; one whose forward depends on the input's values raises ValueError then.

    >>> from nnkernels import nn
    >>> net = nn.Sequential(nn.Conv2d(1, 4, 3, rng=0), nn.BatchNorm2d(4), nn.ReLU())
    >>> fast = optimize_for_inference(net)
    >>> y = fast(np.ones((1, 1, 5, 5), np.float32))
    >>> [call.op.name for call in fast.programs[(1, 1, 5, 5), np.dtype("float32")].calls]
    ['conv2d']
    """
    if not isinstance(model, Module):
        raise TypeError(f"optimize_for_inference: model must be a Module, got {type(model).__name__}")
    return Inference(model)


def fold_batch_norm(program: Program) -> Program:
    """Return the program without batch normalisations of what a layer alone computes."""

    def fold(layer: Call, norm: Call) -> Call | None:
        constant = not any(isinstance(t, Value) for t in (*layer.inputs[1:], *norm.inputs[1:]))
        channels_last = layer.op.name == "linear" and len(layer.shape) > 2
        if norm.op.name != "batch_norm_inference" or layer.activation or channels_last or not constant:
            return None
        weight, bias = folded(layer.inputs[1], layer.inputs[2], norm.inputs[1:], norm.attributes["eps"])
        return replace(layer, inputs=(layer.inputs[0], weight, bias))

    return joined(program, fold)


def folded(weight: Array, bias: Array | None, statistics: tuple[Any, ...], eps: float) -> tuple[Array, Array]:
    """Return the weight and bias of the layer with its normalisation; computed in float64."""
    mean, var = map(in_double, statistics[:2])
    scale, shift = (default if a is None else in_double(a) for a, default in zip(statistics[2:], (1.0, 0.0)))
    s = scale / np.sqrt(var + eps)
    b = s * ((0.0 if bias is None else in_double(bias)) - mean) + shift
    w = in_double(weight) * s.reshape(-1, *[1] * (weight.ndim - 1))
    return move(w.astype(weight.dtype), side(weight)), move(b.astype(weight.dtype), side(weight))


def in_double(a: Array) -> Any:
    """Return a copy in host memory, float64."""
    return move(a, "cpu").astype(np.float64)


def fuse_relu(program: Program) -> Program:
    """Return the program with relu computed by the layers before it."""

    def fuse(layer: Call, relu: Call) -> Call | None:
        if relu.op.name != "relu" or layer.activation:
            return None
        return replace(layer, attributes=layer.attributes | {"activation": "relu"})

    return joined(program, fuse)


def prepare(program: Program) -> Program:
    """Return the program with what constants decide done: filters in the form that is multiplied."""
    calls = []
    for call in program.calls:
        first, *others = call.inputs
        prepared = None
        if call.op.prepare_constants and isinstance(first, Value) and all(map(is_on_host, others)):
            prepared = call.op.prepare_constants(program.shape_of(first), *others, **call.attributes)
        calls.append(replace(call, prepared=prepared))
    return replace(program, calls=tuple(calls))


def is_on_host(t: Any) -> bool:
    """Return whether an input is a constant in host memory, or none."""
    return t is None or isinstance(t, np.ndarray)


def joined(program: Program, join: Join) -> Program:
    """Return the program with ``join(layer, after)`` in the place of two calls, where that is a call.

    ``layer`` is one of LAYERS, and nothing but ``after`` reads its result.
    """
    uses = program.uses()
    calls: list[Call] = []
    place = {Value(0): Value(0)}  # where the old program's values are in the new one
    for number, old in enumerate(program.calls, 1):
        call = replace(old, inputs=tuple(place.get(t, t) if isinstance(t, Value) else t for t in old.inputs))
        first, together = old.inputs[0], None
        if isinstance(first, Value) and first.number > 0 and uses[first] == 1:
            at = place[first].number - 1
            together = join(calls[at], call) if calls[at].op.name in LAYERS else None
        if together is None:
            calls.append(call)
            place[Value(number)] = Value(len(calls))
        else:
            calls[at] = together
            place[Value(number)] = place[first]
    return program.moved(calls, place)
