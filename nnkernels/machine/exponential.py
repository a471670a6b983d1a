"""exp and expm1 as polynomials that LLVM can put into vector registers.

Compiled loops over ``math.exp`` call the C library once per element. Here exp(x) = 2^n * exp(r) with
n = round(x / ln 2) and |r| <= ln(2)/2, exp(r) - 1 by its Taylor polynomial (degree 7 for float32, 13 for
float64, where the remainder is below a rounding error) and 2^n by writing n into the exponent bits
(Cody and Waite, Software Manual for the Elementary Functions, 1980).
"""

import math
from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from nnkernels.machine.jit import inline

f32, i32, i64 = np.float32, np.int32, np.int64

# ln 2 in two parts: n * HIGH is exact for every n that can occur, so x - n ln 2 loses nothing.
HIGH32, LOW32, LOG2E32 = f32(0.693359375), f32(-2.12194440e-4), f32(1.4426950408889634)
HIGH64, LOW64, LOG2E64 = 0.693147180369123816490, 1.90821492927058770002e-10, 1.4426950408889634
A2, A3, A4, A5, A6, A7 = (f32(1 / math.factorial(i)) for i in range(2, 8))
B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13 = (1 / math.factorial(i) for i in range(2, 14))


@inline
def _power_of_two32(n: Any) -> Any:
    return i32((n + i32(127)) << i32(23)).view(np.float32)


@inline
def _power_of_two64(n: Any) -> Any:
    return i64((n + i64(1023)) << i64(52)).view(np.float64)


@inline
def _reduced32(x: Any, lowest: Any) -> Any:
    """Return n as int32 and exp(r) - 1, with exp(x) = 2^n exp(r)."""
    x = min(max(x, lowest), f32(89))
    n = np.floor(x * LOG2E32 + f32(0.5))
    r = (x - n * HIGH32) - n * LOW32
    p = ((((A7 * r + A6) * r + A5) * r + A4) * r + A3) * r + A2
    return i32(n), p * (r * r) + r


@inline
def _reduced64(x: Any, lowest: Any) -> Any:
    x = min(max(x, lowest), 710.0)
    n = np.floor(x * LOG2E64 + 0.5)
    r = (x - n * HIGH64) - n * LOW64
    p = ((((B13 * r + B12) * r + B11) * r + B10) * r + B9) * r + B8
    p = (((((p * r + B7) * r + B6) * r + B5) * r + B4) * r + B3) * r + B2
    return i64(n), p * (r * r) + r


@inline
def exp32(x: Any) -> Any:
    """Return exp of a float32: 0 for -inf, inf above 88.7, NaN for NaN."""
    n, p = _reduced32(x, f32(-104))
    # Two factors, since 2^n itself leaves the range of normal numbers before exp(x) does.
    half = n >> i32(1)
    return (p + f32(1)) * _power_of_two32(half) * _power_of_two32(n - half)


@inline
def exp64(x: Any) -> Any:
    """Return exp of a float64: 0 for -inf, inf above 709.8, NaN for NaN."""
    n, p = _reduced64(x, -746.0)
    half = n >> i64(1)
    return (p + 1.0) * _power_of_two64(half) * _power_of_two64(n - half)


@inline
def expm1_32(x: Any) -> Any:
    """Return exp(x) - 1 of a float32 up to 88, with full relative accuracy near 0."""
    n, p = _reduced32(min(x, f32(88)), f32(-20))
    scale = _power_of_two32(n)
    return scale * p + (scale - f32(1))


@inline
def expm1_64(x: Any) -> Any:
    """Return exp(x) - 1 of a float64 up to 709, with full relative accuracy near 0."""
    n, p = _reduced64(min(x, 709.0), -40.0)
    scale = _power_of_two64(n)
    return scale * p + (scale - 1.0)


def exp(x: Any) -> Any:
    """Return exp(x) of one float32 or float64, for use inside kernels."""
    return exp32(x) if isinstance(x, np.float32) else exp64(x)


def expm1(x: Any) -> Any:
    """Return exp(x) - 1 of one float32 or float64, for use inside kernels."""
    return expm1_32(x) if isinstance(x, np.float32) else expm1_64(x)


# Compiled callers: Numba asks these for the implementation that fits the argument's type.
@overload(exp)  # type: ignore[untyped-decorator]
def _choose_exp(x: Any) -> Any:
    return exp32 if x == types.float32 else exp64


@overload(expm1)  # type: ignore[untyped-decorator]
def _choose_expm1(x: Any) -> Any:
    return expm1_32 if x == types.float32 else expm1_64
