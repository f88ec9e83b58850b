"""The simulated user of interactive segmentation: where to click next, and how good a mask is.

Next in the tour: `metrics/interactive.py`.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled
from unsam_lightning.errors import UserError

#: A click: row, column (pixels of the image) and whether it says "object" (True) or "background" (False).
Click: TypeAlias = tuple[int, int, bool]

_BOOL = npt.NDArray[np.bool_]


class Clicker:
    """The simulated user of one object: says where to click next and how good a mask is.

    Args:
        gt: int8 (H, W): 1 object, 0 background, -1 ignore. Read, never written; not copied if it is int8 already.

    Attributes:
        clicks: The clicks so far, in order.

    Raises:
        UserError: `gt` is not a map of 1, 0 and -1.

    Source: RITM `isegm/inference/clicker.py` (b9b4460), the same in SimpleClick and GraCo.
    Differs: distances to the boundary are compared as whole numbers of squared pixels. OpenCV's "precise" transform has
        two back ends, taken by CPU, thread count and image size, that differ in the last float32 bit, and that bit
        decides between pixels equally deep inside an error. Here every machine makes the same click: the one of an
        exact transform, to which OpenCV's own (not Intel's) back end is equal in float32.
    """

    def __init__(self, gt: npt.ArrayLike) -> None:
        array = np.asarray(gt)
        if array.ndim != 2 or array.size == 0 or array.min() < -1 or array.max() > 1:
            found = f"shape {array.shape}"
            if array.ndim == 2 and array.size:
                found += f" with values {array.min()} to {array.max()}"
            raise UserError(
                expected="a ground truth (H, W) of 1 (object), 0 (background) and -1 (ignore)",
                found=found,
                remedy="give one object at a time, e.g. `(labels == 7).astype('int8')`",
            )
        self._gt = np.ascontiguousarray(array, dtype=np.int8)
        self._object_px = int(np.count_nonzero(self._gt == 1))
        self.clicks: list[Click] = []

    def next_click(self, prediction: _BOOL) -> Click:
        """Return the next click for a prediction and remember it.

        The click falls on the pixel deepest inside the missed object (positive) or inside the spurious object
        (negative), whichever is deeper; equal depth gives a negative click, equal pixels the first in row-major order.
        The frame of the image counts as a boundary, ignored pixels as outside, pixels clicked before are left out. With
        no error left this gives a negative click at (0, 0), as in the reference.

        Args:
            prediction: bool (H, W); all False before the first click.
        """
        missed, spurious = self._errors(prediction)
        missed_depth, missed_yx = _deepest(missed, self.clicks)
        spurious_depth, spurious_yx = _deepest(spurious, self.clicks)
        is_positive = missed_depth > spurious_depth
        click = (*(missed_yx if is_positive else spurious_yx), is_positive)
        self.clicks.append(click)
        return click

    def iou(self, prediction: _BOOL) -> float:
        """Return intersection over union outside the ignored pixels; nan if both masks are empty.

        Args:
            prediction: bool (H, W).
        """
        missed, spurious = self._errors(prediction)
        union_px = self._object_px + int(np.count_nonzero(spurious))
        return (self._object_px - int(np.count_nonzero(missed))) / union_px if union_px else float("nan")

    def _errors(self, prediction: _BOOL) -> tuple[_BOOL, _BOOL]:
        """Return the missed and the spurious pixels, bool (H, W) each."""
        if prediction.shape != self._gt.shape or prediction.dtype != np.bool_:
            raise UserError(
                expected=f"a bool prediction of shape {self._gt.shape}, as the ground truth",
                found=f"{prediction.dtype} {prediction.shape}",
                remedy="resize probabilities to the image, then compare them with the threshold",
            )
        predicted = np.ascontiguousarray(prediction)
        spurious = self._gt == 0
        spurious &= predicted
        return self._gt > predicted.view(np.int8), spurious  # 1 > 0 only: ignored pixels are -1


def _deepest(error: _BOOL, clicks: list[Click]) -> tuple[int, tuple[int, int]]:
    """Return the squared depth and (y, x) of the deepest pixel of an error not clicked before; 0 and (0, 0) if none."""
    left, top, width, height = cv2.boundingRect(error.view(np.uint8))
    if width == 0:
        return 0, (0, 0)
    clicked = np.array([(y - top, x - left) for y, x, _ in clicks], dtype=np.int64).reshape(-1, 2)
    crop = np.ascontiguousarray(error[top : top + height, left : left + width])  # one memory layout, one compilation
    depth, y, x = _deepest_pixel(crop, clicked)
    return depth, (y + top, x + left) if depth else (0, 0)


@compiled
def _deepest_pixel(error: _BOOL, clicked: npt.NDArray[np.int64]) -> tuple[int, int, int]:
    """Return (squared depth, y, x) of the deepest pixel; zeros if none is left.

    An exact Euclidean distance transform that looks only where the maximum can be: rows are visited by falling upper
    bound of the depth, a pixel is left as soon as it cannot win, and its neighbours that cannot either are skipped.
    """
    height, width = error.shape
    vertical = np.zeros((height + 2, width + 2), dtype=np.int32)  # depth along the column, in a ring of zeros
    for y in range(height):
        for x in range(width):
            vertical[y + 1, x + 1] = (vertical[y, x + 1] + 1) * error[y, x]
    bounds = np.zeros(height, dtype=np.int64)
    for y in range(height - 1, -1, -1):
        for x in range(1, width + 1):
            vertical[y + 1, x] = min(vertical[y + 1, x], vertical[y + 2, x] + 1)
        run, run_deepest = 0, 0
        for depth in vertical[y + 1, 1:]:  # the ring's zero ends the last run
            if depth:
                run, run_deepest = run + 1, max(run_deepest, depth)
            elif run:
                bounds[y] = max(bounds[y], min(run_deepest, (run + 1) // 2))
                run, run_deepest = 0, 0

    best, best_y, best_x = 0, 0, 0
    for y in np.argsort(-bounds, kind="mergesort"):  # stable: the upper of two equal rows first
        if bounds[y] ** 2 < best or bounds[y] == 0:
            break
        # To win, a pixel must be deeper than the best one, or as deep and in an earlier row.
        needed = best if best > 0 and y < best_y else best + 1
        x = 0
        while x < width:
            squared, nearest, step = vertical[y + 1, x + 1] ** 2, x, 1
            while squared >= needed and step * step < squared:  # the ring's zeros end it at the frame
                for column in (x - step, x + step):
                    if step * step + vertical[y + 1, column + 1] ** 2 < squared:
                        squared, nearest = step * step + vertical[y + 1, column + 1] ** 2, column
                step += 1
            if squared < needed:  # so are all pixels as near to the boundary pixel found in column `nearest`
                x = nearest + math.ceil(math.sqrt(needed - vertical[y + 1, nearest + 1] ** 2))
                continue
            if not np.any((clicked[:, 0] == y) & (clicked[:, 1] == x)):
                best, best_y, best_x, needed = squared, y, x, squared + 1
            x += 1
    return best, best_y, best_x
