"""Patch contrast: the decoder's pixel embeddings agree inside a mask and differ across its boundary.

Anchors lie just inside the boundary of a pseudo-mask, positives anywhere inside it, negatives just across: the loss
acts where edges are decided. Source: InfoNCE (arXiv 1807.03748), equation 4, with the pairs named here.
Next in the tour: `losses/order.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, normalize

from unsam_lightning.prompts import sample_pixels


def patch_contrast_loss(
    pixels: Tensor,
    masks: Tensor,
    seen: Tensor,
    generator: torch.Generator | None,
    num_anchors: int = 16,
    num_negatives: int = 32,
    temperature: float = 0.2,
    band: int = 3,
) -> Tensor:
    """Return the contrast between the two sides of the masks' boundaries, a number.

    Args:
        pixels: (P, C, h, w), the decoder's pixel embeddings for each prompt.
        masks: bool (P, h, w), the pseudo-masks.
        seen: bool (P, h, w): pixels of the image; the empty margin of a warp is no negative.
        generator: Source of randomness.
        num_anchors: Anchors for each mask, each with a positive of its own.
        num_negatives: Negatives for each mask, shared by its anchors.
        temperature: Of the softmax.
        band: Half-width of the boundary zone in pixels at stride 4.

    Returns:
        Mean over masks and anchors of -log softmax of the positive among the negatives; log(1 + num_negatives) for
        embeddings that carry nothing. A zero that carries a gradient where no mask has two sides.
    """
    inner, outer = boundary_bands(masks, band)
    outer = outer & seen
    usable = inner.flatten(1).any(1) & outer.flatten(1).any(1)
    if not bool(usable.any()):
        return pixels.sum() * 0.0
    features = normalize(pixels[usable].flatten(2).float(), dim=1)  # (P, C, h w)
    anchors = _take(features, sample_pixels(inner[usable], generator, num_anchors))  # (P, A, C)
    positives = _take(features, sample_pixels(masks[usable], generator, num_anchors))  # (P, A, C)
    negatives = _take(features, sample_pixels(outer[usable], generator, num_negatives))  # (P, M, C)
    attract = (anchors * positives).sum(-1, keepdim=True)  # (P, A, 1)
    repel = anchors @ negatives.transpose(1, 2)  # (P, A, M)
    return -torch.cat((attract, repel), dim=-1).div(temperature).log_softmax(-1)[..., 0].mean()


def boundary_bands(masks: Tensor, band: int) -> tuple[Tensor, Tensor]:
    """Return the zones of `band` pixels inside and outside the boundary of masks, bool (P, h, w) each."""
    solid = masks[:, None].float()
    window = 2 * band + 1
    grown = max_pool2d(solid, window, stride=1, padding=band)[:, 0] > 0
    shrunk = max_pool2d(1 - solid, window, stride=1, padding=band)[:, 0] == 0
    return masks & ~shrunk, grown & ~masks


def _take(features: Tensor, index: Tensor) -> Tensor:
    """Return (P, K, C) from features (P, C, h w) at pixels (P, K)."""
    return features.gather(2, index[:, None].expand(-1, features.shape[1], -1)).transpose(1, 2)
