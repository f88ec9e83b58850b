"""The sums and gradients of the pair loss at every pixel of the frame, on a CPU: one pass over rows of pixels.

What `losses/frame.py` describes. A row of the frame lives in a processor's nearest cache and is never written out.
Next in the tour: `losses/frame_gpu.py`.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled_in_lanes, inlined_in_lanes
from unsam_lightning.lane_math import Floats, log_of_1_plus, power_of_2

_PER_LOG_2 = np.float32(1 / math.log(2))


@inlined_in_lanes
def _give_back(
    of_row: Floats, before: npt.NDArray[np.int64], after: npt.NDArray[np.int64], share: Floats, to: Floats
) -> None:
    """Hand the gradients (3, S) of a row's pixels to the two logits (3, w) that each lies between."""
    for m in range(3):
        for x in range(len(before)):
            to[m, before[x]] += (np.float32(1) - share[x]) * of_row[m, x]
            to[m, after[x]] += share[x] * of_row[m, x]


@inlined_in_lanes
def _measure_row(x: Floats, small: Floats, inside: Floats, alpha: float, sums: npt.NDArray[np.float64]) -> None:
    """Add a row's pixels to the sums, and put their gradients in the place of what came.

    Args:
        x: Logits (S,) of the pixels; then the gradients of the focal loss.
        small: exp(-|x|); then the gradients of the probability.
        inside: 1 inside the mask, 0 outside; then the gradients of the probability inside.
        alpha: See `measure_mask`.
        sums: Likewise.
    """
    beyond, more = np.float32(1 - alpha), np.float32(2 * alpha - 1)
    focal, area, overlap = np.float32(0), np.float32(0), np.float32(0)
    truth, found, both = np.float32(0), np.float32(0), np.float32(0)
    for i in range(len(x)):
        e, t = small[i], inside[i]
        inverse = np.float32(1) / (np.float32(1) + e)
        is_in = np.float32(x[i] > 0)
        prob = (is_in + (np.float32(1) - is_in) * e) * inverse
        slope = e * inverse * inverse
        entropy = max(x[i], np.float32(0)) - x[i] * t + log_of_1_plus(e)
        error = prob - t
        weighted = (beyond + more * t) * error
        focal += weighted * error * entropy
        area += prob
        overlap += prob * t
        truth += t
        found += is_in
        both += is_in * t
        x[i] = weighted * (np.float32(2) * slope * entropy + error * error)
        small[i] = slope
        inside[i] = slope * t
    sums[0] += focal
    sums[1] += area
    sums[2] += overlap
    sums[3] += truth
    sums[4] += found
    sums[5] += both


@compiled_in_lanes
def measure_mask(
    logits: Floats, words: npt.NDArray[np.int32], bit: int, alpha: float, sums: npt.NDArray[np.float64], maps: Floats
) -> None:
    """Fill `sums` and `maps` of one mask.

    Args:
        logits: (h, w).
        words: (S, S): the mask is bit number `bit`.
        bit: See `words`.
        alpha: Weight in the focal loss of the pixels inside.
        sums: (6,), see `losses/frame.py`.
        maps: (3, h, w), likewise.
    """
    (height, width), side = logits.shape, len(words)
    before, after, share = np.empty(side, np.int64), np.empty(side, np.int64), np.empty(side, np.float32)
    for i in range(side):
        at = max((i + 0.5) * width / side - 0.5, 0.0)
        before[i] = int(at)
        after[i] = min(before[i] + 1, width - 1)
        share[i] = at - before[i]
    low, of_row = np.empty(width, np.float32), np.empty((3, side), np.float32)
    x, small, inside = of_row[0], of_row[1], of_row[2]
    bits = np.empty(side, np.uint32)
    whole = bits.view(np.float32)
    upper, lower = np.zeros((3, side), np.float32), np.zeros((3, side), np.float32)
    sums[:] = 0
    maps[:] = 0
    top = 0
    for y in range(side):
        at_y = max((y + 0.5) * height / side - 0.5, 0.0)
        first = int(at_y)
        second, down = min(first + 1, height - 1), np.float32(at_y - first)
        if first != top:  # the pixels from here on lie between the next two rows of logits
            _give_back(upper, before, after, share, maps[:, top])
            upper[:] = lower
            lower[:] = 0
            top = first
        for i in range(width):
            low[i] = logits[first, i] + down * (logits[second, i] - logits[first, i])
        for i in range(side):
            x[i] = low[before[i]] + share[i] * (low[after[i]] - low[before[i]])
            small[i] = -abs(x[i]) * _PER_LOG_2
        power_of_2(small, bits, whole)  # now exp(-|x|)
        row = words[y]
        for i in range(side):
            inside[i] = np.float32((row[i] >> bit) & 1)
        _measure_row(x, small, inside, alpha, sums)
        for m in range(3):
            for i in range(side):
                upper[m, i] += (np.float32(1) - down) * of_row[m, i]
                lower[m, i] += down * of_row[m, i]
    _give_back(upper, before, after, share, maps[:, top])
    _give_back(lower, before, after, share, maps[:, min(top + 1, height - 1)])
