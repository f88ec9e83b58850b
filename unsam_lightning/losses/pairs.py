"""Granularity pairs: a click and a granularity in, the pseudo-mask of that granularity out.

Source: UnSAMv2 (arXiv 2511.13714) section 4.1 and its training configuration: focal 20 (alpha 0.25, gamma 2), dice 1,
IoU 1, each averaged over the masks. Next in the tour: `losses/consistency.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torch.utils.checkpoint import checkpoint

from unsam_lightning.batch import BITS


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

    Neither is there as a whole: a few masks at a time are enlarged, measured, and enlarged again for the backward pass.

    Args:
        logits: (P, h, w), enlarged bilinearly, as SAM-2 does before its loss.
        planes: int32 (B, L, S, S), the bit-planes of B images' masks (`View.planes`).
        image_index: int64 (P,).
        mask_index: int64 (P,), position among the image's masks.
        predicted_iou: (P,) in [0, 1].
        masks_at_a_time: Bounds the memory, some 40 S S bytes each.

    Source: SAM-2's training computes its losses at the image's resolution.
    """

    def measure(part: slice) -> tuple[Tensor, Tensor, Tensor]:
        mask = mask_index[part]
        bits = planes[image_index[part], mask // BITS] >> (mask % BITS).to(planes.dtype)[:, None, None]
        large = interpolate(logits[part, None].float(), planes.shape[-2:], mode="bilinear")[:, 0]
        return _per_mask(large, (bits & 1).bool())

    if len(logits) == 0:
        return pair_terms(logits, torch.zeros_like(logits), predicted_iou)
    parts = [slice(first, first + masks_at_a_time) for first in range(0, len(logits), masks_at_a_time)]
    measured = [checkpoint(measure, part, use_reentrant=False) for part in parts]
    focal, dice, true_iou = (torch.cat(values) for values in zip(*measured, strict=True))
    return _means((focal, dice, true_iou), predicted_iou)


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
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
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
