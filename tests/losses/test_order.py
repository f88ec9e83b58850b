"""The order term by hand."""

import math

import pytest
import torch

from unsam_lightning.losses.order import order_loss


def logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_by_hand() -> None:
    # Two pixels; finer mask 0.8 and 0.4, coarser mask 0.5 and 0.9.
    logits = torch.tensor([[[logit(0.5), logit(0.9)]], [[logit(0.8), logit(0.4)]]])
    loss = order_loss(logits, torch.tensor([0.9, 0.2]), torch.tensor([3, 3]))
    assert loss.item() == pytest.approx((0.8 * 0.5 + 0.4 * 0.1) / 1.2, rel=1e-5)


def test_only_neighbours_of_the_same_click_are_pairs() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 4, 4, generator=generator)
    granularity, click = torch.tensor([0.5, 0.1, 0.9, 0.3, 0.3]), torch.tensor([0, 0, 0, 1, 1])
    prob = logits.flatten(1).sigmoid()

    def out(finer: int, coarser: int) -> float:
        return float((prob[finer] * (1 - prob[coarser])).sum() / prob[finer].sum())

    expected = (out(1, 0) + out(0, 2)) / 2  # 3 and 4 ask for the same granularity
    assert order_loss(logits, granularity, click).item() == pytest.approx(expected, rel=1e-5)


def test_without_a_pair_it_is_a_zero_with_a_gradient() -> None:
    logits = torch.randn(2, 4, 4, requires_grad=True)
    loss = order_loss(logits, torch.tensor([0.5, 0.5]), torch.tensor([0, 0]))
    assert loss.item() == 0
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient.any()


def test_nested_masks_cost_nothing() -> None:
    small = torch.full((8, 8), -20.0)
    small[2:4, 2:4] = 20
    large = torch.full((8, 8), -20.0)
    large[1:6, 1:6] = 20
    masks = torch.stack((large, small))
    assert order_loss(masks, torch.tensor([0.8, 0.2]), torch.zeros(2).long()).item() == pytest.approx(0, abs=1e-6)
    assert order_loss(masks, torch.tensor([0.2, 0.8]), torch.zeros(2).long()).item() == pytest.approx(21 / 25, rel=1e-4)
