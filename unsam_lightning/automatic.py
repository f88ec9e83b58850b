"""Automatic granularity: for a click without one, the levels that the image offers and the one to show first.

    decoded = decode_sweep(model, embedding, clicks, labels, FINE_SWEEP)
    stock = model.decode(embedding, clicks, labels, multimask=True)
    k = choose_granularity(decoded.masks, stock.masks, stock.iou)  # (P,) index into FINE_SWEEP
    levels = stable_levels(decoded.masks[0], decoded.iou[0])       # the distinct answers to one click, finest first

Next in the tour: `checkpoint.py`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

#: 0.1, 0.15, ... 1.0, of which `SWEEP` is every second: a plateau that is 0.1 wide has three samples.
FINE_SWEEP: tuple[float, ...] = tuple(round(0.05 * k, 2) for k in range(2, 21))
#: See `stable_levels`.
_STANDS, _MIN_SAMPLES, _SAME = 0.7, 3, 0.85


class Level(NamedTuple):
    """A stretch of the sweep over which the mask hardly changes.

    Args:
        best: Index into the sweep of the granularity to show: of the highest predicted IoU in the stretch.
        first: First index of the stretch.
        last: Last index of the stretch.
        score: Predicted IoU of the mask at `best`.
    """

    best: int
    first: int
    last: int
    score: float


def overlaps(masks: Tensor, others: Tensor | None = None) -> Tensor:
    """Return the IoU of every mask of a prompt with every other, float32 (P, G, M); two empty masks agree.

    Args:
        masks: Logits (P, G, h, w), positive inside.
        others: Logits (P, M, h, w); the masks themselves by default.
    """
    with torch.autocast(masks.device.type, enabled=False):
        one = (masks > 0).flatten(2).float()  # counts below 2^24 are exact in float32
        other = one if others is None else (others > 0).flatten(2).float()
        shared = one @ other.transpose(1, 2)
    union = one.sum(2)[:, :, None] + other.sum(2)[:, None] - shared
    return torch.where(union > 0, shared / union.clamp(min=1), 1.0)


def choose_granularity(masks: Tensor, hypotheses: Tensor, iou: Tensor, sharpness: float = 4.0) -> Tensor:
    """Return for each prompt the index of the mask that is to be expected to fit best, int64 (P,).

    Which level is wanted is unknown. Each hypothesis is taken to be what is wanted with a probability that grows with
    the IoU predicted for it; the mask with the highest expected IoU is chosen (a decision of minimal Bayes risk).

    Args:
        masks: Logits (P, G, h, w) of a sweep.
        hypotheses: Logits (P, M, h, w): the three masks of stock SAM-2 for the same prompt, which has learnt what
            objects are. The sweep itself would do too, but there every level is as good as any: on clicks in BSDS500
            and scenes its choice had a mean IoU of 0.28 and 0.36 where this one had 0.35 and 0.43.
        iou: Predicted IoU of the hypotheses, (P, M) in [0, 1].
        sharpness: Exponent of the predicted IoU; 0 trusts all alike. 1, 4, 8 and 16 made no difference beyond 0.01.
    """
    weight = iou.float().clamp(min=1e-6) ** sharpness
    expected = (overlaps(masks, hypotheses) * weight[:, None]).sum(2) / weight.sum(1, keepdim=True)
    return expected.argmax(1)


def stable_levels(masks: Tensor, iou: Tensor) -> list[Level]:
    """Return the plateaus of one sweep, finest first: where the mask changes less than elsewhere as the dial turns.

    A plateau is a stretch of at least `_MIN_SAMPLES` masks in which every step changes the mask by at most `_STANDS`
    times the mean change of a step, a change being 1 - IoU. A dial that changes its mask evenly, as over a smooth sky,
    has none: the image offers no level there. Neighbouring plateaus that overlap by `_SAME` are one. Empty masks belong
    to none.

    Args:
        masks: Logits (G, h, w) in order of granularity, `FINE_SWEEP` say.
        iou: Predicted IoU, (G,).

    Source: the idea of maximally stable extremal regions (Matas et al., BMVC 2002), whose area changes least as a
        threshold turns.
    """
    filled, scores = (masks > 0).flatten(1).any(1).tolist(), iou.float().tolist()
    overlap = overlaps(masks[None])[0]
    change = 1 - overlap.diagonal(offset=1)
    stands = (change <= _STANDS * change.mean()).tolist() if len(change) else []
    levels: list[Level] = []
    first = 0
    for k in range(len(scores)):
        if k + 1 < len(scores) and stands[k] and filled[k] == filled[k + 1]:
            continue
        if filled[k] and k - first + 1 >= _MIN_SAMPLES:
            if levels and overlap[levels[-1].best, k] >= _SAME:
                first = levels.pop().first
            # Between two plateaus that are one, masks may be empty.
            best = max((n for n in range(first, k + 1) if filled[n]), key=scores.__getitem__)
            levels.append(Level(best, first, k, scores[best]))
        first = k + 1
    return levels
