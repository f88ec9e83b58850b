"""Granularity: a number in [0.1, 1] that says how much of a hierarchy of nested masks is meant.

0.1 is the smallest mask of an instance's hierarchy, 1.0 the instance itself. Next in the tour: `aside.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import UserError

if TYPE_CHECKING:
    import torch

MIN_GRANULARITY, MAX_GRANULARITY = 0.1, 1.0

#: The ten granularities that the field sweeps: 0.1, 0.2, ... 1.0.
SWEEP: tuple[float, ...] = tuple(round(0.1 * k, 1) for k in range(1, 11))

#: Named levels and the granularity that stands for each, from the middle of its range; coarse is the whole object.
#: Source: the ranges [0.1, 0.3), [0.3, 0.8), [0.8, 1.0] of a figure of UnSAMv2, which calls the last one "whole".
LEVELS: dict[str, float] = {"fine": 0.2, "medium": 0.55, "coarse": 1.0}


def granularity_scores(areas: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the granularity of every mask of one hierarchy from the masks' areas.

    Args:
        areas: Areas in pixels, (N,), any real dtype, not negative.

    Returns:
        float64 (N,) in [0.1, 1]: 0.1 for the smallest area, 1.0 for the largest, linear in the square root of the
        area between them. All 1.0 where all areas are equal, hence for a single mask; empty for no masks.

    Source: UnSAMv2 (arXiv 2511.13714), equation 3.
    """
    area_px = np.asarray(areas, dtype=np.float64)
    if area_px.size == 0:
        return np.zeros(0)
    side = np.sqrt(area_px + 1e-10)  # the 1e-10 is the official code's; it makes scores equal to the last digit
    smallest, largest = side.min(), side.max()
    if area_px.min() == area_px.max():
        return np.ones_like(side)
    scores = (side - smallest) / (largest - smallest) * (MAX_GRANULARITY - MIN_GRANULARITY) + MIN_GRANULARITY
    return np.asarray(scores, dtype=np.float64)


def tenths(granularity: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.int64]:
    """Return which of ten equal parts of [0.1, 1] each granularity (N,) lies in, 0 to 9; 1.0 lies in the last."""
    return np.asarray(np.minimum((granularity - 0.1) / 0.09, 9), dtype=np.int64)


def one_for_each(granularity: Any, count: int, device: torch.device) -> torch.Tensor:
    """Return granularities float32 (P,) on a device: one for each of `count` prompts, or one for all.

    Args:
        granularity: A number, or P of them in a tensor, an array or a list.
        count: P.
        device: Of the result.

    Raises:
        UserError: Neither one nor P; a value outside [0.1, 1] (checked on the CPU only: a look at GPU memory would
            stall it).
    """
    import torch

    wanted = torch.as_tensor(granularity, dtype=torch.float32)
    if wanted.ndim > 1 or wanted.numel() not in (1, count):
        raise UserError(
            expected=f"one granularity, or one for each of {count} prompts",
            found=f"a shape of {tuple(wanted.shape)}",
            remedy="pass a number or a vector of numbers in [0.1, 1.0]",
        )
    if wanted.device.type == "cpu":
        check_granularity(wanted)
    return wanted.to(device).expand(count)


def check_granularity(granularity: float | torch.Tensor) -> None:
    """Raise `UserError` unless every value lies in [0.1, 1]."""
    if isinstance(granularity, float | int):
        low = high = float(granularity)
    elif granularity.numel():
        low, high = float(granularity.min()), float(granularity.max())
    else:
        return
    # A tolerance of float32 rounding: 0.1 in float32 is a little more than 0.1, in bfloat16 a little less.
    if not (low >= MIN_GRANULARITY - 1e-3 and high <= MAX_GRANULARITY + 1e-3):
        worst = low if not low >= MIN_GRANULARITY - 1e-3 else high
        raise UserError(
            expected="a granularity in [0.1, 1.0]",
            found=f"{worst:g}",
            remedy="use 0.1 for the finest mask, 1.0 for the whole object",
        )
