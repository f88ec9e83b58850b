"""Boundary pixels of masks and label maps, and their thinning to lines, as the boundary benchmarks make them.

Next in the tour: `metrics/pixel_matching.py`.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

_BOOL = npt.NDArray[np.bool_]


def boundary_pixels(labels: npt.NDArray[Any]) -> _BOOL:
    """Return the pixels that differ from their right, lower or lower right neighbour, bool (H, W).

    A boundary therefore lies half a pixel towards the upper left, and an object that ends at the frame of the image has
    no boundary there.

    Args:
        labels: (H, W), bool for a mask or integers for a label map.

    Source: the lines that BSDS's `seg2bdry.m` draws at image size and DAVIS's `f_measure` between its masks; both are
        this rule.
    """
    found = np.zeros(labels.shape, dtype=np.bool_)
    found[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    found[:-1] |= labels[:-1] != labels[1:]
    found[:-1, :-1] |= labels[:-1, :-1] != labels[1:, 1:]
    return found


def thin_lines(boundary: npt.NDArray[Any]) -> _BOOL:
    """Return a boundary map thinned to lines of one pixel that keep its connectedness, bool (H, W).

    Pixels that can go without parting or shortening a line are peeled off from the lower right and the upper left in
    turn, until none is left. Outside the frame counts as background. Thinning a thinned map changes nothing.

    Args:
        boundary: (H, W), non-zero where there is a boundary.

    Source: Guo and Hall, "Parallel thinning with two-subiteration algorithms", CACM 1989, as MATLAB's
        `bwmorph(..., 'thin', inf)` has it.
    """
    kept = np.ascontiguousarray(boundary, dtype=np.bool_).view(np.uint8)
    while True:
        before = np.count_nonzero(kept)
        for peels in _PEELS:
            neighbours = cv2.filter2D(kept, cv2.CV_8U, _PLACES, borderType=cv2.BORDER_CONSTANT)
            kept = kept & ~cv2.LUT(neighbours, peels)
        if np.count_nonzero(kept) == before:
            return kept.view(np.bool_)


#: The bit of each neighbour: from the right one counter-clockwise.
_PLACES = np.array([[8, 4, 2], [16, 0, 1], [32, 64, 128]], dtype=np.float32)


def _peeled_neighbourhoods(is_second: bool) -> npt.NDArray[np.uint8]:
    """Return for each of the 256 neighbourhoods whether its middle goes in the first or second half of a round."""
    east, north_east, north, north_west, west, south_west, south, south_east = (
        (np.arange(256) >> place & 1).astype(np.bool_) for place in range(8)
    )
    ring = [east, north_east, north, north_west, west, south_west, south, south_east, east]
    crossings = sum(~ring[k] & (ring[k + 1] | ring[k + 2]) for k in (0, 2, 4, 6))
    pairs_ahead = sum((ring[k] | ring[k + 1]).astype(int) for k in (0, 2, 4, 6))
    pairs_behind = sum((ring[k + 1] | ring[k + 2]).astype(int) for k in (0, 2, 4, 6))
    thickness = np.minimum(pairs_ahead, pairs_behind)
    first_side, second_side = (north | north_east | ~south_east) & east, (south | south_west | ~north_west) & west
    side = second_side if is_second else first_side
    return ((crossings == 1) & (thickness >= 2) & (thickness <= 3) & ~side).astype(np.uint8)


_PEELS = (_peeled_neighbourhoods(is_second=False), _peeled_neighbourhoods(is_second=True))
