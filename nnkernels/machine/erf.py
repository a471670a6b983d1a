"""The error function as polynomials that LLVM can put into vector registers, like those of ``elementary.py``.

    erf x = 2/sqrt(pi) times the integral of e^(-t^2) from 0 to x

    |x| < 1     x + x p(x^2)                          p is near its Taylor polynomial
    |x| >= 1    +-(1 - e^(-x^2) P(|x|) / Q(|x|))      P/Q is e^(z^2) (1 - erf z), all coefficients positive

The coefficients are least squares fits, made in 60 digits and reweighted until the largest error counted in
units of erf x was smallest (Lawson's method): 1.2e-9 and 1.6e-10 for float32, 7.3e-18 and 1.4e-18 for
float64. Beyond 4, and 6 for float64, erf x rounds to 1.
"""

from typing import Any

import numpy as np
from numba import types

from nnkernels.machine.elementary import exp_near
from nnkernels.machine.jit import inline, overload_exactly

f32 = np.float32

A0, A1, A2, A3 = f32(0.12837917), f32(-0.37612626), f32(0.11283585), f32(-0.026853787)
A4, A5, A6 = f32(0.00518828), f32(-0.000800978), f32(7.852516e-05)
P0, P1, P2 = f32(1.0010272), f32(0.761756), f32(0.2462495)
Q1, Q2, Q3 = f32(1.8967458), f32(1.3666353), f32(0.435192)

B0, B1, B2, B3 = 0.12837916709551256, -0.3761263890318352, 0.11283791670944181, -0.0268661706431109
B4, B5, B6 = 0.005223977606113984, -0.0008548325929107505, 0.00012055293570942029
B7, B8, B9 = -1.492471219171412e-05, 1.644713025844632e-06, -1.620630404717507e-07
B10, B11 = 1.3710939772813042e-08, -7.779395055916185e-10
R0, R1, R2 = 0.9999998889654333, 1.39007825201495, 0.9489024773005673
R3, R4, R5 = 0.37323113839932903, 0.08423201995653753, 0.008912853657872297
S1, S2, S3 = 2.5184562479313284, 2.790681931361342, 1.7559561430619592
S4, S5, S6 = 0.6694936287127827, 0.14929343662619263, 0.015797745230006897


@inline
def _erf32(x: Any) -> Any:
    z = min(abs(x), f32(4))
    u = z * z
    near = (((((A6 * u + A5) * u + A4) * u + A3) * u + A2) * u + A1) * u + A0
    p, q = (P2 * z + P1) * z + P0, ((Q3 * z + Q2) * z + Q1) * z + f32(1)
    y = z + z * near if z < f32(1) else f32(1) - exp_near(-u) * p / q
    return np.copysign(y, x)


@inline
def _erf64(x: Any) -> Any:
    z = min(abs(x), 6.0)
    u = z * z
    near = (((((B11 * u + B10) * u + B9) * u + B8) * u + B7) * u + B6) * u + B5
    near = ((((near * u + B4) * u + B3) * u + B2) * u + B1) * u + B0
    p = ((((R5 * z + R4) * z + R3) * z + R2) * z + R1) * z + R0
    q = (((((S6 * z + S5) * z + S4) * z + S3) * z + S2) * z + S1) * z + 1.0
    y = z + z * near if z < 1.0 else 1.0 - exp_near(-u) * p / q
    return np.copysign(y, x)


def erf(x: Any) -> Any:
    """Return the error function of one float32 or float64, within 1.2 ulp."""
    return _erf32(x) if isinstance(x, np.float32) else _erf64(x)


@overload_exactly(erf)
def _choose_erf(x: Any) -> Any:
    return _erf32 if x == types.float32 else _erf64
