"""From the painted part numbers to the masks, parents, levels and granularities of a scene.

Next in the tour: `scene.py`.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from unsam_lightning.granularity import granularity_scores
from unsam_lightning.scenes.painter import Box, Canvas

Masks = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int32]


def forest(canvas: Canvas, smallest: float) -> tuple[Masks, Indices, Indices]:
    """Return the masks that are large enough, (N, H, W), each one's parent (N,) or -1, and its visible pixels (N,).

    Args:
        canvas: With everything painted.
        smallest: Least visible pixels of a mask, and of what a part leaves of its parent.
    """
    num_numbers = len(canvas.parents)
    # Plain lists: the loops run over single numbers, for which numpy is slow.
    area: list[int] = np.bincount(canvas.labels.ravel(), minlength=num_numbers).tolist()
    end = list(range(1, num_numbers + 1))  # descendants have the numbers up to here
    for number in range(num_numbers - 1, 0, -1):
        parent = canvas.parents[number]
        if parent:
            area[parent] += area[number]
            end[parent] = max(end[parent], end[number])
    kept: list[int] = []
    parents: list[int] = []
    nearest = [-1] * num_numbers  # index in `kept` of the number itself, else of its closest kept ancestor
    for number in range(1, num_numbers):
        above = nearest[canvas.parents[number]]
        nearest[number] = above
        fills_parent = above >= 0 and area[kept[above]] - area[number] < smallest
        if area[number] >= smallest and not fills_parent:
            nearest[number] = len(kept)
            kept.append(number)
            parents.append(above)
    masks = np.zeros((len(kept), *canvas.labels.shape), np.bool_)
    for mask, number in zip(masks, kept, strict=True):
        x0, y0, x1, y1 = _hull([window for window in canvas.windows[number : end[number]] if window])
        seen = canvas.labels[y0:y1, x0:x1] - np.uint16(number)  # wraps to large values below `number`
        np.less(seen, np.uint16(end[number] - number), out=mask[y0:y1, x0:x1])
    return masks, np.array(parents, np.int32), np.array([area[number] for number in kept], np.int32)


def _hull(windows: list[Box]) -> Box:
    left, top, right, bottom = zip(*windows, strict=True)
    return min(left), min(top), max(right), max(bottom)


def grade(parent: Indices, area_px: Indices) -> tuple[Indices, npt.NDArray[np.float64]]:
    """Return the level of every mask and its granularity within its object's tree, both (N,)."""
    level, granularity = np.zeros(len(parent), np.int32), np.zeros(len(parent))
    for k, above in enumerate(parent.tolist()):
        level[k] = 0 if above < 0 else level[above] + 1
    for first, stop in pairwise([*np.flatnonzero(parent < 0), len(parent)]):
        granularity[first:stop] = granularity_scores(area_px[first:stop])
    return level, granularity
