"""Which granularity a click without one gets, by hand."""

from __future__ import annotations

import pytest
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


def test_levels_are_the_stretches_that_hardly_change() -> None:
    levels = stable_levels(strips(0, 2, 2, 8, 9, 9, 3), torch.tensor([0.9, 0.5, 0.6, 0.7, 0.8, 0.75, 0.2]))
    assert [level[:3] for level in levels] == [(2, 1, 2), (4, 3, 5), (6, 6, 6)]
    assert [level.score for level in levels] == pytest.approx([0.6, 0.8, 0.2])
    assert stable_levels(strips(0, 0), torch.tensor([0.5, 0.5])) == []
    assert stable_levels(strips(4), torch.tensor([0.5])) == [Level(0, 0, 0, 0.5)]
