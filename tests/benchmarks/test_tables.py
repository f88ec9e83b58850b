import csv
import io
import itertools
import json
import random
import re

import numpy as np
import pytest

from unsam_lightning.benchmarks.evaluate import ImageResult
from unsam_lightning.benchmarks.interactive import SessionResult
from unsam_lightning.benchmarks.tables import Row, tabulate, to_csv, to_json
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.proposals import average_recall_of_masks
from unsam_lightning.pairs import encode_masks

OPTIONS = {"fixed": (1.0,), "max_clicks": 3, "target": 0.9}


def sessions_of(
    mask_id: str, single: list[float], three: list[float], sweep: dict[float, list[float]], rest: list[float]
) -> list[SessionResult]:
    judged = [("base_single", None, single), ("base_best_of_three", None, three)]
    judged += [("tuned", g, sweep.get(g, rest)) for g in SWEEP]
    return [
        SessionResult(mask_id=mask_id, method=method, granularity=g, ious=np.array(ious, dtype=np.float32).tolist())
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
    rows = table(tabulate(results, **OPTIONS))
    expected = {
        ("base", "single mask"): ((0.5 + 0.95) / 2, (3 + 1) / 2, (3 + 1) / 2, (3 + 1) / 2),
        ("base", "oracle: best of 3 masks per click"): ((0.8 + 0.91) / 2, 1, (2 + 1) / 2, (2 + 1) / 2),
        ("tuned", "fixed g = 1"): ((0.3 + 0.97) / 2, (3 + 1) / 2, (3 + 1) / 2, (3 + 1) / 2),
        ("tuned", "oracle: GraCo's choice of 10 g"): ((0.5 + 0.97) / 2, 1.5, 1.5, 1.5),
        ("tuned", "oracle: best of 10 g per metric"): ((0.85 + 0.97) / 2, 1, 1, 1.5),
    }
    assert list(rows) == list(expected)
    for key, numbers in expected.items():
        assert rows[key][:4] == pytest.approx(numbers, abs=1e-6), key
        assert rows[key][4] is None


def test_order_of_results_does_not_matter(results: list[ImageResult]) -> None:
    other = [ImageResult(dataset="before", index=0, key="x", num_masks=1, sessions=results[0].sessions)]
    expected = tabulate(results + other, **OPTIONS)
    assert [row.dataset for row in expected] == ["before"] * 5 + ["set"] * 5
    for order in itertools.permutations(results + other):
        assert tabulate(list(order), **OPTIONS) == expected


def test_recall_is_the_data_sets_not_the_images_mean() -> None:
    rng = np.random.default_rng(0)
    samples, images = [], []
    for index, count in enumerate((1, 4)):
        masks = rng.random((count, 24, 24)) < 0.3
        proposals = np.concatenate(
            [masks[: count // 2] ^ (rng.random((count // 2, 24, 24)) < 0.03), rng.random((5, 24, 24)) < 0.3]
        )
        coco = [{"size": [24, 24], "counts": rle.encode()} for rle in encode_masks(proposals)]
        scores = rng.random(len(coco)).tolist()
        samples.append((masks, coco, scores))
        sessions = [s for n in range(count) for s in sessions_of(f"m{n}", [0.95], [0.95], {}, [0.95])]
        recall = {"tuned": average_recall_of_masks([samples[-1]])}
        images.append(
            ImageResult(dataset="set", index=index, key="", num_masks=count, sessions=sessions, recall=recall)
        )
    row = tabulate(images, **OPTIONS)[-1]
    assert row.mode == "whole image, grid: union of 10 g"
    assert row.ar1000 == pytest.approx(average_recall_of_masks(samples)["AR@1000"])
    assert 0 < row.ar1000 != pytest.approx(np.mean([image.recall["tuned"]["AR@1000"] for image in images]))
    assert row.num_masks == 5


def test_images_and_data_sets_without_masks(results: list[ImageResult]) -> None:
    empty = ImageResult(dataset="set", index=9, key="e", num_masks=0, sessions=[])
    assert tabulate([*results, empty], **OPTIONS) == tabulate(results, **OPTIONS)
    assert tabulate([empty], **OPTIONS) == []
    assert tabulate([], **OPTIONS) == []


def test_image_measured_twice_is_our_defect(results: list[ImageResult]) -> None:
    with pytest.raises(AssertionError, match="twice"):
        tabulate([*results, results[0]], **OPTIONS)


def test_same_mask_ids_in_other_images_are_other_masks(results: list[ImageResult]) -> None:
    assert {row.num_masks for row in tabulate(results, **OPTIONS)} == {2}


def test_log_names_are_unique_and_plain(results: list[ImageResult]) -> None:
    rows = tabulate(results, **{**OPTIONS, "fixed": (1.0,)})
    names = [name for row in rows for name in row.metrics()]
    assert len(set(names)) == len(names) == 5 * 4
    assert all(
        re.fullmatch(r"bench/set/(?:base|tuned)/[a-z0-9_.]+/(?:one_click_iou|noc80|noc85|noc90)", name)
        for name in names
    )
    assert rows[0].metrics()["bench/set/base/single_mask/noc90"] == 2.0


def test_csv_and_json_hold_the_rows(results: list[ImageResult]) -> None:
    rows = tabulate(results, **OPTIONS)
    random.Random(0).shuffle(rows)
    read = list(csv.DictReader(io.StringIO(to_csv(rows))))
    assert [(line["model"], line["mode"]) for line in read] == [(row.model, row.mode) for row in rows]
    assert [float(line["noc90"]) for line in read] == [row.noc90 for row in rows]
    assert {line["ar1000"] for line in read} == {""}
    content = json.loads(to_json(rows, {"step": 5}))
    assert content["about"] == {"step": 5}
    assert [Row(**row) for row in content["rows"]] == rows
