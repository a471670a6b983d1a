"""exp, expm1, log, tanh and others as polynomials that LLVM can put into vector registers.

Compiled loops over ``math.exp`` call the C library once per element. Here every function is reduced to a
short interval on which a Taylor polynomial leaves less than a rounding error, without a branch (Cody and
Waite, Software Manual for the Elementary Functions, 1980):

    exp, expm1   2^n e^r             n = x / ln 2 rounded, |r| <= ln(2)/2; 2^n is written into exponent bits
    log          n ln 2 + ln m       x = 2^n m, sqrt(1/2) <= m < sqrt(2); ln m = 2 artanh((m - 1) / (m + 1))
    tanh         e / (e + 2)         e = expm1(2|x|); then the sign of x
    sin, cos     +-sin r or +-cos r  n = x / (pi/2) rounded, |r| <= pi/4

The largest error of each is stated in its docstring, in ulp (units in the last place of the result) for
float32 and float64, and held by ``tests/test_elementary.py``. NaN, infinities, signed zeros and subnormals
come out as in the C library. Kernels of any flags may call these: their own are pinned to ``contract``.
"""

import math
from typing import Any

import numpy as np
from numba import types

from nnkernels.machine.jit import inline, overload_exactly

f32, f64, i32, i64 = np.float32, np.float64, np.int32, np.int64

# A number so large that its last place is 1: adding it rounds to an integer, which then stands in the lowest
# bits of the sum. No conversion from float to int, which is undefined for NaN.
ROUND32, ROUND64 = f32(1.5 * 2**23), 1.5 * 2.0**52
ROUND32_BITS, ROUND64_BITS = i32(ROUND32.view(np.int32)), i64(f64(ROUND64).view(np.int64))

# ln 2 in two parts: n * HIGH is exact for every n that can occur, so x - n ln 2 loses nothing.
HIGH32, LOW32, LOG2E32 = f32(0.693359375), f32(-2.12194440e-4), f32(1.4426950408889634)
HIGH64, LOW64, LOG2E64 = 0.693147180369123816490, 1.90821492927058770002e-10, 1.4426950408889634

# 1/2!, 1/3!, ... for e^r
A2, A3, A4, A5, A6, A7 = (f32(1 / math.factorial(i)) for i in range(2, 8))
B2, B3, B4, B5, B6, B7, B8, B9, B10, B11, B12, B13 = (1 / math.factorial(i) for i in range(2, 14))


@inline
def _bits32(x: Any) -> Any:
    return f32(x).view(np.int32)


@inline
def _bits64(x: Any) -> Any:
    return f64(x).view(np.int64)


@inline
def _from_bits32(bits: Any) -> Any:
    return i32(bits).view(np.float32)


@inline
def _from_bits64(bits: Any) -> Any:
    return i64(bits).view(np.float64)


@inline
def _power_of_two32(n: Any) -> Any:
    return _from_bits32((n + i32(127)) << i32(23))


@inline
def _power_of_two64(n: Any) -> Any:
    return _from_bits64((n + i64(1023)) << i64(52))


# --- exp, expm1 ---


@inline
def _reduced32(x: Any) -> Any:
    """Return n as int32 and exp(r) - 1, with exp(x) = 2^n exp(r)."""
    shifted = x * LOG2E32 + ROUND32
    n = shifted - ROUND32
    r = (x - n * HIGH32) - n * LOW32
    p = ((((A7 * r + A6) * r + A5) * r + A4) * r + A3) * r + A2
    return i32(_bits32(shifted) - ROUND32_BITS), p * (r * r) + r


@inline
def _reduced64(x: Any) -> Any:
    shifted = x * LOG2E64 + ROUND64
    n = shifted - ROUND64
    r = (x - n * HIGH64) - n * LOW64
    p = ((((B13 * r + B12) * r + B11) * r + B10) * r + B9) * r + B8
    p = (((((p * r + B7) * r + B6) * r + B5) * r + B4) * r + B3) * r + B2
    return _bits64(shifted) - ROUND64_BITS, p * (r * r) + r


