"""Clicks, sampled on the device: a first click, correction clicks, and clicks carried to another view.

All functions are pure; randomness comes in as a generator. Next in the tour: `losses/frame_cpu.py`.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unsam_lightning.views import STRIDE, warp_points

#: Where training clicks lie: see `first_clicks` and `correction_clicks`.
ClickSampler = Literal["uniform", "graco"]


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


def depth(masks: Tensor, masks_at_a_time: int = 8) -> Tensor:
    """Return how far each inside pixel lies from everything outside, the frame's border included; 0 outside.

    Exact Euclidean distances between pixel centres, on the masks' device; equal to OpenCV's DIST_L2 with a margin of
    one pixel.

    Args:
        masks: bool (P, h, w).
        masks_at_a_time: Bounds the memory: h w (w + 2) floats each.

    Returns:
        float32 (P, h, w), in pixels.
    """
    height, width = masks.shape[1:]
    row = torch.arange(1, height + 1, device=masks.device)[:, None]
    above = row - torch.where(masks, 0, row).cummax(1).values
    below = torch.where(masks, height + 1, row).flip(1).cummin(1).values.flip(1) - row
    along = torch.nn.functional.pad(torch.minimum(above, below), (1, 1)).float().square()  # (P, h, w + 2)
    column = torch.arange(-1, width + 1, device=masks.device).float()
    across = (column[1:-1, None] - column).square()  # (w, w + 2)
    parts = [(part[:, :, None] + across).amin(-1) for part in along.split(masks_at_a_time)]
    return torch.cat(parts).sqrt() if parts else masks.float()


def _deep_pixels(depths: Tensor, generator: torch.Generator | None) -> Tensor:
    """Return one pixel (P, 1) of each map, uniform over those deeper than half of the deepest."""
    return sample_pixels(depths > depths.amax((1, 2), keepdim=True) / 2, generator)


def first_clicks(masks: Tensor, generator: torch.Generator | None, sampler: ClickSampler = "uniform") -> Tensor:
    """Return one click inside each mask: float32 (P, 1, 2), x and y in pixels of the frame.

    Args:
        masks: bool (P, h, w).
        generator: Source of randomness.
        sampler: "uniform" over the mask, as UnSAMv2's training; "graco": over its deeper half, nearer to where people
            and benchmarks click.
    """
    pixels = _deep_pixels(depth(masks), generator) if sampler == "graco" else sample_pixels(masks, generator)
    return pixels_to_xy(pixels, masks.shape[-1])


def correction_clicks(
    logits: Tensor, masks: Tensor, generator: torch.Generator | None, sampler: ClickSampler = "uniform"
) -> tuple[Tensor, Tensor]:
    """Return one click on an error of each prediction.

    Args:
        logits: (P, h, w), positive inside.
        masks: bool (P, h, w), the truth.
        generator: Source of randomness.
        sampler: "uniform" over all wrong pixels (SAM-2's training); "graco": on what was missed or on what is too much,
            whichever is deeper, over its deeper half (GraCo's training).

    Returns:
        float32 (P, 1, 2) pixels of the frame; int64 (P, 1) labels: 1 where the mask was missed, 0 where the
        prediction is too large.

    Differs: a prediction without an error gets another click inside the mask, not a random one outside, which would
        teach that far-away background clicks are normal.
    """
    wrong = (logits > 0) != masks
    perfect = ~wrong.flatten(1).any(1)
    errors = torch.where(perfect[:, None, None], masks, wrong)
    if sampler == "graco":
        missed, extra = depth(errors & masks), depth(errors & ~masks)
        is_missed = missed.amax((1, 2), keepdim=True) > extra.amax((1, 2), keepdim=True)
        pixels = _deep_pixels(torch.where(is_missed, missed, extra), generator)
    else:
        pixels = sample_pixels(errors, generator)
    labels = masks.flatten(1).gather(1, pixels).long()
    return pixels_to_xy(pixels, masks.shape[-1]), labels


def boxes_of(masks: Tensor) -> Tensor:
    """Return the boxes of masks bool (P, h, w): float32 (P, 4), x0 y0 x1 y1 in pixels of the frame, at the outer edge.

    A mask without pixels gives a box of no size.
    """
    rows, columns = masks.any(2), masks.any(1)
    sides = []
    for line in (columns, rows):
        first, last = line.int().argmax(1), line.shape[1] - 1 - line.flip(1).int().argmax(1)
        sides.append((first * STRIDE, last * STRIDE + STRIDE - 1))
    (x0, x1), (y0, y1) = sides
    return torch.stack((x0, y0, x1, y1), 1).float()


def deepest_pixel(mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Return x and y of the pixel of a mask (H, W) that is farthest from everything outside it, the frame included."""
    padded = np.pad(mask, 1).astype(np.uint8)
    depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


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
