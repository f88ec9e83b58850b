"""Repeated runs as one table: mean and standard deviation over the seeds, beside what the base has.

    python -m unsam_lightning.report.seeds "pairs=runs/pairs-*/*-test" "all three=runs/all-*/*-test"

A row for each NAME=PATTERN, whose runs differ in their seed alone; Markdown on standard output.
Next in the tour: `parsing.py`.
"""

from __future__ import annotations

import argparse
import glob
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from unsam_lightning.benchmarks.objects import AUTOMATIC, GRACO, OWN_CHOICE
from unsam_lightning.errors import UserError, exit_with_one_line
from unsam_lightning.report.runs import Run, read_runs

_BEST_OF_THREE = "oracle: best of 3 masks per click"
_UNION = "whole image, grid: union of 10 g"
_EQUAL_CALLS = "whole image, grid of 10 times the points: 3 masks a point"
_BOUNDARIES = "boundaries"  # no row of the table: the run's own numbers of them


@dataclass(frozen=True)
class Bar:
    """A number of the tuned model and its fair opponent: as many tries, or the nearest that the base has.

    Args:
        title: Heading.
        tuned: Mode of the tuned model's row.
        base: Mode of the base's.
        name: Field of the row.
        factor: For print.
        digits: Decimals.
    """

    title: str
    tuned: str
    base: str
    name: str
    factor: float
    digits: int


BARS = (
    Bar("1-IoU %, automatic", AUTOMATIC, OWN_CHOICE, "one_click_iou", 100, 1),
    Bar("1-IoU %, GraCo's oracle", GRACO, _BEST_OF_THREE, "one_click_iou", 100, 1),
    Bar("1-IoU %, best of 10", "oracle: best of 10 g per metric", _BEST_OF_THREE, "one_click_iou", 100, 1),
    Bar("NoC80, GraCo's oracle", GRACO, _BEST_OF_THREE, "noc80", 1, 2),
    Bar("NoC90, GraCo's oracle", GRACO, _BEST_OF_THREE, "noc90", 1, 2),
    Bar("AR1000 %, union of 10 g", _UNION, "whole image, grid: 3 masks a point", "ar1000", 100, 1),
    Bar(
        "AR1000 %, union; base of as many calls",
        _UNION,
        _EQUAL_CALLS,
        "ar1000",
        100,
        1,
    ),
    Bar(
        "AR1000 %, 5 g and the base's masks; base of as many calls",
        "whole image, grids: 5 g, and 3 masks a point of a finer one",
        _EQUAL_CALLS,
        "ar1000",
        100,
        1,
    ),
    Bar("boundary F %, ODS", _BOUNDARIES, _BOUNDARIES, "ods_f", 100, 1),
)

#: The dial's own numbers: field, heading, factor, decimals.
DIAL = (
    ("calibration_error", "calibration error", 1, 3),
    ("monotone_sweeps", "monotone sweeps %", 100, 1),
    ("nesting", "nesting %", 100, 1),
)


def seeds_table(groups: dict[str, list[Run]], dataset: str) -> list[list[str]]:
    """Return the table's rows of cells, the heading first.

    Args:
        groups: Name -> its runs, at least one; all of one data set and one evaluation.
        dataset: Which.

    Raises:
        UserError: The runs judge different bases or different masks, so that no row may stand beside another.
    """
    _check_alike(groups, dataset)
    everything = [run for runs in groups.values() for run in runs]
    base = [_number(everything[0], dataset, "base", bar.base, bar.name) for bar in BARS]
    counts_clicks = everything[0].about["evaluation"]["max_clicks"] > 1  # of one click alone all need one
    tuned = [[_number(run, dataset, "tuned", bar.tuned, bar.name) for run in everything] for bar in BARS]
    has = [
        value is not None and any(one is not None for one in ours) and (counts_clicks or not bar.name.startswith("noc"))
        for bar, value, ours in zip(BARS, base, tuned, strict=True)
    ]
    bars = [bar for bar, is_there in zip(BARS, has, strict=True) if is_there]
    opponents = [value for value, is_there in zip(base, has, strict=True) if value is not None and is_there]
    table = [["", "seeds", *(bar.title for bar in bars), *(title for _, title, *_ in DIAL)]]
    cells = [f"{bar.factor * value:.{bar.digits}f}" for bar, value in zip(bars, opponents, strict=True)]
    table.append(["base's opponent", "", *cells, *[""] * len(DIAL)])
    for name, runs in groups.items():
        cells = [name, str(len(runs))]
        for bar, opponent in zip(bars, opponents, strict=True):
            values = [_number(run, dataset, "tuned", bar.tuned, bar.name) for run in runs]
            cells.append(_spread(values, bar.factor, bar.digits, opponent))
        for field, _, factor, digits in DIAL:
            cells.append(_spread([run.dial.get(dataset, {}).get(field) for run in runs], factor, digits))
        table.append(cells)
    return table


