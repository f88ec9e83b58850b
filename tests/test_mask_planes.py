"""Bit-planes painted from RLE equal those of decoded masks."""

import numpy as np
import pytest
import torch

from unsam_lightning.batch import unpack_masks
from unsam_lightning.errors import UserError
from unsam_lightning.mask_planes import planes_of_rles
from unsam_lightning.pairs import encode_masks


def blobs(count: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.random((count, 1 + height // 9, 1 + width // 9)) < 0.5
    return coarse.repeat(9, 1).repeat(9, 2)[:, :height, :width] ^ (rng.random((count, height, width)) < 0.02)


@pytest.mark.parametrize(("height", "width", "side"), [(64, 64, 64), (97, 150, 40), (33, 20, 64), (1, 7, 8), (7, 1, 8)])
@pytest.mark.parametrize("count", [1, 40])
def test_each_pixel_takes_its_nearest(height: int, width: int, side: int, count: int) -> None:
    masks = blobs(count, height, width)
    masks[0] = True
    masks[-1] = False
    rows = ((np.arange(side) + 0.5) * height / side).astype(int)
    columns = ((np.arange(side) + 0.5) * width / side).astype(int)
    planes = planes_of_rles(encode_masks(masks), height, width, side)
    assert planes.dtype == np.int32
    assert planes.shape == (-(-count // 32), side, side)
    found = unpack_masks(torch.from_numpy(planes)[None], count)[0].numpy()
    assert np.array_equal(found, masks[:, rows[:, None], columns])


def test_no_masks() -> None:
    assert planes_of_rles([], 30, 40, 16).shape == (0, 16, 16)


@pytest.mark.parametrize("damage", [lambda rle: rle[:-1], lambda rle: rle + rle, lambda rle: "", lambda rle: rle + "o"])
def test_damaged_codes_are_told(damage) -> None:  # type: ignore[no-untyped-def]
    rle = encode_masks(blobs(1, 30, 40))[0]
    with pytest.raises(UserError, match="masks of 30 x 40 pixels"):
        planes_of_rles([damage(rle)], 30, 40, 16)
