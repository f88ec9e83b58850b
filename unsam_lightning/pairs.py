"""Mask-granularity pairs: how a label shard stores them, and the training samples made of them.

A label shard has the keys of its image shard; each sample is one JSON file:

    {"height": 321, "width": 481, "masks": [{"rle": "...", "granularity": 0.41, "instance": 0, "parent": 3,
                                             "stage": "conquer", "area": 1234}, ...]}

`rle` is the counts string of a COCO RLE. Next in the tour: `views.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypedDict

import cv2
import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask
from torch.utils.data import Dataset

from unsam_lightning.batch import Sample, pack_masks
from unsam_lightning.errors import UserError
from unsam_lightning.image_sample import read_image
from unsam_lightning.manifest import Manifest
from unsam_lightning.shards import ShardReader

#: How the masks of an image are drawn for a batch.
Sampling = Literal["balanced", "uniform"]


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
        sampling: "balanced" draws evenly over ten bins of granularity; "uniform" over the masks, as the official
            training does, of which most then are the finest.
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

    def __getitem__(self, drawn: tuple[int, int]) -> Sample:
        """Return sample `index` with masks drawn by `seed`, both from the sampler; the same every time."""
        index, seed = drawn
        key, image, about = self.read(index)
        entries: list[MaskEntry] = about["masks"]
        rng = np.random.default_rng(seed)
        granularity = np.asarray([entry["granularity"] for entry in entries], dtype=np.float32)
        chosen = draw_masks(granularity, self.masks_per_image, self.sampling, rng)
        masks = decode_masks([entries[n]["rle"] for n in chosen], about["height"], about["width"])
        return Sample(
            key=key,
            image=_resize_image(image, self.side),
            planes=_resize_planes(pack_masks(masks), self.side),
            granularity=granularity[chosen],
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


def draw_masks(
    granularity: npt.NDArray[np.float32], count: int, sampling: Sampling, rng: np.random.Generator
) -> npt.NDArray[np.int64]:
    """Return the indices of at most `count` masks, without replacement, in the order in which they were drawn.

    Args:
        granularity: (N,) in [0.1, 1].
        count: How many are wanted.
        sampling: See `PairDataset`.
        rng: Source of randomness.
    """
    count = min(count, len(granularity))
    if sampling == "uniform" or count == 0:
        return rng.permutation(len(granularity))[:count]
    bins = np.minimum((granularity - 0.1) / 0.09, 9.999).astype(int)
    weight = 1 / np.bincount(bins, minlength=10)[bins]
    return rng.choice(len(granularity), size=count, replace=False, p=weight / weight.sum())


def _resize_planes(planes: npt.NDArray[np.int32], side: int) -> npt.NDArray[np.int32]:
    """Return bit-planes int32 (L, side, side), nearest: all masks of a plane at once."""
    height, width = planes.shape[1:]
    rows = ((np.arange(side) + 0.5) * height / side).astype(np.int64)
    columns = ((np.arange(side) + 0.5) * width / side).astype(np.int64)
    return planes[:, rows[:, None], columns]


class BatchSampler:
    """Batches of sample indices in an order that is a pure function of (seed, epoch), and can start anywhere in it.

    WebDataset's pipelines keep no position and can hang ranks on uneven shards; here every rank and worker gets the
    same number of whole batches, and a resumed run goes on with the very batch that comes next. Each epoch leaves out
    the last `num_samples % batch_size` samples of its own shuffled order.

    Args:
        shard_sizes: Samples in each shard.
        batch_size: Of all ranks together.
        rank: This process.
        world_size: Number of processes.
        seed: Of the order.
        batches_done: Called at the start of each pass: how many batches the run has consumed in all.
        batches_per_epoch: Fewer than the data hold, for a limited epoch; None for all.
        shuffle_shards: Samples are shuffled within windows of this many shuffled shards, so that reads stay local.
    """

    def __init__(
        self,
        shard_sizes: Sequence[int],
        *,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        batches_done: Callable[[], int] = lambda: 0,
        batches_per_epoch: int | None = None,
        shuffle_shards: int = 16,
    ) -> None:
        if batch_size < 1 or batch_size % world_size:
            raise UserError(
                expected=f"a global batch size of at least 1 that {world_size} processes can share evenly",
                found=f"--data.batch_size {batch_size}",
                remedy=f"use a multiple of {world_size}",
            )
        whole = sum(shard_sizes) // batch_size
        if whole == 0:
            raise UserError(
                expected=f"at least one batch of {batch_size} images",
                found=f"{sum(shard_sizes)} images",
                remedy="use more images or a smaller --data.batch_size",
            )
        self.shard_sizes, self.batch_size, self.seed = list(shard_sizes), batch_size, seed
        self.rank, self.world_size, self.shuffle_shards = rank, world_size, shuffle_shards
        self.batches_done = batches_done
        self._length = min(whole, batches_per_epoch or whole)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, start = divmod(self.batches_done(), self._length)
        order = self.order(epoch)
        for batch in range(start, self._length):
            drawn = order[batch * self.batch_size : (batch + 1) * self.batch_size][self.rank :: self.world_size]
            yield [(int(index), self._sample_seed(epoch, int(index))) for index in drawn]

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the order of all samples in an epoch, int64 (num_samples,)."""
        rng = np.random.default_rng((self.seed, epoch))
        ends = np.cumsum([0, *self.shard_sizes])
        shards = rng.permutation(len(self.shard_sizes))
        windows = [shards[k : k + self.shuffle_shards] for k in range(0, len(shards), self.shuffle_shards)]
        parts = [np.concatenate([np.arange(ends[s], ends[s + 1]) for s in window]) for window in windows]
        return np.concatenate([rng.permutation(part) for part in parts])

    def _sample_seed(self, epoch: int, index: int) -> int:
        return int(np.random.SeedSequence((self.seed, epoch, index)).generate_state(1, np.uint64)[0] >> 1)