@inline
def _exp32(x: Any) -> Any:
    n, p = _reduced32(min(max(x, f32(-104)), f32(89)))
    # Two factors, since 2^n itself leaves the range of normal numbers before exp(x) does.
    half = n >> i32(1)
    return (p + f32(1)) * _power_of_two32(half) * _power_of_two32(n - half)


@inline
def _exp64(x: Any) -> Any:
    n, p = _reduced64(min(max(x, -746.0), 710.0))
    half = n >> i64(1)
    return (p + 1.0) * _power_of_two64(half) * _power_of_two64(n - half)


@inline
def _exp_near32(x: Any) -> Any:
    n, p = _reduced32(x)
    return (p + f32(1)) * _power_of_two32(n)


@inline
def _exp_near64(x: Any) -> Any:
    n, p = _reduced64(x)
    return (p + 1.0) * _power_of_two64(n)


@inline
def _expm1_positive32(x: Any) -> Any:
    """Return exp(x) - 1 for x from 0 to 88 or NaN, with full relative accuracy near 0."""
    n, p = _reduced32(x)
    scale = _power_of_two32(n)
    return scale * p + (scale - f32(1))


@inline
def _expm1_positive64(x: Any) -> Any:
    n, p = _reduced64(x)
    scale = _power_of_two64(n)
    return scale * p + (scale - 1.0)


@inline
def _expm1_32(x: Any) -> Any:
    n, p = _reduced32(min(max(x, f32(-20)), f32(89)))
    half = _power_of_two32(n - i32(1))  # 2^n itself may be too large
    y = half * p + (half - f32(0.5))
    return x if abs(x) < f32(1e-8) else y + y  # there, x is exact, and half of it may not be


@inline
def _expm1_64(x: Any) -> Any:
    n, p = _reduced64(min(max(x, -40.0), 710.0))
    half = _power_of_two64(n - i64(1))
    y = half * p + (half - 0.5)
    return x if abs(x) < 1e-17 else y + y


# --- log, log1p ---

SUBNORMAL32, SUBNORMAL64 = np.finfo(np.float32).tiny, np.finfo(np.float64).tiny  # below
ROOT32, ROOT64 = i32(f32(0.5**0.5).view(np.int32)), i64(f64(0.5**0.5).view(np.int64))


@inline
def _log32(x: Any) -> Any:
    small = x < SUBNORMAL32
    bits = _bits32(x * f32(2**24) if small else x)
    n = i32(bits - ROOT32) >> i32(23)
    f = _from_bits32(bits - (n << i32(23))) - f32(1)
    k = f32(n) - (f32(24) if small else f32(0))
    s = f / (f + f32(2))
    q = s * s
    p = (((f32(2 / 9) * q + f32(2 / 7)) * q + f32(2 / 5)) * q + f32(2 / 3)) * q
    h = f * f * f32(0.5)
    # ln(1 + f) = f - h + s (h + p), small terms first: k ln 2 and f may cancel.
    y = k * HIGH32 + (f - (h - (s * (h + p) + k * LOW32)))
    y = y if x > f32(0) else f32(np.nan)
    return f32(-np.inf) if x == f32(0) else (y if x < f32(np.inf) else x + x)


@inline
def _log64(x: Any) -> Any:
    small = x < SUBNORMAL64
    bits = _bits64(x * 2.0**54 if small else x)
    n = i64(bits - ROOT64) >> i64(52)
    f = _from_bits64(bits - (n << i64(52))) - 1.0
    k = f64(n) - (54.0 if small else 0.0)
    s = f / (f + 2.0)
    q = s * s
    p = ((((2 / 21 * q + 2 / 19) * q + 2 / 17) * q + 2 / 15) * q + 2 / 13) * q
    p = (((((p + 2 / 11) * q + 2 / 9) * q + 2 / 7) * q + 2 / 5) * q + 2 / 3) * q
    h = f * f * 0.5
    y = k * HIGH64 + (f - (h - (s * (h + p) + k * LOW64)))
    y = y if x > 0 else np.nan
    return -np.inf if x == 0 else (y if x < np.inf else x + x)


