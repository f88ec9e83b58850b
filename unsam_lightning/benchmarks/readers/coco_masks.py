"""Annotations in COCO's notation (polygons, RLE) as masks, with remarks on what is left out or odd."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco

from unsam_lightning.benchmarks.sample import Remark
from unsam_lightning.errors import first_line

EMPTY = "empty mask"
OTHER_SIZE = "mask of another size than the image"
DOUBLE_ID = "duplicate id"


def decode_annotations(
    annotations: Iterable[Mapping[str, Any]], size: tuple[int, int]
) -> tuple[npt.NDArray[np.int8], list[str], list[Remark]]:
    """Return masks int8 (N, H, W), their ids and the remarks of one image's annotations, in their order.

    Left out, each with a remark: crowds, empty masks, masks of another size, what cannot be decoded, ids that came
    before. Kept with a remark: annotations without `iscrowd` (LVIS, SA-1B), taken as 0.

    The id is "object{id}", for a part (PACO: `obj_ann_id` names another annotation) "object{obj_ann_id}/part{id}".

    Args:
        annotations: Dicts with `segmentation` (polygons, RLE, compressed RLE) and `id`.
        size: Height and width of the image.

    Differs: COCOeval lets crowds absorb detections; recall of the other objects is the same without them. pycocotools
    reads a polygon of four numbers as a box; here polygons need six.
    """
    height, width = size
    masks: list[npt.NDArray[np.uint8]] = []
    ids: list[str] = []
    remarks: list[Remark] = []
    seen: set[Any] = set()
    for annotation in annotations:
        number = annotation.get("id")
        owner = annotation.get("obj_ann_id", number)
        name = f"object{number}" if owner == number else f"object{owner}/part{number}"
        if number is None or number in seen:
            remarks.append(Remark(name, DOUBLE_ID if number is not None else "no id"))
            continue
        seen.add(number)
        if annotation.get("iscrowd", 0):
            remarks.append(Remark(name, "crowd region"))
            continue
        if "iscrowd" not in annotation:
            remarks.append(Remark(name, "no iscrowd, taken as 0", kept=True))
        mask = _decode(annotation.get("segmentation"), height, width)
        if isinstance(mask, Remark):
            remarks.append(mask._replace(mask_id=name))
            continue
        masks.append(mask)
        ids.append(name)
    stacked = np.stack(masks).view(np.int8) if masks else np.zeros((0, height, width), dtype=np.int8)
    return stacked, ids, remarks


def _decode(segmentation: Any, height: int, width: int) -> npt.NDArray[np.uint8] | Remark:
    """Return a mask uint8 (H, W) of 0 and 1, or what is wrong with it."""
    try:
        if isinstance(segmentation, list):
            if not segmentation:
                return Remark("", EMPTY, "no polygon")
            if short := [len(polygon) for polygon in segmentation if len(polygon) < 6 or len(polygon) % 2]:
                return Remark("", "malformed polygon", f"{short[0]} numbers")
            rle = coco.merge(coco.frPyObjects(segmentation, height, width))
        else:
            if [int(n) for n in segmentation["size"]] != [height, width]:
                return Remark("", OTHER_SIZE, "x".join(map(str, segmentation["size"][::-1])))
            counts = segmentation["counts"]
            rle = coco.frPyObjects(segmentation, height, width) if isinstance(counts, list) else segmentation
        mask: npt.NDArray[np.uint8] = coco.decode(rle)
    except (TypeError, KeyError, ValueError, AttributeError, IndexError) as error:
        return Remark("", "segmentation that cannot be decoded", first_line(error))
    return mask if mask.any() else Remark("", EMPTY)
