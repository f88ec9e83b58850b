"""Charts as inline SVG: lines over a number, and histograms. No library, no script.

Next in the tour: `report/text_table.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

#: Of lines and bars, in order; told apart also by people who see fewer colours (Okabe and Ito).
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5f5f5f", "#b8a800")

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP, _RIGHT = 440, 300, 52, 44, 30, 12


#: Of lines, in order: whole, dashed, dotted, dashed and dotted.
_DASHES = ("", "7 4", "2 3", "8 3 2 3")


class Style(NamedTuple):
    """How a line or bar looks: places in the colours and in the kinds of line; a bar of a later kind is paler."""

    color: int
    kind: int = 0

    def stroke(self) -> str:
        """Return the attributes of a line."""
        dash = _DASHES[self.kind % len(_DASHES)]
        dashes = f' stroke-dasharray="{dash}"' if dash else ""
        return f'stroke="{COLORS[self.color % len(COLORS)]}" stroke-width="2"{dashes}'

    def fill(self) -> str:
        """Return the attributes of a bar."""
        return f'fill="{COLORS[self.color % len(COLORS)]}" fill-opacity="{1 / (1 + self.kind % len(_DASHES)):.2f}"'


def line_chart(
    title: str,
    x_label: str,
    y_label: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x_range: tuple[float, float],
    y_range: tuple[float, float] = (0.0, 1.0),
    diagonal: bool = False,
    whole_x: bool = False,
    styles: Mapping[str, Style] | None = None,
) -> str:
    """Return a chart of lines with points, `<figure>`; "" where no line has a point.

    Args:
        title: Above it.
        x_label: Below it.
        y_label: To its left.
        lines: Name -> (x, y) in order.
        x_range: Ends of the axis.
        y_range: Ends of the axis; values outside are drawn at the end.
        diagonal: Also draw y = x, where answers as asked would lie.
        whole_x: Whether only whole numbers are written below the axis.
        styles: By name; colours in order if not given.
    """
    if not any(lines.values()):
        return ""
    parts = _axes(title, x_label, y_label, x_range, y_range, (whole_x, False))
    if diagonal:
        (x0, y0), (x1, y1) = (_place(value, value, x_range, y_range) for value in x_range)
        parts.append(f'<line x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}" class="asked"/>')
    chosen = styles or _in_order(lines)
    for name, points in lines.items():
        places = [_place(x, y, x_range, y_range) for x, y in points]
        path = " ".join(f"{x},{y}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" {chosen[name].stroke()}/>')
        parts += [f'<circle cx="{x}" cy="{y}" r="2.6" {Style(chosen[name].color).fill()}/>' for x, y in places]
    return _figure(parts, {name: f'<line x1="0" y1="5" x2="24" y2="5" {chosen[name].stroke()}/>' for name in lines})


def histogram(
    title: str,
    x_label: str,
    y_label: str,
    bars: Mapping[str, Sequence[int]],
    styles: Mapping[str, Style] | None = None,
) -> str:
    """Return bars beside each other for whole numbers from 1 on, `<figure>`; "" where all counts are 0.

    Args:
        title: Above it.
        x_label: Below it.
        y_label: To its left.
        bars: Name -> how many for each number; all of one length.
        styles: By name; colours in order if not given.
    """
    highest = max((count for counts in bars.values() for count in counts), default=0)
    if highest == 0:
        return ""
    length = max(len(counts) for counts in bars.values())
    x_range, y_range = (0.5, length + 0.5), (0.0, float(highest))
    parts = _axes(title, x_label, y_label, x_range, y_range, (True, True))
    width, chosen = 0.8 / len(bars), styles or _in_order(bars)
    for number, (name, counts) in enumerate(bars.items()):
        for k, count in enumerate(counts, start=1):
            left, top = _place(k - 0.4 + number * width, count, x_range, y_range)
            right, bottom = _place(k - 0.4 + (number + 1) * width, 0, x_range, y_range)
            size = f'width="{right - left:.1f}" height="{bottom - top:.1f}"'
            parts.append(f'<rect x="{left}" y="{top}" {size} {chosen[name].fill()}/>')
    return _figure(parts, {name: f'<rect x="7" y="0" width="10" height="10" {chosen[name].fill()}/>' for name in bars})


def _in_order(names: Mapping[str, object]) -> dict[str, Style]:
    return {name: Style(number) for number, name in enumerate(names)}


def _place(x: float, y: float, x_range: tuple[float, float], y_range: tuple[float, float]) -> tuple[float, float]:
    across = (x - x_range[0]) / (x_range[1] - x_range[0])
    up = min(max((y - y_range[0]) / (y_range[1] - y_range[0]), 0.0), 1.0)
    return (
        round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
        round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _BOTTOM - _TOP), 1),
    )


def _axes(
    title: str,
    x_label: str,
    y_label: str,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
    is_whole: tuple[bool, bool],
) -> list[str]:
    middle_x, middle_y = (_WIDTH + _LEFT - _RIGHT) / 2, (_HEIGHT + _TOP - _BOTTOM) / 2
    parts = [
        f'<text x="{middle_x}" y="17" class="title">{escape(title)}</text>',
        f'<text x="{middle_x}" y="{_HEIGHT - 8}" class="label">{escape(x_label)}</text>',
        f'<text x="14" y="{middle_y}" class="label" transform="rotate(-90 14 {middle_y})">{escape(y_label)}</text>',
    ]
    for y in _ticks(*y_range, is_whole[1]):
        (x0, height), (x1, _) = (_place(end, y, x_range, y_range) for end in x_range)
        parts.append(f'<line x1="{x0}" y1="{height}" x2="{x1}" y2="{height}" class="grid"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 4}" class="tick" text-anchor="end">{y:g}</text>')
    for x in _ticks(*x_range, is_whole[0]):
        across, bottom = _place(x, y_range[0], x_range, y_range)
        parts.append(f'<text x="{across}" y="{bottom + 16}" class="tick" text-anchor="middle">{x:g}</text>')
    return parts


def _ticks(low: float, high: float, is_whole: bool) -> list[float]:
    """Return round numbers from `low` to `high`, at most eleven."""
    step = next(
        step
        for power in range(0 if is_whole else -3, 9)
        for step in (10.0**power, 2 * 10.0**power, 5 * 10.0**power)
        if (high - low) / step <= 10 + 1e-9
    )
    first = int(-(-(low - 1e-9) // step))
    return [round(k * step, 9) for k in range(first, int((high + 1e-9) // step) + 1)]


def _figure(parts: Sequence[str], keys: Mapping[str, str]) -> str:
    """Return the drawing with its legend: name -> what it looks like, in 24 x 10."""
    legend = "".join(
        f'<span><svg class="key" viewBox="0 0 24 10">{key}</svg>{escape(name)}</span>' for name, key in keys.items()
    )
    drawing = f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img">{"".join(parts)}</svg>'
    return f'<figure class="chart">{drawing}<figcaption>{legend}</figcaption></figure>'
