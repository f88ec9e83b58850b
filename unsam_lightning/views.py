"""One or two augmented views of a batch, made on its device, and the exact warp between them.

Kornia draws and applies the augmentation of the images and hands out its geometry as one matrix per image; masks and
clicks follow that matrix, so all three agree to the pixel. Next in the tour: `state_dicts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from kornia.augmentation import (
    AugmentationSequential,
    ColorJitter,
    RandomAffine,
    RandomGaussianBlur,
    RandomGrayscale,
    RandomHorizontalFlip,
    RandomResizedCrop,
)
from kornia.geometry.transform import warp_perspective
from torch import Tensor

from unsam_lightning.batch import Batch, unpack_masks

#: Side of a pixel of the decoder's masks, in pixels of the frame.
STRIDE = 4

#: Fewer pixels of a mask in a view (at stride 4) than this, and the mask does not take part there.
MIN_VIEW_PIXELS = 4


@contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """Multiply matrices in float32: at 1024 px TF32 moves masks by up to 0.6 px, bfloat16 by 5."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@dataclass(kw_only=True, slots=True)
class View:
    """One augmented view of B images with N masks each, in the model's frame of S x S pixels, h = w = S / 4.

    Args:
        images: float32 (B, 3, S, S) in [0, 1].
        masks: bool (B, N, h, w): the masks' pixels at the centres of the decoder's pixels.
        valid: bool (B, N): the mask exists and at least `MIN_VIEW_PIXELS` of it are in the view.
        seen: bool (B, h, w): the pixel shows the image, not the empty margin of an affine warp.
        matrix: float32 (B, 3, 3): pixel (x, y, 1) of the source image -> pixel of the view.
        planes: int32 (B, L, S, S): the masks at every pixel of the frame, as bit-planes (`batch.unpack_masks`); None
            where nobody asked for them.
    """

    images: Tensor
    masks: Tensor
    valid: Tensor
    seen: Tensor
    matrix: Tensor
    planes: Tensor | None = None


@dataclass(kw_only=True, slots=True)
class ViewPair:
    """Two views of the same batch, or one.

    Args:
        first: One view.
        second: The other; None where no term of the loss looks at it.
        granularity: float32 (B, N), the same in both: a crop does not change what share of its object a mask is.
        click_from: int64 (B, N), see `Sample`.
        keys: B names.
        seed: The batch's.
    """

    first: View
    second: View | None
    granularity: Tensor
    click_from: Tensor
    keys: list[str]
    seed: int

    @property
    def other(self) -> View:
        """The second view, for terms that need it."""
        assert self.second is not None
        return self.second

    @property
    def valid(self) -> Tensor:
        """Bool (B, N): the mask takes part in every view that there is."""
        return self.first.valid if self.second is None else self.first.valid & self.second.valid

    def warp(self) -> Tensor:
        """Return float32 (B, 3, 3): pixel of the first view -> pixel of the second."""
        with exact_products(self.first.matrix.device):
            warp: Tensor = self.other.matrix @ _inverse(self.first.matrix)
        return warp


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Ranges of the augmentation of one view; each view draws its own.

    Args:
        crop_scale: Smallest and largest share of the image's area that a crop keeps.
        flip: Probability of a horizontal flip.
        degrees: Rotation in [-degrees, degrees].
        shear: Shear angle in [-shear, shear] degrees.
        jitter: Strength of brightness, contrast and saturation changes.
        hue: Strength of the hue change.
        grey: Probability of a grey image.
        blur: Probability of a Gaussian blur.
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    flip: float = 0.5
    degrees: float = 15.0
    shear: float = 5.0
    jitter: float = 0.3
    hue: float = 0.05
    grey: float = 0.1
    blur: float = 0.2


