"""How well a division of the whole image into regions agrees with people's: covering, Rand index, information.

The mean IoU of named classes, another matter, is in `mean_iou.py`. Next in the tour: `metrics/mean_iou.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from unsam_lightning.errors import UserError

_INT = npt.NDArray[np.int64]
_FLOAT64 = npt.NDArray[np.float64]


def shared_pixels(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> _INT:
    """Return how many pixels every region of one label map shares with every one of another, int64 (R, S).

    Args:
        one: (H, W) integers; every label that occurs is a region, 0 too, in ascending order.
        other: The same.

    Raises:
        UserError: No integers, or maps of different sizes or without pixels.
    """
    if one.shape != other.shape or one.size == 0 or any(labels.dtype.kind not in "iub" for labels in (one, other)):
        raise UserError(
            expected="two label maps of integers and of one size",
            found=f"{one.dtype} {one.shape} and {other.dtype} {other.shape}",
            remedy="resize label maps with nearest neighbours to the size of the ground truth",
        )
    (row, num_rows), (column, num_columns) = _numbered(one), _numbered(other)
    pairs = np.bincount(row * num_columns + column, minlength=num_rows * num_columns)
    return pairs.reshape(num_rows, num_columns).astype(np.int64, copy=False)


def best_ious(shared: _INT) -> _FLOAT64:
    """Return for every region of the second map its highest IoU with a region of the first, float64 (S,).

    Args:
        shared: From `shared_pixels`, (R, S).
    """
    union = shared.sum(axis=1, keepdims=True) + shared.sum(axis=0) - shared
    return np.asarray((shared / union).max(axis=0))


def covering(shared: _INT) -> float:
    """Return the covering of the second map by the first: the mean over its pixels of `best_ious`, in [0, 1].

    Source: Arbelaez et al., "Contour detection and hierarchical image segmentation", PAMI 2011, section 2.3.
    """
    return float((best_ious(shared) * shared.sum(axis=0)).sum() / shared.sum())


def rand_index(shared: _INT) -> float:
    """Return the share of pixel pairs that both maps join or both part, in [0, 1]; 1 for a single pixel.

    The mean over an image's annotators is the probabilistic Rand index (PRI).

    Source: BSDS500 `bench/benchmarks/match_segmentations2.m` (a04b7c6).
    """
    rows, columns, both = (
        float((counts.astype(np.float64) ** 2).sum()) for counts in (shared.sum(axis=1), shared.sum(axis=0), shared)
    )
    num_pixels = float(shared.sum())
    num_pairs = num_pixels * (num_pixels - 1) / 2
    return 1 - ((rows + columns) / 2 - both) / num_pairs if num_pairs else 1.0


def variation_of_information(shared: _INT) -> float:
    """Return how many bits the two maps do not know of each other, from 0 (the same regions) up.

    Source: BSDS500 `bench/benchmarks/match_segmentations2.m` (a04b7c6): H(one) + H(other) - 2 I(one, other), in bits.
    """
    joint = shared / shared.sum()
    entropies = [-float((p[p > 0] * np.log2(p[p > 0])).sum()) for p in (joint.sum(axis=1), joint.sum(axis=0), joint)]
    return max(0.0, 2 * entropies[2] - entropies[0] - entropies[1])  # I = H(one) + H(other) - H(both)


class RegionScores(Metric):
    """Covering, PRI and VOI of sweeps over a data set, each at one threshold for all (ODS) and at each image's (OIS).

    `compute` gives "covering_ods", "covering_ois", "covering_best" (each of the people's regions taken at its own best
    threshold), "pri_ods", "pri_ois", "voi_ods", "voi_ois", and the thresholds "covering_threshold",
    "pri_threshold", "voi_threshold"; nan without images. The coverings are means over the pixels of all annotations,
    PRI and VOI over images.

    Args:
        thresholds: (T,), one for each label map of an image: granularities, or heights of a tree of regions.
        **kwargs: torchmetrics' own.

    Source: BSDS500 `bench/benchmarks/collect_eval_reg.m` (a04b7c6), known by its published results.
    """

    full_state_update = False
    covered: Tensor
    covered_at_best: Tensor
    pixels: Tensor
    rand: Tensor
    rand_at_best: Tensor
    information: Tensor
    information_at_best: Tensor
    num_images: Tensor

    def __init__(self, thresholds: Sequence[float], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.thresholds = [float(threshold) for threshold in thresholds]
        of_sweep = {"covered": len(self.thresholds), "rand": len(self.thresholds), "information": len(self.thresholds)}
        at_best = {"covered_at_best": 2, "rand_at_best": 1, "information_at_best": 1}
        for name, size in (of_sweep | at_best | {"pixels": 1, "num_images": 1}).items():
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, preds: Sequence[npt.NDArray[Any]], gts: Sequence[npt.NDArray[Any]]) -> None:
        """Add one image.

        Args:
            preds: T label maps (H, W), one for each threshold.
            gts: For each annotator a label map (H, W).

        Raises:
            UserError: Not one map for each threshold, or no annotator; see also `shared_pixels`.
        """
        if len(preds) != len(self.thresholds) or len(gts) == 0:
            raise UserError(
                expected=f"{len(self.thresholds)} label maps, one for each threshold, and at least one annotator's",
                found=f"{len(preds)} and {len(gts)}",
                remedy="give the same thresholds for all images",
            )
        tables = [[shared_pixels(pred, gt) for gt in gts] for pred in preds]
        areas = np.concatenate([table.sum(axis=0) for table in tables[0]])  # of all annotators' regions, (S,)
        ious = np.array([np.concatenate([best_ious(table) for table in row]) for row in tables])  # (T, S)
        covered = ious @ areas
        rand = np.array([np.mean([rand_index(table) for table in row]) for row in tables])
        information = np.array([np.mean([variation_of_information(table) for table in row]) for row in tables])
        for state, values in (
            (self.covered, covered),
            (self.covered_at_best, [covered.max(), ious.max(axis=0) @ areas]),
            (self.pixels, [areas.sum()]),
            (self.rand, rand),
            (self.rand_at_best, [rand.max()]),
            (self.information, information),
            (self.information_at_best, [information.min()]),
            (self.num_images, [1]),
        ):
            state += torch.as_tensor(np.asarray(values, dtype=np.float64), device=state.device)

    def compute(self) -> dict[str, float]:
        """Return the numbers over all images of all processes."""
        covered, at_best = (self.covered / self.pixels).tolist(), (self.covered_at_best / self.pixels).tolist()
        rand, information = (self.rand / self.num_images).tolist(), (self.information / self.num_images).tolist()
        return {
            "covering_ods": max(covered),
            "covering_ois": at_best[0],
            "covering_best": at_best[1],
            "covering_threshold": self.thresholds[int(np.argmax(covered))],
            "pri_ods": max(rand),
            "pri_ois": float(self.rand_at_best / self.num_images),
            "pri_threshold": self.thresholds[int(np.argmax(rand))],
            "voi_ods": min(information),
            "voi_ois": float(self.information_at_best / self.num_images),
            "voi_threshold": self.thresholds[int(np.argmin(information))],
        }


def _numbered(labels: npt.NDArray[Any]) -> tuple[_INT, int]:
    """Return labels replaced by 0, 1, ... in ascending order, (H * W,), and how many there are."""
    flat = labels.ravel().astype(np.int64)
    flat -= flat.min()
    if flat.max() >= flat.size:  # a count of every number up to the largest would be too long
        present, numbers = np.unique(flat, return_inverse=True)
        return numbers.astype(np.int64, copy=False), len(present)
    occurs = np.bincount(flat) > 0
    return (np.cumsum(occurs) - 1)[flat], int(np.count_nonzero(occurs))
