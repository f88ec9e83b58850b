import warnings
from typing import Any

import numpy as np
import pytest
import torch

from unsam_lightning.benchmarks.interactive import evaluate_interactive
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.clicker import Clicker
from unsam_lightning.model import UnSAM
from unsam_lightning.scenes.scene import make_scene
from unsam_lightning.segment.interactive import Predictor


@pytest.fixture(scope="module")
def model() -> UnSAM:
    return UnSAM.from_pretrained("nano")


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def predictor(model: UnSAM, photo: np.ndarray) -> Predictor:
    return Predictor(model, photo)


def test_one_mask_for_each_granularity_at_the_images_size(predictor: Predictor) -> None:
    masks, iou, logits = predictor.predict([[30, 20], [70, 50]], [1, 0], [0.1, 0.5, 1.0])
    assert masks.shape == (3, 60, 90)
    assert logits.shape == (3, 64, 64)
    assert masks.dtype == np.bool_
    assert iou.shape == (3,)
    assert iou.dtype == np.float32
    for n, granularity in enumerate((0.1, 0.5, 1.0)):
        alone, alone_iou, _ = predictor.predict([[30, 20], [70, 50]], [1, 0], granularity)
        assert (alone[0] == masks[n]).mean() > 0.999
        assert alone_iou[0] == pytest.approx(iou[n], abs=1e-4)


@torch.no_grad()
def test_masks_are_the_models(model: UnSAM, photo: np.ndarray, predictor: Predictor) -> None:
    embedding = model.encode(torch.from_numpy(photo).permute(2, 0, 1)[None])
    frame_xy = torch.tensor([[[30 * 256 / 90, 20 * 256 / 60]]])
    for granularity in (0.4, None):
        logits = model.decode(embedding, frame_xy, torch.ones(1, 1), granularity).masks
        expected = torch.nn.functional.interpolate(logits, (60, 90), mode="bilinear")[0] > 0
        wanted = None if granularity is None else [granularity]
        assert (predictor.predict([[30, 20]], [1], wanted).masks == expected.numpy()).all()


def test_stock_sam_gives_one_mask(predictor: Predictor) -> None:
    masks, iou, _ = predictor.predict([[30, 20]], [1], None)
    assert masks.shape == (1, 60, 90)
    assert iou.shape == (1,)


def test_array_arguments_and_a_flipped_image(model: UnSAM, photo: np.ndarray) -> None:
    only_read = photo.copy()
    only_read.flags.writeable = False  # as `np.asarray` of a Pillow image is
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        flipped = Predictor(model, only_read[:, ::-1])
        Predictor(model, only_read)
    copied = Predictor(model, photo[:, ::-1].copy())
    for one, two in zip(flipped.predict(np.array([[3.5, 9]]), np.array([1]), np.array([0.2, 0.9])),
                        copied.predict([[3.5, 9]], [1], [0.2, 0.9]), strict=True):  # fmt: skip
        assert (one == two).all()


@pytest.mark.parametrize("granularity", [None, 0.6])
def test_clicks_are_worth_what_the_benchmark_says(model: UnSAM, granularity: float | None) -> None:
    scene = make_scene(7, 96)
    truth = max(scene.masks, key=lambda mask: mask.sum() if mask.mean() < 0.5 else 0)
    sample = EvalSample(key="scene", image=scene.image, masks=truth[None].astype(np.int8), ids=["thing"])
    predictor = Predictor(model, scene.image)
    sessions = evaluate_interactive(
        model, predictor.embedding, sample, methods=("tuned", "base_single"), max_clicks=4, target=1.0
    )
    expected = next(session.ious for session in sessions if session.granularity == granularity)
    clicker, mask, ious, clicks = Clicker(truth.astype(np.int8)), np.zeros_like(truth), [], []
    for _ in range(4):
        y, x, positive = clicker.next_click(mask)
        clicks.append(([x, y], int(positive)))
        answer = predictor.predict([xy for xy, _ in clicks], [label for _, label in clicks], granularity)
        mask = answer.masks[0]
        ious.append(clicker.iou(mask))
    assert ious == pytest.approx(expected, abs=5e-3)
    assert ious[-1] != ious[0]


