"""A table of texts, for the page and for Markdown, and how a number with its interval is written in it.

Next in the tour: `report/differences.py`.
"""

from __future__ import annotations

import math
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
    """Return "12.3 [11.0, 14.1]", or "12.3" alone where there are too few images for an interval.

    Args:
        interval: The numbers.
        digits: Decimals.
        sign: "+" for differences.
    """
    # Rounded first: what rounds to 0 has no sign to tell.
    mean, low, high = (f"{round(number, digits) + 0.0:{sign}.{digits}f}" for number in interval)
    return mean if math.isnan(interval.low) else f"{mean} [{low}, {high}]"
