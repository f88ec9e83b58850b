"""Pictures of a benchmark's best, median and worst objects: what was asked, what the base and the tuned model gave.

Next in the tour: `benchmarks/printing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from unsam_lightning.benchmarks.evaluate import ImageResult
from unsam_lightning.benchmarks.sample import EvalSample
from unsam_lightning.benchmarks.sessions import SessionResult
from unsam_lightning.pairs import decode_masks
from unsam_lightning.segment.render import mark_clicks, overlay, tile_rows

_TRUTH = (255, 200, 30)


class Case(NamedTuple):
    """One object to look at.

    Args:
        rank: "best", "median" or "worst", by the IoU of the automatic mask after one click.
        image: Position of the image in the data set.
        key: Its name.
        mask_id: Name of the mask.
        base: The base's session with its single mask.
        automatic: The tuned model's session at the granularity that it chose.
    """

    rank: str
    image: int
    key: str
    mask_id: str
    base: SessionResult
    automatic: SessionResult


def choose_cases(results: Sequence[ImageResult], dataset: str, each: int = 3) -> list[Case]:
    """Return the objects of a data set to look at: best, median and worst ones, none of them twice.

    Args:
        results: Of all ranks, in any order.
        dataset: Which data set.
        each: How many of each kind, fewer where there are few objects.
    """
    found: list[tuple[float, int, str, str, SessionResult, SessionResult]] = []
    for result in (one for one in results if one.dataset == dataset):
        base = {session.mask_id: session for session in result.sessions if session.method == "base_single"}
        found += [
            (session.ious[0], result.index, result.key, session.mask_id, base[session.mask_id], session)
            for session in result.sessions
            if session.is_automatic
        ]
    found.sort(key=lambda one: (-one[0], one[1], one[3]))
    each = min(each, -(-len(found) // 3))
    middle = max(each, (len(found) - each) // 2)
    places = {
        "best": range(each),
        "median": range(middle, middle + each),
        "worst": range(len(found) - each, len(found)),
    }
    taken: set[int] = set()
    cases = []
    for rank, wanted in places.items():
        for place in wanted:
            if place not in taken and 0 <= place < len(found):
                taken.add(place)
                cases.append(Case(rank, *found[place][1:]))
    return cases


def draw_case(case: Case, sample: EvalSample) -> npt.NDArray[np.uint8]:
    """Return the picture of one case, uint8 RGB: the mask asked for, the base's and the automatic mask after one click.

    Args:
        case: Which object.
        sample: Its image.
    """
    height, width = sample.image.shape[:2]
    y, x = case.automatic.first_click
    truth = sample.masks[sample.ids.index(case.mask_id)] == 1
    found = [decode_masks([session.first_mask or ""], height, width)[0] for session in (case.base, case.automatic)]
    tiles = [overlay(sample.image, truth, _TRUTH), *(overlay(sample.image, mask) for mask in found)]
    captions = [
        "asked for",
        f"base: {case.base.ious[0]:.2f}",
        f"g = {case.automatic.granularity:g}: {case.automatic.ious[0]:.2f}",
    ]
    return tile_rows([[mark_clicks(tile, [[float(x), float(y)]], [1]) for tile in tiles]], captions, height=200)
