"""Granularity pairs: a click and a granularity in, the pseudo-mask of that granularity out.

Source: UnSAMv2 (arXiv 2511.13714) section 4.1 and its training configuration: focal 20 (alpha 0.25, gamma 2), dice 1,
IoU 1, each averaged over the masks. Next in the tour: `losses/consistency.py`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from unsam_lightning.losses.frame import measure_in_frame

#: Weight in the focal loss of the pixels inside, against 1 - ALPHA outside.
ALPHA = 0.25


def focal_loss(logits: Tensor, target: Tensor, alpha: float = ALPHA, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of each mask, (P,): the mean over pixels of -a (1 - q)^gamma log q.

    q is the probability given to the truth; a is alpha inside and 1 - alpha outside.

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
    logits: Tensor, planes: Tensor, image_index: Tensor, mask_index: Tensor, predicted_iou: Tensor
) -> PairTerms:
    """Return what `pair_terms` gives for the logits enlarged to the frame and the masks at every pixel of it.

    Neither the enlarged logits nor the full-size masks are ever materialised; see `losses/frame.py`.

    Args:
        logits: (P, h, w), enlarged bilinearly, as SAM-2 does before its loss.
        planes: int32 (B, L, S, S), the bit-planes of B images' masks (`View.planes`); S is an even multiple of h.
        image_index: int64 (P,).
        mask_index: int64 (P,), position among the image's masks.
        predicted_iou: (P,) in [0, 1].

    Source: SAM-2's training computes its losses at the image's resolution.
    """
    return _means(_MeasuredInFrame.apply(logits, planes, image_index, mask_index), predicted_iou)


class _MeasuredInFrame(torch.autograd.Function):
    """`_per_mask` in the frame. Both losses are functions of sums, whose gradients are found on the way forward."""

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, planes: Tensor, image_index: Tensor, mask_index: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return focal loss, dice loss and true IoU, (P,) each."""
        # The kernels assume it: enlarging is by whole, even factors.
        side, size = planes.shape[-1], logits.shape[-1]
        assert planes.shape[-2] == side
        assert logits.shape[-2] == size, logits.shape
        assert side % (2 * size) == 0, (side, size)
        sums, maps = measure_in_frame(logits, planes, image_index, mask_index, ALPHA)
        focal, area, overlap, truth, inside, both = sums.unbind(1)
        pixels, total, twice = side * side, area + truth + 1, 2 * overlap + 1
        true_iou = both / (inside + truth - both).clamp(min=1)
        ctx.mark_non_differentiable(true_iou)
        # d dice / d sum(p), and d dice / d sum(p t).
        ctx.save_for_backward(maps, twice / total.square(), -2 / total)
        ctx.pixels, ctx.dtype = pixels, logits.dtype
        return focal / pixels, 1 - twice / total, true_iou

    @staticmethod
    def backward(ctx: Any, grad_focal: Tensor, grad_dice: Tensor, _grad_iou: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits."""
        maps, by_area, by_overlap = ctx.saved_tensors
        factors = torch.stack((grad_focal / ctx.pixels, grad_dice * by_area, grad_dice * by_overlap), 1)
        gradient = (factors[..., None, None] * maps).sum(1)
        return gradient.to(ctx.dtype), None, None, None


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
