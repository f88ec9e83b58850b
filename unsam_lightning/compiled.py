"""The one way in which this package compiles a function with numba: cached on disk, without the interpreter's lock.

Next in the tour: `lane_math.py`.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.extending import is_jitted

Function = TypeVar("Function", bound=Callable[..., object])


def compiled(function: Function) -> Function:
    """Compile at the first call, or load from numba's cache; keep the type for the type checker."""
    return _cached(function, nogil=True)


_LANES = {"reassoc", "contract", "nsz"}


def compiled_in_lanes(function: Function) -> Function:
    """Compile so that sums may be reordered into vector lanes; NaN and infinity keep their meaning.

    A division by zero gives one of these: Python's error would be a branch in the loop, which no lane can take.
    """
    return _cached(function, nogil=True, fastmath=_LANES, error_model="numpy")


def inlined_in_lanes(function: Function) -> Function:
    """The same for a part of such functions, written into them: arrays are given to it for nothing."""
    return cast(Function, numba.njit(inline="always", fastmath=_LANES)(function))


def _cached(function: Function, **options: Any) -> Function:
    """Compile with numba's cache; without one where nothing can be written, in each process anew."""
    try:
        made = numba.njit(cache=True, **options)(function)
        if is_jitted(made):  # not with NUMBA_DISABLE_JIT
            # Numba asks whether the function's own file has changed, and has no public place to ask for more.
            file = made._cache._cache_file
            file._source_stamp = (file._source_stamp, [_digest(path) for path in _files_behind(function)])
    # RuntimeError: "cannot cache function", for neither the package's folder nor the user's can be written.
    # AttributeError: a numba whose cache is built otherwise; better slow than stale, and the tests tell.
    except (RuntimeError, OSError, AttributeError):
        made = numba.njit(**options)(function)
    return cast(Function, made)


def _files_behind(function: Callable[..., object]) -> list[Path]:
    """Return the files that a function's machine code depends on beside its own: of its kernels, of theirs, and this.

    Sorted. Kernels are found by the names that their module knows when the function is decorated.
    """
    files, todo = {Path(__file__)}, [function.__globals__]
    while todo:
        for kernel in filter(is_jitted, list(todo.pop().values())):
            path = Path(kernel.py_func.__code__.co_filename)
            if path not in files:
                files.add(path)
                todo.append(kernel.py_func.__globals__)
    return sorted(files)


@functools.cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
