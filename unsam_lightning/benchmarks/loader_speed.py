"""How long one image and its masks take from the shards to a batch, beside the reference's loader.

The photograph's masks are drawn: nested regions of noisy features, enlarged to its size. Next in the tour:
`benchmarks/train_speed.py`.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from unsam_lightning.batch import Batch, collate, unpack_masks
from unsam_lightning.benchmarks.comparison import compare, report, verdict
from unsam_lightning.benchmarks.label_speed import grid_masks
from unsam_lightning.benchmarks.train_references import reference_sample
from unsam_lightning.errors import UserError
from unsam_lightning.granularity import granularity_scores
from unsam_lightning.manifest import Manifest
from unsam_lightning.mask_sampling import draw_masks
from unsam_lightning.pack import pack_images
from unsam_lightning.pairs import PairDataset, encode_masks
from unsam_lightning.shards import ShardReader, ShardWriter
from unsam_lightning.views import STRIDE, Augmentation, TwoViews, warp_planes

#: The mean of what the official augmentation draws: up to 25 degrees of rotation, up to 20 of shear.
_DEGREES, _SHEAR = 12.5, 10.0
_SEED = 0
#: Share of pixels farther than one from the other's mask: only a thin part that rounding loses may be.
_STRAY = 1e-3


class Agreement(NamedTuple):
    """How far our masks are the reference's.

    Args:
        iou: Mean over the masks at the frame's pixels.
        iou_at_stride: At stride 4, where training uses ours; a pixel of the reference's is inside where at least half
            of its 16 pixels are.
        pixels: Share of the frame's pixels that are equal, of all masks together.
        stray: Share of the masks' pixels that lie more than one pixel from the other's mask.
    """

    iou: float
    iou_at_stride: float
    pixels: float
    stray: float


class LoaderCase(NamedTuple):
    """One image in shards, as `fit` reads it and as the reference does.

    Args:
        dataset: Of the one image.
        jpeg: Its file.
        label: All its masks.
        drawn: Which of these the dataset draws.
        side: Of the model's frame in pixels.
    """

    dataset: PairDataset
    jpeg: bytes
    label: dict[str, Any]
    drawn: npt.NDArray[np.int64]
    side: int

    def batch(self) -> Batch:
        """Return the batch of the image, as a worker of `fit` makes it."""
        return collate([self.dataset[0, _SEED]], self.dataset.masks_per_image)

    def views(self) -> object:
        """Return the batch's two views, as `fit` makes them on the device."""
        return TwoViews(self.side, Augmentation(), with_planes=True)(self.batch())

    def reference(self) -> tuple[Tensor, Tensor]:
        """Return the reference's image and masks."""
        return reference_sample(self.jpeg, self.label, self.drawn.tolist(), self.side, _DEGREES, _SHEAR)

    def agreement(self) -> Agreement:
        """Return how far our masks are the reference's under the same warp."""
        planes, theirs = self.batch().planes, self.reference()[1]
        matrix = _reference_warp(self.label["height"], self.label["width"], planes.shape[-1], self.side)
        ours = self._warped(planes, matrix, 1)
        at_stride = torch.nn.functional.avg_pool2d(theirs[None].float(), STRIDE)[0] >= 0.5
        iou = _mean_iou(ours, theirs), _mean_iou(self._warped(planes, matrix, STRIDE), at_stride)
        return Agreement(*iou, float((ours == theirs).float().mean()), _stray(ours, theirs))

    def _warped(self, planes: Tensor, matrix: Tensor, stride: int) -> Tensor:
        warped, _ = warp_planes(planes, matrix[None], self.side // stride, stride)
        return unpack_masks(warped, len(self.drawn))[0]


def _mean_iou(ours: Tensor, theirs: Tensor) -> float:
    both, either = (ours & theirs).sum((1, 2)), (ours | theirs).sum((1, 2))
    return float((both / either)[either > 0].mean())


def _stray(ours: Tensor, theirs: Tensor) -> float:
    near = [torch.nn.functional.max_pool2d(each.float(), 3, stride=1, padding=1).bool() for each in (ours, theirs)]
    return float(((ours & ~near[1]) | (theirs & ~near[0])).sum() / (ours | theirs).sum())


def loader_case(photo: Path, folder: Path, num_masks: int, num_drawn: int, side: int, max_side: int) -> LoaderCase:
    """Pack a photograph and its drawn masks into shards.

    Args:
        photo: An image file.
        folder: Where the shards go.
        num_masks: Masks in its label.
        num_drawn: Masks that a batch takes of them.
        side: Of the model's frame; images are held at 1.25 times this, as in `fit`.
        max_side: The photograph's longer side is reduced to this when it is packed.

    Raises:
        UserError: No such file, or not an image.
    """
    if not photo.is_file():
        raise UserError(expected="a photograph", found=f"no file {photo}", remedy="name one with --photo")
    source = folder / "photos"
    source.mkdir()
    shutil.copy(photo, source)
    images = pack_images(source, folder / "images", name="photo", max_side=max_side)
    record = ShardReader(images).read(0)
    about = json.loads(record["json"])
    label = _label(num_masks, about["height"], about["width"])
    labels_dir = folder / "labels"
    labels_dir.mkdir()
    with ShardWriter(labels_dir / "photo-000000.tar") as writer:
        writer.write(record["__key__"], {"json": json.dumps(label).encode()})
    assert writer.info is not None
    labels = Manifest(labels_dir / "photo.yaml", "labels", "photo", [writer.info])
    dataset = PairDataset(images, labels, round(1.25 * side), num_drawn)
    granularity = np.asarray([entry["granularity"] for entry in label["masks"]], np.float32)
    parent = [entry["parent"] for entry in label["masks"]]
    drawn = draw_masks(granularity, parent, num_drawn, dataset.sampling, np.random.default_rng(_SEED)).masks
    return LoaderCase(dataset, record["jpg"], label, drawn, side)


def _label(num_masks: int, height: int, width: int) -> dict[str, Any]:
    """Return a label of drawn masks, smooth at the image's size."""
    masks = [
        cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC) > 0.5
        for grid in grid_masks(num_masks, 48)
    ]
    granularity = granularity_scores([int(mask.sum()) for mask in masks])
    entries = [
        {"rle": encode_masks(mask[None])[0], "granularity": g, "instance": 0, "parent": -1, "area": int(mask.sum())}
        for mask, g in zip(masks, granularity.tolist(), strict=True)
    ]
    return {"height": height, "width": width, "masks": entries}


