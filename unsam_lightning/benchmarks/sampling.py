"""The draw of a paper, made again with a seed: some images of a data set, some masks of each.

GraCo takes a random tenth of PASCAL-Part's parts and up to five disjoint masks of a thousand SA-1B images, without a
seed. Ours is written in the manifest, under a name that goes into the table.
Next in the tour: `benchmarks/readers/`.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder, KeyedDataset
from unsam_lightning.errors import UserError


class SampledDataset(ImagesInOrder):
    """A named draw from a data set; it depends on the seed and the names of images and masks only.

    Every draw is by sha256 of "seed/image" or "seed/image/mask": the same on every machine, and without opening an
    image that was not drawn.

    Args:
        dataset: The whole one.
        name: Of the draw; the data set's name gets it appended.
        seed: Of the draw.
        num_images: Take this many images, those of the smallest hashes, in the data set's order; None for all.
        share_of_masks: Take each mask with this probability, in (0, 1]; about that share of all. Images of which no
            mask is drawn stay, without masks.
        masks_per_image: Then take at most this many masks of each image, by hash; None for all.
        disjoint: Skip a mask that overlaps one already taken of the same image.

    Raises:
        UserError: A number out of range, or more images asked for than there are.

    Source: GraCo, `isegm/data/datasets`: PASCAL-Part `random.sample` of a tenth, SA-1B up to five masks.
    Differs: GraCo has no seed; it samples a tenth of the list of all parts, ours a tenth of the probability space; in
    SA-1B GraCo applies indices of a shortened list to the whole list, so that its masks may overlap, and takes the
    first thousand files in the order of the file system.
    """

    def __init__(
        self,
        dataset: KeyedDataset,
        name: str,
        seed: int,
        num_images: int | None = None,
        share_of_masks: float = 1.0,
        masks_per_image: int | None = None,
        disjoint: bool = False,
    ) -> None:
        problems = []
        if num_images is not None and not 1 <= num_images <= len(dataset):
            problems.append(f"num_images {num_images} of {len(dataset)}")
        if not 0 < share_of_masks <= 1:
            problems.append(f"share_of_masks {share_of_masks}")
        if masks_per_image is not None and masks_per_image < 1:
            problems.append(f"masks_per_image {masks_per_image}")
        if problems:
            raise UserError(
                expected=f"a draw that {dataset.name} can give",
                found="; ".join(problems),
                remedy="complete the data set, or correct `sample` in the source file and give the draw another name",
            )
        self.name = f"{dataset.name}_{name}"
        self._dataset, self._seed = dataset, seed
        self._share, self._most, self._disjoint = share_of_masks, masks_per_image, disjoint
        keys = dataset.keys
        self._indices = sorted(sorted(range(len(dataset)), key=lambda n: self._hash(keys[n]))[:num_images])
        self.keys = [keys[n] for n in self._indices]

    def __getitem__(self, index: int) -> EvalSample:
        """Return one image with the masks drawn, in the reader's order."""
        sample = self._dataset[self._indices[index]]
        ranks = {n: self._hash(f"{sample.key}/{name}") for n, name in enumerate(sample.ids)}
        # Scaled by 2 to the 64th, so that the threshold is exact for every share that people write.
        limit = int(self._share * 2**64)
        taken: list[int] = []
        covered = np.zeros(sample.image.shape[:2], dtype=np.bool_)
        for n in sorted((n for n in ranks if int.from_bytes(ranks[n][:8]) < limit), key=ranks.__getitem__):
            if len(taken) == self._most:
                break
            if self._disjoint and (covered & (sample.masks[n] == 1)).any():
                continue
            covered |= sample.masks[n] == 1
            taken.append(n)
        taken.sort()
        ids = [sample.ids[n] for n in taken]
        return replace(sample, masks=sample.masks[taken], ids=ids, drawn_from=sample.all_masks)

    def _hash(self, name: str) -> bytes:
        return hashlib.sha256(f"{self._seed}/{name}".encode()).digest()
