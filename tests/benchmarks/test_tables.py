import csv
import dataclasses
import io
import itertools
import json
import random
import re

import numpy as np
import pytest

from unsam_lightning.benchmarks.evaluate import EvaluationConfig, ImageResult
from unsam_lightning.benchmarks.objects import object_rows, objects_from_csv, objects_to_csv
from unsam_lightning.benchmarks.printing import print_table, sessions_note
from unsam_lightning.benchmarks.sessions import SessionResult
from unsam_lightning.benchmarks.tables import Row, dial_numbers, iou_by_granularity, remarks, tabulate, to_csv, to_json
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.dial import Dial
from unsam_lightning.metrics.proposals import AverageRecall, average_recall_of_masks
from unsam_lightning.pairs import encode_masks

CONFIG = EvaluationConfig(fixed=(1.0,), max_clicks=3, target=0.9)


def rows_of(results: list[ImageResult], config: EvaluationConfig = CONFIG) -> list[Row]:
    return tabulate(results, object_rows(results, config), config)


def sessions_of(
    mask_id: str, single: list[float], three: list[float], sweep: dict[float, list[float]], rest: list[float]
) -> list[SessionResult]:
    judged = [("base_single", None, single), ("base_own_choice", None, single), ("base_best_of_three", None, three)]
    judged += [("tuned", g, sweep.get(g, rest)) for g in SWEEP]
    return [
        SessionResult(
            mask_id=mask_id,
            method=method,
            granularity=g,
            ious=np.array(ious, dtype=np.float32).tolist(),
            is_automatic=g == 1.0,
        )
        for method, g, ious in judged
    ]


@pytest.fixture
def results() -> list[ImageResult]:
    """Two images of one object each. For the first, GraCo's choice is 0.1: first at 0.9, though 0.2 starts better."""
    first = sessions_of(
        "a", [0.5, 0.7, 0.85], [0.8, 0.9], {0.1: [0.5, 0.92], 0.2: [0.85, 0.88], 1.0: [0.3, 0.4, 0.86]}, [0.3, 0.4]
    )
    second = sessions_of("a", [0.95], [0.91], {0.1: [0.6], 1.0: [0.97]}, [0.2])
    return [
        ImageResult(dataset="set", index=n, key=str(n), num_masks=1, sessions=sessions)
        for n, sessions in enumerate((first, second))
    ]


def table(rows: list[Row]) -> dict[tuple[str, str], tuple[float | None, ...]]:
    return {(row.model, row.mode): (row.one_click_iou, row.noc80, row.noc85, row.noc90, row.ar1000) for row in rows}


def test_rows_by_hand(results: list[ImageResult]) -> None:
    rows = table(rows_of(results))
    expected = {
        ("base", "single mask"): ((0.5 + 0.95) / 2, (3 + 1) / 2, (3 + 1) / 2, (3 + 1) / 2),
        ("base", "oracle: best of 3 masks per click"): ((0.8 + 0.91) / 2, 1, (2 + 1) / 2, (2 + 1) / 2),
        ("base", "its own choice of 3 masks, then single"): ((0.5 + 0.95) / 2, (3 + 1) / 2, (3 + 1) / 2, (3 + 1) / 2),
        ("tuned", "automatic: the model chooses g"): ((0.3 + 0.97) / 2, (3 + 1) / 2, (3 + 1) / 2, (3 + 1) / 2),
        ("tuned", "fixed g = 1"): ((0.3 + 0.97) / 2, (3 + 1) / 2, (3 + 1) / 2, (3 + 1) / 2),
        ("tuned", "oracle: GraCo's choice of 10 g"): ((0.5 + 0.97) / 2, 1.5, 1.5, 1.5),
        ("tuned", "oracle: best of 10 g per metric"): ((0.85 + 0.97) / 2, 1, 1, 1.5),
    }
    assert set(rows) == set(expected)
    for key, numbers in expected.items():
        assert rows[key][:4] == pytest.approx(numbers, abs=1e-6), key
        assert rows[key][4] is None


def test_order_of_results_does_not_matter(results: list[ImageResult]) -> None:
    other = [ImageResult(dataset="before", index=0, key="x", num_masks=1, sessions=results[0].sessions)]
    expected = rows_of(results + other)
    assert [row.dataset for row in expected] == ["before"] * 7 + ["set"] * 7
    for order in itertools.permutations(results + other):
        assert rows_of(list(order)) == expected


