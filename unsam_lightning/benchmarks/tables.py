"""From the results of images to the rows of a table: one row for each data set and each way of choosing a mask.

Pure functions. Next in the tour: `benchmarks/callback.py`.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from unsam_lightning.benchmarks.evaluate import THRESHOLDS, ImageResult
from unsam_lightning.benchmarks.interactive import SessionResult
from unsam_lightning.metrics.interactive import choose_granularity, number_of_clicks, summarize_sessions

#: The columns of numbers of a table.
METRICS = ("one_click_iou", "noc80", "noc85", "noc90", "ar1000")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the benchmark table; a number that the mode does not have is None.

    Args:
        dataset: Name of the data set.
        model: "base" (untouched SAM-2) or "tuned".
        mode: How the mask was chosen; oracles, which look at the ground truth, are named as such.
        num_masks: Ground-truth masks behind the numbers.
        one_click_iou: Mean IoU after one click, in [0, 1].
        noc80: Mean number of clicks to IoU 0.80; likewise 85 and 90.
        noc85: See `noc80`.
        noc90: See `noc80`.
        ar1000: Average recall of up to 1,000 whole-image proposals, in [0, 1].
    """

    dataset: str
    model: str
    mode: str
    num_masks: int
    one_click_iou: float | None = None
    noc80: float | None = None
    noc85: float | None = None
    noc90: float | None = None
    ar1000: float | None = None

    def metrics(self) -> dict[str, float]:
        """Return the numbers that the row has, by the names of a log: "bench/scenes/base/single_mask/noc90"."""
        where = f"bench/{self.dataset}/{self.model}/{re.sub('[^a-z0-9.]+', '_', self.mode.lower()).strip('_')}"
        numbers = {name: getattr(self, name) for name in METRICS}
        return {f"{where}/{name}": float(value) for name, value in numbers.items() if value is not None}


def tabulate(results: Sequence[ImageResult], *, fixed: Sequence[float], max_clicks: int, target: float) -> list[Row]:
    """Return the table of all data sets, sorted by their names.

    Args:
        results: Of all ranks, in any order; an image measured twice is a defect and asserted against.
        fixed: Granularities that were run to their end.
        max_clicks: As in the evaluation.
        target: As in the evaluation.
    """
    ordered = sorted(results, key=lambda result: (result.dataset, result.index))
    seen = [(result.dataset, result.index) for result in ordered]
    assert len(set(seen)) == len(seen), "an image was measured twice"
    rows: list[Row] = []
    for name in sorted({result.dataset for result in results}):
        mine = [result for result in ordered if result.dataset == name]
        if any(result.num_masks for result in mine):
            rows += _dataset_rows(name, mine, fixed, max_clicks, target)
    return rows


def _dataset_rows(
    name: str, results: Sequence[ImageResult], fixed: Sequence[float], max_clicks: int, target: float
) -> list[Row]:
    groups = _by_mask(results)
    num_masks = len(groups)

    def row(model: str, mode: str, sessions: list[list[float]]) -> Row:
        summary = summarize_sessions(sessions, THRESHOLDS, max_clicks)
        numbers = {key: summary[key] for key in METRICS if key in summary}
        return Row(dataset=name, model=model, mode=mode, num_masks=num_masks, **numbers)

    rows = [
        row("base", "single mask", [_one(group, "base_single") for group in groups]),
        row("base", "oracle: best of 3 masks per click", [_one(group, "base_best_of_three") for group in groups]),
    ]
    rows += [row("tuned", f"fixed g = {g:g}", [_one(group, "tuned", g) for group in groups]) for g in fixed]
    sweeps = [[s.ious for s in group if s.method == "tuned"] for group in groups]
    chosen = [sweep[choose_granularity(sweep, "graco", target, max_clicks)] for sweep in sweeps]
    rows.append(row("tuned", "oracle: GraCo's choice of 10 g", chosen))
    rows.append(_best_per_metric(name, sweeps, max_clicks))
    whole = {"base": ("base", "3 masks a point"), "tuned": ("tuned", "union of 10 g")}
    whole |= {f"tuned g = {g:g}": ("tuned", f"fixed g = {g:g}") for g in fixed}
    for method, (model, mode) in whole.items():
        recall = _recall(results, method)
        if recall is not None:
            mode = f"whole image, grid: {mode}"
            rows.append(Row(dataset=name, model=model, mode=mode, num_masks=num_masks, ar1000=recall))
    return rows


def _best_per_metric(name: str, sweeps: Sequence[Sequence[list[float]]], max_clicks: int) -> Row:
    """Return the row of the strongest oracle: for each number its own best granularity of each object."""
    first = [max(session[0] for session in sweep) for sweep in sweeps]
    noc = {
        f"noc{threshold * 100:g}": float(
            np.mean([min(number_of_clicks(session, threshold, max_clicks) for session in sweep) for sweep in sweeps])
        )
        for threshold in THRESHOLDS
    }
    mode = "oracle: best of 10 g per metric"
    return Row(
        dataset=name, model="tuned", mode=mode, num_masks=len(sweeps), one_click_iou=float(np.mean(first)), **noc
    )


def _by_mask(results: Sequence[ImageResult]) -> list[list[SessionResult]]:
    groups: dict[tuple[int, str], list[SessionResult]] = {}
    for result in results:
        for session in result.sessions:
            groups.setdefault((result.index, session.mask_id), []).append(session)
    return list(groups.values())


def _one(group: Sequence[SessionResult], method: str, granularity: float | None = None) -> list[float]:
    return next(s.ious for s in group if s.method == method and s.granularity == granularity)


def _recall(results: Sequence[ImageResult], method: str) -> float | None:
    """Return the data set's AR@1000: the images' recalls weighted by their numbers of masks."""
    pairs = [(result.recall[method]["AR@1000"], result.num_masks) for result in results if method in result.recall]
    if not pairs:
        return None
    return float(sum(recall * count for recall, count in pairs) / sum(count for _, count in pairs))


def to_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV with a header line."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(asdict(rows[0])) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return buffer.getvalue()


def to_json(rows: Sequence[Row], about: dict[str, Any]) -> str:
    """Return the table as JSON: {"about": how it was measured, "rows": [...]}."""
    return json.dumps({"about": about, "rows": [asdict(row) for row in rows]}, indent=2)
