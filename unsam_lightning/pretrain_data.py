"""Prompts for supervised pre-training: scenes drawn on the fly, masks chosen evenly over sizes, clicks and boxes.

Every image is a pure function of its number, and its number of the step: a run that was cut off goes on with the very
scene that comes next. Next in the tour: `pretrain_passes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from unsam_lightning.batch_order import check_batch_size
from unsam_lightning.errors import UserError
from unsam_lightning.scenes import FIRST_TEST_SEED, make_scene
from unsam_lightning.views import STRIDE

#: Right answers to a click at most: the wanted mask and two more of the chain of masks that hold the click.
MAX_TARGETS = 3
#: Width over height of the scene that is squeezed into the square frame, and its share: SAM-2 squeezes photographs too.
_ASPECTS, _SHARES = (1.0, 1.5, 2 / 3), (0.5, 0.35, 0.15)
#: Smallest wanted mask, in pixels of the decoder's map.
_MIN_CELLS = 1.5
#: Share of the masks that are drawn evenly; the others are drawn evenly over sizes.
_UNIFORM = 0.5
#: A deep click lies at least this share of the largest distance to the mask's border away from it.
_DEEP = 0.7


class PromptBatch(NamedTuple):
    """B images with P prompts each; h = w = frame / 4. A single image has no B.

    Args:
        images: uint8 (B, 3, frame, frame).
        clicks_xy: float32 (B, P, 2), pixels of the frame; one click inside each wanted mask.
        boxes: float32 (B, P, 4), x0 y0 x1 y1: the wanted mask's box with noise.
        targets: uint8 (B, P, MAX_TARGETS, h, w): 255 times the share of the pixel that the mask covers. First the
            wanted mask, then other masks that hold the click.
        is_target: bool (B, P, MAX_TARGETS): False where there are fewer.
        number: int64 (B,): number of the image in the run.
    """

    images: Tensor
    clicks_xy: Tensor
    boxes: Tensor
    targets: Tensor
    is_target: Tensor
    number: Tensor


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of the training at one size.

    Args:
        frame: Side of the images in pixels, a multiple of 32.
        steps: Optimizer steps.
    """

    frame: int
    steps: int

    def __post_init__(self) -> None:
        if self.frame < 64 or self.frame % 32 or self.steps < 1:
            raise UserError(
                expected="phases with a frame that is a multiple of 32 from 64 on, and at least one step",
                found=f"frame {self.frame}, {self.steps} steps",
                remedy="see --model.phases",
            )


class PhaseSampler:
    """Batches of (image number, frame) in the order of the phases; can start at any step.

    Args:
        phases: Sizes and their steps.
        batch_size: Images in a batch of all ranks together.
        rank: This process.
        world_size: Number of processes.
        batches_done: Called at the start: how many batches the run has consumed.
        first_image: Number of the first image.
    """

    def __init__(
        self,
        phases: Sequence[Phase],
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        batches_done: Callable[[], int] = lambda: 0,
        first_image: int = 0,
    ) -> None:
        check_batch_size(batch_size, world_size, "--model.batch_size")
        if first_image < 0:
            raise UserError(
                expected="the number of a scene, from 0 on", found=str(first_image), remedy="see --model.first_image"
            )
        self.phases, self.batch_size, self.batches_done = list(phases), batch_size, batches_done
        self.rank, self.world_size, self.first_image = rank, world_size, first_image

    def __len__(self) -> int:
        return sum(phase.steps for phase in self.phases)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        frames = (phase.frame for phase in self.phases for _ in range(phase.steps))
        done = self.batches_done()
        for step, frame in enumerate(frames):
            if step >= done:
                first = self.first_image + step * self.batch_size
                numbers = range(first + self.rank, first + self.batch_size, self.world_size)
                yield [(number, frame) for number in numbers]