def test_the_last_click_alone_corrects_the_prediction_before(predictor: Predictor) -> None:
    clicks, labels, granularity = [[30, 20], [70, 50], [40, 10]], [1, 0, 1], [0.2, 0.8]
    before = predictor.predict(clicks[:2], labels[:2], granularity)
    one_more = predictor.predict(clicks, labels, granularity, before.logits)
    together = predictor.predict(clicks, labels, granularity)
    torch.testing.assert_close(one_more.logits, together.logits)
    assert (one_more.masks == together.masks).all()
    with pytest.raises(UserError, match=r"at 1 granularities.*found \(2, 64, 64\)"):
        predictor.predict(clicks, labels, 0.2, before.logits)


@pytest.mark.parametrize(
    ("clicks", "labels", "found"),
    [
        ([], [], r"0 clicks with labels \[\]"),
        ([[5, 5]], [], r"1 clicks with labels \[\]"),
        ([[5, 5]], [1, 0], r"1 clicks with labels \[1, 0\]"),
        ([[5, 5]], [2], r"1 clicks with labels \[2\]"),
        ([[90, 5]], [1], r"click \(90\.0, 5\.0\)"),
        ([[5, 5], [5, 60]], [1, 1], r"click \(5\.0, 60\.0\)"),
        ([[-1, 5]], [1], r"click \(-1\.0, 5\.0\)"),
        ([[float("nan"), 5]], [1], r"click \(nan, 5\.0\)"),
    ],
)
def test_bad_clicks_are_user_errors(predictor: Predictor, clicks: Any, labels: list[int], found: str) -> None:
    with pytest.raises(UserError, match=f"image of 90 x 60 px.*found {found}"):
        predictor.predict(clicks, labels, [0.5])


@pytest.mark.parametrize("granularity", [[], [0.5, 0.0], [1.1], [float("nan")]])
def test_bad_granularities_are_user_errors(predictor: Predictor, granularity: list[float]) -> None:
    with pytest.raises(UserError, match="granularity"):
        predictor.predict([[5, 5]], [1], granularity)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((9, 9), dtype=np.uint8),
        np.zeros((9, 9, 4), dtype=np.uint8),
        np.zeros((9, 9, 3), dtype=np.float32),
        np.zeros((0, 9, 3), dtype=np.uint8),
    ],
)
def test_other_images_are_user_errors(model: UnSAM, image: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"uint8 \(H, W, 3\); found"):
        Predictor(model, image)


def test_levels_are_offered_with_a_first_choice(model: UnSAM, photo: np.ndarray, predictor: Predictor) -> None:
    offered = predictor.offer([[30, 20]], [1])
    assert 1 <= len(offered.masks) == len(offered.granularity) == len(offered.iou) <= 7
    assert offered.granularity == sorted(offered.granularity)
    again, iou, _ = predictor.predict([[30, 20]], [1], offered.granularity)
    assert (again == offered.masks).mean() > 0.999
    assert iou == pytest.approx(offered.iou, abs=1e-4)
    # What is shown first is, of the whole sweep, what SAM-2's own masks agree with most.
    three = model.decode(predictor.embedding, *predictor._prompt([[30, 20]], [1]), multimask=True)
    sweep = predictor.predict([[30, 20]], [1], SWEEP).masks
    hypotheses = predictor._at_image_size(three.masks)[0]
    weight = three.iou[0].numpy() ** 4
    overlap = np.array([[(a & b).sum() / max((a | b).sum(), 1) for b in hypotheses] for a in sweep])
    expected = overlap @ weight / weight.sum()
    assert expected[SWEEP.index(offered.granularity[offered.first_choice])] == pytest.approx(expected.max(), abs=0.02)
