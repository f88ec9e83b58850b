"""Granularity pairs: a click and a granularity in, the pseudo-mask of that granularity out.

Source: UnSAMv2 (arXiv 2511.13714) section 4.1 and its training configuration: focal 20 (alpha 0.25, gamma 2), dice 1,
IoU 1, each averaged over the masks. Next in the tour: `losses/consistency.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


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
    logits = logits.flatten(1).float()
    target = masks.flatten(1).to(logits.dtype)
    if len(logits) == 0:
        nothing = logits.sum() + predicted_iou.sum()
        return PairTerms(nothing, nothing, nothing)
    inside = logits.detach() > 0
    true_iou = (inside & (target > 0.5)).sum(1) / (inside | (target > 0.5)).sum(1).clamp(min=1)
    return PairTerms(
        focal=focal_loss(logits, target).mean(),
        dice=dice_loss(logits, target).mean(),
        iou=(predicted_iou.float() - true_iou).abs().mean(),
    )


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
