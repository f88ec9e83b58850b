import copy
import json
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.proposals import average_recall, average_recall_of_masks

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "ar1000"
NAMES = sorted(json.loads((GOLDEN / "expected.json").read_text())["cases"]) if GOLDEN.is_dir() else ["absent"]


def assert_equals_golden(numbers, expected):
    recalls = {key: value for key, value in expected["stats"].items() if key.startswith("AR")}
    assert len(recalls) == 6
    assert {key: numbers[key] for key in recalls} == pytest.approx(recalls, abs=1e-12)
    per_threshold = [numbers[f"recall{percent}@1000"] for percent in range(50, 100, 5)]
    assert per_threshold == pytest.approx(expected["recall_per_iou_all_1000"], abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_recall_equals_the_reference(shared, name):
    case = json.loads((shared / f"golden/ar1000/{name}.json").read_text())
    expected = json.loads((shared / "golden/ar1000/expected.json").read_text())["cases"][name]
    untouched = copy.deepcopy(case)
    assert_equals_golden(average_recall(case["gt"], case["dt"]), expected)
    assert case == untouched


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
    assert {key for key in numbers if key.startswith("AR")} == {"AR@2", "AR@5", "ARs@5", "ARm@5", "ARl@5"}
    assert sum(key.startswith("recall") and key.endswith("@5") for key in numbers) == 10


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
