import json

import numpy as np
import pytest

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.mean_iou import MeanIoU, class_overlaps


def measured(preds, gts, *args, **options):
    metric = MeanIoU(*args, **options)
    for pred, gt in zip(preds, gts, strict=True):
        metric.update(pred, gt)
    return metric.compute()


def test_the_meanings_of_the_field(shared):
    golden = np.load(shared / "golden/misc/inputs.npz")
    maps = golden["miou_pred"], golden["miou_target"]
    expected = json.loads((shared / "golden/misc/expected.json").read_text())["miou"]
    numbers = measured(*maps, 4)
    assert numbers["miou"] == pytest.approx(expected["MulticlassJaccard_macro"], abs=1e-6)
    assert numbers["iou_micro"] == pytest.approx(expected["MulticlassJaccard_micro"], abs=1e-6)
    assert numbers["miou_per_image"] == pytest.approx(expected["MeanIoU_bg1"], abs=1e-6)
    pooled = [numbers[f"iou_class{c}"] for c in range(3)]
    assert pooled == pytest.approx(expected["MulticlassJaccard_none"][:3], abs=1e-6)
    per_image = [numbers[f"iou_per_image_class{c}"] for c in range(3)]
    assert per_image == pytest.approx(expected["MeanIoU_perclass_bg1"][:3], abs=1e-6)
    # A class that occurs nowhere has no value: 0 and -1 in torchmetrics.
    assert np.isnan([numbers["iou_class3"], numbers["iou_per_image_class3"]]).all()

    without_background = measured(*maps, 4, background=False)
    assert without_background["miou_per_image"] == pytest.approx(expected["MeanIoU_bg0"], abs=1e-6)
    assert without_background["iou_per_image_class1"] == pytest.approx(expected["MeanIoU_perclass_bg0"][0], abs=1e-6)
    assert "iou_class0" not in without_background

    masks = measured(maps[0] > 0, maps[1] > 0, 2, background=False)
    assert masks["miou"] == pytest.approx(expected["BinaryJaccard_both_images"], abs=1e-6)
    assert masks["miou_per_image"] == pytest.approx(expected["mean_of_per_image_binary_iou"], abs=1e-6)
    for pred, gt, iou in zip(*maps, expected["per_image_binary_iou"], strict=True):
        assert measured([pred > 0], [gt > 0], 2, background=False)["miou"] == pytest.approx(iou, abs=1e-6)
    assert expected["MeanIoU_fg_only_empty_vs_empty"] == "nan"
    empty = np.zeros((3, 3), dtype=bool)
    assert np.isnan(measured([empty], [empty], 2, background=False)["miou_per_image"])


def test_overlaps_by_hand():
    pred, gt = np.array([[0, 1, 1, 2]]), np.array([[0, 0, 1, 255]])
    shared, union = class_overlaps(pred, gt, 3, ignore=255)
    assert (shared.tolist(), union.tolist()) == ([1, 1, 0], [2, 2, 0])


def test_an_image_without_a_class_does_not_count_for_it():
    one, none = np.array([[1, 1, 0, 0]]), np.array([[0, 0, 0, 0]])
    numbers = measured([one, none], [np.array([[1, 0, 0, 0]]), none], 2)
    assert numbers["iou_per_image_class1"] == 0.5
    assert numbers["iou_per_image_class0"] == pytest.approx((2 / 3 + 1) / 2)
    assert numbers["miou_per_image"] == pytest.approx((0.5 + 2 / 3 + 1) / 3)
    assert numbers["miou"] == pytest.approx((0.5 + 6 / 7) / 2)


def test_wrong_labels_and_sizes_are_refused():
    with pytest.raises(UserError, match="0 to 255 in the ground truth"):
        class_overlaps(np.zeros((1, 2), int), np.array([[0, 255]]), 3)
    with pytest.raises(UserError, match="-1 to 0 in the prediction"):
        class_overlaps(np.array([[0, -1]]), np.zeros((1, 2), int), 3)
    with pytest.raises(UserError, match=r"\(1, 2\)"):
        class_overlaps(np.zeros((1, 2), int), np.zeros((2, 1), int), 3)
