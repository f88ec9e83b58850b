"""What the dial does at the first click of every object: feeds `metrics.dial.Dial` from an evaluation.

Next in the tour: `benchmarks/baselines.py`.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
import torch

from unsam_lightning.benchmarks.budget import prompts_within
from unsam_lightning.benchmarks.full_size import full_size_mask
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.decoder import Embedding
from unsam_lightning.granularity import SWEEP
from unsam_lightning.metrics.clicker import Click
from unsam_lightning.metrics.dial import Dial
from unsam_lightning.model import UnSAM
from unsam_lightning.one_image import Precision, prompt_decoder

_BOOL = npt.NDArray[np.bool_]


class DialSweeps:
    """Adds the sweep of each object of one image to `dial`; pass an instance as `on_sweep` of `evaluate_interactive`.

    People's levels at a click are all masks of the image that contain it, whoever drew them, judged or not. The moved
    click is `moved_click` of the object.

    Args:
        model: Asked again at the moved clicks.
        embedding: Of this image alone.
        sample: The image's ground truth.
        memory_gb: For a pass of the decoder.
        precision: Of the decoder, that of the sweeps that are given.
    """

    def __init__(
        self,
        model: UnSAM,
        embedding: Embedding,
        sample: EvalSample,
        memory_gb: float,
        precision: Precision = "float32",
    ) -> None:
        self.model, self.sample, self.decode = model, sample, prompt_decoder(model, embedding, precision)
        self.prompts = prompts_within(memory_gb, model, *sample.image.shape[:2])
        self.dial = Dial()

    def __call__(self, number: int, masks: _BOOL, click: Click) -> None:
        """Add the sweep `masks` (G, H, W) of object `number` at its first click."""
        y, x, _ = click
        everything = self.sample.all_masks
        levels = everything[everything[:, y, x] == 1] == 1
        moved = self._sweep(moved_click(self.sample.masks[number], (y, x)))
        self.dial.update(masks, levels, moved)

    def _sweep(self, click_yx: tuple[int, int]) -> _BOOL:
        height, width = self.sample.image.shape[:2]
        size = self.model.image_size
        points = torch.tensor([[[click_yx[1] * size / width, click_yx[0] * size / height]]], device=self.model.device)
        logits: list[torch.Tensor] = []
        for part in torch.tensor(SWEEP, device=self.model.device).split(self.prompts):
            labels = torch.ones(len(part), 1, device=self.model.device)
            logits += self.decode(points.expand(len(part), -1, -1), labels, part, None, False).masks[:, 0]
        return np.stack([full_size_mask(one, (height, width)) for one in logits])


def moved_click(mask: npt.NDArray[np.int8], click_yx: tuple[int, int]) -> tuple[int, int]:
    """Return another place to click in an object: as far from the first as it can be without nearing the boundary.

    Among the object's pixels that are at least half as far from its outside as its deepest pixel (in steps along rows
    and columns), the one farthest from the first click; of equally far ones the first in row-major order.

    Args:
        mask: int8 (H, W), 1 is object; at least one pixel.
        click_yx: Row and column of the first click.
    """
    inside = np.pad(mask == 1, 1).astype(np.uint8)  # the frame is a boundary, as for the clicks themselves
    depth = cv2.distanceTransform(inside, cv2.DIST_L1, 3)[1:-1, 1:-1]  # whole numbers: equal on every machine
    rows, columns = np.nonzero(depth * 2 >= max(float(depth.max()), 1.0))
    far = int(np.argmax((rows - click_yx[0]) ** 2 + (columns - click_yx[1]) ** 2))
    return int(rows[far]), int(columns[far])
