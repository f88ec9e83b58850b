import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsam_lightning.benchmarks.evaluate import EvaluationConfig, ImageResult
from unsam_lightning.benchmarks.objects import AUTOMATIC, object_rows, objects_to_csv
from unsam_lightning.benchmarks.sessions import METHODS, SessionResult
from unsam_lightning.benchmarks.tables import iou_by_granularity, tabulate, to_json
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.report.charts import histogram, line_chart
from unsam_lightning.report.numbers import dataset_tables, published_tables
from unsam_lightning.report.page import to_html, to_markdown
from unsam_lightning.report.runs import Run, clicks_curve, read_runs
from unsam_lightning.report.text_table import TextTable

CONFIG = EvaluationConfig(fixed=(1.0,), max_clicks=3)


def run_folder(
    folder: Path,
    better: float,
    num_images: int = 12,
    stage: str = "test_000005",
    num_early: int = 0,
    oracle_target: float = 0.9,
    config: EvaluationConfig = CONFIG,
    images_of_video: int = 0,
) -> Path:
    """A run on images of one object, whose tuned model is so much better than its base after one click.

    In the first `num_early` images every session arrives at the second of its three clicks.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng, results = np.random.default_rng(0), []
    for index in range(num_images):
        first = 0.3 + 0.3 * rng.random()
        sessions = []
        for method in METHODS:
            for g in SWEEP if method == "tuned" else (None,):
                later = [0.95] if index < num_early else [0.5, 0.95]
                ious = [first + (better if method == "tuned" else 0.0), *later][: config.max_clicks]
                common = {"mask_id": "a", "method": method, "granularity": g}
                sessions.append(SessionResult(ious=np.float32(ious).tolist(), is_automatic=g == 0.4, **common))
        key = f"{index // images_of_video}/{index}" if images_of_video else f"<{index}>"
        results.append(
            ImageResult(dataset="set", index=index, key=key, num_masks=1, sessions=sessions, area_px={"a": 9})
        )
    objects = object_rows(results, config, {"set": oracle_target})
    about = {"step": 5, "base": {"name": "nano"}, "precision": "32", "evaluation": dataclasses.asdict(config)}
    about |= {"oracle_targets": {"set": oracle_target}, "of_videos": ["set"] if images_of_video else []}
    dial = {"set": {"num_sweeps": 12.0, "calibration_error": 0.125, "effective_at_0.1": 0.2, "stability": None}}
    odd = {"set": {"empty": {"num_masks": 2, "num_left_out": 1, "examples": ["<b>"]}}}
    names = ("ods_f", "ois_f", "ap", "ods_precision", "ods_recall", "ods_threshold")
    contours = {"set": {"tuned": {**dict.fromkeys(names, 0.5), "num_images": 7}}}
    more = {"dial": dial, "one_click_iou_at_g": iou_by_granularity(objects), "contours": contours, "remarks": odd}
    (folder / f"benchmark_{stage}.json").write_text(to_json(tabulate(results, objects, config), about, **more))
    (folder / f"objects_{stage}.csv").write_text(objects_to_csv(objects))
    (folder / f"cases_{stage}").mkdir(exist_ok=True)
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / f"cases_{stage}" / "set_0_best.png")
    return folder


def test_tables_by_hand(tmp_path: Path) -> None:
    runs = read_runs([run_folder(tmp_path / "one", 0.0), run_folder(tmp_path / "two", 0.25)])
    tables = {table.title: table for table in dataset_tables(runs, "set")}
    clicks = tables["set: clicks"]
    row = dict(zip(clicks.head, next(row for row in clicks.rows if row[1] == "single mask"), strict=True))
    assert row["1-IoU %, A"] == row["1-IoU %, B"]
    assert row["NoC80, A"] == "3.00 [3.00, 3.00]"
    assert row["≥3 at 90, B"] == "12"
    between = tables["set: against A"]
    places = {cells[1]: number for number, cells in enumerate(between.rows)}
    automatic, single = places[f"tuned: {AUTOMATIC}"], places["base: single mask"]
    assert between.rows[automatic][2:4] == ["12", "+25.0 [+25.0, +25.0]"]
    assert between.rows[single][3] == "0 [equal]"
    assert (automatic, 3) in between.strong
    assert (single, 3) not in between.strong
    within = tables["set: tuned against base"]
    assert [cells[4] for cells in within.rows] == 3 * ["0 [equal]"] + 3 * ["+25.0 [+25.0, +25.0]"]
    assert tables["set: boundaries"].rows[0][:4] == ["A", "tuned", "7", "50.0"]
    assert tables["set: the dial"].rows[0][:3] == ["A", "12", "0.125"]


def test_only_common_objects_are_compared(tmp_path: Path) -> None:
    runs = read_runs([run_folder(tmp_path / "one", 0.0, 12), run_folder(tmp_path / "two", 0.25, 5)])
    between = next(table for table in dataset_tables(runs, "set") if table.title == "set: against A")
    assert {cells[2] for cells in between.rows} == {"5"}


def test_page_is_whole_and_safe(tmp_path: Path) -> None:
    runs = read_runs([run_folder(tmp_path / name, 0.1 * n, num_early=4) for n, name in enumerate(("one", "two"))])
    page = to_html(runs)
    assert "A, B: base, single mask (and 8 of 12 at 3 or never)" in page  # one base, drawn once
    assert "B: tuned, automatic (and 8 of 12 at 3 or never)" in page
    assert page.count("<polyline") == 1 + 2 + 2 + 2 + 2  # IoU by click, IoU by g, calibration
    assert not re.search(r"<script|https?:|src=\"(?!data:)|href=", page)
    assert "&lt;b&gt;" in page  # what a file's name says is text
    assert page.count("data:image/png;base64") == 2
    assert page.count('role="img"') == 4
    for tag in ("table", "tr", "td", "div", "figure", "svg", "h2", "h3", "p", "b", "span"):
        assert len(re.findall(rf"<{tag}[ >]", page)) == page.count(f"</{tag}>"), tag
    assert "9.37/11.80/29.0" in page  # the paper beside it
    markdown = to_markdown(runs)
    for block in re.findall(r"(?:^\|.*\n)+", markdown, flags=re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_part_sets_are_drawn_to_the_iou_that_all_have(tmp_path: Path) -> None:
    """GraCo's row of a part set has no NoC90."""
    (run,) = read_runs([run_folder(tmp_path, 0.0, num_early=4, oracle_target=0.85)])
    page = to_html([run])
    assert "Clicks to IoU 0.85, where fewer than 3" in page
    assert "tuned, GraCo&#x27;s oracle, to IoU 0.85 (and 8 of 12 at 3 or never)" in page
    clicks = next(table for table in dataset_tables([run], "set") if table.title == "set: clicks")
    row = dict(zip(clicks.head, next(row for row in clicks.rows if "GraCo" in row[1]), strict=True))
    assert (row["NoC85"] != "", row["NoC90"]) == (True, "")


