"""Which patch every pixel belongs to: lifts masks of a patch grid to the image along the image's own edges.

A mask of the grid is lifted by one look-up, so nested masks stay nested and neighbours stay disjoint.
Next in the tour: `pseudo_labels/divide_and_conquer.py`.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.compiled import compiled


def patch_of_pixels(
    image: npt.NDArray[np.uint8], grid_shape: tuple[int, int], color_sigma: float
) -> npt.NDArray[np.int32]:
    """Return for every pixel the patch it belongs to: near, and of a similar mean colour.

    Of the four patches around a pixel the one with the largest product of its bilinear weight and
    exp(-|colour difference|^2 / (2 color_sigma^2)) is taken, the first in row-major order among equals.

    Args:
        image: uint8 RGB (H, W, 3).
        grid_shape: Rows and columns of the patch grid, which covers the image.
        color_sigma: In grey levels (0 to 255), over the three channels together; infinity for the nearest patch.

    Returns:
        int32 (H, W), row-major patch numbers.

    Raises:
        UserError: If the image is not uint8 (H, W, 3) or coarser than the grid.

    Source: joint bilateral upsampling, Kopf et al. 2007, reduced to the choice of a patch.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise UserError(
            expected="an RGB image as uint8 (height, width, 3)",
            found=f"{image.dtype} {image.shape}",
            remedy="convert the image first",
        )
    if image.shape[0] < grid_shape[0] or image.shape[1] < grid_shape[1]:
        raise UserError(
            expected=f"an image of at least {grid_shape[0]} x {grid_shape[1]} pixels, one per patch",
            found=f"{image.shape[0]} x {image.shape[1]}",
            remedy="compute the features on a coarser grid or enlarge the image",
        )
    pixels = np.ascontiguousarray(image, dtype=np.float32)
    means = cv2.resize(pixels, (grid_shape[1], grid_shape[0]), interpolation=cv2.INTER_AREA)
    penalty = 0.0 if math.isinf(color_sigma) else 0.5 / color_sigma**2
    patches = np.empty(image.shape[:2], np.int32)
    _assign(pixels, means.reshape(*grid_shape, 3), np.float32(penalty), patches)
    return patches


@compiled
def _assign(
    pixels: npt.NDArray[np.float32],
    means: npt.NDArray[np.float32],
    penalty: np.float32,
    patches: npt.NDArray[np.int32],
) -> None:
    rows, columns = means.shape[:2]
    height, width = patches.shape
    for y in range(height):
        grid_y = (y + 0.5) * rows / height - 0.5
        top = math.floor(grid_y)
        for x in range(width):
            grid_x = (x + 0.5) * columns / width - 0.5
            left = math.floor(grid_x)
            best, best_score = 0, -np.inf
            for row in range(top, top + 2):
                for column in range(left, left + 2):
                    weight = (1.0 - abs(grid_y - row)) * (1.0 - abs(grid_x - column))
                    if weight <= 0.0 or row < 0 or column < 0 or row >= rows or column >= columns:
                        continue
                    difference = np.float32(0.0)
                    for channel in range(3):
                        difference += (pixels[y, x, channel] - means[row, column, channel]) ** 2
                    score = math.log(weight) - float(penalty * difference)
                    if score > best_score:
                        best, best_score = row * columns + column, score
            patches[y, x] = best
