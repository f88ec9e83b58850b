"""The page and its Markdown: tables, curves, pictures, the paper's numbers.

Next in the tour: `report/seeds.py`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

from unsam_lightning.aside import write_text_aside
from unsam_lightning.benchmarks.objects import AUTOMATIC, GRACO
from unsam_lightning.report.charts import Style, histogram, line_chart
from unsam_lightning.report.numbers import dataset_tables, published_tables
from unsam_lightning.report.runs import Run, clicks_curve
from unsam_lightning.report.text_table import TextTable

#: Whose clicks are drawn: model, mode, name in the legend.
_DRAWN = (
    ("base", "single mask", "base, single mask"),
    ("tuned", AUTOMATIC, "tuned, automatic"),
    ("tuned", GRACO, "tuned, GraCo's oracle"),
)

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #1b1b1b; background: #fff; margin: 2rem auto; max-width: 1240px;
  padding: 0 1rem }
h1 { font-size: 1.6rem; overflow-wrap: anywhere } h2 { margin-top: 2.6rem; border-bottom: 2px solid #ddd;
  padding-bottom: .2rem }
h3 { margin: 1.6rem 0 .2rem; font-size: 1.05rem } p.note { color: #555; margin: .1rem 0 .5rem; max-width: 60rem }
.wide { overflow-x: auto } table { border-collapse: collapse; font-size: 13px } th { text-align: left; color: #333 }
th, td { padding: .22rem .36rem; border-bottom: 1px solid #e4e4e4; white-space: nowrap; vertical-align: top }
th { white-space: normal; vertical-align: bottom; max-width: 6rem }
td.number { text-align: right; font-variant-numeric: tabular-nums }
td.prose { white-space: normal; min-width: 22rem; overflow-wrap: anywhere }
.range { color: #666; font-size: 11px; font-weight: 400; display: block }
.charts { display: flex; flex-wrap: wrap; gap: 1.2rem } figure { margin: 0 } .chart { width: min(100%, 520px) }
.chart figcaption { font-size: 12px; color: #333 } .chart figcaption span { display: inline-block; margin-left: 10px;
  white-space: nowrap } .key { width: 24px; height: 10px; margin-right: 4px }
svg .title { font-size: 14px; text-anchor: middle; font-weight: 600 }
svg .label { font-size: 12px; text-anchor: middle; fill: #444 } svg .tick { font-size: 11px; fill: #555 }
svg .grid { stroke: #ddd } svg .asked { stroke: #777; stroke-width: 1.5; stroke-dasharray: 2 3 }
.cases img { max-width: 100%; border: 1px solid #ddd; display: block }
.cases figcaption { font-size: 12px; color: #333; margin-bottom: .8rem }
"""


def write_report(runs: Sequence[Run], out: Path) -> list[Path]:
    """Write the page to `out` and the tables beside it as Markdown; return both paths.

    Args:
        runs: At least one; the first is the one that others are compared with.
        out: The page, *.html.

    Raises:
        UserError: A file cannot be written.
    """
    markdown = out.with_suffix(".md")
    write_text_aside(out, to_html(runs))
    write_text_aside(markdown, to_markdown(runs))
    return [out, markdown]


def to_html(runs: Sequence[Run]) -> str:
    """Return the page: one file, without scripts, that loads nothing."""
    parts = [f"<h1>{escape(_title(runs))}</h1>", _table_html(_about(runs))]
    for dataset in _datasets(runs):
        mine = [run for run in runs if dataset in run.datasets]
        parts.append(f"<h2>{escape(dataset)}</h2>")
        parts.append(f'<div class="charts">{"".join(_charts(mine, dataset))}</div>')
        parts += [_table_html(table) for table in dataset_tables(mine, dataset)]
        parts += [_cases_html(run, dataset) for run in mine]
    parts.append("<h2>What the paper reports</h2>")
    parts.append(
        '<p class="note">UnSAMv2, arXiv 2511.13714. Other weights, other data, other protocols than above: each'
    )
    parts.append(" table says which. Only rows of the same protocol may be compared.</p>")
    parts += [_table_html(table) for table in published_tables()]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(_title(runs))}</title><style>{_STYLE}</style>"
    body = "\n".join(part for part in parts if part)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def to_markdown(runs: Sequence[Run]) -> str:
    """Return the page's tables as Markdown."""
    lines = [f"# {_title(runs)}", ""]
    tables = [_about(runs)]
    for dataset in _datasets(runs):
        tables += dataset_tables([run for run in runs if dataset in run.datasets], dataset)
    tables += published_tables()
    for table in tables:
        lines += [f"## {table.title}", "", table.note, "", _markdown_row(table.head)]
        lines.append("|" + " --- |" * len(table.head))
        for number, row in enumerate(table.rows):
            cells = [f"**{cell}**" if (number, column) in table.strong else cell for column, cell in enumerate(row)]
            lines.append(_markdown_row(cells))
        lines.append("")
    return "\n".join(lines)


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _title(runs: Sequence[Run]) -> str:
    return "Benchmarks of " + ", ".join(dict.fromkeys(run.name for run in runs))


def _datasets(runs: Sequence[Run]) -> list[str]:
    return sorted({dataset for run in runs for dataset in run.datasets})


