"""Which patch every pixel belongs to: lifts masks of a patch grid to the image along the image's own edges.

A mask of the grid is lifted by one look-up, so nested masks stay nested and neighbours stay disjoint.
Next in the tour: `pseudo_labels/divide_and_conquer.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import granularity_scores
from unsam_lightning.pairs import decode_masks
from unsam_lightning.pseudo_labels.hierarchy import ROOT, Forest, Masks
from unsam_lightning.pseudo_labels.runs import Runs, lift_runs, rle_string


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
def _log_weights(pixels: int, places: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Return for every pixel of a side the first of its two places on the grid, and the logarithms of their weights."""
    first, weight = np.empty(pixels, np.int64), np.empty((pixels, 2))
    for pixel in range(pixels):
        center = (pixel + 0.5) * places / pixels - 0.5
        first[pixel] = math.floor(center)
        for side in range(2):
            place = first[pixel] + side
            share = 1.0 - abs(center - place)
            weight[pixel, side] = math.log(share) if 0 <= place < places and share > 0.0 else -np.inf
    return first, weight


@compiled
def _assign(
    pixels: npt.NDArray[np.float32],
    means: npt.NDArray[np.float32],
    penalty: np.float32,
    patches: npt.NDArray[np.int32],
) -> None:
    rows, columns = means.shape[:2]
    height, width = patches.shape
    tops, by_row = _log_weights(height, rows)
    lefts, by_column = _log_weights(width, columns)
    for y in range(height):
        for x in range(width):
            best, best_score = 0, -np.inf
            for down in range(2):
                for right in range(2):
                    weight = by_row[y, down] + by_column[x, right]
                    if weight <= best_score:
                        continue
                    row, column = tops[y] + down, lefts[x] + right
                    difference = np.float32(0.0)
                    for channel in range(3):
                        difference += (pixels[y, x, channel] - means[row, column, channel]) ** 2
                    score = weight - float(penalty * difference)
                    if score > best_score:
                        best, best_score = row * columns + column, score
            patches[y, x] = best


@dataclass(frozen=True)
class LiftedForest:
    """The masks of one image as they go into a label file: a `Forest` at the image's size, the masks as RLE.

    Attributes:
        height: Of the image, in pixels.
        width: Of the image, in pixels.
        rle: N counts strings of COCO RLEs; what a `Forest` promises of its masks holds for these.
        area: int64 (N,), pixels.
        granularity: See `Forest`.
        instance: See `Forest`.
        parent: See `Forest`.
        stage: See `Forest`.
    """

    height: int
    width: int
    rle: list[str]
    area: npt.NDArray[np.int64]
    granularity: npt.NDArray[np.float64]
    instance: npt.NDArray[np.int32]
    parent: npt.NDArray[np.int32]
    stage: npt.NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.rle)

    def masks(self) -> Masks:
        """Return all masks at once, bool (N, H, W)."""
        return decode_masks(self.rle, self.height, self.width)


def reduced_shape(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Return height and width with the longer side reduced to `max_side` pixels; smaller ones as they are."""
    scale = min(1.0, max_side / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def reduce_image(image: npt.NDArray[np.uint8], max_side: int) -> npt.NDArray[np.uint8]:
    """Return an image uint8 (H, W, 3) at its `reduced_shape`."""
    shape = reduced_shape(image.shape[0], image.shape[1], max_side)
    if shape == image.shape[:2]:
        return image
    return np.asarray(cv2.resize(image, shape[::-1], interpolation=cv2.INTER_AREA), dtype=np.uint8)


def lift_forest(forest: Forest, image: npt.NDArray[np.uint8], color_sigma: float) -> LiftedForest:
    """Return a forest of a reduced image at the resolution of the image, with granularities of the new areas.

    A mask is lifted by `patch_of_pixels`, cut to its parent's lifted mask and to its largest component. What is then
    empty or as large as its parent goes, with its descendants. The masks of an image that was not reduced stay as they
    are. At no time is a mask held at the image's size.

    Args:
        forest: Masks (N, h, w).
        image: uint8 RGB (H, W, 3), at least as fine.
        color_sigma: See `patch_of_pixels`.
    """
    height, width = image.shape[:2]
    if forest.masks.shape[1:] == (height, width):
        pixels = np.arange(height * width, dtype=np.int32).reshape(height, width)
    else:
        pixels = patch_of_pixels(image, (forest.masks.shape[1], forest.masks.shape[2]), color_sigma)
    by_column = np.ascontiguousarray(pixels.T)
    del pixels
    runs: list[Runs] = []
    areas = np.zeros(len(forest), np.int64)
    for n, parent in enumerate(forest.parent):
        piece, area = lift_runs(forest.masks[n], by_column, None if parent == ROOT else runs[parent])
        runs.append(piece)
        areas[n] = area if parent == ROOT or area < areas[parent] else 0
        if areas[n] == 0:
            runs[n] = piece[:0]
    kept = np.flatnonzero(areas)
    place = np.cumsum(areas > 0) - 1  # a kept mask's parent is kept
    parents = forest.parent[kept]
    trees = np.unique(forest.instance[kept], return_inverse=True)[1]
    granularity = np.zeros(len(kept))
    for tree in range(trees.max(initial=-1) + 1):
        granularity[trees == tree] = granularity_scores(areas[kept][trees == tree])
    return LiftedForest(
        height=height,
        width=width,
        rle=[rle_string(runs[n], height * width) for n in kept],
        area=areas[kept],
        granularity=granularity,
        instance=trees.astype(np.int32),
        parent=np.where(parents == ROOT, ROOT, place[parents]).astype(np.int32),
        stage=forest.stage[kept],
    )
