"""BSDS's boundary benchmark: precision, recall and F of drawn boundaries against several people's, ODS, OIS and AP.

Next in the tour: `metrics/boundary.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.contours import thin_lines
from unsam_lightning.metrics.pixel_matching import match_pixels

_FLOAT64 = npt.NDArray[np.float64]


class BoundaryCounts(NamedTuple):
    """What precision and recall are made of, in pixels; counts of images are added before dividing.

    Args:
        matched_gt: Pixels of all annotators' boundaries that have a partner (the reference's cntR).
        gt: Pixels of all annotators' boundaries (sumR).
        matched_pred: Predicted pixels that have a partner with at least one annotator (cntP).
        pred: Predicted pixels (sumP).
    """

    matched_gt: int
    gt: int
    matched_pred: int
    pred: int


def bsds_counts(
    pred: npt.NDArray[Any], gts: Sequence[npt.NDArray[Any]], max_dist: float = 0.0075, thin: bool = True
) -> BoundaryCounts:
    """Return how many boundary pixels of a prediction and of the annotators have a partner.

    Args:
        pred: Boundary map (H, W), non-zero where there is a boundary; of a label map, `contours.boundary_pixels`.
        gts: For each annotator a boundary map (H, W), as the data set's `Boundaries` has it: thinned already.
        max_dist: Partners are at most this part of the image's diagonal apart.
        thin: Whether the prediction is thinned to lines first, as the benchmark does.

    Raises:
        UserError: No annotator, or maps of different sizes.

    Source: BSDS500 `bench/benchmarks/evaluation_bdry_image.m` (a04b7c6).
    Differs: an exact matching, see `pixel_matching.match_pixels`: within 0.1 % of the reference's counts, which vary
        by as much from run to run.
    """
    shapes = [np.shape(one) for one in (pred, *gts)]
    if len(gts) == 0 or len(set(shapes)) > 1 or len(shapes[0]) != 2:
        raise UserError(
            expected="a boundary map (H, W) and one of the same size for each annotator",
            found=f"{shapes[0]} and {', '.join(map(str, shapes[1:])) or 'no annotator'}",
            remedy="resize the prediction to the image, and give the annotators' maps as a list",
        )
    predicted = thin_lines(pred) if thin else np.asarray(pred) != 0
    has_partner = np.zeros_like(predicted)
    matched_gt = num_gt = 0
    for gt in gts:
        truth = np.asarray(gt) != 0
        of_pred, of_gt = match_pixels(predicted, truth, max_dist * float(np.hypot(*truth.shape)))
        has_partner |= of_pred
        matched_gt += int(np.count_nonzero(of_gt))
        num_gt += int(np.count_nonzero(truth))
    return BoundaryCounts(matched_gt, num_gt, int(np.count_nonzero(has_partner)), int(np.count_nonzero(predicted)))


def bsds_thresholds(num_thresholds: int = 99) -> _FLOAT64:
    """Return the benchmark's thresholds for a map of boundary strengths in [0, 1]: evenly spaced, without the ends.

    A pixel is a boundary where its strength is not below the threshold.
    """
    return np.linspace(1 / (num_thresholds + 1), 1 - 1 / (num_thresholds + 1), num_thresholds)


def precision_recall_f(counts: npt.ArrayLike) -> _FLOAT64:
    """Return precision, recall and F of counts (..., 4), float64 (..., 3); 0 where there is nothing to divide by."""
    matched_gt, gt, matched_pred, pred = np.moveaxis(np.asarray(counts, dtype=np.float64), -1, 0)
    precision, recall = matched_pred / np.maximum(pred, 1), matched_gt / np.maximum(gt, 1)
    return np.stack([precision, recall, _f(precision, recall)], axis=-1)


def bsds_summary(total: npt.ArrayLike, best: npt.ArrayLike, thresholds: npt.ArrayLike) -> dict[str, float]:
    """Return ODS, OIS and AP from added counts.

    Args:
        total: Counts at each threshold, added over images, (T, 4).
        best: Counts at each image's own first best threshold, added over images, (4,).
        thresholds: (T,), ascending: boundary strengths, or numbers of the segmentations.

    Returns:
        "ods_f", "ods_precision", "ods_recall", "ods_threshold": at the one threshold best for the data set, found in
        100 linear steps between neighbouring ones; "ois_f", "ois_precision", "ois_recall": at each image's best;
        "ap": area under the curve of precision over recall, 0 outside the recalls that were reached.

    Source: BSDS500 `bench/benchmarks/collect_eval_bdry.m` (a04b7c6).
    """
    levels = np.asarray(thresholds, dtype=np.float64)
    precision, recall, _ = precision_recall_f(total).T
    curve = np.stack([levels, precision, recall], axis=1)  # (T, 3)
    steps = np.linspace(0, 1, 100)[:, None]
    between = [curve[k] * steps + curve[k - 1] * (1 - steps) for k in range(1, len(curve))]
    points = np.concatenate([curve[:1], *between])
    ods = points[np.argmax(_f(points[:, 1], points[:, 2]))]
    ois = precision_recall_f(best)
    reached, first = np.unique(recall, return_index=True)
    area = np.interp(np.linspace(0, 1, 101), reached, precision[first], left=0, right=0).sum() * 0.01
    return {
        "ods_f": float(_f(ods[1], ods[2])),
        "ods_precision": float(ods[1]),
        "ods_recall": float(ods[2]),
        "ods_threshold": float(ods[0]),
        "ois_f": float(ois[2]),
        "ois_precision": float(ois[0]),
        "ois_recall": float(ois[1]),
        "ap": float(area) if len(reached) > 1 else 0.0,
    }


class BSDSBoundary(Metric):
    """ODS, OIS and AP over a data set; see `bsds_summary` for the names.

    Args:
        thresholds: (T,), one for each of the maps of an image, ascending.
        max_dist: See `bsds_counts`.
        **kwargs: torchmetrics' own.
    """

    full_state_update = False
    total: Tensor
    best: Tensor

    def __init__(self, thresholds: Sequence[float], max_dist: float = 0.0075, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.thresholds = [float(threshold) for threshold in thresholds]
        self.max_dist = max_dist
        num_thresholds = len(self.thresholds)
        self.add_state("total", torch.zeros(num_thresholds, 4, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("best", torch.zeros(4, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Sequence[npt.NDArray[Any]], gts: Sequence[npt.NDArray[Any]]) -> None:
        """Add one image.

        Args:
            preds: T boundary maps (H, W), one for each threshold.
            gts: For each annotator a boundary map (H, W).

        Raises:
            UserError: Not one map for each threshold; see also `bsds_counts`.
        """
        if len(preds) != len(self.thresholds):
            raise UserError(
                expected=f"{len(self.thresholds)} boundary maps, one for each threshold",
                found=str(len(preds)),
                remedy="give the same thresholds for all images",
            )
        counts: list[BoundaryCounts] = []
        for k, pred in enumerate(preds):
            is_repeated = k > 0 and np.array_equal(pred, preds[k - 1])  # sweeps often stand still
            counts.append(counts[-1] if is_repeated else bsds_counts(pred, gts, self.max_dist))
        self.total += torch.tensor(counts, device=self.total.device)
        self.best += torch.tensor(counts[int(np.argmax(precision_recall_f(counts)[:, 2]))], device=self.best.device)

    def compute(self) -> dict[str, float]:
        """Return the numbers of `bsds_summary` over all images of all processes."""
        return bsds_summary(self.total.cpu().numpy(), self.best.cpu().numpy(), self.thresholds)


def _f(precision: Any, recall: Any) -> Any:
    """Return the harmonic mean, 0 of two zeros."""
    return 2 * precision * recall / np.where(precision + recall == 0, 1, precision + recall)
