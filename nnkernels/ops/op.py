"""The record of one operation: one formula, several bodies, and what tests and benchmarks need to know."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from nnkernels.machine.gpu import adopt
from nnkernels.machine.gpu_array import GpuArray, shares_memory
from nnkernels.machine.memory import Array, as_kernel_array

BodyName = Literal["loops", "vectorized", "tuned", "cuda"]
CPU_BODIES: tuple[BodyName, ...] = ("loops", "vectorized", "tuned")

_backend: ContextVar[BodyName] = ContextVar("backend", default="tuned")


@contextmanager
def use_backend(name: BodyName) -> Iterator[None]:
    """Run NumPy arrays through the body ``name`` inside the ``with`` block.

    >>> import numpy as np
    >>> from nnkernels.ops import OPS
    >>> with use_backend("loops"):
    ...     OPS["add"](np.float32([1, 2]), np.float32([3, 4]))
    array([4., 6.], dtype=float32)
    """
    if name not in CPU_BODIES:
        raise ValueError(f"backend must be one of {', '.join(CPU_BODIES)}, got {name!r}")
    token = _backend.set(name)
    try:
        yield
    finally:
        _backend.reset(token)


class Body(NamedTuple):
    """One algorithm for an op.

    ``forward(*arrays, **attributes)`` returns a tuple: the result, then whatever ``backward`` wants kept
    (the same in every body). ``backward(grad_output, outputs, inputs, needs, **attributes)`` returns one
    gradient per input, None where ``needs`` (one bool per input) does not ask. Bodies do not check their
    arguments: they are called with C-contiguous native arrays that the op's ``check`` has accepted.
    """

    forward: Callable[..., tuple[Any, ...]]
    backward: Callable[..., tuple[Any, ...]] | None = None


class Sample(NamedTuple):
    """Arguments of one call: what tests, benchmarks and checks feed to every body."""

    label: str
    arrays: tuple[Array | None, ...]
    attributes: dict[str, Any] = {}  # noqa: RUF012 (a NamedTuple's default; never written)


class BadInput(NamedTuple):
    """Arguments that must raise ``error`` with ``words`` in the message."""

    error: type[Exception]
    words: str
    arrays: tuple[Any, ...]
    attributes: dict[str, Any] = {}  # noqa: RUF012


class Mutant(NamedTuple):
    """A planted fault: in ``file``, the text ``old`` (which occurs once) becomes ``new``.

    The fault sits in the body ``body``; the op's checks must notice it. ``file`` is relative to ``ops/``.
    """

    name: str
    body: BodyName
    file: str
    old: str
    new: str


MOST_ACCEPTED = 1000  # signatures remembered per op
PLAIN = {int, float, bool, str, type(None)}  # attributes that one can remember, and tuples of NUMBERS
NUMBERS = frozenset({int, float})


def signature(arrays: Sequence[Any], attributes: Mapping[str, Any], counter: str | None = None) -> Any:
    """Return what ``check`` looks at, hashable; None where something is not a plain array or number.

    Types count, since 1, 1.0 and True are one key to Python. The attribute ``counter`` does not.
    """
    key: list[Any] = []
    for a in arrays:
        if type(a) is np.ndarray:
            key += (a.shape, a.dtype.char)
        elif a is None:
            key.append(None)
        elif type(a) is GpuArray:
            key += (a.shape, a.dtype.char, a.device)
        else:
            return None
    for name, value in attributes.items():
        kind: Any = type(value)
        if kind is tuple:
            kind = tuple(map(type, value))
            if not NUMBERS.issuperset(kind):
                return None
        elif kind not in PLAIN:
            return None
        if name != counter:
            key += (name, kind, value)
    return tuple(key)


def any_on_gpu(arrays: Sequence[Any]) -> bool:
    """Return whether any of the arrays is on a GPU."""
    return GpuArray in map(type, arrays)


@dataclass(frozen=True, eq=False)
class Op:
    """One formula with its bodies; call it with NumPy arrays or Tensors.

    ``check`` validates what types, shapes and attributes decide; a call like one that has passed is not
    checked again. ``check_values`` is for what the numbers decide (labels in range), at every call, and for
    the attribute ``counter``, which is another at every call.
    ``constants`` are the positions of inputs that have no gradient (labels); ``inplace`` the positions that
    an update step overwrites. ``inputs`` is the number of arrays of a full call, where the last may be left
    out. ``samples(rng, dtype)`` yields small inputs that every body must pass, ``bench_samples`` sizes worth
    timing (the first takes a few milliseconds at most). ``flops(*arrays, **attributes)`` counts one forward
    call. ``jvp(tangents, outputs, inputs, **attributes)`` returns the derivative along ``tangents`` (one per
    input, None for zero). ``gradient`` is the backward pass written in ops, for derivatives of derivatives
    (see gradients.py). ``explain(*shapes, **attributes)`` says for each pass which of several methods the
    tuned body takes, and why; None where it has only one. ``prepare_constants(shape, *others, **attributes)``
    is for many calls that differ in the first input alone, of that shape: it returns the tuned forward pass
    as a function of this input, or None where nothing can be computed beforehand.
    """

    name: str
    loops: Body
    vectorized: Body
    tuned: Body
    check: Callable[..., None]
    samples: Callable[[np.random.Generator, Any], Iterator[Sample]]
    bad_inputs: Callable[[], Iterator[BadInput]]
    bench_samples: Callable[[np.random.Generator, Any], Iterator[Sample]]
    flops: Callable[..., int]
    check_values: Callable[..., None] | None = None
    counter: str | None = None
    jvp: Callable[..., Array] | None = None
    gradient: Callable[..., tuple[Any, ...]] | None = None
    cuda: Body | None = None
    constants: frozenset[int] = frozenset()
    inplace: tuple[int, ...] = ()
    inputs: int = 0
    mutants: tuple[Mutant, ...] = ()
    # What the four bodies are compared with, in units of the dtype's rounding error; sums of many terms
    # in another order differ by more than single operations do.
    tolerance: float = 64.0
    accepted: set[Any] = field(default_factory=set, repr=False)  # signatures of calls that have passed
    explain: Callable[..., dict[str, str]] | None = None
    prepare_constants: Callable[..., Callable[[Array], Array] | None] | None = None

    def __call__(self, *arrays: Any, **attributes: Any) -> Any:
        """Return the op's result: an array for arrays, a Tensor where any input is one."""
        for a in arrays:
            if hasattr(a, "apply_op"):
                return a.apply_op(self, arrays, attributes)
        prepared = self.prepare(arrays, attributes)
        outputs = self.body_for(prepared).forward(*prepared, **attributes)
        return outputs if len(self.inplace) > 1 else outputs[0]

    def prepare(self, arrays: Sequence[Any], attributes: Mapping[str, Any]) -> tuple[Array | None, ...]:
        """Return the arrays as kernels want them, after checking them and the attributes."""
        key = signature(arrays, attributes, self.counter)
        if key is None or key not in self.accepted:
            arrays = self.on_one_device(arrays)
            try:
                self.check(*arrays, **attributes)
            except TypeError as error:
                # A wrong call is named after the op, not after the function that happens to check it.
                raise TypeError(re.sub(r"^\S*\(\)", f"{self.name}()", str(error))) from None
            if len(self.accepted) > MOST_ACCEPTED:
                self.accepted.clear()
            if key is not None:
                self.accepted.add(key)
        # Values are not looked at on a GPU, where reading numbers is a copy and a wait.
        if self.check_values is not None and (self.counter is not None or not any_on_gpu(arrays)):
            self.check_values(*arrays, **attributes)
        for i in self.inplace:
            a = arrays[i] if i < len(arrays) else None
            if type(a) is np.ndarray and not (a.flags.carray and a.dtype.isnative):
                raise ValueError(
                    f"{self.name}: input {i} is updated in place: it must be writable, "
                    "C-contiguous and in native byte order"
                )
        return tuple([None if a is None else as_kernel_array(a) for a in arrays])  # a list: 0.2 us less

    def on_one_device(self, arrays: Sequence[Any]) -> Sequence[Any]:
        """Return the arrays, those on a GPU as GpuArrays; ValueError where they are on several devices."""
        places: dict[Any, int] = {}
        found = []
        for i, a in enumerate(arrays):
            foreign = not isinstance(a, (np.ndarray, GpuArray)) and hasattr(a, "__cuda_array_interface__")
            a = adopt(a) if foreign else a
            found.append(a)
            if isinstance(a, GpuArray):
                places.setdefault(a.device.name, i)
            elif isinstance(a, np.ndarray):
                places.setdefault("cpu", i)
        if len(places) > 1:
            (one, i), (other, j) = list(places.items())[:2]
            raise ValueError(
                f"{self.name}: all arrays must be on one device, got input {i} on {one} and input {j} on "
                f'{other}; move one by to("cpu") or to("cuda")'
            )
        return found

    def body(self, name: BodyName) -> Body:
        """Return the body ``name``; a missing one raises NotImplementedError, nothing falls back."""
        body: Body | None = getattr(self, name)
        if body is None:
            raise NotImplementedError(
                f"{self.name} has no {name} body yet; its bodies are {', '.join(CPU_BODIES)}"
            )
        return body

    def body_for(self, arrays: tuple[Any, ...]) -> Body:
        """Return the body for prepared arrays: the chosen CPU body for NumPy's, ``cuda`` for a GPU's."""
        for a in arrays:
            if type(a) is GpuArray:
                return self.body("cuda")
        return self.body(_backend.get())

    def bytes(self, inputs: tuple[Array | None, ...], output: Array) -> int:
        """Return the least number of bytes a forward call moves: inputs read once, output written once."""
        if self.inplace:
            read_and_written = [*inputs, *(inputs[i] for i in self.inplace if i < len(inputs))]
            return sum(a.nbytes for a in read_and_written if a is not None)
        if any(a is not None and shares_memory(a, output) for a in inputs):
            return 0  # a view
        return sum(a.nbytes for a in inputs if a is not None) + output.nbytes
