"""SAM-2's own predictors run on our model at a granularity, several at once."""

from __future__ import annotations

import copy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sam2.sam2_video_predictor import SAM2VideoPredictor

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


def test_mask_generators_in_threads_do_not_disturb_each_other(model: UnSAM, image: np.ndarray) -> None:
    def masks(granularity: float | None) -> list[tuple[int, list[float], float]]:
        options = {"points_per_side": 2, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
        found = mask_generator(model, granularity, **options).generate(image)
        return [(mask["area"], mask["bbox"], mask["predicted_iou"]) for mask in found]

    asked = [0.1, None, 1.0] * 2
    expected = {granularity: masks(granularity) for granularity in set(asked)}
    assert expected[0.1] != expected[1.0]
    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(masks, asked)) == [expected[granularity] for granularity in asked]


def test_a_compiled_model_answers_as_a_plain_one(model: UnSAM, image: np.ndarray) -> None:
    torch._dynamo.reset()
    compiled = copy.deepcopy(model)
    compiled.compile(backend="aot_eager")  # the whole of torch.compile but for the code generator
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    np.testing.assert_allclose(logits(compiled, image, 0.3), logits(model, image, 0.3), atol=1e-3)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= graphs + 2


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


@pytest.fixture(scope="module")
def with_memory(shared: Path) -> UnSAM:
    folder = shared / "golden" / "model"
    return UnSAM.from_pretrained(str(folder / "official_nano.safetensors"), config=folder / "official_nano.yaml")


@pytest.fixture
def film(tmp_path: Path) -> str:
    """A folder with three frames, in which a rectangle moves to the right."""
    for number in range(3):
        picture = np.zeros((64, 96, 3), dtype=np.uint8)
        picture[20:40, 10 + 8 * number : 40 + 8 * number] = 200
        Image.fromarray(picture).save(tmp_path / f"{number:05d}.jpg")
    return str(tmp_path)


def clicked(predictor: SAM2VideoPredictor, film: str) -> dict[str, Any]:
    """Return the state after a click into the rectangle of the first frame."""
    state = predictor.init_state(film)
    predictor.add_new_points_or_box(
        state, frame_idx=0, obj_id=1, points=np.array([[25.0, 30.0]], np.float32), labels=np.array([1], np.int32)
    )
    return state


def test_video_predictor_follows_an_object(with_memory: UnSAM, film: str) -> None:
    found = {}
    for granularity in (0.1, 1.0):
        predictor = video_predictor(with_memory, granularity)
        state = clicked(predictor, film)
        found[granularity] = [masks.clone() for _, _, masks in predictor.propagate_in_video(state)]
        assert [tuple(masks.shape) for masks in found[granularity]] == [(1, 1, 64, 96)] * 3
    assert not torch.equal(found[0.1][0], found[1.0][0])
    with pytest.raises(UserError, match="fill_holes"):
        video_predictor(with_memory, 0.5, fill_holes=3)
    with pytest.raises(UserError, match="segments images only"):
        video_predictor(UnSAM.from_pretrained("nano"), 0.5)


@pytest.mark.parametrize("as_shown", [True, False])
def test_video_predictor_takes_the_defaults_of_the_authors_builder(
    with_memory: UnSAM, film: str, as_shown: bool
) -> None:
    options = {"binarize_mask_from_pts_for_mem_enc": True, "fill_hole_area": 8} if as_shown else {}
    predictor = video_predictor(with_memory, 0.5, **options)
    assert predictor.fill_hole_area == (8 if as_shown else 0)
    remembered: list[torch.Tensor] = []
    hook = predictor.memory_encoder.register_forward_pre_hook(lambda _, inputs: remembered.append(inputs[1]))
    predictor.fill_hole_area = 0  # sam2 without its CUDA extension only warns of it
    predictor.propagate_in_video_preflight(clicked(predictor, film))
    hook.remove()
    assert (set(remembered[0].unique().tolist()) <= {-10.0, 10.0}) == as_shown
    assert not with_memory.sam.binarize_mask_from_pts_for_mem_enc
