"""BSDS's boundary benchmark of whole-image proposals: the contours of all their masks, against people's.

Next in the tour: `benchmarks/evaluate.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.contour_map import contour_map
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.whole_image import Proposals
from unsam_lightning.metrics.boundary_bsds import BSDSBoundary, bsds_thresholds
from unsam_lightning.metrics.contours import boundary_pixels, thin_lines

#: Annotators' regions must cover this share of an image; BSDS's do but for what is below the reader's `min_area_px`.
_MIN_COVER = 0.9

#: Contour strengths that cut a map, 0.0025 to 0.9025: closer together where they are weak, as most contours are.
STRENGTHS: tuple[float, ...] = tuple((bsds_thresholds(19) ** 2).tolist())


def annotators_boundaries(sample: EvalSample) -> list[npt.NDArray[np.bool_]]:
    """Return each annotator's boundaries, bool (H, W), thinned as the benchmark's; empty if the sample has none.

    Args:
        sample: Masks named "annotator<k>/...", all of all annotators: each one's must cover the image, or the sample is
            no segmentation (another data set, or masks drawn from one) and nothing is returned.
    """
    if len(sample.all_masks) > len(sample.masks):  # an annotator whom no draw took would be missing unseen
        return []
    found: dict[str, npt.NDArray[np.int64]] = {}
    for number, (name, mask) in enumerate(zip(sample.ids, sample.masks, strict=True), start=1):
        if (match := re.match(r"(annotator\d+)/", name)) is None:
            return []
        labels = found.setdefault(match[1], np.zeros(mask.shape, dtype=np.int64))
        labels[mask == 1] = number
    if any(np.count_nonzero(labels) < _MIN_COVER * labels.size for labels in found.values()):
        return []
    return [thin_lines(boundary_pixels(labels)) for labels in found.values()]


def boundary_counts(proposals: Mapping[str, Proposals], sample: EvalSample) -> dict[str, BSDSBoundary]:
    """Return a metric of one image for each model, whose states add up; none where it has no segmentation.

    Each model's proposals make one map of contour strength, by one rule, which `STRENGTHS` cut: "ods_f" is F at the one
    strength that suits the data set best, "ois_f" at that which suits each image, "ap" the area under the curve.

    Args:
        proposals: All masks of each model, by its name.
        sample: The image's ground truth.

    Source: `contour_map.contour_map`, `metrics/boundary_bsds.py`.
    Differs: 19 thresholds, not evenly spaced, for the benchmark's 99. Regions below the reader's smallest are holes:
        their outlines are boundaries, but not the line between two that touch; 1 as `min_area_px` leaves none out.
    """
    truth = annotators_boundaries(sample)
    found = {}
    for model, masks in proposals.items() if truth else ():
        contours = contour_map(masks, *sample.image.shape[:2])
        found[model] = BSDSBoundary(STRENGTHS)
        found[model].update([contours >= strength for strength in STRENGTHS], truth)
    return found
