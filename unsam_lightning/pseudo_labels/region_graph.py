"""Small regions as a graph: their areas, mean colours and features, and the strength of the borders between them.

Next in the tour: `pseudo_labels/region_tree.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled
from unsam_lightning.pseudo_labels.watershed import basins, edge_strength, to_lab


@dataclass(frozen=True)
class RegionGraph:
    """R small regions that cover an image.

    Attributes:
        labels: int32 (H, W), the region of every pixel; each region is 4-connected.
        area_px: float64 (R,).
        color: float32 (R, 3), mean Lab.
        center_01: float64 (R, 2), mean x and y of a region's pixels, as a share of the image's width and height.
        edges: int32 (E, 2), pairs of regions that share a border, the smaller number first.
        borders: float64 (E, 2), the length of the border in pixel sides and the sum of the edge strength along it.
    """

    labels: npt.NDArray[np.int32]
    area_px: npt.NDArray[np.float64]
    color: npt.NDArray[np.float32]
    center_01: npt.NDArray[np.float64]
    edges: npt.NDArray[np.int32]
    borders: npt.NDArray[np.float64]


def region_graph(image: npt.NDArray[np.uint8]) -> RegionGraph:
    """Return the graph of an image's small regions, some 40 pixels each.

    Args:
        image: uint8 RGB (H, W, 3).
    """
    lab = to_lab(image)
    smooth = cv2.GaussianBlur(lab, (0, 0), 0.6)
    fine = edge_strength(smooth, 2)
    labels = basins(fine)
    # Borders are judged on two scales: a fine texture has strong fine edges, a soft shadow weak ones on both.
    strength = (fine + edge_strength(smooth, 4)) * np.float32(0.5)
    area = np.bincount(labels.ravel()).astype(np.float64)
    height, width = labels.shape
    y, x = np.mgrid[:height, :width]
    center = np.stack([_mean(labels, (x + 0.5) / width, area), _mean(labels, (y + 0.5) / height, area)], axis=1)
    means = [_mean(labels, lab[..., channel], area) for channel in range(3)]
    color = np.stack(means, axis=1).astype(np.float32)
    edges, borders = _find_borders(labels, strength, len(area))
    return RegionGraph(labels, area, color, center, edges, borders)


def _mean(
    labels: npt.NDArray[np.int32], values: npt.NDArray[np.floating], area: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    return np.asarray(np.bincount(labels.ravel(), weights=values.ravel()) / area)


def _find_borders(
    labels: npt.NDArray[np.int32], strength: npt.NDArray[np.float32], num_regions: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    keys = np.empty(2 * labels.size, np.int64)
    values = np.empty(2 * labels.size, np.float32)
    count = _list_sides(labels, strength, num_regions, keys, values)
    pairs, which = np.unique(keys[:count], return_inverse=True)
    borders = np.stack([np.bincount(which), np.bincount(which, weights=values[:count])], axis=1).astype(np.float64)
    edges = np.stack([pairs // num_regions, pairs % num_regions], axis=1).astype(np.int32)
    return edges, borders.reshape(len(edges), 2)


@compiled
def _list_sides(
    labels: npt.NDArray[np.int32],
    strength: npt.NDArray[np.float32],
    num_regions: int,
    keys: npt.NDArray[np.int64],
    values: npt.NDArray[np.float32],
) -> int:
    """Write a key for the two regions and the strength at each pixel side between regions; return how many."""
    rows, columns = labels.shape
    count = 0
    for y in range(rows):
        for x in range(columns):
            for row, column in ((y, x + 1), (y + 1, x)):
                if row < rows and column < columns and labels[row, column] != labels[y, x]:
                    low, high = min(labels[y, x], labels[row, column]), max(labels[y, x], labels[row, column])
                    keys[count] = np.int64(low) * num_regions + high
                    values[count] = max(strength[y, x], strength[row, column])
                    count += 1
    return count


def sample_features(
    maps: Sequence[npt.NDArray[np.float32]], center_01: npt.NDArray[np.float64]
) -> list[npt.NDArray[np.float32]]:
    """Return the features at the regions' centres, bilinear, each map scaled to a total variance of 1.

    Args:
        maps: float32 (h, w, D) each, of their own sizes, each covering the image.
        center_01: float64 (R, 2), x and y as a share of the image.

    Returns:
        float32 (R, D) each.
    """
    sampled = []
    for unordered in maps:
        features = np.ascontiguousarray(unordered)  # an encoder's maps come channels first in memory
        height, width, channels = features.shape
        scale = np.sqrt(features.reshape(-1, channels).var(axis=0).sum())
        x = np.clip(center_01[:, 0] * width - 0.5, 0, width - 1)
        y = np.clip(center_01[:, 1] * height - 0.5, 0, height - 1)
        left, top = x.astype(np.int64), y.astype(np.int64)
        right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
        across = (x - left).astype(np.float32)[:, None]
        down = (y - top).astype(np.float32)[:, None]
        above = features[top, left] + (features[top, right] - features[top, left]) * across
        below = features[bottom, left] + (features[bottom, right] - features[bottom, left]) * across
        sampled.append((above + (below - above) * down) * np.float32(1 / max(float(scale), 1e-12)))
    return sampled
