"""What the report needs of a run folder: tables, a row for each object and mode, curves, pictures.

Next in the tour: `report/charts.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.objects import ObjectRow, objects_from_csv
from unsam_lightning.benchmarks.tables import Row
from unsam_lightning.errors import UserError, is_folder


@dataclass(frozen=True)
class Run:
    """One finished evaluation.

    Args:
        letter: A, B, ... in the order of the command line; short for the name.
        name: Of its folder, with the parent's.
        folder: Where it lies.
        about: Step, base model, precision, what was measured.
        rows: Its table.
        objects: See `benchmarks.objects`.
        dial: Data set -> the dial's numbers.
        curves: Data set -> IoU after one click by granularity.
        boundaries: Data set whose masks are segmentations -> model -> BSDS's boundary numbers.
        remarks: Data set -> what was odd in it.
        cases: Pictures, by name.
    """

    letter: str
    name: str
    folder: Path
    about: dict[str, Any]
    rows: list[Row]
    objects: list[ObjectRow]
    dial: dict[str, dict[str, float | None]]
    curves: dict[str, dict[str, float]]
    boundaries: dict[str, dict[str, dict[str, float]]]
    remarks: dict[str, dict[str, Any]]
    cases: list[Path]

    @property
    def datasets(self) -> list[str]:
        """Names of its data sets, sorted."""
        return sorted({row.dataset for row in self.rows})

    def of_mode(self, dataset: str, model: str, mode: str) -> list[ObjectRow]:
        """Return the objects' rows of one way of choosing the mask."""
        return [one for one in self.objects if (one.dataset, one.model, one.mode) == (dataset, model, mode)]


def read_runs(folders: list[Path]) -> list[Run]:
    """Return the newest evaluation of each run folder, a `test` before a `validate`.

    Raises:
        UserError: A folder has none, or one of another version.
    """
    if len(folders) > len(ascii_uppercase):
        raise UserError(
            expected=f"at most {len(ascii_uppercase)} runs", found=str(len(folders)), remedy="compare fewer at a time"
        )
    return [_read_run(folder.resolve(), letter) for folder, letter in zip(folders, ascii_uppercase, strict=False)]


def _read_run(folder: Path, letter: str) -> Run:
    is_there = is_folder(folder)
    found = sorted(
        folder.glob("benchmark_*.json"), key=lambda path: ("_test_" in path.name, path.stat().st_mtime_ns), reverse=True
    )
    if not found:
        raise UserError(
            expected=f"a run folder with benchmark_*.json at {folder}",
            found="no such file" if is_there else "no folder",
            remedy="run `test` first; it prints its run folder",
        )
    stage = re.sub("^benchmark_", "", found[0].stem)
    objects = folder / f"objects_{stage}.csv"
    try:
        content = json.loads(found[0].read_text(encoding="utf-8"))
        rows = [Row(**row) for row in content["rows"]]
        about, dial, curves = content["about"], content["dial"], content["one_click_iou_at_g"]
        odd, text = content["remarks"], objects.read_text(encoding="utf-8")
        boundaries = content.get("contours", {})  # before there were such maps, boundaries were measured otherwise
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise UserError(
            expected=f"the tables of this version in {found[0]}, and {objects.name} beside it",
            found=f"{type(error).__name__}: {error}",
            remedy="measure the run again with `test`",
        ) from error
    rows_of_objects = objects_from_csv(text, str(objects))
    cases = sorted((folder / f"cases_{stage}").glob("*.png"))
    name = f"{folder.parent.name}/{folder.name}"
    return Run(letter, name, folder, about, rows, rows_of_objects, dial, curves, boundaries, odd, cases)


def is_of_videos(runs: Sequence[Run], dataset: str) -> bool:
    """Return whether a data set's images are frames of videos."""
    return any(dataset in run.about.get("of_videos", ()) for run in runs)  # not in older runs


def drawn_whole(objects: Sequence[ObjectRow], of_videos: bool) -> list[str]:
    """Return for each object what is drawn with all its objects: its image, or its image's video."""
    return [one.key.rpartition("/")[0] if of_videos else one.key for one in objects]


def clicks_curve(objects: list[ObjectRow], max_clicks: int) -> npt.NDArray[np.float64]:
    """Return the mean IoU after 1, 2, ... clicks; a session that has ended keeps its last IoU.

    Args:
        objects: Of one mode whose sessions ran to their end; at least one.
        max_clicks: The clicks allowed.
    """
    kept = [np.pad(one.ious, (0, max_clicks - len(one.ious)), mode="edge") for one in objects]
    return np.asarray(np.mean(kept, axis=0))