def _reference_warp(height: int, width: int, plane_side: int, side: int) -> Tensor:
    """Return float32 (3, 3): pixel of a bit-plane -> pixel of the frame, by the reference's rotation and shear."""

    def scaled(from_width: float, from_height: float, to_width: float, to_height: float) -> npt.NDArray[np.float64]:
        """Pixels are squares: their centres lie at halves."""
        x, y = to_width / from_width, to_height / from_height
        return np.array([[x, 0, x / 2 - 0.5], [0, y, y / 2 - 0.5], [0, 0, 1]])

    turn, lean = math.radians(_DEGREES), math.tan(math.radians(_SHEAR))
    cos, sin = math.cos(turn), math.sin(turn)
    warp = np.array([[cos, -cos * lean - sin, 0], [sin, cos - sin * lean, 0], [0, 0, 1]])
    to_centre = np.array([[1, 0, (1 - width) / 2], [0, 1, (1 - height) / 2], [0, 0, 1]])
    at_full_size = np.linalg.inv(to_centre) @ warp @ to_centre
    matrix = scaled(width, height, side, side) @ at_full_size @ scaled(plane_side, plane_side, width, height)
    return torch.from_numpy(matrix).float()


def compare_loaders(case: LoaderCase, rounds: int) -> bool:
    """Time and print; return whether our masks are the reference's but for their pixels' rounding."""
    size, count = f"{case.label['width']} x {case.label['height']}", len(case.label["masks"])
    print(f"D1, D2, one image of {size} with {count} masks, {len(case.drawn)} drawn, to {case.side} px")
    report("D1: batch and its two views, all on the CPU", compare(case.views, case.reference, rounds), 60.0)
    report("D2: batch alone, the views' part is the device's", compare(case.batch, case.reference, rounds), 150.0)
    same = case.agreement()
    print(
        f"  masks, ours to the reference's: IoU {same.iou:.4f} at {case.side} px ({same.iou_at_stride:.4f} at stride "
        f"{STRIDE}), pixels equal {100 * same.pixels:.3f} %; targets 0.995 (D1), 99.99 % (D2)"
    )
    return verdict("masks to one pixel, share of pixels beyond", same.stray, _STRAY)
