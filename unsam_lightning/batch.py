"""The one contract between data and model: a typed batch of images and their mask-granularity pairs.

Nothing else needs to be known to read any later file. Next in the tour: `granularity.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

#: Masks that share one plane of an int32 map, one bit each.
BITS = 32


@dataclass(kw_only=True, slots=True)
class Sample:
    """One training image and the pseudo-masks drawn for it.

    Args:
        key: Name of the image.
        image: uint8 (S, S, 3), RGB.
        planes: int32 (L, S, S): bit n % 32 of plane n // 32 is mask n; see `pack_masks`.
        granularity: float32 (N,) in [0.1, 1].
        click_from: int64 (N,): the mask whose pixels mask n's first click is drawn from, itself or one inside it.
        seed: What all randomness of this sample derives from.
    """

    key: str
    image: npt.NDArray[np.uint8]
    planes: npt.NDArray[np.int32]
    granularity: npt.NDArray[np.float32]
    click_from: npt.NDArray[np.int64]
    seed: int


@dataclass(kw_only=True, slots=True)
class Batch:
    """B images as they travel to the device.

    Args:
        images: uint8 (B, 3, S, S).
        planes: int32 (B, L, S, S), bit-planes of the masks: 30 masks of a 1024 px image are 4 MB and not 30.
        granularity: float32 (B, N) in [0.1, 1]; 1 where not valid.
        valid: bool (B, N): is there a mask n.
        click_from: int64 (B, N): see `Sample`; n itself where not valid.
        keys: B names.
        seed: What all randomness of the step derives from, so that a resumed run repeats it.
    """

    images: Tensor
    planes: Tensor
    granularity: Tensor
    valid: Tensor
    click_from: Tensor
    keys: list[str]
    seed: int

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory, from where it travels to a GPU without the host waiting."""
        names = ("images", "planes", "granularity", "valid", "click_from")
        return replace(self, **{name: getattr(self, name).pin_memory() for name in names})

    def check(self) -> None:
        """Assert the shapes, dtypes and ranges above; ours to keep, hence no `UserError`."""
        b, n = self.valid.shape
        assert self.images.dtype == torch.uint8
        assert self.images.shape[:2] == (b, 3), self.images.shape
        assert self.planes.dtype == torch.int32
        assert self.planes.shape == (b, -(-n // BITS), *self.images.shape[2:]), self.planes.shape
        assert self.granularity.shape == self.click_from.shape == (b, n)
        assert bool(((self.click_from >= 0) & (self.click_from < n)).all())
        assert self.valid.dtype == torch.bool
        assert bool(((self.granularity >= 0.1 - 1e-6) & (self.granularity <= 1 + 1e-6)).all()), self.granularity
        assert len(self.keys) == b


def collate(samples: Sequence[Sample], num_masks: int) -> Batch:
    """Return a batch padded to `num_masks` masks an image; every image must have the same size.

    Args:
        samples: B samples of at most `num_masks` masks each.
        num_masks: N of the batch, fixed so that shapes never change.
    """
    num_planes = -(-num_masks // BITS)
    side = samples[0].image.shape[0]
    planes = torch.zeros(len(samples), num_planes, side, side, dtype=torch.int32)
    granularity = torch.ones(len(samples), num_masks)
    valid = torch.zeros(len(samples), num_masks, dtype=torch.bool)
    click_from = torch.arange(num_masks).repeat(len(samples), 1)
    for b, sample in enumerate(samples):
        count = len(sample.granularity)
        planes[b, : len(sample.planes)] = torch.from_numpy(sample.planes)
        granularity[b, :count] = torch.from_numpy(sample.granularity)
        valid[b, :count] = True
        click_from[b, :count] = torch.from_numpy(sample.click_from)
    return Batch(
        images=torch.from_numpy(np.stack([sample.image for sample in samples])).permute(0, 3, 1, 2).contiguous(),
        planes=planes,
        granularity=granularity,
        valid=valid,
        click_from=click_from,
        keys=[sample.key for sample in samples],
        # Order matters: the same images in another order are another batch.
        seed=hash(tuple(sample.seed for sample in samples)) % 2**63,
    )


def pack_masks(masks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Return the bit-planes int32 (ceil(N / 32), H, W) of masks bool (N, H, W)."""
    count, height, width = masks.shape
    planes = np.zeros((-(-count // BITS), height, width), dtype=np.uint32)
    for n, mask in enumerate(masks):
        planes[n // BITS] |= mask.astype(np.uint32) << np.uint32(n % BITS)
    return planes.view(np.int32)


def take_masks(planes: Tensor, image_index: Tensor, mask_index: Tensor) -> Tensor:
    """Return the masks bool (P, H, W) of bit-planes int32 (B, L, H, W) at P images and places among their masks."""
    words = planes[image_index, mask_index // BITS]
    taken: Tensor = ((words >> (mask_index % BITS).to(planes.dtype)[:, None, None]) & 1).bool()
    return taken


def unpack_masks(planes: Tensor, num_masks: int) -> Tensor:
    """Return the masks bool (B, N, H, W) of bit-planes int32 (B, L, H, W)."""
    bits = torch.arange(num_masks, device=planes.device)
    masks: Tensor = ((planes[:, bits // BITS] >> (bits % BITS).to(planes.dtype)[:, None, None]) & 1).bool()
    return masks
