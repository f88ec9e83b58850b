import copy
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.proposals import (
    AverageRecall,
    average_precision,
    average_recall,
    average_recall_of_masks,
)

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "ar1000"
NAMES = sorted(json.loads((GOLDEN / "expected.json").read_text())["cases"]) if GOLDEN.is_dir() else ["absent"]


def assert_equals_golden(numbers, expected):
    recalls = {key: value for key, value in expected["stats"].items() if key.startswith("AR")}
    assert len(recalls) == 6
    assert {key: numbers[key] for key in recalls} == pytest.approx(recalls, abs=1e-12)
    assert len(expected["stats"]) == 12
    per_threshold = [numbers[f"recall{percent}@1000"] for percent in range(50, 100, 5)]
    assert per_threshold == pytest.approx(expected["recall_per_iou_all_1000"], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_recall_equals_the_reference(shared, name):
    case = json.loads((shared / f"golden/ar1000/{name}.json").read_text())
    expected = json.loads((shared / "golden/ar1000/expected.json").read_text())["cases"][name]
    untouched = copy.deepcopy(case)
    assert_equals_golden(average_recall(case["gt"], case["dt"]), expected)
    precisions = {key: value for key, value in expected["stats"].items() if key.startswith("AP")}
    assert average_precision(case["gt"], case["dt"]) == pytest.approx(precisions, abs=1e-12)
    assert_equals_golden(average_recall(case["gt"], case["dt"], as_reference=True), expected)
    assert case == untouched


@pytest.mark.parametrize("name", NAMES)
def test_recall_equals_torchmetrics(shared, name):
    case = json.loads((shared / f"golden/ar1000/{name}.json").read_text())
    golden = json.loads((shared / "golden/misc/expected.json").read_text())["torchmetrics_map_1000"][f"{name}__micro"]
    numbers = average_recall(case["gt"], case["dt"])
    names = {"mar_1": "AR@1", "mar_10": "AR@10", "mar_1000": "AR@1000"}
    names |= {"mar_small": "ARs@1000", "mar_medium": "ARm@1000", "mar_large": "ARl@1000"}
    expected = {ours: golden[theirs] for theirs, ours in names.items()}
    assert {ours: numbers[ours] for ours in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11 on numpy 2
def test_recall_on_lvis_equals_the_reference(shared):
    gt = json.loads((shared / "data/LVIS_val_100/data/lvis_val_100.json").read_text())
    assert not any("iscrowd" in annotation for annotation in gt["annotations"])
    sizes = {image["id"]: (image["height"], image["width"]) for image in gt["images"]}
    results = []
    for annotation in gt["annotations"]:
        rles = coco_mask.frPyObjects(annotation["segmentation"], *sizes[annotation["image_id"]])
        mask = coco_mask.decode(coco_mask.merge(rles))
        columns = 2 + annotation["id"] % 5
        shifted = np.pad(mask, ((0, 0), (columns, 0)))[:, : mask.shape[1]]
        rle = coco_mask.encode(np.asfortranarray(shifted))
        score = ((annotation["id"] * 7919) % 1000) / 1000
        results.append({"image_id": annotation["image_id"], "segmentation": rle, "score": score})
    expected = json.loads((shared / "golden/ar1000/lvis100_expected.json").read_text())
    assert (len(gt["annotations"]), len(results)) == (expected["n_gt"], expected["n_dt"])
    assert_equals_golden(average_recall(gt, results), expected)
    precisions = {key: value for key, value in expected["stats"].items() if key.startswith("AP")}
    assert average_precision(gt, results) == pytest.approx(precisions, abs=1e-12)


def square(y, x, side=8, height=40, width=50):
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y : y + side, x : x + side] = 1
    return mask


def rle(mask):
    return coco_mask.encode(np.asfortranarray(mask))


def truth(*masks, **fields):
    """One image with the given masks."""
    annotations = [
        {"id": 10 + k, "image_id": 7, "category_id": 1, "segmentation": rle(mask), "area": int(mask.sum()), **fields}
        for k, mask in enumerate(masks)
    ]
    return {"images": [{"id": 7, "height": 40, "width": 50}], "annotations": annotations, "categories": [{"id": 1}]}


def result(mask, score, **fields):
    return {"image_id": 7, "segmentation": rle(mask), "score": score, **fields}


# Two squares of 8 x 8. The second best proposal is one column off: IoU 56 / 72 = 0.78, recalled at 0.5 ... 0.75.
GT = truth(square(2, 2), square(20, 30))
RESULTS = [result(square(20, 31), 0.5), result(square(2, 2), 0.9)]


def test_recall_by_hand():
    numbers = average_recall(GT, RESULTS)
    assert numbers["AR@1"] == pytest.approx(0.5)
    assert numbers["AR@10"] == numbers["AR@1000"] == numbers["ARs@1000"] == pytest.approx((1 + 0.6) / 2)
    assert numbers["ARm@1000"] == numbers["ARl@1000"] == -1
    assert [numbers[f"recall{percent}@1000"] for percent in range(50, 100, 5)] == [1.0] * 6 + [0.5] * 4


def test_the_keys_follow_max_detections():
    numbers = average_recall(GT, RESULTS, max_detections=(2, 5))
    expected = {f"AR{size}@{k}" for size in ("", "s", "m", "l") for k in (2, 5)}
    assert {key for key in numbers if key.startswith("AR")} == expected
    assert sum(key.startswith("recall") and key.endswith("@5") for key in numbers) == 10


def test_the_best_k_count_for_every_size():
    large = np.zeros((40, 50), dtype=np.uint8)
    large[:, :40] = 1  # 1600 pixels: medium
    gt, results = truth(square(2, 42), large), [result(square(2, 42), 0.5), result(large, 0.9)]
    numbers = average_recall(gt, results, max_detections=(1, 10, 100))
    assert [numbers[key] for key in ("AR@1", "ARs@1", "ARm@1")] == [0.5, 0.0, 1.0]
    assert [numbers[key] for key in ("AR@10", "ARs@10", "ARm@10", "ARl@10")] == [1.0, 1.0, 1.0, -1]
    assert numbers["ARs@100"] == 1.0


def test_order_of_results_and_categories_and_boxes_do_not_matter():
    expected = average_recall(GT, RESULTS)
    assert average_recall(GT, RESULTS[::-1]) == expected
    strange = [{**one, "bbox": [0, 0, 1, 1], "area": 1e9, "category_id": 99 - k} for k, one in enumerate(RESULTS)]
    assert average_recall(GT, strange) == expected
    bare = [{key: one[key] for key in ("image_id", "segmentation")} for one in GT["annotations"]]
    assert average_recall({"images": GT["images"], "annotations": bare}, RESULTS) == expected


def test_categories_matter_if_asked():
    results = [result(square(2, 2), 0.9, category_id=1), result(square(20, 30), 0.8, category_id=2)]
    assert average_recall(GT, results)["AR@1000"] == 1.0
    assert average_recall(GT, results, use_cats=True)["AR@1000"] == 0.5


@pytest.mark.parametrize("ids", [(0, 1), (5, 5)])
def test_annotation_ids_do_not_matter(ids):
    annotations = [{**one, "id": number} for one, number in zip(GT["annotations"], ids, strict=True)]
    assert average_recall({**GT, "annotations": annotations}, RESULTS) == average_recall(GT, RESULTS)


def test_the_defects_of_the_reference_come_back_if_asked():
    first_is_zero = {**GT, "annotations": [{**one, "id": number} for number, one in enumerate(GT["annotations"])]}
    perfect = [result(square(2, 2), 0.9, category_id=1), result(square(20, 30), 0.5, category_id=1)]
    assert average_recall(first_is_zero, perfect)["AR@1000"] == 1.0
    assert average_recall(first_is_zero, perfect, as_reference=True)["AR@1000"] == 0.5
    foreign = [{**one, "category_id": 99 - number} for number, one in enumerate(perfect)]
    assert average_recall(GT, foreign)["AR@1000"] == 1.0
    assert average_recall(GT, foreign, as_reference=True)["AR@1000"] == 0.0
    without_id = {**GT, "annotations": [{k: v for k, v in one.items() if k != "id"} for one in GT["annotations"]]}
    with pytest.raises(UserError, match="annotation 0 without id; annotation 1"):
        average_recall(without_id, perfect, as_reference=True)


def test_precision_by_hand():
    wrong_first = [result(square(10, 10), 0.99), result(square(2, 2), 0.9), result(square(20, 30), 0.5)]
    # Precision 1/2 at recall 1/2, then 2/3: interpolated 2/3 at all recalls.
    numbers = average_precision(GT, wrong_first)
    assert [numbers[key] for key in ("AP", "AP50", "AP75", "APs")] == pytest.approx([2 / 3] * 4)
    assert numbers["APl"] == -1
    assert average_precision(GT, wrong_first, max_detections=1)["AP"] == 0.0


def test_the_area_key_of_the_ground_truth_decides_on_size():
    numbers = average_recall(truth(square(2, 2), area=2000), RESULTS)
    assert (numbers["ARs@1000"], numbers["ARm@1000"]) == (-1, 1.0)


def test_crowds_are_not_to_be_found():
    crowd = truth(square(2, 2), square(20, 30))
    crowd["annotations"][1]["iscrowd"] = 1
    assert average_recall(crowd, RESULTS)["AR@1000"] == 1.0


def test_images_without_proposals_count():
    images = [{"id": 7, "height": 40, "width": 50}, {"id": 8, "height": 40, "width": 50}]
    elsewhere = {**GT["annotations"][0], "id": 99, "image_id": 8}
    gt = {**GT, "images": images, "annotations": [*GT["annotations"], elsewhere]}
    assert average_recall(gt, RESULTS)["recall50@1000"] == pytest.approx(2 / 3)


def test_nothing_found_and_nothing_to_find():
    nothing_found = average_recall(GT, [])
    assert (nothing_found["AR@1000"], nothing_found["ARs@1000"], nothing_found["ARl@1000"]) == (0.0, 0.0, -1)
    assert set(average_recall({**GT, "annotations": []}, RESULTS).values()) == {-1.0}
    assert set(average_recall({"images": [], "annotations": []}, []).values()) == {-1.0}
    assert set(average_recall({"images": [], "annotations": []}, [], use_cats=True).values()) == {-1.0}


def test_a_result_more_never_lowers_recall():
    rng = np.random.default_rng(0)
    corners = rng.integers(2, 28, size=(6, 2))
    gt = truth(*(square(*corner) for corner in corners))
    results, recalls = [], [0.0]
    for score in np.linspace(0.9, 0.1, 15):
        results.append(result(square(*(corners[rng.integers(6)] + rng.integers(-2, 3, size=2))), float(score)))
        recalls.append(average_recall(gt, results)["AR@1000"])
    assert recalls == sorted(recalls)
    assert recalls[-1] > recalls[1]


def test_nothing_is_printed(capsys):
    average_recall(GT, RESULTS)
    assert capsys.readouterr().out == ""


def test_arrays_give_the_same_as_dicts():
    masks = np.stack([square(2, 2), square(20, 30)]).astype(np.int8)
    masks[0, 35:] = -1  # ignored pixels count as background
    proposals = [one["segmentation"] for one in RESULTS]
    sample = (masks, proposals, [one["score"] for one in RESULTS])
    assert average_recall_of_masks([sample]) == average_recall(GT, RESULTS)
    assert average_recall_of_masks([(masks == 1, *sample[1:])]) == average_recall(GT, RESULTS)
    empty = (np.zeros((0, 20, 30), dtype=bool), [], [])
    assert average_recall_of_masks([empty, sample, empty]) == average_recall(GT, RESULTS)
    assert set(average_recall_of_masks([]).values()) == {-1.0}
    with pytest.raises(UserError, match="2 proposals and 1 scores in image 0"):
        average_recall_of_masks([(masks, proposals, [0.5])])


def test_all_problems_are_told_at_once():
    other_size = {"image_id": 7, "score": 0.5, "segmentation": rle(np.zeros((5, 6), dtype=np.uint8))}
    wrong = [
        {"image_id": 7, "score": 0.5, "bbox": [0, 0, 1, 1]},
        result(square(2, 2), 0.5) | {"image_id": 3},
        other_size,
        result(square(2, 2), float("nan")),
    ]
    with pytest.raises(UserError) as caught:
        average_recall(GT, wrong)
    assert (
        "found result 0 without segmentation; result 1 of an unknown image 3; "
        "result 2 of size [5, 6] in an image of [40, 50]; result 3 with score nan; evaluate"
    ) in str(caught.value)
    with pytest.raises(UserError, match="and 1 more"):
        average_recall(GT, [*wrong, other_size, other_size])


def test_an_incomplete_ground_truth_is_refused():
    with pytest.raises(UserError, match="no annotations"):
        average_recall({"images": []}, [])
    with pytest.raises(UserError, match="image 7 without id, height or width"):
        average_recall({**GT, "images": [{"id": 7}]}, [])
    with pytest.raises(UserError, match="annotation 0 without category_id"):
        average_recall(
            {"images": GT["images"], "annotations": [{"image_id": 7, "segmentation": []}]}, [], use_cats=True
        )


@pytest.mark.parametrize("max_detections", [(), (10, 1), (1, 1), (0, 5)])
def test_bad_max_detections_are_refused(max_detections):
    with pytest.raises(UserError, match="ascending and positive"):
        average_recall(GT, RESULTS, max_detections=max_detections)


def test_images_one_by_one_give_the_same_as_all_at_once():
    rng = np.random.default_rng(1)
    samples = []
    for number in (3, 0, 7):
        masks = np.zeros((number, 120, 130), dtype=np.int8)
        rles, scores = [], []
        for number, mask in enumerate(masks):
            y, x, side = *rng.integers(4, 16, size=2), (8, 50, 100)[number % 3]
            mask[y : y + side, x : x + side] = 1
            for _ in range(3):
                shift = rng.integers(-4, 5)
                rles.append(rle(np.roll(mask, shift, axis=1).astype(np.uint8)))
                scores.append(float(rng.random()))
        samples.append((masks, rles, scores))
    metric = AverageRecall(max_detections=(1, 2, 1000))
    for sample in samples:
        metric.update(*sample)
    numbers = average_recall_of_masks(samples, max_detections=(1, 2, 1000))
    assert metric.compute() == pytest.approx(numbers, abs=1e-12)
    assert 0 < numbers["AR@1"] < numbers["AR@2"] < numbers["AR@1000"] < 1
    assert min(numbers["ARs@1000"], numbers["ARm@1000"], numbers["ARl@1000"]) > 0
    with pytest.raises(UserError, match="in image 0"):
        metric.update(samples[0][0], samples[0][1], [0.5])
    with pytest.raises(UserError, match="ascending"):
        AverageRecall(max_detections=(10, 1)).update(*samples[0])
