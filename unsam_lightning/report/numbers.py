"""The report's tables: runs side by side with confidence intervals, the dial, what was odd in the data.

Next in the tour: `report/page.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from unsam_lightning.benchmarks.printing import sessions_note
from unsam_lightning.benchmarks.tables import Row
from unsam_lightning.report.bootstrap import Interval, bootstrap_mean
from unsam_lightning.report.differences import OF_OBJECTS, between_runs, draws_note, modes, object_value, within_runs
from unsam_lightning.report.published import PUBLISHED
from unsam_lightning.report.runs import Run, drawn_whole, is_of_videos
from unsam_lightning.report.text_table import TextTable, interval_text

#: So many names of each kind of oddity are shown; those left out are all in the run's JSON.
_NUM_NAMES = 5

#: Numbers of whole images, which have no intervals.
_OF_WHOLE = (
    ("ar1", "AR1 %"),
    ("ar10", "AR10 %"),
    ("ar100", "AR100 %"),
    ("ar1000", "AR1000 %"),
    ("ar1000_small", "AR1000 below 32² %"),
    ("ar1000_medium", "AR1000 to 96² %"),
    ("ar1000_large", "AR1000 above %"),
)

_DIAL = (
    ("calibration_error", "calibration error"),
    ("object_calibration_error", "calibration error, of the object"),
    ("monotone_sweeps", "monotone sweeps %"),
    ("monotone_steps", "monotone steps %"),
    ("rising_steps", "rising steps %"),
    ("nesting", "nesting %"),
    ("coverage75", "coverage at 0.75 %"),
    ("recall75", "recall at 0.75 %"),
    ("recall75_fine", "recall of fine %"),
    ("recall75_medium", "recall of medium %"),
    ("recall75_coarse", "recall of coarse %"),
    ("stability", "stability %"),
)


def dataset_tables(runs: Sequence[Run], dataset: str) -> list[TextTable]:
    """Return the tables of one data set; `runs` are those that have it, at least one."""
    tables = [_side_by_side(runs, dataset, is_whole) for is_whole in (False, True)]
    tables.append(within_runs(runs, dataset))
    if len(runs) > 1:
        tables.append(between_runs(runs, dataset))
    tables += [_dial(runs, dataset), _boundaries(runs, dataset), _odd(runs, dataset)]
    return [table for table in tables if table.rows]


def published_tables() -> list[TextTable]:
    """Return the paper's tables."""
    return [
        TextTable(table.title, table.protocol, ["method", *table.columns], [row.split(" | ") for row in table.rows])
        for table in PUBLISHED
    ]


def _side_by_side(runs: Sequence[Run], dataset: str, is_whole: bool) -> TextTable:
    """Return the rows of clicks, or those of whole images."""
    limits = sorted({int(run.about["evaluation"]["max_clicks"]) for run in runs})
    columns = [(name, title, factor, digits) for name, title, factor, digits in OF_OBJECTS]
    columns += [("failures90", f"≥{limits[-1]} at 90", 1.0, 0)]
    if is_whole:
        columns = [(name, title, 100.0, 1) for name, title in _OF_WHOLE]
    there = [row for run in runs for row in run.rows if row.dataset == dataset]
    columns = [column for column in columns if any(getattr(row, column[0]) is not None for row in there)]
    head = ["model", "mask chosen by"]
    for _, title, *_ in columns:
        head += [f"{title}, {run.letter}" if len(runs) > 1 else title for run in runs]
    rows = []
    for model, mode in modes(runs, dataset):
        if mode.startswith("whole image") != is_whole:
            continue
        cells = [model, mode.removeprefix("whole image, ")]
        for name, _, factor, digits in columns:
            for run in runs:
                row = next((r for r in run.rows if (r.dataset, r.model, r.mode) == (dataset, model, mode)), None)
                cells.append(_cell(run, row, name, factor, digits))
        rows.append(cells)
    counts = sorted({row.num_masks for run in runs for row in run.rows if row.dataset == dataset})
    images = sorted({len({one.key for one in run.objects if one.dataset == dataset}) for run in runs})
    masks = f"{_either(counts)} masks in {_either(images)} images."
    if is_whole:
        note = f"{masks} Average recall of the best-scored masks, without ground truth in hand; by size in pixels²."
        return TextTable(f"{dataset}: whole images", note, head, rows)
    note = f"{masks} {draws_note(is_of_videos(runs, dataset))} NoC: clicks to that IoU, fewer is better. "
    note += "An oracle has the ground truth in hand."
    note += "".join(f" Sessions: {text}." for text in map(sessions_note, limits) if text)
    return TextTable(f"{dataset}: clicks", note, head, rows)


