"""Masks of an image without any training, best first: ours at a budget, and what it is compared with.

Next in the tour: `benchmarks/label_recall.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.conquer import iterative_merge
from unsam_lightning.pseudo_labels.divide import mask_cut
from unsam_lightning.pseudo_labels.features import Level
from unsam_lightning.pseudo_labels.hierarchy import Masks
from unsam_lightning.pseudo_labels.overlap import intersections, ious
from unsam_lightning.pseudo_labels.recipe import LabelRecipe, label_image

#: Coarse to fine: the order in which Felzenszwalb's segmentations are taken.
FELZENSZWALB_SCALES = (2000, 1200, 800, 500, 300, 200, 100, 50)
#: Masks (K, H, W) and their granularities (K,), which are empty where a method has none, for a budget of K at most.
Found = tuple[Masks, npt.NDArray[np.float64]]
#: Features of an image by level, the image uint8 (H, W, 3), and the budget, None for the method's own number of masks.
Method = Callable[[Mapping[Level, Tensor], npt.NDArray[np.uint8], int | None], Found]

_NONE = np.zeros(0)


def by_recipe(recipe: LabelRecipe) -> Method:
    """Return a recipe as a method: "regions" at a budget takes that many candidates and does not balance granularities.

    "divide_conquer" has no rank of its own: its masks are ordered by falling area.
    """

    def find(features: Mapping[Level, Tensor], image: npt.NDArray[np.uint8], budget: int | None) -> Found:
        chosen = recipe
        if budget is not None:
            chosen = replace(recipe, regions=replace(recipe.regions, max_masks=budget, max_bin_share=1.0))
        forest = label_image([features[level] for level in chosen.levels()], image, chosen)
        order = np.argsort(-forest.area, kind="stable")[:budget]
        return forest.masks()[order], forest.granularity[order]

    return find


def official_parts(features: Mapping[Level, Tensor], image: npt.NDArray[np.uint8], budget: int | None) -> Found:
    """Return the masks of the official recipe's parts on our encoder's features, by falling area.

    Three masks cut out, those below 5 % of the image dropped, each merged at the paper's thresholds on the patch grid,
    every mask compared with the next four by area only, and lifted to pixels by the nearest patch.

    Source: UnSAM's `divide_conquer.py` as the paper configures it; its detector and its refiner are left out.
    """
    fine = (features["trunk8"] - features["trunk8"].mean(dim=(0, 1))).numpy()
    coarse = features["trunk16"] - features["trunk16"].mean(dim=(0, 1))
    grid = [np.zeros((0, *fine.shape[:2]), bool)]
    for cut in mask_cut(coarse, num_masks=3).numpy():
        if cut.mean() < 0.05:
            continue
        inside = cv2.resize(cut.astype(np.uint8), fine.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        grid.append(inside[None])
        grid += [level & inside for level in iterative_merge(fine * inside[..., None])]
    masks = np.concatenate(grid)
    masks = masks[np.argsort(-masks.sum(axis=(1, 2)), kind="stable")]
    masks = masks[masks.any(axis=(1, 2))]
    overlap = ious(intersections(masks))
    alone = [not (overlap[n, max(0, n - 4) : n] > 0.8).any() for n in range(len(masks))]
    masks = masks[np.asarray(alone, dtype=bool)][:budget]
    rows = np.arange(image.shape[0]) * masks.shape[1] // image.shape[0]
    columns = np.arange(image.shape[1]) * masks.shape[2] // image.shape[1]
    return masks[:, rows[:, None], columns], _NONE


def felzenszwalb(min_size: int) -> Method:
    """Return scikit-image's Felzenszwalb at eight scales as a method, coarse scales first, in a scale by falling area.

    A union of several scales is stronger than any one: on BSDS500 by 0.1 in mean best IoU at 200 masks an image.

    Raises:
        UserError: scikit-image, a development dependency, is not installed.
    """
    try:
        from skimage.segmentation import felzenszwalb as segment
    except ImportError:
        raise UserError(
            expected="scikit-image, which the comparison needs",
            found="it is not installed",
            remedy="pip install scikit-image, or choose other --methods",
        ) from None

    def find(features: Mapping[Level, Tensor], image: npt.NDArray[np.uint8], budget: int | None) -> Found:
        masks: list[npt.NDArray[np.bool_]] = []
        for scale in FELZENSZWALB_SCALES:
            if budget is not None and len(masks) >= budget:
                break
            labels = segment(image, scale=scale, sigma=0.5, min_size=min_size)
            by_area = np.argsort(-np.bincount(labels.ravel()), kind="stable")
            masks += [labels == label for label in by_area]
        return np.stack(masks[:budget]), _NONE

    return find