@inline
def _log1p_up_to_1_32(u: Any) -> Any:
    s = u / (u + f32(2))  # up to 1/3
    q = s * s
    p = (((f32(2 / 15) * q + f32(2 / 13)) * q + f32(2 / 11)) * q + f32(2 / 9)) * q
    p = (((p + f32(2 / 7)) * q + f32(2 / 5)) * q + f32(2 / 3)) * q
    y = s * p + (s + s)
    return u if u < f32(1e-8) else y


@inline
def _log1p_up_to_1_64(u: Any) -> Any:
    s = u / (u + 2.0)
    q = s * s
    p = ((((2 / 31 * q + 2 / 29) * q + 2 / 27) * q + 2 / 25) * q + 2 / 23) * q
    p = (((((p + 2 / 21) * q + 2 / 19) * q + 2 / 17) * q + 2 / 15) * q + 2 / 13) * q
    p = (((((p + 2 / 11) * q + 2 / 9) * q + 2 / 7) * q + 2 / 5) * q + 2 / 3) * q
    y = s * p + (s + s)
    return u if u < 1e-17 else y


# --- tanh ---


@inline
def _tanh32(x: Any) -> Any:
    e = _expm1_positive32(min(abs(x + x), f32(20)))
    t = e / (e + f32(2))
    return (-t if x < f32(0) else t) if abs(x) > f32(1e-8) else x


@inline
def _tanh64(x: Any) -> Any:
    e = _expm1_positive64(min(abs(x + x), 44.0))
    t = e / (e + 2.0)
    return (-t if x < 0 else t) if abs(x) > 1e-17 else x


# --- sin, cos ---

