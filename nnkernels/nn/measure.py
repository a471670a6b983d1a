"""How long a network's layers take and how much memory its passes need, beside what the machine allows.

The network runs as it always does, while ``forward`` of each layer and backward of each recorded call are
timed from outside. So layers find the caches, buffers and fused relus of a real pass, and with what happens
outside of layers their times add up to the whole. Noting a call adds about a microsecond to it.
"""

import gc
import tracemalloc
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from operator import attrgetter
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from nnkernels.autograd import Tensor
from nnkernels.autograd.tape import Node, now, recording, walk
from nnkernels.autograd.tensor import KERNELS
from nnkernels.machine import memory
from nnkernels.machine.arrays import overwrite
from nnkernels.machine.memory import Array
from nnkernels.machine.threads import get_num_threads
from nnkernels.nn.module import Module
from nnkernels.nn.roofline import NONE, Limits, Work, backward_work, limits

RUNS, SECONDS = 5, 0.25  # timed runs of each pass: at least so many, and for so long

Key = tuple[str, int]  # a layer's name, and the how many-th of its calls
REST: Key = ("(functions)", 0)  # what happens outside of layers
Gradients = tuple[Array | None, ...]


class Call(NamedTuple):
    """A layer's call: the nodes that it recorded have numbers between first and last."""

    name: str
    seconds: float
    first: int
    last: int
    shape: tuple[int, ...]  # of the output


class Span(NamedTuple):
    """A node's share of backward; its work is counted once, not in timed runs."""

    number: int
    seconds: float
    work: Work


class Run(NamedTuple):
    """A pass of the whole network, forward and perhaps back: its seconds, layers' calls, nodes' shares."""

    forward: float
    backward: float
    calls: list[Call]
    spans: list[Span]


@dataclass(frozen=True)
class Whole:
    """What was measured of a whole network: median seconds, and the most bytes that arrays held at once.

    ``inference`` is a pass in evaluation without recording, ``training`` one in training, forward and back.
    The bytes are those of parameters, buffers, input, activations, gradients and kernels' workspaces.
    """

    inference_seconds: float
    training_seconds: float
    inference_bytes: int
    training_bytes: int
    limits: Limits


class Measured(NamedTuple):
    """What was measured of a network and its layers; shapes, as backward's work, are those in training."""

    whole: Whole
    backward_seconds: float
    forward: dict[Key, float]
    backward: dict[Key, float]
    backward_work: dict[Key, Work]
    shapes: dict[Key, tuple[int, ...]]


def measured(model: Module, x: Array) -> Measured:
    """Return what an inference pass and a training pass (forward and backward) of ``model`` on ``x`` take."""
    threads, dtype = get_num_threads(), x.dtype.name
    resting = x.nbytes + sum(p.data.nbytes for p in model.parameters())
    resting += sum(buffer.nbytes for _, buffer in model.named_buffers())
    limits(threads, dtype)
    with timed_layers(model) as calls:
        model.eval()
        infer(model, x, calls)  # compiles
        inference_bytes = peak_bytes(lambda: infer(model, x, calls))
        inference = repeated(lambda: infer(model, x, calls))
        model.train()
        counted = train(model, x, calls, count=True)
        training_bytes = peak_bytes(lambda: train(model, x, calls))
        training = repeated(lambda: train(model, x, calls))
    whole = Whole(
        median(run.forward for run in inference),
        median(run.forward + run.backward for run in training),
        resting + inference_bytes,
        resting + training_bytes,
        limits(threads, dtype),
    )
    return Measured(
        whole,
        median(run.backward for run in training),
        medians([forward_times(run) for run in inference]),
        medians([backward_times(run) for run in training]),
        {key: sum_of(spans) for key, spans in by_layer(counted).items()},
        {key: call.shape for key, call in zip(keys(counted.calls), counted.calls)},
    )


def repeated(run: Callable[[], Run]) -> list[Run]:
    """Return what ``run`` does again and again, after one for the pool to fill."""
    run()
    runs: list[Run] = []
    end = perf_counter() + SECONDS
    while len(runs) < RUNS or perf_counter() < end:
        runs.append(run())
    return runs


# --- one pass ---


def infer(model: Module, x: Array, calls: list[Call]) -> Run:
    """Run the network without recording."""
    calls.clear()
    with recording(False):
        start = perf_counter()
        model(Tensor(x))
        seconds = perf_counter() - start
    return Run(seconds, 0.0, list(calls), [])


def train(model: Module, x: Array, calls: list[Call], count: bool = False) -> Run:
    """Run the network forward and, from a random cotangent, back.

    As in training there is no gradient for the network's input, unless there is nothing else to differentiate
    by.
    """
    calls.clear()
    model.zero_grad()
    spans: list[Span] = []

    def pull_back(node: Node, dy: Array, needs: tuple[bool, ...]) -> Gradients:
        start = perf_counter()
        gradients = node.pull_back(dy, needs)
        seconds = perf_counter() - start
        spans.append(Span(node.number, seconds, backward_work(node, dy, gradients) if count else NONE))
        return gradients

    given = Tensor(x, requires_grad=not any(p.requires_grad for p in model.parameters()))
    with recording(True):
        start = perf_counter()
        y = model(given)
        forward = perf_counter() - start
        y = total(y)
    noted = list(calls)  # what a checkpoint runs again in backward does not count
    if y is None:
        return Run(forward, 0.0, noted, [])
    dy = [np.asarray(np.random.default_rng(0).standard_normal(y.shape, y.dtype))]
    start = perf_counter()
    walk(y, dy.pop(), KERNELS._replace(pull_back=pull_back), None, False)  # which lets go of it on the way
    return Run(forward, perf_counter() - start, noted, spans)


