"""The images of shards as the label stage takes them: in order, decoded ahead, with their names.

Next in the tour: `pseudo_labels/labeler.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch.utils.data import IterableDataset, get_worker_info

from unsam_lightning.image_sample import read_image
from unsam_lightning.manifest import Manifest
from unsam_lightning.pseudo_labels.given_masks import image_name
from unsam_lightning.shards import ShardReader


@dataclass(slots=True)
class LabelBatch:
    """Some images of one shard, in its order.

    Args:
        shard: Position of the shard in the manifest.
        keys: Names of the images.
        names: See `image_name`.
        images: uint8 (H, W, 3) each, sizes differ.
        is_last: These are the last images of the shard.
    """

    shard: int
    keys: list[str]
    names: list[str]
    images: list[npt.NDArray[np.uint8]]
    is_last: bool


class ShardImages(IterableDataset[LabelBatch]):
    """The images of some shards, batch by batch, in order; workers decode ahead.

    Args:
        images: Image manifest.
        shards: Positions of the shards to go through.
        batch_size: Images in a batch; a batch never spans two shards.
    """

    def __init__(self, images: Manifest, shards: list[int], batch_size: int) -> None:
        self.reader = ShardReader(images)
        starts = np.cumsum([0, *(shard.samples for shard in images.shards)])
        self.batches = [
            (shard, first, min(first + batch_size, int(starts[shard + 1])))
            for shard in shards
            for first in range(int(starts[shard]), int(starts[shard + 1]), batch_size)
        ]
        self.ends = [int(end) for end in starts[1:]]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[LabelBatch]:
        # A DataLoader takes its workers' batches in turn, so every worker doing every n-th batch keeps the order.
        worker = get_worker_info()
        step, start = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        for shard, first, last in self.batches[start::step]:
            records = [self.reader.read(index) for index in range(first, last)]
            name = self.reader.manifest.shards[shard].file
            images = [read_image(record, name) for record in records]
            keys, names = [record["__key__"] for record in records], [image_name(record) for record in records]
            yield LabelBatch(shard, keys, names, images, last == self.ends[shard])
