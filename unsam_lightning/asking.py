"""Asking the model for the masks of a batch: by clicks, some of them shared, or by boxes; and again after a mistake.

Next in the tour: `teacher.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from unsam_lightning.decoder import Decoded, Embedding
from unsam_lightning.errors import UserError
from unsam_lightning.model import UnSAM
from unsam_lightning.prompts import ClickSampler, boxes_of, correction_clicks, first_clicks, propagate_clicks
from unsam_lightning.views import STRIDE, ViewPair


@dataclass(frozen=True, kw_only=True)
class Prompting:
    """How the masks of a batch are asked for.

    Args:
        num_corrections: Correction clicks after the first prompt, each a decoder pass with the previous mask.
        counted_corrections: How many of the corrections' answers, drawn anew for each batch, count in the loss; the
            others run without gradients, at a third of the cost. None: all count.
        sampler: Where clicks lie, see `prompts.first_clicks` and `prompts.correction_clicks`.
        box_share: Share of batches that start with a box instead of a click.
        first_share: Share in the loss of the first prompt's answer, against that of all corrections together. None:
            every answer counts alike, as in SAM-2's training.
        prompts_per_pass: Prompts decoded at a time; the backward pass computes each part again, which bounds the memory
            for a third more time. None: all at once.
    """

    num_corrections: int = 3
    counted_corrections: int | None = None
    sampler: ClickSampler = "uniform"
    box_share: float = 0.0
    first_share: float | None = None
    prompts_per_pass: int | None = None

    def __post_init__(self) -> None:
        problems = [f"num_corrections {self.num_corrections}"] if self.num_corrections < 0 else []
        if self.counted_corrections is not None and not 0 <= self.counted_corrections <= self.num_corrections:
            problems.append(f"counted_corrections {self.counted_corrections} of {self.num_corrections}")
        shares = {"box_share": self.box_share, "first_share": self.first_share or 0.0}
        problems += [f"{name} {share:g}" for name, share in shares.items() if not 0 <= share <= 1]
        if self.prompts_per_pass is not None and self.prompts_per_pass < 1:
            problems.append(f"prompts_per_pass {self.prompts_per_pass}")
        if problems:
            raise UserError(
                expected="corrections from 0 on, no more counted ones, shares in [0, 1], prompts_per_pass from 1 on",
                found="; ".join(problems),
                remedy="see --model.prompting.* in `fit --help`",
            )

    def mean(self, losses: Tensor) -> Tensor:
        """Return the mean of the losses of all answers to a prompt, (1 + corrections,), the first one's first."""
        if self.first_share is None or len(losses) == 1:
            return losses.mean()
        return self.first_share * losses[0] + (1 - self.first_share) * losses[1:].mean()

    def counted(self, seed: int) -> list[bool]:
        """Return which corrections' answers count, up to the last that does; a pure function of a batch's seed."""
        if self.first_share == 1:
            return []
        if self.counted_corrections is None:
            return [True] * self.num_corrections
        order = np.random.default_rng((seed, self.num_corrections)).permutation(self.num_corrections)
        chosen = set(order[: self.counted_corrections].tolist())
        return [number in chosen for number in range(max(chosen, default=-1) + 1)]


