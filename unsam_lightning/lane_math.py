"""Elementary functions in float32 for loops that a compiler can spread over a processor's vector lanes.

The library's own exponential and logarithm would be called number by number. Next in the tour: `manifest.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import inlined_in_lanes

Floats = npt.NDArray[np.float32]


def polynomial(function: Callable[[float], float], low: float, high: float, degree: int) -> tuple[float, ...]:
    """Return the coefficients, in powers of t in [-1, 1], of a polynomial near a function between two numbers."""
    at = np.cos(np.pi * (np.arange(200) + 0.5) / 200)
    values = [function(low + (high - low) * (t + 1) / 2) for t in at]
    fitted = np.polynomial.chebyshev.chebfit(at, values, degree)
    return tuple(float(c) for c in np.polynomial.chebyshev.cheb2poly(fitted))


#: 2^x for x in [0, 1], to 2e-7.
_POWER = polynomial(lambda x: 2.0**x, 0.0, 1.0, 5)
#: log(1 + x) / x for x in [0, 1], to 2e-7.
_LOG = polynomial(lambda x: math.log1p(x) / x, 0.0, 1.0, 8)


@inlined_in_lanes
def power_of_2(x: Floats, bits: npt.NDArray[np.uint32], whole: Floats) -> None:
    """Replace x <= 0 by 2^x; `bits` and `whole` are the same scratch memory, seen as integers and as numbers."""
    for i in range(len(x)):
        v = max(x[i], np.float32(-100))
        floor = np.floor(v)
        t = np.float32(2) * (v - floor) - np.float32(1)
        p = np.float32(_POWER[5]) * t + np.float32(_POWER[4])
        p = p * t + np.float32(_POWER[3])
        p = p * t + np.float32(_POWER[2])
        p = p * t + np.float32(_POWER[1])
        x[i] = p * t + np.float32(_POWER[0])
        bits[i] = np.uint32(np.int32(floor) + np.int32(127)) << np.uint32(23)
    for i in range(len(x)):
        x[i] *= whole[i]


@inlined_in_lanes
def log_of_1_plus(x: np.float32) -> np.float32:
    """Return log(1 + x) for x in [0, 1]."""
    t = np.float32(2) * x - np.float32(1)
    p = np.float32(_LOG[8]) * t + np.float32(_LOG[7])
    p = p * t + np.float32(_LOG[6])
    p = p * t + np.float32(_LOG[5])
    p = p * t + np.float32(_LOG[4])
    p = p * t + np.float32(_LOG[3])
    p = p * t + np.float32(_LOG[2])
    p = p * t + np.float32(_LOG[1])
    return x * (p * t + np.float32(_LOG[0]))
