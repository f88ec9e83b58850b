import math

import pytest
import torch
from torchvision.ops import sigmoid_focal_loss

from unsam_lightning.batch import pack_masks
from unsam_lightning.losses.pairs import dice_loss, focal_loss, pair_terms, pair_terms_in_frame


def case(seed: int = 0, count: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(count, 8, 8, generator=generator) * 3
    masks = torch.rand(count, 8, 8, generator=generator) < 0.3
    return logits, masks, torch.rand(count, generator=generator)


def test_by_hand() -> None:
    # Two pixels, one inside: probabilities 1/2, so cross-entropy log 2 and a focal factor of 1/4 at both.
    logits, target = torch.zeros(1, 2), torch.tensor([[1.0, 0.0]])
    assert focal_loss(logits, target).item() == pytest.approx((0.25 + 0.75) / 2 * 0.25 * math.log(2))
    assert dice_loss(logits, target).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1 + 1 + 1))


def test_iou_term_by_hand() -> None:
    logits = torch.tensor([[[3.0, 3.0], [3.0, -3.0]], [[-1.0, -1.0], [-1.0, 0.0]]])
    masks = torch.tensor([[[1, 1], [0, 1]], [[0, 0], [0, 1]]], dtype=torch.bool)
    # Intersection 2 of union 4, and 0 of 1 (a logit of zero is outside).
    assert pair_terms(logits, masks, torch.tensor([0.75, 0.25])).iou.item() == pytest.approx((0.25 + 0.25) / 2)
    empty = torch.zeros_like(masks)
    assert pair_terms(-logits.abs() - 1, empty, torch.tensor([0.5, 0.0])).iou.item() == pytest.approx(0.25)


def test_focal_equals_torchvisions() -> None:
    logits, masks, _ = case()
    mine = focal_loss(logits.flatten(1), masks.flatten(1).float())
    theirs = sigmoid_focal_loss(logits, masks.float(), alpha=0.25, gamma=2, reduction="none").mean((1, 2))
    torch.testing.assert_close(mine, theirs)


def test_perfect_prediction_costs_nothing_and_the_opposite_much() -> None:
    _, masks, _ = case()
    perfect = pair_terms(torch.where(masks, 30.0, -30.0), masks, torch.ones(5))
    assert max(perfect) < 1e-6
    opposite = pair_terms(torch.where(masks, -30.0, 30.0), masks, torch.ones(5))
    assert opposite.dice > 0.9
    assert opposite.focal > 5
    assert opposite.iou == 1


def test_order_of_masks_and_of_pixels_does_not_matter() -> None:
    logits, masks, iou = case()
    expected = pair_terms(logits, masks, iou)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(0))
    flipped = pair_terms(logits[order].flip(-1), masks[order].flip(-1), iou[order])
    for a, b in zip(expected, flipped, strict=True):
        torch.testing.assert_close(a, b)


def test_gradients_push_towards_the_mask_and_the_true_iou() -> None:
    logits, masks, _ = case()
    logits.requires_grad_()
    predicted = torch.tensor([0.0, 0.0, 1.0, 1.0, 1.0], requires_grad=True)
    terms = pair_terms(logits, masks, predicted)
    for term in (terms.focal, terms.dice):
        (gradient,) = torch.autograd.grad(term, logits, retain_graph=True)
        assert (gradient[masks] < 0).all()
        assert (gradient[~masks] > 0).all()
    by_logits, by_iou = torch.autograd.grad(terms.iou, (logits, predicted), allow_unused=True)
    assert by_logits is None  # the head follows the mask, not the mask the head
    assert by_iou.sign().tolist() == [-1, -1, 1, 1, 1]


def test_no_masks_give_zeros_with_a_gradient() -> None:
    logits, iou = torch.zeros(0, 8, 8, requires_grad=True), torch.zeros(0, requires_grad=True)
    terms = pair_terms(logits, torch.zeros(0, 8, 8, dtype=torch.bool), iou)
    assert [term.item() for term in terms] == [0, 0, 0]
    sum(terms).backward()
    assert logits.grad is not None
    assert iou.grad is not None


def test_half_precision_logits_are_measured_in_float32() -> None:
    logits, masks, iou = case()
    low = pair_terms(logits.bfloat16(), masks, iou.bfloat16())
    assert all(term.dtype == torch.float32 for term in low)
    for a, b in zip(low, pair_terms(logits.bfloat16().float(), masks, iou.bfloat16().float()), strict=True):
        torch.testing.assert_close(a, b)


def test_in_frame_equals_the_plain_loss_of_enlarged_logits() -> None:
    generator = torch.Generator().manual_seed(0)
    full = torch.rand(2, 40, 32, 32, generator=generator) < 0.4  # 40 masks an image: two planes
    planes = torch.stack([torch.from_numpy(pack_masks(each.numpy())) for each in full])
    image, mask = torch.tensor([1, 0, 1, 0, 1]), torch.tensor([0, 31, 32, 39, 7])
    logits, _, iou = case()
    logits.requires_grad_()
    enlarged = torch.nn.functional.interpolate(logits[:, None], (32, 32), mode="bilinear")[:, 0]
    expected = pair_terms(enlarged, full[image, mask], iou)
    found = pair_terms_in_frame(logits, planes, image, mask, iou)
    torch.testing.assert_close(tuple(found), tuple(expected))
    for mine, theirs in zip(found[:2], expected[:2], strict=True):
        by_mine, by_theirs = (torch.autograd.grad(each, logits, retain_graph=True)[0] for each in (mine, theirs))
        torch.testing.assert_close(by_mine, by_theirs)


def test_in_frame_without_masks_gives_zeros_with_a_gradient() -> None:
    logits, iou = torch.zeros(0, 8, 8, requires_grad=True), torch.zeros(0, requires_grad=True)
    nothing = torch.zeros(0, dtype=torch.long)
    terms = pair_terms_in_frame(logits, torch.zeros(1, 1, 32, 32, dtype=torch.int32), nothing, nothing, iou)
    sum(terms).backward()
    assert logits.grad is not None


def test_in_frame_takes_half_precision_logits() -> None:
    planes = torch.from_numpy(pack_masks((torch.rand(1, 32, 32) < 0.4).numpy()))[None]
    zero = torch.zeros(5, dtype=torch.long)
    logits, _, iou = case()
    low = logits.bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        terms = pair_terms_in_frame(low, planes, zero, zero, iou)
    assert all(term.dtype == torch.float32 for term in terms)
    expected = pair_terms_in_frame(low.detach().float(), planes, zero, zero, iou)
    torch.testing.assert_close(tuple(terms), tuple(expected))
    (terms.focal + terms.dice).backward()
    assert low.grad is not None
    assert low.grad.dtype == torch.bfloat16
