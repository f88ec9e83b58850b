"""How well the boundary of one mask is met: DAVIS's F and Boundary IoU. BSDS's counts are in `boundary_bsds.py`.

Next in the tour: `metrics/regions.py`.
"""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from unsam_lightning.errors import UserError
from unsam_lightning.metrics.boundary_bsds import bsds_counts as bsds_counts  # the three rules under one name
from unsam_lightning.metrics.contours import boundary_pixels

_BOOL = npt.NDArray[np.bool_]


def davis_f(
    pred: npt.NDArray[Any],
    gt: npt.NDArray[Any],
    void: npt.NDArray[Any] | None = None,
    bound: float = 0.008,
    void_edges: bool = True,
) -> float:
    """Return the boundary F of a mask, in [0, 1].

    Precision is the share of the mask's boundary pixels that have one of the ground truth's within the distance,
    recall the reverse; F is their harmonic mean. 1 if neither has a boundary, 0 if one has none. An object's edge on
    the frame of the image is no boundary (a mask of the whole image has none).

    Args:
        pred: (H, W), non-zero is object.
        gt: (H, W), non-zero is object.
        void: (H, W), non-zero where nothing is known.
        bound: Distance as a part of the image's diagonal, rounded up to pixels; from 1 on, in pixels.
        void_edges: Whether the edges of void regions count as boundaries wherever a mask meets them, as in the
            reference, which cuts void out of both masks first. False counts no boundary pixel next to void.

    Raises:
        UserError: Maps of different sizes.

    Source: davis2017-evaluation `davis2017/metrics.py::f_measure` (ac7c43f); the same in SA-V's evaluator.
    """
    mask, truth = _pair(pred, gt)
    known = np.ones_like(truth) if void is None else np.asarray(void) == 0
    if void_edges:
        mask, truth = mask & known, truth & known
    edges = boundary_pixels(mask), boundary_pixels(truth)
    if not void_edges:
        beside_void = ~known | boundary_pixels(known)
        edges = edges[0] & ~beside_void, edges[1] & ~beside_void
    num_pred, num_gt = int(np.count_nonzero(edges[0])), int(np.count_nonzero(edges[1]))
    if num_pred == 0 or num_gt == 0:
        return float(num_pred == num_gt)
    radius = bound if bound >= 1 else math.ceil(bound * float(np.hypot(*truth.shape)))
    left, top, width, height = cv2.boundingRect((edges[0] | edges[1]).view(np.uint8))
    box = (slice(top, top + height), slice(left, left + width))  # all partners lie in it
    one, other = (np.ascontiguousarray(edge[box]) for edge in edges)
    precision = np.count_nonzero(one & _widened(other, radius)) / num_pred
    recall = np.count_nonzero(other & _widened(one, radius)) / num_gt
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def boundary_iou(pred: npt.NDArray[Any], gt: npt.NDArray[Any], ratio: float = 0.02) -> float:
    """Return the IoU of two masks' inner boundary strips, in [0, 1]; 1 if both masks are empty.

    A strip has all pixels of the mask within d steps, also diagonal ones, of its outside, and outside the frame of the
    image counts as outside. d is `ratio` of the image's diagonal, rounded to pixels (halves to even), at least 1.

    Args:
        pred: (H, W), non-zero is object.
        gt: (H, W), non-zero is object.
        ratio: Width of the strip as a part of the image's diagonal.

    Raises:
        UserError: Masks of different sizes.

    Source: Cheng et al., "Boundary IoU", CVPR 2021; boundary-iou-api `boundary_utils.py` (37d2558). Its average
        precision takes the smaller one of this and the masks' IoU.
    """
    mask, truth = _pair(pred, gt)
    width = max(1, round(ratio * float(np.hypot(*truth.shape))))
    left, top, across, down = cv2.boundingRect((mask | truth).view(np.uint8))
    if across == 0:
        return 1.0
    box = (slice(top, top + down), slice(left, left + across))  # what is beyond is outside of both, as the frame is
    return mask_iou(_strip(mask[box], width), _strip(truth[box], width))


def mask_iou(pred: npt.NDArray[Any], gt: npt.NDArray[Any], void: npt.NDArray[Any] | None = None) -> float:
    """Return the IoU of two masks (H, W) outside `void`, in [0, 1]; 1 if both are empty (DAVIS's J).

    Raises:
        UserError: Masks of different sizes.
    """
    mask, truth = _pair(pred, gt)
    if void is not None:
        known = np.asarray(void) == 0
        mask, truth = mask & known, truth & known
    union = np.count_nonzero(mask | truth)
    return np.count_nonzero(mask & truth) / union if union else 1.0


class BoundaryQuality(Metric):
    """Means over masks: "davis_f", "boundary_iou" and, to compare, "mask_iou"; nan without masks.

    Args:
        **kwargs: torchmetrics' own.
    """

    full_state_update = False
    sums: Tensor
    num_masks: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_masks", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, pred: npt.NDArray[Any], gt: npt.NDArray[Any]) -> None:
        """Add one mask and its ground truth, (H, W) each."""
        values = [davis_f(pred, gt), boundary_iou(pred, gt), mask_iou(pred, gt)]
        self.sums += torch.tensor(values, dtype=torch.float64, device=self.sums.device)
        self.num_masks += 1

    def compute(self) -> dict[str, float]:
        """Return the means over all masks of all processes."""
        means = (self.sums / self.num_masks).tolist()
        return dict(zip(("davis_f", "boundary_iou", "mask_iou"), means, strict=True))


def _pair(pred: npt.NDArray[Any], gt: npt.NDArray[Any]) -> tuple[_BOOL, _BOOL]:
    mask, truth = np.asarray(pred) != 0, np.asarray(gt) != 0
    if mask.ndim != 2 or mask.shape != truth.shape:
        raise UserError(
            expected="two masks (H, W) of one size",
            found=f"{mask.shape} and a ground truth of {truth.shape}",
            remedy="resize the prediction to the image, and give one mask at a time",
        )
    return mask, truth


def _widened(edge: _BOOL, radius: float) -> _BOOL:
    """Return all pixels within a distance of an edge."""
    offsets = np.arange(-int(radius), int(radius) + 1)
    disk = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)
    return np.asarray(cv2.dilate(edge.view(np.uint8), disk)).view(np.bool_)


def _strip(mask: _BOOL, width: int) -> _BOOL:
    """Return the pixels of a mask within `width` king's moves of its outside."""
    # One erosion by a large square is as many by a small one.
    square = np.ones((2 * width + 1, 2 * width + 1), dtype=np.uint8)
    inside = cv2.erode(np.ascontiguousarray(mask).view(np.uint8), square, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(mask & (inside == 0))
