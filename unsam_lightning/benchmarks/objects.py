"""A row for each object and each way of choosing its mask, so that runs can be compared object by object.

Every number of the tables is a mean over these rows. Next in the tour: `benchmarks/tables.py`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from unsam_lightning.benchmarks.evaluate import EvaluationConfig, ImageResult
from unsam_lightning.benchmarks.sessions import SessionResult
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.interactive import number_of_clicks, oracle_granularity, summarize_sessions
from unsam_lightning.source_file import Source

AUTOMATIC = "automatic: the model chooses g"
OWN_CHOICE = "its own choice of 3 masks, then single"
#: "<this>0.3": one granularity for all objects.
FIXED = "fixed g = "
GRACO = "oracle: GraCo's choice of 10 g"

_COLUMNS = ["dataset", "index", "key", "mask", "mask_id", "area_px", "model", "mode", "granularity", "ious"]
_COLUMNS += ["boundary_iou"]
_NUMBERS = ["noc80", "noc85", "noc90", "noc95", "failures80", "failures85", "failures90", "failures95"]

#: Model, mode, granularity, IoUs, Boundary IoU and numbers of one way of choosing one object's mask.
_Mode: TypeAlias = tuple[str, str, float | None, list[float], float | None, dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class ObjectRow:
    """One object and one way of choosing its mask.

    Args:
        dataset: Name of the data set.
        index: Position of the image in it.
        key: Name of the image.
        mask: Position of the mask in the image.
        mask_id: Its name.
        area_px: Its size.
        model: "base", "tuned" or "otsu".
        mode: How the mask was chosen, as in the table.
        granularity: That of the chosen mask; None for other models and where each number has its own.
        ious: IoU after each click, float32 values; only the first where a session did not run to its end, and of
            GraCo's oracle none after its target.
        boundary_iou: Boundary IoU after one click; None where it was not measured.
        numbers: "noc80": clicks to IoU 0.80, "failures80": 1 if all clicks were used (the field's ">=20@80"), and so
            on; empty where a session did not run to its end, and of GraCo's oracle none above its target.
    """

    dataset: str
    index: int
    key: str
    mask: int
    mask_id: str
    area_px: int
    model: str
    mode: str
    granularity: float | None = None
    ious: list[float]
    boundary_iou: float | None = None
    numbers: dict[str, float] = field(default_factory=dict)

    @property
    def identity(self) -> tuple[str, str, str]:
        """What is the same in every run on the same data: data set, image and mask."""
        return self.dataset, self.key, self.mask_id


def object_rows(
    results: Iterable[ImageResult], config: EvaluationConfig, oracle_targets: Mapping[str, float] | None = None
) -> list[ObjectRow]:
    """Return the rows of all objects, by data set, image, mask and mode.

    Args:
        results: Of all ranks, in any order; an image measured twice is a defect and asserted against.
        config: With which they were measured.
        oracle_targets: IoU by which GraCo's oracle chooses, by data set, one of `ORACLE_TARGETS`; 0.9 if not given.
    """
    ordered = sorted(results, key=lambda result: (result.dataset, result.index))
    seen = [(result.dataset, result.index) for result in ordered]
    assert len(set(seen)) == len(seen), "an image was measured twice"
    rows: list[ObjectRow] = []
    for result in ordered:
        groups: dict[str, list[SessionResult]] = {}
        oracle_target = (oracle_targets or {}).get(result.dataset, Source.oracle_target)
        for session in result.sessions:
            groups.setdefault(session.mask_id, []).append(session)
        for mask, (mask_id, group) in enumerate(groups.items()):
            for model, mode, granularity, ious, boundary, numbers in _modes(
                group, result.otsu.get(mask_id, {}), config, oracle_target
            ):
                rows.append(
                    ObjectRow(
                        dataset=result.dataset,
                        index=result.index,
                        key=result.key,
                        mask=mask,
                        mask_id=mask_id,
                        area_px=result.area_px.get(mask_id, 0),
                        model=model,
                        mode=mode,
                        granularity=granularity,
                        ious=ious,
                        boundary_iou=boundary,
                        numbers=numbers,
                    )
                )
    return rows


def _modes(
    group: Sequence[SessionResult], otsu: dict[str, float], config: EvaluationConfig, oracle_target: float
) -> Iterable[_Mode]:
    """Yield every way of choosing one object's mask."""
    for side, iou in otsu.items():
        yield "otsu", f"{side} side of the threshold, no click", None, [iou], None, {}
    names = {
        "base_single": "single mask",
        "base_own_choice": OWN_CHOICE,
        "base_best_of_three": "oracle: best of 3 masks per click",
    }
    for method, mode in names.items():
        for session in (s for s in group if s.method == method):
            numbers = _numbers(session.ious, config.thresholds, config)
            yield "base", mode, None, session.ious, session.first_boundary_iou, numbers
    sweep = [session for session in group if session.method == "tuned"]
    if not sweep:
        return
    for session in (s for s in sweep if s.is_automatic):
        numbers = _numbers(session.ious, config.thresholds, config)
        yield "tuned", AUTOMATIC, session.granularity, session.ious, session.first_boundary_iou, numbers
    for session in sweep:
        is_whole = session.granularity in config.fixed
        ious = session.ious if is_whole else session.ious[:1]
        numbers = _numbers(ious, config.thresholds, config) if is_whole else {}
        mode = f"{FIXED}{session.granularity:g}"
        yield "tuned", mode, session.granularity, ious, session.first_boundary_iou, numbers
    if config.thresholds:  # after one click the fewest clicks are one for all: that would be the best of ten
        yield _gracos_choice(sweep, config, oracle_target)
    every = [session.ious for session in sweep]
    best: dict[str, float] = {}
    for threshold in config.thresholds:
        clicks = min(number_of_clicks(ious, threshold, config.max_clicks) for ious in every)
        best |= {_named("noc", threshold): clicks, _named("failures", threshold): float(clicks == config.max_clicks)}
    strips = [session.first_boundary_iou for session in sweep if session.first_boundary_iou is not None]
    first = [max(ious[0] for ious in every)]
    yield "tuned", "oracle: best of 10 g per metric", None, first, max(strips, default=None), best


def _gracos_choice(sweep: Sequence[SessionResult], config: EvaluationConfig, oracle_target: float) -> _Mode:
    chosen = sweep[oracle_granularity([session.ious for session in sweep], "graco", oracle_target, config.max_clicks)]
    # GraCo's session ends at its target: ours went on beyond, and another granularity's may have cut it short.
    ious = chosen.ious[: number_of_clicks(chosen.ious, oracle_target, config.max_clicks)]
    numbers = _numbers(ious, [t for t in config.thresholds if t <= oracle_target], config)
    return "tuned", GRACO, chosen.granularity, ious, chosen.first_boundary_iou, numbers


def _numbers(ious: list[float], thresholds: Sequence[float], config: EvaluationConfig) -> dict[str, float]:
    summary = summarize_sessions([ious], thresholds, config.max_clicks)
    return {_named(kind, t): summary[_named(kind, t)] for kind in ("noc", "failures") for t in thresholds}


def _named(kind: str, threshold: float) -> str:
    return f"{kind}{threshold * 100:g}"


def objects_to_csv(rows: Sequence[ObjectRow]) -> str:
    """Return the rows as CSV with a header line; `ious` are separated by spaces."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=_COLUMNS + _NUMBERS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        line = {name: getattr(row, name) for name in _COLUMNS} | row.numbers
        # The shortest text that gives the same float32 again.
        writer.writerow(line | {"ious": " ".join(str(np.float32(iou)) for iou in row.ious)})
    return buffer.getvalue()


def objects_from_csv(text: str, name: str) -> list[ObjectRow]:
    """Return the rows that `objects_to_csv` wrote.

    Args:
        text: The file's content.
        name: Of the file, for errors.

    Raises:
        UserError: It is no such file.
    """
    try:
        return [
            ObjectRow(
                dataset=line["dataset"],
                index=int(line["index"]),
                key=line["key"],
                mask=int(line["mask"]),
                mask_id=line["mask_id"],
                area_px=int(line["area_px"]),
                model=line["model"],
                mode=line["mode"],
                granularity=float(line["granularity"]) if line["granularity"] else None,
                ious=[float(np.float32(iou)) for iou in line["ious"].split()],
                boundary_iou=float(line["boundary_iou"]) if line["boundary_iou"] else None,
                numbers={number: float(line[number]) for number in _NUMBERS if line[number]},
            )
            for line in csv.DictReader(io.StringIO(text))
        ]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise UserError(
            expected=f"a table of objects with the columns {', '.join(_COLUMNS)} in {name}",
            found=f"{type(error).__name__} {error}",
            remedy="give a run folder that `test` of this version wrote",
        ) from error


def sweep_mode(granularity: float) -> str:
    """Return the mode of the rows at one granularity, of which `SWEEP` has ten."""
    assert granularity in SWEEP
    return f"{FIXED}{granularity:g}"
