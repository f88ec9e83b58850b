"""Order: for one click, the mask of a finer granularity lies inside that of a coarser one.

Ours; the official training knows no such term. Next in the tour: `losses/multimask.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def order_loss(logits: Tensor, granularity: Tensor, click: Tensor) -> Tensor:
    """Return the mean share of each finer mask that sticks out of the next coarser one of the same click.

    Args:
        logits: (P, h, w), positive inside.
        granularity: (P,); equal granularities of a click are no pair.
        click: int64 (P,): prompts with the same number share a click.

    Returns:
        A number in [0, 1]: mean over neighbours in granularity of sum(p (1 - q)) / sum(p), p the finer mask's
        probabilities, q the coarser's. A zero that carries a gradient without a pair.
    """
    order = torch.argsort(granularity, stable=True)
    order = order[torch.argsort(click[order], stable=True)]  # by click, and by granularity within a click
    is_pair = (click[order][1:] == click[order][:-1]) & (granularity[order][1:] > granularity[order][:-1])
    finer, coarser = order[:-1][is_pair], order[1:][is_pair]
    if not len(finer):
        return logits.sum() * 0.0
    prob = logits.flatten(1).float().sigmoid()
    inside, around = prob[finer], prob[coarser]
    return ((inside * (1 - around)).sum(1) / inside.sum(1).clamp(min=1e-6)).mean()
