"""An image becomes a few thousand small regions whose borders run along its edges: gradient strength and watershed.

Next in the tour: `pseudo_labels/region_graph.py`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled

_ORIENTATIONS = 8
#: Steps of strength per Lab unit in which the flood rises; finer ones only make more and smaller basins.
_STEPS_PER_UNIT = 8


def to_lab(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Return CIE Lab (H, W, 3), lightness 0 to 100, of an RGB image uint8 (H, W, 3)."""
    return np.asarray(cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


def edge_strength(lab: npt.NDArray[np.float32], radius: int) -> npt.NDArray[np.float32]:
    """Return how much the two halves of a disc around each pixel differ, in Lab units, for the worst cut of the disc.

    Args:
        lab: float32 (H, W, 3).
        radius: Of the disc, in pixels.

    Returns:
        float32 (H, W): the distance between the halves' mean colours, the largest over eight orientations.

    Source: The oriented gradient of Martin, Fowlkes and Malik, PAMI 2004, with means instead of histograms.
    """
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disc = x * x + y * y <= (radius + 0.3) ** 2  # 0.3 rounds the disc's tips
    strongest = np.zeros(lab.shape[:2], np.float32)
    for number in range(_ORIENTATIONS):
        angle = math.pi * number / _ORIENTATIONS
        side = x * math.cos(angle) + y * math.sin(angle)
        # Pixels within 0.35 of the line belong to neither half, or thin lines would cancel themselves.
        one, other = disc & (side > 0.35), disc & (side < -0.35)
        kernel = (one / one.sum() - other / other.sum()).astype(np.float32)
        difference = cv2.filter2D(lab, cv2.CV_32F, kernel, borderType=cv2.BORDER_REFLECT_101)
        np.maximum(strongest, cv2.transform(difference * difference, np.ones((1, 3))), out=strongest)
    return np.sqrt(strongest)


def basins(strength: npt.NDArray[np.float32]) -> npt.NDArray[np.int32]:
    """Return the watershed's basins, without lines between them.

    Args:
        strength: float32 (H, W), not negative, in Lab units.

    Returns:
        int32 (H, W), from 0 by the first pixel of their minimum; each basin is 4-connected.

    Source: Meyer, Topographic distance and watershed lines, 1994: flooding from the minima in order of height.
    """
    smooth = cv2.GaussianBlur(strength, (0, 0), 0.7)
    heights = (smooth * _STEPS_PER_UNIT).astype(np.int32)
    labels = np.full(heights.shape, -1, np.int32)
    _mark_minima(heights, labels)
    _flood(heights, labels)
    return labels


@compiled
def _mark_minima(heights: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> None:
    """Number the plateaus, connected over edges, that have no lower neighbour."""
    rows, columns = heights.shape
    is_seen = np.zeros((rows, columns), np.bool_)
    plateau = np.empty(rows * columns, np.int32)
    count = 0
    for start in range(rows * columns):
        if is_seen[start // columns, start % columns]:
            continue
        height = heights[start // columns, start % columns]
        is_seen[start // columns, start % columns] = True
        plateau[0] = start
        size, done, is_minimum = 1, 0, True
        while done < size:
            y, x = plateau[done] // columns, plateau[done] % columns
            done += 1
            for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                row, column = y + dy, x + dx
                if not (0 <= row < rows and 0 <= column < columns):
                    continue
                if heights[row, column] < height:
                    is_minimum = False
                elif heights[row, column] == height and not is_seen[row, column]:
                    is_seen[row, column] = True
                    plateau[size] = row * columns + column
                    size += 1
        if is_minimum:
            for place in range(size):
                labels[plateau[place] // columns, plateau[place] % columns] = count
            count += 1


@compiled
def _flood(heights: npt.NDArray[np.int32], labels: npt.NDArray[np.int32]) -> None:
    """Give every pixel the label from which the flood reaches it first; one queue for each height."""
    rows, columns = heights.shape
    behind = np.full(rows * columns, -1, np.int32)
    num_levels = heights.max() + 1
    first, last = np.full(num_levels, -1, np.int32), np.full(num_levels, -1, np.int32)
    for pixel in range(rows * columns):
        if labels[pixel // columns, pixel % columns] >= 0:
            height = heights[pixel // columns, pixel % columns]
            if first[height] < 0:
                first[height] = pixel
            else:
                behind[last[height]] = pixel
            last[height] = pixel
    level = 0
    while level < num_levels:
        pixel = first[level]
        if pixel < 0:
            level += 1
            continue
        first[level] = behind[pixel]
        y, x = pixel // columns, pixel % columns
        for dy, dx in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            row, column = y + dy, x + dx
            if 0 <= row < rows and 0 <= column < columns and labels[row, column] < 0:
                labels[row, column] = labels[y, x]
                height = max(int(heights[row, column]), level)
                reached = row * columns + column
                if first[height] < 0:
                    first[height] = reached
                else:
                    behind[last[height]] = reached
                last[height] = reached
