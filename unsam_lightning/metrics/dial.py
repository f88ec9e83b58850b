"""The dial's own metrics: what a sweep over granularities at one click does, with or without ground truth.

A perfect dial gives larger masks at larger granularities (monotonicity), each inside the next (nesting), of the size
asked for (calibration); it reaches every mask that people see at the click (coverage), at the granularity that this
mask has (recall), and does not care where in the object the click falls (stability). A dial that stands still is
perfectly monotone, nested and stable: read those beside calibration and the share of steps that rise.
No benchmark of the field has these; the definitions are ours. Next in the tour:
`benchmarks/budget.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP, granularity_scores
from unsam_lightning.pseudo_labels.overlap import intersections, ious

_BOOL = npt.NDArray[np.bool_]
_FLOAT64 = npt.NDArray[np.float64]

#: Levels of people's masks and where each begins in granularity: the ranges of the named `granularity.LEVELS`.
_LEVELS = {"fine": 0.0, "medium": 0.3, "coarse": 0.8}


def effective_granularity(
    areas: npt.ArrayLike, smallest_px: float | None = None, whole_px: float | None = None
) -> _FLOAT64:
    """Return the granularity that masks have, whatever was asked for, float64 (G,) in [0.1, 1].

    It is the masks' score (equation 3 of the paper, `granularity_scores`) in a hierarchy from `smallest_px` to
    `whole_px`: 0.1 for the smallest mask, 1.0 for the whole, linear in the square root of the area between them. What
    is smaller than the smallest, empty masks too, has 0.1, and what is larger than the whole 1.0.

    Args:
        areas: Pixels, (G,).
        smallest_px: The finest mask of the hierarchy; None for the smallest one in `areas` that is not empty.
        whole_px: The object; None for the largest one in `areas`.

    Returns:
        All 1.0 where the smallest is the whole, as for a dial that stands still; nan if all masks are empty and no
        hierarchy is given.
    """
    area_px = np.asarray(areas, dtype=np.float64)
    smallest = np.min(area_px, where=area_px > 0, initial=np.inf) if smallest_px is None else smallest_px
    whole = np.max(area_px, initial=0) if whole_px is None else whole_px
    if not 0 < smallest <= whole:
        if area_px.any() or smallest_px is not None or whole_px is not None:
            raise UserError(
                expected="a hierarchy from a mask that is not empty to one that is not smaller",
                found=f"{smallest:g} to {whole:g} pixels",
                remedy="give the areas of the ground truth's finest mask and of the object",
            )
        return np.full(area_px.shape, np.nan)
    return granularity_scores([smallest, whole, *np.clip(area_px, smallest, whole)])[2:]


def nesting(shared: npt.NDArray[np.int64]) -> float:
    """Return the mean over all pairs of the share of the finer mask that lies inside the coarser one, in [0, 1].

    Args:
        shared: Pixels that the masks of a sweep share, (G, G), from the finest asked to the coarsest; their areas on
            the diagonal. Pairs whose finer mask is empty do not count; nan if none does.
    """
    finer, coarser = np.triu_indices(len(shared), k=1)
    areas = np.diagonal(shared)[finer]
    shares = shared[finer, coarser][areas > 0] / areas[areas > 0]
    return float(shares.mean()) if shares.size else float("nan")


def measure_sweep(
    masks: _BOOL,
    asked: npt.ArrayLike,
    levels: _BOOL | None = None,
    moved: _BOOL | None = None,
    thresholds: Sequence[float] = (0.5, 0.75, 0.9),
) -> dict[str, _FLOAT64]:
    """Return everything measured on the sweep of one click: under each name of `Dial` the values that it averages.

    Args:
        masks: bool (G, H, W), the answers to the granularities.
        asked: The granularities, ascending, (G,).
        levels: bool (L, H, W), people's masks of one object and its parts that contain the click, in any order, none
            empty.
        moved: bool (G, H, W), the answers at another click inside the same mask.
        thresholds: IoUs that count as met, whole per cent.

    Raises:
        UserError: No bool arrays, or of other numbers or sizes; an empty level.
    """
    num_asked, num_levels = np.size(asked), 0 if levels is None else len(levels)
    expected = [(masks, num_asked), (levels, num_levels), (moved, num_asked)]
    given = [(stack, (number, *masks.shape[-2:])) for stack, number in expected if stack is not None]
    if any(stack.dtype != np.bool_ or stack.shape != shape for stack, shape in given):
        raise UserError(
            expected=f"bool masks (number, height, width) of one size, {num_asked} for each sweep",
            found=", ".join(f"{stack.dtype} {stack.shape}" for stack, _ in given),
            remedy="give one mask for each granularity, after a threshold",
        )
    shared = intersections(np.concatenate([stack for stack, _ in given]))
    num_empty = np.count_nonzero(np.diagonal(shared)[num_asked : num_asked + num_levels] == 0)
    if num_empty:
        raise UserError(
            expected="masks of people that contain the click",
            found=f"{num_empty} empty ones of {num_levels}",
            remedy="leave the empty ones out",
        )
    return _measure(shared, np.asarray(asked, dtype=np.float64), num_levels, thresholds)


def _measure(
    shared: npt.NDArray[np.int64], asked: _FLOAT64, num_levels: int, thresholds: Sequence[float]
) -> dict[str, _FLOAT64]:
    """Return the values of `measure_sweep` from the pixels shared by the sweep's masks, the levels and the moved."""
    num_asked = len(asked)
    areas, level_areas, moved_areas = np.split(np.diagonal(shared), [num_asked, num_asked + num_levels])
    overlap = ious(shared)[:num_asked]
    steps = np.diff(areas)
    effective = effective_granularity(areas)
    values: dict[str, Any] = {"empty": areas == 0, "calibration_error": np.abs(effective - asked)}
    values |= {"calibration_bias": effective - asked}
    values |= {f"effective_at_{g:g}": effective[k] for k, g in enumerate(asked)}
    values |= _measure_levels(areas, level_areas, overlap[:, num_asked : num_asked + num_levels], asked, thresholds)
    values |= {"monotone_sweeps": np.all(steps >= 0), "monotone_steps": steps >= 0, "rising_steps": steps > 0}
    values |= {"nesting": nesting(shared[:num_asked, :num_asked])}
    of_moved = np.diagonal(overlap[:, num_asked + num_levels :])
    values |= {"stability": of_moved[areas[: len(of_moved)] + moved_areas > 0]}
    numbers = {name: np.atleast_1d(np.asarray(value, dtype=np.float64)) for name, value in values.items()}
    return {name: value[~np.isnan(value)] for name, value in numbers.items()}


