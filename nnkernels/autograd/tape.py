"""Reverse-mode automatic differentiation on a tape that is written while the program runs.

A ``Tensor`` is an array that remembers how it was made. Each op applied to tensors that need gradients
leaves a ``Node``: the op, its inputs, its outputs. ``backward`` walks the nodes from the result back, each
node after all nodes that use its output, and adds up what arrives (the chain rule over a graph). Ordinary
Python decides what runs: loops and conditionals of the model need no special form.

Baydin et al., Automatic Differentiation in Machine Learning: a Survey, JMLR 18, 2018.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import count
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.machine.memory import Array, as_kernel_array
from nnkernels.ops import OPS
from nnkernels.ops.op import Body, Op

_grad_enabled: ContextVar[bool] = ContextVar("grad_enabled", default=True)
_numbers = count(1)


@contextmanager
def no_grad() -> Iterator[None]:
    """Record nothing inside the ``with`` block: for evaluation and for changing parameters by hand."""
    token = _grad_enabled.set(False)
    try:
        yield
    finally:
        _grad_enabled.reset(token)


class Node:
    """One recorded call: what backward needs, until it has run."""

    __slots__ = ("arrays", "attributes", "body", "inputs", "needs", "number", "op", "outputs")

    def __init__(
        self,
        op: Op,
        body: Body,
        inputs: tuple[Any, ...],
        arrays: tuple[Array | None, ...],
        attributes: Mapping[str, Any],
        outputs: tuple[Array, ...],
        needs: tuple[bool, ...],
    ) -> None:
        self.op = op
        self.body = body
        self.inputs = inputs  # as given: Tensors, arrays, None
        self.arrays: tuple[Array | None, ...] | None = arrays  # None once freed
        self.attributes = attributes
        self.outputs = outputs
        self.needs = needs
        self.number = next(_numbers)  # a node is younger than those that made its inputs

    def parents(self) -> list["Tensor"]:
        """Return the input tensors that need a gradient."""
        return [tensor for tensor, need in zip(self.inputs, self.needs) if need]

    def pull_back(self, dy: Array) -> tuple[Array | None, ...]:
        """Return one gradient per input for the gradient ``dy`` of the output, a kernel array."""
        assert self.body.backward is not None
        return self.body.backward(dy, self.outputs, self.arrays, self.needs, **self.attributes)

    def free(self) -> None:
        """Let go of everything; the node stays as a mark that backward has passed."""
        self.inputs, self.arrays, self.outputs, self.needs = (), None, (), ()


class Tensor:
    """An n-dimensional array that records the ops applied to it.

    ``data`` is the NumPy array, ``grad`` a Tensor after ``backward`` (None before), ``requires_grad`` whether
    gradients flow here, ``node`` the recorded call that made it (None for a leaf).

    >>> x = tensor([2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([4., 6.])
    """

    __array_priority__ = 100  # array + tensor is the tensor's business
    __slots__ = ("__weakref__", "data", "grad", "node", "requires_grad")

    def __init__(self, data: Array, requires_grad: bool = False, node: Node | None = None) -> None:
        self.data = data
        self.requires_grad = requires_grad
        self.node = node
        self.grad: Tensor | None = None

    # --- recording ---

    def apply_op(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> "Tensor":
        """Run ``op`` on the inputs' arrays and record the call; what ``Op.__call__`` does with Tensors."""
        if op.inplace:
            raise TypeError(f"{op.name} overwrites its inputs: give it arrays (tensor.data), not Tensors")
        arrays = op.prepare([t.data if isinstance(t, Tensor) else t for t in inputs], attributes)
        body = op.body_for(arrays)
        outputs = body.forward(*arrays, **attributes)
        if _grad_enabled.get():
            needs = [isinstance(t, Tensor) and t.requires_grad for t in inputs]
            for i in op.constants:
                if i < len(needs):  # weights may be left out
                    needs[i] = False
            if True in needs:
                node = Node(op, body, inputs, arrays, attributes, outputs, tuple(needs))
                return Tensor(outputs[0], True, node)
        return Tensor(outputs[0])

    def backward(self, gradient: Any = None, retain_graph: bool = False) -> None:
        """Add d(self)/d(leaf) to ``grad`` of every leaf that needs it.

        ``gradient`` is the cotangent, of self's shape; it may be left out for a single element (then 1). The
        graph is freed on the way unless ``retain_graph``. Raises ValueError for a missing or mis-shaped
        cotangent, RuntimeError when nothing was recorded or the graph is already freed.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: this tensor was made without recording; give requires_grad=True to the tensors "
                "to differentiate by, and compute outside of no_grad()"
            )
        gradients: dict[int, Array] = {id(self): self._cotangent(gradient)}
        lent = {id(self)}  # tensors whose gradient lies in memory that others may use
        order = topological_order(self)
        for tensor in order:  # before anything is changed
            if tensor.node is not None and tensor.node.arrays is None:
                raise RuntimeError(
                    f"backward: the graph was freed by an earlier backward() (at op {tensor.node.op.name}); "
                    "run the forward pass again, or call the first backward(retain_graph=True)"
                )
        for tensor in order:
            key, node = id(tensor), tensor.node
            dy = gradients.pop(key)
            if node is None:
                accumulate(tensor, np.array(dy) if key in lent else dy)
                continue
            dy = as_kernel_array(dy)
            for parent, dx in zip(node.inputs, node.pull_back(dy)):
                if dx is None:
                    continue
                key = id(parent)
                if key in gradients:
                    # A fresh sum, never +=: what is there may be a view, or on its way to another node.
                    gradients[key] = np.asarray(gradients[key] + dx)
                    lent.discard(key)
                else:
                    gradients[key] = dx
                    if parent.node is None and np.may_share_memory(dx, dy):
                        lent.add(key)
            if not retain_graph:
                node.free()

    def _cotangent(self, gradient: Any) -> Array:
        if gradient is None:
            if self.data.size != 1:
                raise ValueError(
                    f"backward: a tensor of shape {self.shape} has no single gradient; call "
                    "backward(gradient) with an array of that shape, or reduce it first, as by .sum()"
                )
            return np.ones_like(self.data)
        array = np.asarray(gradient.data if isinstance(gradient, Tensor) else gradient, self.dtype)
        if array.shape != self.shape:
            raise ValueError(f"backward: gradient must have shape {self.shape}, got {array.shape}")
        return array

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def detach(self) -> "Tensor":
        """Return a tensor on the same array that records nothing."""
        return Tensor(self.data)

    # --- as an array ---

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self.data.dtype

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by hand rather than by an op."""
        return self.node is None

    def numpy(self) -> Array:
        """Return the array itself (no copy)."""
        return self.data

    def item(self) -> Any:
        """Return the single element as a Python number."""
        return self.data.item()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.data)

    def __iter__(self) -> Iterator["Tensor"]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self.data.item())

    def __int__(self) -> int:
        return int(self.data.item())

    def __bool__(self) -> bool:
        return bool(self.data)

    def __repr__(self) -> str:
        text = np.array2string(self.data, separator=", ", prefix="tensor(")
        kind = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        flag = ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({text}{kind}{flag})"

    # Comparisons give plain arrays of bools, for conditionals. == stays identity: it is how they are found.

    def __lt__(self, other: Any) -> Array:
        return np.asarray(self.data < np.asarray(other))

    def __le__(self, other: Any) -> Array:
        return np.asarray(self.data <= np.asarray(other))

    def __gt__(self, other: Any) -> Array:
        return np.asarray(self.data > np.asarray(other))

    def __ge__(self, other: Any) -> Array:
        return np.asarray(self.data >= np.asarray(other))

    # --- arithmetic ---

    def _operand(self, other: Any) -> Any:
        """Return a Python number as an array of self's dtype, anything else as it is."""
        if isinstance(other, (int, float, np.number)) and not isinstance(other, bool):
            return np.asarray(other, self.dtype)
        return other

    def __add__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["add"], (self, self._operand(other)), {})

    def __radd__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["add"], (self._operand(other), self), {})

    def __sub__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["sub"], (self, self._operand(other)), {})

    def __rsub__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["sub"], (self._operand(other), self), {})

    def __mul__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["mul"], (self, self._operand(other)), {})

    def __rmul__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["mul"], (self._operand(other), self), {})

    def __truediv__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["div"], (self, self._operand(other)), {})

    def __rtruediv__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["div"], (self._operand(other), self), {})

    def __pow__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["pow"], (self, self._operand(other)), {})

    def __rpow__(self, other: Any) -> "Tensor":
        return self.apply_op(OPS["pow"], (self._operand(other), self), {})

    def __neg__(self) -> "Tensor":
        return self.apply_op(OPS["neg"], (self,), {})

    def __abs__(self) -> "Tensor":
        return self.abs()

    def __matmul__(self, other: Any) -> Any:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return matmul(other, self)

    def __getitem__(self, index: Any) -> "Tensor":
        return self.apply_op(OPS["slice"], (self,), {"index": index})

    # --- methods that are ops ---

    def abs(self) -> "Tensor":
        """Return the size of each element."""
        return self.apply_op(OPS["abs"], (self,), {})

    def sqrt(self) -> "Tensor":
        """Return the square root of each element."""
        return self.apply_op(OPS["sqrt"], (self,), {})

    def exp(self) -> "Tensor":
        """Return e to the power of each element."""
        return self.apply_op(OPS["exp"], (self,), {})

    def log(self) -> "Tensor":
        """Return the natural logarithm of each element."""
        return self.apply_op(OPS["log"], (self,), {})

    def sin(self) -> "Tensor":
        """Return the sine of each element (radians)."""
        return self.apply_op(OPS["sin"], (self,), {})

    def relu(self) -> "Tensor":
        """Return max(x, 0) of each element."""
        return self.apply_op(OPS["relu"], (self,), {})

    def sigmoid(self) -> "Tensor":
        """Return 1 / (1 + e^-x) of each element."""
        return self.apply_op(OPS["sigmoid"], (self,), {})

    def tanh(self) -> "Tensor":
        """Return the hyperbolic tangent of each element."""
        return self.apply_op(OPS["tanh"], (self,), {})

    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> "Tensor":
        """Return the sum over ``dim`` (all axes if None)."""
        return self.apply_op(OPS["sum"], (self,), {"dim": dim, "keepdim": keepdim})

    def mean(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> "Tensor":
        """Return the mean over ``dim`` (all axes if None)."""
        return self.apply_op(OPS["mean"], (self,), {"dim": dim, "keepdim": keepdim})

    def max(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> "Tensor":
        """Return the largest element over ``dim`` (all axes if None)."""
        return self.apply_op(OPS["max"], (self,), {"dim": dim, "keepdim": keepdim})

    def reshape(self, *shape: Any) -> "Tensor":
        """Return the same elements in another shape; one length may be -1."""
        lengths = shape[0] if len(shape) == 1 and not isinstance(shape[0], SupportsIndex) else shape
        return self.apply_op(OPS["reshape"], (self,), {"shape": lengths})

    def transpose(self, dim0: int, dim1: int) -> "Tensor":
        """Return a view with two axes exchanged."""
        return self.apply_op(OPS["transpose"], (self,), {"dim0": dim0, "dim1": dim1})

    @property
    def T(self) -> "Tensor":
        """The transpose of a matrix."""
        return self.transpose(0, 1)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> "Tensor":
        """Return the axes from ``start_dim`` to ``end_dim`` merged into one."""
        return self.apply_op(OPS["flatten"], (self,), {"start_dim": start_dim, "end_dim": end_dim})

    def softmax(self, dim: int = -1) -> "Tensor":
        """Return e^x over its sum along ``dim``."""
        return self.apply_op(OPS["softmax"], (self,), {"dim": dim})


def tensor(data: Any, dtype: DTypeLike | None = None, requires_grad: bool = False) -> Tensor:
    """Return a leaf tensor holding a copy of ``data``.

    Python numbers become float32 (integers int64); arrays keep their dtype unless ``dtype`` is given. Raises
    TypeError for data that is no array of numbers, or ``requires_grad`` with a dtype other than float32 and
    float64.

    >>> tensor([[1.0, 2.0]]).shape
    (1, 2)
    """
    if isinstance(data, Tensor):
        data = data.data
    try:
        array = np.array(data, dtype=dtype)
    except ValueError as error:
        raise ValueError(f"tensor: data must be a regular array of numbers: {error}") from None
    if dtype is None and not isinstance(data, (np.ndarray, np.generic)) and array.dtype == np.float64:
        array = array.astype(np.float32)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"tensor: data must be numbers, got dtype {array.dtype}")
    if requires_grad and array.dtype not in (np.float32, np.float64):
        raise TypeError(f"tensor: requires_grad needs float32 or float64, got {array.dtype}")
    return Tensor(array, requires_grad)


def matmul(a: Any, b: Any) -> Any:
    """Return a @ b with NumPy's rules, vectors included, for Tensors and arrays."""
    rows, columns = a.ndim == 1, b.ndim == 1
    left = OPS["reshape"](a, shape=(1, -1)) if rows else a
    right = OPS["reshape"](b, shape=(-1, 1)) if columns else b
    y = OPS["matmul"](left, right)
    if not rows and not columns:
        return y
    kept = y.shape[:-2] + (() if rows else y.shape[-2:-1]) + (() if columns else y.shape[-1:])
    return OPS["reshape"](y, shape=kept)


def apply_keeping(
    op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any]
) -> tuple[Any, tuple[Array, ...]]:
    """Return (op's result, what its forward pass keeps), for functions that read the kept arrays, too."""
    given = [t for t in inputs if isinstance(t, Tensor)]
    if _grad_enabled.get() and any(t.requires_grad for t in given):
        y = op(*inputs, **attributes)
        return y, y.node.outputs[1:]
    arrays = op.prepare([t.data if isinstance(t, Tensor) else t for t in inputs], attributes)
    outputs = op.body_for(arrays).forward(*arrays, **attributes)
    return Tensor(outputs[0]) if given else outputs[0], outputs[1:]


def topological_order(root: Tensor) -> list[Tensor]:
    """Return the tensors that lead to ``root``, each after all that were made from it; leaves come last.

    With any other order, a tensor used twice could pass its gradient on before all of it has arrived. Since
    every tensor is younger than those it was made from, from the youngest to the oldest is such an order.
    """
    found, seen = [root], {id(root)}
    for tensor in found:  # which grows meanwhile
        if tensor.node is not None:
            for parent in tensor.node.parents():
                if id(parent) not in seen:
                    seen.add(id(parent))
                    found.append(parent)
    found.sort(key=number_of, reverse=True)
    return found


def number_of(tensor: Tensor) -> int:
    """Return the number of the call that made the tensor, 0 for a leaf."""
    return 0 if tensor.node is None else tensor.node.number


def accumulate(leaf: Tensor, dx: Array) -> None:
    """Add ``dx`` to the leaf's gradient; the first one becomes it."""
    leaf.grad = Tensor(dx if leaf.grad is None else np.asarray(leaf.grad.data + dx))
