"""Which masks of an image a batch gets, and which of them share a click.

Next in the tour: `batch_order.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from unsam_lightning.granularity import tenths

#: How the masks of an image are drawn: see `draw_masks`.
Sampling = Literal["paired", "balanced", "uniform"]
#: Masks at most that share a click.
MAX_CHAIN = 4


class Drawn(NamedTuple):
    """N drawn masks.

    Args:
        masks: int64 (N,): indices into the image's masks.
        click_from: int64 (N,): position in `masks` of the mask whose pixels the first click is drawn from: its own, or
            that of a mask inside it.
    """

    masks: npt.NDArray[np.int64]
    click_from: npt.NDArray[np.int64]


def draw_masks(
    granularity: npt.NDArray[np.float32],
    parent: Sequence[int],
    count: int,
    sampling: Sampling,
    rng: np.random.Generator,
) -> Drawn:
    """Return at most `count` masks of an image.

    Args:
        granularity: (N,) in [0.1, 1].
        parent: Index of the mask that contains each; -1 for an instance.
        count: How many are wanted.
        sampling: "uniform" over the masks, as the official training, of which most then are the finest. "balanced":
            evenly over ten bins of granularity. "paired": balanced, and each mask brings up to three of those that
            contain it along, asked for by the same click: what tells them apart then is the granularity alone. A mask
            may come several times, by other clicks.
        rng: Source of randomness.
    """
    number = len(granularity)
    if number == 0:
        return Drawn(np.zeros(0, np.int64), np.zeros(0, np.int64))
    weight = np.ones(number)
    if sampling != "uniform":
        bins = tenths(granularity)
        weight = 1 / np.bincount(bins, minlength=10)[bins]
    order = rng.choice(number, size=number, replace=False, p=weight / weight.sum())
    if sampling != "paired":
        masks = order[:count]
        return Drawn(masks, np.arange(len(masks)))
    drawn: list[int] = []
    click_from: list[int] = []
    for mask in order.tolist():
        containing = [other for other in _above(mask, parent) if granularity[other] > granularity[mask]]
        some = rng.permutation(len(containing))[: MAX_CHAIN - 1]
        chain = [mask, *(containing[k] for k in sorted(some.tolist()))][: count - len(drawn)]
        click_from += [len(drawn)] * len(chain)
        drawn += chain
        if len(drawn) == count:
            break
    return Drawn(np.asarray(drawn, np.int64), np.asarray(click_from, np.int64))


def _above(mask: int, parent: Sequence[int]) -> list[int]:
    """Return the masks that contain a mask, the smallest first."""
    above: list[int] = []
    while parent[mask] >= 0 and parent[mask] not in above:
        mask = parent[mask]
        above.append(mask)
    return above
