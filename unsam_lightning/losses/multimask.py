"""SAM's loss for an ambiguous click: one mask, and three masks of which the best for each right answer is trained.

Source: Segment Anything (arXiv 2304.02643), section 3, "resolving ambiguity", and appendix A.
Differs: instead of focal loss, which had learnt nothing after 900 steps from random weights, cross-entropy with the
    pixels inside weighted by the root of 1 / (share of the frame), so that "nothing" is no good answer; every right
    answer to a click counts, not only the one that was drawn, because scenes know them all.

Next in the tour: `asking.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

#: Weight at most of a pixel inside a mask, against 1 outside.
_MAX_INSIDE_WEIGHT = 20.0


class MultimaskTerms(NamedTuple):
    """Terms of the loss, each a number averaged over the prompts.

    Args:
        single: Cross-entropy + dice of the single mask against the wanted mask.
        three: Cross-entropy + dice of the best of the three masks for each right answer.
        iou: Squared error of the four predicted IoUs against the wanted mask; its minimum is the expected IoU.
        score: Cross-entropy of the object score, which is always 1.
    """

    single: Tensor
    three: Tensor
    iou: Tensor
    score: Tensor


def multimask_terms(
    logits: Tensor, predicted_iou: Tensor, score: Tensor, targets: Tensor, weights: Tensor
) -> tuple[MultimaskTerms, Tensor]:
    """Return the terms, and the true IoU of every mask with the wanted one, (P, 4).

    Args:
        logits: (P, 4, h, w): the single mask, then the three.
        predicted_iou: (P, 4) in [0, 1].
        score: Logits of the object score, (P, 1).
        targets: (P, G, h, w) in [0, 1]: the wanted mask, then other right answers.
        weights: (P, G) >= 0: how much each right answer counts for the three masks; the wanted one's is positive.
    """
    cost, iou = pairwise_costs(logits, targets)  # (P, 4, G)
    terms = MultimaskTerms(
        single=cost[:, 0, 0].mean(),
        three=best_of_masks(cost[:, 1:], weights),
        iou=(predicted_iou.float() - iou[:, :, 0]).square().mean(),
        score=binary_cross_entropy_with_logits(score.float(), torch.ones_like(score, dtype=torch.float32)),
    )
    return terms, iou[:, :, 0]


def best_of_masks(cost: Tensor, weights: Tensor) -> Tensor:
    """Return the mean over prompts of the lowest cost (P, M, G) for each right answer, weighted by (P, G)."""
    return ((cost.amin(1) * weights).sum(1) / weights.sum(1)).mean()


def pairwise_costs(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return cross-entropy + dice and the IoU of every mask with every target, each (P, M, G); the IoU has no gradient.

    Args:
        logits: (P, M, h, w).
        targets: (P, G, h, w) in [0, 1].
    """
    x, t = logits.flatten(2).float(), targets.flatten(2).float().transpose(1, 2)  # (P, M, pixels), (P, pixels, G)
    # Products over the pixels spare the (P, M, G, pixels) tensor.
    area, pixels = t.sum(1, keepdim=True), x.shape[2]  # (P, 1, G)
    weight = (pixels / area.clamp(min=1)).sqrt().clamp(max=_MAX_INSIDE_WEIGHT)
    entropy = (weight * (softplus(-x) @ t) + softplus(x) @ (1 - t)) / (weight * area + pixels - area)
    prob = x.sigmoid()
    dice = 1 - (2 * (prob @ t) + 1) / (prob.sum(2, keepdim=True) + area + 1)
    inside, truth = (x.detach() > 0).float(), (t > 0.5).float()
    overlap = inside @ truth
    union = inside.sum(2, keepdim=True) + truth.sum(1, keepdim=True) - overlap
    return entropy + dice, overlap / union.clamp(min=1)
