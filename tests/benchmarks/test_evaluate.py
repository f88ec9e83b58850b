import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from unsam_lightning.benchmarks import evaluate
from unsam_lightning.benchmarks.baselines import felzenszwalb_masks, otsu_masks
from unsam_lightning.benchmarks.evaluate import EvaluationConfig, evaluate_sample
from unsam_lightning.benchmarks.objects import object_rows
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.tables import tabulate
from unsam_lightning.errors import UserError
from unsam_lightning.metrics.clicker import Clicker
from unsam_lightning.model import UnSAM
from unsam_lightning.sources import eval_dataset

CONFIG = EvaluationConfig(fixed=(0.5,), max_clicks=2, points_per_side=2)


@pytest.fixture(scope="module")
def model() -> UnSAM:
    return UnSAM.from_pretrained("nano")


@pytest.fixture
def sample() -> EvalSample:
    masks = np.zeros((2, 40, 50), dtype=np.int8)
    masks[0, 5:30, 5:30], masks[1, 20:35, 30:45] = 1, 1
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    return EvalSample(key="key", image=image, masks=masks, ids=["a", "b"])


def test_image_is_encoded_once_and_everything_is_measured(
    model: UnSAM, sample: EvalSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    forward = model.sam.forward_image
    monkeypatch.setattr(model.sam, "forward_image", lambda images: encoded.append(len(images)) or forward(images))
    result = evaluate_sample(model, sample, CONFIG, dataset="set", index=4)
    assert encoded == [1]
    assert (result.dataset, result.index, result.key, result.num_masks) == ("set", 4, "key", 2)
    assert len(result.sessions) == 2 * 13
    assert result.area_px == {"a": 625, "b": 225}
    assert set(result.recall) == {"base", "tuned", "tuned g = 0.5"}
    # 2 masks at 10 IoU thresholds, 4 area ranges and 4 numbers of proposals.
    assert all(state["num_masks"] == [2, 2, 0, 0] for state in result.recall.values())
    assert np.shape(result.recall["base"]["recalled"]) == (10, 4, 4)
    assert result.dial["num_sweeps"] == 2
    assert set(result.otsu) == {"a", "b"}
    assert all(0 <= (one.first_boundary_iou or 0.0) <= 1 for one in result.sessions)
    assert any(one.first_boundary_iou for one in result.sessions)
    rows = tabulate([result], object_rows([result], CONFIG), CONFIG)
    assert all(row.num_masks == 2 for row in rows)
    # Plain values: it travels between ranks.
    assert all(type(value) in (int, float) for one in result.sessions for value in one.ious)


def test_untrained_warm_adapter_and_its_base_are_judged_alike(model: UnSAM, sample: EvalSample) -> None:
    """The same image gives the same result twice, and the result follows the model."""
    first, again = (evaluate_sample(model, sample, CONFIG) for _ in range(2))
    assert first == again
    other = UnSAM.from_pretrained("nano", seed=1)
    with torch.no_grad():
        other.decoder.token.add_(3.0)
    changed = evaluate_sample(other, sample, CONFIG)

    def sessions(result: Any, method: str) -> list[list[float]]:
        return [s.ious for s in result.sessions if s.method == method]

    assert sessions(changed, "base_single") == sessions(first, "base_single")
    assert changed.recall["base"] == first.recall["base"]
    assert sessions(changed, "tuned") != sessions(first, "tuned")


def test_parts_are_left_out_on_demand(model: UnSAM, sample: EvalSample) -> None:
    assert evaluate_sample(model, sample, dataclasses.replace(CONFIG, points_per_side=0)).recall == {}
    empty = EvalSample(key="e", image=sample.image, masks=sample.masks[:0], ids=[])
    result = evaluate_sample(model, empty, CONFIG)
    assert (result.num_masks, result.sessions, result.recall, result.dial) == (0, [], {}, {})


def test_the_base_may_have_as_many_decoder_calls(
    model: UnSAM, sample: EvalSample, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = evaluate.propose_masks

    def recorded(*args: Any, granularities: Any, points_per_side: int, **options: Any) -> Any:
        asked.append((granularities is None, points_per_side**2))
        return original(*args, granularities=granularities, points_per_side=points_per_side, **options)

    monkeypatch.setattr(evaluate, "propose_masks", recorded)
    config = dataclasses.replace(CONFIG, points_per_side=3, equal_calls=True)
    found = evaluate_sample(model, sample, config).recall
    # 90 calls of the union, 81 of the base, 36 of the base that share them with 45 of the union's.
    assert asked == [(True, 9), (False, 9), (True, 81), (True, 36)]
    assert found.keys() == {"base", "base, equal calls", "tuned", "tuned g = 0.5", "tuned and base, equal calls"}


def test_masks_without_a_pixel_are_left_out_and_named(model: UnSAM, sample: EvalSample) -> None:
    masks = np.concatenate([sample.masks[:1], -np.ones((1, 40, 50), np.int8), sample.masks[1:]])
    odd = dataclasses.replace(sample, masks=masks, ids=["a", "nothing", "b"])
    result = evaluate_sample(model, odd, CONFIG)
    assert result.remarks == [("nothing", "no pixel of the object", "left out", False)]
    expected = evaluate_sample(model, sample, CONFIG)
    assert dataclasses.replace(result, remarks=[]) == expected


def test_otsu_sides_by_hand() -> None:
    image = np.full((10, 10, 3), 30, dtype=np.uint8)
    image[:5, :6] = 220
    sides = otsu_masks(image)
    assert sides["bright"].sum() == 30
    assert sides["bright"][:5, :6].all()
    assert (sides["dark"] == ~sides["bright"]).all()


def test_otsu_equals_the_reference(shared: Path) -> None:
    golden = json.loads((shared / "golden/misc/expected.json").read_text())
    inputs = np.load(shared / "golden/misc/inputs.npz")
    for name in ("two_level", "gradient_plus_disc", "three_levels", "constant"):
        image = np.repeat(inputs[f"otsu_{name}"][..., None], 3, axis=2)
        assert otsu_masks(image)["bright"].sum() == golden["otsu"][name]["cv2_mask_pixels"], name
    for key in ("101085", "24077"):
        image = np.asarray(Image.open(shared / f"data/BSDS500/val/images/{key}.jpg").convert("RGB"))
        assert otsu_masks(image)["bright"].sum() == golden["otsu"][f"bsds_{key}"]["fg_pixels_gt"], key
    dataset = eval_dataset("data_manifests/grabcut13.yaml")
    best = []
    for sample in dataset:
        sides = otsu_masks(sample.image)
        expected = golden["otsu_grabcut13"]["per_image"][sample.key]
        for side in ("bright", "dark"):
            assert Clicker(sample.masks[0]).iou(sides[side]) == pytest.approx(expected[f"iou_{side}"], abs=1e-12)
        best.append(max(expected["iou_bright"], expected["iou_dark"]))
    assert np.mean(best) == pytest.approx(golden["otsu_grabcut13"]["mean_best_polarity"])


def test_felzenszwalb_finds_flat_regions_large_first() -> None:
    image = np.full((60, 80, 3), 20, dtype=np.uint8)
    image[10:40, 10:50], image[45:55, 60:75] = 120, 230
    masks = felzenszwalb_masks(image)
    areas = masks.sum(axis=(1, 2))
    assert (np.diff(areas) <= 0).all()
    assert areas[0] > 0.8 * (60 * 80 - 1200 - 150)  # sigma 0.8 takes the boundaries' own pixels away
    for box, area in ((masks[:, 10:40, 10:50], 1200), (masks[:, 45:55, 60:75], 150)):
        shared = box.sum(axis=(1, 2))
        assert (shared / (area + areas - shared)).max() > 0.75


def test_felzenszwalb_without_its_library_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(UserError, match="expected scikit-image, for the Felzenszwalb baseline; found it is not"):
        felzenszwalb_masks(np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"fixed": (0.5, 0.25)}, "fixed granularity 0.25"),
        ({"target": 0.85}, "target 0.85, below 0.9"),
        ({"max_clicks": 0}, "max_clicks 0"),
        ({"memory_gb": 0.0, "points_per_side": -1}, "points_per_side -1; memory_gb 0.0"),
    ],
)
def test_config_that_no_table_could_be_made_of_is_refused(options: dict[str, Any], found: str) -> None:
    with pytest.raises(UserError, match=found):
        EvaluationConfig(**options)
