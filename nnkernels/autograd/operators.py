"""What a Tensor is to Python: an array with NumPy's look, whose operators and methods are ops."""

from collections.abc import Iterator
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import DTypeLike

from nnkernels.machine.arrays import full, where
from nnkernels.machine.memory import Array
from nnkernels.ops import OPS
from nnkernels.ops.op import Op


class Operators:
    """The look of an array, arithmetic and methods for what can apply an op: the base class of Tensor."""

    __slots__ = ()

    # What a subclass has.
    _data: Array
    requires_grad: bool
    version: list[int]

    def apply_op(self, op: Op, inputs: tuple[Any, ...], attributes: dict[str, Any]) -> Any:
        """Run ``op``; ``self`` is one of the inputs."""
        raise NotImplementedError

    # --- as an array ---

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self._data.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self._data.ndim

    @property
    def size(self) -> int:
        """Number of elements."""
        return self._data.size

    @property
    def dtype(self) -> np.dtype[Any]:
        """Element type."""
        return self._data.dtype

    def numpy(self) -> Array:
        """Return the array itself (no copy). TypeError where it is on a GPU: ``cpu()`` moves it."""
        if where(self._data) != "cpu":
            raise TypeError(f"numpy: the tensor is on {where(self._data)}; copy it by cpu() first")
        return self._data

    def item(self) -> Any:
        """Return the single element as a Python number."""
        return self._data.item()

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> Array:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self._data)

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __float__(self) -> float:
        return float(self._data.item())

    def __int__(self) -> int:
        return int(self._data.item())

    def __bool__(self) -> bool:
        return bool(self._data.item() if self.size == 1 else self._data)

    # Comparisons give plain arrays of bools, for conditionals. == stays identity: it is how they are found.

    def __lt__(self, other: Any) -> Array:
        return np.asarray(self.numpy() < np.asarray(other))

    def __le__(self, other: Any) -> Array:
        return np.asarray(self.numpy() <= np.asarray(other))

    def __gt__(self, other: Any) -> Array:
        return np.asarray(self.numpy() > np.asarray(other))

    def __ge__(self, other: Any) -> Array:
        return np.asarray(self.numpy() >= np.asarray(other))

    # --- arithmetic ---

    def _operand(self, other: Any) -> Any:
        """Return a Python number as an array of self's dtype, anything else as it is."""
        if isinstance(other, (int, float, np.number)) and not isinstance(other, bool):
            if type(self._data) is not np.ndarray:
                return full((), float(other), self.dtype, self._data)
            return np.asarray(other, self.dtype)
        return other

    def __add__(self, other: Any) -> Any:
        return self.apply_op(OPS["add"], (self, self._operand(other)), {})

    def __radd__(self, other: Any) -> Any:
        return self.apply_op(OPS["add"], (self._operand(other), self), {})

    def __sub__(self, other: Any) -> Any:
        return self.apply_op(OPS["sub"], (self, self._operand(other)), {})

    def __rsub__(self, other: Any) -> Any:
        return self.apply_op(OPS["sub"], (self._operand(other), self), {})

    def __mul__(self, other: Any) -> Any:
        return self.apply_op(OPS["mul"], (self, self._operand(other)), {})

    def __rmul__(self, other: Any) -> Any:
        return self.apply_op(OPS["mul"], (self._operand(other), self), {})

    def __truediv__(self, other: Any) -> Any:
        return self.apply_op(OPS["div"], (self, self._operand(other)), {})

    def __rtruediv__(self, other: Any) -> Any:
        return self.apply_op(OPS["div"], (self._operand(other), self), {})

    def __pow__(self, other: Any) -> Any:
        return self.apply_op(OPS["pow"], (self, self._operand(other)), {})

    def __rpow__(self, other: Any) -> Any:
        return self.apply_op(OPS["pow"], (self._operand(other), self), {})

    def __neg__(self) -> Any:
        return self.apply_op(OPS["neg"], (self,), {})

    def __abs__(self) -> Any:
        return self.abs()

    def __matmul__(self, other: Any) -> Any:
        return matmul(self, other)

    def __rmatmul__(self, other: Any) -> Any:
        return matmul(other, self)

    def __getitem__(self, index: Any) -> Any:
        return self.apply_op(OPS["slice"], (self,), {"index": index})

    # --- methods that are ops ---

    def abs(self) -> Any:
        """Return the size of each element."""
        return self.apply_op(OPS["abs"], (self,), {})

    def sqrt(self) -> Any:
        """Return the square root of each element."""
        return self.apply_op(OPS["sqrt"], (self,), {})

    def exp(self) -> Any:
        """Return e to the power of each element."""
        return self.apply_op(OPS["exp"], (self,), {})

    def log(self) -> Any:
        """Return the natural logarithm of each element."""
        return self.apply_op(OPS["log"], (self,), {})

    def sin(self) -> Any:
        """Return the sine of each element (radians)."""
        return self.apply_op(OPS["sin"], (self,), {})

    def cos(self) -> Any:
        """Return the cosine of each element (radians)."""
        return self.apply_op(OPS["cos"], (self,), {})

    def relu(self) -> Any:
        """Return max(x, 0) of each element."""
        return self.apply_op(OPS["relu"], (self,), {})

    def sigmoid(self) -> Any:
        """Return 1 / (1 + e^-x) of each element."""
        return self.apply_op(OPS["sigmoid"], (self,), {})

    def tanh(self) -> Any:
        """Return the hyperbolic tangent of each element."""
        return self.apply_op(OPS["tanh"], (self,), {})

    def sum(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Any:
        """Return the sum over ``dim`` (all axes if None)."""
        return self.apply_op(OPS["sum"], (self,), {"dim": dim, "keepdim": keepdim})

    def mean(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Any:
        """Return the mean over ``dim`` (all axes if None)."""
        return self.apply_op(OPS["mean"], (self,), {"dim": dim, "keepdim": keepdim})

    def max(self, dim: int | tuple[int, ...] | None = None, keepdim: bool = False) -> Any:
        """Return the largest element over ``dim`` (all axes if None)."""
        return self.apply_op(OPS["max"], (self,), {"dim": dim, "keepdim": keepdim})

    def reshape(self, *shape: Any) -> Any:
        """Return the same elements in another shape; one length may be -1."""
        lengths = shape[0] if len(shape) == 1 and not isinstance(shape[0], SupportsIndex) else shape
        return self.apply_op(OPS["reshape"], (self,), {"shape": lengths})

    def transpose(self, dim0: int, dim1: int) -> Any:
        """Return a view with two axes exchanged."""
        return self.apply_op(OPS["transpose"], (self,), {"dim0": dim0, "dim1": dim1})

    @property
    def T(self) -> Any:
        """The transpose of a matrix."""
        return self.transpose(0, 1)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Any:
        """Return the axes from ``start_dim`` to ``end_dim`` merged into one."""
        return self.apply_op(OPS["flatten"], (self,), {"start_dim": start_dim, "end_dim": end_dim})

    def softmax(self, dim: int = -1) -> Any:
        """Return e^x over its sum along ``dim``."""
        return self.apply_op(OPS["softmax"], (self,), {"dim": dim})


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