def differences(runs: list[Run]) -> TextTable:
    return next(table for table in dataset_tables(runs, "set") if table.title == "set: against A")


def test_no_difference_of_few_images_is_bold(tmp_path: Path) -> None:
    """Of one image every draw is the same, and so certain."""
    for num_images, automatic in ((9, "+25.0"), (10, "+25.0 [+25.0, +25.0]")):
        folders = [run_folder(tmp_path / f"{num_images}_{better}", better, num_images) for better in (0.0, 0.25)]
        between = differences(read_runs(folders))
        row = next(number for number, cells in enumerate(between.rows) if cells[1] == f"tuned: {AUTOMATIC}")
        assert between.rows[row][3] == automatic
        assert bool(between.strong) == (num_images == 10)
        assert "none where there are fewer than 10" in between.note
    assert between.rows[0][3] == "0 [equal]"


def test_frames_of_one_video_are_drawn_together(tmp_path: Path) -> None:
    found = []
    for images_of_video in (0, 4):
        folders = [
            run_folder(
                tmp_path / f"{images_of_video}_{n}", 0.1 * n, 48, num_early=20 * n, images_of_video=images_of_video
            )
            for n in (0, 1)
        ]
        runs = read_runs(folders)
        row = next(cells for cells in differences(runs).rows if cells[1] == f"tuned: {AUTOMATIC}")
        low, high = map(float, re.findall(r"[+-][\d.]+", row[5])[1:])
        found.append((row[5].split()[0], high - low))
        assert ("whole videos" in differences(runs).note) == bool(images_of_video)
    assert found[0][0] == found[1][0]
    # Whole videos arrive early or late: twelve numbers tell less than forty-eight.
    assert found[1][1] > 1.5 * found[0][1]


