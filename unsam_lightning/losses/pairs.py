"""Granularity pairs: a click and a granularity in, the pseudo-mask of that granularity out.

Source: UnSAMv2 (arXiv 2511.13714) section 4.1 and its training configuration: focal 20 (alpha 0.25, gamma 2), dice 1,
IoU 1, each averaged over the masks. Next in the tour: `losses/consistency.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, interpolate

from unsam_lightning.batch import take_masks


class PairTerms(NamedTuple):
    """The three terms of the pair loss, each a number averaged over the masks."""

    focal: Tensor
    dice: Tensor
    iou: Tensor


def pair_terms(logits: Tensor, masks: Tensor, predicted_iou: Tensor) -> PairTerms:
    """Return focal, dice and IoU loss of predicted masks.

    Args:
        logits: (P, h, w), positive inside.
        masks: bool or float in [0, 1], (P, h, w).
        predicted_iou: (P,) in [0, 1], the model's own estimate of its IoU with the mask.

    Returns:
        Three numbers; zeros that carry a gradient for P = 0, so that a rank without masks keeps step with the others.
    """
    return _means(_per_mask(logits, masks), predicted_iou)


def pair_terms_in_frame(
    logits: Tensor,
    planes: Tensor,
    image_index: Tensor,
    mask_index: Tensor,
    predicted_iou: Tensor,
    masks_at_a_time: int = 8,
) -> PairTerms:
    """Return what `pair_terms` gives for the logits enlarged to the frame and the masks at every pixel of it.

    Neither is ever there as a whole: a few masks at a time are enlarged, and measured together with their gradient.

    Args:
        logits: (P, h, w), enlarged bilinearly, as SAM-2 does before its loss.
        planes: int32 (B, L, S, S), the bit-planes of B images' masks (`View.planes`).
        image_index: int64 (P,).
        mask_index: int64 (P,), position among the image's masks.
        predicted_iou: (P,) in [0, 1].
        masks_at_a_time: Bounds the memory, some 40 S S bytes each.

    Source: SAM-2's training computes its losses at the image's resolution.
    """
    measured = _MeasuredInFrame.apply(logits, planes, image_index, mask_index, masks_at_a_time)
    return _means(measured, predicted_iou)


class _MeasuredInFrame(torch.autograd.Function):
    """`_per_mask` in the frame. Both losses are sums over pixels, so their gradients are found on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, planes: Tensor, image_index: Tensor, mask_index: Tensor, masks_at_a_time: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return focal loss, dice loss and true IoU, (P,) each."""
        with torch.autocast(logits.device.type, enabled=False):
            values, gradients = logits.new_zeros((3, len(logits)), dtype=torch.float32), []
            for first in range(0, len(logits), masks_at_a_time):
                part = slice(first, first + masks_at_a_time)
                target = take_masks(planes, image_index[part], mask_index[part]).float()
                values[:, part], gradient = _with_gradient(logits[part].float(), target)
                gradients.append(gradient)
        ctx.save_for_backward(torch.cat(gradients) if gradients else logits.new_zeros((0, 2, *logits.shape[1:])))
        focal, dice, true_iou = values.unbind()
        ctx.mark_non_differentiable(true_iou)
        return focal, dice, true_iou

    @staticmethod
    def backward(ctx: Any, by_focal: Tensor, by_dice: Tensor, _by_iou: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits."""
        (gradients,) = ctx.saved_tensors  # (P, 2, h, w)
        upstream = torch.stack((by_focal, by_dice), 1)[..., None, None]
        return (upstream * gradients).sum(1), None, None, None, None


def _with_gradient(logits: Tensor, target: Tensor, alpha: float = 0.25) -> tuple[Tensor, Tensor]:
    """Return focal loss (gamma 2), dice loss and IoU (3, P) of enlarged logits, and the gradients (P, 2, h, w).

    Args:
        logits: (P, h, w).
        target: 0 or 1, (P, S, S).
        alpha: As in `focal_loss`.

    With p the probability, t the target, e = p - t and c the cross-entropy of a pixel, d c / d logit is e, so the focal
    term a e^2 c has the gradient a e (2 p (1 - p) c + e^2); that of the dice is p (1 - p) (a number - another t).
    """
    large = interpolate(logits[:, None], target.shape[-2:], mode="bilinear")[:, 0]
    prob = large.sigmoid()
    error = prob - target
    entropy = binary_cross_entropy_with_logits(large, target, reduction="none")
    weight = (1 - alpha) - (1 - 2 * alpha) * target
    slope = prob * (1 - prob)
    squared = error.square()
    focal = (weight * squared * entropy).mean((1, 2))
    by_focal = weight * error * (2 * slope * entropy + squared) / target[0].numel()
    overlap, area, truth = (prob * target).sum((1, 2)), prob.sum((1, 2)), target.sum((1, 2))
    total = area + truth + 1
    dice = 1 - (2 * overlap + 1) / total
    by_dice = slope * (((2 * overlap + 1) / total.square())[:, None, None] - (2 / total)[:, None, None] * target)
    inside = large > 0
    both = (inside * target).sum((1, 2))
    true_iou = both / (inside.sum((1, 2)) + truth - both).clamp(min=1)
    by_pixel = torch.stack((by_focal, by_dice), 1)
    frame, size = list(by_pixel.shape[2:]), [len(logits), 2, *logits.shape[1:]]
    gradient = torch.ops.aten.upsample_bilinear2d_backward(by_pixel, frame, size, False, None, None)
    return torch.stack((focal, dice, true_iou)), gradient


def _per_mask(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return focal loss, dice loss and true IoU of each mask, (P,) each; the last has no gradient."""
    logits = logits.flatten(1).float()
    target = masks.flatten(1).to(logits.dtype)
    inside, truth = logits.detach() > 0, target > 0.5
    true_iou = (inside & truth).sum(1) / (inside | truth).sum(1).clamp(min=1)
    return focal_loss(logits, target), dice_loss(logits, target), true_iou


def _means(measured: tuple[Tensor, Tensor, Tensor], predicted_iou: Tensor) -> PairTerms:
    focal, dice, true_iou = measured
    if len(focal) == 0:
        nothing = focal.sum() + dice.sum() + predicted_iou.sum()
        return PairTerms(nothing, nothing, nothing)
    return PairTerms(focal=focal.mean(), dice=dice.mean(), iou=(predicted_iou.float() - true_iou).abs().mean())


def focal_loss(logits: Tensor, target: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of each mask, (P,), averaged over pixels.

    Args:
        logits: (P, pixels).
        target: (P, pixels) in [0, 1].
        alpha: Weight of the pixels inside, against 1 - alpha outside.
        gamma: How much well-classified pixels are discounted.

    Source: Lin et al. (arXiv 1708.02002), equation 5.
    """
    cross_entropy = binary_cross_entropy_with_logits(logits, target, reduction="none")
    prob = logits.sigmoid()
    prob_of_truth = prob * target + (1 - prob) * (1 - target)
    weight = alpha * target + (1 - alpha) * (1 - target)
    return (weight * (1 - prob_of_truth) ** gamma * cross_entropy).mean(1)


def dice_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the dice loss of each mask, (P,): 1 - (2 |P T| + 1) / (|P| + |T| + 1).

    Source: SAM-2's training losses, including the + 1 that keeps empty masks finite.
    """
    prob = logits.sigmoid()
    overlap = 2 * (prob * target).sum(1)
    return 1 - (overlap + 1) / (prob.sum(1) + target.sum(1) + 1)
