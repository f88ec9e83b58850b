"""A smaller benchmark: the same images and masks on every machine and rank.

Next in the tour: `benchmarks/sampling.py`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from unsam_lightning.benchmarks.sample import EvalSample, KeyedDataset, Remark
from unsam_lightning.errors import UserError

#: Why an image has no result.
UNREADABLE = "image or annotation that cannot be read"


class EvalSubset:
    """At most some images of a data set, and at most some masks of each.

    Args:
        dataset: The whole one.
        max_images: At most this many, evenly spread over the data set's order; None for all.
        max_masks: At most this many masks of each image; None for all. The draw depends on the seed and the names of
            image and mask only, and a smaller number gives a part of a larger one's draw.
        seed: Of that draw.
        name: In tables; the data set's own by default.
        oracle_target: IoU by which GraCo's oracle chooses, see `source_file.Source`.
        of_videos: Whether images are frames of videos, named "<video>/<frame>": those of one video resemble each other.
    """

    def __init__(
        self,
        dataset: KeyedDataset,
        max_images: int | None = None,
        max_masks: int | None = None,
        seed: int = 0,
        name: str | None = None,
        oracle_target: float = 0.9,
        of_videos: bool = False,
    ) -> None:
        self.dataset, self.max_masks, self.seed = dataset, max_masks, seed
        self.name, self.oracle_target, self.of_videos = name or dataset.name, oracle_target, of_videos
        self._length = len(dataset) if max_images is None else min(len(dataset), max_images)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> EvalSample:
        sample = self.dataset[self._place(index)]
        if self.max_masks is None or len(sample.masks) <= self.max_masks:
            return sample

        # Ranked by a hash instead of drawn by a generator: numpy does not promise the same stream in every version.
        def rank(n: int) -> bytes:
            return hashlib.sha256(f"{self.seed}/{sample.key}/{sample.ids[n]}".encode()).digest()

        chosen = np.sort(sorted(range(len(sample.masks)), key=rank)[: self.max_masks])
        ids = [sample.ids[n] for n in chosen]
        return replace(sample, masks=sample.masks[chosen], ids=ids, drawn_from=sample.all_masks)

    def __iter__(self) -> Iterator[EvalSample]:
        return (self[index] for index in range(len(self)))

    def or_refusal(self, index: int) -> EvalSample:
        """Return an image with its masks; one that cannot be read as a sample without masks that says why.

        So that a broken file neither ends the evaluation of a whole data set nor goes unnoticed.
        """
        try:
            return self[index]
        except UserError as error:
            key = self.dataset.keys[self._place(index)]
            image, masks = np.zeros((1, 1, 3), np.uint8), np.zeros((0, 1, 1), np.int8)
            return EvalSample(key=key, image=image, masks=masks, ids=[], remarks=[Remark("", UNREADABLE, str(error))])

    def _place(self, index: int) -> int:
        """Return the position in the whole data set."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        return index * len(self.dataset) // len(self)
