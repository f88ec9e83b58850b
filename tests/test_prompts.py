import cv2
import numpy as np
import pytest
import torch

from unsam_lightning.prompts import (
    boxes_of,
    correction_clicks,
    deepest_pixel,
    depth,
    first_clicks,
    pixels_to_xy,
    propagate_clicks,
    sample_pixels,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def masks_with(*pixels: tuple[int, int, int], shape: tuple[int, int, int]) -> torch.Tensor:
    masks = torch.zeros(shape, dtype=torch.bool)
    for index in pixels:
        masks[index] = True
    return masks


def test_pixels_lie_in_their_masks_and_are_uniform() -> None:
    masks = torch.rand(5, 16, 16, generator=seeded()) < torch.tensor([0.02, 0.1, 0.3, 0.9, 1.1])[:, None, None]
    draws = sample_pixels(masks, seeded(1), 4000)
    assert masks.flatten(1).gather(1, draws).all()
    for mask, drawn in zip(masks.flatten(1), draws, strict=True):
        area = int(mask.sum())
        counts = torch.bincount(drawn, minlength=256)[mask].double()
        chi2 = float(((counts - 4000 / area) ** 2 / (4000 / area)).sum())
        # Mean area - 1, variance 2 (area - 1): five deviations, with a fixed seed.
        assert abs(chi2 - (area - 1)) < 5 * (2 * max(area - 1, 1)) ** 0.5


def test_same_generator_same_pixels_and_the_global_state_is_left_alone() -> None:
    masks = torch.ones(3, 8, 8, dtype=torch.bool)
    before = torch.get_rng_state()
    assert (sample_pixels(masks, seeded(3), 5) == sample_pixels(masks, seeded(3), 5)).all()
    assert (sample_pixels(masks, seeded(3), 50) != sample_pixels(masks, seeded(4), 50)).any()
    assert (torch.get_rng_state() == before).all()


def test_draws_of_zero_and_one_stay_in_the_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    masks = masks_with((0, 1, 2), (0, 3, 1), shape=(1, 4, 4))
    for draw, pixel in ((0.0, 1 * 4 + 2), (0.49, 1 * 4 + 2), (0.5, 3 * 4 + 1), (1.0, 3 * 4 + 1)):
        monkeypatch.setattr(torch, "rand", lambda *shape, draw=draw, **_: torch.full(shape, draw))
        assert sample_pixels(masks, None).item() == pixel


def test_empty_mask_gives_the_first_pixel() -> None:
    assert sample_pixels(torch.zeros(2, 4, 4, dtype=torch.bool), seeded(), 3).tolist() == [[0] * 3] * 2


def test_no_masks_give_no_clicks() -> None:
    assert first_clicks(torch.zeros(0, 4, 4, dtype=torch.bool), seeded()).shape == (0, 1, 2)


def test_clicks_are_centres_in_the_frame() -> None:
    # Pixel (y 1, x 2) at stride 4 covers frame pixels x 8 .. 11, y 4 .. 7; its centre is at 9.5, 5.5.
    clicks = first_clicks(masks_with((0, 1, 2), shape=(1, 4, 6)), seeded())
    assert clicks.tolist() == [[[9.5, 5.5]]]
    assert pixels_to_xy(torch.tensor([1 * 6 + 2]), 6).tolist() == [[9.5, 5.5]]


def test_corrections_are_on_errors_and_labelled_by_their_kind() -> None:
    mask = masks_with((0, 0, 0), (0, 0, 1), shape=(1, 4, 4))
    predicted = masks_with((0, 0, 0), (0, 3, 3), shape=(1, 4, 4))  # misses (0, 1), adds (3, 3)
    many = 400
    logits = torch.where(predicted, 2.0, -2.0).expand(many, -1, -1)
    clicks, labels = correction_clicks(logits, mask.expand(many, -1, -1), seeded())
    assert clicks.shape == (many, 1, 2)
    assert labels.dtype == torch.int64
    missed = (clicks[:, 0] == torch.tensor([5.5, 1.5])).all(1)
    added = (clicks[:, 0] == torch.tensor([13.5, 13.5])).all(1)
    assert (missed ^ added).all()
    assert (labels[:, 0] == missed.long()).all()
    assert 150 < int(missed.sum()) < 250  # uniform over the two wrong pixels


def test_perfect_prediction_gets_another_click_inside() -> None:
    masks = torch.rand(50, 8, 8, generator=seeded()) < 0.2
    clicks, labels = correction_clicks(torch.where(masks, 1.0, -1.0), masks, seeded(1))
    assert (labels == 1).all()
    pixels = (clicks[:, 0] - 1.5) / 4
    assert masks[torch.arange(50), pixels[:, 1].long(), pixels[:, 0].long()].all()


def test_logit_zero_is_outside() -> None:
    mask = masks_with((0, 2, 2), shape=(1, 4, 4))
    _, labels = correction_clicks(torch.zeros(1, 4, 4), mask, seeded())
    assert labels.item() == 1  # the only error is the missed pixel


def test_clicks_move_with_the_warp_and_say_whether_they_are_seen() -> None:
    shift = torch.eye(3)[None].repeat(4, 1, 1)
    shift[:, 0, 2] = torch.tensor([4.0, 4.0, -8.0, 100.0])
    seen = torch.ones(4, 4, 4, dtype=torch.bool)
    seen[1, 0, 1] = False
    points = torch.tensor([[[1.5, 1.5]]]).repeat(4, 1, 1)
    moved, visible = propagate_clicks(points, shift, seen)
    assert moved[:, 0, 0].tolist() == [5.5, 5.5, -6.5, 101.5]
    assert moved[:, 0, 1].tolist() == [1.5] * 4
    assert visible.tolist() == [True, False, False, False]


def test_one_click_out_of_view_hides_the_prompt() -> None:
    points = torch.tensor([[[1.5, 1.5], [30.0, 1.5]]])
    _, visible = propagate_clicks(points, torch.eye(3)[None], torch.ones(1, 4, 4, dtype=torch.bool))
    assert visible.tolist() == [False]


def test_frame_ends_half_a_pixel_beyond_the_outermost_centres() -> None:
    points = torch.tensor([[[-0.4, 0.0]], [[-0.6, 0.0]], [[15.4, 0.0]], [[15.6, 0.0]]])
    _, visible = propagate_clicks(points, torch.eye(3).expand(4, 3, 3), torch.ones(4, 4, 4, dtype=torch.bool))
    assert visible.tolist() == [True, False, True, False]


def blobs() -> torch.Tensor:
    """Masks of all kinds: ragged, whole, empty, one pixel, touching the border."""
    masks = torch.rand(6, 20, 28, generator=torch.Generator().manual_seed(0)) < 0.8
    masks[1], masks[2], masks[3] = True, False, False
    masks[3, 4, 5] = True
    masks[4, :, 14:] = False
    return masks


def test_depth_is_opencvs() -> None:
    masks = blobs()
    expected = [
        cv2.distanceTransform(np.pad(m.numpy(), 1).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
        for m in masks
    ]
    assert np.allclose(depth(masks).numpy(), np.stack(expected), atol=1e-4)
    assert depth(masks[:0]).shape == (0, 20, 28)


def test_graco_clicks_lie_in_the_deeper_half() -> None:
    masks = blobs()[[0, 1, 3, 4]]
    depths, generator = depth(masks), torch.Generator().manual_seed(1)
    for _ in range(20):
        clicks = first_clicks(masks, generator, "graco")
        x, y = ((clicks[:, 0] - 1.5) / 4).long().unbind(1)
        at = depths[torch.arange(4), y, x]
        assert (at > depths.amax((1, 2)) / 2).all()


def test_graco_corrections_go_to_the_deeper_kind_of_error() -> None:
    truth = torch.zeros(3, 20, 20, dtype=torch.bool)
    truth[:, 2:12, 2:12] = True
    predicted = truth.clone()
    predicted[0, 2:12, 2:9] = False  # 3 columns are left: 7 are missed
    predicted[0, 15:17, 15:17] = True  # and a little is too much
    predicted[1, 14:19, 0:19] = True  # 5 rows too much
    predicted[1, 2:4, 2:4] = False
    for _ in range(10):
        clicks, labels = correction_clicks(predicted.float() - 0.5, truth, None, "graco")
        assert labels[:, 0].tolist() == [1, 0, 1]  # the third is perfect: another click inside
        x, y = ((clicks[:, 0] - 1.5) / 4).long().unbind(1)
        assert 2 <= x[0] < 9
        assert 14 <= y[1] < 19


def test_boxes_reach_the_outer_edges() -> None:
    masks = torch.zeros(3, 8, 8, dtype=torch.bool)
    masks[0, 2:5, 1:7] = True
    masks[1] = True
    assert boxes_of(masks).tolist() == [[4, 8, 27, 19], [0, 0, 31, 31], [0, 0, 31, 31]]


def test_deepest_pixel_counts_the_frame_as_outside() -> None:
    mask = np.zeros((9, 12), dtype=np.bool_)
    mask[0:3, 0:9] = True
    assert deepest_pixel(mask)[1] == 1
    mask[:] = True
    assert deepest_pixel(mask)[1] == 4
