"""A mask in the size of its image, from the decoder's logits: which pixels lie inside, without the logits of all.

What `torch.nn.functional.interpolate(logits, size, mode="bilinear") > 0` gives, pixel by pixel, in a fraction of the
time: where four neighbouring logits have one sign, so has everything between them. Next in the tour:
`benchmarks/sessions.py`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from unsam_lightning.compiled import compiled

#: Torch rounds weights, products and sums to float32: six errors of 6e-8 at most on the way to a pixel. One that is
#: nearer to 0 than this part of its largest neighbour is left to torch, whose order of rounding decides.
_DOUBT = 4e-7


class _Axis(NamedTuple):
    """Where pixels lie between the cells of one axis: cells to pixels, `pixels` of them.

    Args:
        first: The first pixel at or after each cell, and the number of pixels, int64 (cells + 1,).
        share: Of the next cell in each pixel, float32 (pixels,): torch's own weights.
    """

    first: npt.NDArray[np.int64]
    share: npt.NDArray[np.float32]


@lru_cache(maxsize=64)
def _axis(cells: int, pixels: int) -> _Axis:
    # Torch says its weights itself: each row has a single 1.
    basis = torch.eye(cells)[None, :, None, :]
    weights = interpolate(basis, (1, pixels), mode="bilinear")[0, :, 0].numpy()  # (cells, pixels)
    cell = np.argmax(weights > 0, axis=0)
    share = np.zeros(pixels, dtype=np.float32)
    inner = cell + 1 < cells
    share[inner] = weights[cell[inner] + 1, np.flatnonzero(inner)]
    return _Axis(np.searchsorted(cell, np.arange(cells + 1)), share)


def full_size_mask(logits: Tensor, size: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Return where bilinearly enlarged logits are above 0, bool (H, W); equal to torch's on a CPU in every pixel.

    Args:
        logits: (h, w), finite; counted in float32, on the CPU.
        size: H and W of the image.
    """
    values = logits.detach().float().cpu().contiguous()
    mask = np.zeros(size, dtype=np.bool_)
    down, across = (_axis(cells, pixels) for cells, pixels in zip(values.shape, size, strict=True))
    if _fill(values.numpy(), down.first, down.share, across.first, across.share, mask):
        return np.asarray((interpolate(values[None, None], size, mode="bilinear")[0, 0] > 0).numpy())
    return mask


@compiled
def _fill(
    logits: npt.NDArray[np.float32],
    first_row: npt.NDArray[np.int64],
    share_below: npt.NDArray[np.float32],
    first_column: npt.NDArray[np.int64],
    share_right: npt.NDArray[np.float32],
    mask: npt.NDArray[np.bool_],
) -> bool:
    """Write the mask, which is False everywhere; return whether some pixel is too near to 0 to be told."""
    height, width = logits.shape
    mixed = np.empty(width, dtype=np.int64)
    is_doubtful = False
    for row in range(height):
        top, bottom = first_row[row], first_row[row + 1]
        if top == bottom:
            continue
        below = min(row + 1, height - 1)
        num_mixed = 0
        for cell in range(width):
            right = min(cell + 1, width - 1)
            inside = (
                int(logits[row, cell] > 0)
                + int(logits[row, right] > 0)
                + int(logits[below, cell] > 0)
                + int(logits[below, right] > 0)
            )
            if inside == 4:
                mask[top:bottom, first_column[cell] : first_column[cell + 1]] = True
            elif inside:
                mixed[num_mixed] = cell
                num_mixed += 1
        for place in range(num_mixed):
            cell = mixed[place]
            right = min(cell + 1, width - 1)
            one, two = np.float64(logits[row, cell]), np.float64(logits[row, right])
            three, four = np.float64(logits[below, cell]), np.float64(logits[below, right])
            doubt = _DOUBT * max(max(abs(one), abs(two)), max(abs(three), abs(four)))
            for y in range(top, bottom):
                left_value = one + (three - one) * share_below[y]
                right_value = two + (four - two) * share_below[y]
                for x in range(first_column[cell], first_column[cell + 1]):
                    value = left_value + (right_value - left_value) * share_right[x]
                    mask[y, x] = value > 0
                    is_doubtful |= abs(value) <= doubt
    return is_doubtful