@dataclass(frozen=True, slots=True)
class Asked:
    """P prompts on the images of a batch.

    Args:
        image_index: int64 (P,).
        clicks: float32 (P, K, 2), pixels of the view.
        labels: int64 (P, K).
        granularity: float32 (P,).
    """

    image_index: Tensor
    clicks: Tensor
    labels: Tensor
    granularity: Tensor

    def decode(
        self,
        model: UnSAM,
        embedding: Embedding,
        previous: Tensor | None = None,
        prompts_per_pass: int | None = None,
        with_pixels: bool = False,
    ) -> Decoded:
        """Return the model's answer; `previous` logits are the mask prompt; `with_pixels`: see `UnSAM.decode`.

        With `prompts_per_pass`, only the answers are kept for the backward pass, which computes everything else again
        for so many prompts at a time.
        """

        def decode(part: slice, _: Tensor | None = None) -> Decoded:
            return model.decode(
                embedding,
                self.clicks[part],
                self.labels[part],
                self.granularity[part],
                masks=None if previous is None else previous[part],
                image_index=self.image_index[part],
                with_pixels=with_pixels,
            )

        count = len(self.image_index)
        if prompts_per_pass is None or prompts_per_pass >= count:
            return decode(slice(None))
        parts = [slice(first, first + prompts_per_pass) for first in range(0, count, prompts_per_pass)]
        # The clicks are given for their device, whose random state is kept only so: dropout is to be drawn again alike.
        answers = [checkpoint(decode, part, self.clicks, use_reentrant=False) for part in parts]
        masks, iou, tokens, score = (
            torch.cat(values) for values in zip(*(answer[:4] for answer in answers), strict=True)
        )
        pixels = torch.cat([each.pixels for each in answers if each.pixels is not None]) if with_pixels else None
        return Decoded(masks, iou, tokens, score, pixels)

    def corrected(
        self, previous: Tensor, masks: Tensor, generator: torch.Generator | None, sampler: ClickSampler
    ) -> Asked:
        """Return these prompts with one more click each, where the previous logits (P, 1, h, w) are wrong."""
        clicks, labels = correction_clicks(previous[:, 0], masks, generator, sampler)
        clicks, labels = torch.cat((self.clicks, clicks), 1), torch.cat((self.labels, labels), 1)
        return Asked(self.image_index, clicks, labels, self.granularity)


def shared_clicks(
    pair: ViewPair, valid: Tensor, sampler: ClickSampler, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Return the first click (P, 1, 2) of each mask, and its number, int64 (P,): prompts that share one have the same.

    Where a mask shares one, it is that of the mask inside it.
    """
    masks = pair.first.masks
    own = torch.zeros(*valid.shape, 2, device=valid.device)
    own[valid] = first_clicks(masks[valid], generator, sampler)[:, 0]
    image = torch.arange(len(valid), device=valid.device)[:, None]
    shared = own[image, pair.click_from]  # (B, N, 2)
    cell = (shared / STRIDE).long().clamp(0, masks.shape[-1] - 1)
    # The mask inside may have left a view; and a label's parent need not hold every pixel of its child.
    number = torch.arange(valid.shape[1], device=valid.device)
    lies_inside = masks[image, number, cell[..., 1], cell[..., 0]] & valid[image, pair.click_from]
    clicks = torch.where(lies_inside[..., None], shared, own)[valid][:, None]
    numbers = torch.where(lies_inside, pair.click_from, number) + image * valid.shape[1]
    return clicks, numbers[valid]


def ask_by_click(image_index: Tensor, clicks: Tensor, granularity: Tensor) -> Asked:
    """Return prompts by clicks (P, K, 2) inside their masks."""
    return Asked(image_index, clicks, torch.ones_like(clicks[..., 0], dtype=torch.long), granularity)


def ask_by_box(image_index: Tensor, masks: Tensor, granularity: Tensor) -> Asked:
    """Return prompts by the boxes of masks bool (P, h, w)."""
    corners = boxes_of(masks).reshape(-1, 2, 2)
    labels = torch.tensor([2, 3], device=masks.device).expand(len(masks), -1)  # SAM's labels of a box's corners
    return Asked(image_index, corners, labels, granularity)


def ask_in_second_view(pair: ViewPair, asked: Asked, mask_index: Tensor, by_box: bool) -> tuple[Asked, Tensor]:
    """Return the prompts as the second view shows them, and the indices of those that it shows."""
    if by_box:
        masks = pair.other.masks[asked.image_index, mask_index]
        keep = torch.arange(len(masks), device=masks.device)
        return ask_by_box(asked.image_index, masks, asked.granularity), keep
    matrix = pair.warp()[asked.image_index]
    moved, is_visible = propagate_clicks(asked.clicks, matrix, pair.other.seen[asked.image_index])
    keep = is_visible.nonzero()[:, 0]
    return Asked(asked.image_index[keep], moved[keep], asked.labels[keep], asked.granularity[keep]), keep
