"""Feature maps phi(x): what a linear model must be given to draw lines that are not straight.

Each works on arrays and on Tensors of shape (N, D), and gradients flow through it.
"""

import math
from collections.abc import Callable
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from nnkernels.autograd import Tensor
from nnkernels.nn import functional as F
from nnkernels.nn import init
from nnkernels.nn.layers.common import positive
from nnkernels.nn.module import Module
from nnkernels.ops import OPS
from nnkernels.ops.validate import number

Map = Callable[[Any], Any]


def check_matrix(name: str, x: Any, columns: int | None = None) -> None:
    """Demand x of shape (N, D), with D = ``columns`` where given."""
    if x.ndim != 2 or (columns is not None and x.shape[1] != columns):
        wanted = "D" if columns is None else columns
        raise ValueError(f"{name}: x must have shape (N, {wanted}), got {x.shape}")


class Polynomial(Module):
    """All monomials of one degree, scaled so that phi(x) . phi(z) = (x . z)^degree.

    For D = 2 and degree 2: x1^2, sqrt(2) x1 x2, x2^2. A monomial's factor is the root of the number of ways
    to write it as a product of ``degree`` of the x (Shawe-Taylor and Cristianini, Kernel Methods for Pattern
    Analysis, 2004, 9.1). (N, D) becomes (N, M) with M = (D + degree - 1 choose degree).
    """

    def __init__(self, degree: int = 2) -> None:
        super().__init__()
        self.degree = positive("Polynomial", "degree", degree)

    def monomials(self, D: int) -> list[tuple[int, ...]]:
        """Return which x each monomial is the product of."""
        return list(combinations_with_replacement(range(D), self.degree))

    def forward(self, x: Any) -> Any:
        """Return (N, M)."""
        check_matrix("Polynomial", x)
        chosen = self.monomials(x.shape[1])
        repeats = [math.prod(math.factorial(m.count(i)) for i in set(m)) for m in chosen]
        ways = [math.factorial(self.degree) / r for r in repeats]
        y = np.sqrt(np.asarray(ways, x.dtype))
        for factor in range(self.degree):
            y = OPS["mul"](F.index_select(x, 1, np.array([m[factor] for m in chosen])), y)
        return y

    def extra_repr(self) -> str:
        """Return the degree."""
        return f"degree={self.degree}"


class Fourier(Module):
    """Cosines and sines of projections: cos(x . f_1), ..., cos(x . f_M), sin(x . f_1), ..., over sqrt(M).

    ``frequencies`` is (M, D). ``Fourier.random(D, M, width)`` draws them such that phi(x) . phi(z) comes near
    to exp(-|x - z|^2 / (2 width^2)) (Rahimi and Recht, Random Features for Large-Scale Kernel Machines, NIPS
    2007). They are a buffer, not learnt.
    """

    def __init__(self, frequencies: ArrayLike, *, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        array = np.array(frequencies, dtype)
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"Fourier: frequencies must have shape (M, D), got {array.shape}")
        self.register_buffer("frequencies", array)
        self.frequencies: Any

    @classmethod
    def random(
        cls, D: int, M: int, width: float = 1.0, *, rng: init.Rng = None, dtype: DTypeLike = np.float32
    ) -> "Fourier":
        """Return the map with M frequencies drawn from a normal distribution of deviation 1 / width."""
        number("Fourier", "width", width)
        if width <= 0:
            raise ValueError(f"Fourier: width must be positive, got {width!r}")
        size = positive("Fourier", "M", M), positive("Fourier", "D", D)
        return cls(np.random.default_rng(rng).normal(0, 1 / width, size), dtype=dtype)

    def forward(self, x: Any) -> Any:
        """Return (N, 2 M)."""
        M, D = self.frequencies.shape
        check_matrix("Fourier", x, D)
        angles = F.linear(x, self.frequencies)
        quarter = np.asarray(math.pi / 2, x.dtype)
        waves = OPS["concatenate"](OPS["sin"](OPS["add"](angles, quarter)), OPS["sin"](angles), dim=1)
        return OPS["mul"](waves, np.asarray(1 / math.sqrt(M), x.dtype))

    def extra_repr(self) -> str:
        """Return the sizes."""
        return "{}, {}".format(*self.frequencies.shape)


class RadialBasis(Module):
    """exp(-|x - c_m|^2 / (2 width^2)) for centres c (M, D), a buffer: (N, D) becomes (N, M)."""

    def __init__(self, centres: ArrayLike, width: float = 1.0, *, dtype: DTypeLike = np.float32) -> None:
        super().__init__()
        array = np.array(centres, dtype)
        if array.ndim != 2 or array.size == 0:
            raise ValueError(f"RadialBasis: centres must have shape (M, D), got {array.shape}")
        number("RadialBasis", "width", width)
        if width <= 0:
            raise ValueError(f"RadialBasis: width must be positive, got {width!r}")
        self.width = width
        self.register_buffer("centres", array)
        self.centres: Any

    def forward(self, x: Any) -> Any:
        """Return (N, M)."""
        D = self.centres.shape[1]
        check_matrix("RadialBasis", x, D)
        # Differences first: |x|^2 - 2 x . c + |c|^2 would lose digits far from 0.
        difference = OPS["sub"](OPS["reshape"](x, shape=(-1, 1, D)), self.centres)
        distance = OPS["sum"](OPS["mul"](difference, difference), dim=2)
        return OPS["exp"](OPS["mul"](distance, np.asarray(-0.5 / self.width**2, x.dtype)))

    def extra_repr(self) -> str:
        """Return the sizes."""
        return "{}, {}".format(*self.centres.shape) + f", width={self.width}"


class Features(Module):
    """Maps of your own side by side: phi(x) = (f1(x), f2(x), ...).

    Each f takes x (N, D) and returns (N, M), or (N,) for one feature; use operators and functions of Tensors,
    so that gradients flow. Modules among them are children.

    >>> phi = Features(lambda x: x, lambda x: x[:, 0] * x[:, 1])
    >>> phi(np.float32([[2, 3]]))
    array([[2., 3., 6.]], dtype=float32)
    """

    def __init__(self, *functions: Map) -> None:
        super().__init__()
        if not functions:
            raise ValueError("Features: at least one function is needed, got none")
        for i, function in enumerate(functions):
            if not callable(function):
                raise TypeError(f"Features: argument {i} must be callable, got {type(function).__name__}")
            if isinstance(function, Module):
                setattr(self, str(i), function)
        self.functions = functions

    def forward(self, x: Any) -> Any:
        """Return (N, M1 + M2 + ...)."""
        parts = []
        for i, function in enumerate(self.functions):
            y = function(x)
            if not isinstance(y, (np.ndarray, Tensor)) or y.ndim not in (1, 2) or len(y) != len(x):
                found = y.shape if isinstance(y, (np.ndarray, Tensor)) else type(y).__name__
                raise ValueError(
                    f"Features: function {i} must return (N, M) or (N,) with N = {len(x)}, got {found}"
                )
            parts.append(OPS["reshape"](y, shape=(-1, 1)) if y.ndim == 1 else y)
        return OPS["concatenate"](*parts, dim=1)
