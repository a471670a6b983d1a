"""Recomputation in the place of memory: a part of a program is run again when backward needs it.

Of a network of n layers cut into parts of k, backward finds the n / k arrays between the parts and, one part
at a time, the k arrays inside it: about 2 sqrt(n) arrays at once where a plain tape holds n, for one more
forward pass. Chen et al., Training Deep Nets with Sublinear Memory Cost, arXiv:1604.06174, 2016.
"""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from nnkernels.autograd.dual import Dual
from nnkernels.autograd.tape import Node, nodes_to, now, recording, recording_is_on
from nnkernels.autograd.tensor import Tensor, branch, carry_back
from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.ops.op import Body

Generators = np.random.Generator | Sequence[np.random.Generator]


def checkpoint(f: Callable[..., Any], *x: Any, rng: Generators = ()) -> Tensor:
    """Return f(*x), a Tensor, without keeping what f computes in between; backward runs f once more.

    Gradients are those of f(*x) itself, also for parameters that f uses but is not given. f must compute the
    same when it runs again: the generators that it draws from (dropout's) are given as ``rng`` and put back
    for that run. Raises TypeError unless f returns a Tensor; backward raises RuntimeError where f computes
    something else the second time. Batch norm moves its running statistics at each of the two runs.

    >>> w = Tensor(np.ones(3), requires_grad=True)
    >>> checkpoint(lambda x: (x * w).sin(), np.zeros(3)).sum().backward()
    >>> w.grad
    tensor([0., 0., 0.], dtype=float64)
    """
    generators = (rng,) if isinstance(rng, np.random.Generator) else rng
    if not isinstance(generators, (tuple, list)) or not all(
        isinstance(g, np.random.Generator) for g in generators
    ):
        raise TypeError(f"checkpoint: rng must be a numpy.random.Generator, or a list of them, got {rng!r}")
    states = [deepcopy(g.bit_generator.state) for g in generators]
    if not recording_is_on():
        return demanded(f(*x))
    start = now()
    twins = [t.as_leaf() if isinstance(t, Tensor) and t.requires_grad else t for t in x]
    y = demanded(f(*twins))
    if isinstance(y, Dual) and y.recorded:  # its tangent leads back to f's own steps: they must stay
        for g, state in zip(generators, states):
            g.bit_generator.state = state
        return demanded(f(*x))
    captured = outside(y, twins, start) if y.requires_grad else []
    inputs = (*x, *captured)
    needs = tuple(isinstance(t, Tensor) and t.requires_grad for t in inputs)
    if not y.requires_grad:
        return y

    def again(dy: Tensor, which: tuple[bool, ...], create_graph: bool) -> tuple[Any, ...]:
        drawn = [deepcopy(g.bit_generator.state) for g in generators]
        given = [branch(t) if need else t for t, need in zip(x, needs)]
        try:
            for g, state in zip(generators, states):
                g.bit_generator.state = deepcopy(state)
            with recording(True):
                result = demanded(f(*given))
        finally:
            for g, state in zip(generators, drawn):
                g.bit_generator.state = state
        if not np.array_equal(result.data, y_data, equal_nan=True):
            raise RuntimeError(
                "backward: a function given to checkpoint computed something else when it was run again; "
                "where it draws random numbers, as dropout does, give checkpoint its generator as rng="
            )
        wanted = [t for t, need in zip((*given, *captured), which) if need]
        found = iter(carry_back(result, dy, wanted, create_graph=create_graph, apart=True))
        return tuple([next(found) if need else None for need in which])

    def backward(
        dy: Array, outputs: tuple[Array], arrays: tuple[Any, ...], which: tuple[bool, ...]
    ) -> tuple[Array | None, ...]:
        return tuple([None if t is None else t.data for t in again(Tensor(dy), which, False)])

    def gradient(
        op: Any, dy: Tensor, outputs: tuple[Array], given: tuple[Any, ...], which: tuple[bool, ...]
    ) -> tuple[Any, ...]:
        return again(dy, which, recording_is_on())

    y_data = y.data
    op = replace(OPS["neg"], name="checkpoint", gradient=gradient, flops=lambda *_, **__: 0, mutants=())
    node = Node(op, Body(op.tuned.forward, backward), inputs, (), {}, (y_data,), needs)
    if isinstance(y, Dual):
        return Dual(y_data, y.tangent, True, node, y.recorded)
    return Tensor(y_data, True, node)


def demanded(y: Any) -> Tensor:
    """Return y, which must be a Tensor."""
    if not isinstance(y, Tensor):
        raise TypeError(f"checkpoint: f must return a Tensor, got {type(y).__name__}")
    return y


def outside(y: Tensor, twins: Sequence[Any], start: int) -> list[Tensor]:
    """Return the tensors that y depends on and f was not given: those made before ``start``, and leaves."""
    captured: dict[int, Tensor] = {}
    given = {id(t) for t in twins}
    if id(y) not in given and (y.node is None or y.node.number < start):
        return [y]
    for node in nodes_to(y):
        if node.number > start:
            for t, need in zip(node.inputs, node.needs):
                if need and id(t) not in given and (t.node is None or t.node.number < start):
                    captured[id(t)] = t
    return list(captured.values())
