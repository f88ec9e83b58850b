"""SAM-2's own predictors run on our model at a granularity, several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM
from unsam_lightning.segment.interactive import Predictor
from unsam_lightning.segment.stock import image_predictor, mask_generator, sam_at, video_predictor


@pytest.fixture(scope="module")
def model() -> UnSAM:
    made = UnSAM.from_pretrained("nano")
    with torch.no_grad():  # as if trained: otherwise all granularities answer much the same
        generator = torch.Generator().manual_seed(0)
        for parameter in made.decoder.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return made


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)


def logits(model: UnSAM, image: np.ndarray, granularity: float | None) -> np.ndarray:
    predictor = image_predictor(model, granularity)
    predictor.set_image(image)
    masks, _, _ = predictor.predict(np.array([[60.0, 40.0]]), np.array([1]), multimask_output=False, return_logits=True)
    return masks


@pytest.mark.parametrize("granularity", [None, 0.3])
def test_image_predictor_gives_our_masks(model: UnSAM, image: np.ndarray, granularity: float | None) -> None:
    ours = Predictor(model, image).predict([[60, 40]], [1], granularity).masks
    theirs = logits(model, image, granularity) > 0
    assert (ours == theirs).mean() > 0.999  # SAM2Transforms resizes in float, `encode` too, but in another order


def test_threads_at_different_granularities_do_not_disturb_each_other(model: UnSAM, image: np.ndarray) -> None:
    asked = [0.1, None, 1.0, 0.5] * 3
    expected = {granularity: logits(model, image, granularity) for granularity in set(asked)}
    assert not np.array_equal(expected[0.1], expected[1.0])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda granularity: logits(model, image, granularity), asked))
    for granularity, masks in zip(asked, found, strict=True):
        np.testing.assert_array_equal(masks, expected[granularity])


def test_mask_generator_runs_at_a_granularity(model: UnSAM, image: np.ndarray) -> None:
    options = {"points_per_side": 3, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
    found = {g: mask_generator(model, g, **options).generate(image) for g in (None, 0.2, 1.0)}
    for masks in found.values():
        assert all(mask["segmentation"].shape == image.shape[:2] for mask in masks)
    assert len(found[1.0]) <= 9  # one mask a point, not three


def test_model_itself_is_untouched(model: UnSAM) -> None:
    decoder = model.sam.sam_mask_decoder
    sam_at(model, 0.5)
    assert model.sam.sam_mask_decoder is decoder
    with pytest.raises(UserError, match="found 2"):
        sam_at(model, 2.0)


def test_video_predictor_follows_an_object(shared: Path, tmp_path: Path) -> None:
    folder = shared / "golden" / "model"
    model = UnSAM.from_pretrained(str(folder / "official_nano.safetensors"), config=folder / "official_nano.yaml")
    for number in range(3):
        picture = np.zeros((64, 96, 3), dtype=np.uint8)
        picture[20:40, 10 + 8 * number : 40 + 8 * number] = 200
        Image.fromarray(picture).save(tmp_path / f"{number:05d}.jpg")
    found = {}
    for granularity in (0.1, 1.0):
        predictor = video_predictor(model, granularity)
        state = predictor.init_state(str(tmp_path))
        predictor.add_new_points_or_box(
            state, frame_idx=0, obj_id=1, points=np.array([[25.0, 30.0]], np.float32), labels=np.array([1], np.int32)
        )
        found[granularity] = [masks.clone() for _, _, masks in predictor.propagate_in_video(state)]
        assert [tuple(masks.shape) for masks in found[granularity]] == [(1, 1, 64, 96)] * 3
    assert not torch.equal(found[0.1][0], found[1.0][0])
    with pytest.raises(UserError, match="fill_holes"):
        video_predictor(model, 0.5, fill_holes=3)
    with pytest.raises(UserError, match="segments images only"):
        video_predictor(UnSAM.from_pretrained("nano"), 0.5)
