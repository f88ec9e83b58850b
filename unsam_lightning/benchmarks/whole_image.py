"""Whole-image proposals: a grid of clicks at several granularities, without ground truth in hand, and their recall.

Next in the tour: `benchmarks/evaluate.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.decoder import Embedding
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.proposals import average_recall_of_masks
from unsam_lightning.model import UnSAM
from unsam_lightning.sweep import decode_in_passes
from unsam_lightning.pairs import encode_masks


class Proposals(NamedTuple):
    """Masks of an image.

    Args:
        logits: (N, h, w) at stride 4 of the model's frame.
        scores: (N,), the model's own estimate of each mask's IoU.
        granularity: (N,), what was asked for; 0 from stock SAM-2.
    """

    logits: Tensor
    scores: Tensor
    granularity: Tensor

    def select(self, index: Tensor) -> Proposals:
        """Return the proposals at `index`, a mask or positions."""
        return Proposals(self.logits[index], self.scores[index], self.granularity[index])

    def distinct(self, max_iou: float = 0.7, max_masks: int = 1000) -> Proposals:
        """Return at most `max_masks` proposals, best score first, near-duplicates suppressed.

        Of two masks with an IoU above `max_iou` the one with the lower score goes, across granularities.

        Source: SAM's automatic mask generator, which suppresses at 0.7.
        Differs: by the masks' IoU at stride 4, not by their boxes'; no cut on score or stability, because recall at
            1,000 proposals ranks them instead.
        """
        return self.select(suppress_masks(self.logits > 0, self.scores, max_iou)[:max_masks])


@torch.no_grad()
def propose_masks(
    model: UnSAM,
    embedding: Embedding,
    *,
    granularities: Sequence[float] | None = SWEEP,
    points_per_side: int = 16,
    prompts_per_pass: int = 64,
) -> Proposals:
    """Return all masks that a grid of clicks finds, in the grid's order; `distinct` ranks and thins them.

    Args:
        model: The judge.
        embedding: Of one image.
        granularities: Asked at every point; None for stock SAM-2 with its three masks a point.
        points_per_side: Clicks along each side, at the centres of a grid.
        prompts_per_pass: Prompts decoded at a time; bounds the memory.

    Source: SAM's automatic mask generator: a grid, one click a prompt.
    """
    offsets = (torch.arange(points_per_side, device=model.device) + 0.5) * (model.image_size / points_per_side)
    grid = torch.cartesian_prod(offsets, offsets).flip(1)  # (G, 2), x and y
    asked = torch.tensor([0.0] if granularities is None else list(granularities), device=model.device)
    points, wanted = grid.repeat_interleave(len(asked), 0)[:, None], asked.repeat(len(grid))
    decoded = decode_in_passes(
        model,
        embedding,
        points,
        torch.ones_like(points[..., 0]),
        None if granularities is None else wanted,
        multimask=granularities is None,
        prompts_per_pass=prompts_per_pass,
    )
    scores = decoded.iou.float()  # (G g, M)
    return Proposals(
        decoded.masks.float().flatten(0, 1), scores.flatten(), wanted[:, None].expand(scores.shape).flatten()
    )


def suppress_masks(masks: Tensor, scores: Tensor, max_iou: float) -> Tensor:
    """Return the indices of the masks that stay, best score first; empty masks go.

    Args:
        masks: bool (N, h, w).
        scores: (N,); of equal scores the earlier mask is better.
        max_iou: A mask goes if its IoU with a better one that stays is higher.
    """
    order = scores.argsort(descending=True, stable=True)
    order = order[masks[order].flatten(1).any(1)]
    flat = masks[order].flatten(1).float()
    with torch.autocast(masks.device.type, enabled=False):
        shared = flat @ flat.T  # exact in float32: areas stay far below 2^24
    area = shared.diagonal()
    overlaps = (shared > max_iou * (area[:, None] + area - shared)).cpu().numpy()
    alive = np.ones(len(order), dtype=bool)
    kept = []
    for n in range(len(order)):
        if alive[n]:
            kept.append(n)
            alive &= ~overlaps[n]
    return order[torch.tensor(kept, dtype=torch.long, device=order.device)]


def proposal_recall(proposals: Proposals, sample: EvalSample) -> dict[str, float]:
    """Return AR@1, AR@10, AR@1000 of one image's proposals; see `metrics.proposals.average_recall`.

    The recall of a data set is the mean over images weighted by their number of masks, because recall at a number of
    detections an image counts each mask once.
    """
    height, width = sample.image.shape[:2]
    rles = []
    for part in proposals.logits.split(64):
        large = torch.nn.functional.interpolate(part[:, None], (height, width), mode="bilinear")[:, 0] > 0
        rles += encode_masks(large.cpu().numpy())
    coco = [{"size": [height, width], "counts": rle.encode("ascii")} for rle in rles]
    return average_recall_of_masks([(sample.masks, coco, proposals.scores.tolist())])
