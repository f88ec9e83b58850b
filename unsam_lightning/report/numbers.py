"""The report's tables: runs side by side with confidence intervals, differences of the same objects, the dial.

Next in the tour: `report/page.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from unsam_lightning.benchmarks.objects import AUTOMATIC, GRACO, ObjectRow
from unsam_lightning.benchmarks.tables import Row
from unsam_lightning.report.bootstrap import Interval, bootstrap_mean
from unsam_lightning.report.published import PUBLISHED
from unsam_lightning.report.runs import Run

#: Numbers of objects: field of the row, heading, factor for print, decimals.
_OF_OBJECTS = (
    ("one_click_iou", "1-IoU %", 100.0, 1),
    ("one_click_boundary_iou", "boundary IoU %", 100.0, 1),
    ("noc80", "NoC80", 1.0, 2),
    ("noc85", "NoC85", 1.0, 2),
    ("noc90", "NoC90", 1.0, 2),
)
#: Numbers of whole images, which have no intervals.
_OF_WHOLE = (
    ("ar1", "AR1 %"),
    ("ar10", "AR10 %"),
    ("ar100", "AR100 %"),
    ("ar1000", "AR1000 %"),
    ("ar1000_small", "… below 32²"),
    ("ar1000_medium", "… to 96²"),
    ("ar1000_large", "… above"),
)

#: Which rows of one run are compared object by object: ours, the opponent.
_FAIR_PAIRS = (
    (("tuned", AUTOMATIC), ("base", "single mask")),
    (("tuned", AUTOMATIC), ("base", "its own choice of 3 masks")),
    (("tuned", GRACO), ("base", "oracle: best of 3 masks per click")),
)

_DIAL = (
    ("calibration_error", "calibration error"),
    ("object_calibration_error", "… against the object"),
    ("monotone_sweeps", "monotone sweeps %"),
    ("monotone_steps", "monotone steps %"),
    ("rising_steps", "rising steps %"),
    ("nesting", "nesting %"),
    ("coverage75", "coverage at 0.75 %"),
    ("recall75", "recall at 0.75 %"),
    ("recall75_fine", "… fine"),
    ("recall75_medium", "… medium"),
    ("recall75_coarse", "… coarse"),
    ("stability", "stability %"),
)


@dataclass(frozen=True)
class TextTable:
    """A table of texts, for a page or for Markdown.

    Args:
        title: Above it.
        note: What its numbers mean.
        head: Headings.
        rows: As many cells each.
        strong: Cells (row, column) whose interval of a difference leaves out 0.
    """

    title: str
    note: str
    head: list[str]
    rows: list[list[str]]
    strong: set[tuple[int, int]] = field(default_factory=set)


def dataset_tables(runs: Sequence[Run], dataset: str) -> list[TextTable]:
    """Return the tables of one data set; `runs` are those that have it, at least one."""
    tables = [_side_by_side(runs, dataset, is_whole) for is_whole in (False, True)]
    tables.append(_within_runs(runs, dataset))
    if len(runs) > 1:
        tables.append(_between_runs(runs, dataset))
    tables += [_dial(runs, dataset), _boundaries(runs, dataset)]
    return [table for table in tables if table.rows]


def published_tables() -> list[TextTable]:
    """Return the paper's tables."""
    return [
        TextTable(table.title, table.protocol, ["method", *table.columns], [row.split(" | ") for row in table.rows])
        for table in PUBLISHED
    ]


def _modes(runs: Sequence[Run], dataset: str) -> list[tuple[str, str]]:
    """Return model and mode of all rows of a data set, in the order of the tables."""
    return list(dict.fromkeys((row.model, row.mode) for run in runs for row in run.rows if row.dataset == dataset))


def _side_by_side(runs: Sequence[Run], dataset: str, is_whole: bool) -> TextTable:
    """Return the rows of clicks, or those of whole images."""
    max_clicks = max(run.about["evaluation"]["max_clicks"] for run in runs)
    columns = [(name, title, factor, digits) for name, title, factor, digits in _OF_OBJECTS]
    columns += [("failures90", f"≥{max_clicks} at 90", 1.0, 0)]
    if is_whole:
        columns = [(name, title, 100.0, 1) for name, title in _OF_WHOLE]
    head = ["model", "mask chosen by"]
    for _, title, *_ in columns:
        head += [f"{title}, {run.letter}" if len(runs) > 1 else title for run in runs]
    rows = []
    for model, mode in _modes(runs, dataset):
        if mode.startswith("whole image") != is_whole:
            continue
        cells = [model, mode.removeprefix("whole image, ")]
        for name, _, factor, digits in columns:
            for run in runs:
                row = next((r for r in run.rows if (r.dataset, r.model, r.mode) == (dataset, model, mode)), None)
                cells.append(_cell(run, row, name, factor, digits))
        rows.append(cells)
    counts = sorted({row.num_masks for run in runs for row in run.rows if row.dataset == dataset})
    masks = f"{' or '.join(f'{count:,}' for count in counts)} masks."
    if is_whole:
        note = f"{masks} Average recall of the best-scored masks, without ground truth in hand; by size in pixels²."
        return TextTable(f"{dataset}: whole images", note, head, rows)
    note = (
        f"{masks} Brackets: 95 % of the means of 2,000 draws of whole images. NoC: clicks to that IoU, fewer is "
        "better. An oracle has the ground truth in hand."
    )
    return TextTable(f"{dataset}: clicks", note, head, rows)