class ScenePrompts(Dataset[PromptBatch]):
    """Scenes with prompts, drawn when asked for by (image number, frame).

    Args:
        num_prompts: Prompts for each image, P.
        deep_share: Share of clicks that lie deep inside their mask; the others are uniform over it.
        seed: Of aspects, masks and prompts; the scenes themselves follow from the image's number alone.
    """

    def __init__(self, num_prompts: int, deep_share: float = 0.75, seed: int = 0) -> None:
        self.num_prompts, self.deep_share, self.seed = num_prompts, deep_share, seed

    def __getitem__(self, key: tuple[int, int]) -> PromptBatch:
        number, frame = key
        cv2.setNumThreads(1)  # a loader's worker is one process of many
        rng = np.random.default_rng((self.seed, number))
        aspect = float(rng.choice(_ASPECTS, p=_SHARES))
        size = (frame, round(frame * aspect)) if aspect >= 1 else (round(frame / aspect), frame)
        scene = make_scene(number % FIRST_TEST_SEED, size)
        image, masks = scene.image, scene.masks
        if size != (frame, frame):
            image = cv2.resize(image, (frame, frame), interpolation=cv2.INTER_AREA)
        wanted = choose_masks(rng, masks, frame, self.num_prompts)
        clicks = np.array([self._click(rng, masks[n]) for n in wanted])  # (P, 2) x, y in pixels of the scene
        scale = frame / np.array(size[::-1])
        boxes = np.stack([noisy_box(rng, masks[n]) for n in wanted]) * np.tile(scale, 2)
        targets, is_target = _targets(rng, masks, wanted, clicks, frame // STRIDE)
        return PromptBatch(
            images=torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            clicks_xy=torch.from_numpy(((clicks + 0.5) * scale - 0.5).astype(np.float32)),
            boxes=torch.from_numpy(boxes.clip(0, frame - 1).astype(np.float32)),
            targets=torch.from_numpy(targets),
            is_target=torch.from_numpy(is_target),
            number=torch.tensor(number),
        )

    def _click(self, rng: np.random.Generator, mask: npt.NDArray[np.bool_]) -> tuple[int, int]:
        x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
        window = mask[y : y + height, x : x + width]
        if rng.random() < self.deep_share:
            padded = np.pad(window, 1).astype(np.uint8)
            depth = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_3)[1:-1, 1:-1]
            window = depth >= _DEEP * depth.max()
        pixels = np.flatnonzero(window)
        row, column = divmod(int(pixels[rng.integers(len(pixels))]), width)
        return x + column, y + row


def choose_masks(
    rng: np.random.Generator, masks: npt.NDArray[np.bool_], frame: int, count: int
) -> npt.NDArray[np.int64]:
    """Return the indices of `count` of the masks (N, h, w), with replacement; half of them evenly over sizes.

    A scene has many small parts and few objects; drawn evenly over the masks, training would see hardly an object;
    drawn evenly over sizes (powers of 4 of the area), it would see too little of what most clicks are on. Masks below
    `_MIN_CELLS` pixels of the decoder's map are left out unless there is nothing else.
    """
    share = masks.mean((1, 2))
    is_large = share * (frame // STRIDE) ** 2 >= _MIN_CELLS
    if not is_large.any():
        is_large[:] = True
    size_class = np.floor(np.log(share) / np.log(4)).astype(int)
    _, which, crowd = np.unique(size_class[is_large], return_inverse=True, return_counts=True)
    weight = np.zeros(len(share))
    weight[is_large] = (1 - _UNIFORM) / crowd[which] / len(crowd) + _UNIFORM / is_large.sum()
    return rng.choice(len(share), size=count, p=weight / weight.sum())


def noisy_box(rng: np.random.Generator, mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return the mask's box x0 y0 x1 y1 in pixels, each side moved by about a tenth of the box.

    Source: Segment Anything (arXiv 2304.02643), appendix A: standard deviation 10 % of the side, limited.
    """
    x, y, width, height = cv2.boundingRect(mask.view(np.uint8))
    side = np.array([width, height, width, height])
    noise = (rng.standard_normal(4) * 0.1).clip(-0.2, 0.2) * side
    return np.asarray(np.array([x, y, x + width - 1, y + height - 1]) + noise)


def _targets(
    rng: np.random.Generator,
    masks: npt.NDArray[np.bool_],
    wanted: npt.NDArray[np.int64],
    clicks: npt.NDArray[np.int64],
    size: int,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return `targets` and `is_target` of one image; see `PromptBatch`."""
    targets = np.zeros((len(wanted), MAX_TARGETS, size, size), np.uint8)
    is_target = np.zeros((len(wanted), MAX_TARGETS), np.bool_)
    shrunk: dict[int, npt.NDArray[np.uint8]] = {}
    for p, (n, (x, y)) in enumerate(zip(wanted, clicks, strict=True)):
        holding = np.flatnonzero(masks[:, y, x])
        others = rng.permutation(holding[holding != n])[: MAX_TARGETS - 1]
        for g, mask in enumerate((int(n), *others.tolist())):
            if mask not in shrunk:
                full = masks[mask].astype(np.uint8) * 255
                shrunk[mask] = cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA)
            targets[p, g], is_target[p, g] = shrunk[mask], True
    return targets, is_target
