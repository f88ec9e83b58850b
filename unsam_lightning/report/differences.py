"""The report's paired comparisons: the same objects, our model against its base, and one run against another.

Next in the tour: `report/numbers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

from unsam_lightning.benchmarks.objects import AUTOMATIC, GRACO, OWN_CHOICE, ObjectRow
from unsam_lightning.report.bootstrap import MIN_IMAGES, bootstrap_mean
from unsam_lightning.report.runs import Run, drawn_whole, is_of_videos
from unsam_lightning.report.text_table import TextTable, interval_text

#: Numbers of objects: field of the row, heading, factor for print, decimals.
OF_OBJECTS = (
    ("one_click_iou", "1-IoU %", 100.0, 1),
    ("one_click_boundary_iou", "boundary IoU %", 100.0, 1),
    ("noc80", "NoC80", 1.0, 2),
    ("noc85", "NoC85", 1.0, 2),
    ("noc90", "NoC90", 1.0, 2),
)

#: Which rows of one run are compared object by object: ours, the opponent.
_FAIR_PAIRS = (
    (("tuned", AUTOMATIC), ("base", "single mask")),
    (("tuned", AUTOMATIC), ("base", OWN_CHOICE)),
    (("tuned", GRACO), ("base", "oracle: best of 3 masks per click")),
)


def object_value(one: ObjectRow, name: str) -> float | None:
    """Return a number of `OF_OBJECTS` of one object; None where it was not measured."""
    if name == "one_click_boundary_iou":
        return one.boundary_iou
    return one.ious[0] if name == "one_click_iou" else one.numbers.get(name)


def modes(runs: Sequence[Run], dataset: str) -> list[tuple[str, str]]:
    """Return model and mode of all rows of a data set, in the order of the tables."""
    return list(dict.fromkeys((row.model, row.mode) for run in runs for row in run.rows if row.dataset == dataset))


def draws_note(of_videos: bool) -> str:
    """Return what the brackets are."""
    what = "videos" if of_videos else "images"
    return f"Brackets: 95 % of the means of 2,000 draws of whole {what}; none where there are fewer than {MIN_IMAGES}."


def _difference_note(of_videos: bool) -> str:
    bold = "Bold where they leave out 0: of twenty numbers without a difference, one is."
    return f"Better is + for IoU and - for NoC. {draws_note(of_videos)} {bold}"


def within_runs(runs: Sequence[Run], dataset: str) -> TextTable:
    """Return each run's tuned model less its base, of as many tries as can be had alike."""
    head = ["run", "first", "second", "objects", *(f"Δ {title}" for _, title, *_ in OF_OBJECTS)]
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    of_videos = is_of_videos(runs, dataset)
    for run in runs:
        for ours, theirs in _FAIR_PAIRS:
            first, second = run.of_mode(dataset, *ours), run.of_mode(dataset, *theirs)
            cells = [run.letter, ": ".join(ours), ": ".join(theirs)]
            _add_difference(rows, strong, cells, first, second, of_videos)
    note = "First less second on the same objects; the two oracles have ten tries and three. "
    note += _difference_note(of_videos)
    return TextTable(f"{dataset}: tuned against base", note, head, rows, strong)


def between_runs(runs: Sequence[Run], dataset: str) -> TextTable:
    """Return every run less the first, mode by mode."""
    head = ["run", "mask chosen by", "objects", *(f"Δ {title}" for _, title, *_ in OF_OBJECTS)]
    rows: list[list[str]] = []
    strong: set[tuple[int, int]] = set()
    of_videos = is_of_videos(runs, dataset)
    for run in runs[1:]:
        for model, mode in modes(runs, dataset):
            first, second = run.of_mode(dataset, model, mode), runs[0].of_mode(dataset, model, mode)
            _add_difference(rows, strong, [run.letter, f"{model}: {mode}"], first, second, of_videos)
    note = f"Less {runs[0].letter}, on the objects that both have. {_difference_note(of_videos)}"
    return TextTable(f"{dataset}: against {runs[0].letter}", note, head, rows, strong)


def _add_difference(
    rows: list[list[str]],
    strong: set[tuple[int, int]],
    cells: list[str],
    first: Sequence[ObjectRow],
    second: Sequence[ObjectRow],
    of_videos: bool,
) -> None:
    """Append a row of paired differences, if the two have objects in common."""
    partner = {one.identity: one for one in second}
    pairs = [(one, partner[one.identity]) for one in first if one.identity in partner]
    if not pairs:
        return
    cells, names = [*cells, str(len(pairs))], drawn_whole([one for one, _ in pairs], of_videos)
    for name, _, factor, digits in OF_OBJECTS:
        values = [(object_value(one, name), object_value(other, name)) for one, other in pairs]
        both = [(a - b, whole) for (a, b), whole in zip(values, names, strict=True) if a is not None and b is not None]
        if not both:
            cells.append("")
            continue
        if not any(value for value, _ in both):
            cells.append("0 [equal]")
            continue
        interval = bootstrap_mean([factor * value for value, _ in both], [whole for _, whole in both])
        if interval.low > 0 or interval.high < 0:
            strong.add((len(rows), len(cells)))
        cells.append(interval_text(interval, digits, "+"))
    rows.append(cells)