# pi/2 in three parts: n times the first two is exact up to n = 2^20.
QUARTER1, QUARTER2, QUARTER3 = 1.5707963267341256, 6.077100506303966e-11, 2.0222662487959506e-21
QUARTER23 = 6.077100506506192e-11  # the rest after the first part, rounded
QUARTERS_PER_UNIT = 2 / math.pi
S3, S5, S7, S9, S11, S13, S15, S17 = ((-1) ** (i // 2) / math.factorial(i) for i in range(3, 18, 2))
C2, C4, C6, C8, C10, C12, C14, C16 = ((-1) ** (i // 2) / math.factorial(i) for i in range(2, 17, 2))


@inline
def _sin_shifted32(x: Any, quarters: Any) -> Any:
    """Return sin(x + quarters pi/2), computed in float64."""
    wide = f64(x)
    shifted = wide * QUARTERS_PER_UNIT + ROUND64
    n = shifted - ROUND64
    r = (wide - n * QUARTER1) - n * QUARTER23
    z = r * r
    sine = r * ((((S9 * z + S7) * z + S5) * z + S3) * z + 1.0)
    cosine = ((((C10 * z + C8) * z + C6) * z + C4) * z + C2) * z + 1.0
    quadrant = _bits64(shifted) + i64(quarters)
    y = cosine if quadrant & i64(1) else sine
    return f32(-y if quadrant & i64(2) else y)


@inline
def _sin_shifted64(x: Any, quarters: Any) -> Any:
    shifted = x * QUARTERS_PER_UNIT + ROUND64
    n = shifted - ROUND64
    a = x - n * QUARTER1
    r = a - n * QUARTER2
    rest = ((a - r) - n * QUARTER2) - n * QUARTER3  # what r has lost
    z = r * r
    p = ((((S17 * z + S15) * z + S13) * z + S11) * z + S9) * z
    sine = (((p + S7) * z + S5) * z + S3) * z * r  # without its first term, as the cosine
    p = ((((C16 * z + C14) * z + C12) * z + C10) * z + C8) * z
    cosine = (((p + C6) * z + C4) * z + C2) * z
    sine, cosine = r + (sine + (cosine * rest + rest)), 1.0 + (cosine - (sine * rest + r * rest))
    quadrant = _bits64(shifted) + i64(quarters)
    y = cosine if quadrant & i64(1) else sine
    return -y if quadrant & i64(2) else y


@inline
def _sin32(x: Any) -> Any:
    return _sin_shifted32(x, 0)


@inline
def _sin64(x: Any) -> Any:
    y = _sin_shifted64(x, 0)
    return y if abs(x) > 1e-9 else x


@inline
def _cos32(x: Any) -> Any:
    return _sin_shifted32(x, 1)


@inline
def _cos64(x: Any) -> Any:
    return _sin_shifted64(x, 1)


# --- power: e^(y ln|x|) in float64, for float32 alone; float64 would need more digits than there are ---

LN2 = math.log(2)
INFINITY64 = i64(f64(np.inf).view(np.int64))  # bits; a comparison of floats with inf does not vectorise


@inline
def _power32(x: Any, y: Any) -> Any:
    base, exponent = f64(abs(x)), f64(y)
    bits = _bits64(base)
    n = i64(bits - ROOT64) >> i64(52)
    f = _from_bits64(bits - (n << i64(52))) - 1.0
    s = f / (f + 2.0)
    q = s * s
    p = (((((2 / 13 * q + 2 / 11) * q + 2 / 9) * q + 2 / 7) * q + 2 / 5) * q + 2 / 3) * q
    ln = f64(n) * LN2 + (s * p + (s + s))
    ln = ln if base > 0 else -np.inf
    finite = bits < INFINITY64
    ln = ln if finite else base
    t = min(max(exponent * ln, -120.0), 120.0)
    shifted = t * LOG2E64 + ROUND64
    r = t - (shifted - ROUND64) * LN2
    p = ((((((B8 * r + B7) * r + B6) * r + B5) * r + B4) * r + B3) * r + B2) * r * r + r
    size = (p + 1.0) * _power_of_two64(_bits64(shifted) - ROUND64_BITS)
    half = exponent * 0.5
    whole, even = (exponent + ROUND64) - ROUND64 == exponent, (half + ROUND64) - ROUND64 == half
    z = -size if (_bits32(x) < i32(0)) & whole & (not even) else size
    z = np.nan if (x < f32(0)) & finite & (not whole) else z
    at_one = (x == f32(1)) | ((base == 1.0) & (_bits64(abs(exponent)) == INFINITY64))
    return f32(1.0 if (exponent == 0) | at_one else z)


@inline
def _power64(x: Any, y: Any) -> Any:
    return x**y


# --- order ---

LARGEST32, LARGEST64 = np.iinfo(np.int32).max, np.iinfo(np.int64).max


@inline
def _rank32(x: Any) -> Any:
    bits = _bits32(x + f32(0))  # -0.0 becomes 0.0
    return i32(bits ^ ((bits >> i32(31)) & i32(LARGEST32))) if x == x else i32(LARGEST32)


@inline
def _rank64(x: Any) -> Any:
    bits = _bits64(x + 0.0)
    return i64(bits ^ ((bits >> i64(63)) & i64(LARGEST64))) if x == x else i64(LARGEST64)


@inline
def _of_rank32(rank: Any) -> Any:
    return _from_bits32(rank ^ ((rank >> i32(31)) & i32(LARGEST32)))


@inline
def _of_rank64(rank: Any) -> Any:
    return _from_bits64(rank ^ ((rank >> i64(63)) & i64(LARGEST64)))


# --- what kernels call ---

SIN_LIMIT = 1e6  # beyond, sin and cos here are wrong: too much of x is lost with the multiples of pi/2


def exp(x: Any) -> Any:
    """Return e^x of one float32 or float64, within 1.1 ulp."""
    return _exp32(x) if isinstance(x, np.float32) else _exp64(x)


def exp_near(x: Any) -> Any:
    """Return e^x of one float32 or float64 from -80 to 80 or NaN, within 1.1 ulp: shorter than ``exp``."""
    return _exp_near32(x) if isinstance(x, np.float32) else _exp_near64(x)


def expm1(x: Any) -> Any:
    """Return e^x - 1 of one float32 or float64, within 2 ulp, also near 0."""
    return _expm1_32(x) if isinstance(x, np.float32) else _expm1_64(x)


def log(x: Any) -> Any:
    """Return ln x of one float32 or float64, within 1 ulp; -inf for 0, NaN below."""
    return _log32(x) if isinstance(x, np.float32) else _log64(x)


def log1p_up_to_1(u: Any) -> Any:
    """Return ln(1 + u) of one float32 or float64 from 0 to 1, within 2 ulp, also near 0."""
    return _log1p_up_to_1_32(u) if isinstance(u, np.float32) else _log1p_up_to_1_64(u)


def tanh(x: Any) -> Any:
    """Return the hyperbolic tangent of one float32 or float64, within 2.5 ulp."""
    return _tanh32(x) if isinstance(x, np.float32) else _tanh64(x)


def sin(x: Any) -> Any:
    """Return the sine of one float32 or float64 of at most SIN_LIMIT in size, within 1.5 ulp."""
    return _sin32(x) if isinstance(x, np.float32) else _sin64(x)


def cos(x: Any) -> Any:
    """Return the cosine of one float32 or float64 of at most SIN_LIMIT in size, within 1.5 ulp."""
    return _cos32(x) if isinstance(x, np.float32) else _cos64(x)


def power(x: Any, y: Any) -> Any:
    """Return x^y of two float32, within 0.6 ulp, or of two float64, by the C library; specials are C's."""
    return _power32(x, y) if isinstance(x, np.float32) else _power64(x, y)


def rank(x: Any) -> Any:
    """Return an integer of x's width that orders as floats do, NaN above all.

    LLVM vectorises a running maximum of integers, not one of floats, whose NaN it would have to lose.
    """
    return _rank32(x) if isinstance(x, np.float32) else _rank64(x)


def of_rank(rank: Any) -> Any:
    """Return the float32 or float64 that has this rank."""
    return _of_rank32(rank) if isinstance(rank, np.int32) else _of_rank64(rank)


# Compiled callers: Numba asks these for the implementation that fits the argument's type.
@overload_exactly(exp)
def _choose_exp(x: Any) -> Any:
    return _exp32 if x == types.float32 else _exp64


@overload_exactly(exp_near)
def _choose_exp_near(x: Any) -> Any:
    return _exp_near32 if x == types.float32 else _exp_near64


@overload_exactly(expm1)
def _choose_expm1(x: Any) -> Any:
    return _expm1_32 if x == types.float32 else _expm1_64


@overload_exactly(log)
def _choose_log(x: Any) -> Any:
    return _log32 if x == types.float32 else _log64


@overload_exactly(log1p_up_to_1)
def _choose_log1p_up_to_1(u: Any) -> Any:
    return _log1p_up_to_1_32 if u == types.float32 else _log1p_up_to_1_64


@overload_exactly(tanh)
def _choose_tanh(x: Any) -> Any:
    return _tanh32 if x == types.float32 else _tanh64


@overload_exactly(sin)
def _choose_sin(x: Any) -> Any:
    return _sin32 if x == types.float32 else _sin64


@overload_exactly(cos)
def _choose_cos(x: Any) -> Any:
    return _cos32 if x == types.float32 else _cos64


@overload_exactly(rank)
def _choose_rank(x: Any) -> Any:
    return _rank32 if x == types.float32 else _rank64


@overload_exactly(of_rank)
def _choose_of_rank(rank: Any) -> Any:
    return _of_rank32 if rank == types.int32 else _of_rank64


@overload_exactly(power)
def _choose_power(x: Any, y: Any) -> Any:
    return _power32 if x == types.float32 else _power64
