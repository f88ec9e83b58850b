"""The adjacency of a graph whose nodes merge: doubly linked half-edges in fixed arrays.

It never grows: two nodes merge inside the slot of one of them, the other one's half-edges are relinked and doubled
edges removed. Half-edge `2 e` belongs to one end of edge `e`, half-edge `2 e + 1` to the other. `head` (N,) is the
first half-edge of a node, `links` (2 E, 2) the ones before and after, `ends` (2 E,) the node at the far end.
Next in the tour: `pseudo_labels/merge_kernel.py`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from unsam_lightning.compiled import compiled

NO_EDGE = -1


@compiled
def link(half: int, slot: int, head: npt.NDArray[np.int32], links: npt.NDArray[np.int32]) -> None:
    """Put a half-edge at the front of a node's list."""
    links[half, 0], links[half, 1] = NO_EDGE, head[slot]
    if head[slot] != NO_EDGE:
        links[head[slot], 0] = half
    head[slot] = half


@compiled
def unlink(half: int, slot: int, head: npt.NDArray[np.int32], links: npt.NDArray[np.int32]) -> None:
    """Take a half-edge out of a node's list."""
    before, after = links[half, 0], links[half, 1]
    if before == NO_EDGE:
        head[slot] = after
    else:
        links[before, 1] = after
    if after != NO_EDGE:
        links[after, 0] = before


@compiled
def contract(
    kept: int,
    gone: int,
    head: npt.NDArray[np.int32],
    links: npt.NDArray[np.int32],
    ends: npt.NDArray[np.int32],
    sums: npt.NDArray[np.float64],
    seen_by: npt.NDArray[np.int32],
) -> None:
    """Hand the edges of `gone` to `kept`, without the edge between them and without doubling one.

    `sums` (E, C) is what edges carry: that of a doubled edge is added to the one that stays. The ends of a removed edge
    become -1. `seen_by` (N,) is scratch, -1 everywhere before and after.
    """
    half = head[kept]
    while half != NO_EDGE:
        seen_by[ends[half]] = half
        half = links[half, 1]
    half = head[gone]
    while half != NO_EDGE:
        after, other = links[half, 1], ends[half]
        if other == kept or seen_by[other] != NO_EDGE:
            if other != kept:
                sums[seen_by[other] >> 1] += sums[half >> 1]
            unlink(half ^ 1, other, head, links)
            ends[half] = ends[half ^ 1] = NO_EDGE
        else:
            ends[half ^ 1] = kept
            link(half, kept, head, links)
        half = after
    head[gone] = NO_EDGE
    half = head[kept]
    while half != NO_EDGE:
        seen_by[ends[half]] = NO_EDGE
        half = links[half, 1]
    seen_by[gone] = NO_EDGE