def _either(counts: Sequence[int]) -> str:
    return " or ".join(f"{count:,}" for count in counts)


def _cell(run: Run, row: Row | None, name: str, factor: float, digits: int) -> str:
    value = None if row is None else getattr(row, name)
    if row is None or value is None:
        return ""
    objects = [one for one in run.of_mode(row.dataset, row.model, row.mode) if object_value(one, name) is not None]
    if name.startswith("failures") or not objects:
        return f"{factor * value:.{digits}f}"
    wholes = drawn_whole(objects, is_of_videos([run], row.dataset))
    interval = bootstrap_mean([object_value(one, name) or 0.0 for one in objects], wholes)
    return interval_text(Interval(*(factor * number for number in interval)), digits)


def _dial(runs: Sequence[Run], dataset: str) -> TextTable:
    rows = []
    for run in runs:
        numbers = run.dial.get(dataset, {})
        if not numbers:
            continue
        cells = [run.letter, f"{numbers['num_sweeps'] or 0:.0f}"]
        for name, title in _DIAL:
            value = numbers.get(name)
            is_share = name not in ("calibration_error", "object_calibration_error")
            assert is_share == ("%" in title)
            cells.append("" if value is None else f"{100 * value:.1f}" if is_share else f"{value:.3f}")
        rows.append(cells)
    note = (
        "What the ten granularities give at the first click of each object. A dial that stands still is monotone and "
        "nested too: see rising steps. Recall: at the granularity that the mask has; coverage: at any."
    )
    return TextTable(f"{dataset}: the dial", note, ["run", "sweeps", *(title for _, title in _DIAL)], rows)


def _boundaries(runs: Sequence[Run], dataset: str) -> TextTable:
    names = {"ods_f": "ODS F %", "ois_f": "OIS F %", "ap": "AP %", "ods_precision": "P %", "ods_recall": "R %"}
    rows = []
    for run in runs:
        for model, numbers in run.boundaries.get(dataset, {}).items():
            cells = [f"{100 * numbers[name]:.1f}" for name in names]
            images = f"{numbers['num_images']:.0f}" if "num_images" in numbers else ""  # not in older runs
            rows.append([run.letter, model, images, *cells, f"{numbers['ods_threshold']:.2f}"])
    note = (
        "BSDS's boundary benchmark of one contour map of all whole-image proposals, by one rule for base and tuned: a "
        "contour is as strong as the share of the masks around it that end there. ODS: at the one strength best for "
        "the data set, with its precision and recall; OIS: at each image's best; AP: over all strengths. Images: those "
        "whose annotators' masks were all measured and cover them."
    )
    return TextTable(f"{dataset}: boundaries", note, ["run", "model", "images", *names.values(), "best strength"], rows)


def _odd(runs: Sequence[Run], dataset: str) -> TextTable:
    rows = []
    for run in runs:
        for reason, kind in run.remarks.get(dataset, {}).items():
            names = kind["examples"][:_NUM_NAMES]
            more = kind["num_masks"] - len(names)
            text = "; ".join(names) + (f"; and {more:,} more" if more else "")
            rows.append([run.letter, reason, str(kind["num_masks"]), str(kind["num_left_out"]), text])
    note = "Masks, or images where a whole one is named. All that is left out is named in the run's benchmark_*.json."
    return TextTable(f"{dataset}: odd in the data", note, ["run", "what", "how many", "left out", "which"], rows)