def _about(runs: Sequence[Run]) -> TextTable:
    names = list(dict.fromkeys(name for run in runs for name in run.about["evaluation"]))
    rows = [
        [
            run.letter,
            run.name,
            str(run.about["step"]),
            run.about["base"]["name"],
            str(run.about["precision"]),
            *(str(run.about["evaluation"].get(name, "")) for name in names),
        ]
        for run in runs
    ]
    head = ["", "run", "trained steps", "base model", "trainer precision", *(name.replace("_", " ") for name in names)]
    return TextTable("The runs", "Base and tuned model of a run were judged by the same code.", head, rows)


def _table_html(table: TextTable) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in table.head)
    lines = []
    for number, row in enumerate(table.rows):
        cells = []
        for column, cell in enumerate(row):
            is_number = re.fullmatch(r"[+-]?\d[\d.,/]*( \[.*\])?", cell) is not None
            mean, bracket, interval = escape(cell).partition(" [")
            text = f'{mean}<span class="range">[{interval}</span>' if bracket and is_number else escape(cell)
            text = f"<b>{text}</b>" if (number, column) in table.strong else text
            kind = "number" if is_number else "prose" if len(cell) > 60 else "name"
            cells.append(f'<td class="{kind}">{text}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<h3>{escape(table.title)}</h3>{note}<div class="wide">{body}</div>'


def _charts(runs: Sequence[Run], dataset: str) -> list[str]:
    by_g = {run.letter: [(float(g), value) for g, value in run.curves.get(dataset, {}).items()] for run in runs}
    given = {
        run.letter: [
            (float(name.removeprefix("effective_at_")), value)
            for name, value in run.dial.get(dataset, {}).items()
            if name.startswith("effective_at_") and value is not None
        ]
        for run in runs
    }
    asked, sweep = "granularity asked for", (0.1, 1.0)
    title = "Calibration: dotted is as asked"
    return [
        line_chart("IoU after one click, by granularity", asked, "mean IoU", by_g, x_range=sweep),
        line_chart(title, asked, "granularity given", given, x_range=sweep, y_range=sweep, diagonal=True),
        *_click_charts(runs, dataset),
    ]


def _most_counted(runs: Sequence[Run], dataset: str) -> str | None:
    """Return the highest IoU, in per cent, to which the clicks of all that is drawn are counted; None if to none."""
    drawn = [objects[0] for model, mode, _ in _DRAWN for run in runs if (objects := run.of_mode(dataset, model, mode))]
    return next((iou for iou in ("90", "85", "80") if all(f"noc{iou}" in one.numbers for one in drawn)), None)


def _click_charts(runs: Sequence[Run], dataset: str) -> list[str]:
    """Return IoU by click and the histogram: a colour for each way of choosing, a kind of line for each run."""
    lines: dict[str, list[tuple[float, float]]] = {}
    bars: dict[str, list[int]] = {}
    styles, bar_styles = {}, {}
    longest, counted = max(_max_clicks(run) for run in runs), _most_counted(runs, dataset)
    for color, (model, mode, name) in enumerate(_DRAWN):
        alike: dict[tuple[float, ...], list[int]] = {}  # runs on one base: its line once
        for place, run in enumerate(runs):
            if objects := run.of_mode(dataset, model, mode):
                alike.setdefault(tuple(clicks_curve(objects, _max_clicks(run)).tolist()), []).append(place)
        for curve, places in alike.items():
            run, letters = runs[places[0]], ", ".join(runs[place].letter for place in places)
            label = f"{letters}: {name}" if len(runs) > 1 else name
            target = run.about.get("oracle_targets", {}).get(dataset, 0.9)
            if mode == GRACO and target < 0.9:  # a line that goes on level where others go on clicking
                label += f", to IoU {target:g}"
            lines[label], styles[label] = list(enumerate(curve, start=1)), Style(color, places[0])
            if counted is None:
                continue
            counts = [round(one.numbers[f"noc{counted}"]) for one in run.of_mode(dataset, model, mode)]
            last = _max_clicks(run)
            with_last = f"{label} (and {counts.count(last)} of {len(counts)} at {last} or never)"
            bars[with_last] = [counts.count(number) for number in range(1, last)]
            bar_styles[with_last] = Style(color, places[0])
    title = f"Clicks to IoU 0.{counted}, where fewer than {longest}"
    return [
        line_chart(
            "IoU by click", "clicks", "mean IoU", lines, x_range=(1, max(2, longest)), whole_x=True, styles=styles
        ),
        histogram(title, "clicks", "objects", bars, styles=bar_styles),
    ]


def _max_clicks(run: Run) -> int:
    return int(run.about["evaluation"]["max_clicks"])


def _cases_html(run: Run, dataset: str) -> str:
    pictures = []
    for path in run.cases:
        name, _, rest = path.stem.rpartition(f"{dataset}_")
        if name or not rest[:1].isdigit():
            continue  # of another data set
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        label = rest.partition("_")[2] + _title_of(path)
        picture = f'<img alt="{escape(label)}" src="data:image/png;base64,{data}">'
        pictures.append(f"<figure>{picture}<figcaption>{escape(label)}</figcaption></figure>")
    if not pictures:
        return ""
    note = "By the IoU of the automatic mask after one click, the dot: yellow is what was asked for, blue what came."
    title = f'<h3>{escape(dataset)}: cases of {run.letter}</h3><p class="note">{note}</p>'
    return f'{title}<div class="cases">{"".join(pictures)}</div>'


def _title_of(path: Path) -> str:
    """Return which object a picture shows, as `benchmarks/callback.py` wrote it into the file."""
    with Image.open(path) as picture:
        return f": {picture.info['Title']}" if "Title" in picture.info else ""
