"""A smaller benchmark, chosen without a random number generator's state: the same masks on every machine and rank."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from unsam_lightning.benchmarks.sample import EvalDataset, EvalSample


@dataclass(slots=True)
class EvalSubset:
    """At most some images of a data set, and at most some masks of each.

    Args:
        dataset: The whole one.
        max_images: At most this many, evenly spread over the data set's order; None for all.
        max_masks: At most this many masks of each image, drawn by (seed, the image's key); None for all.
        seed: Of that draw.
    """

    dataset: EvalDataset
    max_images: int | None = None
    max_masks: int | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Name of the data set."""
        return self.dataset.name

    def __len__(self) -> int:
        return min(len(self.dataset), self.max_images if self.max_images is not None else len(self.dataset))

    def __getitem__(self, index: int) -> EvalSample:
        if not 0 <= index < len(self):
            raise IndexError(index)
        sample = self.dataset[index * len(self.dataset) // len(self)]
        if self.max_masks is None or len(sample.masks) <= self.max_masks:
            return sample
        rng = np.random.default_rng((self.seed, zlib.crc32(sample.key.encode())))
        chosen = np.sort(rng.permutation(len(sample.masks))[: self.max_masks])
        ids = [sample.ids[n] for n in chosen]
        return EvalSample(key=sample.key, image=sample.image, masks=sample.masks[chosen], ids=ids)

    def __iter__(self) -> Iterator[EvalSample]:
        return (self[index] for index in range(len(self)))
