"""Opponents without a network: what a threshold on the grey values gives.

Next in the tour: `benchmarks/boundaries.py`.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def otsu_masks(image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the two sides of Otsu's threshold, "bright" (above it) and "dark" (the rest), bool (H, W) each.

    No click is used: the same two masks stand against every object of an image.

    Args:
        image: uint8 RGB (H, W, 3); its grey values are ITU-R 601 luma.

    Source: Otsu, "A threshold selection method from gray-level histograms", 1979, by OpenCV.
    """
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    _, above = cv2.threshold(grey, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    bright = above.astype(np.bool_)
    return {"bright": bright, "dark": ~bright}
