"""Procedural scenes as a benchmark: exact ground truth for objects, parts and sub-parts, without any download."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.sample import EvalSample, ImagesInOrder
from unsam_lightning.errors import UserError
from unsam_lightning.scenes import FIRST_TEST_SEED, Scene, make_scene


class ScenesDataset(ImagesInOrder):
    """An `EvalDataset` of the scenes with seeds `first_seed`, `first_seed + 1`, ...

    Training takes seeds below 1,000,000, so with the default no test scene is a training scene.

    Args:
        num_images: Number of scenes, 0 or more.
        size: Side of the square scenes in pixels, in [32, 2048].
        first_seed: Seed of the first scene.
        min_area_px: Smaller masks are left out.

    Raises:
        UserError: If a number is negative, or (when a scene is made) the size is out of range.
    """

    def __init__(
        self, num_images: int, size: int = 256, first_seed: int = FIRST_TEST_SEED, min_area_px: int = 0
    ) -> None:
        numbers = {"num_images": num_images, "first_seed": first_seed, "min_area_px": min_area_px}
        for what, value in numbers.items():
            if value < 0:
                raise UserError(expected=f"{what} of 0 or more", found=str(value), remedy=f"give a larger {what}")
        self.name = f"scenes{size}"
        self._num_images, self._size, self._first_seed = num_images, size, first_seed
        self._min_area_px = min_area_px
        self.keys = [f"scene{seed:07d}" for seed in range(first_seed, first_seed + num_images)]

    def __getitem__(self, index: int) -> EvalSample:
        """Return one scene; its masks have ids such as "object3", "object3/part1", "object3/part1/part0"."""
        if not 0 <= index < self._num_images:
            raise IndexError(f"scene {index} of {self._num_images}")
        scene = self.scene(index)
        large = np.flatnonzero(np.count_nonzero(scene.masks, axis=(1, 2)) >= self._min_area_px)
        ids = mask_ids(scene.parent)
        return EvalSample(
            key=self.keys[index],
            image=scene.image,
            masks=scene.masks[large].astype(np.int8),
            ids=[ids[mask] for mask in large],
        )

    def scene(self, index: int) -> Scene:
        """Return the scene itself, with parents, levels and granularities."""
        return make_scene(self._first_seed + index, self._size)


def mask_ids(parent: npt.NDArray[np.int32]) -> list[str]:
    """Return a name for each mask of a forest in pre-order: its place among its siblings after its parent's name."""
    ids: list[str] = []
    num_children: dict[int, int] = {}
    for above in parent.tolist():
        place = num_children.get(above, 0)
        num_children[above] = place + 1
        ids.append(f"object{place}" if above < 0 else f"{ids[above]}/part{place}")
    return ids
