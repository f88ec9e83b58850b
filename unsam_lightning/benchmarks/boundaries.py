"""BSDS's boundary benchmark of whole-image proposals: the segmentation that each granularity gives, against people's.

Next in the tour: `benchmarks/evaluate.py`.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.whole_image import Proposals
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.boundary_bsds import BSDSBoundary
from unsam_lightning.metrics.contours import boundary_pixels, thin_lines

#: Annotators' regions must cover this share of an image; BSDS's do but for what is below the reader's `min_area_px`.
_MIN_COVER = 0.9


def annotators_boundaries(sample: EvalSample) -> list[npt.NDArray[np.bool_]]:
    """Return each annotator's boundaries, bool (H, W), thinned as the benchmark's; empty if the sample has none.

    Args:
        sample: Masks named "annotator<k>/...", all of each annotator's: they must cover the image, or the sample is no
            segmentation (another data set, or masks drawn from one) and nothing is returned.
    """
    found: dict[str, npt.NDArray[np.int64]] = {}
    for number, (name, mask) in enumerate(zip(sample.ids, sample.masks, strict=True), start=1):
        if (match := re.match(r"(annotator\d+)/", name)) is None:
            return []
        labels = found.setdefault(match[1], np.zeros(mask.shape, dtype=np.int64))
        labels[mask == 1] = number
    if any(np.count_nonzero(labels) < _MIN_COVER * labels.size for labels in found.values()):
        return []
    return [thin_lines(boundary_pixels(labels)) for labels in found.values()]


def proposals_boundaries(proposals: Proposals, height: int, width: int, max_masks: int) -> npt.NDArray[np.bool_]:
    """Return the boundaries of the segmentation that proposals of one granularity make, bool (H, W).

    The best-scored distinct masks are painted over each other, large ones first; what no mask covers is a region too.

    Args:
        proposals: Of one granularity.
        height: Of the image.
        width: Of the image.
        max_masks: At most so many are painted.
    """
    labels = np.zeros((height, width), dtype=np.int64)
    best = proposals.distinct(max_masks=max_masks)
    masks = best.full_size(height, width)
    for number, n in enumerate(np.argsort(-masks.sum(axis=(1, 2)), kind="stable"), start=1):
        labels[masks[n]] = number
    return boundary_pixels(labels)


def boundary_counts(tuned: Proposals, base: Proposals, sample: EvalSample) -> dict[str, BSDSBoundary]:
    """Return the metrics "tuned" and "base" of one image, whose states add up; none where it has no segmentation.

    Their thresholds are the granularities: "ods_f" is F at the one granularity that suits the data set best, "ois_f" at
    that which suits each image. The tuned model's segmentation at g is of its 100 best masks at g. The base has no g:
    its segmentation is of its 10 / g best masks, which are 100 to 10.

    Args:
        tuned: Proposals at all granularities of the sweep.
        base: Proposals of the untouched SAM-2.
        sample: The image's ground truth.

    Source: `metrics/boundary_bsds.py`.
    Differs: regions below the reader's smallest are in no annotator's boundaries; 1 as `min_area_px` leaves none out.
    """
    truth = annotators_boundaries(sample)
    if not truth:
        return {}
    levels = {
        "tuned": [(tuned.select((tuned.granularity - g).abs() < 0.01), 100) for g in SWEEP],
        "base": [(base, round(10 / g)) for g in SWEEP],
    }
    height, width = sample.image.shape[:2]
    found = {}
    for model, parts in levels.items():
        found[model] = BSDSBoundary(SWEEP)
        found[model].update([proposals_boundaries(part, height, width, count) for part, count in parts], truth)
    return found
