"""Whole-image proposals: a grid of clicks at several granularities, without ground truth in hand, and their recall.

Next in the tour: `benchmarks/dial_sweeps.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unsam_lightning.benchmarks.budget import prompts_within
from unsam_lightning.benchmarks.full_size import full_size_mask
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.decoder import Embedding
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.proposals import AverageRecall
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import Precision, passes_at_once, prompt_decoder, several_at_once
from unsam_lightning.pairs import encode_masks
from unsam_lightning.pseudo_labels.overlap import keep_distinct
from unsam_lightning.pseudo_labels.runs import rle_string, runs_of_mask

#: Of two proposals with a higher IoU one goes. SAM's generator takes 0.7 of the masks' boxes, of which nested masks
#: have the same; of the masks themselves 0.8 was better than 0.7, for the base and for the union of ten granularities,
#: on BSDS500 and on scenes (experiments/benchmarks.md).
MAX_IOU = 0.8

#: Of a pass in bfloat16. What it costs beside its prompts, 3 ms with nano, is more than what wide passes lose in the
#: caches; in sessions, whose prompts each bring their own image tokens, it is not.
BFLOAT16_PROMPTS = 128


class Proposals(NamedTuple):
    """Masks of an image.

    Args:
        logits: float16 (N, h, w) at stride 4 of the model's frame.
        scores: (N,), the model's own estimate of how good each mask is; of `distinct` ones what ranks them.
        granularity: (N,), what was asked for; 0 from stock SAM-2.
    """

    logits: Tensor
    scores: Tensor
    granularity: Tensor

    def select(self, index: Tensor) -> Proposals:
        """Return the proposals at `index`, a mask or positions."""
        return Proposals(self.logits[index], self.scores[index], self.granularity[index])

    def joined(self, more: Proposals) -> Proposals:
        """Return these proposals and more of the same image."""
        return Proposals(*(torch.cat(pair) for pair in zip(self, more, strict=True)))

    def rles(self, height: int, width: int) -> list[str]:
        """Return the COCO RLE counts strings of the masks in the size of their image."""

        def encode(part: Tensor) -> list[str]:
            masks = (full_size_mask(logits, (height, width)) for logits in part)
            return [rle_string(runs_of_mask(mask), height * width) for mask in masks]

        threads = torch.get_num_threads()  # most of the work lets go of the interpreter
        with ThreadPoolExecutor(threads) as pool:
            return [rle for part in pool.map(encode, self.logits.cpu().tensor_split(threads)) for rle in part]

    def distinct(self, max_iou: float = MAX_IOU, max_masks: int = 1000) -> Proposals:
        """Return at most `max_masks` proposals, best first, one for each group of `rank_distinct`.

        Its mask is the mean of the group's logits, cut at plus and minus 8: prompts that find the same thing err at
        different places. Its score is what ranks it, its granularity that of the group's best.

        Source: the groups' best are what SAM's automatic mask generator keeps.
        Differs: the mean, which was better than the best for the union of granularities and for the base
            (experiments/benchmarks.md).
        """
        ranked = rank_distinct(self.logits > 0, self.scores, max_iou)
        best, members = ranked.best[:max_masks], ranked.group[ranked.group >= 0]
        sums = torch.zeros(len(best), *self.logits.shape[1:], device=self.logits.device)
        for part, group in zip(self.logits.split(1024), ranked.group.split(1024), strict=True):
            counts = (group >= 0) & (group < len(best))
            sums.index_add_(0, group[counts], part[counts].float().clamp(-8, 8))
        means = sums / torch.bincount(members, minlength=len(best))[: len(best), None, None]
        # A small mask may have no pixel in the mean.
        means = torch.where((means > 0).any((1, 2), keepdim=True), means, self.logits[best].float())
        return Proposals(means.half(), ranked.ranks[:max_masks], self.granularity[best])


@torch.no_grad()
def propose_masks(
    model: UnSAM,
    embedding: Embedding,
    *,
    granularities: Sequence[float] | None = SWEEP,
    points_per_side: int = 16,
    memory_gb: float = 2.0,
    precision: Precision = "float32",
    stability_power: float = 0.0,
) -> Proposals:
    """Return all masks that a grid of clicks finds, in the grid's order; `distinct` ranks and thins them.

    Args:
        model: The judge.
        embedding: Of one image.
        granularities: Asked at every point; None for stock SAM-2 with its three masks a point.
        points_per_side: Clicks along each side, at the centres of a grid.
        memory_gb: For a pass of the decoder. What is kept of all masks comes on top: two bytes a pixel at stride 4.
        precision: Of the decoder, see `one_image.prompt_decoder`.
        stability_power: A mask's score is its predicted IoU times its stability to this power. 0, the IoU alone, was
            better than 1 with nano on five images of BSDS500 and scenes (AR1000 10.7 and 9.2 %).

    Source: SAM's automatic mask generator: a grid, one click a prompt; its stability score.
    Differs: predicted IoU and stability rank the masks, where SAM cuts by both; there is no cut.
    """
    grid = grid_points(points_per_side, model.image_size).to(model.device)
    asked = torch.tensor([0.0] if granularities is None else list(granularities), device=model.device)
    points, wanted = grid.repeat_interleave(len(asked), 0)[:, None], asked.repeat(len(grid))
    decode = prompt_decoder(model, embedding, precision)
    most = BFLOAT16_PROMPTS if precision == "bfloat16" and model.device.type == "cpu" else None
    at_a_time = prompts_within(memory_gb / passes_at_once(decode), model, 0, 0, most)  # nothing in the image's own size

    def propose(first: int) -> tuple[Tensor, Tensor]:
        part = slice(first, first + at_a_time)
        labels = torch.ones_like(points[part][..., 0])
        decoded = decode(
            points[part], labels, None if granularities is None else wanted[part], None, granularities is None
        )
        of_stability = stability(decoded.masks) ** stability_power if stability_power else 1.0
        return decoded.masks.half().flatten(0, 1), decoded.iou.float() * of_stability

    with several_at_once(decode) as map_parts:
        logits, scores = zip(*map_parts(propose, range(0, len(points), at_a_time)), strict=True)
    score = torch.cat(scores)  # (P G, M)
    return Proposals(torch.cat(logits), score.flatten(), wanted[:, None].expand(score.shape).flatten())


def grid_points(points_per_side: int, size: float) -> Tensor:
    """Return the centres of a grid over a square of that size, float32 (P, 2), x and y, row by row."""
    offsets = (torch.arange(points_per_side) + 0.5) * (size / points_per_side)
    return torch.cartesian_prod(offsets, offsets).flip(1)


def stability(masks: Tensor, offset: float = 1.0) -> Tensor:
    """Return the IoU of each mask (..., h, w) of logits at a threshold `offset` above 0 with that below, in [0, 1].

    Source: SAM `utils/amg.py::calculate_stability_score`.
    Differs: 0 where the logits are nowhere above `-offset`.
    """
    smaller, larger = ((masks > threshold).sum((-2, -1)) for threshold in (offset, -offset))
    return smaller / larger.clamp(min=1)


class Ranked(NamedTuple):
    """Groups of masks that are nearly the same, K of N masks.

    Args:
        best: int64 (K,), the position of each group's best mask, best group first.
        ranks: float32 (K,), what ranks them.
        group: int64 (N,), which group each mask is in, by its place in `best`; -1 for empty masks.
    """

    best: Tensor
    ranks: Tensor
    group: Tensor


def rank_distinct(masks: Tensor, scores: Tensor, max_iou: float = MAX_IOU) -> Ranked:
    """Suppress near-duplicates, of two masks with an IoU above `max_iou` the one of lower score, and rank what stays.

    What stays ranks by its score times the number of masks in its group, divided by the fourth root of the share of
    the frame that it covers. A mask that many clicks and granularities give is there, one that a single click gives is
    often chance; and a large mask is clicked more often. By their scores alone the first thousand of a fine grid are
    nearly all large.

    Args:
        masks: bool (N, h, w), of any granularities.
        scores: (N,); of equal scores, and of equal ranks, the earlier mask is better.
        max_iou: In (0, 1].

    Source: SAM's automatic mask generator, which suppresses at 0.7 and ranks by the score.
    Differs: by the masks' IoU at stride 4, not by their boxes', and at 0.8; no cut on score or stability, because
        recall at 1,000 proposals ranks them instead; the rank, chosen on photographs of BSDS500 train and on scenes
        (experiments/benchmarks.md).
    """
    order = scores.argsort(descending=True, stable=True)
    in_order = masks[order].cpu().numpy()
    kept, groups = keep_distinct(in_order, max_iou)
    members = np.bincount(groups + 1, minlength=len(kept) + 1)[1:]
    cover = np.count_nonzero(in_order[kept], axis=(1, 2)) / math.prod(masks.shape[1:])
    factors, of_best, of_all = (
        torch.from_numpy(each).to(order.device)
        # Apple's GPUs take no float64.
        for each in ((members / cover**0.25).astype(np.float32), kept, groups)
    )
    index, group = order[of_best], torch.empty_like(order)
    group[order] = of_all
    ranks = scores[index].float() * factors
    best_first = ranks.argsort(descending=True, stable=True)
    place = torch.cat([best_first.argsort(), order.new_tensor([-1])])  # the last is that of the empty ones
    return Ranked(index[best_first], ranks[best_first], place[group])


def proposal_recall(proposals: Proposals, sample: EvalSample) -> AverageRecall:
    """Return the recall of one image's proposals: a metric whose states add up over images.

    Args:
        proposals: Distinct ones.
        sample: The image's ground truth, with at least one mask.
    """
    height, width = sample.image.shape[:2]
    return _recall(proposals.rles(height, width), proposals.scores.tolist(), sample)


def mask_recall(masks: npt.NDArray[np.bool_], sample: EvalSample) -> AverageRecall:
    """Return the recall of masks (N, H, W) without scores, the best first; see `proposal_recall`."""
    return _recall(encode_masks(masks), list(range(len(masks), 0, -1)), sample)


def _recall(rles: Sequence[str], scores: Sequence[float], sample: EvalSample) -> AverageRecall:
    size = list(sample.image.shape[:2])
    metric = AverageRecall()
    metric.update(sample.masks, [{"size": size, "counts": rle.encode("ascii")} for rle in rles], scores)
    return metric
