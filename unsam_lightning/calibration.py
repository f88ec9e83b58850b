"""Calibration: a monotone map from the granularity asked for to the one that the decoder must be given.

A trained decoder's dial need not be straight: at 0.5 it may already give nearly the whole. On clicks in held-out images
the sizes of its answers over the sweep are measured, and the map is the inverse of that curve, so that 0.5 means 0.5.
Next in the tour: `input_checks.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import MAX_GRANULARITY, MIN_GRANULARITY, SWEEP


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A map by its knots; linear between them.

    Args:
        asked: Ascending, in [0.1, 1], (K,).
        given: What the decoder gets for each, not falling, in [0.1, 1], (K,).
        num_clicks: How many clicks it was fitted on.
    """

    asked: tuple[float, ...]
    given: tuple[float, ...]
    num_clicks: int

    def __str__(self) -> str:
        """Say on how many clicks it stands, and every other knot: what is asked for > what the decoder gets."""
        knots = zip(self.asked[::2], self.given[::2], strict=True)
        return f"calibrated on {self.num_clicks} clicks: {' '.join(f'{a:.2g}>{g:.2g}' for a, g in knots)}"

    def apply(self, granularity: Tensor) -> Tensor:
        """Return what the decoder gets for granularities (...)."""
        asked, given = (torch.tensor(knots, device=granularity.device) for knots in (self.asked, self.given))
        right = torch.searchsorted(asked, granularity.contiguous()).clamp(1, len(asked) - 1)
        share = (granularity - asked[right - 1]) / (asked[right] - asked[right - 1])
        return torch.lerp(given[right - 1], given[right], share.clamp(0, 1))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for checkpoints."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_dict(values: dict[str, Any]) -> Calibration:
        """Return the map that `to_dict` described.

        Raises:
            UserError: It is none: two or more numbers to go from, rising, and as many to go to, all in [0.1, 1].
        """
        try:
            asked, given = (tuple(float(value) for value in values[name]) for name in ("asked", "given"))
            found, num_clicks = f"{len(asked)} and {len(given)} numbers", int(values["num_clicks"])
            is_map = len(asked) == len(given) > 1 and list(asked) == sorted(set(asked))
            is_map = is_map and all(MIN_GRANULARITY <= value <= MAX_GRANULARITY for value in (*asked, *given))
        except (KeyError, TypeError, ValueError) as error:
            found, is_map = f"{type(error).__name__} {error}", False
        if not is_map:
            raise UserError(
                expected="the calibration of a dial", found=found, remedy="pass a checkpoint as `fit` wrote it"
            )
        return Calibration(asked=asked, given=given, num_clicks=num_clicks)


def fit_calibration(given: Sequence[float], effective: npt.NDArray[np.float64]) -> Calibration | None:
    """Return the map under which the mean effective granularity is what is asked for.

    Args:
        given: Granularities that the decoder got, ascending, (G,).
        effective: Effective granularity of its answers, (clicks, G), see `metrics.dial.effective_granularity`; a click
            without any (nan) does not count.

    Returns:
        None where no click counts or the answers do not grow at all: then there is nothing to invert.
    """
    counted = effective[~np.isnan(effective).any(1)]
    if not len(counted):
        return None
    curve = _rising(counted.mean(0))
    if curve[-1] - curve[0] < 1e-3:
        return None
    # Stretches that stand still get a slope too small to matter, so that every size has one granularity.
    inverse = np.interp(SWEEP, curve + 1e-9 * np.arange(len(curve)), given)
    inverse[0], inverse[-1] = MIN_GRANULARITY, MAX_GRANULARITY
    return Calibration(asked=SWEEP, given=tuple(np.round(inverse, 6).tolist()), num_clicks=len(counted))


def _rising(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the nearest sequence that never falls, in least squares (pool adjacent violators)."""
    blocks: list[tuple[float, int]] = []  # mean and length
    for value in values.tolist():
        blocks.append((value, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (last, length), (before, longer) = blocks.pop(), blocks.pop()
            blocks.append(((last * length + before * longer) / (length + longer), length + longer))
    return np.concatenate([np.full(length, mean) for mean, length in blocks])