def _cell(run: Run, row: Row | None, name: str, factor: float, digits: int) -> str:
    value = None if row is None else getattr(row, name)
    if row is None or value is None:
        return ""
    objects = [one for one in run.of_mode(row.dataset, row.model, row.mode) if _value(one, name) is not None]
    if name.startswith("failures") or not objects:
        return f"{factor * value:.{digits}f}"
    interval = bootstrap_mean([_value(one, name) or 0.0 for one in objects], [one.key for one in objects])
    return _text(Interval(*(factor * number for number in interval)), digits)


def _value(one: ObjectRow, name: str) -> float | None:
    if name == "one_click_boundary_iou":
        return one.boundary_iou
    return one.ious[0] if name == "one_click_iou" else one.numbers.get(name)


def _text(interval: Interval, digits: int, sign: str = "") -> str:
    mean, low, high = (f"{number:{sign}.{digits}f}" for number in interval)
    return f"{mean} [{low}, {high}]"


def _within_runs(runs: Sequence[Run], dataset: str) -> TextTable:
    head = ["run", "first", "second", "objects", *(f"Δ {title}" for _, title, *_ in _OF_OBJECTS)]
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    for run in runs:
        for ours, theirs in _FAIR_PAIRS:
            first, second = run.of_mode(dataset, *ours), run.of_mode(dataset, *theirs)
            _add_difference(rows, strong, [run.letter, ": ".join(ours), ": ".join(theirs)], first, second)
    note = (
        "First less second on the same objects; bold where 95 % of the draws leave out 0. The two oracles have ten "
        "tries and three."
    )
    return TextTable(f"{dataset}: tuned against base", note, head, rows, strong)


def _between_runs(runs: Sequence[Run], dataset: str) -> TextTable:
    head = ["run", "mask chosen by", "objects", *(f"Δ {title}" for _, title, *_ in _OF_OBJECTS)]
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    for run in runs[1:]:
        for model, mode in _modes(runs, dataset):
            first, second = run.of_mode(dataset, model, mode), runs[0].of_mode(dataset, model, mode)
            _add_difference(rows, strong, [run.letter, f"{model}: {mode}"], first, second)
    note = f"Less {runs[0].letter}, on the objects that both have; bold where 95 % of the draws leave out 0."
    return TextTable(f"{dataset}: against {runs[0].letter}", note, head, rows, strong)


def _add_difference(
    rows: list[list[str]],
    strong: set[tuple[int, int]],
    cells: list[str],
    first: Sequence[ObjectRow],
    second: Sequence[ObjectRow],
) -> None:
    """Append a row of paired differences, if the two have objects in common."""
    partner = {one.identity: one for one in second}
    pairs = [(one, partner[one.identity]) for one in first if one.identity in partner]
    if not pairs:
        return
    cells = [*cells, str(len(pairs))]
    for name, _, factor, digits in _OF_OBJECTS:
        values = [(_value(one, name), _value(other, name), one.key) for one, other in pairs]
        both = [(a - b, key) for a, b, key in values if a is not None and b is not None]
        if not both:
            cells.append("")
            continue
        interval = bootstrap_mean([factor * value for value, _ in both], [key for _, key in both])
        if interval.low > 0 or interval.high < 0:
            strong.add((len(rows), len(cells)))
        cells.append(_text(interval, digits, "+"))
    rows.append(cells)


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
            assert is_share == ("%" in title or title in ("… fine", "… medium", "… coarse"))
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
        if numbers := run.boundaries.get(dataset):
            cells = [f"{100 * numbers[name]:.1f}" for name in names]
            rows.append([run.letter, *cells, f"{numbers['ods_threshold']:.2f}"])
    note = (
        "BSDS's boundary benchmark of the segmentation that the whole-image proposals of each granularity make. ODS: "
        "at the one granularity best for the data set, with its precision and recall; OIS: at each image's best."
    )
    return TextTable(f"{dataset}: boundaries", note, ["run", *names.values(), "best g"], rows)
