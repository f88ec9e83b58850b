"""What a benchmark prints to the terminal: what the table is based on, the table, the dial, boundaries, odd data.

Next in the tour: `benchmarks/callback.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from unsam_lightning.benchmarks.evaluate import PROTOCOL_CLICKS, ImageResult
from unsam_lightning.benchmarks.subset import EvalSubset
from unsam_lightning.benchmarks.tables import Row

#: Columns of the printed table: the row's field, the heading, whether it is a share, printed in per cent.
_PRINTED = (
    ("one_click_iou", "1-IoU %", True),
    ("one_click_boundary_iou", "boundary IoU %", True),
    ("noc80", "NoC80", False),
    ("noc85", "NoC85", False),
    ("noc90", "NoC90", False),
    ("ar1000", "AR1000 %", True),
)

#: The dial's numbers that are printed; all are in the JSON file.
_PRINTED_DIAL = (
    "calibration_error",
    "monotone_steps",
    "rising_steps",
    "nesting",
    "coverage75",
    "recall75",
    "stability",
)


def print_scope(datasets: Sequence[EvalSubset], results: Sequence[ImageResult], points_per_side: int) -> None:
    """Print a line for each data set: how many of its images and masks the table stands on, and the grid of clicks.

    Args:
        datasets: What was asked for.
        results: Of all ranks; images without a mask to measure do not count.
        points_per_side: Of the grid; 0: none.
    """
    print()  # a progress bar has not ended its line
    grid = f"; {points_per_side} x {points_per_side} points" if points_per_side else ""
    for images in datasets:
        measured = sum(one.dataset == images.name and one.num_masks > 0 for one in results)
        masks = "all masks" if images.max_masks is None else f"at most {images.max_masks} masks"
        print(f"{images.name}: {measured} of {len(images.dataset)} images, {masks} of each{grid}")


def sessions_note(max_clicks: int) -> str:
    """Return how sessions differ from the protocol's, for a table's heading; empty if they do not."""
    if max_clicks == 1:
        return "one click an object: no NoC and no GraCo's choice"
    return f"at most {max_clicks} clicks where the protocol has {PROTOCOL_CLICKS}" * (max_clicks != PROTOCOL_CLICKS)


def print_table(rows: Sequence[Row], title: str) -> None:
    """Print the table to the terminal; IoU and recall in per cent, NoC in clicks; no column without a number."""
    table = Table(title=title, title_justify="left")
    for name in ("data set", "model", "mask chosen by", "masks"):
        table.add_column(name, justify="right" if name == "masks" else "left")
    printed = [column for column in _PRINTED if any(getattr(row, column[0]) is not None for row in rows)]
    for heading in (*(heading for _, heading, _ in printed), "AR by size %"):
        table.add_column(heading, justify="right")
    previous = ""
    for row in rows:
        if previous and previous != row.dataset:
            table.add_section()
        previous = row.dataset
        cells = []
        for name, _, is_share in printed:
            value = getattr(row, name)
            cells.append("" if value is None else f"{100 * value:.1f}" if is_share else f"{value:.2f}")
        by_size = [getattr(row, f"ar1000_{size}") for size in ("small", "medium", "large")]
        parts = ["-" if value is None else f"{100 * value:.1f}" for value in by_size]
        cells.append("" if row.ar1000 is None else " / ".join(parts))
        table.add_row(row.dataset, row.model, row.mode, str(row.num_masks), *cells)
    Console(width=max(130, Console().width)).print(table)


def print_dial(dial: dict[str, dict[str, float | None]]) -> None:
    """Print what the tuned model's dial does; all in per cent but the calibration error, in granularity."""
    table = Table(title="the dial", title_justify="left")
    table.add_column("data set")
    for name in _PRINTED_DIAL:
        table.add_column(name.replace("_", " "), justify="right")
    for dataset, numbers in dial.items():
        cells = []
        for name in _PRINTED_DIAL:
            value = numbers.get(name)
            is_share = name != "calibration_error"
            cells.append("" if value is None else f"{100 * value:.1f}" if is_share else f"{value:.3f}")
        table.add_row(dataset, *cells)
    Console(width=max(130, Console().width)).print(table)


def print_boundaries(boundaries: dict[str, dict[str, dict[str, float]]]) -> None:
    """Print BSDS's boundary numbers: data set -> model -> number."""
    for dataset, models in boundaries.items():
        for model, numbers in models.items():
            shares = ", ".join(f"{key} {100 * numbers[key]:.1f} %" for key in ("ods_f", "ois_f", "ap"))
            where = f"{dataset}: boundaries in {numbers['num_images']} images, {model}"
            print(f"{where}: {shares}; at contour strength {numbers['ods_threshold']:.2f}")


def print_remarks(odd: dict[str, dict[str, Any]]) -> None:
    """Print what was odd in the data: of each kind how many, and the first by name."""
    for dataset, kinds in odd.items():
        for reason, kind in kinds.items():
            left_out = f", {kind['num_left_out']} left out" if kind["num_left_out"] else ""
            print(f"{dataset}: {reason}: {kind['num_masks']}{left_out}; first {kind['examples'][0]}")
