"""From COCO RLE straight to the bit-planes of a resized image: runs are painted where the small image looks.

No mask is ever drawn at the image's size: a batch's 30 masks of a photograph take milliseconds.
Next in the tour: `pairs.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from unsam_lightning.batch import BITS
from unsam_lightning.compiled import compiled
from unsam_lightning.errors import UserError


def planes_of_rles(counts: Sequence[str], height: int, width: int, side: int) -> npt.NDArray[np.int32]:
    """Return the bit-planes int32 (ceil(N / 32), side, side) of masks, each pixel taking its nearest.

    Args:
        counts: N counts strings of COCO RLE.
        height: Of the masks, in pixels.
        width: See `height`.
        side: Of the result; the aspect is not kept.

    Raises:
        UserError: A string that does not cover height x width pixels.
    """
    centre = (np.arange(side) + 0.5) / side
    rows, columns = (np.searchsorted((centre * n).astype(np.int64), np.arange(n + 1)) for n in (height, width))
    # Column by column, as the runs are.
    planes = np.zeros((-(-len(counts) // BITS), side, side), dtype=np.uint32)
    for n, text in enumerate(counts):
        code, bit = np.frombuffer(text.encode("ascii"), np.uint8), np.uint32(1 << n % BITS)
        covered = _paint(code, height, width, rows, columns, bit, planes[n // BITS])
        if covered != height * width:
            raise UserError(
                expected=f"masks of {height} x {width} pixels",
                found=f"an RLE of {covered} pixels at position {n}",
                remedy="delete the labels' folder and run `label` again",
            )
    return np.ascontiguousarray(planes.transpose(0, 2, 1)).view(np.int32)


@compiled
def _paint(
    code: npt.NDArray[np.uint8],
    height: int,
    width: int,
    rows: npt.NDArray[np.int64],
    columns: npt.NDArray[np.int64],
    bit: np.uint32,
    plane: npt.NDArray[np.uint32],
) -> int:
    """Set a bit of `plane` (columns, rows) where the mask is; return how many pixels the code covers.

    `rows[y]` is the number of the plane's rows that look at a pixel above row y; `columns` likewise. Source of the
    code: COCO's `rleFrString`: six bits a character, five of them the number's, differences from the third run on.
    """
    place, position, number, inside = 0, 0, 0, False
    before, before_that = 0, 0  # the last two runs
    while position < len(code):
        run, shift, more = 0, 0, True
        while more and position < len(code):
            char = int(code[position]) - 48
            run |= (char & 31) << shift
            more = (char & 32) != 0
            shift += 5
            position += 1
            if not more and (char & 16) != 0:
                run |= -1 << shift
        if number > 2:
            run += before_that
        before_that, before = before, run
        number += 1
        end = place + run
        if run < 0 or end > height * width:
            return -1
        while inside and place < end:
            x, y = place // height, place % height
            last = min(height, y + end - place)
            for column in range(columns[x], columns[x + 1]):
                for row in range(rows[y], rows[last]):
                    plane[column, row] |= bit
            place += last - y
        place, inside = end, not inside
    return place
