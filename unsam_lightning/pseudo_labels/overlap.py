"""Exact overlaps between all pairs of masks, on packed bits, and the connected components of a mask.

Next in the tour: `pseudo_labels/features.py`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numba
import numpy as np
import numpy.typing as npt
from numba.extending import intrinsic

from unsam_lightning.compiled import compiled


@intrinsic  # type: ignore[untyped-decorator]
def _count_bits(typing_context: Any, word: Any) -> Any:
    """The processor's population count, which numba has no name for."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return numba.uint64(numba.uint64), generate


def _pack(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint64]:
    """Return the bits of masks (N, H, W) as words (N, H, ceil(W / 64)), padded with zeros."""
    num_masks, height, width = masks.shape
    packed = np.zeros((num_masks, height, 8 * -(-width // 64)), np.uint8)
    packed[..., : -(-width // 8)] = np.packbits(masks, axis=2)
    return packed.view(np.uint64)


@compiled
def _occupied_rows(words: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64]) -> None:
    """Write the half-open range of rows that hold any bit of a mask, (N, 2)."""
    for mask in range(words.shape[0]):
        first, last = words.shape[1], 0
        for row in range(words.shape[1]):
            if words[mask, row].any():
                first, last = min(first, row), row + 1
        rows[mask, 0], rows[mask, 1] = first, last


@compiled
def _intersect(words: npt.NDArray[np.uint64], rows: npt.NDArray[np.int64], shared: npt.NDArray[np.int64]) -> None:
    for one in range(words.shape[0]):
        for other in range(one, words.shape[0]):
            count = np.uint64(0)
            for row in range(max(rows[one, 0], rows[other, 0]), min(rows[one, 1], rows[other, 1])):
                for place in range(words.shape[2]):
                    count += _count_bits(words[one, row, place] & words[other, row, place])
            shared[one, other] = shared[other, one] = np.int64(count)


def intersections(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Return the number of pixels that every two masks share, (N, N); the diagonal holds the areas.

    Args:
        masks: bool (N, H, W), N possibly 0.
    """
    words = _pack(masks)
    rows = np.empty((len(masks), 2), np.int64)
    shared = np.zeros((len(masks), len(masks)), np.int64)
    _occupied_rows(words, rows)
    _intersect(words, rows, shared)
    return shared


def ious(shared: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the IoU of every two masks from their `intersections`; 0 between two empty masks."""
    areas = np.diagonal(shared)
    return np.asarray(shared / np.maximum(areas[:, None] + areas[None] - shared, 1))


def containments(shared: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return which part of mask i lies in mask j, (N, N), from their `intersections`; 0 for an empty mask i."""
    return np.asarray(shared / np.maximum(np.diagonal(shared)[:, None], 1))


@compiled
def _keep_distinct(
    words: npt.NDArray[np.uint64],
    bounds: npt.NDArray[np.int64],
    max_iou: float,
    kept: npt.NDArray[np.int64],
    group: npt.NDArray[np.int64],
) -> int:
    """Write the positions of the masks that stay, and for each mask which of them it belongs to; return how many."""
    kept_areas = np.empty(len(kept), np.int64)
    count = 0
    for mask in range(words.shape[0]):
        area = np.int64(0)
        for place in range(bounds[mask, 0], bounds[mask, 1]):
            area += np.int64(_count_bits(words[mask, place]))
        stays = bool(area > 0)
        group[mask] = count if stays else -1
        for number in range(count if stays else 0):
            # The IoU is not above the ratio of the areas: most pairs need no look at their bits.
            if min(area, kept_areas[number]) <= max_iou * max(area, kept_areas[number]):
                continue
            other = kept[number]
            shared = np.int64(0)
            for place in range(max(bounds[mask, 0], bounds[other, 0]), min(bounds[mask, 1], bounds[other, 1])):
                shared += np.int64(_count_bits(words[mask, place] & words[other, place]))
            if shared > max_iou * (area + kept_areas[number] - shared):
                stays, group[mask] = False, number
                break
        if stays:
            kept[count], kept_areas[count] = mask, area
            count += 1
    return count


def keep_distinct(masks: npt.NDArray[np.bool_], max_iou: float) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the positions (K,) of the first masks no two of which have an IoU above `max_iou`, and the groups (N,).

    A group is a mask that stays and those that go because of it; it has the place of that mask among those that stay.

    Args:
        masks: bool (N, H, W), best first: a mask goes because of the first that stays and has a higher IoU with it.
            Empty masks never stay, and their group is -1.
        max_iou: In (0, 1].
    """
    words = _pack(masks)
    num_masks, height, width = words.shape
    rows = np.empty((num_masks, 2), np.int64)
    _occupied_rows(words, rows)
    kept, group = np.empty(num_masks, np.int64), np.empty(num_masks, np.int64)
    # A mask's rows lie one behind the other: one loop over words, which the compiler does many at a time.
    count = _keep_distinct(words.reshape(num_masks, height * width), rows * width, max_iou, kept, group)
    return kept[:count], group


def connected_components(mask: npt.NDArray[np.bool_], min_area_px: int = 1) -> npt.NDArray[np.bool_]:
    """Return the 4-connected components of one mask that have at least `min_area_px` pixels.

    Args:
        mask: bool (H, W).
        min_area_px: Smaller components are dropped.

    Returns:
        bool (K, H, W), K possibly 0, largest first, then by first pixel.
    """
    left, top, width, height = cv2.boundingRect(np.ascontiguousarray(mask).view(np.uint8))
    if width == 0 or height == 0:
        return np.zeros((0, *mask.shape), bool)
    box = (slice(top, top + height), slice(left, left + width))
    # Labels need a fixed algorithm so that their numbers do not depend on OpenCV's number of threads; and even so
    # the order below is by area and first pixel, not by label.
    count, labels, statistics, _ = cv2.connectedComponentsWithStatsWithAlgorithm(
        mask[box].astype(np.uint8), 4, cv2.CV_32S, cv2.CCL_SAUF
    )
    areas = statistics[1:, cv2.CC_STAT_AREA].astype(np.int64)
    kept = np.flatnonzero(areas >= max(min_area_px, 1)) + 1
    first_pixel = np.full(count, labels.size, np.int64)
    if len(kept) > 1:  # writing backwards leaves the first place of every label
        first_pixel[labels.ravel()[::-1]] = np.arange(labels.size)[::-1]
    kept = kept[np.lexsort((first_pixel[kept], -areas[kept - 1]))]
    components = np.zeros((len(kept), *mask.shape), bool)
    components[(slice(None), *box)] = labels[None] == kept[:, None, None]
    return components
