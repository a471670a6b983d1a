"""Tensor: an array that remembers how it was made."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.autograd.devices import to
from nnkernels.autograd.operators import Operators
from nnkernels.autograd.tape import Arithmetic, Node, recording, recording_is_on, time_of_change, walk
from nnkernels.machine.arrays import fill, full, move, overwrite, where
from nnkernels.machine.gpu_array import shares_memory
from nnkernels.machine.memory import Array, as_kernel_array
from nnkernels.ops import OPS as OPS_TABLE
from nnkernels.ops.op import Op
from nnkernels.ops.shape import VIEWS
from nnkernels.ops.validate import is_array

ARITHMETIC = {
    np.add: "add", np.subtract: "sub", np.multiply: "mul", np.true_divide: "truediv", np.power: "pow",
    np.matmul: "matmul",
}  # fmt: skip
COMPARISONS = (np.less, np.less_equal, np.greater, np.greater_equal, np.equal, np.not_equal)
# The cotangent of a single number.
ONE = {np.dtype(kind): np.ones((), kind) for kind in (np.float32, np.float64)}


class Tensor(Operators):
    """An n-dimensional array that records the ops applied to it.

    ``data`` is the NumPy array, ``grad`` a Tensor after ``backward`` (None before), ``requires_grad`` whether
    gradients flow here, ``node`` the recorded call that made it (None for a leaf).

    >>> x = tensor([2.0, 3.0], requires_grad=True)
    >>> (x * x).sum().backward()
    >>> x.grad
    tensor([4., 6.])
    """

    __slots__ = ("__weakref__", "_data", "grad", "node", "requires_grad", "version")

    tangent: "Tensor | None" = None  # see dual.py

    def __init__(self, data: Array, requires_grad: bool = False, node: Node | None = None) -> None:
        self._data = data
        self.requires_grad = requires_grad
        self.node = node
        self.grad: Tensor | None = None
        # When the memory was last changed in place, on the clock that numbers the nodes; views share it.
        self.version = [0] if node is None else node.version

    @property
    def is_leaf(self) -> bool:
        """Whether the tensor was made by hand rather than by an op."""
        return self.node is None

    def __repr__(self) -> str:
        text = np.array2string(move(self.data, "cpu"), separator=", ", prefix="tensor(")
        kind = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        kind += "" if self.device == "cpu" else f", device={self.device!r}"
        flag = ", requires_grad=True" if self.requires_grad else ""
        return f"tensor({text}{kind}{flag})"

    # --- devices ---

    @property
    def device(self) -> str:
        """Where the array is: "cpu" or "cuda:0"."""
        return where(self._data)

    @property
    def is_cuda(self) -> bool:
        """Whether the array is on a GPU."""
        return self.device != "cpu"

    def to(self, device: str) -> "Tensor":
        """Return the tensor on ``device``, "cpu" or "cuda": itself where it is there, else a recorded copy.

        Raises ValueError for another device, RuntimeError, saying what is missing, where there is no GPU.
        """
        return to(self, device)

    def cpu(self) -> "Tensor":
        """Return the tensor in host memory."""
        return to(self, "cpu")

    def cuda(self) -> "Tensor":
        """Return the tensor on the GPU."""
        return to(self, "cuda")

    # --- recording ---

    def apply_op(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> "Tensor":
        """Run ``op`` on the inputs' arrays and record the call; what ``Op.__call__`` does with Tensors."""
        return apply(op, inputs, attributes)[0]

    def pushed(self, y: "Tensor", *call: Any) -> "Tensor":
        """Return y, a result of this Dual, with its tangent; see dual.py."""
        raise NotImplementedError

    def backward(
        self, gradient: Any = None, retain_graph: bool | None = None, create_graph: bool = False
    ) -> None:
        """Add d(self)/d(leaf) to ``grad`` of every leaf that needs it.

        ``gradient`` is the cotangent, of self's shape; it may be left out for a single element (then 1). The
        graph is freed on the way unless ``retain_graph``. With ``create_graph`` the gradients are themselves
        recorded, to be differentiated again, and the graph is retained. Raises ValueError for a missing or
        mis-shaped cotangent, RuntimeError when nothing was recorded, the graph is already freed or an array
        that backward reads has been changed.
        """
        if not self.requires_grad:
            raise RuntimeError(
                "backward: this tensor was made without recording; give requires_grad=True to the tensors "
                "to differentiate by, and compute outside of no_grad()"
            )
        carry_back(self, self.cotangent(gradient), None, retain_graph, create_graph)

    def cotangent(self, gradient: Any = None) -> "Tensor":
        """Return ``gradient`` as a Tensor of self's shape and dtype; 1 for a single element."""
        if gradient is None:
            if self.size != 1:
                raise ValueError(
                    f"backward: a tensor of shape {self.shape} has no single gradient; call "
                    "backward(gradient) with an array of that shape, or reduce it first, as by .sum()"
                )
            if self.ndim == 0 and not self.is_cuda:
                return Tensor(ONE[self._data.dtype])
            return Tensor(full(self.shape, 1, self.dtype, self._data))
        fits = isinstance(gradient, Tensor) and gradient.dtype == self.dtype
        if not fits and moves(gradient):
            raise TypeError(f"backward: gradient must be {self.dtype}, got {gradient.dtype}")
        dy: Tensor = gradient if fits else Tensor(np.asarray(gradient, self.dtype))
        if dy.device != self.device:
            raise ValueError(f"backward: gradient must be on {self.device}, got one on {dy.device}")
        if dy.shape != self.shape:
            raise ValueError(f"backward: gradient must have shape {self.shape}, got {dy.shape}")
        return dy

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def as_leaf(self) -> "Tensor":
        """Return a leaf on the same array that requires gradients."""
        leaf = self.detach()
        leaf.requires_grad = True
        return leaf

    def pulled_through(
        self, formula: Any, inputs: tuple[Any, ...], needs: tuple[bool, ...], attributes: Mapping[str, Any]
    ) -> tuple["Tensor | None", ...]:
        """Return the gradients of ``formula(*inputs, **attributes)`` for the cotangent ``self``."""
        create = recording_is_on()
        given = [branch(t) if need else as_operand(t) for t, need in zip(inputs, needs)]
        with recording(True):
            y = formula(*given, **attributes)
        wanted = [t for t, need in zip(given, needs) if need]
        found = iter(carry_back(y, self, wanted, create_graph=create, apart=True))
        return tuple([next(found) if need else None for need in needs])

    def without_tangent(self) -> "Tensor":
        """Return a tensor at the same place on the tape that does not move; see dual.py."""
        return self

    def detach(self) -> "Tensor":
        """Return a tensor on the same array that records nothing."""
        detached = Tensor(self._data)
        detached.version = self.version
        return detached

    # --- changing in place ---

    @property
    def data(self) -> Array:
        """The array. ``data -= ...`` is noticed by later backward passes, ``data[...] = ...`` is not."""
        return self._data

    @data.setter
    def data(self, array: Array) -> None:
        if self.tangent is not None:
            self._changeable("x.data = ...")
        if array is self._data:
            self.was_changed()
        else:
            self._data, self.version = array, [0]

    def was_changed(self) -> None:
        """Note that the array has been written into: graphs that read it refuse to run backward."""
        self.version[0] = time_of_change()

    def _changeable(self, what: str) -> None:
        if self.tangent is not None or (self.requires_grad and recording_is_on()):
            raise RuntimeError(
                f"{what}: a tensor that requires gradients, or has a tangent, cannot be changed in place "
                "while ops are recorded; do it inside no_grad(), or make a new tensor"
            )

    def __setitem__(self, index: Any, value: Any) -> None:
        self._changeable("x[...] = value")
        if moves(value):
            raise RuntimeError(
                "x[...] = value: the derivative of value would be lost; put the tensor together by ops, as "
                "concatenate, or give value.detach()"
            )
        if self.is_cuda:
            if index is not Ellipsis and index != slice(None):
                raise TypeError("x[index] = value: on a GPU only x[...] = value; put tensors together by ops")
            array = array_of(value)
            if isinstance(array, (int, float)):
                fill(self._data, array)
            else:
                overwrite(self._data, array)
        else:
            self._data[index] = np.asarray(value)
        self.was_changed()

    def copy_(self, value: Any) -> "Tensor":
        """Overwrite the elements with those of ``value``, which is broadcast; return self."""
        self[...] = value
        return self

    def _in_place(self, other: Any, ufunc: np.ufunc, result: Any) -> Any:
        """Return ``result()`` where the op is recorded, else self, changed in place."""
        if moves(self) or moves(other):
            if self.requires_grad and self.node is None and recording_is_on():
                self._changeable(f"in-place {ufunc.__name__}")
            return result(other)
        if self.is_cuda:
            with recording(False):
                overwrite(self._data, result(other).data)
        else:
            ufunc(self._data, np.asarray(other), out=self._data, casting="same_kind")
        self.was_changed()
        return self

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        """Do NumPy's arithmetic by ops; refuse other functions where a derivative would be lost."""
        name = ARITHMETIC.get(ufunc)
        if name is not None and method == "__call__" and not options:
            a, b = inputs
            return getattr(a, f"__{name}__")(b) if isinstance(a, Tensor) else getattr(b, f"__r{name}__")(a)
        if ufunc not in COMPARISONS and any(moves(t) for t in inputs):
            raise TypeError(
                f"numpy.{ufunc.__name__} would lose the derivative of a Tensor: use its methods, as x.sin(), "
                "nnkernels.nn.functional or OPS; for numbers alone, x.detach()"
            )
        arrays = [t._data if isinstance(t, Tensor) else t for t in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(other, np.add, self.__add__)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(other, np.subtract, self.__sub__)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(other, np.multiply, self.__mul__)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(other, np.divide, self.__truediv__)


def moves(t: Any) -> bool:
    """Return whether a derivative would be lost if t were read as an array."""
    return isinstance(t, Tensor) and (t.tangent is not None or (t.requires_grad and recording_is_on()))


def no_gradient(op: Op, i: int) -> str:
    """Return the message for an input that has no gradient."""
    return f"{op.name}: there is no derivative by input {i}; give it without, as by detach()"


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
        array = np.array(move(data, "cpu"), dtype=dtype)
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


def apply(op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> tuple[Tensor, tuple[Array, ...]]:
    """Run ``op`` on Tensors and arrays; return its result, and all outputs as arrays, what it keeps included.

    Recorded where a tensor needs gradients; with a tangent where one has a tangent.
    """
    if op.inplace:
        raise TypeError(f"{op.name} overwrites its inputs: give it arrays (tensor.data), not Tensors")
    if len(inputs) < op.inputs:
        inputs = (*inputs, *[None] * (op.inputs - len(inputs)))
    given: list[Any] = []
    needs: list[bool] = []
    dual: Tensor | None = None
    for t in inputs:
        if isinstance(t, Tensor):
            given.append(t._data)
            needs.append(t.requires_grad)
            if t.tangent is not None:
                dual = t
        else:
            given.append(t)
            needs.append(False)
    arrays = op.prepare(given, attributes)
    body = op.body_for(arrays)
    outputs = body.forward(*arrays, **attributes)
    node = None
    if True in needs and recording_is_on():
        for i in op.constants:
            if i < len(needs) and needs[i]:  # weights may be left out
                raise TypeError(no_gradient(op, i))
        node = Node(op, body, inputs, arrays, attributes, outputs, tuple(needs))
    y = Tensor(outputs[0], node is not None, node)
    if node is None and op.name in VIEWS:
        y.version = inputs[0].version
    return (y if dual is None else dual.pushed(y, op, inputs, arrays, outputs, attributes)), outputs


def apply_keeping(
    op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any]
) -> tuple[Any, tuple[Array, ...]]:
    """Return (op's result, what its forward pass keeps), for functions that read the kept arrays, too."""
    if any(isinstance(t, Tensor) for t in inputs):
        y, outputs = apply(op, inputs, attributes)
        return y, outputs[1:]
    arrays = op.prepare(inputs, attributes)
    outputs = op.body_for(arrays).forward(*arrays, **attributes)
    return outputs[0], outputs[1:]


# --- backward ---


def carry_back(
    root: Tensor,
    dy: Tensor,
    wanted: Sequence[Tensor] | None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    apart: bool = False,
) -> list[Tensor | None]:
    """Return the gradients of the tensors ``wanted`` (see ``walk``); None adds them to the leaves' ``grad``.

    By kernels where numbers are all that is asked for; by ops where derivatives of either mode are.
    """
    retain = create_graph if retain_graph is None else retain_graph
    if not create_graph and root.tangent is None and dy.tangent is None:
        arrays = walk(root, dy._data, KERNELS, wanted, retain, apart)
        return [None if dx is None else Tensor(dx) for dx in arrays]
    with recording(create_graph):
        return walk(root, dy, OPS, wanted, retain, apart)


def sum_of_arrays(a: Array, b: Array) -> Array:
    """Return a + b, an array also where there are no axes."""
    if type(a) is np.ndarray:
        return np.asarray(a + b)
    total: Array = OPS_TABLE["add"](a, b)
    return total


def own_array(dx: Array, dy: Array) -> Array:
    """Return dx, as a copy where it may lie in the memory of dy."""
    return dx.copy() if shares_memory(dx, dy) else dx


def accumulate_array(leaf: Tensor, dx: Array, dy: Array) -> None:
    """Add dx to the leaf's gradient; the first one becomes it."""
    if leaf.grad is not None:
        dx = sum_of_arrays(leaf.grad.data, dx)
    elif type(dx) is not np.ndarray or dx.base is not None or dx is dy:  # else the memory is its own
        dx = own_array(dx, dy)
    leaf.grad = Tensor(dx)


def own_tensor(dx: Tensor, dy: Tensor) -> Tensor:
    """Return dx, as a copy where it may lie in the memory of dy."""
    return dx + 0.0 if shares_memory(dx.data, dy.data) else dx


def accumulate_tensor(leaf: Tensor, dx: Tensor, dy: Tensor) -> None:
    """Add dx to the leaf's gradient; the first one becomes it. Tangents end with their forward pass."""
    dx = dx.without_tangent()
    leaf.grad = own_tensor(dx, dy) if leaf.grad is None else leaf.grad + dx


# Gradients as arrays, from the ops' backward kernels; and as Tensors, from the ops' ``gradient`` functions.
KERNELS = Arithmetic(sum_of_arrays, own_array, as_kernel_array, Node.pull_back, accumulate_array)
OPS = Arithmetic(Tensor.__add__, own_tensor, lambda dy: dy, Node.pull_back_in_ops, accumulate_tensor)


def branch(t: Any) -> Tensor:
    """Return a tensor equal to ``t`` to differentiate by, apart from the other uses of ``t``.

    Where t requires gradients and ops are recorded, its own gradient still arrives.
    """
    if not isinstance(t, Tensor):
        return Tensor(t, requires_grad=True)
    if t.requires_grad and recording_is_on():
        twin: Tensor = t.reshape(t.shape)  # a node of its own
        return twin
    return t.as_leaf()


def array_of(t: Any) -> Any:
    """Return a Tensor's array, anything else as it is."""
    return t.data if isinstance(t, Tensor) else t


def as_operand(t: Any) -> Any:
    """Return an array of floating-point numbers as a Tensor, anything else as it is."""
    return Tensor(t) if is_array(t) and t.dtype.kind == "f" else t
