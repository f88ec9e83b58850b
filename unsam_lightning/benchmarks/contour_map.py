"""One map of contour strength from all whole-image masks of a model: which share of the masks around a pixel end there.

Next in the tour: `benchmarks/boundaries.py`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.full_size import full_size_mask
from unsam_lightning.benchmarks.whole_image import Proposals, rank_distinct, stability
from unsam_lightning.compiled import compiled

_FLOAT = npt.NDArray[np.float32]

#: Masks that nearly agree end within about this distance of each other, in pixels of the image.
_SPREAD_PX = 1.0
#: How far around a contour the masks are counted that could have ended there, as a share of the image's side.
_AROUND = 1 / 64
#: A place that less than this share of all masks covers has weak contours: one mask of one click is no evidence.
_FEW = 0.02
#: Lines run where the strength smoothed by so many pixels falls off on both sides.
_LINE_PX = 1.5


def contour_map(proposals: Proposals, height: int, width: int) -> _FLOAT:
    """Return how strong a contour runs through each pixel, float32 (H, W) in [0, 1]; 0 beside the lines.

    1 means that all masks around end here. A contour on which coarse and fine masks agree is strong, one that a single
    mask draws is weak: the map holds all granularities at once, and a threshold takes its levels apart. Near-duplicates
    are suppressed as for the recall: different masks that agree count, not clicks that give the same one. Each counts
    with its stability.

    Args:
        proposals: All masks of one model, with or without granularities; possibly none.
        height: Of the image.
        width: Of the image.

    Source: the one weighted map for all levels is gPb-UCM's (Arbelaez et al., PAMI 2011), here of masks, not gradients.
    Differs: contours are not closed; the ultrametric map on a watershed of this one had a lower F. All choices here are
        the best of a few that were tried on ten or twenty photographs of BSDS500 train, the same for the tuned model
        and the base. Worse were weights by area or predicted IoU, no suppression or one at 0.7, and more smoothing.
    """
    distinct = rank_distinct(proposals.logits > 0, proposals.scores).best
    return ridges(ending_share(proposals.select(distinct), height, width))


def ending_share(proposals: Proposals, height: int, width: int) -> _FLOAT:
    """Return which share of the masks on the two sides of each pixel end there, float32 (H, W) in [0, 1], smooth.

    What ends are the pixels of `metrics.contours.boundary_pixels`, with the masks' stabilities, smeared by a Gaussian
    so that a straight line keeps its height; it is divided by twice the stabilities of the masks that cover the place.
    """
    ending = np.zeros((height, width), np.float32)
    logits, weights = proposals.logits.cpu(), stability(proposals.logits).float().cpu()
    if not weights.any():
        return ending
    covered = np.zeros(tuple(logits.shape[1:]), np.float32)
    for one, weight in zip(logits, weights.numpy(), strict=True):
        _add_boundary(full_size_mask(one, (height, width)), weight, ending)
        covered += weight * (one > 0).numpy()
    covered = cv2.resize(cv2.GaussianBlur(covered, (0, 0), _AROUND * covered.shape[1]), (width, height))
    of_line = cv2.GaussianBlur(ending, (0, 0), _SPREAD_PX) * np.float32(math.sqrt(2 * math.pi) * _SPREAD_PX)
    share = of_line / (2 * (covered + _FEW * float(weights.sum())))
    return np.asarray(np.minimum(share, 1), dtype=np.float32)


@compiled
def _add_boundary(mask: npt.NDArray[np.bool_], weight: np.float32, total: _FLOAT) -> None:
    """Add `weight` where `boundary_pixels(mask)` is True; without branches, so that vector lanes can count."""
    height, width = mask.shape
    for y in range(height):
        below = min(y + 1, height - 1)
        for x in range(width - 1):
            is_end = (
                (mask[y, x] != mask[y, x + 1]) | (mask[y, x] != mask[below, x]) | (mask[y, x] != mask[below, x + 1])
            )
            total[y, x] += weight * np.float32(is_end)
        total[y, width - 1] += weight * np.float32(mask[y, width - 1] != mask[below, width - 1])


def ridges(strength: _FLOAT) -> _FLOAT:
    """Return the strength (H, W) where it is not below its neighbours across the line, 0 elsewhere.

    The smoothed strength must bend down; across the line is where it bends down most.

    Source: Canny's suppression of non-maxima, with the direction from the second derivatives.
    """
    smooth = cv2.GaussianBlur(strength, (0, 0), _LINE_PX)
    xx, yy, xy = (cv2.Sobel(smooth, cv2.CV_32F, *order, ksize=5) for order in ((2, 0), (0, 2), (1, 1)))
    along = 0.5 * np.arctan2(2 * xy, xx - yy)
    across_x, across_y = -np.sin(along), np.cos(along)
    rows, columns = np.mgrid[: strength.shape[0], : strength.shape[1]].astype(np.float32)
    is_line = (strength > 0) & (xx + yy < 0)  # at a line's foot the strength bends up, and least along the line itself
    for side in (-1, 1):
        places = (columns + side * across_x, rows + side * across_y)
        is_line &= strength >= cv2.remap(strength, *places, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.where(is_line, strength, np.float32(0))
