"""Which granularity a click without one gets, by hand."""

from __future__ import annotations

import torch

from unsam_lightning.automatic import Level, choose_granularity, overlaps, stable_levels


def strips(*widths: int) -> torch.Tensor:
    """Logits (G, 4, 10) of masks that cover the first columns."""
    masks = torch.full((len(widths), 4, 10), -1.0)
    for k, width in enumerate(widths):
        masks[k, :, :width] = 1.0
    return masks


def test_overlaps_by_hand() -> None:
    iou = overlaps(strips(0, 0, 2, 8)[None])[0]
    expected = [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0.25], [0, 0, 0.25, 1]]
    torch.testing.assert_close(iou, torch.tensor(expected, dtype=torch.float32))


def test_overlaps_with_others_by_hand() -> None:
    iou = overlaps(strips(0, 2, 5)[None], strips(0, 4)[None])[0]
    torch.testing.assert_close(iou, torch.tensor([[1, 0], [0, 0.5], [0, 0.8]], dtype=torch.float32))


def test_the_mask_of_the_highest_expected_iou_is_chosen() -> None:
    masks = strips(1, 5, 6, 10).expand(3, -1, -1, -1)
    hypotheses = strips(1, 5, 10).expand(3, -1, -1, -1)
    iou = torch.tensor([[0.5, 0.5, 0.5], [0.9, 0.1, 0.1], [0.1, 0.1, 0.9]])
    # Believing all alike: (1 + 0.2 + 0.1), (0.2 + 1 + 0.5), (1/6 + 5/6 + 0.6), (0.1 + 0.5 + 1) thirds.
    assert choose_granularity(masks, hypotheses, iou).tolist() == [1, 0, 3]
    assert choose_granularity(masks, hypotheses, iou, sharpness=0.0).tolist() == [1, 1, 1]


def test_levels_are_the_plateaus_of_the_sweep() -> None:
    scores = torch.tensor([0.9, 0.5, 0.6, 0.4, 0.7, 0.8, 0.75, 0.1, 0.2])
    levels = stable_levels(strips(0, 2, 2, 2, 8, 8, 8, 4, 4), scores)
    assert levels == [Level(2, 1, 3, scores[2].item()), Level(5, 4, 6, scores[5].item())]  # the last two are too few
    assert stable_levels(strips(0, 0, 0, 0), scores[:4]) == []
    assert stable_levels(strips(4), scores[:1]) == []


def test_a_mask_that_grows_evenly_offers_no_level() -> None:
    y, x = torch.meshgrid(torch.arange(128), torch.arange(128), indexing="ij")
    radius = 4 * 1.15 ** torch.arange(19)[:, None, None]  # the same share of its area at every step
    discs = radius - torch.hypot(y - 63.5, x - 63.5)
    assert stable_levels(discs, torch.ones(19)) == []
    discs[5:10] = discs[7].clone()
    (level,) = stable_levels(discs, torch.ones(19))
    assert level[1:3] == (5, 9)


def test_plateaus_of_the_same_mask_are_one() -> None:
    masks = strips(1, 9, 9, 9, 10, 10, 10)
    (level,) = stable_levels(masks, torch.arange(7) / 10)
    assert level[:3] == (6, 1, 6)


def test_what_stands_for_a_level_is_not_empty() -> None:
    masks = strips(1, 9, 9, 9, 0, 10, 10, 10)
    (level,) = stable_levels(masks, torch.tensor([0.1, 0.2, 0.3, 0.4, 0.9, 0.5, 0.6, 0.7]))
    assert level[:3] == (7, 1, 7)
