"""Clicks, sampled on the device: a first click, correction clicks, and clicks carried to another view.

All functions are pure; randomness comes in as a generator. Next in the tour: `losses/pairs.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from unsam_lightning.views import STRIDE, warp_points


def sample_pixels(masks: Tensor, generator: torch.Generator | None, count: int = 1) -> Tensor:
    """Return pixels drawn uniformly, with replacement, from each mask.

    Args:
        masks: bool (P, h, w). A mask without pixels gives the first pixel of the map: the caller decides what it means.
        generator: Source of randomness; on the masks' device.
        count: Pixels for each mask, K.

    Returns:
        int64 (P, K): index y * w + x.
    """
    running = masks.flatten(1).cumsum(1, dtype=torch.int32)  # (P, h w)
    draws = torch.rand(len(masks), count, generator=generator, device=masks.device)
    # The k-th pixel of the mask, k uniform in 1 .. area; min guards the rare draw that rounds up to 1.0.
    kth = torch.minimum((draws * running[:, -1:]).long() + 1, running[:, -1:].long())
    return torch.searchsorted(running, kth.to(torch.int32))


def pixels_to_xy(index: Tensor, width: int) -> Tensor:
    """Return the centres (..., 2), x and y in pixels of the frame, of pixels y * w + x at stride 4."""
    xy = torch.stack((index % width, index.div(width, rounding_mode="floor")), dim=-1)
    return xy.float() * STRIDE + (STRIDE - 1) / 2


def first_clicks(masks: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return one click inside each mask, uniform over its pixels: float32 (P, 1, 2), x and y in pixels of the frame.

    Source: UnSAMv2's training draws the first click uniformly from the mask.
    """
    return pixels_to_xy(sample_pixels(masks, generator), masks.shape[-1])


def correction_clicks(logits: Tensor, masks: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Return one click on an error of each prediction.

    Args:
        logits: (P, h, w), positive inside.
        masks: bool (P, h, w), the truth.
        generator: Source of randomness.

    Returns:
        float32 (P, 1, 2) pixels of the frame; int64 (P, 1) labels: 1 where the mask was missed, 0 where the
        prediction is too large.

    Source: SAM-2's training, uniform over the error region.
    Differs: a prediction without an error gets another click inside the mask, not a random one outside, which would
        teach that far-away background clicks are normal.
    """
    wrong = (logits > 0) != masks
    perfect = ~wrong.flatten(1).any(1)
    pixels = sample_pixels(torch.where(perfect[:, None, None], masks, wrong), generator)
    labels = masks.flatten(1).gather(1, pixels).long()
    return pixels_to_xy(pixels, masks.shape[-1]), labels


def propagate_clicks(points_xy: Tensor, matrix: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Carry clicks through the warp to the other view.

    Args:
        points_xy: (P, K, 2) pixels in one view.
        matrix: (P, 3, 3): pixel of that view -> pixel of the other.
        seen: bool (P, h, w): what the other view shows of the image, at stride 4.

    Returns:
        (P, K, 2) pixels in the other view; bool (P,): do all K clicks of the prompt lie where the other view shows
        the image.
    """
    moved = warp_points(points_xy, matrix)
    cell = (moved + 0.5).div(STRIDE, rounding_mode="floor").long()  # (P, K, 2); a pixel reaches 0.5 to its left
    height, width = seen.shape[-2:]
    inside = (cell >= 0).all(-1) & (cell[..., 0] < width) & (cell[..., 1] < height)
    index = cell[..., 1].clamp(0, height - 1) * width + cell[..., 0].clamp(0, width - 1)
    return moved, (inside & seen.flatten(1).gather(1, index)).all(1)
