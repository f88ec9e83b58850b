"""What whole-image proposals share with SAM's automatic mask generator equals its own values."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sam2.utils import amg

from unsam_lightning.benchmarks.whole_image import grid_points, stability
from unsam_lightning.pairs import decode_masks, encode_masks


@pytest.fixture
def golden(shared: Path) -> tuple[dict, torch.Tensor]:
    expected = json.loads((shared / "golden/misc/expected.json").read_text())["amg"]
    return expected, torch.from_numpy(np.load(shared / "golden/misc/inputs.npz")["amg_logits"])


def test_stability_equals_the_reference(golden: tuple[dict, torch.Tensor]) -> None:
    expected, logits = golden
    assert stability(logits).tolist() == pytest.approx(expected["stability_thr0_off1"])
    assert stability(logits, 0.5).tolist() == pytest.approx(expected["stability_thr0_off0.5"])


def test_the_grid_is_the_reference_s(golden: tuple[dict, torch.Tensor]) -> None:
    expected, _ = golden
    assert (grid_points(4, 1) - torch.tensor(expected["point_grid_4"])).abs().max() < 1e-6
    ends = grid_points(32, 1)[[0, -1]]
    assert (ends - torch.tensor(expected["point_grid_32_first_last"])).abs().max() < 1e-6


def test_masks_have_the_reference_s_runs(golden: tuple[dict, torch.Tensor]) -> None:
    expected, logits = golden
    masks = (logits > 0).numpy()
    assert masks.sum(axis=(1, 2)).tolist() == expected["pixels_gt0"]
    theirs = np.stack([amg.rle_to_mask(rle) for rle in expected["rle"]])
    np.testing.assert_array_equal(decode_masks(encode_masks(masks), *masks.shape[1:]), theirs)


def test_the_generator_that_speed_is_compared_with_is_the_reference(golden: tuple[dict, torch.Tensor]) -> None:
    expected, logits = golden
    masks = logits > 0
    assert amg.batched_mask_to_box(masks).tolist() == expected["boxes_xyxy"]
    assert amg.batched_mask_to_box(torch.zeros(1, 40, 56, dtype=torch.bool)).tolist() == expected["boxes_xyxy_empty"]
    assert [rle["counts"] for rle in amg.mask_to_rle_pytorch(masks)] == [rle["counts"] for rle in expected["rle"]]
    boxes, layers = amg.generate_crop_boxes((480, 854), 2, 512 / 1500)
    assert [list(map(int, box)) for box in boxes] == expected["crop_boxes_480x854_n2"]
    assert layers == expected["crop_layers"]


def test_small_regions_are_removed_as_in_the_reference(shared: Path, golden: tuple[dict, torch.Tensor]) -> None:
    expected, _ = golden
    mask = np.load(shared / "golden/misc/inputs.npz")["amg_small_regions_mask"]
    for mode in ("holes", "islands"):
        for area in (1, 2, 5, 20):
            found, changed = amg.remove_small_regions(mask, area, mode)
            assert [int(found.sum()), changed] == expected[f"small_{mode}_{area}"], (mode, area)