def total(y: Any) -> Tensor | None:
    """Return a network's output; of several, the sum of all elements. None where no gradient is needed."""
    outputs = [t for t in tensors_in(y) if t.requires_grad]
    if len(outputs) < 2:
        return outputs[0] if outputs else None
    both: Tensor = sum((t.sum() for t in outputs[1:]), start=outputs[0].sum())
    return both


def tensors_in(y: Any) -> Iterator[Tensor]:
    """Yield a Tensor, or those in nested tuples and lists."""
    if isinstance(y, Tensor):
        yield y
    elif isinstance(y, (tuple, list)):
        for part in y:
            yield from tensors_in(part)


# --- by layer ---


def keys(calls: list[Call]) -> list[Key]:
    """Return the calls' keys."""
    seen: Counter[str] = Counter()
    found = []
    for call in calls:
        found.append((call.name, seen[call.name]))
        seen[call.name] += 1
    return found


def by_layer(run: Run) -> dict[Key, list[Span]]:
    """Return what each layer's nodes did in backward; REST has what other nodes did."""
    names, found = keys(run.calls), defaultdict(list)
    for span in run.spans:
        i = bisect(run.calls, span.number, key=attrgetter("first")) - 1
        inside = i >= 0 and span.number < run.calls[i].last
        found[names[i] if inside else REST].append(span)
    return found


def forward_times(run: Run) -> dict[Key, float]:
    """Return each layer's seconds forward, and what is left of the whole."""
    return with_rest(dict(zip(keys(run.calls), (call.seconds for call in run.calls))), run.forward)


def backward_times(run: Run) -> dict[Key, float]:
    """Return each layer's seconds backward, and what is left of the whole."""
    layers = {key: sum(s.seconds for s in spans) for key, spans in by_layer(run).items() if key != REST}
    return with_rest(layers, run.backward) if run.spans else {}


def with_rest(seconds: dict[Key, float], whole: float) -> dict[Key, float]:
    """Return the layers' seconds with what is left of the whole."""
    return {**seconds, REST: max(whole - sum(seconds.values()), 0.0)}


def medians(times: list[dict[Key, float]]) -> dict[Key, float]:
    """Return the median of each key, over the runs that have it."""
    present = dict.fromkeys(key for each in times for key in each)
    return {key: median(each[key] for each in times if key in each) for key in present}


def sum_of(spans: list[Span]) -> Work:
    """Return the work of several nodes."""
    return Work(sum(s.work.flops for s in spans), sum(s.work.bytes for s in spans))


# --- from outside ---


def layers(model: Module) -> dict[Module, str]:
    """Return the modules without modules below them, each with its first name."""
    named: dict[Module, str] = {}
    for name, module in model.named_modules():
        if not list(module.children()):
            named.setdefault(module, name)
    return named


@contextmanager
def timed_layers(model: Module) -> Iterator[list[Call]]:
    """Note each call of a module without modules below it; its container may call ``forward`` itself."""
    calls: list[Call] = []
    named = layers(model)
    own = {module: vars(module)["forward"] for module in named if "forward" in vars(module)}
    try:
        for module, name in named.items():
            object.__setattr__(module, "forward", timed(name, module.forward, calls))
        yield calls
    finally:
        for module in named:
            if module in own:
                object.__setattr__(module, "forward", own[module])
            else:
                vars(module).pop("forward", None)


def timed(name: str, forward: Callable[..., Any], calls: list[Call]) -> Callable[..., Any]:
    """Return a function that calls ``forward`` and notes the call."""

    def call(*inputs: Any, **options: Any) -> Any:
        first, start = now(), perf_counter()
        y = forward(*inputs, **options)
        calls.append(Call(name, perf_counter() - start, first, now(), shape_of(y)))
        return y

    return call


def shape_of(y: Any) -> tuple[int, ...]:
    """Return the shape of a module's output, of the first one where there are several."""
    while isinstance(y, tuple):
        y = y[0]
    shape: tuple[int, ...] = y.shape
    return shape


@contextmanager
def left_alone(model: Module) -> Iterator[None]:
    """Put modes, gradients, buffers and random generators of the modules back at the end."""
    modules = list(model.modules())
    modes = [(m, m.training) for m in modules]
    gradients = [(p, p.grad) for p in model.parameters()]
    buffers = [(m, name, array, array.copy()) for m in modules for name, array in m._buffers.items()]
    generators = [g for m in modules for g in vars(m).values() if isinstance(g, np.random.Generator)]
    states = [deepcopy(g.bit_generator.state) for g in generators]
    try:
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p, gradient in gradients:
            p.grad = gradient
        for m, name, array, before in buffers:
            overwrite(array, before)
            setattr(m, name, array)
        for g, state in zip(generators, states):
            g.bit_generator.state = state


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most bytes that ``run`` holds at once, beyond what is there before.

    NumPy's, as tracemalloc sees them, with Python's objects: about a kilobyte for each recorded call. Blocks
    of the pool count while they are in use: it keeps none meanwhile.
    """
    most, tracing = memory.MAX_HELD_BYTES, tracemalloc.is_tracing()
    memory.empty_cache()
    memory.MAX_HELD_BYTES = 0
    gc.collect()
    if not tracing:
        tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        run()
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        memory.MAX_HELD_BYTES = most
        if not tracing:
            tracemalloc.stop()
