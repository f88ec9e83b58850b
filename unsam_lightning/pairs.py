"""Mask-granularity pairs: how a label shard stores them, and the training samples made of them.

A label shard has the keys of its image shard; each sample is one JSON file:

    {"height": 321, "width": 481, "masks": [{"rle": "...", "granularity": 0.41, "instance": 0, "parent": 3,
                                             "stage": "conquer", "area": 1234}, ...]}

`rle` is the counts string of a COCO RLE. Next in the tour: `views.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TypedDict

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from unsam_lightning.batch import Sample
from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import read_image
from unsam_lightning.manifest import Manifest
from unsam_lightning.mask_planes import planes_of_rles
from unsam_lightning.mask_sampling import Sampling, draw_masks
from unsam_lightning.shards import ShardReader


class MaskEntry(TypedDict):
    """One mask of a label file.

    Args:
        rle: Counts string of a COCO RLE of the image's size.
        granularity: In [0.1, 1], within the mask's tree.
        instance: The tree, from 0.
        parent: Index of the mask that contains this one; -1 for an instance.
        stage: "divide" or "conquer".
        area: Pixels.
    """

    rle: str
    granularity: float
    instance: int
    parent: int
    stage: str
    area: int


def encode_masks(masks: npt.NDArray[np.bool_]) -> list[str]:
    """Return the COCO RLE counts strings of masks bool (N, H, W)."""
    if len(masks) == 0:
        return []
    stack = np.asfortranarray(masks.transpose(1, 2, 0).astype(np.uint8))
    return [rle["counts"].decode("ascii") for rle in coco_mask.encode(stack)]


def decode_masks(counts: Sequence[str], height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return masks bool (N, H, W) of COCO RLE counts strings."""
    if not counts:
        return np.zeros((0, height, width), dtype=bool)
    rles = [{"size": [height, width], "counts": each.encode("ascii")} for each in counts]
    return np.asarray(coco_mask.decode(rles).transpose(2, 0, 1).astype(bool))


class PairDataset(Dataset[Sample]):
    """Training samples by index: an image and some of its mask-granularity pairs.

    Args:
        images: Image manifest.
        labels: Label manifest with the same shards and keys.
        side: Images are resized to side x side pixels; SAM-2's frame is square and does not keep the aspect.
        masks_per_image: At most this many masks, drawn without replacement.
        sampling: See `mask_sampling.draw_masks`.
    """

    def __init__(
        self, images: Manifest, labels: Manifest, side: int, masks_per_image: int, sampling: Sampling = "balanced"
    ) -> None:
        counts = [[shard.samples for shard in manifest.shards] for manifest in (images, labels)]
        if counts[0] != counts[1]:
            raise UserError(
                expected=f"labels for every shard of {images.path.name}: {counts[0]} samples",
                found=f"{counts[1]} samples in {labels.path}",
                remedy="run `label` again on this manifest",
            )
        self.images, self.labels = ShardReader(images), ShardReader(labels)
        self.side, self.masks_per_image, self.sampling = side, masks_per_image, sampling

    def __len__(self) -> int:
        return self.images.num_samples

    def __getitem__(self, asked: tuple[int, int]) -> Sample:
        """Return sample `index` with masks drawn by `seed`, both from the sampler; the same every time."""
        index, seed = asked
        key, image, about = self.read(index)
        entries: list[MaskEntry] = about["masks"]
        rng = np.random.default_rng(seed)
        granularity = np.asarray([entry["granularity"] for entry in entries], dtype=np.float32)
        parent = [entry["parent"] for entry in entries]
        drawn = draw_masks(granularity, parent, self.masks_per_image, self.sampling, rng)
        rles = [entries[n]["rle"] for n in drawn.masks]
        return Sample(
            key=key,
            image=_resize_image(image, self.side),
            planes=planes_of_rles(rles, about["height"], about["width"], self.side),
            granularity=granularity[drawn.masks],
            click_from=drawn.click_from,
            seed=seed,
        )

    def read(self, index: int) -> tuple[str, npt.NDArray[np.uint8], dict[str, Any]]:
        """Return the key, the image uint8 (H, W, 3) and the whole label of sample `index`."""
        record, label = self.images.read(index), self.labels.read(index)
        key = record["__key__"]
        if key != label["__key__"]:
            raise UserError(
                expected=f"labels of {key} in {self.labels.manifest.path}",
                found=f"labels of {label['__key__']}",
                remedy="run `label` again on this manifest",
            )
        image = read_image(record, self.images.manifest.shards[self.images.shard_of(index)].file)
        return key, image, self._parse(label)

    def _parse(self, label: dict[str, Any]) -> dict[str, Any]:
        try:
            about: dict[str, Any] = json.loads(label["json"])
        except ValueError:
            raise UserError(
                expected=f"a readable label of {label['__key__']} in {self.labels.manifest.path}",
                found=f"{len(label['json'])} bytes that are not JSON",
                remedy="delete that folder and run `label` again",
            ) from None
        return about


def _resize_image(image: npt.NDArray[np.uint8], side: int) -> npt.NDArray[np.uint8]:
    """Return the image at (side, side, 3), without aliasing where it shrinks."""
    # OpenCV's area filter averages when shrinking, but repeats pixels when growing.
    interpolation = cv2.INTER_AREA if side <= min(image.shape[:2]) else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (side, side), interpolation=interpolation), dtype=np.uint8)