@dataclass(slots=True)
class TwoViews:
    """Makes a `ViewPair` of a `Batch`.

    Args:
        size: Side S of the model's frame in pixels.
        augmentation: Ranges; None for two views that are the plain resized image.
        with_planes: Give the first view its `planes`, for losses at the image's resolution.
        with_second: Make the second view, for the consistency.
    """

    size: int
    augmentation: Augmentation | None
    with_planes: bool = False
    with_second: bool = True
    pipeline: AugmentationSequential = field(init=False)

    def __post_init__(self) -> None:
        if self.augmentation is None:
            steps = [RandomResizedCrop((self.size, self.size), scale=(1.0, 1.0), ratio=(1.0, 1.0), p=1.0)]
        else:
            a = self.augmentation
            steps = [
                # Before the crop: after it, margins that the warp left empty would count as `seen`.
                RandomAffine(a.degrees, shear=a.shear, p=0.5),
                RandomResizedCrop((self.size, self.size), scale=a.crop_scale, ratio=(0.8, 1.25), p=1.0),
                RandomHorizontalFlip(p=a.flip),
                ColorJitter(a.jitter, a.jitter, a.jitter, a.hue, p=0.8),
                RandomGrayscale(p=a.grey),
                RandomGaussianBlur((5, 5), (0.3, 1.5), p=a.blur),
            ]
        self.pipeline = AugmentationSequential(*steps, data_keys=["input"], random_apply=False)

    @torch.no_grad()
    def __call__(self, batch: Batch) -> ViewPair:
        """Return the views; a pure function of the batch, whose seed all random numbers come from."""
        devices = [batch.images.device] if batch.images.is_cuda else []
        # Kornia draws from the global generator: seed a fork of it, so that nothing else notices.
        with torch.random.fork_rng(devices=devices), exact_products(batch.images.device):
            torch.manual_seed(batch.seed)
            images = batch.images.float() / 255
            first = self._view(images, batch)
            second = self._view(images, batch) if self.with_second else None
            if self.with_planes:
                first.planes = warp_planes(batch.planes, first.matrix, self.size, stride=1)[0]
        return ViewPair(
            first=first,
            second=second,
            granularity=batch.granularity,
            click_from=batch.click_from,
            keys=batch.keys,
            seed=batch.seed,
        )

    def _view(self, images: Tensor, batch: Batch) -> View:
        augmented = self.pipeline(images).clamp(0, 1)
        matrix = self.pipeline.transform_matrix.to(images)
        planes, seen = warp_planes(batch.planes, matrix, self.size // STRIDE)
        masks = unpack_masks(planes, batch.valid.shape[1])
        valid = batch.valid & (masks.flatten(2).sum(-1) >= MIN_VIEW_PIXELS)
        return View(images=augmented, masks=masks, valid=valid, seen=seen, matrix=matrix)


def warp_planes(planes: Tensor, matrix: Tensor, size: int, stride: int = STRIDE) -> tuple[Tensor, Tensor]:
    """Return bit-planes seen through a warp, each pixel taking its nearest source pixel.

    Args:
        planes: int32 (B, L, H, W).
        matrix: float32 (B, 3, 3): source pixel -> pixel of the view.
        size: Side of the result.
        stride: Of the result, in pixels of the view.

    Returns:
        int32 (B, L, size, size), 0 outside the source; bool (B, size, size): inside the source.
    """
    height, width = planes.shape[-2:]
    centres = pixel_centres(size, planes.device, stride).flatten(0, 1)  # (h w, 2)
    source = warp_points(centres.expand(len(planes), -1, -1), _inverse(matrix)).round().long()  # (B, h w, 2)
    x, y = source.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    index = (y.clamp(0, height - 1) * width + x.clamp(0, width - 1))[:, None].expand(-1, planes.shape[1], -1)
    taken = planes.flatten(2).gather(2, index) * inside[:, None]
    return taken.unflatten(2, (size, size)), inside.unflatten(1, (size, size))


def pixel_centres(size: int, device: torch.device, stride: int = STRIDE) -> Tensor:
    """Return where the centres of the pixels of a stride lie in the frame, x and y, float32 (size, size, 2)."""
    centre = torch.arange(size, device=device, dtype=torch.float32) * stride + (stride - 1) / 2
    y, x = torch.meshgrid(centre, centre, indexing="ij")
    return torch.stack((x, y), dim=-1)


def warp_points(points_xy: Tensor, matrix: Tensor) -> Tensor:
    """Return points (B, K, 2) moved by matrices (B, 3, 3), in pixels."""
    with exact_products(matrix.device):
        moved = torch.cat((points_xy, torch.ones_like(points_xy[..., :1])), dim=-1) @ matrix.transpose(1, 2)
    return moved[..., :2] / moved[..., 2:]


def warp_maps(maps: Tensor, matrix: Tensor) -> Tensor:
    """Return maps (P, C, h, w) at stride 4 as the other view sees them, bilinear, 0 outside.

    Args:
        maps: float (P, C, h, w).
        matrix: float32 (P, 3, 3): pixel of the maps' view -> pixel of the other view, both at stride 1.
    """
    to_frame = torch.tensor(
        [[STRIDE, 0, (STRIDE - 1) / 2], [0, STRIDE, (STRIDE - 1) / 2], [0, 0, 1]], device=maps.device
    )
    with exact_products(maps.device):
        at_stride = _inverse(to_frame) @ matrix @ to_frame
        warped: Tensor = warp_perspective(maps.float(), at_stride, maps.shape[-2:], align_corners=True)
    return warped


def _inverse(matrix: Tensor) -> Tensor:
    """Return the inverse of affine matrices (..., 3, 3); without the check that makes the host wait for a GPU."""
    inverse: Tensor = torch.linalg.inv_ex(matrix)[0]
    return inverse
