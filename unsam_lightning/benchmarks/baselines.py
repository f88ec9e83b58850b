"""Opponents without a network: a threshold on the grey values, and a graph of the pixels.

Next in the tour: `benchmarks/contour_map.py`.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from unsam_lightning.errors import UserError
from unsam_lightning.pseudo_labels.overlap import keep_distinct

#: Felzenszwalb's scales, fine to coarse.
SCALES = (30.0, 100.0, 300.0, 1000.0, 3000.0)
#: Smaller regions are merged with a neighbour.
MIN_SIZE_PX = 50
#: As many as recall looks at.
MAX_REGIONS = 1000


def otsu_masks(image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the two sides of Otsu's threshold, "bright" (above it) and "dark" (the rest), bool (H, W) each.

    No click is used: the same two masks stand against every object of an image.

    Args:
        image: uint8 RGB (H, W, 3); its grey values are ITU-R 601 luma.

    Source: Otsu, "A threshold selection method from gray-level histograms", 1979, by OpenCV.
    """
    grey = np.asarray(Image.fromarray(image).convert("L"))
    _, above = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bright = above.astype(np.bool_)
    return {"bright": bright, "dark": ~bright}


def felzenszwalb_masks(image: npt.NDArray[np.uint8], max_iou: float = 0.7) -> npt.NDArray[np.bool_]:
    """Return the regions of Felzenszwalb and Huttenlocher at five scales as masks, bool (N, H, W), large ones first.

    Args:
        image: uint8 RGB (H, W, 3).
        max_iou: Of two masks with a higher IoU the smaller one goes.

    Raises:
        UserError: scikit-image is not installed.

    Source: "Efficient graph-based image segmentation", 2004, by scikit-image with its sigma of 0.8. It has no score:
        size ranks, and only the thousand largest regions are looked at.
    """
    try:
        from skimage.segmentation import felzenszwalb
    except ImportError:
        raise UserError(
            expected="scikit-image, for the Felzenszwalb baseline",
            found="it is not installed",
            remedy="`pip install scikit-image`, or leave out --model.evaluation.felzenszwalb",
        ) from None
    labels = [felzenszwalb(image, scale=scale, min_size=MIN_SIZE_PX) for scale in SCALES]
    areas = [np.bincount(one.ravel()) for one in labels]
    regions = [(-area, level, number) for level, each in enumerate(areas) for number, area in enumerate(each.tolist())]
    largest = sorted(regions)[:MAX_REGIONS]
    every = np.stack([labels[level] == number for _, level, number in largest])
    found: npt.NDArray[np.bool_] = every[keep_distinct(every, max_iou)[0]]
    return found