def _number(run: Run, dataset: str, model: str, mode: str, name: str) -> float | None:
    if mode == _BOUNDARIES:
        return run.boundaries.get(dataset, {}).get(model, {}).get(name)
    found = [row for row in run.rows if (row.dataset, row.model, row.mode) == (dataset, model, mode)]
    return getattr(found[0], name) if found else None


def _spread(values: Sequence[float | None], factor: float, digits: int, opponent: float | None = None) -> str:
    """Return "35.2 ± 0.3 (-1 %)": mean, sample standard deviation, change against the opponent."""
    numbers = [factor * value for value in values if value is not None]
    if len(numbers) < len(values):
        return ""
    mean = statistics.fmean(numbers)
    text = f"{mean:.{digits}f}"
    if len(numbers) > 1:
        text += f" ± {statistics.stdev(numbers):.{digits}f}"
    return text if opponent is None else f"{text} ({100 * (mean / (factor * opponent) - 1):+.0f} %)"


def _check_alike(groups: dict[str, list[Run]], dataset: str) -> None:
    """Refuse runs that must not stand in one table."""
    seen = {}
    for name, runs in groups.items():
        for run in runs:
            if dataset not in run.datasets:
                raise UserError(
                    expected=f"runs measured on {dataset}",
                    found=f"{run.name} of {name!r}, on {', '.join(run.datasets)}",
                    remedy="name a data set that all have by --dataset",
                )
            masks = tuple(sorted({one.identity for one in run.objects if one.dataset == dataset}))
            seen[run.about["base"]["sha256"], str(run.about["evaluation"]), masks] = f"{run.name} of {name!r}"
    if len(seen) > 1:
        raise UserError(
            expected="runs of one base, one evaluation and the same masks",
            found=f"different ones, such as {' and '.join(list(seen.values())[:2])}",
            remedy="run `test` again with the same --model.evaluation.* and --data.*",
        )


def main(args: Iterable[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m unsam_lightning.report.seeds", description=__doc__)
    parser.add_argument("groups", nargs="+", metavar="NAME=PATTERN", help="run folders of one recipe")
    parser.add_argument("--dataset", help="by default the first that all have")
    options = parser.parse_args(None if args is None else list(args))
    groups: dict[str, list[Run]] = {}
    for group in options.groups:
        name, _, pattern = group.partition("=")
        folders = sorted(glob.glob(pattern)) if pattern else []
        if not folders:
            raise UserError(
                expected="NAME=PATTERN, such as 'pairs=runs/pairs-*/*-test'",
                found=f"{group!r}, which names no folder",
                remedy="quote the pattern, so that the shell leaves it alone",
            )
        groups[name] = [run for folder in folders for run in read_runs([Path(folder)])]
    dataset = options.dataset or next(iter(groups.values()))[0].datasets[0]
    head, *rows = seeds_table(groups, dataset)
    print(f"{dataset}, mean ± standard deviation over seeds (change against the base's opponent)\n")
    for cells in (head, ["---"] * len(head), *rows):
        print(f"| {' | '.join(cells)} |")


if __name__ == "__main__":
    with exit_with_one_line():
        main()
