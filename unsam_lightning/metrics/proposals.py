"""Average recall of whole-image proposals (AR@1, AR@10, AR@1000), class-agnostic, by pycocotools' `COCOeval`.

Recall is the share of ground-truth masks that some proposal meets at an IoU threshold; its mean over the thresholds
0.5, 0.55, ... 0.95 is AR, with only the k best-scored proposals of an image for AR@k.
Next in the tour: `benchmarks/interactive.py`.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from unsam_lightning.errors import UserError

#: COCOeval's area ranges in their order: "", small < 32², medium 32² to 96², large > 96² pixels.
_AREA_RANGES = ("", "s", "m", "l")


def average_recall(
    gt: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: Sequence[int] = (1, 10, 1000),
    use_cats: bool = False,
) -> dict[str, float]:
    """Return the average recall of proposals, as fractions; -1 where there is no ground truth in a range.

    Every image of `gt` counts, also those without proposals. A missing `iscrowd` is 0 (LVIS and SA-1B have none) and a
    missing `area` the mask's; where it is given, the ground truth's `area` decides on small, medium and large.
    `bbox` and `area` of the results have no effect. Neither argument is changed.

    Args:
        gt: COCO json: `images` (id, height, width) and `annotations` (image_id, segmentation, ...).
        results: COCO results: image_id, score, segmentation (RLE or polygons) each.
        max_detections: Numbers k of proposals an image, ascending.
        use_cats: Whether masks must agree in `category_id`; otherwise it is ignored.

    Returns:
        "AR@k" for each k; for the last k also "ARs@k", "ARm@k", "ARl@k" (small, medium, large) and "recall50@k",
        "recall55@k" ... "recall95@k", the recall at one IoU threshold.

    Raises:
        UserError: An annotation or result lacks a field, belongs to no image or has another size; bad `max_detections`.

    Source: UnSAM `whole_image_segmentation/mask2former/evaluation/coco_evaluation.py` (de201b8), `COCOevalMaxDets`.
    Differs: annotations are numbered anew, because COCOeval takes a match with id 0 for none and drops repeated ids;
        without categories, proposals of a category that the ground truth lacks still count.
    """
    if not max_detections or list(max_detections) != sorted(set(max_detections)) or max_detections[0] < 1:
        raise UserError(
            expected="max_detections ascending and positive", found=str(max_detections), remedy="use e.g. (1, 10, 1000)"
        )
    _check(gt, results, use_cats)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        truth = _index(gt, gt["annotations"])
        found = _index(gt, results)
        evaluator = COCOeval(truth, found, iouType="segm")
        evaluator.params.useCats = int(use_cats)
        evaluator.params.maxDets = list(max_detections)
        # Without categories COCOeval still goes through them, for the order of equal scores.
        counted = gt["annotations"] if use_cats else (*truth.anns.values(), *found.anns.values())
        evaluator.params.catIds = sorted({one["category_id"] for one in counted})
        evaluator.evaluate()
        evaluator.accumulate()
    recall = evaluator.eval["recall"]  # (IoU thresholds, categories, area ranges, max_detections)
    last = max_detections[-1]
    numbers = {f"AR@{k}": _mean(recall[:, :, 0, index]) for index, k in enumerate(max_detections)}
    numbers |= {f"AR{size}@{last}": _mean(recall[:, :, index, -1]) for index, size in enumerate(_AREA_RANGES) if size}
    for index, threshold in enumerate(evaluator.params.iouThrs):
        numbers[f"recall{threshold * 100:.0f}@{last}"] = _mean(recall[index, :, 0, -1])
    return numbers


def average_recall_of_masks(
    samples: Iterable[tuple[npt.NDArray[Any], Sequence[Mapping[str, Any]], Sequence[float]]],
    max_detections: Sequence[int] = (1, 10, 1000),
) -> dict[str, float]:
    """Return what `average_recall` does, from arrays.

    Args:
        samples: For each image its ground truth (N, H, W), where 1 or True is object (N may be 0; -1 counts as
            background, as the protocol knows no ignored pixels), the proposals' RLEs of (H, W), and their scores.
        max_detections: Numbers k of proposals an image, ascending.

    Raises:
        UserError: Proposals and scores differ in number, or proposals in size from the ground truth.
    """
    images, annotations, results = [], [], []
    for image_id, (masks, rles, scores) in enumerate(samples):
        if len(rles) != len(scores):
            raise UserError(
                expected="one score for each proposal",
                found=f"{len(rles)} proposals and {len(scores)} scores in image {image_id}",
                remedy="give both from the same list",
            )
        height, width = masks.shape[1:]
        images.append({"id": image_id, "height": height, "width": width})
        annotations += [
            {"image_id": image_id, "segmentation": coco_mask.encode(np.asfortranarray(mask == 1, dtype=np.uint8))}
            for mask in masks
        ]
        results += [
            {"image_id": image_id, "segmentation": rle, "score": float(score)}
            for rle, score in zip(rles, scores, strict=True)
        ]
    return average_recall({"images": images, "annotations": annotations}, results, max_detections)


def _check(gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]], use_cats: bool) -> None:
    """Raise one `UserError` with everything that COCOeval would stumble over or pass over."""
    missing = [key for key in ("images", "annotations") if key not in gt]
    if missing:
        raise UserError(
            expected="a COCO ground truth with images and annotations",
            found=f"no {' and no '.join(missing)}, only {sorted(gt)}",
            remedy="load the whole json file, not a part of it",
        )
    sizes = {image.get("id"): [image.get("height"), image.get("width")] for image in gt["images"]}
    problems = [f"image {key} without id, height or width" for key, size in sizes.items() if None in (key, *size)]
    categories = ("category_id",) if use_cats else ()
    for what, entries, keys in (("annotation", gt["annotations"], ()), ("result", results, ("score",))):
        for index, entry in enumerate(entries):
            lacking = [key for key in ("image_id", "segmentation", *keys, *categories) if key not in entry]
            if lacking:
                problems.append(f"{what} {index} without {', '.join(lacking)}")
                continue
            mask, size = entry["segmentation"], sizes.get(entry["image_id"])
            if size is None:
                problems.append(f"{what} {index} of an unknown image {entry['image_id']}")
            elif isinstance(mask, Mapping) and list(mask["size"]) != size:
                problems.append(f"{what} {index} of size {list(mask['size'])} in an image of {size}")
            elif np.isnan(entry.get("score", 0)):
                problems.append(f"{what} {index} with score nan")
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(
            expected="COCO annotations and results of the same images and sizes",
            found="; ".join(problems[:5]) + more,
            remedy="evaluate the results against the annotations that they were made for, as masks at image size",
        )


def _index(gt: Mapping[str, Any], annotations: Iterable[Mapping[str, Any]]) -> COCO:
    """Return an indexed COCO data set of copies, complete for COCOeval."""
    coco = COCO()
    coco.dataset = {"images": gt["images"], "annotations": [], "categories": gt.get("categories", [])}
    coco.imgs = {image["id"]: image for image in gt["images"]}  # for `annToRLE`, before the index is made
    for number, annotation in enumerate(annotations, start=1):
        rle = coco.annToRLE(annotation)
        # One area at a time: `area` of a list of 1000 RLEs overflows in pycocotools 2.0.11.
        complete = {"category_id": 0, "iscrowd": 0, "area": float(coco_mask.area(rle)), **annotation}
        coco.dataset["annotations"].append({**complete, "id": number, "segmentation": rle})
    coco.createIndex()
    return coco


def _mean(recall: npt.NDArray[np.float64]) -> float:
    """Return the mean over what has ground truth (-1 marks what has none); -1 if nothing has."""
    valid = recall[recall > -1]
    return float(valid.mean()) if valid.size else -1.0
