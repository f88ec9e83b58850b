"""Mean IoU of classes, in the meanings that the field gives it, each under its own name.

Next in the tour: `metrics/video.py`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric

from unsam_lightning.errors import UserError

_INT = npt.NDArray[np.int64]


def class_overlaps(
    pred: npt.NDArray[Any], gt: npt.NDArray[Any], num_classes: int, ignore: int | None = None
) -> tuple[_INT, _INT]:
    """Return the intersection and the union of every class in one image, in pixels, int64 (C,) each.

    Args:
        pred: (H, W) integers in [0, C), or bool for a mask with C = 2.
        gt: The same; `ignore` may occur too.
        num_classes: C, the background included.
        ignore: Label of pixels that count for nothing.

    Raises:
        UserError: Maps of different sizes, or labels outside [0, C).
    """
    if pred.shape != gt.shape:
        raise UserError(
            expected="label maps of one size",
            found=f"{pred.shape} and a ground truth of {gt.shape}",
            remedy="resize the prediction with nearest neighbours",
        )
    counted = np.ones(gt.shape, dtype=np.bool_) if ignore is None else gt != ignore
    found, truth = pred[counted].astype(np.int64), gt[counted].astype(np.int64)
    for what, labels in (("prediction", found), ("ground truth", truth)):
        if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
            raise UserError(
                expected=f"labels from 0 to {num_classes - 1}",
                found=f"{labels.min()} to {labels.max()} in the {what}",
                remedy="give the number of classes with the background, and the label to ignore",
            )
    confusion = np.bincount(truth * num_classes + found, minlength=num_classes**2).reshape(num_classes, num_classes)
    shared = np.diagonal(confusion).astype(np.int64)
    return shared, confusion.sum(axis=0) + confusion.sum(axis=1) - shared


class MeanIoU(Metric):
    """Mean IoU over a data set.

    `compute` gives
        "miou": pixels of all images pooled, IoU of each class, mean over classes. What semantic segmentation
            (PASCAL VOC, ADE20K, Cityscapes) calls mIoU; torchmetrics' `MulticlassJaccardIndex(average="macro")`.
        "miou_per_image": IoU of each class in each image, mean over all such pairs. torchmetrics' `MeanIoU`, and with
            `num_classes=2, background=False` the mean over images of a mask's IoU, which salient object detection and
            interactive segmentation call mIoU.
        "iou_micro": intersections of all classes and images over their unions.
        "iou_class<c>" and "iou_per_image_class<c>": the first two of one class.

    A class absent from prediction and ground truth counts nowhere: in "miou" if absent from all images. What has
    nothing to count is nan (torchmetrics has -1 or 0 there).

    Args:
        num_classes: C, the background included.
        background: Whether class 0 takes part.
        ignore: Label of pixels that count for nothing.
        **kwargs: torchmetrics' own.
    """

    full_state_update = False
    intersections: Tensor
    unions: Tensor
    iou_sums: Tensor
    num_images: Tensor

    def __init__(self, num_classes: int, background: bool = True, ignore: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes, self.first_class, self.ignore = num_classes, 0 if background else 1, ignore
        for name in ("intersections", "unions", "num_images"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("iou_sums", torch.zeros(num_classes, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, pred: npt.NDArray[Any], gt: npt.NDArray[Any]) -> None:
        """Add one image's prediction and ground truth, (H, W) each; see `class_overlaps`."""
        overlaps = class_overlaps(pred, gt, self.num_classes, self.ignore)
        shared, union = (torch.from_numpy(each).to(self.unions.device) for each in overlaps)
        self.intersections += shared
        self.unions += union
        self.num_images += union > 0
        self.iou_sums += shared / union.clamp(min=1).double()

    def compute(self) -> dict[str, float]:
        """Return the means over all images of all processes."""
        shared, union = self.intersections[self.first_class :].double(), self.unions[self.first_class :].double()
        sums, counts = self.iou_sums[self.first_class :], self.num_images[self.first_class :]
        pooled, per_image = shared / union, sums / counts  # nan where a class is absent
        numbers = {
            "miou": float(pooled.nanmean()),
            "miou_per_image": float(sums.sum() / counts.sum()),
            "iou_micro": float(shared.sum() / union.sum()),
        }
        for c, (one, other) in enumerate(zip(pooled.tolist(), per_image.tolist(), strict=True), self.first_class):
            numbers |= {f"iou_class{c}": one, f"iou_per_image_class{c}": other}
        return numbers