def test_sessions_that_are_not_the_protocols_are_named(tmp_path: Path) -> None:
    one_click = EvaluationConfig(fixed=(1.0,), max_clicks=1)
    for config, note in ((CONFIG, "at most 3 clicks where the protocol has 20"), (one_click, "one click an object")):
        (run,) = read_runs([run_folder(tmp_path, 0.0, num_early=4, config=config)])
        clicks = next(table for table in dataset_tables([run], "set") if table.title == "set: clicks")
        assert f"Sessions: {note}" in clicks.note
        assert ("NoC90" in clicks.head) == (config is CONFIG)
        assert ("Clicks to IoU" in to_html([run])) == (config is CONFIG)
        assert any("GraCo" in row[1] for row in clicks.rows) == (config is CONFIG)


def test_published_rows_are_as_long_as_their_heads() -> None:
    for table in published_tables():
        assert {len(row) for row in table.rows} == {len(table.head)}


def test_newest_test_is_taken_before_a_validation(tmp_path: Path) -> None:
    run_folder(tmp_path, 0.0)
    run_folder(tmp_path, 0.25, stage="validate_000009")
    (run,) = read_runs([tmp_path])
    assert len(run.of_mode("set", "tuned", AUTOMATIC)) == 12
    first = run.of_mode("set", "tuned", AUTOMATIC)[0].ious[0]
    assert first == run.of_mode("set", "base", "single mask")[0].ious[0]
    assert (run.letter, run.datasets, len(run.cases)) == ("A", ["set"], 1)


def test_curve_keeps_the_last_iou_of_ended_sessions(tmp_path: Path) -> None:
    (run,) = read_runs([run_folder(tmp_path, 0.0, 2)])
    objects = run.of_mode("set", "base", "single mask")
    ended = dataclasses.replace(objects[0], ious=[0.5, 0.9])
    assert clicks_curve([ended, dataclasses.replace(ended, ious=[0.1, 0.2, 0.3])], 3).tolist() == pytest.approx(
        [0.3, 0.55, 0.6]
    )


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no folder"):
        read_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="no such file"):
        read_runs([tmp_path])
    (tmp_path / "benchmark_test_000001.json").write_text(json.dumps({"about": {}, "rows": []}))
    with pytest.raises(UserError, match="measure the run again"):
        read_runs([tmp_path])


def test_points_lie_where_the_axes_say() -> None:
    chart = line_chart("t", "x", "y", {"a<b": [(0.0, 0.0), (1.0, 1.0), (1.0, 7.0)]}, x_range=(0, 1))
    points = re.search(r'polyline points="([^"]*)"', chart)
    assert points is not None
    start, end, beyond = ([float(value) for value in point.split(",")] for point in points[1].split())
    assert start == [52.0, 256.0]
    assert end == [428.0, 30.0]
    assert beyond == end  # drawn at the end of the axis
    assert "a&lt;b" in chart
    assert line_chart("t", "x", "y", {"a": []}, x_range=(0, 1)) == ""


def test_bars_are_as_high_as_their_counts() -> None:
    chart = histogram("t", "x", "y", {"a": [2, 0, 4], "b": [1, 0, 0]})
    drawing, _, legend = chart.partition("</svg>")
    heights = [float(value) for value in re.findall(r'<rect [^>]*height="([\d.]+)"', drawing)]
    assert legend.count("<rect") == 2
    assert heights == pytest.approx([113.0, 0.0, 226.0, 56.5, 0.0, 0.0], abs=0.11)
    assert histogram("t", "x", "y", {"a": [0, 0]}) == ""


def test_clicks_are_whole_numbers_below_the_axis() -> None:
    line = {"a": [(1.0, 0.0), (2.0, 1.0)]}
    for whole, ticks in ((True, ["1", "2"]), (False, ["1", "1.1"])):
        chart = line_chart("t", "x", "y", line, x_range=(1, 2), whole_x=whole)
        assert re.findall(r'text-anchor="middle">([^<]*)<', chart)[:2] == ticks
