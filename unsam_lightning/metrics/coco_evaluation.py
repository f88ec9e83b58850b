"""pycocotools' `COCOeval` on masks, made safe: complete input, unique ids, problems told at once, nothing printed.

Next in the tour: `metrics/proposals.py`.
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


def coco_evaluation(
    gt: Mapping[str, Any],
    results: Sequence[Mapping[str, Any]],
    max_detections: Sequence[int],
    use_cats: bool = False,
    as_reference: bool = False,
) -> COCOeval:
    """Return pycocotools' evaluator of masks after its work; neither argument is changed.

    Its `eval["recall"]` is (IoU thresholds, categories, area ranges, k), `eval["precision"]` has 101 recalls as second
    axis; -1 where there is no ground truth. A missing `iscrowd` is 0 (LVIS and SA-1B have none) and a missing `area`
    the mask's; where it is given, the ground truth's `area` decides on small, medium and large. `bbox` and `area` of
    the results have no effect.

    Args:
        gt: COCO json: `images` (id, height, width) and `annotations` (image_id, segmentation, ...).
        results: COCO results: image_id, score, segmentation (RLE or polygons) each.
        max_detections: Numbers k of proposals an image, ascending.
        use_cats: Whether masks must agree in `category_id`; otherwise it is ignored.
        as_reference: True to reproduce what COCOeval does wrong: it takes a match with the annotation id 0 for none,
            and without categories it drops what belongs to none of the ground truth's `categories`.

    Raises:
        UserError: An annotation or result lacks a field, belongs to no image or has another size; bad `max_detections`.
    """
    if not max_detections or list(max_detections) != sorted(set(max_detections)) or max_detections[0] < 1:
        raise UserError(
            expected="max_detections ascending and positive", found=str(max_detections), remedy="use e.g. (1, 10, 1000)"
        )
    _check(gt, results, use_cats, as_reference)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports its progress by print
        truth = _index(gt, gt["annotations"], keep_ids=as_reference)
        found = _index(gt, results)
        evaluator = COCOeval(truth, found, iouType="segm")
        evaluator.params.useCats = int(use_cats)
        evaluator.params.maxDets = list(max_detections)
        # Without categories COCOeval still goes through them, for the order of equal scores.
        counted = gt["annotations"] if use_cats else (*truth.anns.values(), *found.anns.values())
        listed = truth.getCatIds() if as_reference else {one["category_id"] for one in counted}
        evaluator.params.catIds = sorted(listed)
        evaluator.evaluate()
        evaluator.accumulate()
    return evaluator


def as_coco(
    samples: Iterable[tuple[npt.NDArray[Any], Sequence[Mapping[str, Any]], Sequence[float]]],
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return samples as a COCO ground truth and results.

    Args:
        samples: For each image its ground truth (N, H, W), where 1 or True is object (N may be 0; -1 counts as
            background, as the protocol knows no ignored pixels), the proposals' RLEs of (H, W), and their scores.

    Raises:
        UserError: Proposals and scores differ in number.
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
    return {"images": images, "annotations": annotations}, results


def _check(gt: Mapping[str, Any], results: Sequence[Mapping[str, Any]], use_cats: bool, needs_ids: bool) -> None:
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
    for what, entries, keys in (
        ("annotation", gt["annotations"], ("id",) if needs_ids else ()),
        ("result", results, ("score",)),
    ):
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


def _index(gt: Mapping[str, Any], annotations: Iterable[Mapping[str, Any]], keep_ids: bool = False) -> COCO:
    """Return an indexed COCO data set of copies, complete for COCOeval."""
    coco = COCO()
    coco.dataset = {"images": gt["images"], "annotations": [], "categories": gt.get("categories", [])}
    coco.imgs = {image["id"]: image for image in gt["images"]}  # for `annToRLE`, before the index is made
    for number, annotation in enumerate(annotations, start=1):
        rle = coco.annToRLE(annotation)
        # One area at a time: `area` of a list of 1000 RLEs overflows in pycocotools 2.0.11.
        complete = {"category_id": 0, "iscrowd": 0, "area": float(coco_mask.area(rle)), **annotation}
        complete["id"] = annotation["id"] if keep_ids else number
        coco.dataset["annotations"].append({**complete, "segmentation": rle})
    coco.createIndex()
    return coco
