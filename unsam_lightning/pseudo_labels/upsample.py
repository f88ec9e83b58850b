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
from unsam_lightning.granularity import granularity_scores
from unsam_lightning.pseudo_labels.compiled import compiled
from unsam_lightning.pseudo_labels.hierarchy import ROOT, Forest
from unsam_lightning.pseudo_labels.overlap import connected_components


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


def lift_forest(forest: Forest, image: npt.NDArray[np.uint8], color_sigma: float) -> Forest:
    """Return a forest of a reduced image at the resolution of the image, with granularities of the new areas.

    A mask is lifted by `patch_of_pixels`, cut to its parent's lifted mask and to its largest component. What is then
    empty or as large as its parent goes, with its descendants.

    Args:
        forest: Masks (N, h, w).
        image: uint8 RGB (H, W, 3), at least as fine.
        color_sigma: See `patch_of_pixels`.
    """
    pixels = patch_of_pixels(image, (forest.masks.shape[1], forest.masks.shape[2]), color_sigma)
    masks = np.zeros((len(forest), *pixels.shape), bool)
    areas = np.zeros(len(forest), np.int64)
    for n, parent in enumerate(forest.parent):
        whole = forest.masks[n].ravel()[pixels]
        if parent != ROOT:
            whole &= masks[parent]
        pieces = connected_components(whole)
        if len(pieces) and (parent == ROOT or np.count_nonzero(pieces[0]) < areas[parent]):
            masks[n], areas[n] = pieces[0], np.count_nonzero(pieces[0])
    kept = np.flatnonzero(areas)
    place = np.cumsum(areas > 0) - 1  # a kept mask's parent is kept
    parents = forest.parent[kept]
    trees = np.unique(forest.instance[kept], return_inverse=True)[1]
    granularity = np.zeros(len(kept))
    for tree in range(trees.max(initial=-1) + 1):
        granularity[trees == tree] = granularity_scores(areas[kept][trees == tree])
    return Forest(
        masks=masks[kept],
        granularity=granularity,
        instance=trees.astype(np.int32),
        parent=np.where(parents == ROOT, ROOT, place[parents]).astype(np.int32),
        stage=forest.stage[kept],
    )
