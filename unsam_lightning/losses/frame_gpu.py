"""The sums and gradients of the pair loss at every pixel of the frame, on a GPU: one kernel, no atomic additions.

What `losses/frame.py` describes. Each logit looks at all pixels of the frame that it has a part in, so a pixel is
computed up to four times and never written: arithmetic is cheaper there than memory, and the sums' order is always the
same. Next in the tour: `losses/frame.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit  # type: ignore[untyped-decorator]
def _three_of_row(row: tl.tensor, column: tl.tensor, logits: tl.tensor, h: tl.tensor, w: tl.tensor) -> tl.tensor:
    """Load the logits left of, at and right of these columns; those beyond a border are those at it."""
    row = tl.minimum(tl.maximum(row, 0), h - 1) * w
    left = tl.load(logits + row + tl.minimum(tl.maximum(column - 1, 0), w - 1)).to(tl.float32)
    centre = tl.load(logits + row + tl.minimum(column, w - 1)).to(tl.float32)
    right = tl.load(logits + row + tl.minimum(column + 1, w - 1)).to(tl.float32)
    return left, centre, right


@triton.jit  # type: ignore[untyped-decorator]
def _of_pixel(logit: tl.tensor, t: tl.tensor, alpha: tl.constexpr) -> tl.tensor:
    """Return the probability, its slope by the logit, the focal loss and its slope."""
    e = tl.exp(-tl.abs(logit))
    above_1 = 1.0 + e
    inverse = 1.0 / above_1
    prob = tl.where(logit > 0, inverse, e * inverse)
    slope = e * inverse * inverse
    # log(1 + e), without the error that rounding 1 + e makes.
    is_1 = above_1 == 1.0
    log = tl.where(is_1, e, tl.log(above_1) * e / (above_1 - 1.0 + is_1))
    entropy = tl.maximum(logit, 0.0) - logit * t + log
    error = prob - t
    weighted = ((1.0 - alpha) + (2.0 * alpha - 1.0) * t) * error
    return prob, slope, weighted * error * entropy, weighted * (2.0 * slope * entropy + error * error)


@triton.jit  # type: ignore[untyped-decorator]
def _row_of_pixels(
    at_left: tl.tensor,
    at_centre: tl.tensor,
    at_right: tl.tensor,
    words: tl.tensor,
    shift: tl.tensor,
    column: tl.tensor,
    w: tl.tensor,
    part_y: tl.tensor,
    is_near_y: tl.tensor,
    slopes: tl.tensor,
    totals: tl.tensor,
    alpha: tl.constexpr,
    ratio: tl.constexpr,
) -> tl.tensor:
    """Return `slopes` and `totals` with the pixels of one row that the logits have a part in.

    `at_...` are the logits at the height of the row, `words` is the row's, `part_y` the logits' part in it by height;
    `is_near_y`: are they the row's nearest, who count it.
    """
    by_focal, by_area, by_overlap = slopes
    focal, area, overlap, truth, inside, both = totals
    for dx in tl.static_range(2 * ratio):
        x = column * ratio - ratio // 2 + dx
        if dx < ratio:
            away, other, is_alone = (ratio - dx - 0.5) / ratio, at_left, column == 0
        else:
            away, other, is_alone = (dx - ratio + 0.5) / ratio, at_right, column == w - 1
        in_frame = (column < w) & (x >= 0) & (x < w * ratio)
        t = ((tl.load(words + x, mask=in_frame, other=0) >> shift) & 1).to(tl.float32)
        logit = at_centre + away * (other - at_centre)
        prob, slope, loss, by_loss = _of_pixel(logit, t, alpha)
        taken = tl.where(in_frame, tl.where(is_alone, 1.0, 1.0 - away) * part_y, 0.0)
        by_focal += taken * by_loss
        by_area += taken * slope
        by_overlap += taken * slope * t
        if dx >= ratio // 2 and dx < ratio + ratio // 2:
            counted = tl.where(in_frame & is_near_y, 1.0, 0.0)
            is_in = counted * (logit > 0)
            focal += counted * loss
            area += counted * prob
            overlap += counted * prob * t
            truth += counted * t
            inside += is_in
            both += is_in * t
    return (by_focal, by_area, by_overlap), (focal, area, overlap, truth, inside, both)


@triton.jit  # type: ignore[untyped-decorator]
def _measure(
    logits: tl.tensor,  # (P, h, w)
    planes: tl.tensor,  # (B L, S, S)
    plane: tl.tensor,  # (P,): where a mask is
    bit: tl.tensor,  # (P,)
    sums: tl.tensor,  # (P, 6, h, blocks)
    maps: tl.tensor,  # (P, 3, h, w)
    h: tl.tensor,
    w: tl.tensor,
    alpha: tl.constexpr,
    ratio: tl.constexpr,  # S / h, even
    block: tl.constexpr,
) -> None:
    """Fill the maps of `block` logits of one row of one mask, and the sums over the pixels that they are nearest to."""
    number, row, part = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    column = part * block + tl.arange(0, block)
    mine = logits + number * h * w
    up_left, up, up_right = _three_of_row(row - 1, column, mine, h, w)
    left, centre, right = _three_of_row(row, column, mine, h, w)
    down_left, down, down_right = _three_of_row(row + 1, column, mine, h, w)
    words = planes + tl.load(plane + number).to(tl.int64) * (h * ratio) * (w * ratio)
    shift, nothing = tl.load(bit + number).to(tl.int32), tl.zeros((block,), tl.float32)
    slopes = (nothing, nothing, nothing)
    totals = (nothing, nothing, nothing, nothing, nothing, nothing)
    # Not beyond the frame's first and last row.
    for dy in range(tl.where(row == 0, ratio // 2, 0), tl.where(row == h - 1, ratio + ratio // 2, 2 * ratio)):
        y, is_above = row * ratio - ratio // 2 + dy, dy < ratio
        # How far the pixels are from this row of logits towards the other one, in rows.
        away = tl.where(is_above, ratio - dy - 0.5, dy - ratio + 0.5) / ratio
        at_left = left + away * (tl.where(is_above, up_left, down_left) - left)
        at_centre = centre + away * (tl.where(is_above, up, down) - centre)
        at_right = right + away * (tl.where(is_above, up_right, down_right) - right)
        # At a border the other row is this one.
        part_y = tl.where(tl.where(is_above, row == 0, row == h - 1), 1.0, 1.0 - away)
        is_near_y = (dy >= ratio // 2) & (dy < ratio + ratio // 2)
        slopes, totals = _row_of_pixels(
            *(at_left, at_centre, at_right, words + y * w * ratio, shift, column, w, part_y, is_near_y),
            *(slopes, totals, alpha, ratio),
        )
    out = maps + number * 3 * h * w + row * w + column
    place = sums + (number * 6 * h + row) * tl.num_programs(2) + part
    for k in tl.static_range(3):
        tl.store(out + k * h * w, slopes[k], mask=column < w)
    for k in tl.static_range(6):
        tl.store(place + k * h * tl.num_programs(2), tl.sum(totals[k]))


def measure_on_gpu(
    logits: Tensor, planes: Tensor, plane: Tensor, bit: Tensor, alpha: float, block: int = 128
) -> tuple[Tensor, Tensor]:
    """Return what `losses.frame.measure_in_frame` does.

    Args:
        logits: (P, h, w), contiguous.
        planes: int32 (N, S, S), contiguous.
        plane: int64 (P,): the plane of each mask.
        bit: int64 (P,): its bit there.
        alpha: As there.
        block: Logits of a row that a program works on, a power of 2.
    """
    count, height, width = logits.shape
    ratio, blocks = planes.shape[-1] // width, triton.cdiv(width, block)
    maps = logits.new_empty((count, 3, height, width), dtype=torch.float32)
    partial = logits.new_empty((count, 6, height, blocks), dtype=torch.float32)
    if count:
        grid = (count, height, blocks)
        with torch.cuda.device_of(logits):  # Triton launches on the current device
            _measure[grid](logits, planes, plane, bit, partial, maps, height, width, alpha, ratio, block)
    return partial.sum((2, 3)), maps
