"""The one way in which this package compiles a function with numba: cached on disk, without the interpreter's lock.

Next in the tour: `lane_math.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile at the first call, or load from numba's cache; keep the type for the type checker."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


_LANES = {"reassoc", "contract", "nsz"}


def compiled_in_lanes(function: Function) -> Function:
    """Compile so that sums may be reordered into vector lanes; NaN and infinity keep their meaning.

    A division by zero gives one of these: Python's error would be a branch in the loop, which no lane can take.
    """
    return cast(Function, numba.njit(cache=True, nogil=True, fastmath=_LANES, error_model="numpy")(function))


def inlined_in_lanes(function: Function) -> Function:
    """The same for a part of such functions, written into them: arrays are given to it for nothing."""
    return cast(Function, numba.njit(inline="always", fastmath=_LANES)(function))
