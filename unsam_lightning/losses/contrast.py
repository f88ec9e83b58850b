"""Patch contrast: the decoder's pixel embeddings agree inside a mask and differ across its boundary.

Anchors lie just inside the boundary of a pseudo-mask and weigh the more the nearer they are; positives lie anywhere
inside it, in either view; negatives just across the boundary and in its siblings: the loss acts where edges are
decided. For an anchor a, its positive p, the negatives n of its mask and temperature t, all of length 1:

    loss = -log( exp(a.p / t) / (exp(a.p / t) + sum over n of exp(a.n / t)) )

Source: InfoNCE (arXiv 1807.03748), equation 4, with the pairs named here. Next in the tour: `losses/order.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize

from unsam_lightning.errors import UserError
from unsam_lightning.prompts import sample_pixels


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """How patches are contrasted.

    Args:
        num_anchors: Anchors for each mask, each with a positive of its own.
        num_negatives: Negatives for each mask, shared by its anchors.
        sibling_share: Share of the negatives that lie in its siblings; the others lie across the boundary.
        temperature: Of the softmax.
        band: Half-width of the boundary zone in pixels at stride 4.
    """

    num_anchors: int = 16
    num_negatives: int = 32
    sibling_share: float = 0.5
    temperature: float = 0.2
    band: int = 3

    def __post_init__(self) -> None:
        counts = (self.num_anchors, self.num_negatives, self.band)
        if min(counts) < 1 or not 0 <= self.sibling_share <= 1 or not self.temperature > 0:
            raise UserError(
                expected="num_anchors, num_negatives and band of at least 1, sibling_share in [0, 1], temperature > 0",
                found=f"{counts}, {self.sibling_share:g}, {self.temperature:g}",
                remedy="see --model.contrast.* in `fit --help`",
            )


class OtherView(NamedTuple):
    """Q of the prompts in the second view.

    Args:
        pixels: (Q, C, h, w), the pixel embeddings of their answers there.
        masks: bool (Q, h, w), their pseudo-masks there, none of them empty.
        prompt: int64 (Q,), which prompts they are.
    """

    pixels: Tensor
    masks: Tensor
    prompt: Tensor


def patch_contrast_loss(
    pixels: Tensor,
    masks: Tensor,
    seen: Tensor,
    generator: torch.Generator | None,
    config: Contrast = Contrast(),
    siblings: Tensor | None = None,
    other: OtherView | None = None,
) -> Tensor:
    """Return the contrast between the two sides of the masks' boundaries, a number.

    Args:
        pixels: (P, C, h, w), the decoder's pixel embeddings for each prompt.
        masks: bool (P, h, w), the pseudo-masks.
        seen: bool (P, h, w): pixels of the image; the empty margin of a warp is no negative.
        generator: Source of randomness.
        config: How many, where and how sharply.
        siblings: bool (P, h, w), see `sibling_zones`; a mask without siblings has all its negatives at the boundary.
        other: The second view, from which half of the positives come.

    Returns:
        Mean over masks and anchors, weighted by `nearness`, of -log softmax of the positive among the negatives;
        log(1 + num_negatives) for embeddings that carry nothing. A zero that carries a gradient where no mask has two
        sides.
    """
    inner, outer = boundary_bands(masks, config.band)
    outer = outer & seen
    usable = inner.flatten(1).any(1) & outer.flatten(1).any(1)
    if not bool(usable.any()):
        return pixels.sum() * 0.0
    rows = usable.nonzero()[:, 0]
    inner, outer, inside = inner[rows], outer[rows], masks[rows]
    places = sample_pixels(inner, generator, config.num_anchors)  # (P, A)
    anchors = _take(pixels, rows, places)  # (P, A, C)
    positives = _take(pixels, rows, sample_pixels(inside, generator, config.num_anchors))  # (P, A, C)
    if other is not None:
        positives = _from_other_view(positives, other, usable, generator)
    in_siblings = 0 if siblings is None else round(config.sibling_share * config.num_negatives)
    across = [sample_pixels(outer, generator, config.num_negatives - in_siblings)]
    if siblings is not None and in_siblings:
        zone = siblings[rows] & seen[rows]
        zone = torch.where(zone.flatten(1).any(1)[:, None, None], zone, outer)
        across.append(sample_pixels(zone, generator, in_siblings))
    negatives = _take(pixels, rows, torch.cat(across, 1))  # (P, M, C)
    attract = (anchors * positives).sum(-1, keepdim=True)  # (P, A, 1)
    repel = anchors @ negatives.transpose(1, 2)  # (P, A, M)
    loss = -torch.cat((attract, repel), dim=-1).div(config.temperature).log_softmax(-1)[..., 0]  # (P, A)
    weight = nearness(inside, config.band).flatten(1).gather(1, places)
    return (loss * weight).sum() / weight.sum()


def boundary_bands(masks: Tensor, band: int) -> tuple[Tensor, Tensor]:
    """Return the zones of `band` pixels inside and outside the boundary of masks, bool (P, h, w) each."""
    solid = masks[:, None].float()
    window = 2 * band + 1
    grown = max_pool2d(solid, window, stride=1, padding=band)[:, 0] > 0
    return masks & ~_shrunk(masks, band), grown & ~masks


def nearness(masks: Tensor, band: int) -> Tensor:
    """Return how near to the boundary each inside pixel is, float32 (P, h, w): 1 at it, falling evenly to 1 / band."""
    depth = torch.stack([_shrunk(masks, k) for k in range(1, band)]).sum(0) if band > 1 else torch.zeros_like(masks)
    return 1 - depth.float() / band


def sibling_zones(masks: Tensor, valid: Tensor) -> Tensor:
    """Return for each mask the pixels of those masks of its image that share none with it, bool (B, N, h, w).

    Args:
        masks: bool (B, N, h, w).
        valid: bool (B, N): the mask exists.
    """
    flat = (masks & valid[..., None, None]).flatten(2).float()  # (B, N, h w)
    apart = (flat @ flat.transpose(1, 2)) == 0  # (B, N, N)
    return ((apart.float() @ flat) > 0).view_as(masks)


def _shrunk(masks: Tensor, steps: int) -> Tensor:
    """Return the pixels of masks that are more than `steps` from every pixel outside, along rows and columns."""
    return max_pool2d(1 - masks[:, None].float(), 2 * steps + 1, stride=1, padding=steps)[:, 0] == 0


def _from_other_view(positives: Tensor, other: OtherView, usable: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return positives (P, A, C) of the usable masks, the first half replaced by pixels of the second view."""
    half = positives.shape[1] // 2
    here = usable[other.prompt].nonzero()[:, 0]
    rows = (usable.cumsum(0) - 1)[other.prompt[here]]
    there = _take(other.pixels, here, sample_pixels(other.masks[here], generator, half))  # (Q, A / 2, C)
    return torch.cat((positives[:, :half].index_copy(0, rows, there), positives[:, half:]), 1)


def _take(pixels: Tensor, rows: Tensor, index: Tensor) -> Tensor:
    """Return the embeddings (R, K, C), of length 1, of prompts `rows` (R,) of (P, C, h, w) at pixels (R, K)."""
    # Those that are taken are a hundredth of all: the others are not measured.
    return normalize(pixels.flatten(2)[rows[:, None], :, index].float(), dim=-1)
