"""From the results of images to the rows of a table: one row for each data set and each way of choosing a mask.

Pure functions. Next in the tour: `segment/render.py`.
"""

from __future__ import annotations

import csv
import io
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from unsam_lightning.benchmarks.baselines import SCALES
from unsam_lightning.benchmarks.boundaries import STRENGTHS
from unsam_lightning.benchmarks.evaluate import SHARING, EvaluationConfig, ImageResult, State
from unsam_lightning.benchmarks.objects import ObjectRow, sweep_mode
from unsam_lightning.benchmarks.sample import Remark
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.boundary_bsds import BSDSBoundary
from unsam_lightning.metrics.dial import Dial
from unsam_lightning.metrics.proposals import AverageRecall

_SIZES = {"": "", "s": "_small", "m": "_medium", "l": "_large"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the benchmark table; a number that the mode does not have is None.

    Args:
        dataset: Name of the data set.
        model: "base" (untouched SAM-2), "tuned", or "otsu".
        mode: How the mask was chosen; oracles, which look at the ground truth, are named as such.
        num_masks: Ground-truth masks behind the numbers.
        one_click_iou: Mean IoU after one click, in [0, 1].
        one_click_boundary_iou: Mean Boundary IoU after one click, in [0, 1].
        noc80: Mean number of clicks to IoU 0.80; likewise 85, 90, 95.
        noc85: See `noc80`.
        noc90: See `noc80`.
        noc95: See `noc80`; only where sessions go on to 0.95.
        failures80: Number of objects that used all clicks, the field's ">=20@80"; likewise 85, 90, 95.
        failures85: See `failures80`.
        failures90: See `failures80`.
        failures95: See `failures80`.
        ar1: Average recall of the best-scored whole-image proposal, in [0, 1]; likewise of 10, 100 and 1,000.
        ar10: See `ar1`.
        ar100: See `ar1`.
        ar1000: See `ar1`.
        ar1000_small: `ar1000` of masks below 32² pixels; medium up to 96², large above.
        ar1000_medium: See `ar1000_small`.
        ar1000_large: See `ar1000_small`.
    """

    dataset: str
    model: str
    mode: str
    num_masks: int
    one_click_iou: float | None = None
    one_click_boundary_iou: float | None = None
    noc80: float | None = None
    noc85: float | None = None
    noc90: float | None = None
    noc95: float | None = None
    failures80: float | None = None
    failures85: float | None = None
    failures90: float | None = None
    failures95: float | None = None
    ar1: float | None = None
    ar10: float | None = None
    ar100: float | None = None
    ar1000: float | None = None
    ar1000_small: float | None = None
    ar1000_medium: float | None = None
    ar1000_large: float | None = None

    def metrics(self) -> dict[str, float]:
        """Return the numbers that the row has, by the names of a log: "bench/scenes/base/single_mask/noc90"."""
        where = f"bench/{self.dataset}/{self.model}/{re.sub('[^a-z0-9.]+', '_', self.mode.lower()).strip('_')}"
        numbers = {name: getattr(self, name) for name in METRICS}
        return {f"{where}/{name}": float(value) for name, value in numbers.items() if value is not None}


#: The columns of numbers of a table.
METRICS = tuple(name for name in Row.__dataclass_fields__ if name not in ("dataset", "model", "mode", "num_masks"))


def tabulate(results: Sequence[ImageResult], objects: Sequence[ObjectRow], config: EvaluationConfig) -> list[Row]:
    """Return the table of all data sets, sorted by their names.

    Args:
        results: Of all ranks, in any order.
        objects: Their `object_rows`.
        config: With which they were measured.
    """
    groups: dict[str, dict[tuple[str, str], list[ObjectRow]]] = {}
    for one in objects:
        groups.setdefault(one.dataset, {}).setdefault((one.model, one.mode), []).append(one)
    asked_once = {sweep_mode(g) for g in SWEEP if g not in config.fixed}  # for their first click alone
    rows: list[Row] = []
    for name, modes in sorted(groups.items()):
        rows += [_row(name, model, mode, mine) for (model, mode), mine in modes.items() if mode not in asked_once]
        rows += _recall_rows(name, results, config)
    return rows


def _row(dataset: str, model: str, mode: str, objects: Sequence[ObjectRow]) -> Row:
    numbers: dict[str, float] = {"one_click_iou": float(np.mean([one.ious[0] for one in objects]))}
    if strips := [one.boundary_iou for one in objects if one.boundary_iou is not None]:
        numbers["one_click_boundary_iou"] = float(np.mean(strips))
    for name in objects[0].numbers:
        mean_or_sum = np.sum if name.startswith("failures") else np.mean
        numbers[name] = float(mean_or_sum([one.numbers[name] for one in objects]))
    return Row(dataset=dataset, model=model, mode=mode, num_masks=len(objects), **numbers)


def _recall_rows(dataset: str, results: Sequence[ImageResult], config: EvaluationConfig) -> list[Row]:
    whole = {
        "base": ("base", "grid: 3 masks a point"),
        "base, equal calls": ("base", "grid of 10 times the points: 3 masks a point"),
        "tuned": ("tuned", "grid: union of 10 g"),
    }
    whole |= {f"tuned g = {g:g}": ("tuned", f"grid: fixed g = {g:g}") for g in config.fixed}
    whole |= {"tuned and base, equal calls": ("tuned", f"grids: {len(SHARING)} g, and 3 masks a point of a finer one")}
    whole |= {"felzenszwalb": ("felzenszwalb", f"regions at {len(SCALES)} scales")}
    rows = []
    for method, (model, mode) in whole.items():
        states = [one.recall[method] for one in _of(dataset, results) if method in one.recall]
        if not states:
            continue
        metric = AverageRecall(sync_on_compute=False)
        found = computed(metric, states)
        numbers = {f"ar{k}": found[f"AR@{k}"] for k in metric.max_detections}
        numbers |= {f"ar1000{ours}": found[f"AR{theirs}@1000"] for theirs, ours in _SIZES.items()}
        known: dict[str, Any] = {name: value for name, value in numbers.items() if value >= 0}
        mode = f"whole image, {mode}"
        rows.append(Row(dataset=dataset, model=model, mode=mode, num_masks=int(metric.num_masks[0]), **known))
    return rows


def dial_numbers(results: Sequence[ImageResult]) -> dict[str, dict[str, float | None]]:
    """Return the dial's metrics of the tuned model for each data set; see `metrics.dial.Dial` for the names.

    Numbers that nothing counted for are None.
    """
    found = {}
    for dataset in sorted({result.dataset for result in results}):
        states = [result.dial for result in _of(dataset, results) if result.dial]
        numbers = computed(Dial(sync_on_compute=False), states) if states else {}
        found[dataset] = {name: None if value != value else value for name, value in numbers.items()}
    return found


def boundary_numbers(results: Sequence[ImageResult]) -> dict[str, dict[str, dict[str, float]]]:
    """Return BSDS's boundary numbers: data set whose masks are segmentations -> model -> number.

    See `metrics.boundary_bsds.bsds_summary` for the names; the thresholds are contour strengths. "num_images": on how
    many images they stand, those whose masks are segmentations.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for dataset in sorted({result.dataset for result in results if result.boundaries}):
        measured = [result.boundaries for result in _of(dataset, results) if result.boundaries]
        for model in measured[0]:
            numbers = computed(BSDSBoundary(STRENGTHS, sync_on_compute=False), [states[model] for states in measured])
            found.setdefault(dataset, {})[model] = numbers | {"num_images": len(measured)}
    return found


def iou_by_granularity(objects: Sequence[ObjectRow]) -> dict[str, dict[str, float]]:
    """Return the mean IoU after one click at every granularity of the sweep, for each data set."""
    found: dict[str, dict[str, list[float]]] = {}
    modes = {sweep_mode(g): f"{g:g}" for g in SWEEP}
    for one in objects:
        if one.mode in modes:
            found.setdefault(one.dataset, {}).setdefault(modes[one.mode], []).append(one.ious[0])
    return {dataset: {g: float(np.mean(ious)) for g, ious in curve.items()} for dataset, curve in sorted(found.items())}


def remarks(results: Sequence[ImageResult], max_examples: int = 5) -> dict[str, dict[str, Any]]:
    """Return what was odd in each data set: reason -> how many masks (or images), how many left out, and names.

    Args:
        results: Of all ranks, in any order.
        max_examples: At most so many names for each reason of what was used all the same; what was left out is all
            named.
    """
    found: dict[str, dict[str, Any]] = {}
    for result in sorted(results, key=lambda one: (one.dataset, one.index)):
        for remark in (Remark(*values) for values in result.remarks):
            of_kind = found.setdefault(result.dataset, {}).setdefault(
                remark.reason, {"num_masks": 0, "num_left_out": 0, "examples": []}
            )
            of_kind["num_masks"] += 1
            of_kind["num_left_out"] += not remark.kept
            if not remark.kept or len(of_kind["examples"]) < max_examples:
                of_kind["examples"].append(remark.named(result.key))
    return found


def _of(dataset: str, results: Sequence[ImageResult]) -> list[ImageResult]:
    """Return the results of a data set in its order, so that sums of them are the same whoever measured what."""
    return sorted((result for result in results if result.dataset == dataset), key=lambda result: result.index)


def computed(metric: Any, states: Iterable[State]) -> dict[str, float]:
    """Return a metric of the sum of states, added in their order."""
    for state in states:
        metric.merge_state(
            {name: torch.tensor(value, dtype=getattr(metric, name).dtype) for name, value in state.items()}
        )
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="The ``compute`` method", category=UserWarning
        )  # no update of its own
        numbers: dict[str, float] = metric.compute()
    return numbers


def to_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV with a header line."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(asdict(rows[0])) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


def to_json(rows: Sequence[Row], about: dict[str, Any], **more: Any) -> str:
    """Return the table as JSON: {"about": how it was measured, "rows": [...], ...}."""
    return json.dumps({"about": about, "rows": [asdict(row) for row in rows], **more}, indent=2)
