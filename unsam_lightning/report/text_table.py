"""A table of texts, for the page and for Markdown, and how a number with its interval is written in it.

Next in the tour: `report/differences.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from unsam_lightning.report.bootstrap import Interval


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

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


def interval_text(interval: Interval, digits: int, sign: str = "") -> str:
    """Return "12.3 [11.0, 14.1]"; a difference that is 0 in every object is "0 [equal]".

    Args:
        interval: The numbers.
        digits: Decimals.
        sign: "+" for differences.
    """
    if sign and interval == (0.0, 0.0, 0.0):
        return "0 [equal]"
    # Rounded first: what rounds to 0 has no sign to tell.
    mean, low, high = (f"{round(number, digits) + 0.0:{sign}.{digits}f}" for number in interval)
    return f"{mean} [{low}, {high}]"
