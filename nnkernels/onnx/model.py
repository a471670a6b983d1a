"""A network as an ONNX model: recorded, said in ONNX's operators, checked, written."""

import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from nnkernels.autograd.tensor import array_of
from nnkernels.io.files import replacing
from nnkernels.machine.arrays import move, side
from nnkernels.nn.module import Module
from nnkernels.nn.program import Program, program_of
from nnkernels.onnx.writer import Writer
from nnkernels.ops.validate import is_array

LARGEST = 2**31 - 2**20  # bytes of weights: a file of this kind ends at 2 GiB
RECURRENT = ("rnn", "lstm", "gru")


def export(model: Module, x: Any, path: str | os.PathLike[str], *, dynamic_batch: bool | None = None) -> None:
    """Write what ``model`` does in evaluation to ``path``, a name that ends in .onnx, for opset 17.

    x is an example of the input; or a tuple of all that forward is given, whose arrays and Tensors become
    inputs, and all else (a sparse matrix, an initial state as a tuple) constants. Their shapes are fixed, but
    for the first axis of x, and of the inputs as long there: where the network can do with any length of it,
    it is called "N". ``dynamic_batch=True`` makes it an error if it cannot, False keeps the length of x.

    Inputs are called as forward's parameters, the result y, and y_0, y_1 ... where there are more. All
    parameters and buffers are stored under the keys of ``state_dict``, used or not; `io.load` reads them.
    The file has passed ``onnx.checker`` before it takes its place, and replaces an older one in one step.

    Raises ModuleNotFoundError without the extra ``onnx``; TypeError for a model that is no Module or an x
    that is no array; ValueError for an op that has no rule (the message names it and those that have), for a
    network whose way depends on the input's values, and for weights of 2 GiB and more.

    >>> import tempfile
    >>> from nnkernels import io, nn
    >>> path = tempfile.mkdtemp() + "/line.onnx"
    >>> export(nn.Linear(3, 2, rng=0), np.zeros((1, 3), np.float32), path)
    >>> {key: w.shape for key, w in io.load(path).items()}
    {'weight': (2, 3), 'bias': (2,)}
    """
    if not isinstance(model, Module):
        raise TypeError(f"export: model must be a Module, got {type(model).__name__}")
    path = Path(path)
    if path.suffix.lower() != ".onnx":
        raise ValueError(f"{path}: wanted a name that ends in .onnx")
    arguments = [array_of(a) for a in (x if type(x) is tuple else (x,))]
    if not arguments or not is_array(arguments[0]):
        found = type(arguments[0]).__name__ if arguments else "an empty tuple"
        raise TypeError(f"export: x must be an array, a Tensor, or a tuple that begins with one, got {found}")
    onnx = package()
    proto = model_proto(onnx, model, arguments, dynamic_batch)
    with replacing(path) as temporary:
        temporary.write_bytes(proto.SerializeToString())
        try:
            onnx.checker.check_model(os.fspath(temporary), full_check=True)
        except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
            raise ValueError(f"export: {type(model).__name__} gives no valid ONNX model: {error}") from error


def package() -> ModuleType:
    """Return the package onnx."""
    try:
        import onnx
        import onnx.checker
        import onnx.helper
        import onnx.shape_inference
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            'ONNX files need the package onnx: pip install "nnkernels[onnx]"', name="onnx"
        ) from error
    return onnx


# --- which lengths differ with the batch ---


def model_proto(onnx: ModuleType, model: Module, arguments: list[Any], dynamic: bool | None) -> Any:
    """Return the model, with a batch of any length where that is wanted and possible."""
    name = type(model).__name__
    if (size := sum(a.nbytes for _, a in model._named_arrays())) > LARGEST:
        raise ValueError(f"export: {name} has {size} bytes of weights, an ONNX file holds {LARGEST}")
    program = program_of(model, *arguments)
    if dynamic is not False:
        try:
            longer = program_of(model, *extended(arguments))
            demand_same_way(program, longer)
            return Writer(onnx, model, arguments, program, longer).proto()
        except Exception as error:  # forward may raise anything at a batch that it cannot take
            if dynamic:
                raise ValueError(f"export: {name} does not take batches of any length: {error}") from error
    return Writer(onnx, model, arguments, program, program).proto()


def extended(arguments: list[Any]) -> list[Any]:
    """Return the arguments with one example more, in x and in all arrays that are as long."""
    x = arguments[0]
    if not x.ndim or not len(x):
        raise ValueError(f"x has shape {x.shape}, and no example in it")
    return [
        move(np.concatenate([host := move(a, "cpu"), host[:1]]), side(a))
        if is_array(a) and a.shape[:1] == x.shape[:1]
        else a
        for a in arguments
    ]


def demand_same_way(one: Program, other: Program) -> None:
    """Raise ValueError unless two programs differ in lengths alone."""
    if one.outputs != other.outputs or len(one.calls) != len(other.calls):
        raise ValueError("it takes another way for another number of examples")
    if all(one.shape_of(v) == other.shape_of(v) for v in one.results()):
        raise ValueError("its results do not grow with the number of examples")
    for number, (a, b) in enumerate(zip(one.calls, other.calls), 1):
        where = f"call {number} ({a.op.name})"
        kept = [{k: v for k, v in c.attributes.items() if k != "shape"} for c in (a, b)]
        if a.op is not b.op or kept[0] != kept[1] or len(a.inputs) != len(b.inputs):
            raise ValueError(f"{where} is another for another number of examples")
        if sum(m != n for m, n in zip(a.shape, b.shape)) > 1:
            raise ValueError(f"{where} has more than one length that depends on the number of examples")
        for i, (s, t) in enumerate(zip(a.inputs, b.inputs)):
            if not (same_input(s, t) or (a.op.name in RECURRENT and both_zero(s, t))):
                raise ValueError(f"input {i} of {where} is another for another number of examples")


def same_input(s: Any, t: Any) -> bool:
    """Return whether two calls read the same: one Value, equal arrays, or nothing."""
    if is_array(s) and is_array(t):
        return s is t or np.array_equal(move(s, "cpu"), move(t, "cpu"))
    return bool(s == t) if not is_array(s) and not is_array(t) else False


def both_zero(s: Any, t: Any) -> bool:
    """Return whether both are constants of zeros: first states, which the file need not hold."""
    return is_array(s) and is_array(t) and not move(s, "cpu").any() and not move(t, "cpu").any()