def test_recall_is_the_data_sets_not_the_images_mean() -> None:
    rng = np.random.default_rng(0)
    samples, images, per_image = [], [], []
    for index, count in enumerate((1, 4)):
        masks = rng.random((count, 24, 24)) < 0.3
        proposals = np.concatenate(
            [masks[: count // 2] ^ (rng.random((count // 2, 24, 24)) < 0.03), rng.random((5, 24, 24)) < 0.3]
        )
        coco = [{"size": [24, 24], "counts": rle.encode()} for rle in encode_masks(proposals)]
        scores = rng.random(len(coco)).tolist()
        samples.append((masks, coco, scores))
        sessions = [s for n in range(count) for s in sessions_of(f"m{n}", [0.95], [0.95], {}, [0.95])]
        metric = AverageRecall()
        metric.update(*samples[-1])
        recall = {"tuned": {name: value.tolist() for name, value in metric.metric_state.items()}}
        per_image.append(average_recall_of_masks([samples[-1]])["AR@1000"])
        images.append(
            ImageResult(dataset="set", index=index, key="", num_masks=count, sessions=sessions, recall=recall)
        )
    row = rows_of(images)[-1]
    expected = average_recall_of_masks(samples, (1, 10, 100, 1000))
    assert [row.ar1, row.ar10, row.ar100] == pytest.approx([expected[f"AR@{k}"] for k in (1, 10, 100)])
    assert row.ar1000_small == pytest.approx(expected["ARs@1000"])
    assert row.ar1000_large is None  # there is no large mask
    assert row.mode == "whole image, grid: union of 10 g"
    assert row.ar1000 == pytest.approx(average_recall_of_masks(samples)["AR@1000"])
    assert 0 < row.ar1000 != pytest.approx(np.mean(per_image))
    assert row.num_masks == 5


def test_images_and_data_sets_without_masks(results: list[ImageResult]) -> None:
    empty = ImageResult(dataset="set", index=9, key="e", num_masks=0, sessions=[])
    assert rows_of([*results, empty]) == rows_of(results)
    assert rows_of([empty]) == []
    assert rows_of([]) == []


def test_image_measured_twice_is_our_defect(results: list[ImageResult]) -> None:
    with pytest.raises(AssertionError, match="twice"):
        rows_of([*results, results[0]])


def test_same_mask_ids_in_other_images_are_other_masks(results: list[ImageResult]) -> None:
    assert {row.num_masks for row in rows_of(results)} == {2}


def test_log_names_are_unique_and_plain(results: list[ImageResult]) -> None:
    rows = rows_of(results)
    names = [name for row in rows for name in row.metrics()]
    assert len(set(names)) == len(names) == 7 * 7
    assert all(
        re.fullmatch(r"bench/set/(?:base|tuned)/[a-z0-9_.]+/(?:one_click_iou|(?:noc|failures)(?:80|85|90))", name)
        for name in names
    )
    assert rows[0].metrics()["bench/set/base/single_mask/noc90"] == 2.0


def test_csv_and_json_hold_the_rows(results: list[ImageResult]) -> None:
    rows = rows_of(results)
    random.Random(0).shuffle(rows)
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [(line["model"], line["mode"]) for line in read] == [(row.model, row.mode) for row in rows]
    assert [float(line["noc90"]) for line in read] == [row.noc90 for row in rows]
    assert {line["ar1000"] for line in read} == {""}
    content = json.loads(to_json(rows, {"step": 5}))
    assert content["about"] == {"step": 5}
    assert [Row(**row) for row in content["rows"]] == rows


def test_failures_are_counted_and_noc95_needs_its_target(results: list[ImageResult]) -> None:
    single = next(row for row in rows_of(results) if row.mode == "single mask")
    assert (single.failures80, single.failures85, single.failures90) == (1.0, 1.0, 1.0)  # reached with the last click
    assert single.noc95 is None
    config = EvaluationConfig(fixed=(1.0,), max_clicks=3, target=0.95)
    ious = [0.5, 0.91, 0.96]
    high = ImageResult(
        dataset="set", index=0, key="", num_masks=1, sessions=sessions_of("a", ious, ious, {0.1: ious, 1.0: ious}, ious)
    )
    # GraCo's oracle chooses by 0.90, however long sessions are.
    found = {row.mode: row.noc95 for row in rows_of([high], config)}
    assert found.pop("oracle: GraCo's choice of 10 g") is None
    assert set(found.values()) == {3.0}


def test_rows_of_objects_are_read_as_written(results: list[ImageResult]) -> None:
    rows = object_rows(results, CONFIG)
    assert objects_from_csv(objects_to_csv(rows), "x.csv") == rows
    # 3 of the base, automatic, 10 fixed, 2 oracles; for each of two objects.
    assert len(rows) == 2 * 16
    graco = next(row for row in rows if "GraCo" in row.mode)
    assert (graco.granularity, graco.ious) == (0.1, pytest.approx([0.5, 0.92]))
    assert graco.numbers == {"noc80": 2, "noc85": 2, "noc90": 2, "failures80": 0, "failures85": 0, "failures90": 0}
    asked_once = next(row for row in rows if row.mode == "fixed g = 0.2")
    assert (asked_once.ious, asked_once.numbers) == ([pytest.approx(0.85)], {})
    assert not [row for row in rows_of(results) if row.mode == "fixed g = 0.2"]


def test_gracos_oracle_chooses_by_the_data_sets_own_target(results: list[ImageResult]) -> None:
    """Part sets: 0.85. For the first object 0.2 is there with one click; that 0.1 is first at 0.90 does not count."""
    rows = object_rows(results, CONFIG, {"set": 0.85, "another": 0.9})
    first, second = (row for row in rows if "GraCo" in row.mode)
    assert (first.granularity, first.ious) == (0.2, pytest.approx([0.85]))  # GraCo's session ends there
    assert first.numbers == {"noc80": 1, "noc85": 1, "failures80": 0, "failures85": 0}
    assert (second.granularity, second.ious) == (1.0, pytest.approx([0.97]))
    (row,) = (row for row in tabulate(results, rows, CONFIG) if "GraCo" in row.mode)
    assert (row.one_click_iou, row.noc85, row.noc90) == (pytest.approx(0.91), 1.0, None)
    assert {row.noc90 is None for row in tabulate(results, rows, CONFIG) if "GraCo" not in row.mode} == {False}


def test_one_click_has_no_noc_and_no_gracos_choice(results: list[ImageResult]) -> None:
    """Of one click the fewest clicks are all one: the choice would be the best of ten under another name."""
    config = EvaluationConfig(fixed=(1.0,), max_clicks=1)
    cut = [
        dataclasses.replace(one, sessions=[dataclasses.replace(s, ious=s.ious[:1]) for s in one.sessions])
        for one in results
    ]
    rows = rows_of(cut, config)
    assert [row.mode for row in rows] == [row.mode for row in rows_of(results) if "GraCo" not in row.mode]
    assert {(row.noc80, row.noc85, row.noc90, row.failures90) for row in rows} == {(None,) * 4}
    assert {row.mode: row.one_click_iou for row in rows} == {
        row.mode: row.one_click_iou for row in rows_of(results) if "GraCo" not in row.mode
    }


@pytest.mark.parametrize(
    ("max_clicks", "note", "has_noc"),
    [(20, "", True), (3, "at most 3 clicks where the protocol has 20", True), (1, "one click an object", False)],
)
def test_table_names_sessions_that_are_not_the_protocols(
    results: list[ImageResult], capsys: pytest.CaptureFixture[str], max_clicks: int, note: str, has_noc: bool
) -> None:
    rows = rows_of(results)
    if not has_noc:
        rows = [dataclasses.replace(row, noc80=None, noc85=None, noc90=None) for row in rows]
    print_table(rows, f"title {sessions_note(max_clicks)}")
    printed = capsys.readouterr().out
    assert f"title {note}" in printed
    assert ("NoC90" in printed, "AR1000 %" in printed) == (has_noc, False)


def test_other_tables_of_objects_are_refused() -> None:
    with pytest.raises(UserError, match=r"in x\.csv; found KeyError"):
        objects_from_csv("a,b\n1,2\n", "x.csv")


def test_otsu_has_rows_without_clicks(results: list[ImageResult]) -> None:
    with_otsu = [dataclasses.replace(result, otsu={"a": {"bright": 0.25, "dark": 0.5}}) for result in results]
    rows = [row for row in rows_of(with_otsu) if row.model == "otsu"]
    assert [(row.one_click_iou, row.noc90) for row in rows] == [(0.25, None), (0.5, None)]


def test_iou_by_granularity_by_hand(results: list[ImageResult]) -> None:
    curve = iou_by_granularity(object_rows(results, CONFIG))["set"]
    assert list(curve) == ["0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]
    assert (curve["0.1"], curve["0.2"]) == pytest.approx(((0.5 + 0.6) / 2, (0.85 + 0.2) / 2))


def test_dial_adds_up_over_images(results: list[ImageResult]) -> None:
    rng = np.random.default_rng(0)
    whole, with_dial = Dial(), []
    for result in results:
        sweep, part = rng.random((10, 8, 8)) < np.linspace(0.1, 0.9, 10)[:, None, None], Dial()
        for dial in (whole, part):
            dial.update(sweep)
        state = {name: value.tolist() for name, value in part.metric_state.items()}
        with_dial.append(dataclasses.replace(result, dial=state))
    found = dial_numbers(with_dial[::-1])["set"]
    expected = whole.compute()
    assert found["num_sweeps"] == 2
    assert found["stability"] is None  # nan: no moved click
    assert found["calibration_error"] == pytest.approx(expected["calibration_error"], abs=1e-12)
    assert dial_numbers(results) == {"set": {}}


def test_what_was_odd_is_counted(results: list[ImageResult]) -> None:
    odd = [
        ("m", "box one pixel short", "w 3", True),
        ("p", "box one pixel short", "w 4", True),
        ("n", "empty", "", False),
        ("o", "empty", "", False),
    ]
    found = remarks([dataclasses.replace(results[0], remarks=odd), results[1]], max_examples=1)
    assert found == {
        "set": {
            "box one pixel short": {"num_masks": 2, "num_left_out": 0, "examples": ["0: m (w 3)"]},
            "empty": {"num_masks": 2, "num_left_out": 2, "examples": ["0: n", "0: o"]},
        }
    }
