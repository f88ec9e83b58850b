"""Average recall (AR@1, AR@10, AR@1000) and precision of whole-image proposals, class-agnostic, by COCO's rules.

Recall is the share of ground-truth masks that some proposal meets at an IoU threshold; its mean over the thresholds
0.5, 0.55, ... 0.95 is AR, with only the k best-scored proposals of an image for AR@k.
Next in the tour: `metrics/contours.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pycocotools.cocoeval import Params
from torch import Tensor
from torchmetrics import Metric

from unsam_lightning.metrics.coco_evaluation import as_coco, coco_evaluation

#: COCOeval's area ranges in their order: "", small < 32², medium 32² to 96², large > 96² pixels.
_AREA_RANGES = ("", "s", "m", "l")


def average_recall(
    gt: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: Sequence[int] = (1, 10, 1000),
    use_cats: bool = False,
    as_reference: bool = False,
) -> dict[str, float]:
    """Return the average recall of proposals, as fractions; -1 where there is no ground truth in a range.

    Every image of `gt` counts, also those without proposals.

    Args:
        gt: COCO json; see `coco_evaluation` for what may be missing.
        results: COCO results: image_id, score, segmentation (RLE or polygons) each.
        max_detections: Numbers k of proposals an image, ascending.
        use_cats: Whether masks must agree in `category_id`; otherwise it is ignored.
        as_reference: True to reproduce COCOeval's defects; see `coco_evaluation`.

    Returns:
        For each k "AR@k", and "ARs@k", "ARm@k", "ARl@k" (small, medium, large); for the last k also "recall50@k",
        "recall55@k" ... "recall95@k", the recall at one IoU threshold.

    Raises:
        UserError: See `coco_evaluation`.

    Source: UnSAM `whole_image_segmentation/mask2former/evaluation/coco_evaluation.py` (de201b8), `COCOevalMaxDets`.
    Differs: annotations are numbered anew, because COCOeval takes a match with id 0 for none and drops repeated ids;
        without categories, proposals of a category that the ground truth lacks still count.
    """
    evaluator = coco_evaluation(gt, results, max_detections, use_cats, as_reference)
    return _named(evaluator.eval["recall"], max_detections)


def average_precision(
    gt: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: int = 1000,
    use_cats: bool = False,
    as_reference: bool = False,
) -> dict[str, float]:
    """Return the average precision of proposals, as fractions; -1 where there is no ground truth in a range.

    Here the order of the scores over all images decides, and a mask that nobody annotated is an error: of whole-image
    proposals it says little.

    Args:
        gt: See `average_recall`.
        results: See `average_recall`.
        max_detections: Number of proposals an image.
        use_cats: See `average_recall`.
        as_reference: See `average_recall`.

    Returns:
        "AP" over the IoU thresholds 0.5, 0.55, ... 0.95; "AP50", "AP75" at one; "APs", "APm", "APl" by size.

    Raises:
        UserError: See `coco_evaluation`.

    Source: as of `average_recall`. pycocotools' own summary gives -1 where `max_detections` is not 100.
    """
    evaluator = coco_evaluation(gt, results, [max_detections], use_cats, as_reference)
    precision = evaluator.eval["precision"][..., 0]  # (IoU thresholds, recalls, categories, area ranges)
    numbers = {f"AP{size}": _mean(precision[..., number]) for number, size in enumerate(_AREA_RANGES)}
    return numbers | {"AP50": _mean(precision[0, ..., 0]), "AP75": _mean(precision[5, ..., 0])}


def average_recall_of_masks(
    samples: Iterable[tuple[npt.NDArray[Any], Sequence[Mapping[str, Any]], Sequence[float]]],
    max_detections: Sequence[int] = (1, 10, 1000),
) -> dict[str, float]:
    """Return what `average_recall` does, from arrays.

    Args:
        samples: For each image its masks, proposals and scores; see `as_coco`.
        max_detections: Numbers k of proposals an image, ascending.

    Raises:
        UserError: Proposals and scores differ in number, or proposals in size from the ground truth.
    """
    gt, results = as_coco(samples)
    return average_recall(gt, results, max_detections)


class AverageRecall(Metric):
    """What `average_recall_of_masks` gives for a data set, with the images added one by one and over processes.

    Args:
        max_detections: Numbers k of proposals an image, ascending.
        **kwargs: torchmetrics' own.
    """

    full_state_update = False
    recalled: Tensor
    num_masks: Tensor

    def __init__(self, max_detections: Sequence[int] = (1, 10, 100, 1000), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_detections = tuple(max_detections)
        shape = (len(Params("segm").iouThrs), len(_AREA_RANGES), len(self.max_detections))
        self.add_state("recalled", torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("num_masks", torch.zeros(len(_AREA_RANGES), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, masks: npt.NDArray[Any], rles: Sequence[Mapping[str, Any]], scores: Sequence[float]) -> None:
        """Add one image: its ground truth (N, H, W), its proposals' RLEs, and their scores."""
        gt, results = as_coco([(masks, rles, scores)])
        evaluator = coco_evaluation(gt, results, self.max_detections)
        num_masks = np.zeros(len(_AREA_RANGES), dtype=np.int64)
        for image in filter(None, evaluator.evalImgs):
            num_masks[evaluator.params.areaRng.index(image["aRng"])] += np.count_nonzero(image["gtIgnore"] == 0)
        recalled = np.rint(evaluator.eval["recall"][:, 0] * num_masks[:, None]).astype(np.int64)
        self.recalled += torch.from_numpy(recalled).to(self.recalled.device)
        self.num_masks += torch.from_numpy(num_masks).to(self.num_masks.device)

    def compute(self) -> dict[str, float]:
        """Return the numbers of `average_recall` over all images of all processes."""
        num_masks = self.num_masks.cpu().numpy()[:, None]
        recall = np.where(num_masks > 0, self.recalled.cpu().numpy() / np.maximum(num_masks, 1), -1.0)
        return _named(recall[:, None], self.max_detections)


def _named(recall: npt.NDArray[np.float64], max_detections: Sequence[int]) -> dict[str, float]:
    """Return the recall (IoU thresholds, categories, area ranges, k) by its names."""
    numbers = {
        f"AR{size}@{k}": _mean(recall[:, :, number, index])
        for index, k in enumerate(max_detections)
        for number, size in enumerate(_AREA_RANGES)
    }
    for index, threshold in enumerate(Params("segm").iouThrs):
        numbers[f"recall{threshold * 100:.0f}@{max_detections[-1]}"] = _mean(recall[index, :, 0, -1])
    return numbers


def _mean(recall: npt.NDArray[np.float64]) -> float:
    """Return the mean over what has ground truth (-1 marks what has none); -1 if nothing has."""
    valid = recall[recall > -1]
    return float(valid.mean()) if valid.size else -1.0