def _measure_levels(
    areas: npt.NDArray[np.int64],
    level_areas: npt.NDArray[np.int64],
    overlap: _FLOAT64,
    asked: _FLOAT64,
    thresholds: Sequence[float],
) -> dict[str, Any]:
    """Return what people's masks say; `overlap` is the IoU of every answer with every level, (G, L)."""
    own = granularity_scores(level_areas)
    smallest, whole = level_areas.min(initial=np.iinfo(np.int64).max), level_areas.max(initial=0)
    error = floor = np.zeros(0)
    if smallest < whole:
        error = np.abs(effective_granularity(areas, float(smallest), float(whole)) - asked)
        floor = np.abs(own - asked[:, None]).min(axis=1)
    values = {"object_calibration_error": error, "object_calibration_floor": floor}
    asked_for = np.argmin(np.abs(asked[:, None] - own).round(9), axis=0)  # 9 digits: 0.35 is as near to both sides
    met = {"coverage": overlap.max(axis=0, initial=0), "recall": overlap[asked_for, np.arange(len(own))]}
    kind_of = np.searchsorted(list(_LEVELS.values()), own.round(9), side="right") - 1
    for threshold in thresholds:
        for name, iou in met.items():
            values[f"{name}{threshold * 100:g}"] = iou >= threshold
            for number, kind in enumerate(_LEVELS):
                values[f"{name}{threshold * 100:g}_{kind}"] = iou[kind_of == number] >= threshold
    return values


class Dial(Metric):
    """The dial's metrics over the sweeps of a data set.

    `compute` gives, nan where nothing counts:
        "num_sweeps", and "empty": the share of empty masks.
        "calibration_error": mean of |effective - asked| granularity, where a sweep's own largest mask is the whole and
            its smallest the finest; "calibration_bias": mean of effective - asked; "effective_at_0.1" ...: the curve.
        "object_calibration_error": the same where the largest and the smallest of people's masks at the click are the
            whole and the finest; clicks with one level only do not count. "object_calibration_floor": what a model
            would have that always gives the level nearest to what is asked: not 0, for people draw few levels.
        "monotone_sweeps", "monotone_steps": share of sweeps, and of steps between neighbouring granularities, in which
            the area never falls as granularity rises; "rising_steps": share of steps in which it rises.
        "nesting": see `nesting`, mean over sweeps.
        "coverage50" ...: share of people's masks that some granularity meets at an IoU of at least 0.50 ... (an oracle
            over the sweep); "coverage50_fine", "_medium", "_coarse": by the mask's own granularity among the masks at
            the click (below 0.3, below 0.8, from 0.8 on).
        "recall50" ..., "recall50_fine" ...: the same at the one granularity of the sweep nearest to the mask's own, the
            finer of two equally near: what somebody gets who asks for it.
        "stability": mean IoU of the masks of a click and of the same granularities at a moved click, where either has a
            pixel.

    Args:
        granularities: Asked for in every sweep, ascending, (G,).
        thresholds: IoUs that count as met, whole per cent.
        **kwargs: torchmetrics' own.
    """

    full_state_update = False
    sums: Tensor
    counts: Tensor
    num_sweeps: Tensor

    def __init__(
        self, granularities: Sequence[float] = SWEEP, thresholds: Sequence[float] = (0.5, 0.75, 0.9), **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if list(granularities) != sorted(set(granularities)) or len(granularities) < 2:
            raise UserError(
                expected="at least two granularities, ascending",
                found=str(list(granularities)),
                remedy="use the field's sweep from 0.1 to 1.0",
            )
        self.asked, self.thresholds = np.array(granularities, dtype=np.float64), tuple(thresholds)
        nothing = np.zeros((len(self.asked), len(self.asked)), dtype=np.int64)
        self.names = list(_measure(nothing, self.asked, 0, self.thresholds))
        for name in ("sums", "counts"):
            self.add_state(name, torch.zeros(len(self.names), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_sweeps", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, masks: _BOOL, levels: _BOOL | None = None, moved: _BOOL | None = None) -> None:
        """Add the sweep of one click; see `measure_sweep`."""
        values = measure_sweep(masks, self.asked, levels, moved, self.thresholds)
        of_names = [(values[name].sum(), values[name].size) for name in self.names]
        sums, counts = torch.tensor(of_names, dtype=torch.float64, device=self.sums.device).unbind(dim=1)
        self.sums += sums
        self.counts += counts
        self.num_sweeps += 1

    def compute(self) -> dict[str, float]:
        """Return the numbers over all sweeps of all processes."""
        means = (self.sums / self.counts).tolist()
        return {"num_sweeps": float(self.num_sweeps)} | dict(zip(self.names, means, strict=True))
